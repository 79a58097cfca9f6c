"""Problem sets on disk."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vlm.errors import UserError
from vlm.problem import DOMAINS, Problem, read_problems, write_problems


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "p1", "source": "mine", "domain": "count", "question": "How many?", "answer": "3", **changes}


def write_rows(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "problems.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))
    return folder


def test_a_set_comes_back_with_absolute_pictures(tmp_path: Path) -> None:
    problem = Problem(
        **row(images=["a.png", "/b.png"], meta={"family": "count", "counterfactual": {"image": "c.png", "answer": "4"}})
    )
    file = write_problems([problem], tmp_path / "set")
    for source in (file, file.parent, str(file.parent)):
        [back] = read_problems(source)
        assert back.images == [str(tmp_path / "set" / "a.png"), "/b.png"]
        assert back.meta["counterfactual"] == {"image": str(tmp_path / "set" / "c.png"), "answer": "4"}
        assert back.family == "count"
    assert json.loads(file.read_text())["images"] == ["a.png", "/b.png"]


def test_paths_do_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path, row(images=["sub/a.png"]))
    monkeypatch.chdir(tmp_path.parent)
    [problem] = read_problems(os.path.relpath(tmp_path))
    assert problem.images == [str(tmp_path / "sub" / "a.png")]


def test_the_family_is_the_domain_where_none_is_named() -> None:
    assert Problem(**row()).family == "count" and "count" in DOMAINS


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"domain": "art"}, "domain"),
        ({"answer": None}, "answer"),
        ({"answer": 3}, "answer"),
        ({"question": ""}, "question"),
        ({"id": ""}, "id"),
        ({"colour": 1}, "colour"),
        ({"images": "a.png"}, "images"),
        ({"images": [3]}, "images.0"),
        ({"meta": {"counterfactual": {"image": 3, "answer": "4"}}}, "counterfactual"),
    ],
)
def test_a_bad_row_is_named_by_number_and_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    write_rows(tmp_path, row(), row(id="p2") | changes)
    with pytest.raises(UserError, match=f"row 2.*{field}"):
        read_problems(tmp_path)


def test_ids_occur_once_and_sets_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No problem set at"):
        read_problems(tmp_path)
    write_rows(tmp_path, row(), row())
    with pytest.raises(UserError, match="row 2: the id 'p1' occurs twice"):
        read_problems(tmp_path)
