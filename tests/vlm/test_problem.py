"""Problem sets on disk."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from configs.errors import ImageError, UserError
from vlm.images import open_image
from vlm.problem import DOMAINS, Problem, read_problems, write_problems


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "p1", "source": "mine", "domain": "count", "question": "How many?", "answer": "3", **changes}


def write_rows(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "problems.jsonl").write_text("".join(json.dumps(item) + "\n" for item in rows))
    return folder


def test_a_set_comes_back_with_absolute_image_paths(tmp_path: Path) -> None:
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
        ({"answer": {"a": 3}}, "answer"),
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


@pytest.mark.parametrize("last", ['{"id": "p2", "answer": "1",}', '{"id": "p2"', "just text", "null", "3"])
def test_a_malformed_last_row_is_named_with_or_without_its_newline(tmp_path: Path, last: str) -> None:
    for before, end in [(json.dumps(row()) + "\n", ""), (json.dumps(row()) + "\n", "\n"), ("", "")]:
        (tmp_path / "problems.jsonl").write_text(before + last + end)
        with pytest.raises(UserError, match=f"problems.jsonl, line {2 if before else 1}: "):
            read_problems(tmp_path)


def test_a_whole_last_row_without_its_newline_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_bytes(
        ("\ufeff" + json.dumps(row()) + "\r\n\r\n" + json.dumps(row(id="p2"))).encode()
    )
    assert [problem.id for problem in read_problems(tmp_path)] == ["p1", "p2"]


def test_a_set_without_problems_is_none(tmp_path: Path) -> None:
    for content in ("", "\n \n"):
        (tmp_path / "problems.jsonl").write_text(content)
        with pytest.raises(UserError, match="holds no rows"):
            read_problems(tmp_path)


def test_paths_that_no_file_can_have_are_left_to_whoever_opens_them(tmp_path: Path) -> None:
    write_rows(tmp_path, row(images=["x" * 5000, "a\0b", "\ud800.png"]))
    [problem] = read_problems(tmp_path)
    assert all(Path(image).is_absolute() for image in problem.images)


@pytest.mark.parametrize("facts", [None, {}, "a cat", ["A1"], {"A1": 3}, 7])
def test_facts_of_another_shape_are_none(facts: Any) -> None:
    assert Problem(**row(meta={"facts": facts})).facts is None
    assert Problem(**row(meta={"facts": {"A1": "red"}})).facts == {"A1": "red"}


@pytest.mark.parametrize(
    ("bad", "named"), [(1, "row 2: field 'domain'"), (3, "; row 4: field 'domain'"), (12, "; row 11: .*; and 2 more.$")]
)
def test_several_bad_rows_are_named_at_once(tmp_path: Path, bad: int, named: str) -> None:
    write_rows(tmp_path, row(), *(row(id=f"b{n}", domain="art") for n in range(bad)), row(id="last"))
    with pytest.raises(UserError, match=named):
        read_problems(tmp_path)


@pytest.mark.parametrize("image", ["https://a.org/b.png", "HTTP://a.org/b.png", "data:image/png;base64,AAAA"])
def test_an_image_that_is_no_path_stays_as_it_is(tmp_path: Path, image: str) -> None:
    write_rows(tmp_path, row(images=[image]))
    (problem,) = read_problems(tmp_path)
    assert problem.images == [image]
    with pytest.raises(ImageError, match=r"is a URL.*reflection-v problems FILE --urls"):
        open_image(problem.images[0])
