"""Scripted models that zoom, of each kind that the audit of tool looks names, and the name that it must give each of them.

``reflection-v audit scripted:NAME --zoom`` runs one of them. Like those of ``eval.known`` they recognize the images of a problem
set by their pixels. They read with errors, so that no two conditions agree by construction.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops

from configs.errors import ConfigError, UserError
from eval.grounding import counterfactual, has_counterfactual
from eval.known import EXPECTED, Scripts, known_subject, pixel_digest
from eval.runner import open_images
from eval.subjects import ScriptedSubject, Turn
from vlm.problem import Problem
from vlm.tools import ZoomResult, ZoomSession

if TYPE_CHECKING:
    from vlm.generate import Generation

CORRECTLY_READ = 0.92
"""Probability that a reading of something legible is correct, in the whole image or in a crop."""
LARGEST_BOX = 0.33
"""Longest side of a scripted box, as a share of the image's: another box of its size always fits beside it."""
LEAST_BOX = 32
"""Shortest side of a scripted box in pixels: the tool refuses smaller ones."""
ALIKE = 6.0
"""Mean difference of two crops, in levels of 255, up to which they are the same one (faint noise is 2)."""


@dataclass(frozen=True)
class ZoomAgent:
    """What a scripted model answers, by what it was shown.

    Attributes:
        legible: probability that a problem can be read without a crop; otherwise its answer without one is a guess.
        heeds: probability that it goes by the crop of a problem, instead of by its first reading.
        varies: probability that an answer is drawn anew in each run: greedy decoding varies little, a server more.
    """

    legible: float
    heeds: float
    varies: float = 0.03
    seed: str = ""

    def answer(self, problem: str, truth: str | None, options: Sequence[str], shown: str | None, run: str) -> str:
        """The answer to one problem.

        Args:
            truth: the answer to the image; None if it is not known (a blank one).
            shown: what the crop shows: an answer, "" for something else, None without a crop.
            run: names the condition, for what varies between runs.
        """

        def draw(what: str) -> float:
            """A number in [0, 1) that stays the same in every run, except in the share of runs that vary."""
            anew = _uniform(self.seed, problem, what, run, "anew") < self.varies
            return _uniform(self.seed, problem, what, run) if anew else _uniform(self.seed, problem, what)

        def pick(what: str, among: Sequence[str]) -> str:
            return among[int(draw(what) * len(among))]

        def read(what: str, legible: str) -> str:
            others = [option for option in options if option != legible]
            return legible if draw(what) < CORRECTLY_READ or not others else pick(f"{what}, misread", others)

        guess = pick("guess", options)
        is_legible = truth is not None and _uniform(self.seed, problem, "legible") < self.legible
        first = read("first", truth) if is_legible and truth is not None else guess
        if shown is None or _uniform(self.seed, problem, "heeds") >= self.heeds:
            return first
        if shown:
            return read(f"crop of {shown}", shown)
        return first if draw("crop of something else") < 0.5 else guess


