"""JSON Lines logs that survive an interruption, and files that are either complete or absent."""

import codecs
import contextlib
import glob
import json
import os
import shutil
import socket
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from configs.errors import UserError


def append_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows to a log and return when they are on disk (flush and fsync). A torn last line is repaired first."""
    if _is_torn(Path(path)):
        repair_jsonl(path)
    with open(path, "a", encoding="utf-8") as file:
        for row in rows:
            file.write(_line(row))
        file.flush()
        os.fsync(file.fileno())


def _line(row: dict[str, Any]) -> str:
    line = json.dumps(row, ensure_ascii=False)
    return (line if is_unicode(line) else json.dumps(row)) + "\n"


def is_unicode(text: str) -> bool:
    """False for a text with half of a surrogate pair, which JSON can express but UTF-8 files and tokenizers cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def repair_jsonl(path: str | Path) -> int:
    """Remove a torn last line (a write was interrupted, or the disk was full). Returns the number of bytes removed.

    Only for a log that this program appends to: nothing is ever removed from a file that a user wrote. A complete last row
    without a newline, as some editors leave it, is kept and gets one.
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
        if _is_object(tail[tail.rfind(b"\n") + 1 :]):
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
    """All rows of a file that a user may have written. Every line must be valid.

    Raises:
        UserError: as ``iter_jsonl``, or the file holds no rows.
    """
    rows = list(iter_jsonl(path))
    if not rows:
        raise UserError(f"{path} holds no rows: expected JSON Lines, one JSON object a line.")
    return rows


def iter_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows one by one, of which only one is in memory. The last line may lack its newline, but it must be complete.

    Raises:
        UserError: the file is missing or cannot be opened, or a line is not a JSON object (named by its number).
    """
    return (row for _, row in iter_placed(path))


def iter_placed(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As ``iter_jsonl``, each row with the offset of its line in bytes, at which ``row_at`` finds it again."""
    return _iter_rows(Path(path), may_be_torn=False)


def row_at(file: BinaryIO, offset: int) -> dict[str, Any]:
    """The row at an offset that ``iter_placed`` or ``iter_log_lines`` gave.

    Raises:
        ValueError: no JSON object begins there: the file was changed meanwhile.
    """
    file.seek(offset)
    row = json.loads(file.readline().removeprefix(codecs.BOM_UTF8))
    if not isinstance(row, dict):
        raise ValueError(f"no row at byte {offset}")
    return row


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """All rows of a log; see ``iter_log``. A log without rows is an empty list."""
    return list(iter_log(path))


def iter_log(path: str | Path) -> Iterator[dict[str, Any]]:
    """The complete rows of a log that this program itself appends to (``append_jsonl``, ``DurableLog``).

    A last line without newline that is no JSON object is an interrupted write: it is skipped, and the resumed run writes its
    row again. In a user's file the same line is a mistake: use ``iter_jsonl`` there.

    Raises:
        UserError: as ``iter_jsonl``, for the other lines.
    """
    return (row for _, row in _iter_rows(Path(path), may_be_torn=True))


def iter_log_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of each complete row of a log, unparsed, for callers to whom the head of a row tells enough.

    Lines that no process can have torn are not checked: ``parse_log_line`` does.
    """
    with open(path, "rb") as file:
        offset = 0
        for line in file:
            if (line.endswith(b"\n") or _is_object(line)) and not line.isspace():
                yield offset, line
            offset += len(line)


def parse_log_line(path: Path, offset: int, line: bytes) -> dict[str, Any]:
    """The row in a line of ``iter_log_lines``. Raises UserError as ``iter_log``."""
    try:
        row = json.loads(line.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError) as error:
        raise UserError(_not_json(path, _line_number(path, offset), error)) from None
    if not isinstance(row, dict):
        raise UserError(_no_object(path, _line_number(path, offset), row))
    return row


def text_of_json(quoted: bytes) -> str:
    """A string as it stands in JSON, quotes included; faster than the parser for one without escapes, as ids are."""
    return str(json.loads(quoted)) if b"\\" in quoted else quoted[1:-1].decode()


def _line_number(path: Path, offset: int) -> int:
    with open(path, "rb") as file:
        return file.read(offset).count(b"\n") + 1


def _not_json(path: Path, number: int, error: Exception) -> str:
    return f"{path}, line {number}: not valid JSON ({error}); fix or remove that line."


def _no_object(path: Path, number: int, row: object) -> str:
    return f"{path}, line {number}: expected a JSON object, found {type(row).__name__}."


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def refuse_utf16(path: Path, start: bytes) -> None:
    """Refuse a text file of which the first bytes are those of UTF-16, as Windows editors and PowerShell write it.

    Raises:
        UserError: with the command that converts it.
    """
    # "{" or "[" in two bytes: not every writer puts a byte order mark first.
    if len(start) > 2 and start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"{\0", b"[\0", b"\0{", b"\0[")):
        raise UserError(
            f"{path} is UTF-16 text, not UTF-8: save it as UTF-8 (iconv -f UTF-16 -t UTF-8 {path} > utf8{path.suffix})."
        )


