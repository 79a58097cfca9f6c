"""A user's own reward: a function in a file, named in the YAML as ``FILE.py:FUNCTION``; which files these are, and their checksums.

It has the signature of the rewards of ``reward.rewards``, ``Rollout -> Score``; a number or None will do for a score. It runs
in a child process with a deadline, since it reads what a model wrote: a regular expression of the user's may hang as well.
"""

import hashlib
import math
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError, UserError
from configs.run_dir import SHA256
from reward.worker import Pool

if TYPE_CHECKING:  # torch: the command line asks only for the files
    from reward.rewards import Rollout, Score

SECONDS = 10.0
"""Wall-clock limit for one response, since a reward may wait for a server."""
MAX_PARTS = 50
MAX_SCORE = 1e6
"""Bound of a score, of either sign. Advantages are float32: beyond this the other terms of the sum are rounded away, and from 1e19 on the
standard deviation of a group overflows, all its advantages are 0, and the step teaches nothing."""


REWARD_FILES = "reward_files"
"""The key under which a run's ``settings.json`` and a stage's record hold the checksums of these files."""

_NAME = re.compile(r"(?P<path>.+\.py):(?P<function>[A-Za-z_]\w*)")


def is_user_reward(name: str) -> bool:
    """Whether a reward's name is that of a function in a file."""
    return _NAME.fullmatch(name) is not None


def find_reward(name: str, folder: Path) -> tuple[Path, str]:
    """The file and the function that ``FILE.py:FUNCTION`` names; the file in ``folder``, else where the command runs.

    Raises:
        ConfigError: there is no such file.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigError(f"'{name}' does not name a reward in a file: write FILE.py:FUNCTION.")
    places = [folder / match["path"], Path(match["path"])]
    found = next((place.resolve() for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(f"The reward '{name}': there is no file {match['path']} in {folder} or in {Path.cwd()}.")
    return found, match["function"]


def reward_files(names: Iterable[str], folder: Path) -> dict[str, str]:
    """File as it is named -> sha256, of those among ``names`` that are functions in a file.

    Modules that such a file imports do not count.

    Raises:
        ConfigError: see ``find_reward``.
    """
    found = {name.rpartition(":")[0]: find_reward(name, folder)[0] for name in sorted(names) if is_user_reward(name)}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in found.items()}


def with_digests(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the checksums of these files where ``configs.run_dir.changes`` looks for digests."""
    files = record.get(REWARD_FILES) or {}
    known = {key: value for key, value in record.items() if key != REWARD_FILES}
    return {**known, **{name + SHA256: digest for name, digest in files.items()}}


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
        self.crash: str | None = None  # how its process ended last, if it was not ended by a limit
        self._pool = Pool(f"{file}:{function}", seconds, seconds, megabytes=None)

    def start(self) -> None:
        """Load the file now, so that a fault in it is reported before a model is loaded."""
        self._pool.workers[0].start()

    def close(self) -> None:
        """End its processes."""
        self._pool.close()

    def __call__(self, rollout: "Rollout") -> "Score":
        from reward.rewards import Score

        _ = rollout.grade  # found here, once, and sent along
        reply = self._pool.ask(_detached(rollout))
        if reply is None:
            return Score(None, {"timeout": 1.0})
        if "crash" in reply:
            self.crash = reply["crash"]
            return Score(None, {"crash": 1.0})
        if "error" in reply:
            raise UserError(f"The reward '{self.name}' failed: {reply['error']}.")
        return Score(reply["value"], reply["parts"])


def _detached(rollout: "Rollout") -> "Rollout":
    """A copy whose tensors are no views of larger ones: a pickle holds the whole storage."""
    copies = {
        name: None if values is None else values.clone()
        for name, values in (("mass", rollout.mass), ("lift", rollout.lift))
    }
    copy = replace(rollout, **copies)  # type: ignore[arg-type]
    copy.__dict__["grade"] = rollout.grade
    return copy


def as_reply(function: "Callable[[Rollout], Any]", rollout: "Rollout") -> dict[str, Any]:
    """In the child: the function's score of a rollout, checked, or an error in one line."""
    from reward.rewards import Score

    try:
        result = function(rollout)
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        return {"error": f"{type(error).__name__}: {error} ({Path(line.filename).name}, line {line.lineno})"}
    score = result if isinstance(result, Score) else Score(result)
    value, parts = score.value, score.parts
    if value is not None and (not _finite(value) or abs(float(value)) > MAX_SCORE):
        return {
            "error": f"it returned {_shown(result)}, and a score is a number from {-MAX_SCORE:,.0f} to {MAX_SCORE:,.0f}, or None where "
            "it cannot judge"
        }
    if not isinstance(parts, dict) or len(parts) > MAX_PARTS or not all(map(_finite, parts.values())):
        return {"error": f"its parts must be at most {MAX_PARTS} finite numbers by name"}
    numbers = {str(part): float(number) for part, number in parts.items()}
    return {"value": None if value is None else float(value), "parts": numbers}


def _finite(value: Any) -> bool:
    try:
        return not isinstance(value, str | bytes | bytearray) and math.isfinite(float(value))
    except Exception:  # an object of the user's may raise anything, and a whole number may be larger than any float
        return False


def _shown(result: Any) -> str:
    try:
        return f"{result!r:.80}"
    except Exception:  # the same holds for its ``repr``
        return f"an object of type {type(result).__name__}"
