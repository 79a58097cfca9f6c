"""Logs that are indexed and not held: what is found in them equals what reading every row finds."""

import json
from pathlib import Path

import pytest
from building import says, scripted_roles, settings, text_of, write_set

from configs.errors import UserError
from configs.jsonl import iter_log, iter_log_lines, parse_log_line, read_jsonl
from data_construction.build import run_build
from data_construction.records import Trace
from data_construction.reply_log import ReplyLog
from data_construction.trace_log import StoredTraces, iter_places, read_progress
from vlm.problem import Problem, read_problems, write_problems
from vlm.stored_problems import StoredProblems

ODD = ["plain", 'quote " inside', "back\\slash", "emoji 😀", "line\u2028break", '", "status": "kept']


def trace(problem_id: str, status: str, error: str = "", text: str = "") -> str:
    """A row as a build writes it."""
    made = Trace(id=f"{problem_id}#0", problem_id=problem_id, status=status, error=error, trace=text)  # type: ignore[arg-type]
    return json.dumps(made.model_dump(), ensure_ascii=False) + "\n"


def older(row: str) -> str:
    """The same row as earlier versions wrote it, with the status at its end."""
    values = json.loads(row)
    return (
        json.dumps({key: values[key] for key in sorted(values, key=lambda key: key in ("status", "error", "why"))})
        + "\n"
    )


def write_log(folder: Path, *rows: str, end: str = "") -> Path:
    file = folder / "traces.jsonl"
    file.write_text("".join(rows) + end, encoding="utf-8")
    return file


@pytest.mark.parametrize("written", [str, older])
def test_the_head_of_a_row_tells_what_the_whole_row_tells(written, tmp_path: Path) -> None:
    rows = [
        written(trace(name, *how)) for name in ODD for how in (("error", "empty"), ("error", "timeout"), ("kept", ""))
    ]
    rows += [written(trace("only", "error", "empty")), "\n", written(trace("only", "error", "status_500"))]
    log = write_log(tmp_path, *rows)
    places = list(iter_places(log))
    whole = list(iter_log(log))
    assert [(place.problem_id, place.status, place.error) for place in places] == [
        (row["problem_id"], row["status"], row["error"]) for row in whole
    ]
    content = log.read_bytes()
    assert all(content[place.offset :].startswith(b"{") for place in places)
    progress = read_progress(log)
    assert progress.done == set(ODD) and progress.failed == {*ODD, "only"}
    assert progress.tries == {**dict.fromkeys(ODD, 1), "only": 1}


def test_stored_traces_are_the_last_ones_by_problem(tmp_path: Path) -> None:
    log = write_log(
        tmp_path, trace("b", "error"), older(trace("a", "kept", text="first")), trace("b", "wrong"), trace("c", "kept"),
        end='{"torn": ',
    )  # fmt: skip
    traces = StoredTraces(log)
    assert [(one.problem_id, one.status, one.trace) for one in traces] == [
        ("a", "kept", "first"),
        ("b", "wrong", ""),
        ("c", "kept", ""),
    ]
    assert traces[1].problem_id == "b" and len(traces) == 3
    traces.filters = {"a#0": "length"}
    assert [(one.status, one.why) for one in traces] == [("filtered", "length"), ("wrong", ""), ("kept", "")]
    assert [one.problem_id for one in StoredTraces(log, {"c", "d"})] == ["c"]
    assert len(StoredTraces(tmp_path / "absent.jsonl")) == 0


def test_a_damaged_row_is_named_where_it_is_read(tmp_path: Path) -> None:
    damaged = trace("b", "kept")[:-10] + "\n"
    log = write_log(tmp_path, trace("a", "kept"), damaged, trace("c", "kept"))
    with pytest.raises(UserError, match=r"traces.jsonl, line 2: not valid JSON"):
        list(StoredTraces(log))
    log.write_text('{"id": 1\n[1]\n')
    with pytest.raises(UserError, match=r"line 1: not valid JSON"):
        list(iter_places(log))
    with pytest.raises(UserError, match=r"line 2: expected a JSON object, found list"):
        [parse_log_line(log, *found) for found in list(iter_log_lines(log))[1:]]


