"""Reading short answers: numbers with units, option letters, yes and no, pairs and tables. Pure, bounded, no ``eval``.

Every reader returns ``None`` for what it cannot read; none of them raises on any text of at most ``MAX_CHARACTERS``.
"""

import json
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from reward.units import SUPERSCRIPT, Unit, read_unit

MAX_CHARACTERS = 2_000
"""Longer answers are wrong unread: no gold answer is that long, and no parser should meet 1 MB of braces."""

MAX_CELLS = 1_000

_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
WORD_NUMBERS = {word: value for value, word in enumerate(_TO_TWENTY.split())}

_YES = {"yes", "y", "true", "correct", "right"}
_NO = {"no", "n", "false", "incorrect", "wrong", "not"}

# One kind of minus; powers and fractions before NFKC makes "x2" of "x²".
_SIGNS = str.maketrans(dict.fromkeys("−–—‐‑﹣－", "-") | {"\u00a0": " ", "²": "^2", "³": "^3", "⁄": "/"})
_LATEX_WRAPPER = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mathit|operatorname|boxed|mbox)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.]{1,40})\s*\}\s*\{\s*([\d.]{1,40})\s*\}")  # of numbers alone
_TEN_POWER = re.compile(r"\s*(?:×|\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*\{?\s*(-?\d{1,3})\s*\}?")
_MIXED = re.compile(r"(?<![\w./])(-?)(\d{1,9})\s+(\d{1,9})\s*/\s*(\d{1,9})(?![\w/])")
_POWER = re.compile(r"(?<=[^\W\d_])(?<!\d[eE])(?<!\.[eE])(?:\s?\^\{?)?([+-]?[1-4])\}?(?![\d.])")  # of a unit: m^2, s-1
_PERCENT = re.compile(r"%|per\s?cent\b", re.IGNORECASE)
_SPACED = re.compile(r"(?<![\d.,/] )(?<![\w.,/])\d{1,3}(?: \d{3})+(?![\d/]|\s*/| \d)")  # 12 345 678
_NUMBER = re.compile(
    r"(?<![\w.^])[-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d+(?:\.\d+)?)?"
)


def plain(text: str) -> str:
    """``text`` without LaTeX dress: one kind of minus, no ``$``, wrappers opened, ``\\frac{1}{2}`` written ``1/2``."""
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS).strip()
    for _ in range(4):  # wrappers nest, but not deeply in honest answers
        opened = _LATEX_WRAPPER.sub(r" \1 ", _FRACTION.sub(r" \1/\2 ", text))
        if opened == text:
            break
        text = opened
    text = re.sub(r"\\[()\[\]]|\\[,;:! ]|\\left|\\right|\$", " ", text).replace("\\%", "%").replace("^\\circ", "°")
    text = text.replace("\\circ", "°").replace("{,}", ",")
    return " ".join(text.split()).strip().removesuffix(".").strip()


def words(text: str) -> str:
    """``text`` for comparing: case-folded, without articles, extra space or punctuation (a decimal point stays)."""
    text = plain(text).casefold()
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|[^\w\s.%°+-]", " ", text)
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


@dataclass(frozen=True)
class Quantity:
    """A number as written. ``value`` is exact; ``decimals`` is how many places were written."""

    value: Fraction
    decimals: int
    unit: Unit | None
    percent: bool

    @property
    def name(self) -> str:
        """The same for equal quantities: value and unit in base units."""
        return f"{self.value * self.unit.factor} {self.unit.base}" if self.unit else str(self.value)


def read_quantity(text: str) -> Quantity | None:
    """Read a text that holds one number and perhaps a unit: ``-1,234.5 kg``, ``3/4``, ``45%``, ``2 × 10^3``."""
    text = plain(text)
    text = text.rpartition("=")[2].strip()
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    text = _TEN_POWER.sub(lambda match: f"e{match[1]}", text)
    text = _POWER.sub(lambda match: match[1].translate(SUPERSCRIPT), re.sub(r"^([-+])\s+", r"\1", text))
    text = _MIXED.sub(lambda m: f"{m[1]}{int(m[2]) * int(m[4]) + int(m[3])}/{m[4]}", text)
    found = [match for match in _NUMBER.finditer(text) if any(letter.isdigit() for letter in match[0])]
    if len(found) != 1:
        return _read_word_number(text) if not found else None
    match = found[0]
    value = _read_fraction(match[0])
    if value is None:
        return None
    before, after = text[: match.start()].strip(), text[match.end() :].strip()
    currency = before in ("$", "€", "£", "¥")
    if before and not currency and not before.endswith(("≈", ":")):
        return None  # "not 5", "5 or 6", "room 5": more than a number
    percent = _PERCENT.match(after) is not None
    unit = _PERCENT.sub("", after).strip()
    if not re.fullmatch(r"(?:(?:[^\W\d_]|°)[^\d!=<>|^]*)?", unit) or len(unit.split()) > 3:
        return None  # "2^3", "5!", "5 > 3": an expression, not a unit
    decimals = len(match[0].partition(".")[2].split("e")[0].split("/")[0]) if "." in match[0] else 0
    return Quantity(value, decimals, read_unit(unit) if unit else None, percent)


def _read_word_number(text: str) -> Quantity | None:
    first, *rest = text.casefold().split() or [""]
    if first in WORD_NUMBERS and len(rest) <= 2:
        return Quantity(Fraction(WORD_NUMBERS[first]), 0, read_unit(" ".join(rest)) if rest else None, False)
    return None


def _read_fraction(text: str) -> Fraction | None:
    upper, _, lower = text.replace(",", "").replace(" ", "").partition("/")
    if len(upper) > 60 or len(lower) > 60:
        return None
    try:
        return Fraction(upper) / Fraction(lower or "1")
    except (ValueError, ZeroDivisionError):
        return None


