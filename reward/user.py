"""A user's own reward: a function in a file, named in the YAML as ``FILE.py:FUNCTION``.

It has the signature of the rewards of ``reward.rewards``, ``Rollout -> Score``; a number or None will do for a score. It runs
in a child process with a deadline, since it reads what a model wrote: a regular expression of the user's may hang as well.
"""

import math
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.errors import UserError
from reward.files import find_reward, is_user_reward
from reward.rewards import Rollout, Score
from reward.worker import Pool

__all__ = ["UserReward", "is_user_reward"]

SECONDS = 10.0
"""Of the clock, for one response: a reward may well wait for a server."""
MAX_PARTS = 50
MAX_SCORE = 1e6
"""Of a score, either sign. Advantages are float32: beyond this the other terms of the sum are rounded away, and from 1e19 on the
standard deviation of a group overflows, all its advantages are 0, and the step teaches nothing."""


class UserReward:
    """The reward that ``name`` stands for, as a function of a rollout.

    Args:
        name: ``FILE.py:FUNCTION``; the file is looked for in ``folder``, then where the command runs.
        folder: of the config.

    Raises:
        ConfigError: there is no such file.
        UserError: when it is called: the file does not load, the function raised, or what it returned is no score.
    """

    def __init__(self, name: str, folder: Path, seconds: float = SECONDS) -> None:
        file, function = find_reward(name, folder)
        self.name = name
        self._pool = Pool(f"{file}:{function}", seconds, seconds, megabytes=None)

    def start(self) -> None:
        """Load the file now, so that what is wrong with it is said before a model is loaded."""
        self._pool.workers[0].start()

    def close(self) -> None:
        """End its processes."""
        self._pool.close()

    def __call__(self, rollout: Rollout) -> Score:
        _ = rollout.grade  # found here, once, and sent along
        said = self._pool.ask(_bare(rollout))
        if said is None:
            return Score(None, {"timeout": 1.0})
        if "error" in said:
            raise UserError(f"The reward '{self.name}' failed: {said['error']}.")
        value, parts = said["value"], said["parts"]
        return Score(value, parts)


def _bare(rollout: Rollout) -> Rollout:
    """A copy whose tensors are no views of larger ones: a pickle holds the whole storage."""
    copies = {
        name: None if values is None else values.clone()
        for name, values in (("mass", rollout.mass), ("lift", rollout.lift))
    }
    copy = replace(rollout, **copies)  # type: ignore[arg-type]
    copy.__dict__["grade"] = rollout.grade
    return copy


def as_reply(function: Callable[[Rollout], Any], rollout: Rollout) -> dict[str, Any]:
    """In the child: what the function says of a rollout, checked, or in one line what went wrong."""
    try:
        said = function(rollout)
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        return {"error": f"{type(error).__name__}: {error} ({Path(line.filename).name}, line {line.lineno})"}
    score = said if isinstance(said, Score) else Score(said)
    value, parts = score.value, score.parts
    if value is not None and (isinstance(value, str) or not _finite(value) or abs(float(value)) > MAX_SCORE):
        return {
            "error": f"it returned {said!r:.80}, and a score is a number from {-MAX_SCORE:,.0f} to {MAX_SCORE:,.0f}, or None where "
            "it cannot judge"
        }
    if not isinstance(parts, dict) or len(parts) > MAX_PARTS or not all(map(_finite, parts.values())):
        return {"error": f"its parts must be at most {MAX_PARTS} finite numbers by name"}
    numbers = {str(part): float(number) for part, number in parts.items()}
    return {"value": None if value is None else float(value), "parts": numbers}


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):  # a whole number may be larger than any float
        return False
