"""benchmarks/claims.py: the annotated sentences, and lower bounds of what is found and judged in them."""

import json
import re

import pytest

from benchmarks import claims as benchmark
from configs.jsonl import read_jsonl
from reward.claim_facts import KINDS, Claim

ROWS = list(read_jsonl(benchmark.SENTENCES))


def test_the_sentences_are_whole() -> None:
    assert len(ROWS) == len({row["id"] for row in ROWS}) == 400
    scenes = {split: {row["scene"] for row in ROWS if row["split"] == split} for split in ("dev", "frozen")}
    assert not scenes["dev"] & scenes["frozen"]
    assert [len(benchmark.read_rows(part)) for part in ("dev", "frozen", "all")] == [200, 200, 400]
    for row in ROWS:
        for claim in row["claims"]:
            start, end = claim["span"]
            assert row["text"][start:end] == claim["words"]
            assert claim["type"] in KINDS and claim["holds"] in (True, False, None)


def test_most_claims_of_the_open_half_are_found_and_judged() -> None:
    figures = benchmark.measure(benchmark.read_rows("dev")[:120])
    total = figures["extraction"]["all"]
    assert total["annotated"] > 140
    assert total["precision"] >= 0.92 and total["recall"] >= 0.9
    for kind in KINDS:
        assert figures["extraction"][kind]["recall"] >= 0.7, kind
    assert figures["extraction"]["false_alarms"]["share"] <= 0.1
    assert figures["end_to_end"]["all"]["wrong"] == 0


def test_the_facts_judge_the_annotated_claims_as_people_do() -> None:
    """No text is read here, so both halves may be compared."""
    judged = benchmark.verification(ROWS)["all"]
    assert judged["n_true"] + judged["n_false"] + judged["n_none"] == 537
    assert judged["true_judged_false"] == judged["false_judged_true"] == 0
    assert judged["cannot_tell"] <= 2 and judged["judged_anyway"] <= 2


def test_a_grammar_that_finds_nothing_misses_the_bounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "read_claims", lambda text, facts: [])
    assert benchmark.main(["--part", "dev", "--json"]) == 1
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["dev_recall"] == 0.0 and figures["dev_precision"] is None
    assert figures["parts"]["dev"]["end_to_end"]["all"]["not_found"] == 263


def test_the_table_and_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--part", "dev"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert [line for line in table if re.match(r"\| (place|all) \| \d+ \|", line)]
    assert json.loads(last)["parts"]["dev"]["sentences"] == 200


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("relation", "star", "right of circle", True), ("relation", "circle", "left of star", True)),
        (("relation", "A1", "directly below B2", False), ("relation", "B2", "directly above A1", False)),
        (("relation", "B2", "same colour as A1", True), ("relation", "A1", "same colour as B2", True)),
        (("place", "B2", "occupied", False), ("place", "B2", "none", True)),
        (("place", "row 2", "red, red, red", True), ("place", "row 2", "all red", True)),
        (("place", "position 1", "blue bar", True), ("place", "position 1", "blue", True)),
    ],
)
def test_one_claim_in_two_notations_is_one(one: tuple[str, str, str, bool], other: tuple[str, str, str, bool]) -> None:
    assert benchmark.canonical(Claim(*one)) == benchmark.canonical(Claim(*other))


def test_different_claims_stay_apart() -> None:
    for one, other in [
        (("relation", "star", "left of circle", True), ("relation", "circle", "left of star", True)),
        (("relation", "some star", "right of circle", True), ("relation", "circle", "left of some star", True)),
        (("place", "B2", "occupied", True), ("place", "B2", "none", True)),
    ]:
        assert benchmark.canonical(Claim(*one)) != benchmark.canonical(Claim(*other))
