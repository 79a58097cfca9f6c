"""Problem sources. ``write_set`` writes a folder with ``problems.jsonl`` and PNG files, deterministic by seed.

A problem depends only on (split, seed, its number), never on how many others are drawn or on an earlier run. The
splits ``pretrain``, ``train`` and ``heldout`` are drawn from disjoint streams of random numbers and, for ``digits``, from
disjoint handwriting.
"""

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from configs.errors import ConfigError, UserError
from configs.jsonl import iter_jsonl
from configs.run_dir import RunDir
from data_construction.sources import digits, scenes
from data_construction.sources.render import COLOURS, LOOKS, PLACES, SHAPES
from data_construction.sources.scenes import Family
from vlm.problem import Problem, write_problems

SOURCES: dict[str, dict[str, Family]] = {"scenes": scenes.FAMILIES, "digits": digits.FAMILIES}
LEARNED = ("count", "compare", "place", "digit_sum", "claims")  # the families that the bundled model was taught
SPLITS = tuple(digits.SPLITS)
COUNTABLE = COLOURS + SHAPES
"""Words whose number can be stated of a scene, also of one that lacks them."""
FACT_WORDS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray", "grey"),
    *("above", "below", "left", "top", "bottom", "larger", "smaller", "taller", "shorter"),
)
"""Words that state a fact of a scene: its own colours, those that a model may take them for, and positions and sizes."""


def row_contents(key: str, facts: Mapping[str, str]) -> list[str]:
    """What stands in the row of a grid that a statement's key names (``row 2``); empty where the facts are no whole grid."""
    return [fact for place, fact in facts.items() if key == f"row {place[1:]}"] if set(facts) == set(PLACES) else []


def families(source: str, names: list[str] | None = None) -> list[tuple[str, Family]]:
    """(source, family) pairs of ``source`` (``scenes``, ``digits`` or both with a comma), or only the named ones.

    Raises:
        ConfigError: an unknown source or family.
    """
    chosen: dict[str, tuple[str, Family]] = {}
    for part in source.split(","):
        if part not in SOURCES:
            raise ConfigError(
                f"Unknown problem source '{part}': choose from {', '.join(SOURCES)}, or both with a comma."
            )
        chosen |= {name: (part, family) for name, family in SOURCES[part].items()}
    for name in names or []:
        if name not in chosen:
            raise ConfigError(f"Unknown family '{name}' of {source}: choose from {', '.join(chosen)}.")
    return [chosen[name] for name in names] if names else list(chosen.values())


def bind_split(source: str, family: Family, split: str) -> Family:
    """The family with its scenes drawn from ``split``."""
    if source != "digits":
        return family
    return replace(family, scene=lambda rng: digits.draw_digits(rng, split))


def draw_problems(family: Family, rng: random.Random) -> tuple[Any, dict[str, Any], str]:
    """A scene, the parameters of a question about it, and the gold answer."""
    for _ in range(1000):
        scene = family.scene(rng)
        params = family.ask(scene, rng)
        if params is not None and (answer := family.answer(scene, params)) is not None:
            return scene, params, answer
    raise RuntimeError(f"family '{family.name}' drew no scene that allows its question")


def other_scene(family: Family, params: dict[str, Any], answer: str, rng: random.Random) -> tuple[Any, str] | None:
    """Another scene that gives the same question another answer, or None where 1,000 draws found none."""
    for _ in range(1000):
        scene = family.scene(rng)
        other = family.answer(scene, params)
        if other is not None and other != answer:
            return scene, other
    return None


def problems(
    source: str,
    n: int,
    seed: int,
    split: str,
    *,
    family_names: list[str] | None = None,
    difficulty: str = "hard",
    counterfactual: bool = False,
) -> Iterator[tuple[Problem, dict[str, Image.Image]]]:
    """Yield ``n`` problems, families in turn, each with its images by file name.

    Args:
        source: ``scenes``, ``digits`` or ``scenes,digits``.
        split: ``pretrain``, ``train`` or ``heldout``.
        difficulty: a name of ``render.LOOKS``.
        counterfactual: also draw an image that gives the same question another answer.

    Raises:
        ConfigError: an unknown source, family, split or difficulty.
    """
    if split not in SPLITS:
        raise ConfigError(f"Unknown split '{split}': choose from {', '.join(SPLITS)}.")
    if difficulty not in LOOKS:
        raise ConfigError(f"Unknown difficulty '{difficulty}': choose from {', '.join(LOOKS)}.")
    look, chosen = LOOKS[difficulty], families(source, family_names)
    for index in range(n):
        part, unbound = chosen[index % len(chosen)]
        family = bind_split(part, unbound, split)
        rng = random.Random(f"{split}/{seed}/{index}/{difficulty}/{family.name}")
        scene, params, answer = draw_problems(family, rng)
        identifier = f"{split}-{seed}-{difficulty}-{family.name}-{index:05d}"
        images = {f"images/{identifier}.png": family.draw(scene, look, rng)}
        meta: dict[str, Any] = {
            "family": family.name,
            "split": split,
            "difficulty": difficulty,
            "params": params,
            "facts": family.facts(scene),
        }
        if counterfactual and (other := other_scene(family, params, answer, rng)):
            file = f"images/{identifier}-other.png"
            images[file] = family.draw(other[0], look, rng)
            meta["counterfactual"] = {"image": file, "answer": other[1]}
        domain = "yes_no" if answer in ("yes", "no") else family.domain
        yield (
            Problem(
                id=identifier,
                source=part,
                domain=domain,  # type: ignore[arg-type]
                images=[f"images/{identifier}.png"],
                question=family.question(params),
                answer=answer,
                meta=meta,
            ),
            images,
        )


def _is_drawn(folder: Path) -> bool:
    """Whether all problems of a set come from these sources."""
    with contextlib.suppress(UserError):
        return all(row.get("source") in SOURCES for row in iter_jsonl(folder / "problems.jsonl"))
    return False


def write_set(source: str, n: int, seed: int, split: str, out: str | Path, **knobs: Any) -> Path:
    """Write a problem set (see ``problems`` for the arguments); images first, ``problems.jsonl`` last and in one piece.

    Returns:
        The path of ``problems.jsonl``: where it exists the set is complete.

    Raises:
        UserError: the folder holds a set of other problems, or see ``configs.run_dir.RunDir.held``.
    """
    from rich.progress import track

    folder = Path(out)
    with RunDir(folder, "problem source", ("problems.jsonl",), _is_drawn).held():
        (folder / "images").mkdir(exist_ok=True)
        rows = []
        drawn = problems(source, n, seed, split, **knobs)
        for problem, images in track(drawn, total=n, description=f"problems {folder.name}", transient=True):
            for file, image in images.items():
                image.save(folder / file, compress_level=1)  # noise hardly compresses, so do not try for long
            rows.append(problem)
        return write_problems(rows, folder)
