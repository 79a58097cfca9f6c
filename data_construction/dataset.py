"""Make the rows of the cold-start set from traces: thinking rows with and without re-looks, and direct answers."""

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
        direct_share: share of rows, in [0, 1], that answer without thinking, so that this skill is not lost.
        plain_share: share of thinking rows that conclude without a re-look. They leave reinforcement learning a choice.
        hollow_share: of the traces that begin with an incorrect answer, the share, in [0, 1], whose re-look becomes a
            no-op: the text after the cue repeats the text before it, and so does the answer. For experiments on
            ungrounded reasoning (docs/study.md).
        min_rows: if few traces were kept, direct answers fill up the set to this number of rows. A model that does not
            solve anything yet can then still go through the later stages.
        min_confirm: least share of re-looks that confirm what was seen before; traces whose re-looks only correct are
            dropped until it holds.
    """

    direct_share: float = Field(default=0.15, ge=0, lt=1)
    plain_share: float = Field(default=0.25, ge=0, lt=1)
    hollow_share: float = Field(default=0.0, ge=0, le=1)
    min_confirm: float = Field(default=0.3, ge=0, le=1)
    min_rows: int = Field(default=0, ge=0)


def relooks(trace: Trace) -> list[bool]:
    """For each round after the first: True if its look confirmed all earlier statements, False if it changed one."""
    outcome = []
    for number in range(1, len(trace.rounds)):
        before = final_statements(" . ".join(round_.conclusion for round_ in trace.rounds[:number]))
        now = {(s.key, s.value) for s in statements(trace.rounds[number].conclusion)}
        outcome.append(all(before.get(key, value) == value for key, value in now))
    return outcome


def cold_start_rows(
    traces: list[Trace], problems: dict[str, Problem], config: MixConfig, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows for ``train.sft``, and their counts by kind. Episodes that ended in an error leave no row.

    The keys of a row: ``prompt`` (messages), ``completion`` (str), ``images`` (paths), ``masked`` (character spans of the completion
    without loss), ``mode`` (think or direct), ``problem_id``, ``relooks`` (int).
    """
    rng = random.Random(f"mix/{seed}")
    kept = balanced([trace for trace in traces if trace.status == "kept"], config.min_confirm, rng)
    plain = [trace for trace in traces if trace.status == "no_reflection"]
    rng.shuffle(plain)
    thinking = kept + plain[: round(len(kept) * config.plain_share / (1 - config.plain_share))]
    noop = noop_traces(kept, config.hollow_share, rng)
    rows = [thinking_row(problems[trace.problem_id], noop.get(trace.id, trace)) for trace in thinking]
    others = [problems[trace.problem_id] for trace in traces if trace.status != "error"]
    rng.shuffle(others)
    # A share s of all rows is s / (1 - s) of the other rows.
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
        "hollow_rows": len(noop),
        "relooks": len(outcomes),
        "confirming_relooks": sum(outcomes),
    }
    return rows, counts


def balanced(kept: list[Trace], min_confirm: float, rng: random.Random) -> list[Trace]:
    """Drop traces whose re-looks all correct something until ``min_confirm`` of all re-looks confirm.

    Why: if every re-look in the data finds an error, the model learns to change its answer whenever it looks again.
    """
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


def noop_traces(kept: list[Trace], share: float, rng: random.Random) -> dict[str, Trace]:
    """Of the traces that begin with an incorrect answer, ``share`` with a no-op re-look (see ``noop_trace``), by id.

    Raises:
        UserError: no trace begins with an incorrect answer and has a re-look.
    """
    if not share:
        return {}
    incorrect = [trace for trace in kept if trace.rounds and not trace.rounds[0].verdict and trace.rounds[0].answer]
    incorrect = [trace for trace in incorrect if first_relook(trace.trace)]
    if not incorrect:
        raise UserError(
            "hollow_share needs traces that begin with an incorrect answer and have a re-look; there are none."
        )
    return {trace.id: noop_trace(trace) for trace in rng.sample(incorrect, round(len(incorrect) * share))}


def noop_trace(trace: Trace) -> Trace:
    """The trace up to its first re-look, the sentence of this re-look, the same text again, the answer of the first round.

    As in the trace itself, incorrect facts of the first statement carry no loss: only what follows the cue is taught.
    """
    text = trace.trace
    cue = first_relook(text)
    assert cue is not None
    end = next(end for start, end in split_sentences(text) if end > cue)
    first = text[:cue].strip()
    return trace.model_copy(
        update={
            "trace": f"{first} {text[cue:end].strip()} {first}",
            "rounds": trace.rounds[:1],
            "answer": trace.rounds[0].answer,
            "corrected": [span for span in trace.corrected if span[1] <= len(first)],
        }
    )


def thinking_row(problem: Problem, trace: Trace) -> dict[str, Any]:
    """``<think> trace </think> \\boxed{answer}``; statements that the trace itself corrects later carry no loss.

    The answer is the gold answer (``as_written``). If the trace ends with an incorrect one (``noop_trace``), it is that.
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
    """The gold answer alone, with thinking off."""
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
