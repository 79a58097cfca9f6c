"""The rows of one split of a data set: from the hub, or from a file or folder on disk.

A folder is read here and not by ``datasets.load_dataset``, which finds splits by words in paths: MMMU's dev joins validation, a
folder without such words becomes "train", and a README with several configs is refused. Files are read in place, without a copy
in the cache, and images stay undecoded (``{"bytes", "path"}``), so that a broken one costs its row and not the run.
"""

import contextlib
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from configs.api_key import redact_tokens
from configs.errors import UserError
from configs.front_matter import read_front_matter
from configs.jsonl import iter_jsonl
from configs.paths import user_path
from vlm.hub import cache_alone, hub_remedy, why_unreachable

KINDS = (".parquet", ".arrow", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Formats of data files. Of the files of one split, only those of the first kind count: others repeat its rows or describe them."""
NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
SPLIT_WORDS = ("non_image", "testmini", "validation", "valid", "val", "dev", "train", "training", "test")
SAME_SPLIT = {"val": "validation", "valid": "validation", "training": "train"}
SHARD = re.compile(r"-\d{5}-of-\d{5}(?:-[0-9a-f]{8,})?$")
UNNAMED = re.compile(r"(?:data|part|shard|chunk|file|default|rows)?[-_]?\d*", re.IGNORECASE)
BATCH = 64  # rows in memory at once: each may hold images
MAX_FIELD = 2**26  # characters of a CSV field, which may be an image as base64 text

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One data file, or one folder written by ``Dataset.save_to_disk``. ``split`` None: nothing names one."""

    path: Path
    config: str = ""
    split: str | None = None


@dataclass(frozen=True)
class SplitRows:
    """The rows of a split, each with the folders that its image paths may be relative to (none for a hub data set)."""

    split: str | None
    configs: list[str]
    files: list[str]
    rows: Iterator[tuple[Row, list[Path]]]


def load_split(
    hub: str, configs: Sequence[str] | None, wanted: str, data: str | None = None, split: str | None = None
) -> SplitRows:
    """The rows of a split.

    Args:
        hub: the published data set; ``data``: another hub name, or a local file or folder, to read instead.
        configs: the configs that hold the data set; empty means all of them, None that there is only one.
        wanted: the split to read (for a benchmark, the one that it reports); ``split``: another one to take.

    Raises:
        UserError: nothing there, no such split or config (those that exist are named), or data that cannot be read.
    """
    source = data or hub
    root = user_path(source)
    if root.exists():
        parts = _choose_parts(_find_parts(root), configs, wanted, split, source, root)
        named = sorted({part.config for part in parts if part.config})
        files = [str(part.path.relative_to(root)) if part.path != root else root.name for part in parts]
        return SplitRows(parts[0].split, named, files, _local_rows(parts, root))
    if data is not None and not re.fullmatch(r"\w[\w.-]*(?:/[\w.-]+)?", data):  # no name that the hub could have
        raise UserError(f"The data set {source} cannot be loaded: there is no such file or folder. Check the path.")
    return SplitRows(split or wanted, list(configs or ()), [], _hub_rows(source, configs, split or wanted))


# Which files


def _find_parts(root: Path) -> list[Part]:
    if root.is_file():
        if root.suffix.lower() not in KINDS:
            raise UserError(f"{root} is no data file: give one of {', '.join(KINDS)}, or a folder.")
        return [Part(root)]
    if (root / "state.json").is_file():
        return [Part(root)]
    return _saved_parts(root) or _declared_parts(root) or _named_parts(root)


def _saved_parts(root: Path) -> list[Part]:
    """Folders written by ``save_to_disk``: of a ``DatasetDict``, or one for each config or split."""
    parts = []
    for state in sorted([*root.glob("*/state.json"), *root.glob("*/*/state.json")]):
        folder, (*above, name) = state.parent, state.parent.relative_to(root).parts
        if (folder.parent / "dataset_dict.json").is_file():
            parts.append(Part(folder, "/".join(above), _same_split(name)))
        elif split := _split_word(name):
            parts.append(Part(folder, "/".join(above), split))
        else:
            parts.append(Part(folder, "/".join([*above, name])))
    return parts


def _declared_parts(root: Path) -> list[Part]:
    """What the ``configs:`` of the README's header declare; a pattern without a split takes the split of each file's name."""
    parts = []
    for config in _readme_configs(root / "README.md"):
        base, files = str(config.get("data_dir") or "."), config.get("data_files")
        if isinstance(files, Mapping) and "path" not in files:
            files = [{"split": split, "path": path} for split, path in files.items()]
        for entry in files if isinstance(files, list) else [files]:
            named = entry if isinstance(entry, Mapping) else {"path": entry}
            patterns = named.get("path")
            for pattern in patterns if isinstance(patterns, list) else [patterns]:
                for path in _matching(root, base, pattern):
                    split = named.get("split")
                    found = _same_split(str(split)) if split is not None else _from_path(root, path).split
                    parts.append(Part(path, str(config.get("config_name", "default")), found))
    return list(dict.fromkeys(parts))


def _readme_configs(readme: Path) -> list[Mapping[str, Any]]:
    configs = read_front_matter(readme).get("configs")
    return [config for config in configs if isinstance(config, Mapping)] if isinstance(configs, list) else []


def _matching(root: Path, base: str, pattern: Any) -> list[Path]:
    """The data files of a README's pattern. It cannot leave the folder."""
    if not isinstance(pattern, str) or not pattern:
        return []
    whole = PurePosixPath(base) / pattern
    if whole.is_absolute() or ".." in whole.parts:
        return []
    if (root / whole).is_dir():
        whole = whole / "**/*"
    with contextlib.suppress(ValueError):  # a pattern that is none
        return sorted(path for path in root.glob(str(whole)) if _is_data(path))
    return []


def _named_parts(root: Path) -> list[Part]:
    """Data files by their names: ``data/validation-00000-of-00001.parquet``, ``Art/dev.jsonl``, ``default/test/0000.parquet``."""
    found = sorted(path for path in root.rglob("*") if _is_data(path))
    parts = [_from_path(root, path) for path in found if not _is_hidden(path.relative_to(root))]
    best = {(part.config, part.split): len(KINDS) for part in parts}
    for part in parts:
        best[part.config, part.split] = min(best[part.config, part.split], KINDS.index(part.path.suffix.lower()))
    return [part for part in parts if KINDS.index(part.path.suffix.lower()) == best[part.config, part.split]]


def _is_data(path: Path) -> bool:
    return path.suffix.lower() in KINDS and path.name not in NO_ROWS and path.is_file()


def _is_hidden(path: Path) -> bool:
    return any(name.startswith(".") for name in path.parts)


def _from_path(root: Path, path: Path) -> Part:
    """The config and the split that a file's path names."""
    folders = [name for name in path.relative_to(root).parts[:-1] if name != "data"]
    stem = SHARD.sub("", path.stem)
    split = _split_word(stem)
    if split is None and stem != path.stem and not UNNAMED.fullmatch(stem):
        split = stem  # "image-00000-of-00001": any name before the number of the shard is that of a split
    if split is None and (named := [name for name in folders if _split_word(name, whole=True)]):
        split = _split_word(named[-1])
        folders.remove(named[-1])
    return Part(path, "/".join(folders), split)


def _split_word(name: str, whole: bool = False) -> str | None:
    """The split that a name is (``whole``) or contains as a word; longer words count first, since non_image is not image."""
    for word in (*SPLIT_WORDS, "image"):
        if name.lower() == word or (
            not whole and word != "image" and re.search(rf"(?<![a-z0-9]){word}(?![a-z0-9])", name.lower())
        ):
            return _same_split(word)
    return None


def _same_split(name: str) -> str:
    return SAME_SPLIT.get(name, name)


def _choose_parts(
    parts: list[Part], configs: Sequence[str] | None, wanted: str, split: str | None, source: str, root: Path
) -> list[Part]:
    if not parts:
        raise UserError(f"{source} holds no data files ({', '.join(KINDS)}): check the folder.")
    parts = _of_configs(parts, configs, source)
    target = _same_split(split or wanted)
    chosen = [part for part in parts if part.split == target]
    names = {part.split for part in parts}
    if (
        not chosen and split is None and names == {None}
    ):  # a file or folder that the user chose, and nothing to choose from
        chosen = parts
    if not chosen and names == {None}:
        raise UserError(f"{source} has no split '{split}': nothing in it names a split, so leave out --split.")
    if not chosen:
        known = ", ".join(sorted(name for name in names if name))
        rest = " and files without a split's name" if None in names else ""
        raise UserError(f"{source} has no split '{target}', only {known}{rest}: choose one with --split NAME.")
    for part in chosen:
        _refuse_pointer(part.path)
    return chosen


def _of_configs(parts: list[Part], configs: Sequence[str] | None, source: str) -> list[Part]:
    names = sorted({part.config for part in parts})
    if configs:
        if named := [part for part in parts if part.config in configs]:
            return named
        if len(names) > 1:
            raise UserError(
                f"{source} has no config '{configs[0]}', only {', '.join(filter(None, names))}: give the folder or file of one."
            )
    if configs is None and "default" in names:
        return [part for part in parts if part.config == "default"]
    return parts


def _refuse_pointer(path: Path) -> None:
    """Refuse a file of a clone that was made without Git LFS."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                raise UserError(f"{path} is a Git LFS pointer and not the data: run `git lfs pull` in the clone.")


# Their rows


def _local_rows(parts: Sequence[Part], root: Path) -> Iterator[tuple[Row, list[Path]]]:
    folder = root if root.is_dir() else root.parent
    for part in parts:
        beside = part.path if part.path.is_dir() else part.path.parent
        folders = list(dict.fromkeys([beside, folder]))
        try:
            for row in _rows_of(part.path):
                yield row, folders
        except UserError:
            raise
        except Exception as error:  # the readers raise errors of many libraries, without a common base class
            raise UserError(f"{part.path} cannot be read ({_first_line(error)}): download it again.") from None


def _rows_of(path: Path) -> Iterator[Row]:
    if path.is_dir():
        import datasets

        for table in datasets.load_from_disk(str(path)).with_format("arrow").iter(BATCH):
            yield from table.to_pylist()
        return
    match path.suffix.lower():
        case ".parquet":
            yield from parquet_rows(path)
        case ".arrow":
            yield from _arrow_rows(path)
        case ".csv" | ".tsv" as kind:
            csv.field_size_limit(MAX_FIELD)
            with path.open(encoding="utf-8-sig", newline="") as text:
                yield from csv.DictReader(text, delimiter="\t" if kind == ".tsv" else ",")
        case ".json":
            yield from _json_rows(path)
        case _:
            yield from iter_jsonl(path)


def parquet_rows(path: Path) -> Iterator[Row]:
    """The rows of a Parquet file, a few of them in memory at once."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(BATCH):
            yield from batch.to_pylist()


def _arrow_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as data:
        try:
            batches: Iterator[Any] = iter(pa.ipc.open_stream(data))
        except pa.ArrowInvalid:  # the other of Arrow's two formats
            file = pa.ipc.open_file(data)
            batches = map(file.get_batch, range(file.num_record_batches))
        for batch in batches:
            yield from batch.to_pylist()


def _json_rows(path: Path) -> Iterator[Row]:
    """A list of rows, an object that holds one, an object of rows by their id, or JSON Lines under this name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError:
        yield from iter_jsonl(path)
        return
    if isinstance(content, Mapping):
        lists = [value for value in content.values() if isinstance(value, list) and value]
        by_id = [{"id": key, **value} for key, value in content.items() if isinstance(value, Mapping)]
        content = by_id if len(by_id) == len(content) else lists[0] if len(lists) == 1 else [content]
    for row in content if isinstance(content, list) else ():
        if not isinstance(row, Mapping):
            raise UserError(f"{path} holds no rows: expected a list of JSON objects.")
        yield row


def _hub_rows(source: str, configs: Sequence[str] | None, split: str) -> Iterator[tuple[Row, list[Path]]]:
    import datasets

    unreachable = why_unreachable()
    try:
        with cache_alone(unreachable):
            if configs is None:
                parts = [datasets.load_dataset(source, split=split)]
            else:
                names = configs or datasets.get_dataset_config_names(source)
                parts = [datasets.load_dataset(source, config, split=split) for config in names]
    except Exception as error:  # the loaders raise errors of many libraries, without a common base class
        raise UserError(
            f"The data set {source} cannot be loaded ({_first_line(error)}): {hub_remedy(unreachable)}."
        ) from None
    for part in parts:
        for table in part.with_format("arrow").iter(BATCH):
            for row in table.to_pylist():
                yield row, []


def _first_line(error: Exception) -> str:
    return (redact_tokens(str(error)).strip().splitlines() or [type(error).__name__])[0][:300]
