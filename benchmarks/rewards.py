"""How long it takes to grade 10,000 mixed answers, and how much answers that hang add to this time.

    python benchmarks/rewards.py [--quick] [--json]

The work: 1,000 answers of each domain, 8 to a problem as GRPO samples them: correct ones in several spellings, near misses, prose,
broken notation. ``hang_ratio``: the same with 1% of the answers replaced by expressions on which the algebra system would not come
to an end. One half of them shows it (towers of powers, factorials of powers) and is refused unread; the other half is short and
shallow, reaches the algebra system and is ended by the kernel at the limit of CPU time (``hanging_ended``), which goes by the
machine's speed. They come in two shapes with other numbers each, as a policy repeats itself; from the third of a shape on the
limit is a tenth. ``hang_ratio_distinct`` is the same in other letters each, so that nothing can be known of one from those before it.
``honest_timeouts`` counts ended answers of all passes beside those meant to hang. Interleaved runs,
medians; beside the clock's ratio stands that of the CPU time of all processes (``hang_ratio_cpu``), which other work on the machine
disturbs less. The workers are started before (``start_seconds``): a training run starts them once. There is no peer figure:
math-verify's own timeout is a signal of the main thread, and a loop inside of C code ignores it.
"""

import argparse
import itertools
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks.reporting import report, surroundings
from reward import grade
from reward.grade import Gold, Grade, grade_answer
from reward.verifiers import VERIFIERS
from reward.worker import cores, map_in_threads

Case = tuple[Gold, str]

MUST_HOLD = {"seconds_10k": lambda x: x <= 20, "hang_ratio": lambda x: x <= 1.5}  # hang_ratio_distinct: docs/log.md
PROSE = ["I cannot tell.", "It is 5 or 6.", "see above", "none of these, I think", "{" * 300, "\\frac{1}{", "?"]
COLOURS, SHAPES = ["red", "blue", "green", "orange"], ["star", "circle", "square"]


def problem(domain: str, rng: random.Random) -> tuple[str, list[str] | None, list[str]]:
    """(gold, choices, sampled answers: correct ones in several spellings, then near misses)."""
    a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 9)
    thing = f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}"
    match domain:
        case "number":
            return (
                f"{a}.5 cm",
                None,
                [f"{a}.5", f"{a}.50 cm", f"{a}5 mm", f"x = {a}.5", f"{a} 1/2", f"{b}.5", f"{a}.5 m"],
            )
        case "count":
            return str(c), None, [str(c), f"{c} stars", f"{c}.0", str(c + 1), "many"]
        case "choice":
            options = [f"{colour} {SHAPES[c % 3]}" for colour in COLOURS]
            return options[1], options, ["B", "(b)", options[1], f"B) {options[1]}", "A", f"A) {options[1]}", "E"]
        case "yes_no":
            return "yes", None, ["yes", "Yes, it is.", "TRUE", "no", "yes and no"]
        case "text":
            return thing, None, [thing, f"The {thing}.", thing.upper(), f"{thing} and more", "star"]
        case "expression":
            d = rng.randint(2, 9)
            forms = [
                (f"(x+{a})(x-{c})", f"x^2+{a - c}x-{a * c}", f"x^2+{a - c}x-{a * c + 1}"),
                (f"\\frac{{{a}x}}{{{b}}}", f"{a}x/{b}", f"{b}x/{a}"),
                (f"{c}\\sqrt{{{d}}}", f"\\sqrt{{{c * c * d}}}", f"\\sqrt{{{c * d}}}"),
                (f"{a}\\pi", f"\\pi \\cdot {a}", f"{b + 100}\\pi"),
                (f"x^{{{c}}}+{b}", f"{b}+x^{c}", f"x^{c}-{b}"),
            ]
            gold, same, other = rng.choice(forms)
            return gold, None, [gold, f"${gold}$", same, f" {same} ", same, other, other, f"{a}"]
        case "table":
            rows = [f"row {n}: {' '.join(rng.choices(COLOURS, k=3))}" for n in (1, 2, 3)]
            return "; ".join(rows), None, ["; ".join(rows), "\n".join(rows[::-1]), "; ".join(rows[:2]), "red"]
        case "logic":
            return (
                f"A = knight, B = knave, C = {a}",
                None,
                [f"B is knave and A is knight and C is {a}", f"C={a}", "A > B"],
            )
        case "simulation":
            return f"x={a}, y={b}", None, [f"y = {b}; x = {a}", f'{{"x": {a}, "y": {b}}}', f"x={a}, y={a}", f"{a}, {b}"]
        case _:
            return f"{a}.81 m/s^2", None, [f"{a}.8 m/s²", f"{a}81 cm/s^2", f"{a}.81 N/kg", f"{a}.81 m", f"{b}"]


