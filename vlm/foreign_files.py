"""Files of rows in other formats: what a file is, and the command that makes a problem set of it."""

import re
from pathlib import Path

from configs.errors import UserError
from configs.jsonl import refuse_utf16

FORMATS = {
    "llava": "a file of LLaVA conversations",
    "sharegpt": "a file of ShareGPT conversations",
    "messages": "a file of chat messages",
    "json": "a JSON array",
    "csv": "a table of text (CSV)",
    "parquet": "a Parquet file",
}
"""The formats that ``reflection-v problems --from`` reads."""
HEAD = 2**18  # bytes that are looked at: a first row may hold an image as text
_ARRAY = re.compile(rb"\[\s{0,99}\{")
_CONVERSATION = re.compile(rb'(?<!\\)"(?:conversations?|texts)"\s{0,9}:\s{0,9}\[')
_MESSAGES = re.compile(rb'(?<!\\)"messages"\s{0,9}:\s{0,9}\[')
_ROW_IMAGE = re.compile(rb'(?<!\\)"images?"\s{0,9}:')
_QUESTION = re.compile(rb'(?<!\\)"question"\s{0,9}:')


def foreign_format(path: Path) -> str | None:
    """A key of ``FORMATS``; None for JSON Lines of problems or questions, and for what cannot be told or read.

    Raises:
        UserError: the file is UTF-16.
    """
    try:
        if not path.is_file():  # what is read from a pipe is gone for whoever reads it afterwards
            return None
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:  # whoever reads it says why
        return None
    refuse_utf16(path, head[:4])
    if head.startswith(b"PAR1"):
        return "parquet"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start.startswith((b"{", b"[")):
        return "csv" if path.suffix.lower() in (".csv", ".tsv") else None
    if not _QUESTION.search(head):
        if _CONVERSATION.search(head):
            return "llava" if _ROW_IMAGE.search(head) else "sharegpt"
        if _MESSAGES.search(head):
            return "messages"
    return "json" if _ARRAY.match(start) else None


def refuse_foreign_format(path: Path, expected: str) -> None:
    """Refuse a file of another format where JSON Lines of problems or questions are expected.

    Raises:
        UserError: says what the file is, and the command that converts it.
    """
    kind = foreign_format(path)
    if kind is not None:
        raise UserError(
            f"{path} is {FORMATS[kind]}, not {expected}: convert it with "
            f"'reflection-v problems {path} --from {kind} --out SET' and give SET/problems.jsonl."
        )
