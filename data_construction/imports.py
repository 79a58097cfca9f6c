"""Problem sets from data that users have: files of conversations or tables, and data sets of the hub or of a local clone."""

import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import track

from configs.errors import ImageError, UserError
from configs.jsonl import write_json_atomic
from configs.paths import user_path
from configs.run_dir import RunDir
from data_construction.conversations import conversation_of, read_conversation
from data_construction.data_files import load_split
from data_construction.imported_rows import BadRow, Columns, Item, is_missing, read_columns
from data_construction.row_files import numbered_rows
from data_construction.row_images import readable_image
from reward.judge import OPEN
from reward.usable import gradable_golds, problem_faults
from vlm.downloads import download_image
from vlm.drawing import content_name
from vlm.foreign_files import foreign_format
from vlm.images import image_content, png_bytes
from vlm.problem import Problem, write_problems

HUB = "hf:"
CONVERSATIONS = ("llava", "sharegpt", "messages")
ACCOUNT = "import.json"
SHOWN = 10
SHOWN_COLUMNS = 20
HUB_NAME = re.compile(r"\w[\w.-]*(?:/[\w.-]+)?")


@dataclass(frozen=True)
class ImportOptions:
    """How rows are read.

    Attributes:
        kind: a key of ``FORMATS``; None: whatever the file and each row look like.
        urls: images may be downloaded over http(s).
        images: a folder that relative image paths may start from, before the file's own.
        split, config: of a data set.
        limit: read only the first rows.
    """

    kind: str | None = None
    columns: Columns = field(default_factory=Columns)
    urls: bool = False
    images: Path | None = None
    split: str | None = None
    config: str | None = None
    limit: int | None = None


@dataclass
class ImportAccount:
    """What became of the rows: every one is used, or stands in ``left_out`` with its place and the reason.

    ``columns`` are those of the first row.
    """

    rows: int = 0
    used: int = 0
    columns: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)

    def drop(self, place: str, why: str, reason: str | None = None) -> None:
        why = why.encode("utf-8", "backslashreplace").decode()[:300]
        self.left_out.append((place, why))
        self.dropped[reason or why] += 1

    def sentences(self) -> Iterator[str]:
        """The first rows that were left out, then the number by reason."""
        for place, why in self.left_out[:SHOWN]:
            yield f"{place}: {why}"
        if len(self.left_out) > SHOWN:
            yield f"and {len(self.left_out) - SHOWN:,} more"
        reasons = self.dropped.most_common()
        for reason, count in reasons[:SHOWN]:
            yield f"{count:,} {'row' if count == 1 else 'rows'} dropped: {reason}"
        if rest := sum(count for _, count in reasons[SHOWN:]):
            yield f"{rest:,} more rows dropped for other reasons: see left_out.json"


def import_problems(source: str, out: str | Path, options: ImportOptions) -> tuple[Path, ImportAccount]:
    """Write the problem set ``out`` from a file, or from a data set (``hf:NAME``, ``hf:FOLDER``).

    Images keep their content; equal ones are stored once. ``import.json`` in ``out`` counts the rows, and ``left_out.json``
    names each that was dropped.

    Returns:
        The path of ``problems.jsonl``, and the account.

    Raises:
        UserError: the data cannot be read at all, no row of it is usable (the mistakes are printed before), or ``out`` holds
            something else.
    """
    folder, account = Path(out), ImportAccount()
    rows = itertools.islice(_placed_rows(source, options), options.limit)
    with RunDir(folder, "import", ("problems.jsonl",), lambda found: (found / ACCOUNT).exists()).held():
        (folder / "images").mkdir(exist_ok=True)
        console = Console(stderr=True)
        shown = track(rows, f"problems {folder.name}", console=console, transient=True, disable=not console.is_terminal)
        found = list(
            _problems(shown, source, StoredImages(folder, not source.startswith(HUB), options.urls), options, account)
        )
        problems = list(_only_usable(found, account))
        account.used = len(problems)
        for sentence in account.sentences():
            print(sentence, file=sys.stderr)
        if not problems:
            first = account.left_out[0][1] if account.left_out else "it has no rows"
            named = f" Its columns are {', '.join(account.columns)}." if account.columns else ""
            raise UserError(
                f"No row of {source} can be used ({first}).{named} The options --question, --answer and --image name columns."
            )
        write_json_atomic(folder / "left_out.json", [{"row": place, "why": why} for place, why in account.left_out])
        known = {"source": source, "rows": account.rows, "used": account.used, "dropped": dict(account.dropped)}
        write_json_atomic(folder / ACCOUNT, known)
        return write_problems(problems, folder), account


Row = tuple[str, Mapping[str, Any] | BadRow, Sequence[Path]]
"""Where a row stands, the row or why it is none, and the folders of its images."""


