"""Whether a text ends in a loop: the same words over and over. Pure Python.

A model that falls into a loop writes to the end of its budget. Stopping it early saves that time, but a list or a table may
repeat itself too, so that the rule asks for more copies the less a unit says:

    unit                                     is a loop from
    a sentence (``SENTENCE`` words or more)  6 copies and 300 characters, or 4 copies if it has 200 characters
    a word or a few ("red circle, ")         600 characters: a table of 8 x 8 equal cells is shorter
    no word at all ("0 0 0", "| 7 ")         1,200 characters
"""

import re

WINDOW = 6_000
"""Characters at the end of a text that are read."""
SENTENCE = 4
COPIES, LONG_COPIES, LONG_UNIT = 6, 4, 200
SENTENCES, FEW_WORDS, NO_WORDS = 300, 600, 1_200
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]{2,}"
)  # a character, where no spaces separate words


def repeats_itself(text: str) -> bool:
    """Whether ``text`` ends in copies of one unit, the last of which may be incomplete, that are a loop by the rule above."""
    tail = text[-WINDOW:].rstrip()[::-1]
    needed: dict[int, int] = {}
    for length, period in enumerate(_periods(tail), start=1):
        if length < SENTENCES or length < LONG_COPIES * period:
            continue
        if period not in needed:
            needed[period] = _needed(tail[:period])
        if length >= needed[period]:
            return True
    return False


def _needed(unit: str) -> int:
    """The number of characters from which copies of ``unit`` (in either direction) are a loop."""
    words = len({word.lower() for word in _WORD.findall(unit + unit)})  # twice: a unit may begin inside a word
    if words < SENTENCE:
        return max(COPIES * len(unit), FEW_WORDS if words else NO_WORDS)
    return max((LONG_COPIES if len(unit) >= LONG_UNIT else COPIES) * len(unit), SENTENCES)


def _periods(text: str) -> list[int]:
    """The smallest period of every prefix, by the prefix function of Knuth, Morris and Pratt, in linear time."""
    borders = [0] * len(text)
    for place in range(1, len(text)):
        border = borders[place - 1]
        while border and text[place] != text[border]:
            border = borders[border - 1]
        borders[place] = border + (text[place] == text[border])
    return [length - border for length, border in enumerate(borders, start=1)]
