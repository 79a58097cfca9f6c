"""The text of short answers, without its dress: one kind of minus, wrappers opened, what does not matter left out.

Pure functions that never raise, in time linear in the text. What the text says is read by ``quantity``, ``options``, ``yes_no`` and
``structures``.
"""

import re
import unicodedata

MAX_CHARACTERS = 2_000
"""Longer answers are incorrect without being read: no gold answer is that long, and no parser should meet 1 MB of braces."""

# One kind of minus; powers and fractions before NFKC makes "x2" of "x²" and "21/2" of "2½".
_SIGNS = str.maketrans(dict.fromkeys("−–—‐‑﹣－", "-") | {"\u00a0": " ", "⁄": "/"})
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
IN_BRACES = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
_LATEX_WRAPPER = re.compile(
    r"\\(?:text|mathrm|mathbf|textbf|textit|emph|mathit|operatorname|boxed|mbox)\s*" + IN_BRACES
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.]{1,40})\s*\}\s*\{\s*([\d.]{1,40})\s*\}")  # of numbers alone
_SHORT_FRACTION = re.compile(r"\\[dt]?frac\s*(\d)\s*(\d)(?!\d)")
EMPHASIS = re.compile(r"(?<![A-Za-z\d)*])(\*{1,2})(?=[^\s*])([^*\n]{1,200})(?<!\s)\1(?![A-Za-z\d(*])")  # no 2**3
"""Markdown's ``*emphasis*`` and ``**bold**``; what is inside is group 2."""
_MONEY = {"\\pounds": "£", "\\textsterling": "£", "\\euro": "€", "\\texteuro": "€", "\\yen": "¥", "\\textyen": "¥"}
_MONEY_COMMAND = re.compile(r"\\(?:pounds|(?:text)?(?:sterling|euro|yen))(?![A-Za-z])")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")


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
    if "\\" in text:
        text = _MONEY_COMMAND.sub(lambda match: _MONEY.get(match[0], match[0]), text)
    text = re.sub(r"\\(?=\.)|\\[()\[\]]|(?<!\\)\\[,;:! ]|\\left(?![a-z])|\\right(?![a-z])|\\?\$|~", " ", text).replace(
        "\\%", "%"
    )
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