def _iter_rows(path: Path, may_be_torn: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.exists():
        raise UserError(f"{path} does not exist: give the path of a JSON Lines file.")
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the path of a JSON Lines file.") from None
    with file:
        end = 0
        for number, line in enumerate(file, start=1):
            offset, end = end, end + len(line)
            torn = may_be_torn and not line.endswith(b"\n")
            if number == 1:
                if not may_be_torn:
                    refuse_utf16(path, line[:4])
                line = line.removeprefix(codecs.BOM_UTF8)  # some editors put one at the start of a file
                if not may_be_torn and line.lstrip().startswith(b"["):
                    raise UserError(
                        f"{path}, line 1: expected a JSON object, found the start of a JSON array: write JSON Lines, one object a line."
                    )
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                if torn:
                    return
                raise UserError(_not_json(path, number, error)) from None
            if not isinstance(row, dict):
                if torn:  # an interrupted write can end in valid JSON, but a row is always an object
                    return
                raise UserError(_no_object(path, number, row))
            yield offset, row


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write a whole file or nothing: write to a temporary file beside it, then rename."""
    _write_atomic(Path(path), (text,))


def write_rows_atomic(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """``write_text_atomic`` of JSON Lines; of the rows only one is in memory."""
    _write_atomic(Path(path), (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write_atomic(path: Path, parts: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(path) as temporary:
        # Half of a surrogate pair is written as \udXXX, which is also what JSON calls it.
        with open(temporary, "x", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)


_temporary: set[str] = set()  # temporary names that this process is using


@contextlib.contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A free path beside ``path``, for a file or a folder that is then renamed to ``path``.

    What is left there at the end of the block is removed. An interrupted process leaves it, so leftovers of dead processes of
    this machine are removed first: the name contains the machine and the process.
    """
    machine = f"{zlib.crc32(socket.gethostname().encode()):08x}"
    for old in path.parent.glob(f".{glob.escape(path.name)}.{machine}-*"):
        owner = old.name.split("-")[-2]
        if old.name not in _temporary and not (owner != str(os.getpid()) and _is_alive(int(owner))):
            _remove_leftover(old)
    name = f".{path.name}.{machine}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    _temporary.add(name)
    try:
        yield path.with_name(name)
    finally:
        _remove_leftover(path.with_name(name))
        _temporary.discard(name)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _remove_leftover(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def join_logs(logs: Iterable[Path], target: Path) -> None:
    """Write the rows of several logs one after the other into ``target``, which is then complete or as before.

    An interrupted write at the end of a log is removed there first.
    """
    with temporary_beside(target) as temporary:
        with open(temporary, "xb") as file:
            for log in logs:
                repair_jsonl(log)
                with open(log, "rb") as part:
                    shutil.copyfileobj(part, file, 2**20)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)


def write_json_atomic(path: str | Path, value: Any) -> None:
    """``write_text_atomic`` of indented JSON; NaN and infinity are refused, since no other reader knows them."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
