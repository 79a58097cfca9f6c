"""Checks the claims of a trace about its image: against the scene's facts if they are known, else by asking a model.

A claim is a ``key: value`` statement (``B2: red star``) or stands in prose (``the cell B2 holds a red star``). If several are about
one thing, the last one counts, so that a trace is not punished for correcting itself.
"""

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from configs.errors import UserError
from reward.claim_facts import Claim, Scene
from reward.claim_truth import claim_is_true
from reward.judge import one_line
from reward.prose.sentences import SentenceClaims, read_sentences
from reward.prose.words import COLOURS, SHAPES, listed
from reward.statements import Statement, statements
from reward.yes_no import read_yes_no
from vlm.chat import question_messages
from vlm.images import open_image
from vlm.protocol import Backend, BackendError, Request
from vlm.response import find_reasoning, parse_response

MAX_CLAIMS = 40
"""Claims of one trace that are checked (the last ones), so that a trace cannot raise the cost by listing the image ten times."""
MAX_READ = 20_000
"""Characters of a trace that are read (the last ones)."""

_NO_PLACES = listed("""answer note question step conclusion therefore wait so hint result final task problem options option choices
    first second third finally again now ok okay summary check""")
"""Last words of a key that names nothing in an image: ``Final answer: 3``."""

_NO_NAMES = listed("s t ll i we it that this then so if of let me is are was has what which how and but like there")
_NO_VALUES = listed("i we is are was that let need which how what start")
"""Words that a key, or a value, of a statement does not have: they make it a sentence."""


def claims(text: str, facts: Mapping[str, str] | None = None) -> list[Claim]:
    """The claims in a response's reasoning, in order; in the whole response if it has no reasoning. Spans are those of ``text``.

    Of several about one thing only the last one is returned, and of all at most ``MAX_CLAIMS``.

    Args:
        facts: of the image. They decide only how places are named (``the last row``), not what is a claim.
    """
    start, end = span_of_reasoning(text)
    return final_claims(read_claims(text[start:end], facts, start))[-MAX_CLAIMS:]


def span_of_reasoning(text: str) -> tuple[int, int]:
    """The characters of a response in which claims are read."""
    span = find_reasoning(text)
    start, end = (span.start, span.end) if text[span.start : span.end].strip() else (0, len(text))
    return max(start, end - MAX_READ), end


def read_claims(text: str, facts: Mapping[str, str] | None = None, offset: int = 0) -> list[Claim]:
    """All claims of a text by the grammar, in order, also those that are corrected later.

    Args:
        offset: is added to the spans.
    """
    stated, sentences = read_text(text, facts)
    found = sorted(
        [*stated, *(claim for sentence in sentences for claim in sentence.claims)], key=lambda one: one.start
    )
    return [claim._replace(start=claim.start + offset, end=claim.end + offset) for claim in found]


def read_text(text: str, facts: Mapping[str, str] | None = None) -> tuple[list[Claim], list[SentenceClaims]]:
    """(claims of ``key: value`` statements, sentences with their claims in prose). No words are read as both."""
    scene = Scene(facts) if facts else None
    sentences = read_sentences(text, scene)
    prose = [claim for sentence in sentences for claim in sentence.claims]
    kept: list[Claim] = []
    dropped: set[Claim] = set()
    at = 0
    for statement in statements(text):
        claim = _of_statement(text, statement, scene)
        while at < len(prose) and prose[at].end <= claim.start:
            at += 1
        overlapping = []
        for one in prose[at:]:
            if one.start >= claim.end:
                break
            overlapping.append(one)
        names = _names_image(statement.key, scene)
        # "B2: a red star" and "B2: nothing" are better read as prose.
        restated = any(one.subject == claim.subject and one.value != claim.value for one in overlapping)
        if overlapping and claim.kind == "place" and len(claim.subject) == 2 and restated:
            continue
        lists = any(one.kind == "text" or "," in one.value for one in overlapping)
        if overlapping and (lists or not names):
            continue
        if not names and not _is_pair(statement):
            continue
        dropped.update(overlapping)
        kept.append(claim)
    return kept, [
        sentence._replace(claims=tuple(claim for claim in sentence.claims if claim not in dropped))
        for sentence in sentences
    ]


def _is_pair(statement: Statement) -> bool:
    """Whether a statement is a name and what is said of it (``sky: grey``), and no sentence with a colon."""
    key, value = statement.key.split(), statement.value.split()
    sentence = _NO_NAMES.intersection(key) or len(key) > 3 or len(value) > 5 or _NO_VALUES.intersection(value)
    return not sentence and key[-2 if key[-1].isdecimal() else -1 :][0] not in _NO_PLACES


def _names_image(key: str, scene: Scene | None) -> bool:
    """Whether a statement's key has one of the forms that facts are stated in."""
    if (
        re.fullmatch(r"[a-z]\d|row \d|sum of row \d|same (?:colour|shape) at \w+ and \w+", key)
        or key in COLOURS | SHAPES
    ):
        return True
    return scene is not None and (bool(scene.at(key)) or scene.knows(key))


