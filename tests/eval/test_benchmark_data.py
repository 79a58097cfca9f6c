"""Which rows ``--data`` reads: small data sets in the layouts of the hub, of ``datasets`` and of people's folders."""

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from configs.errors import UserError
from data_construction.data_files import load_split
from eval.benchmarks import describe_account, prepare_benchmark, read_account
from tests.eval.test_benchmarks import png
from vlm.images import open_image

IMAGE = datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()})


def rows(split: str, n: int = 2) -> datasets.Dataset:
    """Rows whose ids name their split."""
    return datasets.Dataset.from_dict(
        {"id": [f"{split}-{number}" for number in range(n)], "image": [png() for _ in range(n)]}, features=IMAGE
    )


def files(*names: str) -> Callable[[Path], Path]:
    """A folder with these files, each with rows of the split that its name says, after a colon if the path does not."""

    def write(folder: Path) -> Path:
        for entry in names:
            name, _, split = entry.partition(":")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".parquet":
                rows(split).to_parquet(path)
            elif path.suffix == ".jsonl":
                path.write_text("".join(json.dumps({"id": f"{split}-{n}"}) + "\n" for n in range(2)))
            elif path.suffix == ".json":
                path.write_text(json.dumps([{"id": f"{split}-{n}"} for n in range(2)]))
            else:
                path.write_text(f"id\n{split}-0\n{split}-1\n")
        return folder

    return write


