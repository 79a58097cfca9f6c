"""Filters over finished traces: which of them become training rows. They run each time the cold-start set is made."""

import random
import unicodedata
from collections import Counter, defaultdict

from pydantic import Field

from configs.schema import StrictModel
from data_construction.cohesion import NUMBER
from data_construction.reading import repeats, stated_answer
from data_construction.records import Trace
from reward.grade import grade_answer
from reward.statements import statements
from vlm.problem import Problem


class QualityConfig(StrictModel):
    """Limits of the filters.

    Attributes:
        min_words, max_words: of the trace's text.
        script_share: least share of the letters, in [0, 1], that belong to a script of the question (Latin always
            counts). A reasoner that switches to another language in the middle is a common failure.
        near_duplicate: of traces whose question and text have at least this similarity (Jaccard similarity of word
            triples, estimated by MinHash), only the first is kept; 1 turns the filter off.
        max_domain_share: largest share of one domain, in [0, 1]; surplus traces are dropped at random.
    """

    min_words: int = Field(default=3, ge=0)
    max_words: int = Field(default=2000, ge=1)
    script_share: float = Field(default=0.95, ge=0, le=1)
    near_duplicate: float = Field(default=0.9, gt=0, le=1)
    max_domain_share: float = Field(default=1.0, gt=0, le=1)


def filtered(traces: list[Trace], problems: dict[str, Problem], config: QualityConfig, seed: int) -> list[Trace]:
    """All traces, in order; the dropped ones have the status ``filtered`` and the filter's name as ``why``."""
    faults = {trace.id: trace_fault(trace, problems[trace.problem_id], config) for trace in traces}
    good = [trace for trace in traces if trace.status == "kept" and not faults[trace.id]]
    faults |= dict.fromkeys(near_duplicates(good, problems, config.near_duplicate), "near_duplicate")
    good = [trace for trace in good if not faults[trace.id]]
    faults |= dict.fromkeys(surplus(good, problems, config.max_domain_share, seed), "balance")
    return [
        trace.model_copy(update={"status": "filtered", "why": faults[trace.id]}) if faults[trace.id] else trace
        for trace in traces
    ]


def trace_fault(trace: Trace, problem: Problem, config: QualityConfig) -> str:
    """The name of the filter that drops a finished correct trace; "" for none, and for traces of any other status."""
    if trace.status not in ("kept", "no_reflection"):
        return ""
    words = len(trace.trace.split())
    if words < config.min_words or words > config.max_words:
        return "length"
    if repeats(trace.trace):
        return "repeating"
    if foreign_share(trace.trace, problem.question) > 1 - config.script_share:
        return "language"
    stated = stated_answer(trace.trace)
    if stated is not None and grade_answer(problem, stated).score == 0.0:
        return "answer"  # a partly correct or unjudged answer is no contradiction
    if unseen_facts(trace, problem):
        return "facts"
    return ""


def unseen_facts(trace: Trace, problem: Problem) -> list[str]:
    """Facts of a trace that are in no reply: its ``place: what`` statements, and its numbers.

    A trace may repeat the question and the requests. It may also state what a round concludes from facts that were seen:
    ``row 1: red none red; red: 2`` where the round's answer is 2.
    """
    told = [problem.question, *(problem.choices or []), *(round_.request for round_ in trace.rounds)]
    seen = " . ".join([*told, *(round_.reply for round_ in trace.rounds)])
    known = {(statement.key, statement.value) for statement in statements(seen)}
    for round_ in trace.rounds:
        concluded = {(statement.key, statement.value) for statement in statements(round_.conclusion)}
        if concluded & known:
            known |= {(key, value) for key, value in concluded if value == (round_.answer or "").strip().lower()}
    unseen = [f"{s.key}: {s.value}" for s in statements(trace.trace) if (s.key, s.value) not in known]
    transcript = f"{seen} {' '.join(round_.conclusion for round_ in trace.rounds)}"
    return unseen + sorted(set(NUMBER.findall(trace.trace)) - set(NUMBER.findall(transcript)))


def foreign_share(text: str, question: str) -> float:
    """The share of letters in ``text`` that belong to no script of the question."""
    known = {"LATIN", *map(script, filter(str.isalpha, question))}
    letters = Counter(map(script, filter(str.isalpha, text)))
    total = letters.total()
    return sum(n for name, n in letters.items() if name not in known) / total if total else 0.0


def script(letter: str) -> str:
    """``LATIN``, ``CJK``, ``CYRILLIC``, ...: the first word of a letter's Unicode name."""
    return unicodedata.name(letter, "UNKNOWN").split(" ", 1)[0]


def near_duplicates(traces: list[Trace], problems: dict[str, Problem], similarity: float) -> list[str]:
    """Ids of the traces whose question and text repeat an earlier trace, by MinHash over word triples."""
    if similarity >= 1 or not traces:
        return []
    from datasketch import MinHash, MinHashLSH

    index, repeated = MinHashLSH(threshold=similarity, num_perm=128), []
    sketches: dict[str, MinHash] = {}
    for trace in traces:
        words = f"{problems[trace.problem_id].question} {trace.trace}".lower().split()
        triples = {" ".join(words[at : at + 3]).encode() for at in range(max(1, len(words) - 2))}
        sketch = MinHash(num_perm=128)
        sketch.update_batch(triples)
        # The index returns candidates that may lie below the threshold; the sketches decide.
        if any(sketch.jaccard(other) >= similarity for other in map(sketches.__getitem__, index.query(sketch))):
            repeated.append(trace.id)
        else:
            index.insert(trace.id, sketch)
            sketches[trace.id] = sketch
    return repeated


def surplus(traces: list[Trace], problems: dict[str, Problem], share: float, seed: int) -> list[str]:
    """Ids of randomly chosen traces to drop, so that no domain has more than ``share`` of the rest.

    If there are too few domains for this (two cannot both stay below 0.4), all are cut to the size of the smallest.
    """
    ids: dict[str, list[str]] = defaultdict(list)
    for trace in traces:
        ids[problems[trace.problem_id].domain].append(trace.id)
    sizes = [len(one) for one in ids.values()]
    if share >= 1 or len(sizes) < 2:
        return []
    fits = (cap for cap in range(max(sizes), min(sizes), -1) if cap <= share * sum(min(size, cap) for size in sizes))
    cap = next(fits, min(sizes))
    rng = random.Random(f"balance/{seed}")
    return [trace_id for one in ids.values() if len(one) > cap for trace_id in rng.sample(one, len(one) - cap)]
