"""What an audit asks about where the user brings no problem set: problems of the bundled sources, and unseen pictures."""

from pathlib import Path
from typing import Any

AUDIT_SIZE, SHIFT_SIZE = 300, 100
AUDIT_FAMILIES = ["count", "compare", "place", "digit_sum", "claims"]  # those that the bundled model was taught
LAYOUT_FAMILIES = ["layout_count", "layout_left"]


def audit_problems(given: Path | None, out: Path, seed: int) -> tuple[list[Any], dict[str, list[Any]]]:
    """The problems of an audit, and its sets of unseen pictures.

    Without a set of the user's own they are drawn into ``OUT/problems``: pictures and answers follow from the seed alone,
    and each problem brings a picture that gives its question another answer.
    """
    from vlm.problem import read_problems

    if given is not None:
        return read_problems(given), {}
    from data_construction.sources import write_set

    sets: dict[str, tuple[str, int, dict[str, Any]]] = {
        "main": ("scenes,digits", AUDIT_SIZE, {"family_names": AUDIT_FAMILIES, "counterfactual": True})
    }
    for change in ("noise", "size", "palette"):
        knobs = {"family_names": AUDIT_FAMILIES, "difficulty": f"unseen_{change}"}
        sets[change] = ("scenes,digits", SHIFT_SIZE, knobs)
    sets["layout"] = ("scenes", SHIFT_SIZE, {"family_names": LAYOUT_FAMILIES})
    for name, (source, n, knobs) in sets.items():
        folder = out / "problems" / f"{name}-{seed}"
        if not (folder / "problems.jsonl").exists():  # written last: complete where it is
            write_set(source, n, seed, "heldout", folder, **knobs)
    main, *shifts = (read_problems(out / "problems" / f"{name}-{seed}") for name in sets)
    return main, dict(zip(list(sets)[1:], shifts, strict=True))