def read_yes_no(text: str) -> bool | None:
    """Yes or no, when the text begins with one of them and never says the other."""
    said = words(text).replace(".", " ").split()
    if not said or (said[0] not in _YES and said[0] not in _NO):
        return None
    strong_yes, strong_no = {"yes", "true"} & set(said), {"no", "false", "not"} & set(said)
    if strong_yes and strong_no:
        return None
    return said[0] in _YES


def read_option(text: str, choices: list[str] | None) -> int | None:
    """The index of the option that ``text`` names by letter, by its words, or by both when the two agree."""
    text = plain(text)
    options = [canonical(choice) for choice in choices or []]
    match = re.fullmatch(r"(?:option|choice|answer)?\s*[(\[]?\s*([A-Za-z])\s*[)\].:]?", text, re.IGNORECASE)
    if match:
        index = ord(match[1].upper()) - ord("A")
        return index if not options or index < len(options) else None
    # Before the words alone are compared: "A) cat" must not lose its letter as if it were an article.
    match = re.fullmatch(
        r"(?:option|choice)?\s*[(\[]?([A-Za-z])\s*\s*[)\].:,-]\s*(.+)", text, re.IGNORECASE | re.DOTALL
    )
    if match and options:
        index = ord(match[1].upper()) - ord("A")
        return index if index < len(options) and options[index] == canonical(match[2]) else None
    said = canonical(text)
    return options.index(said) if options.count(said) == 1 else None


def canonical(cell: object) -> str:
    """A form that is equal for cells that say the same: as quantities where they are such, else as words."""
    if isinstance(cell, bool):
        return str(cell).lower()
    text = "" if cell is None else str(cell)
    number = read_quantity(text)
    return number.name if number is not None else words(text)


def read_pairs(text: str) -> dict[str, str] | None:
    """``A = knight, B: knave``, ``A is knight and B is knave`` or a JSON object, as canonical keys and values."""
    data = _read_json(text)
    if isinstance(data, dict):
        flat = {canonical(key): value for key, value in list(data.items())[:MAX_CELLS]}
        return {key: canonical(value) for key, value in flat.items() if not isinstance(value, dict | list)} or None
    pairs: dict[str, str] = {}
    for piece in re.split(r"[,;\n]|\band\b", plain(text))[:MAX_CELLS]:
        if not piece.strip():
            continue
        key, mark, value = _split_pair(piece)
        if not mark or canonical(key) in pairs:
            return None
        pairs[canonical(key)] = canonical(value)
    return pairs or None


def _split_pair(piece: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"\s*([^=:]{1,80}?)\s*(=|:|->|→|\bis\b|\bat\b)\s*(.{1,200})", piece.strip(), re.DOTALL)
    return (match[1], match[2], match[3]) if match else (piece, "", "")


def read_sequence(text: str) -> list[str]:
    """An ordered list: JSON, or items set apart by ``,`` ``;`` ``>`` ``->`` or line ends."""
    data = _read_json(text)
    items = data if isinstance(data, list) else re.split(r"->|→|[,;>\n]", plain(text).strip("[]()"))
    return [canonical(item) for item in items[:MAX_CELLS] if str(item).strip()]


def read_table(text: str) -> list[tuple[str, str, str]] | None:
    """A table as (row, column, value) cells: JSON (rows, records or an object), Markdown, or lines of separated cells.

    The first cell of a row names the row and the header names the column, so neither the order of rows nor, with a
    header, that of columns counts. A table of one column has nameless rows.
    """
    data = _read_json(text)
    if data is None:
        data = _read_lines(text)
    if isinstance(data, dict):
        data = [[key, value] for key, value in data.items()]
    if not isinstance(data, list) or not data:
        return None
    if all(isinstance(row, dict) for row in data):
        header = list(dict.fromkeys(key for row in data for key in row))
        data = [header, *([row.get(key) for key in header] for row in data)]
        return _cells(data, has_header=True)
    rows = [row if isinstance(row, list) else [row] for row in data]
    return _cells(rows, has_header=False)


def _cells(rows: list[list[object]], has_header: bool) -> list[tuple[str, str, str]]:
    width = max(len(row) for row in rows)
    if width == 1:
        return [("", "", canonical(row[0])) for row in rows if row][:MAX_CELLS]
    header = [str(index) for index in range(width)] if width > 2 else ["", ""]  # two columns: names and values
    if has_header:
        header, rows = [canonical(cell) for cell in rows[0]], rows[1:]
    found = []
    for row in rows:
        name = canonical(row[0]) if row else ""
        found += [(name, header[index], canonical(cell)) for index, cell in enumerate(row) if 0 < index < len(header)]
    return found[:MAX_CELLS]


def _read_lines(text: str) -> list[object] | dict[str, object] | None:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if any(line.startswith("|") for line in lines):
        grid = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        body = [row for row in grid if not all(re.fullmatch(r":?-{2,}:?", cell) for cell in row)]
        if len(body) < len(grid) and len(body) > 1:  # a rule under the first line makes it a header
            return [dict(zip(body[0], row, strict=False)) for row in body[1:]]
        return list(body)
    if len(lines) == 1:
        pairs = read_pairs(text)
        if pairs is not None:
            return dict(pairs)
        return list(re.split(r"[,;]", plain(text)))
    separator = next((mark for mark in ("\t", ";", ",", ":") if all(mark in line for line in lines)), None)
    return [[cell.strip() for cell in line.split(separator)] if separator else line for line in lines] or None


def _read_json(text: str) -> object | None:
    text = text.strip()
    if not text.startswith(("[", "{")):
        return None
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return None
