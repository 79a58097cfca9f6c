"""Scripted models with texts of the length that large models write, for benchmarks of the agent loop itself.

An episode costs what it costs with real replies: some 150 words for a look, 80 for a conclusion, and 150 for the rewrite of an
episode of two rounds. A third of the problems is correct at once, a third after a re-look, a third never, and one in 200 ends
in an error (empty replies). Every reply depends on its request alone.
"""

import asyncio
import functools
import random
import re
from pathlib import Path
from typing import Any

from data_construction.agent import LoopConfig
from data_construction.prompts import load_prompts
from data_construction.roles import Roles
from vlm.problem import Problem, write_problems
from vlm.protocol import Reply, Request

COLOURS = ("red", "blue", "green", "orange", "purple", "yellow")
THINGS = ("cup", "lamp", "star", "book", "chair", "plant", "clock", "shelf")
PLACES = ("left", "right", "top", "bottom", "middle", "corner", "front", "back")
_NUMBER = re.compile(r"number (\d+)")
LOOP = LoopConfig(rounds=2)


def write_scripted_set(folder: Path, n: int, images: int = 16) -> None:
    """``n`` problems over so many images of 192 x 192 noise."""
    from PIL import Image

    rng = random.Random(0)
    folder.mkdir(parents=True)
    for number in range(images):
        Image.frombytes("RGB", (192, 192), rng.randbytes(192 * 192 * 3)).save(folder / f"{number}.png")
    rows = [
        Problem(
            id=f"scripted-{i:06d}",
            source="scripted",
            domain="count",
            images=[f"{i % images}.png"],
            question=f"How many cups are on the shelf in photo number {i}? Count those that are partly hidden, too.",
            answer=str((2, 3, 9)[i % 3]),
        )
        for i in range(n)
    ]
    write_problems(rows, folder)


def text_of(request: Request) -> str:
    """The text of the last message."""
    return " ".join(part.get("text", "") for part in request.messages[-1]["content"])


@functools.lru_cache(maxsize=1024)
def scene(number: int, cups: int) -> str:
    """Some 120 words about a scene of ten places, the same for the same number."""
    rng = random.Random(number)
    facts = [f"{place} {row}: {rng.choice(COLOURS)} {rng.choice(THINGS)}" for row in (1, 2) for place in PLACES[:5]]
    told = [
        f"Near the {rng.choice(PLACES)} there is a {rng.choice(COLOURS)} {rng.choice(THINGS)} of number {rng.randrange(90)}."
        for _ in range(5)
    ]
    return f"cups: {cups}. " + ". ".join(facts) + ". " + " ".join(told)


def counted(number: int, again: bool) -> int:
    """The cups that are seen: a third of the photos shows another number to whoever looks again."""
    return 3 if again and number % 3 == 1 else 2


def says(request: Request) -> str:
    """What a model of any role says."""
    prompt = text_of(request)
    found = _NUMBER.search(prompt)
    number = int(found[1]) if found else 0
    if request.images:
        return scene(number, counted(number, "once more" in prompt))
    if "Write only the question" in prompt:
        if number % 200 == 199:
            return ""
        again = "Thought:" in prompt
        return f"Which things stand on the shelf in photo number {number}{', looking once more at the right side' * again}?"
    cups = counted(number, prompt.count("Seen:") > 1)
    facts = scene(number, cups)
    if "train of thought" in prompt:
        first = f"I look at the shelf. {scene(number, 2)}"
        return f"{first} Wait, let me look at the picture again. {facts}" if prompt.count("Seen:") > 1 else first
    return f"{facts} So the cups on the shelf are counted one by one, and there are {cups} of them. \\boxed{{{cups}}}"


class ScriptedRole:
    """A backend without latency of its own; unlike ``ScriptedBackend`` it keeps no request."""

    name = "scripted"

    async def complete(self, request: Request) -> Reply:
        await asyncio.sleep(0.001)
        text = says(request)
        return Reply(text, "stop", 400, len(text.split()), 0.001)

    async def aclose(self) -> None:
        pass


def scripted_roles(prompts: str = "full") -> Roles:
    backend: Any = ScriptedRole()
    return Roles(backend, backend, load_prompts(prompts))
