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
"""Longer answers are incorrect without being read: no gold answer is that long, and no parser should meet 1 MB of braces."""

MAX_CELLS = 1_000

_TO_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_TENS = "thirty forty fifty sixty seventy eighty ninety"
WORD_NUMBERS = {word: value for value, word in enumerate(_TO_TWENTY.split())}
WORD_NUMBERS |= {word: 10 * value for value, word in enumerate(_TENS.split(), 3)}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_NOT_A_UNIT = {"or", "and", "to", "minus", "plus", "times", "π", "\\pi", *WORD_NUMBERS, *_SCALES}
"""After a number these words mean that more follows: "5 or six" is two answers, "3 million million" none that is read."""

_YES = {"yes", "true", "correct", "right"}
_NO = {"no", "false", "incorrect", "wrong"}

# One kind of minus; powers and fractions before NFKC makes "x2" of "x²" and "21/2" of "2½".
_SIGNS = str.maketrans(dict.fromkeys("−–—‐‑﹣－", "-") | {"\u00a0": " ", "⁄": "/"})
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_IN_BRACES = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
_LATEX_WRAPPER = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mathit|operatorname|boxed|mbox)\s*" + _IN_BRACES)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.]{1,40})\s*\}\s*\{\s*([\d.]{1,40})\s*\}")  # of numbers alone
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)(?!\d)")
_UNIT_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}\d]{1,40})\}\s*" + _IN_BRACES)
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")
_TEN_POWER = re.compile(r"\s*(?:×|\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*\{?\s*(-?\d{1,3})\s*\}?")
_BARE_POWER = re.compile(r"(?<![\w.^)])10\s*(?:\^|\*\*)\s*\{?\s*(-?\d{1,3})\s*\}?(?!\w)")
_MIXED = re.compile(r"(?<![\w./])(-?)(\d{1,9})\s+(\d{1,9})\s*/\s*(\d{1,9})(?![\w/])")
_POWER = re.compile(
    r"(?<=[^\W\d_])(?<!\d[eE])(?<!\.[eE])(?:\s?\^\s?\{?\s?)?([+-]?[1-4])\}?(?![\d.])"
)  # of a unit: m^2, s-1
_PERCENT = re.compile(r"%|per\s?cent\b", re.IGNORECASE)
_SPACED = re.compile(r"(?<![\d.,/] )(?<![\w.,/])\d{1,3}(?: \d{3})+(?![\d/]|\s*/| \d)")  # 12 345 678
_NUMBER = re.compile(
    r"(?<![\w.^])[-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d+(?:\.\d+)?)?"
)


def plain(text: str) -> str:
    """``text`` without LaTeX dress: one kind of minus, no ``$``, wrappers opened, ``\\frac{1}{2}`` written ``1/2``."""
    text = _VULGAR.sub(" ", _SUPERSCRIPTS.sub(_power, text.translate(_SIGNS)))
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS).strip()
    for _ in range(4):  # honest answers nest wrappers only a few deep
        opened = _SHORT_FRACTION.sub(r" \1/\2 ", _FRACTION.sub(r" \1/\2 ", text))
        opened = _LATEX_WRAPPER.sub(r" \1 ", opened)
        if opened == text:
            break
        text = opened
    text = re.sub(r"\\[()\[\]]|\\[,;:! ]|\\left(?![a-z])|\\right(?![a-z])|\\?\$|~", " ", text).replace("\\%", "%")
    text = _DEGREES.sub("°", text).replace("\\circ", "°").replace("{,}", ",").replace("\\approx", "≈")
    text = " ".join(text.split()).removesuffix(".").strip()
    return text[2:-2].strip() if len(text) > 4 and text.startswith("**") and text.endswith("**") else text


def _power(match: re.Match[str]) -> str:
    digits = unicodedata.normalize("NFKC", match[0]).translate(_SIGNS)
    return f"^{digits}" if len(digits) == 1 else f"^{{{digits}}}"