def _of_statement(text: str, statement: Statement, scene: Scene | None) -> Claim:
    """A ``key: value`` statement as a claim; ``words`` are the statement itself."""
    key, value = statement.key, statement.value
    start = max(0, text.rfind(":", 0, statement.start) - len(key))
    words = f"{key}: {value}"
    if re.fullmatch(r"[a-z]\d", key):
        return Claim("place", key.upper(), value, True, start, statement.end, words, key)
    if re.fullmatch(r"row \d", key):
        return Claim("place", key, ", ".join(value.split()), True, start, statement.end, words, key)
    if key.startswith("sum of "):
        return Claim("text", key.removeprefix("sum of "), f"sum {value}", True, start, statement.end, words, key)
    if same := re.fullmatch(r"(same (?:colour|shape)) at (\w+) and (\w+)", key):
        subject, other = same[2].upper(), same[3].upper()
        return Claim("relation", subject, f"{same[1]} as {other}", value == "yes", start, statement.end, words, key)
    if scene is not None and scene.form == "chart" and scene.knows(key):
        return Claim("attribute", f"{key} bar", value, True, start, statement.end, words, key)
    if value.isdecimal():
        return Claim("count", key, value, True, start, statement.end, words, key)
    return Claim("attribute", key, value, True, start, statement.end, words, key)


def final_claims(found: Sequence[Claim]) -> list[Claim]:
    """Of claims about one thing only the last one, in order."""
    last = {topic: place for place, claim in enumerate(found) for topic in _topics(claim)}
    return [claim for place, claim in enumerate(found) if all(last[topic] == place for topic in _topics(claim))]


def _topics(claim: Claim) -> set[tuple[str, ...]]:
    """What a claim is about. A later claim that shares one of these replaces it: an assertion one of the same property, a denial
    one of the same value only (``B2 isn't red, it's blue`` are two claims)."""
    exact = ("exactly", claim.kind, claim.subject.casefold(), claim.value)
    if not claim.polarity and not claim.key:
        return {exact}
    return {exact, *_properties(claim)}


def _properties(claim: Claim) -> set[tuple[str, ...]]:
    kind, subject, value = claim.kind, claim.subject.casefold(), claim.value
    if claim.key:
        return {("key", claim.key)} | ({(subject, slot) for slot in _SLOTS} if kind == "place" else {(kind, subject)})
    if kind == "place":
        if value.startswith("contains "):
            return set()
        if " " in subject:
            return {("key", subject), (subject, "content")}
        return {(subject, slot) for slot in _slots(value)}
    if kind == "attribute":
        return {(kind, subject, slot) for slot in _slots(value)}
    if kind == "relation":
        axis = next((name for names, name in _AXES.items() if any(word in value for word in names)), value.split()[0])
        return {(kind, subject, axis, value.split()[-1])}
    if kind == "text":
        return {(kind, subject, value.split()[0] if value.split()[0].isalpha() else "read")}
    return {(kind, subject)}


_SLOTS = ("colour", "shape", "digit")
_AXES = {("left of", "right of"): "across", ("above", "below"): "down", ("more than", "fewer than", "as many"): "count"}


def _slots(value: str) -> set[str]:
    """Which properties of a thing a value states; of an empty place, all of them."""
    words = set(value.split())
    found = {"colour"} if words & COLOURS else set()
    found |= {"shape"} if words & SHAPES else set()
    found |= {"digit"} if any(word.isdecimal() for word in words) else set()
    return found or (set(_SLOTS) if value in ("none", "occupied") else {value})


def is_true(claim: Claim, facts: Mapping[str, str]) -> bool | None:
    """Whether a claim holds in the scene of ``facts``; None where they cannot tell."""
    if claim.key:
        return claim_holds(claim.key, claim.words[len(claim.key) + 2 :], facts)
    return claim_is_true(claim, facts)


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
"""(paths of the images, key, value) of a claim to ask about; a claim in prose has no key."""

WORDINGS = (
    "Is this so in the image: {claim}? Say yes, no or cannot tell.",
    "Compare the image with this statement: {claim}. Is the statement true or false? If the image does not show it, say cannot tell.",
)
"""Every claim is asked about in both; only two equal answers count."""


def ask_responder(
    backend: Backend, questions: Sequence[Question], unclear: set[Question] | None = None
) -> dict[Question, bool]:
    """Ask a vision-language model about each claim, twice in different words, at temperature 0.

    Args:
        unclear: the claims are added to it on which the two answers differ, or one of them takes no side.

    Returns:
        The claims with two equal answers. Those whose request failed are in neither.

    Raises:
        UserError: the model cannot be asked at all.
    """

    async def ask(question: Question, wording: str) -> bool | None:
        paths, key, value = question
        # The policy wrote the claim: as one JSON string it cannot end the question, nor name an image.
        claim = one_line(f"{key}: {value}" if key else value).replace("<", "\\u003c")
        turns = question_messages(wording.format(claim=claim), len(paths), "direct")
        reply = await backend.complete(Request(turns, [open_image(path) for path in paths], max_tokens=32))
        return read_yes_no(parse_response(reply.text).answer or "")

    async def ask_all() -> list[Any]:
        asked = (ask(question, wording) for question in questions for wording in WORDINGS)
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(ask_all())
    # A claim that fails alone stays unjudged. If all fail, the responder itself is at fault.
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    if failed and len(failed) == len(answers):
        if isinstance(failed[0], BackendError):
            raise UserError(f"The responder of process_claims cannot be asked: {failed[0]}.") from failed[0]
        raise failed[0]
    clear: dict[Question, bool] = {}
    for question, first, second in zip(questions, answers[::2], answers[1::2], strict=True):
        if isinstance(first, BaseException) or isinstance(second, BaseException):
            continue
        if first is not None and first is second:
            clear[question] = first
        elif unclear is not None:
            unclear.add(question)
    return clear
