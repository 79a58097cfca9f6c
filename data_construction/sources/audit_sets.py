"""The problems of an audit whose user brings none: those that the bundled model was taught, and unseen images."""

from pathlib import Path
from typing import Any

from data_construction.sources import LEARNED, write_set
from vlm.problem import Problem, read_problems

AUDIT_SIZE, SHIFT_SIZE = 300, 100
LAYOUT_FAMILIES = ["layout_count", "layout_left"]


def audit_sets(out: Path, seed: int) -> tuple[list[Problem], dict[str, list[Problem]]]:
    """The problems of an audit and, by the kind of change, its sets of unseen images; drawn into ``out`` by the seed alone.

    Each of the problems brings an image that gives its question another answer.
    """
    learned: dict[str, Any] = {"family_names": list(LEARNED)}
    sets: dict[str, tuple[str, int, dict[str, Any]]] = {
        "main": ("scenes,digits", AUDIT_SIZE, learned | {"counterfactual": True})
    }
    for change in ("noise", "size", "palette"):
        sets[change] = ("scenes,digits", SHIFT_SIZE, learned | {"difficulty": f"unseen_{change}"})
    sets["layout"] = ("scenes", SHIFT_SIZE, {"family_names": LAYOUT_FAMILIES})
    for name, (source, n, knobs) in sets.items():
        folder = out / f"{name}-{seed}"
        if not (folder / "problems.jsonl").exists():  # written last: complete where it is
            write_set(source, n, seed, "heldout", folder, **knobs)
    main, *shifts = (read_problems(out / f"{name}-{seed}") for name in sets)
    return main, dict(zip(list(sets)[1:], shifts, strict=True))
