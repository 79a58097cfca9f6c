"""Group-wise terms: what an unjudged row, a control, a constant group and a penalty do to the advantages of a group."""

import math
import random
from typing import Any

import pytest
import torch

from reward import group
from reward.aggregate import Term, combine, metrics
from reward.rewards import REWARDS

NAN = math.nan


def advantages(rewards: torch.Tensor, size: int) -> torch.Tensor:
    """GRPO's, without scaling: the reward minus the mean of its group."""
    grouped = rewards.view(-1, size)
    return (grouped - grouped.mean(1, keepdim=True)).view(-1)


def test_an_unjudged_row_gets_no_advantage_from_the_term() -> None:
    values = torch.tensor([0.9, NAN, 0.5, 0.7])
    filled = group.fill_unjudged(values, torch.tensor([True] * 4), 4)
    assert filled.tolist() == pytest.approx([0.9, 0.7, 0.5, 0.7])
    assert advantages(filled, 4)[1].item() == pytest.approx(0.0, abs=1e-7)


def test_an_unjudged_row_stands_where_an_average_row_of_its_correctness_stands() -> None:
    right = torch.tensor([True, True, True, False, False, False])
    values = torch.tensor([0.8, 0.4, NAN, 0.0, NAN, 0.0])
    filled = group.fill_unjudged(values, right, 6)
    assert filled.tolist() == pytest.approx([0.8, 0.4, 0.6, 0.0, 0.0, 0.0])


def test_without_a_judged_right_row_nothing_is_paid() -> None:
    filled = group.fill_unjudged(torch.tensor([NAN, NAN, 0.0, 0.0]), torch.tensor([True, False, False, False]), 4)
    assert filled.tolist() == [0.0] * 4


def test_groups_do_not_mix() -> None:
    values, right = torch.tensor([1.0, NAN, 3.0, NAN]), torch.tensor([True] * 4)
    assert group.fill_unjudged(values, right, 2).tolist() == [1.0, 1.0, 3.0, 3.0]


def test_shuffled_permutes_right_judged_rows_only() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 0.0, NAN, 5.0, 6.0, 7.0, 8.0, 0.0])
    right = torch.tensor([True, True, True, False, True, True, True, True, True, False])
    seen = set()
    for seed in range(50):
        result = group.shuffled(values, right, 5, seed)
        assert sorted(result[:3].tolist()) == [1.0, 2.0, 3.0] and sorted(result[5:9].tolist()) == [5.0, 6.0, 7.0, 8.0]
        assert result[3] == 0.0 and result[9] == 0.0 and result[4].isnan()
        seen.add(tuple(result[:3].tolist()))
    assert len(seen) == 6


def test_shuffled_repeats_with_its_seed() -> None:
    values, right = torch.arange(16.0), torch.ones(16, dtype=torch.bool)
    assert torch.equal(group.shuffled(values, right, 8, 3), group.shuffled(values, right, 8, 3))


def test_a_constant_group_drops_the_term() -> None:
    accuracy = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, NAN])
    values = torch.arange(1.0, 7.0)
    assert group.is_constant(accuracy, 2).tolist() == [True, True, False, False, True, True]
    assert group.drop_in_constant_groups(values, accuracy, 2).tolist() == [0.0, 0.0, 3.0, 4.0, 0.0, 0.0]


def test_correlation_is_within_groups() -> None:
    # Within each group length and value fall together; over all rows they would rise together.
    length = torch.tensor([2.0, 1.0, 12.0, 11.0])
    value = torch.tensor([0.1, 0.2, 0.8, 0.9])
    assert group.within_group_correlation(value, length, 2) == pytest.approx(-1.0)
    assert group.within_group_correlation(value, value * 3, 2) == pytest.approx(1.0)
    assert math.isnan(group.within_group_correlation(value, torch.ones(4), 2))
    assert math.isnan(group.within_group_correlation(torch.full((4,), NAN), length, 2))
    kept = torch.tensor([True, True, False, False])
    assert group.within_group_correlation(torch.tensor([0.1, 0.2, NAN, 5.0]), length, 2, kept) == pytest.approx(-1.0)


def row(right: bool, scores: dict[str, float | None] | None = None, length: int = 10) -> dict[str, Any]:
    base: dict[str, float | None] = dict.fromkeys(REWARDS, 0.0) | {"accuracy": float(right)}
    return {
        "scores": base | (scores or {}),
        "parts": {},
        "right": right,
        "finished": True,
        "length": length,
        "looks": 0,
    }


