"""Filters over finished traces: which of them become training rows. They run each time the cold-start set is made."""

import hashlib
import random
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from configs.schema import StrictModel
from data_construction.cohesion import NUMBER
from data_construction.reading import repeats, stated_answer
from data_construction.records import Trace
from reward.grade import grade_answer
from reward.statements import statements
from vlm.problem import Problem

PERMUTATIONS = 128
"""Of a MinHash sketch."""


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


def filter_traces(
    traces: Sequence[Trace], problems: Mapping[str, Problem], config: QualityConfig, seed: int
) -> dict[str, str]:
    """Id of each trace that is dropped -> the name of the filter that drops it. The first traces win over their repetitions."""
    faults: dict[str, str] = {}
    good = array("q")
    for number, trace in enumerate(traces):
        if name := trace_fault(trace, problems[trace.problem_id], config):
            faults[trace.id] = name
        elif trace.status == "kept":
            good.append(number)
    faults |= dict.fromkeys(near_duplicates(Chosen(traces, good), problems, config.near_duplicate), "near_duplicate")
    if config.max_domain_share < 1:
        good = array("q", (number for number in good if traces[number].id not in faults))
        faults |= dict.fromkeys(surplus(Chosen(traces, good), problems, config.max_domain_share, seed), "balance")
    return faults


class Chosen(Sequence[Trace]):
    """Some of the traces, by their numbers; like them, each is read when it is asked for."""

    def __init__(self, traces: Sequence[Trace], numbers: Sequence[int]) -> None:
        self._traces, self._numbers = traces, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: Any) -> Any:
        return self._traces[self._numbers[number]]

    def __iter__(self) -> Iterator[Trace]:
        return (self._traces[number] for number in self._numbers)


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
    known = {"LATIN", *map(script, filter(str.isalpha, set(question)))}
    letters = {letter: n for letter, n in Counter(text).items() if letter.isalpha()}
    total = sum(letters.values())
    return sum(n for letter, n in letters.items() if script(letter) not in known) / total if total else 0.0


def script(letter: str) -> str:
    """``LATIN``, ``CJK``, ``CYRILLIC``, ...: the first word of a letter's Unicode name."""
    return unicodedata.name(letter, "UNKNOWN").split(" ", 1)[0]


def near_duplicates(traces: Sequence[Trace], problems: Mapping[str, Problem], similarity: float) -> list[str]:
    """Ids of the traces whose question and text repeat an earlier trace, by MinHash over word triples.

    Two texts are compared if their sketches agree in one band of locality-sensitive hashing. Only the hashes of the bands are
    held for every trace; sketches are made again for those traces that share a band with another one.
    """
    if similarity >= 1 or not traces:
        return []
    import numpy as np
    from datasketch import MinHash, MinHashLSH

    empty, ranges = MinHash(num_perm=PERMUTATIONS), MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS).hashranges

    def sketch(trace: Trace) -> Any:
        words = f"{problems[trace.problem_id].question} {trace.trace}".lower().split()
        triples = {" ".join(words[at : at + 3]).encode() for at in range(max(1, len(words) - 2))}
        made = empty.copy()  # to draw the permutations anew takes as long as the hashing
        made.update_batch(triples)
        return made.hashvalues

    def bands(values: Any) -> list[int]:
        return [
            int.from_bytes(hashlib.blake2b(values[start:end].tobytes(), digest_size=8).digest(), "big")
            for start, end in ranges
        ]

    hashes = array("Q")
    for trace in traces:
        hashes.extend(bands(sketch(trace)))
    table = np.frombuffer(hashes, dtype=np.uint64).reshape(len(traces), len(ranges))
    shared = np.zeros(len(traces), dtype=bool)
    for column in table.T:
        _, which, counts = np.unique(column, return_inverse=True, return_counts=True)
        shared |= counts[which] > 1
    repeated: list[str] = []
    kept: dict[tuple[int, int], list[Any]] = defaultdict(list)  # band and its hash -> sketches of the traces that stay
    for number in np.flatnonzero(shared):
        trace, places = traces[int(number)], list(enumerate(map(int, table[number])))
        values = sketch(trace)
        others = (other for place in places for other in kept[place])
        if any(np.count_nonzero(values == other) / PERMUTATIONS >= similarity for other in others):
            repeated.append(trace.id)
        else:
            for place in places:
                kept[place].append(values)
    return repeated


def surplus(traces: Sequence[Trace], problems: Mapping[str, Problem], share: float, seed: int) -> list[str]:
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
