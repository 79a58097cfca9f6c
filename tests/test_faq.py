"""The FAQ quotes messages: what it quotes must still be what the code says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("configs", "vlm", "reward", "data_construction", "eval", "train", "demo", "reflection_v")
# What stands for a value in the FAQ: a quoted word, a capital, a number, a name with a sign in it (optimizer.pt, MY_KEY).
VALUE = re.compile(r"'[^']*'|\b[A-Z]+\b(?![a-z])|\b\S*\d\S*|\w+[@_.=]\w\S*|\.\.\.|GiB|[^\w\s'-]|\b(?:gradio|wandb)\b")


def clauses(text: str) -> list[list[str]]:
    """The words of a message, in one list for each stretch without a value or a punctuation mark."""
    return [part.split() for part in VALUE.sub("|", text).split("|") if part.split()]


def threes(text: str) -> set[str]:
    """Every three words in a row (a shorter clause as it is)."""
    return {
        " ".join(words[i : i + 3])
        for words in clauses(text)
        for i in range(max(1, len(words) - 2))
        if len(words) > 1 or len(words[0]) > 7
    }


def literals() -> str:
    """Every string of the packages, an f-string as one text with its values left out."""
    found = []
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join("|".join(" ".join(words) for words in clauses(text)) for text in found)


SAID = literals()
ROWS = [row for row in (ROOT / "docs" / "faq.md").read_text().splitlines() if row.startswith("| `")]
MESSAGES = [message for row in ROWS for message in re.findall(r"`([^`]*)`", row.split(" | ")[0])]


def missing(message: str) -> set[str]:
    return {words for words in threes(message) if words not in SAID}


@pytest.mark.parametrize("message", MESSAGES)
def test_the_code_says_what_the_faq_quotes(message: str) -> None:
    """Two thirds of the word triples, since a message may be put together from two strings."""
    assert threes(message), f"nothing to compare in {message}"
    assert len(missing(message)) <= len(threes(message)) / 3, missing(message)


def test_a_message_that_nobody_says_is_found() -> None:
    assert missing("The photograph X was eaten by a dog: feed it.") >= {"was eaten by", "eaten by a", "by a dog"}
