"""Aliases of a gold answer: ``USA|United States`` accepts either. ``|`` that belongs to a notation sets nothing apart."""

import re

_SIGN = re.compile(r"\\.|[()\[\]{}|]", re.DOTALL)
_DELIMITER = re.compile(r"\\(?:left|right|middle|[bB]igg?[lmr]?)\s?$")
# Outside the bars of "2|x|+1" stands an operator; of three aliases none begins or ends with one ("1|0|-1" does not count).
_OPERATOR_BEFORE = re.compile(r"[+\-*/^=<>·×−]\s*$")
_OPERATOR_AFTER = re.compile(r"\s*(?:[+*/^=<>·×≤≥]|\\(?:cdot|times|leq?|geq?|neq)(?![a-z])|[-−][^|]*[A-Za-z])")


def split_aliases(gold: str, domain: str) -> list[str]:
    """The aliases of a gold answer, without the space around them; the whole text where it has none.

    ``|`` belongs to the notation inside brackets (``P(A|B)``, ``{x | x > 0}``), in absolute values (``|x-1|``, ``2|x|+1``), with a
    subscript (``x^2|_0``), and in tables (gold answers of several lines).
    """
    pieces = _between_bars(gold) if "|" in gold and "\n" not in gold.strip() else [gold]
    outer = pieces[0::2] if len(pieces) % 2 and domain in ("expression", "number") else []
    if (
        len(pieces) == 1
        or not all(piece.strip() for piece in pieces)
        or any(piece.startswith(("_", "^")) for piece in pieces[1:])
        or any(map(_OPERATOR_BEFORE.search, outer[:-1]))
        or any(map(_OPERATOR_AFTER.match, outer[1:]))
    ):
        return [gold]
    return [piece.strip() for piece in pieces]


def _between_bars(text: str) -> list[str]:
    """The text between the bars that stand outside all brackets."""
    pieces, begin, depth = [], 0, 0
    for match in _SIGN.finditer(text):
        sign = match[0].removeprefix("\\")
        if sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth = max(depth - 1, 0)  # "1) cat|2) dog" opens nothing
        elif match[0] == "|" and not depth and not _DELIMITER.search(text[max(0, match.start() - 9) : match.start()]):
            pieces.append(text[begin : match.start()])
            begin = match.end()
    return [*pieces, text[begin:]]