@pytest.mark.parametrize("weight", [0.01, 0.5, 1.0, 100.0])
def test_the_penalty_never_puts_a_right_row_below_a_wrong_one(weight: float) -> None:
    rng = random.Random(0)
    size, charged = 6, 0
    for _ in range(200):
        rows = []
        for _ in range(2 * size):
            right = rng.random() < 0.5
            scores: dict[str, float | None] = {"format": float(rng.random() < 0.5)}
            if right:
                scores |= {"attention_ratio": rng.choice([None, rng.uniform(0, 3)])}
                scores |= {"grounding_penalty": rng.choice([None, -rng.random(), -1.0])}
            rows.append(row(right, scores))
        names = ("accuracy", "format", "attention_ratio")
        weights = {name: rng.choice([0.0, 0.1, 1.0, 5.0]) for name in names} | {"grounding_penalty": weight}
        columns = combine(rows, weights, size, seed=0)
        total = sum(weights[name] * columns[name] for name in weights)
        without = sum(weights[name] * columns[name] for name in names)
        assert isinstance(total, torch.Tensor) and isinstance(without, torch.Tensor)
        charged += int((total < without).sum())
        assert bool((total <= without + 1e-6).all())
        for start in range(0, len(rows), size):
            for one in range(start, start + size):
                for other in range(start, start + size):
                    if rows[one]["right"] and not rows[other]["right"]:
                        if without[one] >= without[other]:
                            assert total[one] >= total[other] - 1e-5
                        if without[one] > without[other]:
                            assert total[one] > total[other] - 1e-5
    assert charged > 100


def test_a_row_that_cannot_be_judged_is_out_of_every_column() -> None:
    rows = [row(True), row(False), row(False, {"accuracy": None, "format": 1.0})]
    columns = combine(rows, {"accuracy": 1.0, "format": 1.0}, 3, seed=0)
    assert all(values[2].isnan() and not values[:2].isnan().any() for values in columns.values())


def test_the_control_is_a_column_of_its_own() -> None:
    rows = [row(True, {"attention_ratio": float(value)}) for value in range(8)]
    columns = combine(rows, {"accuracy": 1.0, "shuffled(attention_ratio)": 1.0}, 8, seed=1)
    plain, control = columns["attention_ratio"], columns["shuffled(attention_ratio)"]
    assert plain.tolist() == list(range(8))
    assert control.tolist() != plain.tolist() and sorted(control.tolist()) == plain.tolist()


def test_metrics_name_what_a_term_goes_along_with() -> None:
    rows = [
        row(True, {"attention_ratio": value}, length) for value, length in ((0.2, 40), (0.4, 30), (0.6, 20), (None, 99))
    ]
    logged = metrics(rows, 4)
    assert logged["correlation/attention_ratio/length"] == pytest.approx(-1.0)
    assert logged["attention_ratio/unjudged"] == 0.25
    assert logged["constant_accuracy_share"] == 1.0
    assert math.isnan(logged["correlation/attention_ratio/right"])


def test_overthinking_is_what_the_groups_right_answers_did_not_need() -> None:
    length = torch.tensor([10.0, 15.0, 40.0, 5.0, 8.0, 20.0, 20.0, 20.0])
    right = torch.tensor([True, True, True, False, False, False, False, False])
    finished = torch.tensor([True] * 8)
    assert group.overlong(length, right, finished, 4).tolist() == [0.0, -0.5, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    cut_off = finished.clone()
    cut_off[0] = False  # an answer that was cut off does not say what was needed
    assert group.overlong(length, right, cut_off, 4).tolist()[:3] == pytest.approx([0.0, 0.0, -1.0])


def test_matched_terms_push_equally_hard() -> None:
    right = torch.tensor([True, True, True, False] * 2)
    small = torch.tensor([0.01, 0.02, 0.03, 0.0, 0.02, 0.04, 0.03, 0.0])
    large = small * 500 + 7
    for values in (small, large):
        matched = group.match_std(values, right, right, 4, 0.1)
        within = matched.view(2, 4)[:, :3]
        spread = ((within - within.mean(1, keepdim=True)).square().sum() / 4).sqrt()
        assert spread.item() == pytest.approx(0.1, rel=1e-4)
        assert within.mean(1).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)  # nobody is paid for being right
        assert matched.view(2, 4)[:, 3].tolist() == [0.0, 0.0]
    # Nothing to tell apart: nothing is blown up.
    assert group.match_std(torch.ones(8), right, right, 4, 0.1).tolist() == [0.0] * 8
    tiny = torch.tensor([0.0, 1e-7, 2e-7, 0.0] * 2)
    assert group.match_std(tiny, right, right, 4, 0.1).abs().max() < 1e-4


def test_a_matched_term_is_centred_among_the_rows_that_are_paid() -> None:
    values = torch.tensor([0.18, 0.185, 0.189, 0.194, 0.0, 0.0, 0.0, 0.0])
    paid = torch.tensor([True] * 4 + [False] * 4)
    matched = group.match_std(values, torch.ones(8, dtype=torch.bool), paid, 8, 0.2)
    assert matched[4:].tolist() == [0.0] * 4 and matched[:4].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert matched[:4].std().item() == pytest.approx(0.2, rel=1e-3)


