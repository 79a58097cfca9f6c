"""Checks the claims of a trace about its image: against the scene's facts if they are known, else by asking a model.

A claim is a ``key: value`` statement (``B2: red star``). If several have the same key, the last one counts, so that a trace is
not punished for correcting itself.
"""

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from configs.errors import UserError
from reward.statements import final_statements
from reward.yes_no import read_yes_no
from vlm.chat import question_messages
from vlm.images import open_image
from vlm.protocol import Backend, BackendError, Request
from vlm.response import parse_response

MAX_CLAIMS = 40
"""Claims of one trace that are checked (the last ones), so that a trace cannot raise the cost by listing the image ten times."""


def claims(text: str) -> dict[str, str]:
    """Key -> value of the claims in a response's reasoning; in the whole response if it has no reasoning."""
    found = final_statements((parse_response(text).reasoning or text)[-20_000:])
    return dict(list(found.items())[-MAX_CLAIMS:])


def claim_holds(key: str, value: str, facts: Mapping[str, str], words: Collection[str] | None = None) -> bool | None:
    """Whether ``key: value`` holds in the scene of ``facts`` (place -> what is there); None if it is not about the scene.

    ``row 2: red none blue`` holds if every word is the colour, shape or content of its place; ``B2: red`` and
    ``B2: red star`` likewise. Of a whole image: ``red: 3``, ``sum of row 2: 14``, ``same colour at A1 and B2: yes``.

    Args:
        words: words whose count can be claimed; by default those that occur in the facts.
    """
    facts = {place: fact.casefold() for place, fact in facts.items() if fact.strip()}  # as claims are read
    places = {place.lower(): place for place in facts}
    if key in places:
        return fits(value, facts[places[key]])
    if key in (words if words is not None else {word for fact in facts.values() for word in fact.split()}):
        return value == str(sum(key in fact.split() for fact in facts.values()))
    grid = all(re.fullmatch(r"[A-Z]\d", place) for place in facts)
    if grid and (summed := re.fullmatch(r"sum of row (\d)", key)) and all(map(str.isdecimal, facts.values())):
        return value == str(sum(int(fact) for place, fact in facts.items() if place[1:] == summed[1]))
    if (pair := re.fullmatch(r"same (colour|shape) at (\w+) and (\w+)", key)) and {pair[2], pair[3]} <= set(places):
        pair_words = [facts[places[place]].split()[0 if pair[1] == "colour" else -1] for place in (pair[2], pair[3])]
        return value == ("yes" if pair_words[0] == pair_words[1] else "no")
    if grid and key.startswith("row "):
        row = sorted(place for place in facts if place[1:] == key.removeprefix("row "))
        contents = value.split()
        fit = len(contents) == len(row) and all(map(fits, contents, (facts[place] for place in row)))
        return bool(row) and fit
    return None


def fits(value: str, fact: str) -> bool:
    """Whether a claim names what is there, or a word of it."""
    return value == fact or value in fact.split()


Question = tuple[tuple[str, ...], str, str]
"""(paths of the images, key, value) of a claim to ask about."""


def ask_responder(backend: Backend, questions: Sequence[Question]) -> dict[Question, bool]:
    """Ask a vision-language model about each claim, at temperature 0; claims without a clear yes or no are left out.

    Raises:
        UserError: the model cannot be asked at all.
    """

    async def ask(question: Question) -> bool | None:
        paths, key, value = question
        turns = question_messages(f'Is this so in the picture: "{key}: {value}"? Say yes or no.', len(paths), "direct")
        reply = await backend.complete(Request(turns, [open_image(path) for path in paths], max_tokens=32))
        return read_yes_no(parse_response(reply.text).answer or "")

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*map(ask, questions), return_exceptions=True)

    answers = asyncio.run(ask_all())
    # A claim that fails alone stays unjudged. If all fail, the responder itself is at fault.
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    if failed and len(failed) == len(answers):
        if isinstance(failed[0], BackendError):
            raise UserError(f"The responder of process_claims cannot be asked: {failed[0]}.") from failed[0]
        raise failed[0]
    return {question: answer for question, answer in zip(questions, answers, strict=True) if isinstance(answer, bool)}
