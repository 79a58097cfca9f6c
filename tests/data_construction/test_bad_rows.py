"""One bad row of a problem set costs itself: it is dropped before the first episode, and the build ends with its rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from building import says, scripted_roles, settings, write_set

from configs.errors import UserError
from configs.jsonl import read_jsonl, read_log
from data_construction.build import run_build
from data_construction.derive import export
from data_construction.stats import write_stats
from vlm.backends import BackendError, Request, ScriptedBackend

FAULTS: dict[str, dict[str, Any]] = {
    "long_question": {"question": "word " * 4001},
    "no_question": {"question": "   \n"},
    "missing_picture": {"images": ["missing.png"]},
    "unreadable_picture": {"images": ["problems.jsonl"]},
    "unparsable_answer": {"domain": "number", "answer": "zzz not a number"},
    "answer_not_a_choice": {"domain": "choice", "choices": ["1", "2"], "answer": "three"},
    "broken_text": {"domain": "text", "answer": "red \ud800"},
}


def bad_set(folder: Path, n: int, *faults: str) -> set[str]:
    """A problem set of n good rows and one row a fault; returns the ids of the latter."""
    file = write_set(folder / "set", n + len(faults)) / "problems.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, fault in zip(rows[n:], faults, strict=True):
        row |= FAULTS[fault]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {row["id"] for row in rows[n:]}


def played(folder: Path) -> set[str]:
    return {row["problem_id"] for row in read_log(folder / "out/traces.jsonl")}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_row_is_counted_and_the_others_become_rows(
    tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = bad_set(tmp_path, 6, fault)
    roles = scripted_roles()
    for _ in range(2):  # a second call ends as well, and plays nothing
        counts = run_build(settings(tmp_path, mix={"min_rows": 7}), roles=roles)
        assert counts["problems"] == 6 and counts["dropped"] == {fault: 1} and counts["errors"] == 0
        assert f"left out as {fault}: 1 (p0006" in capsys.readouterr().out
    assert played(tmp_path) == {f"p{n:04d}" for n in range(6)}
    rows = read_jsonl(tmp_path / "out/sft.jsonl")
    assert rows and not bad & {row["problem_id"] for row in rows}
    built = json.loads((tmp_path / "out/build.json").read_text())
    assert built["dropped"] == {fault: 1} and built["dropped_examples"][fault][0].startswith("p0006")
    assert write_stats(tmp_path / "out")["dropped"] == {fault: 1}
    assert run_build(settings(tmp_path, mix={"min_rows": 7}), dry_run=2, roles=roles)["dropped"] == {fault: 1}


def test_a_set_of_bad_rows_ends_in_a_sentence_before_a_model_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_set(tmp_path, 0, "no_question", "missing_picture")
    monkeypatch.setattr("data_construction.build.make_backend", lambda *_, **__: pytest.fail("loaded"))
    monkeypatch.setattr("data_construction.build.open_roles", lambda *_, **__: pytest.fail("opened"))
    difficulty = {"weak": "tiny", "strong": "tiny"}
    for changes, dry_run in (({}, None), ({}, 3), ({"difficulty": difficulty}, None)):
        with pytest.raises(
            UserError, match=r"No problem of .* can be used: no_question 1 \(p0000\); missing_picture 1"
        ):
            run_build(settings(tmp_path, **changes), dry_run=dry_run)


def test_a_dry_run_counts_bad_rows_and_draws_from_the_others(tmp_path: Path) -> None:
    bad = bad_set(tmp_path, 4, *FAULTS)
    found = run_build(settings(tmp_path), dry_run=3, roles=scripted_roles())
    assert found["dropped"] == dict.fromkeys(FAULTS, 1) and (found["episodes"], found["left"]) == (3, 1)
    assert not bad & played(tmp_path)


def test_difficulty_is_not_measured_of_bad_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = bad_set(tmp_path, 3, *FAULTS)
    model = ScriptedBackend(lambda request: "\\boxed{1}")
    monkeypatch.setattr("data_construction.build.make_backend", lambda *_, **__: model)
    difficulty = {"weak": "weak", "strong": "strong", "samples": 2}
    run_build(settings(tmp_path, difficulty=difficulty), roles=scripted_roles())
    assert len(model.requests) == 3 * 2 * 2
    assert not bad & {row["problem_id"] for row in read_log(tmp_path / "out/difficulty.jsonl")}


def test_a_folder_whose_traces_hold_bad_rows_already(tmp_path: Path) -> None:
    """As an earlier version, or an earlier state of the problem set, left it."""
    write_set(tmp_path / "set", 6)
    run_build(settings(tmp_path, mix={"min_rows": 6}), roles=scripted_roles())
    bad = bad_set_in_place(tmp_path, {"p0001": FAULTS["long_question"], "p0002": FAULTS["unparsable_answer"]})
    roles = scripted_roles()
    counts = run_build(settings(tmp_path, mix={"min_rows": 6}), roles=roles)
    assert (counts["problems"], counts["dropped"]) == (4, {"long_question": 1, "unparsable_answer": 1})
    assert not bad & {row["problem_id"] for row in read_jsonl(tmp_path / "out/sft.jsonl")}
    assert not roles.reasoner.requests  # type: ignore[attr-defined]  # finished episodes are not played again
    assert (export(settings(tmp_path)) / "README.md").exists()


def bad_set_in_place(folder: Path, faults: dict[str, dict[str, Any]]) -> set[str]:
    file = folder / "set/problems.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | faults.get(row["id"], {})) + "\n" for row in rows))
    return set(faults)


def test_episodes_that_ended_in_an_error_leave_no_row(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 9)

    def busy(request: Request) -> str:
        if any(f"kind {kind}?" in str(request.messages) for kind in (1, 4, 8)):
            raise BackendError("busy")
        return says(request)

    config = settings(tmp_path, mix={"min_rows": 9})
    counts = run_build(config, roles=scripted_roles(busy))
    failed = {"p0001", "p0004", "p0008"}
    assert counts["errors"] == 3
    assert not failed & {row["problem_id"] for row in read_jsonl(tmp_path / "out/sft.jsonl")}
    counts = run_build(config, roles=scripted_roles())
    assert counts["errors"] == 0 and len(read_jsonl(tmp_path / "out/sft.jsonl")) >= 9


def test_facts_of_another_shape_do_not_end_a_build(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 6)
    shapes: list[Any] = ["a cat", ["A1"], {"A1": 3}, 7, {"A1": "red"}]
    bad_set_in_place(tmp_path, {f"p{n:04d}": {"meta": {"facts": shape}} for n, shape in enumerate(shapes)})
    counts = run_build(settings(tmp_path), roles=scripted_roles())
    assert counts["problems"] == 6 and not counts["dropped"] and (tmp_path / "out/sft.jsonl").exists()


def test_a_malformed_last_row_is_named_before_anything_is_played(tmp_path: Path) -> None:
    file = write_set(tmp_path / "set", 3) / "problems.jsonl"
    file.write_text(file.read_text() + '{"id": "p3", "answer": "1",}')
    with pytest.raises(UserError, match=r"problems.jsonl, line 4: not valid JSON"):
        run_build(settings(tmp_path), roles=scripted_roles())
    file.write_text("")
    with pytest.raises(UserError, match="holds no rows"):
        run_build(settings(tmp_path), roles=scripted_roles())
    assert not (tmp_path / "out").exists()
