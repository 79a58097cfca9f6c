"""Scripted subjects and small problem sets for the tests of eval: images of one colour, so that a script can look."""

from pathlib import Path

from PIL import Image

from eval.subjects import ScriptedSubject, Turn
from vlm.problem import Problem

COLOURS = {"red": (200, 20, 20), "green": (20, 160, 40), "blue": (30, 60, 210)}


def colour_problems(folder: Path, n: int = 12) -> list[Problem]:
    """``n`` problems "which colour?" in two families, each with a counterfactual image of the next colour."""
    names = list(COLOURS)
    for name, value in COLOURS.items():
        Image.new("RGB", (8, 8), value).save(folder / f"{name}.png")
    problems = []
    for index in range(n):
        name, other = names[index % 3], names[(index + 1) % 3]
        # An image of its own for every problem: equal images would be one cluster.
        Image.new("RGB", (8, 8), COLOURS[name]).save(folder / f"p{index}.png")
        problems.append(
            Problem(
                id=f"p{index}",
                source="test",
                domain="text",
                images=[str(folder / f"p{index}.png")],
                question=f"Number {index}: which colour is it?",
                answer=name,
                meta={
                    "family": "even" if index % 2 == 0 else "odd",
                    "counterfactual": {"image": str(folder / f"{other}.png"), "answer": other},
                },
            )
        )
    return problems


def seen(turn: Turn) -> str:
    """The colour that is shown, or ``grey``."""
    pixel = turn.images[0].getpixel((0, 0))
    return next((name for name, value in COLOURS.items() if value == pixel), "grey")


def think(first: str, second: str) -> str:
    return f"<think>At first I see {first}. Let me look at it again. Now I see {second}.</think> \\boxed{{{second}}}"


def always_looks(turn: Turn) -> str:
    """Answers from the image it is shown when it answers."""
    return f" Now I see {seen(turn)}.</think> \\boxed{{{seen(turn)}}}" if turn.prefix else think(seen(turn), seen(turn))


def looks_only_at_first(turn: Turn) -> str:
    """Once something is written, it goes by what is written."""
    if not turn.prefix:
        return think(seen(turn), seen(turn))
    told = next(name for name in COLOURS if f"I see {name}" in turn.prefix)
    return f" Now I see {told}.</think> \\boxed{{{told}}}"


def always_flips(turn: Turn) -> str:
    """Right from scratch, but an interrupted answer always becomes the next colour, whatever is shown."""
    if not turn.prefix:
        return think(seen(turn), seen(turn))
    names = list(COLOURS)
    told = next(name for name in names if f"I see {name}" in turn.prefix)
    flipped = names[(names.index(told) + 1) % 3]
    return f" Now I see {flipped}.</think> \\boxed{{{flipped}}}"


def flips_at_noise(turn: Turn) -> str:
    """Answers from the image, but one that is not quite as it was makes it say the next colour."""
    return always_flips(turn) if turn.prefix and seen(turn) == "grey" else always_looks(turn)


def never_looks(turn: Turn) -> str:
    return think("red", "red") if not turn.prefix else " Now I see red.</think> \\boxed{red}"


def scripted(function: object) -> ScriptedSubject:
    return ScriptedSubject(function, function.__name__)  # type: ignore[arg-type, attr-defined]
