"""How often the audit of tool looks gives a wrong name: ``python benchmarks/tool_looks.py [--quick] [--json] [--write FILE]``.

The work: for each cell 200 audits (``--quick``: 20) of 100 problems. A scripted model of ``eval.known_zoom``, whose use of the tool
is known, answers every problem under every condition of the audit, and ``eval.tool_looks.count_tool_looks`` names it. Cells: the kind
of model; problems with 2 or with 6 possible answers; a white box, in which 3% of the answers are drawn anew in each run, or a served
model, in which 10% are. What a crop shows is given to the models here; that the changed crops show just that is tested in
tests/eval/test_tool_looks.py.

A name is *wrong* if it is neither the model's own nor "insufficient data". It must hold: in no cell more than 5% of the names are
wrong. Cells with 25 problems are held to that, too. No figure is a timing. About 2 minutes of processor time.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reporting import report, surroundings
from configs.jsonl import write_text_atomic
from eval.audit import AuditConfig
from eval.known_zoom import AGENTS
from eval.tool_calls import Zoom
from eval.tool_looks import TAMPERED, ToolLooks, count_tool_looks
from vlm.problem import Problem

NAMED_AT, FEW = 100, 25
"""Problems of an audit: enough for a name, and too few for most."""
OPTIONS = (6, 2)
VARIES = {"white": 0.03, "black": 0.10}
MARGIN = AuditConfig().zoom_margin
ZOOM = Zoom(box=(0, 0, 100, 100), size=(300, 300), img_idx=0, shown=True)
MOST_WRONG = 0.05


class Reply(NamedTuple):
    """What ``count_tool_looks`` reads of an ``eval.runner.Answer``, which takes ten times as long to make."""

    answer: str
    correct: bool
    zooms: list[Zoom] | None
    status: str = "ok"


class Cell(NamedTuple):
    """One simulated setting."""

    agent: str
    box: str
    options: int
    n: int

    @property
    def expected(self) -> str:
        return AGENTS[self.agent][1]


def all_cells() -> Iterator[Cell]:
    """The large audits first; few problems only with many possible answers."""
    for options, box, agent in product(OPTIONS, VARIES, AGENTS):
        yield Cell(agent, box, options, NAMED_AT)
    for box, agent in product(VARIES, AGENTS):
        yield Cell(agent, box, OPTIONS[0], FEW)


def simulate_audit(cell: Cell, repetition: int) -> dict[str, Any]:
    """One audit: the figures of ``count_tool_looks``."""
    agent = replace(AGENTS[cell.agent][0], varies=VARIES[cell.box], seed=f"{cell}/{repetition}")
    generator = random.Random(agent.seed)
    words = [chr(ord("a") + index) for index in range(cell.options)]
    problems: list[Problem] = []
    others: dict[str, str] = {}
    for index in range(cell.n):
        truth, other = generator.sample(words, 2)
        problem = Problem(
            id=f"p{index}",
            source="simulated",
            domain="text",
            images=[f"{index}.png"],
            question="Which letter is it?",
            answer=truth,
        )
        problems.append(problem)
        others[problem.id] = other

    def answer(problem: Problem, shown: str | None, run: str) -> Reply:
        text = agent.answer(problem.id, problem.answer, words, shown, run)
        return Reply(text, text == problem.answer, None if run == "no_tool" else [ZOOM])

    def condition(name: str) -> dict[str, Any]:
        return {
            problem.id: answer(problem, shown_in(name, problem.answer, others[problem.id]), name)
            for problem in problems
        }

    looks = ToolLooks(condition("alone"), problems, {name: condition(name) for name in TAMPERED})
    return count_tool_looks(looks, condition("no_tool"), {problem.id: problem.id for problem in problems}, MARGIN)


def shown_in(condition: str, own: str, other: str) -> str | None:
    """What the crop shows under a condition, as ``ZoomAgent.answer`` takes it."""
    shown = {"alone": own, "faint_noise": own, "swapped": other, "misplaced": "", "blanked": ""}
    return shown.get(condition)


def simulate(repetitions: int) -> dict[str, Any]:
    """All cells, and the figures that must hold."""
    rows = []
    for cell in all_cells():
        names = Counter(simulate_audit(cell, index)["profile"]["name"] for index in range(repetitions))
        wrong = sum(count for name, count in names.items() if name not in (cell.expected, "insufficient data"))
        rows.append(
            {
                **cell._asdict(),
                "expected": cell.expected,
                "named": round(names[cell.expected] / repetitions, 4),
                "wrong": round(wrong / repetitions, 4),
                "names": dict(names),
            }
        )
    return {
        "cells": rows,
        "repetitions": repetitions,
        "most_wrong": max(row["wrong"] for row in rows),
        "least_named_at_100": min(row["named"] for row in rows if row["n"] == NAMED_AT),
    }


def table(figures: dict[str, Any]) -> str:
    """Wrong names and right ones of every cell as Markdown."""
    lines = [
        "| model | problems | possible answers | box | its name | wrong name | insufficient data |",
        "|---" * 7 + "|",
    ]
    for row in figures["cells"]:
        rest = 1 - row["named"] - row["wrong"]
        shares = " | ".join(f"{share:.3f}" for share in (row["named"], row["wrong"], max(0.0, rest)))
        lines.append(f"| `{row['agent']}` | {row['n']} | {row['options']} | {row['box']} | {shares} |")
    return "\n".join(lines) + "\n"


MUST_HOLD = {"most_wrong": lambda share: share <= MOST_WRONG}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 audits per cell")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as Markdown")
    options = parser.parse_args()
    figures = simulate(20 if options.quick else 200)
    if options.write:
        write_text_atomic(options.write, table(figures))
    return report(figures | surroundings(1, "numpy", "scipy"), MUST_HOLD, options.json)


if __name__ == "__main__":
    sys.exit(main())