def readme(header: str, *names: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        files(*names)(folder)
        (folder / "README.md").write_text(f"---\nlicense: mit\n{header}\n---\n# A benchmark\n")
        return folder

    return write


def saved_dict(*splits: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        datasets.DatasetDict({split: rows(split) for split in splits}).save_to_disk(str(folder))
        return folder

    return write


def saved_single(folder: Path) -> Path:
    rows("its").save_to_disk(str(folder))
    return folder


def inside(make: Callable[[Path], Path], *path: str) -> Callable[[Path], Path]:
    return lambda folder: make(folder).joinpath(*path)


def arrow_file(folder: Path) -> Path:
    rows("its").save_to_disk(str(folder / "saved"))
    (found,) = (folder / "saved").glob("*.arrow")
    return found.rename(folder / "rows.arrow")


def saved_configs(folder: Path) -> Path:
    for name in ("Art", "Law"):
        datasets.DatasetDict({"dev": rows(f"{name}-dev"), "validation": rows(name)}).save_to_disk(str(folder / name))
    return folder


SHARDS = ("train-00000-of-00001.parquet:train", "validation-00000-of-00001.parquet:validation")
TEST = "test-00000-of-00001-0a1b2c3d4e5f6789.parquet:test"
SUBJECTS = [f"{subject}/{split}-00000-of-00001.parquet:{subject}-{split}" for subject in ("Art", "Law") for split in ("dev", "validation", "test")]  # fmt: skip
PRO = [
    f"{config}/test-00000-of-00001.parquet:{config[:5]}"
    for config in ("standard (10 options)", "standard (4 options)", "vision")
]
PER_SUBJECT = "configs:\n" + "".join(
    f"- config_name: {subject}\n  data_files:\n"
    + "".join(f"  - split: {split}\n    path: {subject}/{split}-*\n" for split in ("dev", "validation", "test"))
    for subject in ("Art", "Law")
)
ONE_CONFIG = "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: parts/a*\n  - split: test\n    path: [parts/b.parquet, parts/c.parquet]\n"
PLAIN = "configs:\n- config_name: default\n  data_files: data/*.parquet\n"

# name: (layout, configs, wanted split, the beginnings of the ids that must be read, the split that is named)
LAYOUTS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...] | None, str, list[str], str | None]] = {
    "clone, files in the root": (files(*SHARDS, TEST), None, "test", ["test"], "test"),
    "clone, files in data": (files(*(f"data/{name}" for name in (*SHARDS, TEST))), None, "test", ["test"], "test"),
    "plain names": (files("train.parquet:train", "test.parquet:test"), None, "test", ["test"], "test"),
    "names with the benchmark": (files("m3cot_train.jsonl:train", "m3cot_test.jsonl:test"), None, "test", ["test"], "test"),
    "names of a cache": (files("m3cot-train.parquet:train", "m3cot-test-00000-of-00002.parquet:test"), None, "test", ["test"], "test"),
    "folders for splits": (files("train/0000.parquet:train", "test/0000.parquet:test", "test/0001.parquet:test2"), None, "test", ["test", "test2"], "test"),
    "converted branch": (files("default/train/0000.parquet:train", "default/test/0000.parquet:test"), None, "test", ["test"], "test"),
    "several shards": (files("data/test-00000-of-00002.parquet:a", "data/test-00001-of-00002.parquet:b", "data/train-00000-of-00001.parquet:x"), None, "test", ["a", "b"], "test"),
    "val is validation": (files("val.jsonl:val", "train.jsonl:train"), None, "validation", ["val"], "validation"),
    "subjects without a readme": (files(*SUBJECTS), (), "validation", ["Art-validation", "Law-validation"], "validation"),
    "subjects of a readme": (readme(PER_SUBJECT, *SUBJECTS), (), "validation", ["Art-validation", "Law-validation"], "validation"),
    "subjects, saved": (saved_configs, (), "validation", ["Art", "Law"], "validation"),
    "testmini is not test": (files("data/test-00000-of-00001.parquet:test", "data/testmini-00000-of-00001.parquet:mini"), None, "testmini", ["mini"], "testmini"),
    "test is not testmini": (files("data/test-00000-of-00001.parquet:test", "data/testmini-00000-of-00001.parquet:mini"), None, "test", ["test"], "test"),
    "image is not non_image": (files("data/image-00000-of-00001.parquet:image", "data/non_image-00000-of-00001.parquet:non"), None, "image", ["image"], "image"),
    "image is not non_image, plain": (files("image.parquet:image", "non_image.parquet:non"), None, "image", ["image"], "image"),
    "annotations beside the rows": (files("data/testmini-00000-of-00001.parquet:mini", "annot_testmini.json:annotation", "source.json:x"), None, "testmini", ["mini"], "testmini"),
    "a named config": (files(*PRO), ("vision",), "test", ["visio"], "test"),
    "the folder of that config": (inside(files(*PRO), "vision"), ("vision",), "test", ["visio"], "test"),
    "readme with one config": (readme(ONE_CONFIG, "parts/a1.parquet:train", "parts/b.parquet:b", "parts/c.parquet:c"), None, "test", ["b", "c"], "test"),
    "readme without splits": (readme(PLAIN, *(f"data/{name}" for name in (*SHARDS, TEST))), None, "test", ["test"], "test"),
    "readme of other files": (readme(ONE_CONFIG, *SHARDS, TEST), None, "test", ["test"], "test"),
    "broken readme": (readme("configs: [: {", *SHARDS, TEST), None, "test", ["test"], "test"),
    "DatasetDict": (saved_dict("train", "validation", "test"), None, "test", ["test"], "test"),
    "one Dataset": (saved_single, None, "test", ["its"], None),
    "one Dataset of a DatasetDict": (inside(saved_dict("train", "test"), "train"), None, "test", ["train"], None),
    "one parquet file": (inside(files("x.parquet:its"), "x.parquet"), None, "test", ["its"], None),
    "one file of another split": (inside(files(*SHARDS), "train-00000-of-00001.parquet"), None, "test", ["train"], None),
    "one json file": (inside(files("rows.json:its"), "rows.json"), None, "test", ["its"], None),
    "one jsonl file": (inside(files("rows.jsonl:its"), "rows.jsonl"), None, "test", ["its"], None),
    "one csv file": (inside(files("rows.csv:its"), "rows.csv"), None, "test", ["its"], None),
    "one arrow file": (arrow_file, None, "test", ["its"], None),
    "a folder without splits": (files("rows.jsonl:its"), None, "testmini", ["its"], None),
    "subjects without splits": (files("Art.jsonl:art", "Law.jsonl:law"), (), "validation", ["art", "law"], None),
}  # fmt: skip
# ruff: noqa: E501


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_split_of_the_benchmark_is_read(layout: str, tmp_path: Path) -> None:
    make, configs, wanted, expected, named = LAYOUTS[layout]
    found = load_split("x/y", configs, wanted, str(make(tmp_path / "set")))
    assert sorted({str(row["id"]).rpartition("-")[0] for row, _ in found.rows}) == expected
    assert found.split == named and found.files