def words(text: str) -> str:
    """``text`` for comparing: case-folded, without articles, extra space or punctuation (a decimal point stays).

    What tells one answer from another stays: relations, arrows and other symbols, ``C#``, and the A of ``vitamin A``.
    """
    text = _PUNCTUATION.sub(" ", plain(text).replace("**", " "))
    found = _RELATION.sub(r" \g<0> ", text).split()
    folded = [word.casefold() for word in found]
    kept = [
        word
        for word, after in zip(folded, [*found[1:], ""], strict=False)
        if word not in ("an", "the") and not (word == "a" and after[:1].isalnum())
    ]
    return " ".join(kept)


_PUNCTUATION = re.compile(
    r"(?<!\d)\.|\.(?!\d)|[^\w\s.%°+*/#<>=^&≈≠≤≥\u2190-\u21ff\u2200-\u22ff\u25a0-\u27bf\U0001f000-\U0001faff-]"
)
_RELATION = re.compile(r"[<>=≈≠≤≥*/#^&]")


@dataclass(frozen=True)
class Quantity:
    """A number as written. ``value`` is exact; ``decimals``: places after the point that are known (``1.5e-3``: 4)."""

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
    if re.search(r"[<>!]=", text):
        return None
    text = text.rpartition("=")[2].strip()
    text = text[1:-1].strip() if re.fullmatch(r"\([^()]*\)", text) else text
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    text = _TEN_POWER.sub(lambda match: f"e{match[1]}", text)
    text = _UNIT_FRACTION.sub(r" \1/\2", _BARE_POWER.sub(lambda match: f"1e{match[1]}", text))
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
    first, _, rest = unit.partition(" ")
    if (scale := _SCALES.get(first.casefold(), 0)) and not percent:
        value, unit = value * 10**scale, rest.strip()
    if not _NOT_A_UNIT.isdisjoint(unit.casefold().split()):
        return None
    if not re.fullmatch(r"(?:(?:[^\W\d_]|°)[^\d!=<>|^]*)?", unit) or len(unit.split()) > 3:
        return None  # "2^3", "5!", "5 > 3": an expression, not a unit
    written, _, exponent = match[0].partition("/")[0].lower().partition("e")
    decimals = len(written.partition(".")[2]) - int(exponent or 0) - scale
    return Quantity(value, decimals, read_unit(unit) if unit else None, percent)


def _read_word_number(text: str) -> Quantity | None:
    first, *rest = re.split(r"[\s-]+", text.casefold().strip())
    if (value := WORD_NUMBERS.get(first)) is None:
        return None
    if value >= 20 and rest and 0 < WORD_NUMBERS.get(rest[0], 0) < 10:
        value += WORD_NUMBERS[rest.pop(0)]  # twenty-one
    if rest and rest[0] in _SCALES:
        value *= 10 ** _SCALES[rest.pop(0)]
    if len(rest) > 2 or not _NOT_A_UNIT.isdisjoint(rest):
        return None
    return Quantity(Fraction(value), 0, read_unit(" ".join(rest)) if rest else None, False)


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
    given = words(text).replace(".", " ").split()
    if given in (["y"], ["n"]):
        return given == ["y"]
    if (
        not given
        or (given[0] not in _YES and given[0] not in _NO)
        or given[1:2] == ["or"]
        or given[:2] == ["no", "idea"]
    ):
        return None
    strong_yes, strong_no = {"yes", "true"} & set(given), {"no", "false", "not"} & set(given)
    if strong_yes and strong_no:
        return None
    return given[0] in _YES


def read_option(text: str, choices: list[str] | None) -> int | None:
    """The index of the option that ``text`` names by letter, by its words, or by both when the two agree."""
    text = plain(text)
    options = [canonical(choice) for choice in choices or []]
    match = re.fullmatch(r"(?:option|choice|answer)?\s*[(\[]?\s*([A-Za-z])\s*[)\].:]?", text, re.IGNORECASE)
    if match:
        index = ord(match[1].upper()) - ord("A")
        if not options or index < len(options):
            return index
    # Before the words alone are compared: "A) cat" must not lose its letter as if it were an article.
    match = re.fullmatch(
        r"(?:option|choice)?\s*[(\[]?([A-Za-z])\s*\s*[)\].:,-]\s*(.+)", text, re.IGNORECASE | re.DOTALL
    )
    if match:
        index = ord(match[1].upper()) - ord("A")
        if not options:
            return index if text[match.end(1)] in ")].:" else None  # nobody can say whether the words agree
        if index < len(options):
            return index if options[index] == canonical(match[2]) else None
    wanted = canonical(text)
    return options.index(wanted) if options.count(wanted) == 1 else None


