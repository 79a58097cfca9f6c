"""A problem set and scripted models for tests of whole builds; run as a program, a build that can be killed.

Every third problem is right at once, every third after a second look, every third never.
"""

import asyncio
import os
import sys
from pathlib import Path

from PIL import Image

from data_construction.agent import LoopConfig
from data_construction.build import BuildConfig, run_build
from data_construction.prompts import load_prompts
from data_construction.roles import Roles
from vlm.backends import Request, ScriptedBackend
from vlm.problem import Problem, write_problems

LOOP = LoopConfig(confirm_share=0.0, rounds=2)


def write_set(folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    Image.new("RGB", (32, 32), "blue").save(folder / "p.png")
    rows = [
        Problem(
            id=f"p{i:04d}",
            source="t",
            domain="count",
            images=["p.png"],
            question=f"How many of kind {i}?",
            answer=str((1, 2, 9)[i % 3]),
        )
        for i in range(n)
    ]
    write_problems(rows, folder)
    return folder


def text_of(request: Request) -> str:
    return " ".join(part.get("text", "") for part in request.messages[-1]["content"])


def says(request: Request) -> str:
    """What a model of any role says; it depends on the request alone."""
    prompt = text_of(request)
    if request.images:
        return "row 1: red red" if "Look again" in prompt else "row 1: red none"
    if prompt.startswith("Task: request"):
        return "Look again at row 1." if "Seen:" in prompt else "Which colours are there?"
    if prompt.startswith("Task: conclude"):
        again = prompt.count("Seen:") == 2
        return "row 1: red red, red 2. \\boxed{2}" if again else "row 1: red none, red 1. \\boxed{1}"
    return f"seed {request.seed}"  # no faithful rewrite: the template takes over


def settings(folder: Path, **changes: object) -> BuildConfig:
    values = {"problems": str(folder / "set"), "out": str(folder / "out"), "prompts": "short", "loop": LOOP}
    return BuildConfig.model_validate(values | changes)


def scripted_roles(reasoner=says, responder=None) -> Roles:
    return Roles(ScriptedBackend(reasoner), ScriptedBackend(responder or reasoner), load_prompts("short"))


def killable(folder: Path, delay: float, concurrency: int) -> None:
    """A build whose every call is noted in ``calls.log`` before it is answered."""
    calls = os.open(folder / "calls.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def slow(request: Request) -> str:
        os.write(calls, f"{request.seed}\n".encode())
        await asyncio.sleep(delay)
        return says(request)

    run_build(settings(folder, concurrency=concurrency), roles=scripted_roles(slow))


if __name__ == "__main__":
    killable(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
