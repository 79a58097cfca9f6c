"""The option that an answer names, by its letter or by its words."""

import re

from reward.parsing import plain
from reward.quantity import canonical


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
    exact = [index for index, option in enumerate(choices) if option.strip() == gold.strip()]
    if len(exact) > 1:
        return None
    return exact[0] if exact else read_option(gold, choices)
