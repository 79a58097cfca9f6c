"""Whatever stands in a user's data files: every row is used or counted, and every refusal is one sentence.

The functions are those that the commands call. ``make test-slow`` tries 2,300 files here (and 700 in ``test_other_files.py``), ``make
test`` a few of them.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broken_files import (
    DAMAGES,
    IMAGES,
    PATIENCE,
    TEXTS,
    URI,
    VALUES,
    Broken,
    broken_files,
    check_sentence,
    draw_images,
    json_text,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vlm.ask_file
from configs.errors import ImageError, UserError
from configs.jsonl import read_jsonl
from data_construction.imported_rows import Columns
from data_construction.imports import ImportOptions, import_problems
from reward.usable import usable_problems
from train.config import GrpoOptions
from train.data import Collator, read_rows
from train.filters import KEPT_ALL_THE_SAME, FilteredProblems, filter_problems
from train.prompts import problem_messages
from train.reader import Reader, load_reader
from vlm.backends import ScriptedBackend
from vlm.chat import encode, question_messages
from vlm.foreign_files import FORMATS
from vlm.images import image_content, image_size, open_image
from vlm.infer import run_ask
from vlm.problem import read_problems, read_valid_problems


def examples(few: int, many: int) -> pytest.MarkDecorator:
    """A few examples in the ordinary suite, many in the slow one."""
    return pytest.mark.parametrize("tries", [few, pytest.param(many, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture
def fresh(tmp_path: Path, images: Path) -> Iterator[Callable[[], Path]]:
    """Makes a folder of its own for each example, with the images beside; the one before is removed."""
    numbers = itertools.count()

    def make() -> Path:
        for old in tmp_path.iterdir():
            shutil.rmtree(old)
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        (folder / "img").symlink_to(images / "img")
        return folder

    yield make


@pytest.fixture(scope="module")
def reader(tiny_vlm_dir: Path) -> Reader:
    return load_reader(GrpoOptions(model=str(tiny_vlm_dir)))


# What the rows look like when they are whole

QUESTION = {
    "id": "1",
    "source": "s",
    "domain": "count",
    "images": ["img/good.png"],
    "question": "How many?",
    "answer": "3",
}
PROBLEMS = [
    QUESTION,
    {**QUESTION, "id": "2", "domain": "choice", "choices": ["cat", "dog"], "answer": "A"},
    {
        **QUESTION,
        "id": "3",
        "images": ["img/good.png", "img/other.jpg"],
        "question": "Is <image 2> like <image 1>?",
        "domain": "yes_no",
        "answer": "no",
    },
    {
        **QUESTION,
        "id": "4",
        "images": [],
        "domain": "simulation",
        "answer": [1, 2],
        "meta": {"family": "f", "facts": {"A1": "red"}},
    },
    {**QUESTION, "id": "5", "meta": {"counterfactual": {"image": "img/other.jpg", "answer": "4"}}, "decimal": ","},
    {**QUESTION, "id": "6", "domain": "expression", "answer": "\\frac{1}{2}"},
]
TABLES = [
    {"question": "How many?", "answer": "3", "image": "img/good.png", "id": "1"},
    {"query": "Which?", "label": 1, "options": ["cat", "dog"], "images": ["img/good.png", URI]},
    {
        "problem": "Which?",
        "solution": "<answer>dog</answer>",
        "A": "cat",
        "B": "dog",
        "image_1": "img/other.jpg",
        "meta": {"a": 1},
    },
]
ASKED, SAID = {"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "3"}
PARTS = [{"type": "image", "image": "img/good.png"}, {"type": "text", "text": "Which?\nA. cat\nB. dog"}]
TALKS = [
    {"id": "1", "image": "img/good.png", "conversations": [ASKED, SAID]},
    {
        "conversations": [{"from": "system", "value": "s"}, ASKED, SAID, ASKED, SAID],
        "images": ["img/good.png", "img/other.jpg"],
    },
    {
        "messages": [
            {"role": "user", "content": PARTS},
            {"role": "assistant", "content": [{"type": "text", "text": "B"}]},
        ]
    },
    {"prompt": [{"role": "user", "content": "How many?"}], "completion": "<think>x</think>\\boxed{3}"},
    {"texts": [{"user": "How many?", "assistant": "3"}], "images": [URI]},
]
COLUMNS = [
    "question",
    "answer",
    "image",
    "images",
    "choices",
    "options",
    "id",
    "domain",
    "decimal",
    "meta",
    "messages",
    "conversations",
    "video",
]
STARTS = [
    [{"role": "user", "content": "How many?"}],
    question_messages("How many?", 1),
    question_messages("Same?", 2, "direct"),
]
TRACES = [
    {
        "prompt": start,
        "completion": "<think> A1 is red . </think> \\boxed{3}",
        "images": ["img/good.png"] * n,
        "masked": [[8, 10]],
        "mode": "think",
    }
    for n, start in enumerate(STARTS)
]
ASKS = [
    {"id": "1", "image": "img/good.png", "question": "How many?"},
    {"id": 2, "images": ["img/good.png", "img/other.jpg"], "question": "Which <image 2>?", "choices": ["cat", "dog"]},
    {"question": "1 + 1?"},
    {"image": URI, "question": "How many?"},
]


@examples(40, 700)
def test_imported_files(tries: int, fresh: Callable[[], Path]) -> None:
    """``reflection-v problems FILE``, of every format, named or not."""
    files = broken_files([*TABLES, *TALKS, *PROBLEMS], COLUMNS, ["jsonl", "json", "csv", "parquet"])

    @settings(PATIENCE, max_examples=tries)
    @given(file=files, kind=st.sampled_from([None, None, *FORMATS]), column=st.none() | st.sampled_from(COLUMNS))
    def check(file: Broken, kind: str | None, column: str | None) -> None:
        folder = fresh()
        path = file.write(folder / f"rows.{file.encoding}")
        options = ImportOptions(kind, Columns(question=column))
        _check_import(
            str(path),
            folder,
            options,
            file.count if kind not in ("csv", "parquet") and file.encoding == "jsonl" else None,
        )

    check()


def _check_import(source: str, folder: Path, options: ImportOptions, count: int | None = None) -> None:
    out = folder / "out"
    try:
        written, account = import_problems(source, out, options)
    except UserError as error:
        check_sentence(error)
        assert not (out / "problems.jsonl").exists()
        return
    told = json.loads((out / "import.json").read_text())
    assert account.rows == account.used + len(account.left_out) == account.used + sum(told["dropped"].values())
    assert len(json.loads((out / "left_out.json").read_text())) == len(account.left_out)
    if count is not None and count > 1:  # a single row may be an object of rows
        assert account.rows == count
    problems = read_problems(written.parent)
    assert len(problems) == account.used and all(Path(image).is_file() for one in problems for image in one.images)
    assert len(usable_problems(problems)[0]) == len([one for one in problems if one.domain != "open"])


HEADERS = st.sampled_from(
    [
        "",
        "---\nconfigs:\n- config_name: a\n  data_files:\n  - {split: train, path: data/*}\n---\n",
        "---\nconfigs: [{data_files: [[1]]}]\n---\n",
        "---\nconfigs: &a [*a]\n---\n",
        "---\n" + "- " * 1200 + "\n---\n",
        "---\nconfigs: [{data_files: {train: '**', 1: null}}, 3]\n---\n",
        "---\nconfigs: [{data_dir: ../.., data_files: /etc/*}]\n---\n",
        "---\nconfigs: !!int ''\n---\n",
        "---\nconfigs: [{data_files: '[', config_name: [1]}]\n---\n",
        "\x00",
    ]
)
NAMES = st.sampled_from(
    [
        "data/train-00000-of-00001",
        "data/test-00000-of-00001",
        "train",
        "a/b/dev",
        "validation",
        "rows",
        "default/train/0000",
    ]
)


@examples(12, 300)
def test_clones_of_data_sets(tries: int, fresh: Callable[[], Path]) -> None:
    """``reflection-v problems hf:FOLDER``."""
    files = st.lists(
        st.tuples(NAMES, broken_files([*TABLES, *TALKS], COLUMNS, ["jsonl", "json", "csv", "parquet"])), max_size=3
    )
    more = st.sampled_from([None, "state.json", "dataset_dict.json", "train/state.json", "data/train.arrow", "a.tsv"])

    @settings(PATIENCE, max_examples=tries)
    @given(
        files=files,
        header=HEADERS,
        more=more,
        content=DAMAGES,
        split=st.sampled_from([None, "train", "test", "x"]),
        config=st.sampled_from([None, None, "a"]),
    )
    def check(files: Any, header: str, more: str | None, content: str, split: str | None, config: str | None) -> None:
        folder = fresh()
        clone = folder / "clone"
        clone.mkdir()
        (clone / "README.md").write_text(header)
        for name, file in files:
            if not (path := clone / f"{name}.{file.encoding}").exists() and not path.is_symlink():
                file.write(path)
        if more is not None and not (clone / more).exists():
            Broken([{"a": 1}], "jsonl", content, 3).write(clone / more)
        _check_import(f"hf:{clone}", folder, ImportOptions(split=split, config=config))

    check()


@examples(25, 450)
def test_problem_sets(tries: int, fresh: Callable[[], Path], reader: Reader) -> None:
    """What ``grpo``, ``build``, ``eval`` and ``audit`` read."""

    @settings(PATIENCE, max_examples=tries)
    @given(
        file=broken_files(PROBLEMS, [*QUESTION, "choices", "meta", "decimal", "schema_version"]),
        as_folder=st.booleans(),
        count=st.booleans(),
        limit=st.none() | st.integers(1, 90),
    )
    def check(file: Broken, as_folder: bool, count: bool, limit: int | None) -> None:
        folder = fresh()
        path = file.write(folder / "problems.jsonl")
        given = folder if as_folder else path
        try:
            problems = read_problems(given)
        except UserError as error:
            check_sentence(error)
        else:
            kept, dropped = usable_problems(problems)
            assert len(problems) == len(kept) + sum(dropped.counts.values())
            assert file.count in (None, len(problems))
            for line in dropped.sentences():
                line.encode()
        filtered = FilteredProblems()
        try:
            valid = read_valid_problems(given, filtered.reject)
            rejected = sum(filtered.counts.values())
            filter_problems(
                valid, reader.vlm, "think", limit, completion_tokens=8, count=count, decode=True, filtered=filtered
            )
        except UserError as error:
            check_sentence(error)
            return
        assert len(filtered.tokens) == (len(filtered.kept) if count or limit else 0)
        for problem in filtered.kept:
            encode(
                reader.vlm,
                [problem_messages(problem, "think", reader.vlm)],
                [[open_image(path) for path in problem.images]],
            )
        assert len(valid) + rejected == len(filtered.kept) + sum(filtered.dropped.values())
        assert file.count in (None, len(valid) + rejected)
        assert all(
            filtered.counts[reason] <= len(filtered.kept) for reason in KEPT_ALL_THE_SAME if reason in filtered.counts
        )

    check()


@examples(25, 400)
def test_rows_of_the_cold_start(tries: int, fresh: Callable[[], Path], reader: Reader) -> None:
    """What ``sft`` reads."""

    @settings(PATIENCE, max_examples=tries)
    @given(file=broken_files([*TRACES, TALKS[2]], [*TRACES[0]]), limit=st.none() | st.integers(1, 90))
    def check(file: Broken, limit: int | None) -> None:
        path = file.write(fresh() / "sft.jsonl")
        try:
            rows, dropped = read_rows(path, reader.vlm, limit, decode=True)
        except UserError as error:
            check_sentence(error)
            return
        collate = Collator(rows, reader.vlm)
        for index in range(len(rows)):  # what is kept never ends a run
            collate([{"index": index}])
        number = len(read_jsonl(path))
        assert number == len(rows) + sum(dropped.counts.values()) and file.count in (None, number)

    check()


@examples(15, 250)
def test_files_of_questions(tries: int, fresh: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """``reflection-v ask --batch``; also over a file of answers that is there already."""
    from ask_options import ask_options

    asked: list[Any] = []

    def reply(request: Any) -> str:
        asked.append(request)
        return "<think> x </think> \\boxed{3}"

    monkeypatch.setattr(vlm.ask_file, "load_for_asking", lambda *_: ScriptedBackend(reply))
    answers = [{"id": "1", "key": "0" * 16, "status": "ok", "text": "t", "answer": "3"}]

    @settings(PATIENCE, max_examples=tries)
    @given(
        file=broken_files(ASKS, ["id", "image", "images", "question", "choices"]),
        old=st.none() | broken_files(answers, ["id"]),
    )
    def check(file: Broken, old: Broken | None) -> None:
        folder = fresh()
        path, out = file.write(folder / "q.jsonl"), folder / "q.answers.jsonl"
        if old is not None:
            old.write(out)
        before = out.read_bytes() if out.is_file() else b""
        options = ask_options("--batch", str(path), "--model", "openai:x@http://127.0.0.1:1/v1")
        try:
            code = run_ask(options)
        except UserError as error:
            check_sentence(error)
            assert (out.read_bytes() if out.is_file() else b"") == before
            return
        number, found = len(read_jsonl(path)), read_jsonl(out)
        own = found[-number:]
        assert len(own) == number and code == any(row["status"] == "error" for row in own)
        assert file.count in (None, number)
        asked.clear()
        assert run_ask(options) == code and not asked  # nothing is asked twice, and nothing is lost

    check()


@examples(20, 200)
def test_images(tries: int, images: Path) -> None:
    """Every way in which an image is opened comes to the same end."""
    good = [(images / "img" / name).read_bytes() for name in IMAGES if (images / "img" / name).is_file()]
    spliced = st.tuples(st.sampled_from(good), st.integers(0, 400), st.integers(0, 40), st.binary(max_size=12)).map(
        lambda part: part[0][: part[1]] + part[3] + part[0][part[1] + part[2] :]
    )

    @settings(PATIENCE, max_examples=tries)
    @given(source=spliced | st.binary(max_size=60) | TEXTS.map(str))
    def check(source: bytes | str) -> None:
        source = str(images / source) if isinstance(source, str) and source.startswith("img/") else source
        try:
            image = open_image(source)
        except ImageError as error:
            check_sentence(error)
            for read in (image_size, image_content):
                with pytest.raises(ImageError):
                    read(source)
            return
        assert image.mode == "RGB" and image_content(source)[0]
        assert image_size(source) in (image.size, image.size[::-1]) and isinstance(image, Image.Image)

    check()


def test_the_values_are_what_they_are_meant_to_be() -> None:
    """The texts that stand for a value reach the file as such."""
    assert json_text({"a": "@raw:0@"}).startswith('{"a": [[[[') and VALUES is not None
