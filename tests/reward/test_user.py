"""A user's own reward: found, run in its own process, checked, and ended when it takes too long."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.errors import ConfigError, UserError
from reward.aggregate import LARGEST
from reward.rewards import Rollout, Score
from reward.user import MAX_SCORE, UserReward, as_reply, is_user_reward

FILE = '''
import re

from my_words import SHORT
from reward.rewards import Score

def brief(rollout):
    """1 for a right answer in few tokens."""
    short = rollout.token_count <= SHORT
    return Score(float(short and rollout.verdict.right), {"short": float(short), "mass": rollout.mass.mean().item()})

def plain(rollout):
    return None if "?" in rollout.text else len(rollout.text)

def hangs(rollout):
    return float(bool(re.fullmatch(r"(a+)+b", "a" * 60)))

def fails(rollout):
    return 1 / 0

def text(rollout):
    return "five"

def leaves(rollout):
    import os
    os._exit(3)

def faults(rollout):
    import ctypes
    ctypes.string_at(0)

def killed(rollout):
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)

def sometimes(rollout):
    return leaves(rollout) if "5" in rollout.text else 1.0
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_rewards.py").write_text(FILE)
    (folder / "my_words.py").write_text("SHORT = 8\n")
    return folder


@pytest.fixture
def made() -> Iterator[list[UserReward]]:
    rewards: list[UserReward] = []
    yield rewards
    for reward in rewards:
        reward.close()


def rollout(text: str = "\\boxed{5}", tokens: int = 4) -> Rollout:
    wide = torch.full((1000, tokens), 0.25)
    return Rollout(text, "number", "5", token_count=tokens, mass=wide[0], lift=wide[1])


def test_a_reward_is_a_function_in_a_file(folder: Path, made: list[UserReward]) -> None:
    brief = UserReward("my_rewards.py:brief", folder)
    made.append(brief)
    assert brief(rollout()) == Score(1.0, {"short": 1.0, "mass": 0.25})
    assert brief(rollout(tokens=9)) == Score(0.0, {"short": 0.0, "mass": 0.25})
    assert brief(rollout("\\boxed{6}")).value == 0.0


def test_a_hanging_reward_is_a_timeout_and_the_next_row_is_judged(folder: Path, made: list[UserReward]) -> None:
    hangs = UserReward("my_rewards.py:hangs", folder, seconds=0.3)
    made.append(hangs)
    for _ in range(2):
        assert hangs(rollout()) == Score(None, {"timeout": 1.0})


def test_what_a_user_does_wrong_is_one_sentence(folder: Path, made: list[UserReward]) -> None:
    with pytest.raises(ConfigError, match=r"there is no file absent\.py"):
        UserReward("absent.py:f", folder)
    fails = UserReward("my_rewards.py:fails", folder)
    made.append(fails)
    with pytest.raises(UserError, match=r"'my_rewards.py:fails' failed: ZeroDivisionError.*my_rewards.py, line \d+"):
        fails(rollout())
    absent = UserReward("my_rewards.py:absent", folder)
    made.append(absent)
    with pytest.raises(UserError, match="there is no function 'absent'"):
        absent.start()


def test_scores_are_checked() -> None:
    assert as_reply(lambda rollout: 3, rollout()) == {"value": 3.0, "parts": {}}
    assert as_reply(lambda rollout: None, rollout()) == {"value": None, "parts": {}}
    assert as_reply(lambda rollout: torch.tensor(0.5), rollout())["value"] == 0.5
    for bad in ("five", float("nan"), [1, 2], Score(1.0, {"a": float("inf")}), Score(1.0, {"a": "b"})):  # type: ignore[dict-item]
        assert "error" in as_reply(lambda rollout, bad=bad: bad, rollout())


@pytest.mark.parametrize("score", [1e308, -1e308, 1e39, 1e30, 1.1e6, 10**400, float("inf"), float("nan")])
def test_a_score_that_advantages_cannot_hold_is_refused(score: float) -> None:
    """1e39 is infinite in float32, the square of 1e30 is, and beside 1e8 a format reward of 0.2 is rounded away."""
    for said in (score, Score(score), torch.tensor(score) if abs(score) < 1e39 else score):
        error = as_reply(lambda rollout, said=said: said, rollout())["error"]
        assert "a score is a number from -1,000,000 to 1,000,000, or None where it cannot judge" in error


def test_scores_and_weights_at_their_bounds_leave_advantages_finite() -> None:
    rewards = torch.tensor([MAX_SCORE * LARGEST, -MAX_SCORE * LARGEST, 0.0, 1.0])
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)  # as TRL computes them, in float32
    assert advantages.isfinite().all() and advantages[0] > 1 > -1 > advantages[1]
    assert as_reply(lambda rollout: -MAX_SCORE, rollout())["value"] == -MAX_SCORE


@pytest.mark.parametrize("name", ["my_rewards.py:brief", "rewards/mine.py:a_b", "/abs/mine.py:f"])
def test_names_of_files(name: str) -> None:
    assert is_user_reward(name)


@pytest.mark.parametrize("name", ["accuracy", "mine.py", "mine:f", "mine.py:", "mine.py:a b", "mine.py:a.b", "x.py:1"])
def test_names_that_are_none(name: str) -> None:
    assert not is_user_reward(name)


@pytest.mark.parametrize(("name", "how"), [("leaves", "exit code 3"), ("faults", "SIGSEGV"), ("killed", "SIGKILL")])
def test_a_reward_that_crashes_is_named_as_that(name: str, how: str, folder: Path, made: list[UserReward]) -> None:
    made.append(UserReward(f"my_rewards.py:{name}", folder))
    assert made[0](rollout()) == Score(None, {"crash": 1.0}) and made[0].crash == how


def test_after_a_crash_the_next_response_is_judged(folder: Path, made: list[UserReward]) -> None:
    made.append(UserReward("my_rewards.py:sometimes", folder))
    for text, score in (("\\boxed{5}", None), ("\\boxed{4}", 1.0), ("\\boxed{5}", None), ("\\boxed{3}", 1.0)):
        assert made[0](rollout(text)).value == score


class Contrary:
    """An object of a library whose own methods raise."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __float__(self) -> float:
        raise RuntimeError("no number")


@pytest.mark.parametrize(
    "odd",
    [
        torch.tensor(1j),
        torch.zeros(1, device="meta"),
        torch.zeros(2),
        np.array([1.0, 2.0]),
        np.array([]),
        Contrary(),
        10**400,
        1j,
        b"1",
        iter([1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_reward_may_return_by_mistake_is_a_sentence(odd: object) -> None:
    assert "it returned" in as_reply(lambda rollout: odd, rollout())["error"]
    assert "it returned" in as_reply(lambda rollout: Score(odd), rollout())["error"]  # type: ignore[arg-type]
    assert "its parts must be" in as_reply(lambda rollout: Score(1.0, {"a": odd}), rollout())["error"]  # type: ignore[dict-item]
