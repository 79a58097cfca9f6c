"""JSON Lines that survive a kill, and files that are either complete or absent."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlm.errors import UserError


def append_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows and return only when they are on disk (flush and fsync). A torn last line is repaired first."""
    if _is_torn(Path(path)):
        repair_jsonl(path)
    with open(path, "a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def repair_jsonl(path: str | Path) -> int:
    """Cut a torn last line (a kill or a full disk in the middle of a write). Returns the number of bytes removed.

    A last row that is whole and only lacks its newline, as editors leave it, is kept and gets one.
    """
    path = Path(path)
    if not _is_torn(path):
        return 0
    with open(path, "r+b") as file:
        size = keep = file.seek(0, os.SEEK_END)
        tail = b""
        while keep > 0 and b"\n" not in tail:  # from the end: the file may be large
            step = min(keep, 2**16)
            keep = file.seek(keep - step)
            tail = file.read(step) + tail
        keep += tail.rfind(b"\n") + 1
        try:
            whole = isinstance(json.loads(tail[tail.rfind(b"\n") + 1 :]), dict)
        except (ValueError, RecursionError):
            whole = False
        if whole:
            file.seek(size)
            file.write(b"\n")
            return 0
        file.truncate(keep)
        return size - keep


def _is_torn(path: Path) -> bool:
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read all complete rows; a torn last line is passed over. Raises as ``iter_jsonl`` does."""
    return list(iter_jsonl(path))


def iter_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The complete rows one by one, in the memory of one; a torn last line is passed over.

    Raises:
        UserError: no such file, or a complete line is not a JSON object (named by its number).
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: give the path of a JSON Lines file.")
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n"):  # a write that was cut short
                    return
                raise UserError(f"{path}, line {number}: not valid JSON ({error}); mend or remove that line.") from None
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}.")
            yield row


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write a whole file or nothing: to a neighbour first, then renamed over the target."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json_atomic(path: str | Path, value: Any) -> None:
    """``write_text_atomic`` of indented JSON; NaN and infinity are refused, since no other reader knows them."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