def _placed_rows(source: str, options: ImportOptions) -> Iterator[Row]:
    own = [options.images] if options.images else []
    if source.startswith(HUB):
        name = source.removeprefix(HUB)
        local = name if user_path(name).exists() else None
        if local is None and not HUB_NAME.fullmatch(name):
            raise UserError(f"There is no data set at {name}: check the path.")
        configs = [options.config] if options.config else None
        split = load_split(name, configs, options.split or "train", local, options.split)
        for number, (row, folders) in enumerate(split.rows, start=1):
            yield f"row {number}", row, [*own, *folders]
        return
    path = user_path(source)
    for place, found in numbered_rows(path, options.kind or foreign_format(path)):
        yield place, found, [*own, path.absolute().parent]


def _problems(
    rows: Iterable[Row], source: str, store: "StoredImages", options: ImportOptions, account: ImportAccount
) -> Iterator[tuple[str, Problem]]:
    """The problems of rows that can be read, each with its place; their images are written."""
    stem = (Path(source).stem or "import").removeprefix(HUB)
    ids: Counter[str] = Counter()
    for place, row, folders in rows:
        account.rows += 1
        if not account.columns and isinstance(row, Mapping):
            account.columns = [ascii(name)[1:-1][:40] for name in row if isinstance(name, str)][:SHOWN_COLUMNS]
        try:
            if isinstance(row, BadRow):
                raise row
            item = read_item(row, options)
            images = [store.add(image, folders) for image in item.images]
            meta = _with_stored(item.meta, store, folders)
            number = account.rows
            name = _free_id(item.id or f"{stem}-{number:06d}", ids)
            problem = Problem(
                id=name,
                source=item.source or stem,
                domain=item.domain,  # type: ignore[arg-type]
                images=images,
                question=item.question,
                choices=item.choices,
                answer=item.answer,
                decimal=item.decimal,  # type: ignore[arg-type]
                meta=meta,
            )
            yield place, problem
        except BadRow as error:
            account.drop(place, str(error))
        except ImageError as error:
            # The sentence names the image, so it would be a reason of its own for every row.
            account.drop(
                place, str(error), "an image of it cannot be read (paths start from the file's folder or --images)"
            )
        except ValidationError as error:
            first = error.errors()[0]
            account.drop(place, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        except RecursionError:
            account.drop(place, "it is nested too deeply")


def read_item(row: Mapping[str, Any], options: ImportOptions) -> Item:
    """The problem of a row, by the format that the user named or by what the row looks like.

    Raises:
        BadRow: why it is none.
    """
    # A table may have a column of messages beside its question.
    has_question = options.columns.question is not None or not is_missing(row.get("question"))
    turns = conversation_of(row) if options.kind in CONVERSATIONS or not has_question else None
    if turns is not None:
        return read_conversation(row, turns, options.columns)
    if options.kind in CONVERSATIONS:
        raise BadRow("it has no conversation ('conversations' or 'messages')")
    return read_columns(row, options.columns)


def _free_id(name: str, ids: Counter[str]) -> str:
    """The id, with a number where rows before it have the same: many sets name the image and not the question."""
    ids[name] += 1
    if ids[name] == 1:
        return name
    return _free_id(f"{name}-{ids[name]}", ids)


def _with_stored(meta: Mapping[str, Any], store: "StoredImages", folders: Sequence[Path]) -> dict[str, Any]:
    """``meta`` with the image of its counterfactual in the set."""
    other = meta.get("counterfactual")
    if not isinstance(other, Mapping) or "image" not in other:
        return dict(meta)
    return {**meta, "counterfactual": {**other, "image": store.add(other["image"], folders)}}


@dataclass(frozen=True)
class StoredImages:
    """The images of a problem set that is being written.

    Attributes:
        anywhere: a relative path may leave the folders of the data, because the user chose the file.
        urls: images may be downloaded.
    """

    folder: Path
    anywhere: bool
    urls: bool

    def add(self, image: Any, folders: Sequence[Path]) -> str:
        """The path of an image in the set; it is written unless an equal one is there.

        Raises:
            BadRow: there is none, or it is a URL and may not be downloaded.
            ImageError: it cannot be read.
        """
        stored: Any
        if isinstance(image, str) and image.strip().lower().startswith(("http://", "https://")):
            if not self.urls:
                raise BadRow("its image is a URL: give --urls to download it")
            stored = download_image(image.strip())
        else:
            stored = readable_image(image, folders, self.anywhere)
        if stored is None:
            raise BadRow("it has no image")
        content, kind = image_content(stored if isinstance(stored, str | bytes | Path) else png_bytes(stored))
        file = f"images/{content_name(content, kind)}"
        if not (self.folder / file).exists():
            (self.folder / file).write_bytes(content)
        return file


def _only_usable(found: Sequence[tuple[str, Problem]], account: ImportAccount) -> Iterator[Problem]:
    """The problems that can be asked and graded. An open one is kept, since its judge is named when it is used."""
    golds = gradable_golds([problem for _, problem in found if problem.domain != OPEN])
    for place, problem in found:
        faults = problem_faults(problem, [], golds) if problem.domain != OPEN else iter(())
        fault = next(faults, None)
        if fault is None:
            yield problem
        else:
            account.drop(place, ": ".join(filter(None, fault)), fault[0])
