"""Cohesion rewrite: a finished transcript becomes one first-person trace whose re-looks are rounds that really happened."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Literal

from data_construction.reading import repeats, stated_answer
from data_construction.records import Round
from data_construction.sources import FACT_WORDS
from reward.grade import Gold, grade_answer
from reward.statements import final_statements, statements
from vlm.problem import Problem
from vlm.response import count_looks

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
    """The trace, and who wrote it: the text model where its rewrite changed nothing, else a template."""
    for attempt in range(repairs + 1):
        text = " ".join((await ask(rounds, attempt)).split())
        # In a thread: an answer that is an expression may take seconds to compare.
        if not await asyncio.to_thread(rewrite_fault, text, problem, rounds):
            return text, "model"
    return template(rounds), "template"


def rewrite_fault(text: str, problem: Problem, rounds: list[Round]) -> str:
    """What is wrong with a rewrite, in words; empty where nothing is.

    A rewrite may drop words but no fact: every statement, number and word of value in it stands in the transcript or the
    question, what it states last of a place is what was seen there last, the answer that it gives (it need not give
    one) is the one that was concluded, and it goes back to the image once for every round after the first.
    """
    said = [f"{round_.reply} . {round_.conclusion}" for round_ in rounds]
    transcript = " . ".join(said)
    if not text or "\\boxed" in text:
        return "empty, or with a final box"
    if repeats(text):
        return "goes in circles"
    if len(text) > 2 * len(transcript) + 200:
        return "longer than the transcript allows"
    if count_looks(text) != len(rounds) - 1:
        return f"goes back to the picture {count_looks(text)} times, where {len(rounds) - 1} re-looks happened"
    known = {(statement.key, statement.value) for statement in statements(transcript)}
    for statement in statements(text):
        if (statement.key, statement.value) not in known:
            return f"states '{statement.key}: {statement.value}', which nobody saw"
    last = final_statements(" . ".join(round_.conclusion for round_ in rounds))
    if final_statements(text) != last:
        return "what it states last is not what was seen last"
    given = f"{problem.question} {' '.join(problem.choices or [])} {transcript} {rounds[-1].answer}"
    for kind, pattern in (("number", NUMBER), ("word", VALUES)):
        if new := set(pattern.findall(text.lower())) - set(pattern.findall(given.lower())):
            return f"has a {kind} that nobody said: {min(new)}"
    stated = stated_answer(text)
    concluded = Gold(problem.domain, rounds[-1].answer or "", problem.choices)
    if stated is not None and not grade_answer(concluded, stated).correct:
        return f"gives another answer: {stated}"
    return ""


def template(rounds: list[Round]) -> str:
    """The rounds joined with plain words; the fallback where no rewrite kept the facts."""
    parts = [_seen(rounds[0])]
    for number, round_ in enumerate(rounds[1:]):
        parts += [CUES[number % len(CUES)], _seen(round_)]
    return " ".join(parts)


def _seen(round_: Round) -> str:
    """The conclusion, with the reply before it where the conclusion does not restate it."""
    restated = {(s.key, s.value) for s in statements(round_.reply)} <= {
        (s.key, s.value) for s in statements(round_.conclusion)
    }
    if restated and statements(round_.reply):
        return round_.conclusion
    return f"{round_.reply.rstrip('. ')}. {round_.conclusion}"
