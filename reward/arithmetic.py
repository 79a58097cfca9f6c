"""Computations of short answers: ``\\frac{1}{2} \\cdot 6 \\cdot 4`` is 12. Exact, bounded, no ``eval``."""

import re
from fractions import Fraction

from reward.parsing import IN_BRACES

_MAX_CHARACTERS, _MAX_NESTING, _MAX_DIGITS = 200, 20, 200
_FRACTION = re.compile(r"\\[dt]?frac\s*" + IN_BRACES + r"\s*" + IN_BRACES)
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|[-+*/^()])")
_SIGNS = {
    "×": "*",
    "\\times": "*",
    "\\cdot": "*",
    "·": "*",
    "⋅": "*",
    "÷": "/",
    "\\div": "/",
    "**": "^",
    "{": "(",
    "}": ")",
}


def compute(text: str) -> Fraction | None:
    """The value of a computation with ``+ - * / ^`` and brackets; None for anything else, and for numbers too large."""
    if len(text) > _MAX_CHARACTERS:
        return None
    for _ in range(4):
        text = _FRACTION.sub(r"((\1)/(\2))", text)
    for sign, plain_sign in _SIGNS.items():
        text = text.replace(sign, plain_sign)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", re.sub(r"(?<=\d)\s*[xX]\s*(?=\d)", "*", text))
    tokens, end = [], 0
    while match := _TOKEN.match(text, end):
        tokens.append(match[1])
        end = match.end()
    if text[end:].strip() or not tokens or text.count("(") > _MAX_NESTING:
        return None
    try:
        value, rest = _sum(tokens)
    except (ValueError, ZeroDivisionError, IndexError):
        return None
    return value if not rest else None


def _sum(tokens: list[str]) -> tuple[Fraction, list[str]]:
    value, tokens = _product(tokens)
    while tokens and tokens[0] in "+-":
        more, rest = _product(tokens[1:])
        value, tokens = (value + more if tokens[0] == "+" else value - more), rest
    return value, tokens


def _product(tokens: list[str]) -> tuple[Fraction, list[str]]:
    value, tokens = _raised(tokens)
    while tokens and tokens[0] in "*/(":
        more, rest = _raised(tokens if tokens[0] == "(" else tokens[1:])
        value, tokens = (value / more if tokens[0] == "/" else value * more), rest
    return value, tokens


def _raised(tokens: list[str]) -> tuple[Fraction, list[str]]:
    if tokens[0] in ("-", "+"):
        value, rest = _raised(tokens[1:])
        return (-value if tokens[0] == "-" else value), rest
    if tokens[0] == "(":
        value, rest = _sum(tokens[1:])
        if rest[0] != ")":
            raise ValueError
        rest = rest[1:]
    else:
        value, rest = Fraction(tokens[0]), tokens[1:]
    if rest and rest[0] == "^":
        exponent, rest = _raised(rest[1:])
        digits = max(len(str(value.numerator)), len(str(value.denominator)))
        if exponent.denominator != 1 or abs(exponent) * digits > _MAX_DIGITS:
            raise ValueError
        value = value ** int(exponent)
    return value, rest