@pytest.mark.parametrize(
    ("make", "configs", "wanted", "split", "sentence"),
    [
        (files(*SHARDS), None, "test", None, r"has no split 'test', only train, validation: choose one with --split NAME"),
        (saved_dict("train", "dev"), None, "validation", None, "no split 'validation', only dev, train"),
        (readme(PER_SUBJECT, *SUBJECTS), (), "testmini", None, "only dev, test, validation"),
        (files(*SHARDS, "rows.jsonl:x"), None, "test", None, "only train, validation and files without a split's name"),
        (files("rows.jsonl:x"), None, "test", "train", "no split 'train': nothing in it names a split, so leave out --split"),
        (files(*PRO), ("big",), "test", None, r"no config 'big', only standard \(10 options\), standard \(4 options\), vision"),
        (files("notes.txt:x"), None, "test", None, "holds no data files"),
        (inside(files("notes.txt:x"), "notes.txt"), None, "test", None, "is no data file: give one of .parquet"),
        (inside(files("a.jsonl:x"), "b.jsonl"), None, "test", None, "there is no such file or folder"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_said(
    make: Callable[[Path], Path],
    configs: tuple[str, ...] | None,
    wanted: str,
    split: str,
    sentence: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=sentence):
        load_split("x/y", configs, wanted, str(make(tmp_path / "set")), split)


@pytest.mark.parametrize("split", ["train", "validation", "val"])
def test_another_split_can_be_chosen(split: str, tmp_path: Path) -> None:
    found = load_split("x/y", None, "test", str(files(*SHARDS)(tmp_path)), split)
    assert found.split == {"val": "validation"}.get(split, split)
    assert {str(row["id"])[:5] for row, _ in found.rows} == {found.split[:5]}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("test.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer and not the data: run `git lfs pull`"),
        ("test.parquet", b"PAR1 and no more", "test.parquet cannot be read"),
        ("test.arrow", b"ARROW1 no", "test.arrow cannot be read"),
        ("test.jsonl", b'{"id": 1}\n{"id":', "test.jsonl, line 2: not valid JSON"),
        ("test.json", b'["a"]', "holds no rows"),
    ],
)  # fmt: skip
def test_damaged_files_are_said(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        list(load_split("x/y", None, "test", str(tmp_path)).rows)


@pytest.mark.parametrize(
    "text",
    ['[{"id": 1}, {"id": 2}]', '{"data": [{"id": 1}, {"id": 2}]}', '{"1": {"x": 0}, "2": {"x": 0}}', '{"id": 1}\n{"id": 2}\n', '{"version": "1", "rows": [{"id": 1}, {"id": 2}]}'],
)  # fmt: skip
def test_forms_of_json(text: str, tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text(text)
    assert [str(row["id"]) for row, _ in load_split("x/y", None, "test", str(tmp_path)).rows] == ["1", "2"]


@pytest.mark.parametrize("header", ["\n" * 300_000, "configs: " + "[" * 50_000, "- " * 50_000])
def test_a_readme_of_any_content_is_read_in_bounded_time(header: str, tmp_path: Path) -> None:
    folder = files("test.jsonl:own")(tmp_path / "set")
    (folder / "README.md").write_text("---\n" + header)
    started = time.monotonic()
    assert load_split("x/y", None, "test", str(folder)).split == "test" and time.monotonic() - started < 20


def test_a_readme_cannot_reach_other_folders(tmp_path: Path) -> None:
    files("secret.jsonl:secret")(tmp_path)
    for pattern in ("../secret.jsonl", str(tmp_path / "secret.jsonl")):
        header = f"configs:\n- config_name: default\n  data_files:\n  - split: test\n    path: '{pattern}'\n"
        folder = readme(header, "data/test.jsonl:own")(tmp_path / "set")
        assert [row["id"] for row, _ in load_split("x/y", None, "test", str(folder)).rows] == ["own-0", "own-1"]


VISION = {"options": "['a','b']", "answer": "A", "subject": "x"}


def vision_set(folder: Path, images: list[Any], column: str = "image", name: str = "test.jsonl") -> Path:
    lines = [json.dumps({**VISION, "id": str(number), column: image}) for number, image in enumerate(images)]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "a b.png", "pics/a (1).png", "a[1].png", "a+b.png", "a&b.png", "it's.png", 'a "b".png', "für 图片.png", "a.tiff", "a.TIF",
        "a#1%20.jpeg", "a,b;c=d~!@$^.webp", "x" * 200 + ".png", "a.b.c.bmp", "no-ending", "cafe\u0301.png",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["", "images/"])
def test_images_by_any_file_name(name: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / place / name).parent.mkdir(parents=True)
    Image.new("RGB", (6, 4), "red").save(folder / place / name, None if "." in name else "PNG")
    problems, left_out = prepare_benchmark("mmmu_pro_vision", tmp_path / "out", str(vision_set(folder, [name])))
    assert len(problems) == 1 and not left_out and open_image(problems[0].images[0]).size == (6, 4)


def as_base64(prefix: str = "") -> str:
    return prefix + base64.b64encode(png()["bytes"]).decode()


@pytest.mark.parametrize(
    ("image", "readable"),
    [
        (as_base64(), True),
        (as_base64("data:image/png;base64,"), True),
        (base64.encodebytes(png()["bytes"]).decode(), True),
        (base64.urlsafe_b64encode(png()["bytes"]).decode().rstrip("="), True),
        ({"bytes": None, "path": "here.png"}, True),
        (["here.png", "here.png"], True),
        ("sub/../here.png", True),
        ("missing.png", False),
        ("../outside.png", False),
        ("/etc/hostname", False),
        ("", False),
        (None, False),
        (7, False),
        ({"bytes": None, "path": None}, False),
        ("A" * 60, False),
        ("x" * 5000, False),
        ("nul\0.png", False),
        ("https://example.com/a.png", False),
    ],
)  # fmt: skip
def test_images_in_every_form(image: Any, readable: bool, tmp_path: Path) -> None:
    folder = vision_set(tmp_path / "set", ["here.png", image])
    for file in ("here.png", "../outside.png"):
        Image.new("RGB", (6, 4), "red").save(folder / file)
    problems, left_out = prepare_benchmark("mmmu_pro_vision", tmp_path / "out", str(folder))
    assert len(problems) == 1 + readable and sum(left_out.values()) == 1 - readable


def test_images_are_found_from_the_file_that_names_them(tmp_path: Path) -> None:
    folder = vision_set(tmp_path / "set", ["../pics/a.png"], name="annotations/test.jsonl")
    vision_set(folder, ["b.png"], "file_name", "annotations/val/metadata.jsonl")
    (folder / "pics").mkdir()
    for file in ("pics/a.png", "annotations/val/b.png"):
        Image.new("RGB", (6, 4), "red").save(folder / file)
    assert prepare_benchmark("mmmu_pro_vision", tmp_path / "a", str(folder))[1] == {}
    assert prepare_benchmark("mmmu_pro_vision", tmp_path / "b", str(folder), split="validation")[1] == {}


def test_a_path_of_a_hub_data_set_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (6, 4), "red").save(tmp_path / "mine.png")
    monkeypatch.chdir(tmp_path)
    hub = datasets.Dataset.from_list(
        [{**VISION, "id": "1", "image": str(tmp_path / "mine.png")}, {**VISION, "id": "2", "image": "mine.png"}]
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub)
    with pytest.raises(UserError, match="No row of x/y can be asked"):
        prepare_benchmark("mmmu_pro_vision", tmp_path / "out", "x/y")


def test_the_account_of_the_rows(tmp_path: Path) -> None:
    folder = vision_set(tmp_path / "set", [as_base64(), "a.png", "b.png", as_base64(), as_base64()])
    prepare_benchmark("mmmu_pro_vision", tmp_path / "out", str(folder), limit=4)
    account = read_account(tmp_path / "out")
    assert account == {
        "name": "mmmu_pro_vision", "data": str(folder), "split": "test", "configs": [], "files": ["test.jsonl"], "limit": 4,
        "rows": 4, "asked": 2, "dropped": {"an image of it cannot be read": 2},
    }  # fmt: skip
    assert list(describe_account(account)) == [
        f"mmmu_pro_vision: the first 4 rows of split test of {folder} (test.jsonl): 4 rows read, 2 can be asked, 2 dropped",
        "2 rows dropped: an image of it cannot be read",
    ]
    many = account | {"dropped": {f"reason {number}": 1 for number in range(30)}, "split": None, "limit": None}
    lines = list(describe_account(many))
    assert (
        "the only split (no name) of" in lines[0]
        and lines[-1] == "20 more rows dropped for other reasons: see left_out.json"
    )
    assert read_account(tmp_path) is None and os.listdir(tmp_path / "out")
