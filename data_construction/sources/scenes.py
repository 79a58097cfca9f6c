"""The ``scenes`` source: procedural images with questions whose answers are computed from the scene.

A family is one kind of question. It draws a scene and the parameters of a question, and computes the answer of that
question for *any* scene of its kind, so that a counterfactual image (same question, other answer) is another draw.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from data_construction.sources.render import (
    CELLS,
    COLOURS,
    PLACES,
    SHAPES,
    Rendering,
    Thing,
    chart_image,
    grid_image,
    layout_image,
)

GRID = "Grid of columns A to C, rows 1 to 3. "


@dataclass(frozen=True)
class Family:
    """One kind of question.

    ``scene(rng)`` draws what the image shows; ``ask(scene, rng)`` draws the question's parameters (or None where the
    scene allows no such question); ``answer(scene, params)`` is the gold answer (None: the question has none there).
    """

    name: str
    domain: str
    scene: Callable[[random.Random], Any]
    ask: Callable[[Any, random.Random], dict[str, Any] | None]
    question: Callable[[dict[str, Any]], str]
    answer: Callable[[Any, dict[str, Any]], str | None]
    draw: Callable[[Any, Rendering, random.Random], Image.Image]
    facts: Callable[[Any], dict[str, str]]


def name(thing: Thing) -> str:
    """What a place holds, in words: ``red star`` or ``none``."""
    return "none" if thing is None else " ".join(thing)


def at(cells: list[Thing], place: str) -> Thing:
    return cells[PLACES.index(place)]


def attribute(thing: Thing, kind: str) -> str:
    """The ``colour`` or ``shape`` of a thing, or ``none``."""
    return "none" if thing is None else thing[0 if kind == "colour" else 1]


# Scenes


def draw_grid(rng: random.Random) -> list[Thing]:
    return [None if rng.random() < 0.3 else (rng.choice(COLOURS), rng.choice(SHAPES)) for _ in PLACES]


def draw_layout(rng: random.Random) -> list[tuple[str, str, float, float]]:
    things: list[tuple[str, str, float, float]] = []
    for _ in range(rng.randint(3, 7)):
        for _attempt in range(50):
            x, y = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9)
            if all((x - other[2]) ** 2 + (y - other[3]) ** 2 > 0.17**2 for other in things):
                things.append((rng.choice(COLOURS), rng.choice(SHAPES), x, y))
                break
    return things


def draw_chart(rng: random.Random) -> list[tuple[str, int]]:
    heights = rng.sample(range(1, 10), rng.randint(3, 5))
    return list(zip(rng.sample(COLOURS, len(heights)), heights, strict=True))


def grid_facts(cells: list[Thing]) -> dict[str, str]:
    return dict(zip(PLACES, map(name, cells), strict=True))


def layout_facts(things: list[tuple[str, str, float, float]]) -> dict[str, str]:
    ordered = sorted(things, key=lambda thing: thing[2])
    return {str(index): f"{colour} {shape}" for index, (colour, shape, _, _) in enumerate(ordered, start=1)}


def chart_facts(bars: list[tuple[str, int]]) -> dict[str, str]:
    return {colour: str(height) for colour, height in bars}


# Questions about grids


def ask_count(cells: list[Thing], rng: random.Random) -> dict[str, Any]:
    # Two times in three about something that is there, so that "0" is no good guess.
    present = [word for thing in cells if thing for word in thing]
    key = rng.choice(present) if present and rng.random() < 0.67 else rng.choice(COLOURS + SHAPES)
    return {"key": key, "kind": "colour" if key in COLOURS else "shape"}


def question_count(params: dict[str, Any]) -> str:
    noun = f"{params['key']} shapes" if params["kind"] == "colour" else f"{params['key']} cells"
    return f"How many {noun} are there?"


def answer_count(cells: list[Thing], params: dict[str, Any]) -> str:
    return str(sum(thing is not None and params["key"] in thing for thing in cells))


def ask_compare(cells: list[Thing], rng: random.Random) -> dict[str, Any] | None:
    kind = rng.choice(("colour", "shape"))
    pairs = [(a, b) for a in PLACES for b in PLACES if a < b and at(cells, a) and at(cells, b)]
    want = rng.random() < 0.5
    pairs = [(a, b) for a, b in pairs if (attribute(at(cells, a), kind) == attribute(at(cells, b), kind)) == want]
    if not pairs:
        return None
    first, second = rng.sample(rng.choice(pairs), 2)
    return {"kind": kind, "places": [first, second]}


def answer_compare(cells: list[Thing], params: dict[str, Any]) -> str | None:
    things = [at(cells, place) for place in params["places"]]
    if None in things:
        return None
    return "yes" if len({attribute(thing, params["kind"]) for thing in things}) == 1 else "no"


def ask_place(cells: list[Thing], rng: random.Random) -> dict[str, Any] | None:
    places = [place for place in PLACES if at(cells, place)]
    return {"place": rng.choice(places)} if places else None


def answer_place(cells: list[Thing], params: dict[str, Any]) -> str | None:
    thing = at(cells, params["place"])
    return name(thing) if thing else None


def ask_claims(cells: list[Thing], rng: random.Random) -> dict[str, Any] | None:
    """A note beside the image that is right only half of the time; a wrong one errs in colour, in shape or in both."""
    params = ask_place(cells, rng)
    if params is None:
        return None
    thing = at(cells, params["place"])
    assert thing is not None
    colour, shape = thing
    if rng.random() < 0.5:
        error = rng.choice(("colour", "shape", "both"))
        if error != "shape":
            colour = rng.choice([other for other in COLOURS if other != colour])
        if error != "colour":
            shape = rng.choice([other for other in SHAPES if other != shape])
    return {**params, "note": f"{colour} {shape}", "form": rng.choice(("what", "right"))}


def question_claims(params: dict[str, Any]) -> str:
    tail = f"What is at {params['place']}?" if params["form"] == "what" else "Is the note right?"
    return f"Note: {note_words(params)}. {tail}"


def note_words(params: dict[str, Any]) -> str:
    """``B2 is an orange star``."""
    return f"{params['place']} is {'an' if params['note'].startswith('orange') else 'a'} {params['note']}"


def answer_claims(cells: list[Thing], params: dict[str, Any]) -> str | None:
    there = answer_place(cells, params)
    if params["form"] == "what" or there is None:
        return there
    return "yes" if there == params["note"] else "no"


def ask_list(cells: list[Thing], rng: random.Random) -> dict[str, Any]:
    return {"kind": rng.choice(("colour", "shape"))}


def answer_list(cells: list[Thing], params: dict[str, Any]) -> str:
    return "; ".join(row_words(cells, row, params["kind"]) for row in range(1, CELLS + 1))


def row_words(cells: list[Thing], row: int, kind: str) -> str:
    """``row 2: red none blue``."""
    row_cells = cells[(row - 1) * CELLS : row * CELLS]
    return f"row {row}: " + " ".join(attribute(thing, kind) for thing in row_cells)


STEPS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}


def ask_relation(cells: list[Thing], rng: random.Random) -> dict[str, Any] | None:
    options = []
    for thing, times in Counter(cells).items():
        if thing is not None and times == 1:
            for direction in STEPS:
                if answer_relation(cells, {"thing": name(thing), "direction": direction}) is not None:
                    options.append((name(thing), direction))
    if not options:
        return None
    thing_name, direction = rng.choice(options)
    return {"thing": thing_name, "direction": direction}


def answer_relation(cells: list[Thing], params: dict[str, Any]) -> str | None:
    indices = [index for index, thing in enumerate(cells) if name(thing) == params["thing"]]
    if len(indices) != 1:
        return None
    place = walk(indices[0], [params["direction"]])
    return name(cells[place]) if place is not None else None


def question_relation(params: dict[str, Any]) -> str:
    where = {"right": "right of", "left": "left of", "down": "below", "up": "above"}[params["direction"]]
    return f"What is {where} the {params['thing']}?"


def walk(index: int, moves: list[str]) -> int | None:
    """The index reached by ``moves`` from ``index``, or None where they leave the grid."""
    column, row = index % CELLS, index // CELLS
    for move in moves:
        column, row = column + STEPS[move][0], row + STEPS[move][1]
        if not (0 <= column < CELLS and 0 <= row < CELLS):
            return None
    return row * CELLS + column


def ask_simulation(cells: list[Thing], rng: random.Random) -> dict[str, Any] | None:
    for _ in range(50):
        start, moves = rng.randrange(len(PLACES)), rng.choices(list(STEPS), k=rng.randint(2, 3))
        if walk(start, moves) is not None:
            return {"start": PLACES[start], "moves": moves}
    return None


def answer_simulation(cells: list[Thing], params: dict[str, Any]) -> str:
    end = walk(PLACES.index(params["start"]), params["moves"])
    assert end is not None
    return f"{PLACES[end]}: {name(cells[end])}"


def draw_statement(rng: random.Random) -> dict[str, str]:
    shape = rng.choice(SHAPES)
    return {"quantifier": rng.choice(("every", "some", "no")), "shape": shape, "colour": rng.choice(COLOURS)}


def is_true_of(cells: list[Thing], statement: dict[str, str]) -> bool:
    hits = [thing[0] == statement["colour"] for thing in cells if thing and thing[1] == statement["shape"]]
    return {"every": all(hits), "some": any(hits), "no": not any(hits)}[statement["quantifier"]]


def ask_logic(cells: list[Thing], rng: random.Random) -> dict[str, Any]:
    return {"statements": [draw_statement(rng) for _ in range(3)]}


def question_logic(params: dict[str, Any]) -> str:
    lines = [
        f"{number}: {s['quantifier']} {s['shape']} is {s['colour']}."
        for number, s in enumerate(params["statements"], start=1)
    ]
    return " ".join(lines) + " Which are true?"


def answer_logic(cells: list[Thing], params: dict[str, Any]) -> str:
    true = [str(number) for number, s in enumerate(params["statements"], start=1) if is_true_of(cells, s)]
    return ", ".join(true) or "none"


# Questions about charts and layouts


def ask_bar(bars: list[tuple[str, int]], rng: random.Random) -> dict[str, Any]:
    return {"colour": rng.choice(bars)[0]}


def answer_bar(bars: list[tuple[str, int]], params: dict[str, Any]) -> str | None:
    height = dict(bars).get(params["colour"])
    return None if height is None else str(height)


def ask_left(things: list[tuple[str, str, float, float]], rng: random.Random) -> dict[str, Any] | None:
    xs = sorted(thing[2] for thing in things)
    return {} if len(xs) > 1 and xs[1] - xs[0] > 0.05 else None


def answer_left(things: list[tuple[str, str, float, float]], params: dict[str, Any]) -> str:
    return " ".join(min(things, key=lambda thing: thing[2])[:2])


def count_things(things: list[tuple[str, str, float, float]]) -> list[Thing]:
    return [(colour, shape) for colour, shape, _, _ in things]


def grid_family(family: str, domain: str, ask: Any, question: Any, answer: Any) -> Family:
    return Family(family, domain, draw_grid, ask, lambda p: GRID + question(p), answer, grid_image, grid_facts)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        grid_family("count", "count", ask_count, question_count, answer_count),
        grid_family(
            "compare",
            "yes_no",
            ask_compare,
            lambda p: f"Do {p['places'][0]} and {p['places'][1]} have the same {p['kind']}?",
            answer_compare,
        ),
        grid_family("place", "text", ask_place, lambda p: f"What is at {p['place']}?", answer_place),
        grid_family("claims", "text", ask_claims, question_claims, answer_claims),
        grid_family("list", "table", ask_list, lambda p: f"List the {p['kind']}s.", answer_list),
        grid_family("relation", "text", ask_relation, question_relation, answer_relation),
        grid_family(
            "simulation",
            "simulation",
            ask_simulation,
            lambda p: f"Start at {p['start']} and go {', '.join(p['moves'])}. Where are you, and what is there?",
            answer_simulation,
        ),
        grid_family("logic", "logic", ask_logic, question_logic, answer_logic),
        Family(
            "bar_value",
            "number",
            draw_chart,
            ask_bar,
            lambda p: f"What is the value of the {p['colour']} bar?",
            answer_bar,
            chart_image,
            chart_facts,
        ),
        Family(
            "bar_highest",
            "text",
            draw_chart,
            lambda bars, rng: {},
            lambda p: "Which bar is the highest?",
            lambda bars, p: max(bars, key=lambda bar: bar[1])[0],
            chart_image,
            chart_facts,
        ),
        Family(
            "layout_count",
            "count",
            draw_layout,
            lambda things, rng: ask_count(count_things(things), rng),
            question_count,
            lambda things, p: answer_count(count_things(things), p),
            layout_image,
            layout_facts,
        ),
        Family(
            "layout_left",
            "text",
            draw_layout,
            ask_left,
            lambda p: "Which shape is furthest left?",
            answer_left,
            layout_image,
            layout_facts,
        ),
    )
}
