"""What a swap difference is made of, from logs that were made up."""

from pathlib import Path

import pytest

from benchmarks.study.swap import MIN_PAIRS, compositions, swapped_problems
from configs.jsonl import append_jsonl
from eval.runner import Answer


def unit(study: Path, arm: str, seed: int, moved: dict[str, tuple[str, bool]]) -> dict[str, object]:
    """A unit whose swap log has these problems: id -> (family, it followed the new image)."""
    rows = []
    for problem, (family, follows) in moved.items():
        for tag, right in (
            ("swap: other from scratch", True),
            ("swap: other picture", follows),
            ("swap: same picture", True),
        ):
            told = {"style": "think", "domain": "text", "family": family, "tag": tag}
            rows.append(Answer(problem_id=problem, key=f"{tag}{problem}", score=float(right), **told))
    log = study / arm / f"seed-{seed}" / "audit" / "answers" / "swap.jsonl"
    log.parent.mkdir(parents=True)
    append_jsonl(log, [row.model_dump() for row in rows])
    return {"arm": arm, "seed": seed}


def test_a_difference_of_the_problems_that_count_is_told_from_one_of_looking(tmp_path: Path) -> None:
    """Both arms follow the same problems; one of them also answers an easy family, which always follows."""
    hard = {f"h{n}": ("hard", n < 2) for n in range(10)}
    easy = {f"e{n}": ("easy", True) for n in range(10)}
    units = [unit(tmp_path, "arm", seed, hard | easy) for seed in (0, 1)]
    units += [unit(tmp_path, "control", seed, hard | dict(list(easy.items())[: MIN_PAIRS - 1])) for seed in (0, 1)]
    rows = swapped_problems(tmp_path, [*units, {"arm": "arm", "seed": 2}])
    pooled = {arm: [row.value for row in rows if row.arm == arm] for arm in ("arm", "control")}
    assert sum(pooled["arm"]) / len(pooled["arm"]) - sum(pooled["control"]) / len(pooled["control"]) > 0.1
    shared, family = compositions(rows, "arm", "control")  # of the easy family the control has too few
    assert (shared["over"], shared["value"], shared["pairs"], shared["n"]) == ("shared problems", 0.0, 14, 2)
    assert (family["over"], family["value"], family["pairs"]) == ("hard", 0.0, 10)
    units += [unit(tmp_path, "others", seed, {f"o{n}": ("hard", False) for n in range(10)}) for seed in (0, 1)]
    rows = swapped_problems(tmp_path, units)
    assert compositions(rows, "arm", "others") == []  # other problems of a family are not held against each other


def test_a_later_row_of_a_problem_stands_for_it_and_errors_do_not_count(tmp_path: Path) -> None:
    made = unit(tmp_path, "arm", 0, {"a": ("f", False), "b": ("f", True)})
    log = tmp_path / "arm" / "seed-0" / "audit" / "answers" / "swap.jsonl"
    again = {"style": "think", "domain": "text", "family": "f", "tag": "swap: other picture"}
    append_jsonl(log, [Answer(problem_id="a", key="x", score=1.0, **again).model_dump()])
    append_jsonl(log, [Answer(problem_id="b", key="y", status="error", **again).model_dump()])
    assert [(row.problem, row.value) for row in swapped_problems(tmp_path, [made])] == [("a", pytest.approx(1.0))]


def test_the_untrained_start_stands_against_every_seed(tmp_path: Path) -> None:
    start = unit(tmp_path, "start", 0, {f"p{n}": ("f", n < 2) for n in range(10)})
    seeds = [unit(tmp_path, "arm", seed, {f"p{n}": ("f", n < 2 + seed) for n in range(10)}) for seed in (0, 1, 2)]
    rows = swapped_problems(tmp_path, [start, *seeds])
    shared = compositions(rows, "arm", "start", untrained=True)[0]
    assert (shared["n"], shared["value"]) == (3, pytest.approx(0.1))  # 0, 0.1 and 0.2
    assert compositions(rows, "arm", "start")[0]["n"] == 1
    assert compositions(rows, "arm", "nobody", untrained=True) == []
