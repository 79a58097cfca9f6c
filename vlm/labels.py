"""Short texts for things that are counted: the letters of a question's options, and the layers that a result covers."""

from collections.abc import Mapping
from typing import Any


def option_label(index: int) -> str:
    """The label of the option at ``index`` (from 0), as the prompt writes it: A to Z, then AA, AB, as a spreadsheet's columns."""
    label = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        label = chr(ord("A") + digit) + label
    return label


def option_index(label: str) -> int:
    """The index (from 0) of the option with this label of Latin letters, in either case."""
    index = 0
    for letter in label.upper():
        index = 26 * index + ord(letter) - ord("A") + 1
    return index - 1


def coverage_text(coverage: Mapping[str, Any]) -> str:
    """``coverage`` of a result in a few words: ``"1 of 32 layers (8 have attention maps: 24 linear, 8 full)"``."""
    n, of, measurable = len(coverage["layers"]), coverage["of"], coverage["measurable"]
    text = f"{n} of {of} layers"
    if measurable == of:
        return text
    kinds = ", ".join(f"{count} {kind}" for kind, count in coverage["kinds"].items())
    return f"{text} ({measurable} have attention maps: {kinds})"
