"""The provenance of a run: config, versions, git revision, seed, data hash. No heavy imports: ``reflection_v`` uses it too."""

import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from configs.identity import data_sha256
from configs.processes import world_size

COMPLETE = "complete"
"""The file that marks a checkpoint as complete."""

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "deepspeed",
    "peft",
    "bitsandbytes",
    "vllm",
    "numpy",
    "pillow",
    "reflection-v",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a run."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def git_revision() -> str | None:
    """The commit of this checkout, with ``-dirty`` if it has changes; None outside of a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return None
    return done.stdout.strip()


def begun(folder: str | Path) -> bool:
    """Whether a run folder holds anything that a resume would use: checkpoints, sampled pass rates, a finished run."""
    parts = (f"checkpoint-*/{COMPLETE}", "choice.json", "pass_rates*.jsonl", "summary.json")
    return any(True for part in parts for _ in Path(folder).glob(part))


def provenance(settings: Mapping[str, Any], data: str | Path) -> dict[str, Any]:
    """The record of a run: ``settings``, ``versions``, ``git``, ``seed``, ``data_sha256``, ``processes``."""
    return {
        "settings": dict(settings),
        "versions": versions(),
        "git": git_revision(),
        "seed": settings.get("seed", 42),  # TRL's default
        "data_sha256": data_sha256(data),
        "processes": world_size(),
    }
