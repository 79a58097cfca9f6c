"""The cohesion rewrite: a finished transcript becomes one first-person trace. Each of its re-looks is a round that took place."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Literal

from data_construction.reading import repeats, stated_answer
from data_construction.records import Round
from data_construction.sources import FACT_WORDS
from data_construction.zooming import early_fact
from reward.grade import Gold, grade_answer
from reward.statements import final_statements, statements
from vlm.problem import Problem
from vlm.response import relook_starts, split_sentences

NUMBER = re.compile(r"\d+(?:\.\d+)?")
NUMBER_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "none")
VALUES = re.compile(rf"\b(?:{'|'.join((*FACT_WORDS, *NUMBER_WORDS))})\b")
"""Words that carry a fact wherever they stand. Without this check a rewrite in prose could swap one unnoticed."""
CUES = (
    "Wait, let me look at the picture again.",
    "Let me check that in the picture once more.",
    "Hold on, I look at the picture again.",
)


async def first_person(
    ask: Callable[[list[Round], int], Awaitable[str]], problem: Problem, rounds: list[Round], repairs: int
) -> tuple[str, Literal["model", "template"]]:
    """The trace and its author: the text model if its rewrite keeps all facts, else a template."""
    for attempt in range(repairs + 1):
        text = " ".join((await ask(rounds, attempt)).split())
        # In a thread: comparing expressions may take seconds, and the other episodes must go on.
        if not await asyncio.to_thread(rewrite_fault, text, problem, rounds):
            return text, "model"
    return template(rounds), "template"


def rewrite_fault(text: str, problem: Problem, rounds: list[Round]) -> str:
    """The fault of a rewrite, in words; "" if it has none.

    A rewrite may drop words but must not change facts. Each of its statements, numbers and ``VALUES`` is in the transcript
    or the question. Its last statement about a place is the last one concluded there. If it gives an answer, this is the
    one that was concluded. It has one re-look for each round after the first, states nothing before the look that showed it,
    and tells something of what each re-look showed. Of a crop it tells nothing before the call that brought it.
    """
    transcript = " . ".join(f"{round_.reply} . {round_.conclusion}" for round_ in rounds)
    if not text or "\\boxed" in text:
        return "is empty, or has a final box"
    if repeats(text):
        return "repeats itself"
    if len(text) > 2 * len(transcript) + 200:
        return "is far longer than the transcript"
    starts = relook_starts(text)
    if len(starts) != len(rounds) - 1:
        return f"has {len(starts)} re-looks for {len(rounds) - 1} rounds after the first"
    known = {(statement.key, statement.value) for statement in statements(transcript)}
    for statement in statements(text):
        if (statement.key, statement.value) not in known:
            return f"states '{statement.key}: {statement.value}', which the transcript does not"
    if fault := _order_fault(text, starts, rounds):
        return fault
    last = final_statements(" . ".join(round_.conclusion for round_ in rounds))
    if final_statements(text) != last:
        return "its last statements are not those of the last conclusions"
    given = f"{problem.question} {' '.join(problem.choices or [])} {transcript} {rounds[-1].answer}"
    for kind, pattern in (("number", NUMBER), ("word", VALUES)):
        if new := set(pattern.findall(text.lower())) - set(pattern.findall(given.lower())):
            return f"has a {kind} that is not in the transcript: {min(new)}"
    options = f"{problem.question} {' '.join(problem.choices or [])}"
    if early := early_fact(text, options, rounds, (NUMBER, VALUES)):
        return f"tells '{early}' before the call that brought the crop with it"
    stated = stated_answer(text)
    answer = rounds[-1].answer or ""
    concluded = Gold(problem.domain, answer, problem.choices, problem.decimal, problem.question)
    if stated is not None and not grade_answer(concluded, stated).correct:
        return f"gives another answer: {stated}"
    return ""


def _order_fault(text: str, starts: list[int], rounds: list[Round]) -> str:
    """The fault of the part of a rewrite before its first re-look, or from one to the next; "" if each fits its round."""
    shown: set[tuple[str, str]] = set()
    for round_, start, end in zip(rounds, [0, *starts], [*starts, len(text)], strict=True):
        part = text[start:end]
        shown |= {(statement.key, statement.value) for statement in statements(f"{round_.reply} . {round_.conclusion}")}
        for statement in statements(part):
            if (statement.key, statement.value) not in shown:
                return f"states '{statement.key}: {statement.value}' before the look that showed it"
        told = _said_words(f"{round_.reply} {round_.conclusion}") - _said_words(round_.request)
        if len(split_sentences(part)) < 2 and told and not told & _said_words(part):
            return f"tells nothing of the look '{part.strip()[:60]}'"
    return ""


def _said_words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def template(rounds: list[Round]) -> str:
    """The rounds joined by cues; the fallback if no rewrite keeps the facts."""
    parts = [_seen(rounds[0])]
    for number, round_ in enumerate(rounds[1:]):
        parts += [CUES[number % len(CUES)], _seen(round_)]
    return " ".join(parts)


def _seen(round_: Round) -> str:
    """The conclusion; if it does not restate the reply, the reply comes before it."""
    restated = {(s.key, s.value) for s in statements(round_.reply)} <= {
        (s.key, s.value) for s in statements(round_.conclusion)
    }
    if restated and statements(round_.reply):
        return round_.conclusion
    return f"{round_.reply.rstrip('. ')}. {round_.conclusion}"
