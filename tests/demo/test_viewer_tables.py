"""Tables of the viewer: columns, filters and search over files that grow, are cut off, replaced, or hold anything."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from viewed_rows import write_lines, write_step

from demo.viewer.columns import MAX_WORDS, OTHER, Entry, Query, RowColumns
from demo.viewer.lines import LineTable
from demo.viewer.parquet import ParquetTable, in_order
from demo.viewer.table import FAULT


def entry(row: dict[str, Any]) -> Entry:
    return Entry({"status": row["status"].strip()}, {"reward": row["reward"]} if "reward" in row else {})


def rows_of(table: Any, **query: Any) -> list[int]:
    return [int(number) for number in table.page(Query(**query), seconds=60).rows]


def test_columns_filter_by_words_and_ranges_and_count_what_each_word_would_give() -> None:
    columns = RowColumns()
    columns.extend(
        [Entry({"status": "kept"}, {"reward": 1.0}), Entry({"status": "wrong"}, {}), Entry({}, {"reward": -1.0})]
    )
    columns.extend([Entry({"status": "kept", "late": "yes"}, {"reward": 0.5})])
    assert columns.select(Query({"status": {"kept"}})).tolist() == [True, False, False, True]
    assert columns.select(Query({"status": {"kept", "wrong"}})).tolist() == [True, True, False, True]
    assert columns.select(Query({"status": {"unknown"}})).sum() == 0
    assert columns.select(Query({}, {"reward": (0.0, math.inf)})).tolist() == [True, False, False, True]
    assert columns.select(Query({"late": {"yes"}})).tolist() == [False, False, False, True]
    assert columns.select(Query({"nobody": {"knows"}})).sum() == 0
    assert columns.counts("status", columns.select(Query({"status": {"kept"}}), without="status")) == {
        "kept": 2,
        "": 1,
        "wrong": 1,
    }
    assert columns.bounds() == {"reward": (-1.0, 1.0)}
    columns.cut(1)
    assert columns.rows == 1 and columns.bounds() == {"reward": (1.0, 1.0)}


def test_a_facet_of_many_words_is_bounded() -> None:
    columns = RowColumns()
    columns.extend([Entry({"id": str(number)}, {}) for number in range(3 * MAX_WORDS)])
    assert len(columns.facets["id"].words) == MAX_WORDS + 1
    assert columns.counts("id", columns.select(Query()))[OTHER] > MAX_WORDS


def test_order_by_a_number_puts_rows_without_it_last(tmp_path: Path) -> None:
    rows = [
        {"status": "a", "reward": 1.0},
        {"status": "a"},
        {"status": "a", "reward": 3.0},
        {"status": "a", "reward": 2.0},
    ]
    table = LineTable(write_lines(tmp_path / "x.jsonl", rows), entry)
    assert rows_of(table) == [0, 1, 2, 3] and rows_of(table, order="-") == [3, 2, 1, 0]
    assert rows_of(table, order="reward") == [0, 3, 2, 1] and rows_of(table, order="-reward") == [2, 3, 0, 1]


def test_a_line_that_is_no_row_is_shown_as_such(tmp_path: Path) -> None:
    good = '{"status": "kept"}'
    deep = "[" * 100_000
    table = LineTable(write_lines(tmp_path / "x.jsonl", [good, "nonsense", "", "[1]", deep, good]), entry)
    assert rows_of(table) == [0, 1, 2, 3, 4]  # a blank line is none
    assert rows_of(table, words={FAULT: {"not JSON"}}) == [1, 3]
    assert table.row(0).content == {"status": "kept"} and table.row(4).content == {"status": "kept"}
    assert table.row(1).content is None and table.row(1).raw == "nonsense\n" and "not valid JSON" in table.row(1).fault
    assert "no object" in table.row(2).fault and table.row(99).content is None
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\n" + b'{"status": 5, "reward": "high"}\n')
    assert rows_of(table) == [0, 1] and table.row(1).content == {"status": 5, "reward": "high"}


def test_a_row_that_is_being_written_becomes_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"status": "kept"}\n{"status": "wr')
    table = LineTable(path, entry)
    assert rows_of(table) == [0, 1] and rows_of(table, words={FAULT: {"cut off"}}) == [1]
    assert "being written" in table.row(1).fault
    assert rows_of(table, text="kept") == [0] and rows_of(table, text="wr") == [1]
    with open(path, "a") as file:
        file.write('ong"}\n{"status": "kept", "x": "wr"}')
    assert rows_of(table) == [0, 1, 2] and rows_of(table, words={FAULT: {"cut off"}}) == []
    assert rows_of(table, words={"status": {"wrong"}}) == [1] and rows_of(table, text="wr") == [1, 2]
    with open(path, "a") as file:
        file.write("\n")
    assert rows_of(table) == [0, 1, 2]


def test_a_log_that_is_cut_and_written_on_is_read_anew(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [{"status": f"s{n}"} for n in range(5)])
    table = LineTable(path, entry)
    assert rows_of(table, words={"status": {"s4"}}) == [4] and rows_of(table, text="s4") == [4]
    write_lines(path, [{"status": f"t{n}"} for n in range(9)])  # in place: same file, larger, other rows
    assert rows_of(table, text="s4") == [] and rows_of(table, words={"status": {"t8"}}) == [8]
    other = write_lines(tmp_path / "y.jsonl", [{"status": "new"}])
    os.replace(other, path)
    assert rows_of(table) == [0] and table.row(0).content == {"status": "new"}
    path.unlink()
    assert rows_of(table) == []


def test_a_long_row_is_named_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.viewer.lines.MAX_LINE", 1_000)
    rows = [{"status": "kept"}, {"status": "x" * 5_000}, {"status": "after"}]
    table = LineTable(write_lines(tmp_path / "x.jsonl", rows), entry)
    assert (
        rows_of(table) == [0, 1, 2] and "longer" in table.row(1).fault and table.row(2).content == {"status": "after"}
    )


@pytest.mark.parametrize("block", [2**22, 300])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_search_finds_exactly_the_rows_whose_texts_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, ascii_only: bool
) -> None:
    monkeypatch.setattr("demo.viewer.lines.BLOCK", block)
    texts = [
        "Blue Cross",
        "the status of it",
        'say "hi"\nthere',
        "ÉTÉ à Köln",
        "x" * 900 + " blue",
        "再看 the picture",
        "12",
        "a\\b",
    ]
    path = tmp_path / "x.jsonl"
    lines = [json.dumps({"status": "kept", "text": one, "n": 12}, ensure_ascii=ascii_only) for one in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = LineTable(path, entry)
    for wanted in (
        "blue",
        "status",
        '"hi"',
        'hi"\nth',
        "été",
        "KÖLN",
        "再看",
        "a\\b",
        "picture",
        "nowhere",
        "text",
        "kept",
        "{",
        ": ",
    ):
        expected = [n for n, text in enumerate(texts) if any(wanted.lower() in one.lower() for one in (text, "kept"))]
        assert rows_of(table, text=wanted) == expected, wanted


def test_a_large_table_is_read_and_searched_in_parts(tmp_path: Path) -> None:
    rows = [{"status": "kept", "text": f"row {n}"} for n in range(3_000)]
    table = LineTable(write_lines(tmp_path / "x.jsonl", rows), entry)
    page = table.page(Query(), seconds=0)
    assert 0 < page.read < 1 and 0 < len(page.rows) < 3_000
    for _ in range(20):
        page = table.page(Query(text="row 2999"), seconds=0)
    assert page.read == page.searched == 1 and page.rows.tolist() == [2999]


def parquet(folder: Path) -> ParquetTable:
    return ParquetTable(
        lambda: in_order(folder),
        lambda names: ["step", "advantage"],
        lambda row: Entry({}, {"step": float(row["step"])}),
    )


def test_steps_come_as_they_are_written_and_a_half_written_one_says_so(tmp_path: Path) -> None:
    write_step(tmp_path, 1, ["a", "b"])
    table = parquet(tmp_path)
    assert rows_of(table) == [0, 1]
    whole = write_step(tmp_path, 2, ["C c", "d"]).read_bytes()
    (tmp_path / "completions_00002.parquet").write_bytes(whole[: len(whole) // 2])
    assert rows_of(table) == [0, 1, 2] and rows_of(table, words={FAULT: {"unreadable file"}}) == [2]
    assert table.row(2).content is None and "being written" in table.row(2).fault
    assert rows_of(table, text="c c") == []
    (tmp_path / "completions_00002.parquet").write_bytes(whole)
    write_step(tmp_path, 100_000, ["e"])
    assert rows_of(table) == [0, 1, 2, 3, 4]
    assert [table.row(n).content["completion"] for n in range(5)] == ["a", "b", "C c", "d", "e"]  # type: ignore[index]
    assert rows_of(table, ranges={"step": (2, 2)}) == [2, 3] and rows_of(table, text="c C") == [2]
    assert rows_of(table, text="How many?") == [0, 1, 2, 3, 4] and rows_of(table, text="[ab]") == []
    assert table.same(3, ["step", "prompt"]) == [2, 3]
    write_step(tmp_path, 1, ["other"])  # a resumed run writes a step again
    assert rows_of(table) == [0, 1, 2, 3] and table.row(0).content["completion"] == "other"  # type: ignore[index]


def test_search_sees_texts_inside_messages(tmp_path: Path) -> None:
    import pandas as pd

    said = [[{"role": "assistant", "content": "Blue cross"}], None]
    pd.DataFrame({"step": [1, 1], "completion": said, "advantage": [0.0, 1.0]}).to_parquet(
        tmp_path / "completions_00001.parquet"
    )
    assert rows_of(parquet(tmp_path), text="blue CROSS") == [0]


def test_masks_are_bounded_by_the_rows(tmp_path: Path) -> None:
    table = LineTable(write_lines(tmp_path / "x.jsonl", [{"status": "kept"}] * 3), entry)
    table.page(Query())
    held, share = table.holding("kept")
    assert held.dtype == np.bool_ and len(held) == 3 and share == 1.0