def mixed(count: int, rng: random.Random) -> list[Case]:
    """``count`` cases, as many of each domain, in random order."""
    cases: list[Case] = []
    for number in range(count // 8):
        domain = list(VERIFIERS)[number % len(VERIFIERS)]
        gold, choices, answers = problem(domain, rng)
        for _ in range(8):
            answer = rng.choice(PROSE) if rng.random() < 0.1 else rng.choice(answers)
            cases.append((Gold(domain, gold, choices), answer))
    rng.shuffle(cases)
    return cases


def hanging(rng: random.Random, number: int, names: str) -> Case:
    """An expression that looks like any other, and on which nothing comes of 60 seconds of algebra.

    Every second one reaches the algebra system. ``names``: the four letters that it is written in.
    """
    a, b = rng.randint(3, 9), rng.randint(3, 9)
    x, y, z, w = names
    refused = [f"{a}**{b}**{a}**{b}", f"({a}^{{1{b}}})!"]
    short = [
        f"\\int \\sqrt{{\\sin({x}^{a}+{y})}} e^{{\\cos({z}{x}^{b}+{w})}} d{x}",
        f"({x}+{y}+{z}+{a}{w})^{{4{b}0}}",
    ]
    return Gold("expression", f"x^2+{a}x+{b}"), rng.choice(short if number % 2 else refused)


def grade_all(cases: list[Case]) -> list[Grade]:
    return map_in_threads(lambda case: grade_answer(*case), cases)


def cpu_time() -> float:
    """CPU seconds of this process, of the workers, and of workers' children that are gone."""
    here = psutil.Process()
    total = sum(here.cpu_times()[:2])
    for child in here.children(recursive=True):
        total += sum(child.cpu_times()[:4])
    return total


def measure(rounds: int, count: int) -> dict[str, Any]:
    rng = random.Random(0)
    cases = mixed(count, rng)
    places = rng.sample(range(count), count // 100)
    began = time.perf_counter()
    grade_all([(Gold("expression", "1+x"), "x+1"), (Gold("number", "1"), "1")] * 2 * cores())
    started = time.perf_counter() - began
    names = ("plain", "alike", "distinct")
    wall: dict[str, list[float]] = {name: [] for name in names}
    cpu: dict[str, list[float]] = {name: [] for name in names}
    ended = dict.fromkeys(names, 0)
    honest_timeouts, correct = 0, 0.0
    letters = ["".join(four) for four in itertools.permutations("abcghklmnpqrstuvwxyz", 4)]
    rng.shuffle(letters)
    for number_of_round in range(rounds):
        first = number_of_round % 3
        for name in names[first:] + names[:first]:
            grade._HUNG = grade.Hung()  # a pass must not know what hung in the pass before
            some = list(cases)
            for number, place in enumerate(places if name != "plain" else []):
                some[place] = hanging(rng, number, letters.pop() if name == "distinct" else "xyzw")
            clock, used = time.perf_counter(), cpu_time()
            grades = grade_all(some)
            wall[name].append(time.perf_counter() - clock)
            cpu[name].append(cpu_time() - used)
            late = {place for place, one in enumerate(grades) if one.reason == "timeout"}
            ended[name] += len(late & set(places)) if name != "plain" else 0
            honest_timeouts += len(late - set(places)) if name != "plain" else len(late)
            correct = correct if name != "plain" else sum(one.correct for one in grades) / count

    def ratio(times: dict[str, list[float]], name: str) -> float:
        return round(statistics.median(h / p for h, p in zip(times[name], times["plain"], strict=True)), 3)

    return {
        "seconds_10k": round(statistics.median(wall["plain"]) * 10_000 / count, 2),
        "hang_ratio": ratio(wall, "alike"),
        "hang_ratio_distinct": ratio(wall, "distinct"),
        "cpu_seconds_10k": round(statistics.median(cpu["plain"]) * 10_000 / count, 2),
        "hang_ratio_cpu": ratio(cpu, "alike"),
        "hang_ratio_distinct_cpu": ratio(cpu, "distinct"),
        "hanging": len(places),
        "hanging_ended": ended["alike"] / rounds,
        "hanging_ended_distinct": ended["distinct"] / rounds,
        "honest_timeouts": honest_timeouts,
        "right_share": round(correct, 3),
        "start_seconds": round(started, 2),
        "n": rounds,
        "answers": count,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    figures = measure(args.rounds or (2 if args.quick else 5), args.answers)
    figures |= surroundings(cores(), "math-verify", "sympy")
    return report(figures, MUST_HOLD, args.json)


if __name__ == "__main__":
    sys.exit(main())