def test_a_term_and_its_matched_shuffle_have_one_spread() -> None:
    rng = random.Random(1)
    rows = [row(rng.random() < 0.7, {"attention_ratio": rng.random()}) for _ in range(32)]
    for one in rows:
        if not one["right"]:
            one["scores"]["attention_ratio"] = 0.0
    terms = {"attention_ratio": Term(1, std=0.2), "shuffled(attention_ratio)": Term(1, std=0.2)}
    columns = combine(rows, {"accuracy": Term(5), **terms}, 8, 0)
    plain, control = columns["attention_ratio"], columns["shuffled(attention_ratio)"]
    assert plain.std() > 0.1
    assert plain.view(-1, 8).sort(1).values.flatten().tolist() == pytest.approx(
        control.view(-1, 8).sort(1).values.flatten().tolist(), rel=1e-4, abs=1e-6
    )


def test_gates_say_who_is_paid() -> None:
    rows = [row(True, {"process_claims": 0.5, "format": 1.0}), row(False, {"process_claims": 0.75, "format": 1.0})]
    rows += [row(False, {"process_claims": 1.0, "format": 0.0}), row(True, {"process_claims": None, "format": 1.0})]

    def paid(gate: Any) -> list[float]:
        return combine(rows, {"process_claims": Term(1.0, gate)}, 4, 0)["process_claims"].tolist()

    assert paid(None) == [0.5, 0.75, 1.0, 0.75]  # the row that cannot be judged has the mean of the others
    assert paid("right") == [0.5, 0.0, 0.0, 0.5]
    assert paid("format") == [0.5, 0.75, 0.0, 0.625]


def test_an_attention_term_can_be_paid_without_its_gate() -> None:
    rows = [row(right, {"attention_ratio": value if right else 0.0}) for right, value in ((True, 0.5), (False, 0.9))]
    for one, value in zip(rows, (0.5, 0.9), strict=True):
        one["parts"]["attention_ratio/term"] = value
    free = combine(rows, {"attention_ratio": Term(1.0, "none")}, 2, 0)["attention_ratio"]
    assert free.tolist() == pytest.approx([0.5, 0.9])
    assert combine(rows, {"attention_ratio": 1.0}, 2, 0)["attention_ratio"].tolist() == [0.5, 0.0]


def test_the_length_term_knows_its_group() -> None:
    rows = [row(True, length=10), row(True, length=20), row(False, length=90), row(True, length=14)]
    assert combine(rows, {"length": 1.0}, 4, 0)["length"].tolist() == pytest.approx([0.0, -1.0, 0.0, -0.4])


def test_a_matched_term_puts_no_correct_row_below_an_incorrect_one() -> None:
    rows = [row(True, {"attention_ratio": value}) for value in (0.1, 0.5, 0.6, 0.8)] + [row(False)] * 4
    weights = {"accuracy": Term(1.0), "attention_ratio": Term(5.0, std=0.5)}
    column = combine(rows, weights, 8, 0)["attention_ratio"]
    total = torch.tensor([1.0] * 4 + [0.0] * 4) + 5 * column
    assert total[:4].min().item() == pytest.approx(0.5) and total[4:].tolist() == [0.0] * 4
    assert column[:4].mean().item() == pytest.approx(0.0, abs=1e-6)  # nobody is paid for being correct
    assert (column[:4].diff() > 0).all()
    # Weights that leave the order alone change nothing.
    free = combine(rows, weights | {"attention_ratio": Term(0.5, std=0.5)}, 8, 0)["attention_ratio"]
    assert free[:4].std().item() == pytest.approx(0.5)


FREE = ("accuracy", "format", "process_claims", "repetition", "mine.py:own")
BOUNDED = (
    "attention_ratio",
    "attention_late_mass",
    "image_information",
    "grounding_penalty",
    "length",
    "mine.py:gated",
)


def random_rows(rng: random.Random, groups: int, size: int) -> list[dict[str, Any]]:
    """Rows with partial credit, and with answers and terms that cannot be judged."""
    rows = []
    for _ in range(groups * size):
        accuracy = rng.choice([0.0, 0.0, 1.0, 1.0, 1.0, 0.5, 0.9, None])
        right = accuracy == 1.0
        terms: dict[str, float | None] = {
            "attention_ratio": rng.uniform(0, 3),
            "attention_late_mass": rng.random(),
            "image_information": rng.uniform(-3, 3),
            "grounding_penalty": -rng.random(),
            "mine.py:gated": rng.uniform(-9, 9),
        }
        gated = {name: rng.choice([None, value, value]) if right else 0.0 for name, value in terms.items()}
        free: dict[str, float | None] = {
            "accuracy": accuracy,
            "format": rng.choice([0.0, 1.0]),
            "process_claims": rng.choice([None, rng.random()]),
            "repetition": -rng.random(),
            "mine.py:own": rng.uniform(-2, 2),
        }
        one = row(right, free | gated, rng.randrange(5, 200))
        one["parts"] = {f"{name}/term": value for name, value in terms.items()}
        one["finished"] = rng.random() < 0.9
        rows.append(one)
    return rows