def test_stored_problems_are_the_problems_of_the_set(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 5)
    rows = [Problem.model_validate(row) for row in read_jsonl(tmp_path / "set/problems.jsonl")]
    (tmp_path / "set/sub").mkdir()
    (tmp_path / "set/sub/link.png").symlink_to(tmp_path / "set/p.png")
    (tmp_path / "linked").symlink_to(tmp_path / "set/sub")
    odd = ("sub/link.png", "../linked/link.png", "./sub//x.png", "sub/..", "/abs/y.png", "https://h/z.png", "p.png")
    other = {"counterfactual": {"image": "p.png", "answer": "3"}}
    rows += [rows[0].model_copy(update={"id": name, "images": [name], "meta": other}) for name in odd]
    write_problems(rows, tmp_path / "set")
    every, stored = read_problems(tmp_path / "set"), StoredProblems(tmp_path / "set")
    assert list(stored.values()) == every and len(stored) == 12
    assert [one.images for one in every[5:]] == [
        [name if ":" in name else str((tmp_path / "set" / name).resolve())] for name in odd
    ]
    stored.leave_out(["p0001"])
    stored.keep(lambda one: one.startswith("p0"))
    assert list(stored) == ["p0000", "p0002", "p0003", "p0004"] and "p0001" not in stored
    with pytest.raises(KeyError):
        stored["p0001"]


def test_a_set_that_is_changed_in_use_is_reported(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 3)
    stored = StoredProblems(tmp_path / "set")
    file = tmp_path / "set/problems.jsonl"
    whole = file.read_text()
    write_problems([stored["p0000"]], tmp_path / "set")  # written as a whole: the file in use is another one
    assert stored["p0002"].id == "p0002"
    stored = StoredProblems(tmp_path / "set")
    file.write_text(whole[5:])
    with pytest.raises(UserError, match="was changed while it was in use: give the same command again"):
        stored["p0000"]


def test_of_saved_replies_only_places_are_held(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 4)

    def fails_late(request):
        return "" if text_of(request).startswith("Task: conclude") else says(request)

    run_build(settings(tmp_path), roles=scripted_roles(fails_late))
    replies = ReplyLog(tmp_path / "out/replies.jsonl", {"p0001", "p0002"})
    assert set(replies._places) == {"p0001", "p0002"} and not replies._saved
    offsets = [len(places) for places in replies._places.values()]
    rows = [row["problem_id"] for row in iter_log(tmp_path / "out/replies.jsonl")]
    assert offsets == [rows.count("p0001"), rows.count("p0002")] and all(offsets)
    found = replies._read(replies._places["p0002"])
    assert [vars(reply) for reply in found.values()] == [
        row["reply"] for row in iter_log(tmp_path / "out/replies.jsonl") if row["problem_id"] == "p0002"
    ]


def test_a_build_of_a_few_hundred_episodes_holds_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most problems, and traces, that are alive at once do not depend on how many there are."""
    alive = {"most": 0, "now": 0}

    class Counted(Trace):
        def model_post_init(self, context: object) -> None:
            alive["now"] += 1
            alive["most"] = max(alive["most"], alive["now"])

        def __del__(self) -> None:
            alive["now"] -= 1

    monkeypatch.setattr("data_construction.trace_log.Trace", Counted)
    write_set(tmp_path / "set", 300)
    counts = run_build(settings(tmp_path, concurrency=8), roles=scripted_roles())
    assert counts["kept"] + counts["filtered"] == 100 and 0 < alive["most"] <= 5
    again = run_build(settings(tmp_path, concurrency=8), roles=scripted_roles())
    assert again == counts and alive["most"] <= 5
