"""What there is to show in a folder: files by their names, or else by what their first rows hold."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.paths import resolved, user_path
from configs.run_dir import read_record
from demo.viewer.completion_view import CompletionView
from demo.viewer.curve_view import CurveView
from demo.viewer.lines import LineTable
from demo.viewer.parquet import ParquetTable, file_signature, first_parquet_rows, in_order
from demo.viewer.problem_sets import ProblemIndex, ShownImages
from demo.viewer.sft_view import SftView
from demo.viewer.trace_view import TraceView
from demo.viewer.values import number_of
from demo.viewer.views import PlainView, ProblemView, View

MAX_DEPTH = 4
MAX_ENTRIES = 20_000
MAX_SOURCES = 200
HEAD = 2**20
"""Bytes of a file of which its kind is known."""
LEFT_OUT = ("checkpoint-", "images", "logs", "node_modules", "__pycache__")
WANTED = (
    "traces.jsonl, sft.jsonl or problems.jsonl of a build, log.jsonl or completions/*.parquet of a training run, or any other "
    ".jsonl or .parquet file"
)
ORDER = ("traces", "sft", "completions", "curves", "rows", "problems")


@dataclass
class Source:
    """A table of the opened folder: its address in the page, its files, and how its rows are shown."""

    name: str
    path: Path
    view: View

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(signature[0] for path in table_files(self.path) if (signature := file_signature(path))[0] > 0)


class Folder:
    """The opened folder, or the one file that was opened.

    Args:
        path: what is shown.
        further: problem sets and folders of images to which its rows may refer.

    Raises:
        ConfigError: there is no such path, or nothing in it that can be shown.
    """

    def __init__(self, path: str | Path, further: Sequence[str | Path] = ()) -> None:
        self.path = resolved(user_path(path))
        for one in (path, *further):
            if not user_path(one).exists():
                raise ConfigError(
                    f"{one} does not exist: give a folder of a build or a training run, or a file of rows."
                )
        self.root = self.path if self.path.is_dir() else self.path.parent
        sets = [resolved(user_path(one)) for one in further]
        files = list(find_files(self.path))
        sets += [file.parent for file in files if file.name == "problems.jsonl"] or self._sets_of_run()
        named = [one / "problems.jsonl" if one.is_dir() else one for one in sets]
        self.problems = ProblemIndex([file for file in dict.fromkeys(named) if file.is_file()])
        folders = [one if one.is_dir() else one.parent for one in sets]
        self.images = ShownImages([self.root, *dict.fromkeys(folders)])
        self.sources: dict[str, Source] = {}
        self.find()
        if not self.sources:
            raise ConfigError(f"{path} holds nothing to show: looked for {WANTED}.")

    def _sets_of_run(self) -> list[Path]:
        """Where the opened folder is a part of a run: the problem sets of that run, and those that a training run names."""
        found = []
        for folder in (self.root, self.root.parent):
            named = read_record(folder / "settings.json").get("settings")
            problems = named.get("problems") if isinstance(named, dict) else None
            if isinstance(problems, str) and (user_path(problems) / "problems.jsonl").is_file():
                found.append(resolved(user_path(problems)))
            if (folder / "stages").is_dir():
                found += [file.parent for file in find_files(folder / "problems") if file.name == "problems.jsonl"]
        return found

    def find(self) -> None:
        """Add what has come into the folder since."""
        for file in find_files(self.path):
            name = file.relative_to(self.root).as_posix()
            name = self.root.name if name == "." else name
            if name not in self.sources and len(self.sources) < MAX_SOURCES:
                view = view_of(file, self.problems)
                if view is not None:
                    self.sources[name] = Source(name, file, view)
        ordered = sorted(self.sources.items(), key=lambda one: (ORDER.index(one[1].view.name), one[0]))
        self.sources = dict(ordered)


def find_files(path: Path) -> Iterator[Path]:
    """The files of JSON Lines below a folder, and the folders with parquet files; or the file itself.

    Links to folders are not followed.
    """
    if path.is_file():
        yield path
        return
    seen = 0
    for folder, folders, files in os.walk(path):
        depth = len(Path(folder).relative_to(path).parts)
        folders[:] = sorted(one for one in folders if not one.startswith((".", *LEFT_OUT)) and depth < MAX_DEPTH)
        seen += len(folders) + len(files)
        if seen > MAX_ENTRIES:
            return
        yield from (Path(folder, one) for one in sorted(files) if one.endswith(".jsonl") and not one.startswith("."))
        if table_files(Path(folder)):
            yield Path(folder)


def table_files(path: Path) -> list[Path]:
    """The files of a table: the parquet files of a folder, or the file itself."""
    return in_order(path) if path.is_dir() else [path]


def view_of(path: Path, problems: ProblemIndex) -> View | None:
    """How the rows of a file, or of a folder of parquet files, are shown; None as long as there are none to tell by."""
    if path.is_dir() or path.suffix == ".parquet":
        return _view_of_parquet(path, problems)
    sample = list(first_rows(path))
    keys = set(sample[0]) if sample else set()
    if {"rounds", "problem_id", "status"} <= keys or (not sample and path.name == "traces.jsonl"):
        return TraceView(path, problems)
    if {"prompt", "completion"} <= keys or (not sample and path.name == "sft.jsonl"):
        return SftView(path, problems)
    if "step" in keys and not any(isinstance(value, str | list | dict) for value in sample[0].values()):
        return CurveView(path, problems)
    if not sample and (file_signature(path)[0] <= 0 or path.suffix != ".jsonl"):
        return None
    kind = ProblemView if {"question", "answer", "images"} <= keys else PlainView
    view = kind(path.parent, problems, sample)
    view.table = LineTable(path, view.entry)
    return view


def _view_of_parquet(path: Path, problems: ProblemIndex) -> View | None:
    """Files that are being written tell nothing yet; the first one that can be read counts."""
    sample = next((rows for file in table_files(path)[:20] if (rows := first_parquet_rows(file))), None)
    if sample is None:
        return None
    if {"completion", "advantage"} <= set(sample[0]):
        return CompletionView(path, problems)
    view = PlainView(path if path.is_dir() else path.parent, problems, sample)
    numbers = [key for key, value in sample[0].items() if number_of(value) is not None]
    wanted = {*view.facets, *numbers, "problem_id"}
    view.table = ParquetTable(
        lambda: table_files(path), lambda names: [one for one in names if one in wanted], view.entry
    )
    return view


def first_rows(file: Path, rows: int = 50) -> Iterator[dict[str, Any]]:
    """The first rows of a file of JSON Lines that can be read."""
    try:
        with open(file, "rb") as opened:
            lines = opened.read(HEAD).split(b"\n")[:rows]
    except OSError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row
