"""The notation of structures: lines and pieces of a text without bullets, code fences and LaTeX; JSON; the name of a cell."""

import json
import re
from functools import lru_cache

from reward.parsing import EMPHASIS, IN_BRACES, words
from reward.phrases import LEADING_CONJUNCTION
from reward.quantity import canonical

MAX_CELLS = 1_000

_WIDE = str.maketrans("，、،；：（）［］｛｝＝＞＜｜＆", ",,,;:()[]{}=><|&")
_ENVIRONMENT = (
    r"\{(?:tabular|array|aligned|align\*?|cases|[pbvBV]?matrix|smallmatrix)\}(?:\{[^{}]{0,80}\}|\[[^\[\]]{0,9}\])?"
)
_NOTATION: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?:```|~~~)[\w-]{0,20}(?=\s|$)|`", ""),
        (EMPHASIS.pattern, r"\2"),
        (rf"\\(?:begin|end) ?{_ENVIRONMENT}", "\n"),
        (r"</t[dh]>|</?(?:table|thead|tbody)(?: [^<>]{0,80})?>|<tr(?: [^<>]{0,80})?>", ""),
        (r"<t[dh](?: [^<>]{0,80})?>", "|"),
        (r"\\\\|\\newline|<br ?/?>|</tr>", "\n"),
        (r"\\(?:text|mathrm|mathbf|textbf|mathit|mbox)\s?" + IN_BRACES, r" \1 "),
        (r"\\(?:hline|toprule|midrule|bottomrule|q?quad|left|right)(?![A-Za-z])|\\[,:!() ]|\\;", " "),
        (r"!=|=/=|\\neq?(?![A-Za-z])", "≠"),
        (r"<=|\\leq?(?![A-Za-z])", "≤"),
        (r">=|\\geq?(?![A-Za-z])", "≥"),
        (r"\\(?:to|mapsto|implies|(?:long)?[rR]ightarrow)(?![A-Za-z])|-{1,2}>|={1,2}>|[⇒⟶⟹↦⇨➔➜➝➞]", "→"),
        (r"\\(?:gt|succ)(?![A-Za-z])|≻", ">"),
        (r"\\(?:lt|prec)(?![A-Za-z])|≺", "<"),
        (r"\\(?:land|wedge)(?![A-Za-z])|∧", ", "),
        (r"\\(?:emptyset|varnothing)(?![A-Za-z])", "∅"),
        (r"\\(?:neg|lnot)(?![A-Za-z])", "¬"),
        (r"\\langle(?![A-Za-z])|⟨", "("),
        (r"\\rangle(?![A-Za-z])|⟩", ")"),
        (r"\\([{}&%#_])", r"\1"),
        (r"(?<=[①-⑳])(?=[①-⑳])", ","),
        (r"[ \u00a0]+", " "),
    )
]
_BULLET = re.compile(r"\A[-*•·‣▪] (?=\S)")
_NUMBERED = re.compile(r"\A\(?(\d{1,2})[.)] ?(?=[^\s\d])")
_NEXT_NUMBER = re.compile(r"[,;]? (?=\(?\d{1,2}[.)] ?[^\s\d])")
_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}")


@lru_cache(maxsize=32)
def undress(text: str) -> str:
    """``text`` as lines without code fences, LaTeX notation and bullets; wide signs are written as narrow ones."""
    text = text.translate(_WIDE)
    if "\\begin" in text:
        text = re.sub(r"(?<!\\)&", " | ", text)
    for pattern, replacement in _NOTATION:
        text = pattern.sub(replacement, text)
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] == "$":
        text = text.strip("$")
    lines = [_BULLET.sub("", line.strip(), count=1) for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and _NUMBERED.match(lines[0]):
        lines = without_numbers(_NEXT_NUMBER.split(lines[0])) if _NEXT_NUMBER.search(lines[0]) else lines
    return "\n".join(without_numbers(lines))


def without_numbers(items: list[str]) -> list[str]:
    """Items without the numbers of a list, if all of them have one in this order: ``1. A``, ``2. B``."""
    numbers = [_NUMBERED.match(item) for item in items]
    if len(items) < 2 or [match and match[1] for match in numbers] != [str(n + 1) for n in range(len(items))]:
        return items
    return [_NUMBERED.sub("", item) for item in items]


def split_outside(text: str, separator: re.Pattern[str]) -> list[str]:
    """The pieces between the separators that stand outside all brackets; empty pieces are left out."""
    masked = text
    for _ in range(3):
        masked = _BRACKETED.sub(lambda match: "x" * len(match[0]), masked)
    pieces, begin = [], 0
    for match in separator.finditer(masked):
        pieces.append(text[begin : match.start()])
        begin = match.end()
    pieces.append(text[begin:])
    return [
        LEADING_CONJUNCTION.sub("", piece.strip(), count=1) for piece in pieces if piece.strip(" .,;") or ".." in piece
    ][:MAX_CELLS]


def open_brackets(text: str) -> str:
    """``text`` without the brackets that enclose the whole of it."""
    text = text.strip().removesuffix(".")
    for _ in range(3):
        if not (text[:1] in ("(", "[", "{") and text[-1:] == {"(": ")", "[": "]", "{": "}"}[text[0]]):
            break
        depth, early = 0, False
        for sign in text[:-1]:
            depth += (sign in "([{") - (sign in ")]}")
            early |= depth == 0
        if early:  # "(1), (2)"
            break
        text = text[1:-1].strip()
    return text


def read_json(text: str) -> object | None:
    """A JSON list or object, also with single quotes or in a code fence; None for other text and for a key that comes twice."""
    text = _NOTATION[0][0].sub("", text).strip()
    if not text.startswith(("[", "{")):
        return None
    for written in (text, text.replace("'", '"')):
        try:
            data = json.loads(written, parse_constant=str, object_pairs_hook=_unique)
            json.dumps(data)  # what is too deep to be written is not read
            return data
        except (ValueError, RecursionError):
            continue
    return None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def cell_name(cell: object, depth: int = 0) -> str:
    """A form that is equal for cells that say the same. Of an equation both sides count: ``x=2, y=3`` is not ``x=5, y=3``."""
    if isinstance(cell, list | tuple) and depth < 5:
        return " ".join(cell_name(item, depth + 1) for item in cell)
    return _text_name(cell) if isinstance(cell, str) else canonical(cell)


@lru_cache(maxsize=512)  # the answers of a group have most of their cells in common
def _text_name(cell: str) -> str:
    inner = open_brackets(cell)
    if "," in inner and (inner != cell.strip() or "=" in inner):
        return " ".join(cell_name(part) for part in inner.split(","))
    if re.fullmatch(r"-?[\d.]+(?:,? -?[\d.]+)+", inner) and "." in inner:
        return " ".join(cell_name(part) for part in re.split(",? ", inner))  # a row of numbers
    if cell.lstrip()[:1] in ("¬", "!", "~"):
        return f"not {canonical(cell.lstrip(' ¬!~'))}"
    name, mark, value = cell.partition("=")
    if mark and name.strip() and name.strip()[-1] not in "<>!=" and not value.startswith("="):
        return f"{re.sub(' ', '', words(name))} = {canonical(value)}"
    return (
        canonical(re.sub(r"(?<=\d) (?=%)", "", cell)) + "?" * ("?" in cell) + "!" * bool(re.search(r"\d!", cell))
    )  # "3?" is a guess, "3!" is 6
