"""Replies that a text model of others gave once (Gemma 3 270M behind llama.cpp), read anew by the agent loop and the cohesion code.

A change of how replies are read changes these results. If the change is meant, ``python benchmarks/text_reasoner.py --record
tests/data_construction/recorded`` on the folder of a finished run writes the rows anew, with requests only where a reply is missing.
"""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.recorded_replies import fault_of, replay, replay_rewrite, unusable
from benchmarks.text_reasoner import REWRITE, config_of
from configs.jsonl import read_jsonl

FOLDER = Path(__file__).parent / "recorded"
EPISODES = read_jsonl(FOLDER / "gemma-3-270m-few_shot.jsonl")
REWRITES = read_jsonl(FOLDER / "gemma-3-270m-rewriter.jsonl")
CONFIG = config_of("few_shot", Path("unused"), "http://127.0.0.1:1/v1")


@pytest.mark.parametrize("row", EPISODES, ids=lambda row: row["problem"]["id"])
def test_a_recorded_episode_ends_as_it_did(row: dict) -> None:
    trace, left = replay(row, CONFIG.loop, CONFIG.prompts, CONFIG.seed)
    answers = [one.answer for one in trace.rounds]
    assert (trace.status, trace.error, answers) == (row["status"], row["error"], row["answers"]), trace.why
    assert trace.cohesion == row["cohesion"]
    assert [fault_of(role, end, text) for role, _, _, end, text in row["replies"]] == row["faults"]
    assert not left  # every reply was read


def test_at_least_half_of_the_episodes_reach_a_conclusion() -> None:
    concluded = [any(answer is not None for answer in row["answers"]) for row in EPISODES]
    assert sum(concluded) >= len(concluded) / 2 >= 10


def test_replies_that_cannot_be_used_are_among_the_recorded() -> None:
    faults = sum(unusable(reply for row in EPISODES for reply in row["replies"]).values(), Counter())
    assert faults.pop("") and faults


@pytest.mark.parametrize("row", REWRITES, ids=lambda row: row["problem"]["id"])
def test_a_recorded_rewrite_is_judged_as_it_was(row: dict) -> None:
    assert replay_rewrite(row, REWRITE, CONFIG.prompts) == (row["cohesion"], row["faults"])


def test_a_reply_that_was_never_given_is_an_error() -> None:
    """The replay cannot pass by asking for nothing, or for another reply."""
    trace, _ = replay(EPISODES[0] | {"replies": []}, CONFIG.loop, CONFIG.prompts)
    assert (trace.status, trace.error) == ("error", "backend")