def read_gold_option(gold: str, choices: list[str]) -> int | None:
    """The index of the option that a gold answer is: by its exact words first, since these may look like another's letter."""
    exact = [index for index, option in enumerate(choices) if option == gold]
    return exact[0] if len(exact) == 1 and len(gold) > 1 else read_option(gold, choices)


def canonical(cell: object) -> str:
    """A form that is equal for cells that say the same: as quantities where they are such, else as words."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, dict | list):
        return json.dumps(cell, sort_keys=True)
    text = "" if cell is None else str(cell)
    number = read_quantity(text)
    return number.name if number is not None else words(text)


def read_pairs(text: str) -> dict[str, str] | None:
    """``A = knight, B: knave``, ``A is knight and B is knave`` or a JSON object, as canonical keys and values."""
    data = _read_json(text)
    if isinstance(data, dict):
        return {canonical(key): canonical(value) for key, value in list(data.items())[:MAX_CELLS]} or None
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


Cells = list[tuple[str, str, str]]


def read_table(text: str, header: list[str] | None = None) -> tuple[Cells, list[str]] | None:
    """A table as (row, column, value) cells: JSON (rows, records or an object), Markdown, or lines of separated cells.

    The first cell of a row names the row and the header names the column, so neither the order of rows nor, with a
    header, that of columns counts. A table of one column has nameless rows.

    Args:
        header: of the table to compare with: columns of the same names are taken in its order, and a first line of these
            names is a header even without a rule under it.

    Returns:
        The cells, and the names of the columns in order (empty where there are none).
    """
    data = _read_json(text)
    if data is None:
        data = _read_lines(text)
    if isinstance(data, dict):
        data = [[key, value] for key, value in data.items()]
    if not isinstance(data, list) or not data:
        return None
    if all(isinstance(row, dict) for row in data):
        keys = list(dict.fromkeys(key for row in data for key in row))
        return _cells([keys, *([row.get(key) for key in keys] for row in data)], header, has_header=True)
    rows = [row if isinstance(row, list) else [row] for row in data]
    return _cells(rows, header, has_header=False)


def _cells(rows: list[list[object]], like: list[str] | None, has_header: bool) -> tuple[Cells, list[str]]:
    width = max(len(row) for row in rows)
    if width == 1:
        return [("", "", canonical(row[0])) for row in rows if row][:MAX_CELLS], []
    names = [canonical(cell) for cell in rows[0]]
    same = like is not None and len(like) > 1 and len(set(names)) == len(names) and sorted(names) == sorted(like)
    header = [str(index) for index in range(width)] if width > 2 else ["", ""]  # two columns: names and values
    if has_header or same:
        header, rows = names, rows[1:]
    order = [names.index(name) for name in like] if same and like else range(len(header))
    found = []
    for row in rows:
        cells = [(header[index], canonical(row[index])) for index in order if index < len(row)]
        found += [(cells[0][1], name, cell) for name, cell in cells[1:]]
    return found[:MAX_CELLS], header if has_header or same else []


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
        pieces = re.split(r"[,;]", plain(text))
        split = [_split_pair(piece) for piece in pieces]
        return [[key, value] for key, mark, value in split] if all(mark for _, mark, _ in split) else list(pieces)
    separator = next((mark for mark in ("\t", ";", ",", ":") if all(mark in line for line in lines)), None)
    return [[cell.strip() for cell in line.split(separator)] if separator else line for line in lines] or None


def _read_json(text: str) -> object | None:
    text = text.strip()
    if not text.startswith(("[", "{")):
        return None
    try:
        data = json.loads(text, parse_constant=str)
        json.dumps(data)  # what is too deep to be written is not read
        return data
    except (ValueError, RecursionError):
        return None