def random_terms(rng: random.Random) -> dict[str, Term]:
    terms = {name: Term(rng.choice([0.0, 0.1, 1.0])) for name in FREE} | {"accuracy": Term(rng.choice([0.2, 1.0, 5.0]))}
    for name in (*BOUNDED, "shuffled(attention_ratio)", "shuffled(length)", "process_claims"):
        if rng.random() < 0.5:
            weight, std = rng.choice([0.01, 0.5, 5.0, 1000.0]), rng.choice([None, 0.05, 0.5, 20.0])
            gate: Any = rng.choice(["right", None, "format", "none"]) if std else "right"
            sign = 1 if name == "grounding_penalty" else rng.choice([1, -1])
            terms[name] = Term(weight * sign, gate, None if name == "grounding_penalty" else std)
    return terms


def totals(terms: dict[str, Term], columns: dict[str, torch.Tensor], names: Any) -> torch.Tensor:
    return torch.stack([term.weight * columns[name].double() for name, term in terms.items() if name in names]).sum(0)


def test_no_term_but_those_paid_for_all_puts_a_correct_row_below_an_incorrect_one() -> None:
    rng, size, moved, pairs = random.Random(0), 6, 0, 0
    for seed in range(200):
        rows, terms = random_rows(rng, 2, size), random_terms(rng)
        columns = combine(rows, terms, size, seed)
        free = [name for name, term in terms.items() if name in FREE and term.gate is None and term.std is None]
        before, after = totals(terms, columns, free), totals(terms, columns, list(terms))
        rounding = 1e-6 * (
            1 + max(float((term.weight * columns[name]).nan_to_num(0.0).abs().max()) for name, term in terms.items())
        )
        moved += int((before - after).abs().nan_to_num(0.0).gt(1e-6).sum())
        for start in range(0, len(rows), size):
            for one in range(start, start + size):
                for other in range(start, start + size):
                    if rows[one]["right"] and not rows[other]["right"] and before[one] >= before[other]:
                        pairs += 1
                        assert after[one] >= after[other] - rounding, (seed, one, other, terms)
    assert moved > 200 and pairs > 200


def test_a_row_whose_answer_timed_out_changes_nothing_for_the_others() -> None:
    rng, size = random.Random(1), 6
    for seed in range(100):
        rows, terms = random_rows(rng, 1, size), random_terms(rng)
        rows[2] |= {"right": False, "scores": rows[2]["scores"] | {"accuracy": None}}
        changed = [*rows[:2], random_rows(rng, 1, 1)[0], *rows[3:]]
        changed[2] |= {"right": False, "scores": changed[2]["scores"] | {"accuracy": None}}
        without = [*rows[:2], *rows[3:]]
        drop = bool(seed % 2)
        found = [combine(some, terms, len(some), seed, drop) for some in (rows, changed, without)]
        others = [index for index in range(size) if index != 2]
        for name, column in found[2].items():
            for one in found[:2]:
                assert one[name][2].isnan()
                assert torch.allclose(one[name][others], column, atol=1e-5, equal_nan=True), (seed, name, terms)


def test_the_penalty_is_bounded_by_incorrect_rows_alone() -> None:
    # The answer that timed out has a whole format and stands above; it is neither correct nor incorrect.
    rows = [row(True, {"grounding_penalty": -1.0}), row(False), row(False, {"accuracy": None, "format": 1.0})]
    columns = combine(rows, {"accuracy": 1.0, "format": 5.0, "grounding_penalty": 0.4}, 3, 0)
    assert columns["grounding_penalty"][:2].tolist() == pytest.approx([-1.0, 0.0])
    partial = [row(True, {"grounding_penalty": -1.0}), row(False, {"accuracy": 0.8})]  # partial credit is incorrect
    columns = combine(partial, {"accuracy": 1.0, "grounding_penalty": 1.0}, 2, 0)
    assert columns["grounding_penalty"].tolist() == pytest.approx([-0.1, 0.0])


def test_metrics_leave_out_an_answer_that_timed_out() -> None:
    rows = [row(True, {"repetition": 0.0}), row(True, {"repetition": -0.1}), row(False, {"repetition": -0.5})]
    rows += [row(False, {"accuracy": None, "repetition": value}) for value in (-1.0, 1.0, 0.3)]
    logged, kept = metrics(rows, 6), metrics(rows[:3], 3)
    assert logged["correlation/repetition/right"] == pytest.approx(kept["correlation/repetition/right"])
