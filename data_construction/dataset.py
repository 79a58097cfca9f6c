"""Make the rows of the cold-start set from traces: thinking rows with and without re-looks, and direct answers."""

import random
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from configs.errors import UserError
from configs.schema import StrictModel
from data_construction.records import Trace
from data_construction.zooming import TOOL, zoom_messages_of
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


def relooks(trace: Trace) -> tuple[bool, ...]:
    """For each round after the first: True if its look confirmed all earlier statements, False if it changed one."""
    outcome = []
    for number in range(1, len(trace.rounds)):
        before = final_statements(" . ".join(round_.conclusion for round_ in trace.rounds[:number]))
        now = {(s.key, s.value) for s in statements(trace.rounds[number].conclusion)}
        outcome.append(all(before.get(key, value) == value for key, value in now))
    return tuple(outcome)


def cold_start_rows(
    traces: Sequence[Trace], problems: Mapping[str, Problem], config: MixConfig, seed: int, folder: Path | None = None
) -> tuple[Iterator[dict[str, Any]], dict[str, Any]]:
    """The rows for ``train.sft``, and their counts by kind. Episodes that ended in an error leave no row.

    The keys of a row: ``prompt`` (messages), ``completion`` (str), ``images`` (paths), ``masked`` (character spans of the completion
    without loss), ``mode`` (think or direct), ``problem_id``, ``relooks`` (int). What becomes a row is decided now, by the numbers of
    the traces; each row is made when it is asked for. ``folder``: of the build, with the crops that the traces name.

    Raises:
        UserError: as ``choose_noops``.
    """
    rng = random.Random(f"mix/{seed}")
    outcomes: dict[int, tuple[bool, ...]] = {}
    alike: dict[tuple[bool, ...], tuple[bool, ...]] = {}  # of many traces, few outcomes differ
    plain, incorrect, others = array("q"), array("q"), list[str]()
    for number, trace in enumerate(traces):
        if trace.status == "kept":
            outcome = relooks(trace)
            outcomes[number] = alike.setdefault(outcome, outcome)
            if config.hollow_share and begins_incorrect(trace):
                incorrect.append(number)
        elif trace.status == "no_reflection":
            plain.append(number)
        if trace.status != "error":
            others.append(sys.intern(trace.problem_id))
    kept = balanced(outcomes, config.min_confirm, rng)
    rng.shuffle(plain)
    thinking = kept + list(plain[: round(len(kept) * config.plain_share / (1 - config.plain_share))])
    stay = set(kept) if incorrect else set()
    noops = choose_noops([number for number in incorrect if number in stay], config.hollow_share, rng)
    del stay
    rng.shuffle(others)
    # A share s of all rows is s / (1 - s) of the other rows.
    rows = len(thinking)
    n_direct = max(round(rows * config.direct_share / (1 - config.direct_share)), config.min_rows - rows)
    direct = others[:n_direct]
    order: list[int | str] = [*thinking, *direct]  # the number of a thinking row's trace, the problem of a direct row
    rng.shuffle(order)

    def made() -> Iterator[dict[str, Any]]:
        for one in order:
            if isinstance(one, str):
                yield direct_row(problems[one])
            else:
                trace = traces[one]
                yield thinking_row(problems[trace.problem_id], noop_trace(trace) if one in noops else trace, folder)

    counts = {
        "rows": len(order),
        "kept_traces": len(kept),
        "plain_traces": len(thinking) - len(kept),
        "direct_rows": len(direct),
        "hollow_rows": len(noops),
        "relooks": sum(len(outcomes[number]) for number in kept),
        "confirming_relooks": sum(sum(outcomes[number]) for number in kept),
    }
    return made(), counts


def balanced(outcomes: Mapping[int, Sequence[bool]], min_confirm: float, rng: random.Random) -> list[int]:
    """The numbers of the kept traces without those whose re-looks all correct something, until ``min_confirm`` of all re-looks confirm.

    Why: if every re-look in the data finds an error, the model learns to change its answer whenever it looks again.

    Args:
        outcomes: of the re-looks of each kept trace (``relooks``).
    """
    droppable = [number for number, one in outcomes.items() if not any(one)]
    rng.shuffle(droppable)
    dropped = set[int]()
    total, confirming = sum(map(len, outcomes.values())), sum(map(sum, outcomes.values()))
    while droppable and confirming < min_confirm * total:
        number = droppable.pop()
        dropped.add(number)
        total -= len(outcomes[number])
    return [number for number in outcomes if number not in dropped]


def begins_incorrect(trace: Trace) -> bool:
    """Whether a trace begins with an incorrect answer and has a re-look."""
    first = trace.rounds[0] if trace.rounds else None
    return bool(first and not first.verdict and first.answer and first_relook(trace.trace))


def choose_noops(incorrect: list[int], share: float, rng: random.Random) -> set[int]:
    """``share`` of the traces that begin with an incorrect answer and have a re-look, which becomes a no-op (see ``noop_trace``).

    Raises:
        UserError: there is no such trace.
    """
    if share and not incorrect:
        raise UserError(
            "hollow_share needs traces that begin with an incorrect answer and have a re-look; there are none."
        )
    return set(rng.sample(incorrect, round(len(incorrect) * share))) if share else set()


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


def thinking_row(problem: Problem, trace: Trace, folder: Path | None = None) -> dict[str, Any]:
    """``<think> trace </think> \\boxed{answer}``; statements that the trace itself corrects later carry no loss.

    The answer is the gold answer (``as_written``). If the trace ends with an incorrect one (``noop_trace``), it is that. With calls
    of the zoom tool the completion is messages, and the crops, which are in ``folder``, follow the problem's images.
    """
    answer = as_written(problem) if not trace.rounds or trace.rounds[-1].verdict else trace.answer
    if any(zoom.crop for round_ in trace.rounds for zoom in round_.zooms):
        messages, crops = zoom_messages_of(
            trace.trace, trace.rounds, trace.corrected, (OPEN, CLOSE), f"\\boxed{{{answer}}}"
        )
        row = _row(problem, "think", "", masked=[], relooks=max(0, len(trace.rounds) - 1))
        shown = [str((folder or Path()) / crop) for crop in crops]
        return row | {"completion": messages, "images": [*problem.images, *shown], "tools": [TOOL]}
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
