"""Rows survive torn writes; whole files are complete or absent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import UserError
from configs.jsonl import (
    append_jsonl,
    read_jsonl,
    read_log,
    repair_jsonl,
    temporary_beside,
    write_json_atomic,
    write_text_atomic,
)


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    append_jsonl(file, [{"a": 1}, {"b": "äöü \u2028 \n 再看"}])
    append_jsonl(file, [])
    append_jsonl(file, [{"c": None}])
    assert read_jsonl(file) == [{"a": 1}, {"b": "äöü \u2028 \n 再看"}, {"c": None}]
    assert file.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("tail", [b'{"c"', b'{"c": "\xc3', b"\xff\xfe", b'{"c": 1'])
def test_a_torn_last_line_of_a_log_is_skipped_and_cut(tmp_path: Path, tail: bytes) -> None:
    file = tmp_path / "rows.jsonl"
    append_jsonl(file, [{"a": 1}, {"b": 2}])
    whole = file.read_bytes()
    file.write_bytes(whole + tail)
    assert read_log(file) == [{"a": 1}, {"b": 2}]
    assert repair_jsonl(file) == len(tail) and file.read_bytes() == whole
    assert repair_jsonl(file) == 0
    append_jsonl(file, [{"c": 3}])
    assert len(read_jsonl(file)) == 3


@pytest.mark.parametrize("tail", [b'{"c"', b'{"c": 1,}', b"\xff\xfe", b"text", b"null", b"3", b"[{}]", b'"c"'])
@pytest.mark.parametrize("rows", [0, 2])
def test_a_last_line_that_is_no_object_is_named_where_a_user_wrote_the_file(
    tmp_path: Path, tail: bytes, rows: int
) -> None:
    file = tmp_path / "rows.jsonl"
    content = b'{"a": 1}\n' * rows + tail
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"rows.jsonl, line {rows + 1}: (not valid JSON|expected a JSON object)"):
        read_jsonl(file)
    assert read_log(file) == [{"a": 1}] * rows
    assert file.read_bytes() == content  # reading repairs nothing


def test_a_log_tolerates_nothing_but_its_torn_end(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for content in ('{"a": 1}\n{"b"\n', '{"a"\n{"b": 2}\n', "null\n"):
        file.write_text(content)
        with pytest.raises(UserError, match="line"):
            read_log(file)


def test_marks_blank_lines_and_line_ends_of_other_systems(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes('\ufeff{"a": 1}\r\n\r\n{"b": 2}\r\n \t\r\n\n  '.encode())
    assert read_jsonl(file) == read_log(file) == [{"a": 1}, {"b": 2}]
    file.write_bytes('\ufeff\r\n{"a": 1}'.encode())
    assert read_jsonl(file) == [{"a": 1}]
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        file.write_text('{"a": 1}\n', encoding=encoding)
        with pytest.raises(UserError, match="is UTF-16 text, not UTF-8: save it as UTF-8"):
            read_jsonl(file)


def test_half_a_surrogate_pair_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    append_jsonl(file, [{"id": "\ud800"}, {"id": "ä"}])
    assert read_log(file) == [{"id": "\ud800"}, {"id": "ä"}] and "ä" in file.read_text()


def test_a_whole_last_row_without_newline_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n{"b": 2}')  # as many editors save it
    assert read_jsonl(file) == read_log(file) == [{"a": 1}, {"b": 2}]
    append_jsonl(file, [{"c": 3}])
    assert read_jsonl(file) == [{"a": 1}, {"b": 2}, {"c": 3}]
    file.write_text('{"a": 1}')
    assert repair_jsonl(file) == 0 and file.read_text() == '{"a": 1}\n'


def test_appending_to_a_torn_file_loses_only_the_torn_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n{"b": ')
    append_jsonl(file, [{"c": 3}])
    assert read_jsonl(file) == [{"a": 1}, {"c": 3}]


@pytest.mark.parametrize(
    ("line", "reason"), [("{bad", "line 2: not valid JSON"), ("[1]", "line 2: expected a JSON object")]
)
def test_a_bad_line_in_the_middle_is_named(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"a": 1}}\n{line}\n{{"b": 2}}\n')
    with pytest.raises(UserError, match=reason):
        read_jsonl(file)


def test_bytes_that_are_not_text_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"a": 1}\n\xff\xfe\n{"b": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_jsonl(file)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        read_jsonl(tmp_path)
    for content in ("", "\n  \n", "\ufeff"):
        (tmp_path / "empty.jsonl").write_text(content)
        assert read_log(tmp_path / "empty.jsonl") == []
        with pytest.raises(UserError, match="holds no rows"):
            read_jsonl(tmp_path / "empty.jsonl")
    assert repair_jsonl(tmp_path / "none.jsonl") == 0


def test_deep_nesting_ends_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("[" * 200_000 + "\n{}\n")
    with pytest.raises(UserError, match="line 1"):
        read_jsonl(file)


def test_whole_files_are_replaced_at_once(tmp_path: Path) -> None:
    file = tmp_path / "new" / "report.json"
    write_json_atomic(file, {"ä": [1, 2]})
    assert json.loads(file.read_text(encoding="utf-8")) == {"ä": [1, 2]}
    write_text_atomic(file, "second")
    assert file.read_text() == "second" and os.listdir(file.parent) == ["report.json"]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.json"
    write_text_atomic(file, "old")
    with pytest.raises(ValueError):
        write_json_atomic(file, {"value": float("nan")})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_text_atomic(file, "new")
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["report.json"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Neither the part of a living process, nor one of this process, nor one of another file or machine."""
    code = "import sys, os, time; from pathlib import Path; from configs.jsonl import temporary_beside\n"
    code += "with temporary_beside(Path(sys.argv[1])) as part:\n"
    code += "    part.write_text('half'); print(part, flush=True); sys.stdin.read()"

    def writer(name: str) -> tuple[subprocess.Popen[str], Path]:
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=Path(__file__).parents[2])
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    killed, left = writer("a.json")
    other_file, left_of_other = writer("b.json")
    alive, part = writer("a.json")
    for process in (killed, other_file):
        process.kill()
        process.wait()
    folder = left.with_name(left.name[:-1] + "_")
    folder.mkdir()
    elsewhere = tmp_path / f".a.json.00000000-{killed.pid}-abcdef"
    elsewhere.write_text("half")
    with temporary_beside(tmp_path / "a.json") as mine:
        mine.write_text("half")
        write_text_atomic(tmp_path / "a.json", "whole")
        kept = {mine.name, part.name, elsewhere.name, left_of_other.name, "a.json"}
        assert {path.name for path in tmp_path.iterdir()} == kept
    alive.kill()
    alive.wait()
    assert not mine.exists()
