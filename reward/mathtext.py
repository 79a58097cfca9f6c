"""Mathematical text in one notation: Unicode, ASCII and LaTeX spellings become the LaTeX that the algebra system reads.

Relations become single characters (``≤ ≥ ≠ ∈ ∪``), so that a text can be split at them. Pure functions in linear time.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from reward.parsing import IN_BRACES, plain

_FRACTION_MARK = "\ue000"  # hides \frac from ``plain``, which would write numbers as 1/2

_COMMANDS = {
    r"\\(?:leq?|leqslant|leqq)": "≤",
    r"\\(?:geq?|geqslant|geqq)": "≥",
    r"\\neq?": "≠",
    r"\\lt": "<",
    r"\\gt": ">",
    r"\\in": "∈",
    r"\\(?:cup|bigcup)": "∪",
    r"\\(?:lor|vee)": " or ",
    r"\\(?:land|wedge)": " and ",
    r"\\pm": "±",
    r"\\(?:times|ast)": r" \\cdot ",
    r"\\(?:lvert|rvert|vert)": "|",
    r"\\(?:langle|lparen)": "(",
    r"\\(?:rangle|rparen)": ")",
    r"\\lbrace": r"\\{",
    r"\\rbrace": r"\\}",
    r"\\lbrack": "[",
    r"\\rbrack": "]",
    r"\\colon": ":",
    r"\\(?:displaystyle|textstyle|limits|quad|qquad|bigl?|bigr|Bigl?|Bigr|mathstrut|rm)": " ",
    r"\\(?:varnothing|empty)": r"\\emptyset",
    r"\\lg": r"\\log_{10}",
    r"\\(?:boldsymbol|pmb)": "",
    r"\\[dtc]frac": r"\\frac",
}
_COMMAND = [(re.compile(rf"{name}(?![a-zA-Z])"), to) for name, to in _COMMANDS.items()]
_CHARACTERS = str.maketrans(
    {
        "∞": r"\infty ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "∙": r"\cdot ",
        "×": r"\cdot ",
        "÷": r"\div ",
        "∶": ":",
        "π": r"\pi ",
    }
    | {
        "∅": r"\emptyset ",
        "∨": " or ",
        "∧": " and ",
        "⩽": "≤",
        "⩾": "≥",
        "≦": "≤",
        "≧": "≥",
        "ℝ": r"\mathbb{R}",
        "∠": r"\angle ",
    }
    | {
        "△": r"\triangle ",
        "⟨": "(",
        "⟩": ")",
        "〈": "(",
        "〉": ")",
        "′": "'",
        "’": "'",
        "“": "",
        "”": "",
        "，": ",",
        "、": ",",
        "；": ";",
    }
    | {
        letter: f"\\{name} "
        for letter, name in zip(
            "αβγδεθλμρστφω",
            [
                "alpha",
                "beta",
                "gamma",
                "delta",
                "epsilon",
                "theta",
                "lambda",
                "mu",
                "rho",
                "sigma",
                "tau",
                "phi",
                "omega",
            ],
            strict=True,
        )
    }
)
_WORDS = [
    (re.compile(pattern, re.IGNORECASE), to)
    for pattern, to in (
        (r"大于(?:或)?等于|不小于|大於等於|不小於", "≥"),
        (r"小于(?:或)?等于|不大于|小於等於|不大於", "≤"),
        (r"不等于|不等於", "≠"),
        (r"大于|大於", ">"),
        (r"小于|小於", "<"),
        (r"(?:\bis )?\b(?:greater|more|larger) than or equal to\b|(?:\bis )?\bat least\b", "≥"),
        (r"(?:\bis )?\b(?:less|smaller) than or equal to\b|(?:\bis )?\bat most\b", "≤"),
        (r"(?:\bis )?\b(?:greater|more|larger) than\b", ">"),
        (r"(?:\bis )?\b(?:less|smaller) than\b", "<"),
        (r"(?:\bis )?\bnot equal to\b", "≠"),
        (r"!=", "≠"),
        (r"<=|=<", "≤"),
        (r">=|=>", "≥"),
        (r"或者?|または|또는|(?<![A-Za-z\\])(?:or|oder|ou|o)(?![A-Za-z])", " or "),
        (r"且|[和与與]|(?<=\d)[とや](?=[\d-])|(?<![A-Za-z\\])(?:and|und|et)(?![A-Za-z])", " and "),
        (r"\bsq(?:\. ?| )(?=[a-z])", "square "),
        (r"\bcu(?:\. ?| )(?=[a-z])", "cubic "),
        (r"(?<=\d)\s*比\s*(?=\d)|(?<=\d) to (?=\d)", ":"),
        (r"(?<![A-Za-z\\])infinity(?![A-Za-z])", r"\\infty "),
        (r"(?<![A-Za-z\\])pi(?![A-Za-z])", r"\\pi "),
        (
            r"(?<![A-Za-z\\])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log|exp)(?=\s*[(\d^_]|\s+[a-z]\b)",
            r"\\\1 ",
        ),
    )
]
_DEGREES_MINUTES = re.compile(r"(\d+)\s*°\s*(\d+)\s*'(?:\s*(\d+)\s*(?:''|\"))?")
_IN_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_FRACTION_OF_CHINESE = re.compile("([一二三四五六七八九十百]{1,4})分之([一二三四五六七八九十百]{1,4})")
_REPEATING = re.compile(r"(\d{1,9})\.(\d{0,9})\\(?:overline|dot|bar)\s*\{(\d{1,9})\}")
_CHINESE_DIGITS = {digit: value for value, digit in enumerate("一二三四五六七八九", 1)}

_SHORT = [
    (re.compile(pattern), to)
    for pattern, to in (
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (rf"\\frac\s*{IN_BRACES}\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\d+|[a-z](?![a-z]))", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\d.])(\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?![\w.])", r"\1 \\cdot 10^{\2}"),
        (r"(?<![\d/.^)}])(\d+)\s+(\d+)/(\d+)(?![\d.])", r"(\1+\\frac{\2}{\3})"),
        (r"\^\s*([+-]?\d+(?:\.\d+)?)", r"^{\1}"),
        (r"\^\s*\(([^(){}]*)\)", r"^{\1}"),
        (r"_\s*(\d+)", r"_{\1}"),
        (r"(?<![_\w\\.{])(\d+(?:\.\d+)?)\s*\(", r"\1 \\cdot ("),
        (r"\\pi\s*\(", r"\\pi \\cdot ("),
        (r"\)\s*\(", r") \\cdot ("),
    )
]
_SPELLED = re.compile(r"\\(?:text|mathrm|textrm|mbox)\s*\{\s*~?([A-Za-z])\s*\}((?:\s*\^\s*\{?\d\}?)?\s*\$?\.?)$")
# A letter in \text at the end is a unit. Spelled out, it stays one when the wrapper is gone.
_ONE_LETTER = {
    "m": "meter",
    "s": "second",
    "g": "gram",
    "h": "hour",
    "L": "liter",
    "N": "newton",
    "J": "joule",
    "W": "watt",
}
_ONE_LETTER |= {"V": "volt", "A": "ampere", "K": "kelvin", "t": "tonne"}
_OPEN, _CLOSE = "([{", ")]}"


@lru_cache(maxsize=512)
def math_text(text: str) -> str:
    """A text in one notation."""
    text = _SPELLED.sub(
        lambda m: f" {_ONE_LETTER[m[1]]}{m[2]}" if m[1] in _ONE_LETTER else m[0], " ".join(text.split())
    )
    if text.replace("\\$", "").count("$") % 2 or "\\$" in text:  # an odd dollar sign is money, two of them are LaTeX
        text = re.sub(r"\\?\$\s*(\d[\d,.]*)", r"\1 USD ", text)
    text = re.sub(r"\\begin\s*\{(cases|aligned|align\*?|array)\}(?:\{[lcr|]*\})?(.*?)\\end\s*\{\1\}", _rows, text)
    for pattern, to in _COMMAND:
        text = pattern.sub(to, text)
    text = plain(text.replace("\\frac", _FRACTION_MARK)).replace(_FRACTION_MARK, "\\frac").translate(_CHARACTERS)
    text = _REPEATING.sub(_repeating_fraction, text.strip("`"))
    text = _FRACTION_OF_CHINESE.sub(_chinese_fraction, text)
    for pattern, to in _WORDS:
        text = pattern.sub(to, text)
    text = _roots(text.replace("**", "^"))
    text = _DEGREES_MINUTES.sub(lambda m: f"({m[1]}+{m[2]}/60+{m[3] or 0}/3600)°", text)
    if _IN_TRIGONOMETRY.search(text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*°", r"(\1 \\cdot \\frac{\\pi}{180})", text)
    text = text.replace("%", "\\%")
    for pattern, to in _SHORT:
        text = pattern.sub(to, text)
    return " ".join(text.split()).strip(" .;,")


def _rows(match: re.Match[str]) -> str:
    return re.sub(r"\s*\\\\\s*", ", ", match[2].replace("&", " ").strip().removesuffix("\\\\"))


def _repeating_fraction(match: re.Match[str]) -> str:
    """``0.1\\overline{6}`` is 15/90."""
    whole, fixed, repeated = match.groups()
    below = (10 ** len(repeated) - 1) * 10 ** len(fixed)
    return f"\\frac{{{int(whole + fixed + repeated) - int(whole + fixed)}}}{{{below}}}"


def _chinese_fraction(match: re.Match[str]) -> str:
    """``五分之二`` is two fifths."""
    return f"{_chinese(match[2])}/{_chinese(match[1])}"


def _chinese(text: str) -> int:
    total, digit = 0, 0
    for letter in text:
        if letter in "十百":
            total, digit = total + (digit or 1) * (10 if letter == "十" else 100), 0
        else:
            digit = _CHINESE_DIGITS[letter]
    return total + digit


def _roots(text: str) -> str:
    """``√3``, ``√(x+1)``, ``∛2`` and ``sqrt(3)`` as ``\\sqrt{...}``."""
    text = re.sub(r"(?<![A-Za-z\\])sqrt\s*", "√", text)
    for sign, command in (("√", "\\sqrt"), ("∛", "\\sqrt[3]"), ("∜", "\\sqrt[4]")):
        if sign not in text:
            continue
        head, *tails = text.split(sign)
        pieces = [head]
        for tail in tails:
            tail = tail.lstrip()
            if tail.startswith(("(", "{")) and (end := closing(tail, 0)) > 0:
                pieces.append(f"{command}{{{tail[1:end]}}}{tail[end + 1 :]}")
            else:
                length = len(re.match(r"\d*(?:\.\d+)?", tail)[0]) or 1  # type: ignore[index]
                pieces.append(f"{command}{{{tail[:length]}}}{tail[length:]}" if tail else command)
        text = "".join(pieces)
    return text


def closing(text: str, begin: int) -> int:
    """The index of the bracket that closes the one at ``begin``; -1 if none does. ``[1,2)`` closes as well as ``[1,2]``."""
    depth = 0
    for index in range(begin, len(text)):
        depth += (text[index] in _OPEN) - (text[index] in _CLOSE)
        if depth == 0:
            return index
    return -1


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """The pieces of a text between separators that stand outside all brackets; every second piece is a separator."""
    pieces, begin = [], 0
    for match in _outside(text, separator):
        pieces += [text[begin : match.start()].strip(), match[0].strip()]
        begin = match.end()
    return [*pieces, text[begin:].strip()]


def _outside(text: str, separator: re.Pattern[str]) -> Iterator[re.Match[str]]:
    depth, position = 0, 0
    for match in separator.finditer(text):
        for letter in text[position : match.start()]:
            depth += (letter in _OPEN) - (letter in _CLOSE)
        position = match.start()
        if depth == 0:
            yield match


def is_prose(text: str) -> bool:
    """Whether a text has a word: letters of another script, or three letters that are no command, name or abbreviation."""
    bare = re.sub(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+|_\{[^{}]*\}", " ", text)
    if any(
        ord(letter) > 0x2E7F or unicodedata.name(letter, "").startswith(("ARABIC", "CYRILLIC"))
        for letter in bare
        if not letter.isascii()
    ):
        return True
    if re.search(r"(?<![A-Za-z])(?:is|it|es|so|le|la|el)(?![A-Za-z])", bare, re.IGNORECASE):
        return True
    return any(not word.isupper() or len(word) > 4 for word in re.findall(r"[A-Za-zÀ-ÿ]{3,}", bare))
