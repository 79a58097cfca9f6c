"""Scripted models whose grounding is known by construction, and the profile that an audit must give each of them.

``reflection-v audit scripted:NAME`` runs one of them. They recognize the images of a problem set by their pixels and
"see" the answers of that set.
"""

import hashlib
import random
import re
from collections.abc import Callable, Sequence

from PIL import Image

from configs.errors import ConfigError, UserError
from eval.grounding import counterfactual, has_counterfactual
from eval.runner import open_images
from eval.subjects import ScriptedSubject, Turn
from vlm.problem import Problem

EXPECTED = {
    "ignores_picture": "ignores the picture",
    "looks_at_first": "looks at first only",
    "always_looks": "looks again",
    "always_flips": "flips when interrupted",
    "random": "answers at random",
}
"""Script -> the profile that the audit must give it."""

_SEEN = re.compile(r"I see: ([^\n]*?)\. ")


def known_subject(name: str, problems: Sequence[Problem]) -> ScriptedSubject:
    """One of ``EXPECTED``, made for these problems.

    Raises:
        ConfigError: no such script.
    """
    if name not in EXPECTED:
        raise ConfigError(f"There is no scripted model '{name}': the names are {', '.join(EXPECTED)}.")
    return ScriptedSubject(Scripts(problems).named(name), name)


class Scripts:
    """What the scripts know: the answer of each problem of a set, by its question and the pixels of its images."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.truth: dict[tuple[str, str], str] = {}
        self.answers: dict[str, list[str]] = {}
        families: dict[str, list[str]] = {}
        for problem in problems:
            both = [problem, counterfactual(problem)] if has_counterfactual(problem) else [problem]
            for shown in both:
                families.setdefault(problem.family, []).append(shown.answer)
                try:
                    self.truth[problem.question, pixel_digest(open_images(shown))] = shown.answer
                except UserError:  # a broken image has no pixels to recognize
                    continue
        for problem in problems:
            self.answers[problem.question] = sorted(set(families[problem.family]))

    def named(self, name: str) -> Callable[[Turn], str]:
        return {
            "ignores_picture": lambda turn: _say(turn, self.blind(turn)),
            "looks_at_first": lambda turn: _say(turn, _told(turn) or self.sees(turn)),
            "always_looks": lambda turn: _say(turn, self.sees(turn)),
            "always_flips": lambda turn: _say(turn, self.flipped(turn)),
            "random": lambda turn: _say(turn, self.guess(turn)),
        }[name]

    def sees(self, turn: Turn) -> str:
        """The answer to the latest image. Without a known image: the answer in the text so far, else a blind guess."""
        images = list(turn.again) or turn.images
        there = self.truth.get((turn.question, pixel_digest(images))) if images else None
        return there or _told(turn) or self.blind(turn)

    def blind(self, turn: Turn) -> str:
        return self._pick(turn, turn.question)

    def guess(self, turn: Turn) -> str:
        shown = pixel_digest(turn.all_images) if turn.all_images else ""
        return self._pick(turn, f"{turn.seed}/{turn.prefix}/{turn.note}/{turn.reply}/{shown}/{turn.question}")

    def flipped(self, turn: Turn) -> str:
        told, options = _told(turn), self.answers[turn.question]
        return options[(options.index(told) + 1) % len(options)] if told in options else self.sees(turn)

    def _pick(self, turn: Turn, key: str) -> str:
        return random.Random(key).choice(self.answers.get(turn.question) or ["yes", "no"])


def _told(turn: Turn) -> str | None:
    """The answer that the text so far contains."""
    found = _SEEN.findall(turn.prefix + (turn.reply or ""))
    return found[-1] if found else None


def _say(turn: Turn, answer: str) -> str:
    end = f" I see: {answer}. </think> \\boxed{{{answer}}}"
    if turn.prefix:
        return end
    return f"<think>At first I see: {answer}. Let me look at the picture again. Now{end}"


def pixel_digest(images: Sequence[Image.Image]) -> str:
    """What tells the images of one turn from all others."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.size}".encode() + image.tobytes())
    return digest.hexdigest()
