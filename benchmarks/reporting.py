"""The output of every benchmark: its figures, those that miss their limit, and one JSON line."""

import json
import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

Holds = Callable[[Any], bool]


def surroundings(threads: Any, *packages: str) -> dict[str, Any]:
    """The conditions of a measurement: ``threads``, ``load_average`` (one minute, now), ``versions``."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    return {"threads": threads, "load_average": round(os.getloadavg()[0], 2), "versions": versions}


def report(figures: Mapping[str, Any], must_hold: Mapping[str, Holds], json_only: bool) -> int:
    """Print the figures, then the JSON line; returns the exit code, 1 if a figure misses its limit."""
    missed = [key for key, holds in must_hold.items() if not holds(figures[key])]
    if not json_only:
        for key, value in figures.items():
            print(f"{key}: {value}{'   <- does not hold' if key in missed else ''}")
    print(json.dumps(figures))
    return 1 if missed else 0
