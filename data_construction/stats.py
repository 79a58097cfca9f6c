"""Counts and charts of a build: ``reflection-v build --stats``."""

import json
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.jsonl import write_json_atomic
from data_construction.trace_log import StoredTraces


def write_stats(folder: Path) -> dict[str, Any]:
    """Count the traces of ``folder`` and write ``stats.json`` and ``stats.png`` there. Returns the counts.

    It reads only what is on disk, so it also works while a build is running.

    Raises:
        UserError: the folder holds no build, or its files were changed so that they can no longer be counted.
    """
    if not (folder / "traces.jsonl").exists():
        raise UserError(f"{folder} holds no traces.jsonl: give the --out folder of a build.")
    try:
        return _write_counts(folder)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise UserError(
            f"traces.jsonl or build.json in {folder} does not hold what a build writes there ({type(error).__name__}: {error}): "
            "restore it, or build again."
        ) from None


def _write_counts(folder: Path) -> dict[str, Any]:
    log = StoredTraces(folder / "traces.jsonl")
    names = ("status", "errors", "rounds", "looks_of_kept", "written_by")
    counters: dict[str, Counter[Any]] = {name: Counter() for name in names}
    words, seconds, repairs = array("l"), list[float](), 0
    for row in map(log.row, range(len(log))):
        counters["status"][row["status"]] += 1
        if row["status"] == "error":
            counters["errors"][row["error"] or "unnamed"] += 1
        else:
            counters["rounds"][len(row["rounds"])] += 1
        if row["status"] == "kept":
            counters["looks_of_kept"][row["looks"]] += 1
            counters["written_by"][row["cohesion"]] += 1
            words.append(len(row["trace"].split()))
        repairs += row["usage"].get("repairs", 0)
        seconds.append(row["usage"].get("seconds", 0.0))
    counts = {name: _sorted_counts(counter) for name, counter in counters.items()}
    stats: dict[str, Any] = {
        "episodes": len(log),
        **{name: counts[name] for name in ("status", "errors", "rounds", "looks_of_kept")},
        "words_of_kept": _spread(words),
        "written_by": counts["written_by"],
        "repairs": repairs,
        "seconds_of_an_episode": _spread(seconds),
    }
    if (folder / "build.json").exists():  # what was derived when the build was finished
        derived = json.loads((folder / "build.json").read_text(encoding="utf-8"))
        keys = ("problems", "dropped", "filters", "tokens_by_role", "tokens_per_kept_trace")
        stats |= {key: derived[key] for key in (*keys, "cold_start", "facts", "difficulty") if key in derived}
    write_json_atomic(folder / "stats.json", stats)
    _draw(stats, words, folder / "stats.png")
    return stats


def _sorted_counts(counter: Counter[Any]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(counter.items(), key=lambda item: str(item[0]))}


def _spread(values: Sequence[Any]) -> dict[str, float] | None:
    """Least, median and largest value; None for an empty list."""
    ordered = sorted(values)
    return {"least": ordered[0], "median": ordered[len(ordered) // 2], "largest": ordered[-1]} if ordered else None


def _draw(stats: dict[str, Any], words: Sequence[int], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, 2)
    tokens = {role: counts["completion"] for role, counts in stats.get("tokens_by_role", {}).items()}
    endings = stats["status"] | {f"error: {name}": n for name, n in stats["errors"].items()}
    for panel, title, bars in (
        (panels[0, 0], "How episodes ended", endings),
        (panels[0, 1], "Re-looks in kept traces", stats["looks_of_kept"]),
        (panels[1, 1], "Completion tokens by role", tokens),
    ):
        panel.barh(list(bars), list(bars.values()))
        panel.set_title(title)
        panel.invert_yaxis()
    panels[1, 0].hist(words, bins=30)
    panels[1, 0].set_title("Words of kept traces")
    figure.savefig(file, dpi=120)
