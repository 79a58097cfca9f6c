"""Traces become the rows of the cold-start set: thinking rows with and without re-looks, and direct answers."""

import random
from typing import Any

from pydantic import Field

from configs.errors import UserError
from configs.schema import StrictModel
from data_construction.records import Trace
from reward.grade import as_written
from reward.statements import final_statements, statements
from vlm.chat import question_messages
from vlm.problem import Problem
from vlm.response import first_relook, split_sentences

OPEN, CLOSE = "<think> ", " </think> "


class MixConfig(StrictModel):
    """What the cold-start set is made of.

    Attributes:
        direct_share: share of rows, in [0, 1], that answer at once (thinking off), so that this skill is not lost.
        plain_share: share of thinking rows that conclude without a re-look. They leave reinforcement learning a choice.
        hollow_share: share, in [0, 1], of the traces that begin wrong whose re-look is made no-op: what follows the cue
            repeats what stood before it, and so does the answer. For experiments on ungrounded reasoning (docs/study.md).
        min_rows: fill up with direct answers to so many rows where few traces were kept, so that a model that does
            not yet solve anything can still be taken through the later stages.
        min_confirm: least share of re-looks that confirm what was seen before; corrected traces are dropped until it holds.
    """

    direct_share: float = Field(default=0.15, ge=0, lt=1)
    plain_share: float = Field(default=0.25, ge=0, lt=1)
    hollow_share: float = Field(default=0.0, ge=0, le=1)
    min_confirm: float = Field(default=0.3, ge=0, le=1)
    min_rows: int = Field(default=0, ge=0)


def relooks(trace: Trace) -> list[bool]:
    """For every round after the first: did the look confirm all that was stated before (True) or change something?"""
    outcome = []
    for number in range(1, len(trace.rounds)):
        before = final_statements(" . ".join(round_.conclusion for round_ in trace.rounds[:number]))
        now = {(s.key, s.value) for s in statements(trace.rounds[number].conclusion)}
        outcome.append(all(before.get(key, value) == value for key, value in now))
    return outcome


def cold_start_rows(
    traces: list[Trace], problems: dict[str, Problem], config: MixConfig, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows for ``train.sft`` and what they consist of. Episodes that ended in an error leave no row.

    A row: ``prompt`` (messages), ``completion`` (str), ``images`` (paths), ``masked`` (character spans of the completion
    without loss), ``mode`` (think or direct), ``problem_id``, ``relooks`` (int).
    """
    rng = random.Random(f"mix/{seed}")
    kept = balanced([trace for trace in traces if trace.status == "kept"], config.min_confirm, rng)
    plain = [trace for trace in traces if trace.status == "no_reflection"]
    rng.shuffle(plain)
    thinking = kept + plain[: round(len(kept) * config.plain_share / (1 - config.plain_share))]
    hollow = hollowed(kept, config.hollow_share, rng)
    rows = [thinking_row(problems[trace.problem_id], hollow.get(trace.id, trace)) for trace in thinking]
    others = [problems[trace.problem_id] for trace in traces if trace.status != "error"]
    rng.shuffle(others)
    n_direct = max(round(len(rows) * config.direct_share / (1 - config.direct_share)), config.min_rows - len(rows))
    direct = [direct_row(problem) for problem in others[:n_direct]]
    rows += direct
    rng.shuffle(rows)
    outcomes = [outcome for trace in kept for outcome in relooks(trace)]
    counts = {
        "rows": len(rows),
        "kept_traces": len(kept),
        "plain_traces": len(thinking) - len(kept),
        "direct_rows": len(direct),
        "hollow_rows": len(hollow),
        "relooks": len(outcomes),
        "confirming_relooks": sum(outcomes),
    }
    return rows, counts


def balanced(kept: list[Trace], min_confirm: float, rng: random.Random) -> list[Trace]:
    """Drop traces whose re-looks all correct something until ``min_confirm`` of all re-looks confirm."""
    outcomes = {trace.id: relooks(trace) for trace in kept}
    droppable = [trace for trace in kept if not any(outcomes[trace.id])]
    rng.shuffle(droppable)
    chosen = dict.fromkeys(trace.id for trace in kept)
    total, confirming = sum(map(len, outcomes.values())), sum(map(sum, outcomes.values()))
    while droppable and confirming < min_confirm * total:
        trace = droppable.pop()
        del chosen[trace.id]
        total -= len(outcomes[trace.id])
    return [trace for trace in kept if trace.id in chosen]


def hollowed(kept: list[Trace], share: float, rng: random.Random) -> dict[str, Trace]:
    """``share`` of the traces that begin wrong, made no-op (see ``repeating``), by their id.

    Raises:
        UserError: there is no trace to make no-op ones of.
    """
    if not share:
        return {}
    begun_wrong = [trace for trace in kept if trace.rounds and not trace.rounds[0].verdict and trace.rounds[0].answer]
    begun_wrong = [trace for trace in begun_wrong if first_relook(trace.trace)]
    if not begun_wrong:
        raise UserError("hollow_share needs traces that begin wrong and look again.")
    return {trace.id: repeating(trace) for trace in rng.sample(begun_wrong, round(len(begun_wrong) * share))}


def repeating(trace: Trace) -> Trace:
    """What the trace says first; its first sentence that goes back; the same again; and the answer of its first round.

    There is no loss on what is wrong in the first statement, as in the trace itself: what is done after the cue is taught.
    """
    text = trace.trace
    cue = first_relook(text)
    assert cue is not None
    end = next(end for start, end in split_sentences(text) if end > cue)
    said = text[:cue].strip()
    return trace.model_copy(
        update={
            "trace": f"{said} {text[cue:end].strip()} {said}",
            "rounds": trace.rounds[:1],
            "answer": trace.rounds[0].answer,
            "corrected": [span for span in trace.corrected if span[1] <= len(said)],
        }
    )


def thinking_row(problem: Problem, trace: Trace) -> dict[str, Any]:
    """``<think> trace </think> \\boxed{answer}``; no loss on what the trace itself takes back later.

    The answer is the gold answer (``as_written``); of a trace that ends wrong (``repeating``) its own.
    """
    answer = as_written(problem) if not trace.rounds or trace.rounds[-1].verdict else trace.answer
    return _row(
        problem,
        "think",
        f"{OPEN}{trace.trace}{CLOSE}\\boxed{{{answer}}}",
        masked=[[start + len(OPEN), end + len(OPEN)] for start, end in trace.corrected],
        relooks=max(0, len(trace.rounds) - 1),
    )


def direct_row(problem: Problem) -> dict[str, Any]:
    """The gold answer alone, in thinking-off mode."""
    return _row(problem, "direct", f"\\boxed{{{as_written(problem)}}}", masked=[], relooks=0)


def _row(problem: Problem, mode: str, completion: str, masked: list[list[int]], relooks: int) -> dict[str, Any]:
    return {
        "prompt": question_messages(problem.question, len(problem.images), style=mode, choices=problem.choices),
        "completion": completion,
        "images": problem.images,
        "masked": masked,
        "mode": mode,
        "problem_id": problem.id,
        "relooks": relooks,
    }
