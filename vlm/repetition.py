"""Whether a text ends in a loop: the same words over and over. Pure Python.

A model that falls into a loop writes to the end of its budget. Stopping it early saves that time, but a list or a table may
repeat itself too, so that the rule asks for more the less is said:

    what the text ends in                           is a loop from
    copies of a sentence (four words or more)       6 copies and 300 characters, or 4 copies if it has 200 characters
    at most three words, in any order ("red, red")  150 words: a table of 12 x 12 words has 144
    copies of something without a word ("0 0 0")    900 characters; also of words without a space between them
"""

import re

WINDOW = 6_000
"""Characters at the end of a text that are read."""
SENTENCE = 4
COPIES, LONG_COPIES, LONG_UNIT = 6, 4, 200
SENTENCES, NO_WORDS = 300, 900
WORDS = 150
# Of a script that separates no words, each character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]{2,}")


def repeats_itself(text: str) -> bool:
    """Whether ``text`` ends in a loop by the rule above; the last copy may be incomplete."""
    tail = text[-WINDOW:].rstrip()
    last = re.findall(r"\w+", tail.lower())[-WORDS:]
    if len(last) == WORDS and len(set(last)) < SENTENCE and any(word[0].isalpha() for word in last):
        return True
    tail = tail[::-1]
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
        # Words with spaces between them are counted above; "starstarstar" has none.
        return WINDOW + 1 if words and any(letter.isspace() for letter in unit) else NO_WORDS
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
