"""The files of a user's own rewards: how they are named, where they are looked for, whether they have changed. No torch here."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from configs.errors import ConfigError

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


def changed_files(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the files whose checksums differ; of a run that began without checksums there is nothing to compare."""
    old, new = before.get(REWARD_FILES) or {}, now.get(REWARD_FILES) or {}
    return sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
