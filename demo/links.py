"""Links that ask a question again: ``?example=count``, with the other settings where they are not the first ones.

An image of the visitor's own is never part of a link. Such a link brings the question, and the page asks for the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode

from configs.errors import UserError
from demo.image_store import Example, ImageStore
from vlm.reasoning import EFFORTS, MAX_VOTES

MAX_LINK = 4_000
"""Characters of a link. Browsers and proxies take longer ones, but not all."""
DEFAULT_EFFORT, DEFAULT_VOTES = "medium", 1


@dataclass(frozen=True)
class Linked:
    """What a link asks for.

    Attributes:
        example: the example whose image it names; None if the visitor has to choose an image.
    """

    example: Example | None
    question: str
    model: str
    effort: str
    votes: int


def make_link(linked: Linked, first_model: str) -> str | None:
    """The link, relative to the page's own address; None if the question is too long for one."""
    example = linked.example
    values: dict[str, Any] = {}
    if example is not None:
        values["example"] = example.name
    if example is None or linked.question != example.question:
        values["question"] = linked.question
    for key, first in (("model", first_model), ("effort", DEFAULT_EFFORT), ("votes", DEFAULT_VOTES)):
        if getattr(linked, key) != first:
            values[key] = getattr(linked, key)
    link = "?" + urlencode(values)
    return link if len(link) <= MAX_LINK else None


def read_link(query: object, store: ImageStore, models: Sequence[str]) -> Linked:
    """What the query of the page's address asks for; it is untrusted.

    Raises:
        UserError: names what the page does not have.
    """
    if not isinstance(query, str) or len(query) > MAX_LINK:
        raise UserError("The link is too long to be one of this page: type the question.")
    try:
        found = {key: values[0] for key, values in parse_qs(query.removeprefix("?"), max_num_fields=20).items()}
    except ValueError:
        raise UserError("The link cannot be read: choose an example, or type the question.") from None
    example = None
    if "example" in found:
        example = next((one for one in store.examples if one.name == found["example"]), None)
        if example is None:
            names = ", ".join(one.name for one in store.examples)
            raise UserError(f"The link names an example that this page does not have: it has {names}.")
    question = found.get("question") or (example.question if example is not None else "")
    model = found.get("model", models[0])
    if model not in models:
        raise UserError(f"The link names a model that is not offered here: this page has {', '.join(models)}.")
    effort, votes = found.get("effort", DEFAULT_EFFORT), found.get("votes", str(DEFAULT_VOTES))
    if effort not in EFFORTS or not votes.isascii() or not votes.isdigit() or not 1 <= int(votes[:4]) <= MAX_VOTES:
        raise UserError("The link names an effort or a number of votes that this page does not have.")
    return Linked(example, question, model, effort, int(votes))