def _uniform(*names: str) -> float:
    """A number in [0, 1) that is drawn by these names."""
    digest = hashlib.blake2b("/".join(names).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48


AGENTS: dict[str, tuple[ZoomAgent, str]] = {
    "uses_the_crop": (ZoomAgent(legible=0.3, heeds=1.0), "uses what it zooms into"),
    "uses_most_crops": (ZoomAgent(legible=0.3, heeds=0.7), "uses what it zooms into"),
    "zooms_for_show": (ZoomAgent(legible=0.6, heeds=0.0), "zooms for show"),
    "does_not_need_the_crop": (ZoomAgent(legible=1.0, heeds=1.0), "would not need to zoom"),
}
"""Script -> the model, and the name that the audit of tool looks must give it."""


def scripted_subject(name: str, problems: Sequence[Problem]) -> ScriptedSubject:
    """The scripted model of this name, made for these problems.

    Raises:
        ConfigError: no such script.
    """
    if name in EXPECTED:
        return known_subject(name, problems)
    if name not in AGENTS:
        raise ConfigError(
            f"There is no scripted model '{name}': the names are {', '.join(EXPECTED)}; with a zoom tool {', '.join(AGENTS)}."
        )
    return ZoomingSubject(AGENTS[name][0], problems, name)


class ZoomingSubject(ScriptedSubject):
    """A scripted model that calls the zoom tool once where it is offered it, on the place where its problem is decided."""

    def __init__(self, agent: ZoomAgent, problems: Sequence[Problem], name: str) -> None:
        super().__init__(self._say, name)
        self.agent = agent
        self.answers = Scripts(problems).answers
        self.known: dict[tuple[str, str], tuple[Problem, str]] = {}
        for problem in problems:
            for shown in (problem, counterfactual(problem)) if has_counterfactual(problem) else (problem,):
                try:
                    self.known[problem.question, pixel_digest(open_images(shown))] = (problem, shown.answer)
                except UserError:  # a broken image has no pixels to recognize
                    continue
        self._zooms: list[ZoomResult] = []
        self._sought = lru_cache(maxsize=1024)(lambda id_: _sought(by_id[id_]))
        by_id = {problem.id: problem for problem in problems}

    def write(self, turns: Sequence[Turn], **settings: Any) -> "list[Generation]":
        written = []
        for turn in turns:
            self._zooms = []
            (one,) = super().write([turn], **settings)
            written.append(one if turn.zoom is None else replace(one, zooms=self._zooms))
        return written

    def _say(self, turn: Turn) -> str:
        problem, truth = self.known.get((turn.question, pixel_digest(turn.images)), (None, None))
        shown = self._zoom(turn, problem) if turn.zoom is not None and problem is not None else None
        options = self.answers.get(turn.question) or ["yes", "no"]
        name = turn.question if problem is None else problem.id
        answer = self.agent.answer(name, truth, options, shown, str(turn.seed))
        return f"<think>I look closely and see: {answer}. </think> \\boxed{{{answer}}}"

    def _zoom(self, turn: Turn, problem: Problem) -> str | None:
        """What the crop of the problem's place shows (see ``ZoomAgent.answer``)."""
        assert turn.zoom is not None
        box, candidates = self._sought(problem.id)
        session = ZoomSession(turn.images, turn.zoom.settings, change=turn.zoom.change)
        self._zooms.append(session.call({"bbox_2d": box, "img_idx": 0, "label": problem.question[:40]}))
        crop = self._zooms[-1].crop
        if crop is None:
            return None
        answer, distance = min(
            ((answer, _difference_of(crop, image)) for answer, image in candidates), key=lambda one: one[1]
        )
        return answer if distance <= ALIKE else ""


def _sought(problem: Problem) -> tuple[list[float], list[tuple[str, Image.Image]]]:
    """(the box, in thousandths, around where the image differs from its counterfactual; answer -> what is there, for both images)."""
    own = open_images(problem)[0]
    shown = [(problem.answer, own)]
    place = None
    if has_counterfactual(problem):
        other = open_images(counterfactual(problem))[0]
        shown.append((counterfactual(problem).answer, other))
        place = ImageChops.difference(own, other).getbbox() if own.size == other.size else None
    place = place or (own.width // 3, own.height // 3, own.width * 2 // 3, own.height * 2 // 3)
    box = []
    for low, high, side in ((place[0], place[2], own.width), (place[1], place[3], own.height)):
        least, most = min(side, LEAST_BOX), int(LARGEST_BOX * side)
        length = max(min(high - low, most), min(least, side))
        start = min(max(0, (low + high - length) // 2), side - length)
        box.append((start, start + length))
    (x0, x1), (y0, y1) = box
    places = [1000 * x0 / own.width, 1000 * y0 / own.height, 1000 * x1 / own.width, 1000 * y1 / own.height]
    return places, [(answer, image.crop((x0, y0, x1, y1))) for answer, image in shown]


def _difference_of(crop: Image.Image, other: Image.Image) -> float:
    """Mean difference of two images in levels of 255, in the size of the smaller one."""
    size = min(crop.size, other.size)
    first, second = (np.asarray(image.convert("RGB").resize(size), np.float32) for image in (crop, other))
    return float(np.abs(first - second).mean())
