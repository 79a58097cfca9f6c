"""Accuracy against the amount of reasoning: ``python benchmarks/effort.py [--model tiny] [--quick] [--json] [--write DIR]``.

Accuracy on 300 held-out problems (``scenes,digits``, the families that the bundled model was taught) against effort (off,
low, medium, high) and votes (1, 4, 8). One vote is greedy; 4 and 8 are the first 4 and all 8 of the same samples at
temperature 0.7. ``+1 look`` and ``+2 looks`` are greedy responses of medium effort that are asked to look once or twice
more, however often they have looked by themselves; their difference to medium effort is paired. ``tokens`` is the mean over
problems of all tokens generated for an answer. Intervals come from eval.stats.
In further rows ``effort`` is a number: the reasoning is cut at this many tokens.

The last line is one JSON object; ``--write`` also writes effort.md and effort.svg into a folder. No figure is a timing, so the
machine's load does not matter. There is no limit to pass.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import report, surroundings  # noqa: E402
from data_construction.sources import LEARNED, problems  # noqa: E402
from eval.figures import image_clusters  # noqa: E402
from eval.stats import estimate_share, paired_difference  # noqa: E402
from reward.grade import grade_answer  # noqa: E402
from vlm.asking import summarize  # noqa: E402
from vlm.chat import question_messages  # noqa: E402
from vlm.load import VLM, load_vlm  # noqa: E402
from vlm.problem import Problem, read_problems  # noqa: E402
from vlm.reasoning import EFFORTS, VOTE_TEMPERATURE, BudgetedResponse, Effort, think_batch, vote_seeds  # noqa: E402

VOTES = (1, 4, 8)
CUTS = (8, 16, 32, 64)
FURTHER = {"+1 look": 1, "+2 looks": 2}
SEED = 77


def questions(folder: str | None, n: int) -> list[tuple[Problem, list[Any]]]:
    """Problems with their opened images: drawn ones, or the first ``n`` of the user's own set."""
    from vlm.images import open_image

    if folder:
        return [(problem, [open_image(image) for image in problem.images]) for problem in read_problems(folder)[:n]]
    drawn = problems("scenes,digits", n, SEED, "heldout", family_names=list(LEARNED))
    return [(problem, [images[name] for name in problem.images]) for problem, images in drawn]


def think(vlm: VLM, asked: list[tuple[Problem, list[Any]]], effort: Effort, votes: int) -> list[list[BudgetedResponse]]:
    """``votes`` sampled responses per problem; a single one is greedy."""
    messages = [
        question_messages(problem.question, len(shown), effort.style, problem.choices)
        for problem, shown in asked
        for _ in range(votes)
    ]
    images = [shown for _, shown in asked for _ in range(votes)]
    temperature = 0.0 if votes == 1 else VOTE_TEMPERATURE
    seeds = vote_seeds(SEED, votes) * len(asked)
    written = think_batch(vlm, messages, images, effort, temperature=temperature, seeds=seeds, batch_size=64)
    return [written[start : start + votes] for start in range(0, len(written), votes)]


def row(
    name: str | int, votes: int, asked: list[tuple[Problem, list[Any]]], responses: list[list[BudgetedResponse]]
) -> dict[str, Any]:
    """One line of the table."""
    results = [summarize(of_one[:votes]) for of_one in responses]
    scores = [
        grade_answer(problem, result["answer"]).score for (problem, _), result in zip(asked, results, strict=True)
    ]
    clusters = image_clusters(problem for problem, _ in asked)
    judged = [(score, clusters[p.id]) for (p, _), score in zip(asked, scores, strict=True) if score is not None]
    accuracy = estimate_share([score for score, _ in judged], [label for _, label in judged])
    return {
        "effort": name,
        "votes": votes,
        "accuracy": accuracy["value"],
        "ci95": accuracy["ci95"],
        "n": accuracy["n"],
        "tokens": fmean(result["tokens"] for result in results),
        "agreement": fmean(result["votes"]["agreement"] for result in results),
        "looks": fmean(result["looks"] for result in results),
        "closed": fmean(result["closed"] for result in results),
        "correct": {p.id: score for (p, _), score in zip(asked, scores, strict=True) if score is not None},
    }


def measure(model: str, folder: str | None, n: int) -> dict[str, Any]:
    """All rows."""
    import torch

    vlm, asked, started = load_vlm(model), questions(folder, n), time.perf_counter()
    rows = []
    for name, effort in EFFORTS.items():
        rows.append(row(name, 1, asked, think(vlm, asked, effort, 1)))
        sampled = think(vlm, asked, effort, max(VOTES))
        rows += [row(name, votes, asked, sampled) for votes in VOTES if votes > 1]
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    rows += [row(cut, 1, asked, think(vlm, asked, Effort(cut), 1)) for cut in CUTS]
    medium = EFFORTS["medium"]
    rows += [row(name, 1, asked, think(vlm, asked, replace(medium, further=n), 1)) for name, n in FURTHER.items()]
    scores = {(one["effort"], one["votes"]): one.pop("correct") for one in rows}
    clusters = image_clusters(problem for problem, _ in asked)
    return {
        "rows": rows,
        "further_looks": {name: paired_difference(scores[name, 1], scores["medium", 1], clusters) for name in FURTHER},
        "model": model,
        "n": len(asked),
        "seed": SEED,
        "seconds": round(time.perf_counter() - started, 1),
        **surroundings(torch.get_num_threads(), "torch", "transformers"),
    }


def table(figures: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| effort | votes | accuracy | 95% interval | tokens | agreement | re-looks | closed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in figures["rows"]:
        low, high = one["ci95"] or (float("nan"), float("nan"))
        name = one["effort"] if isinstance(one["effort"], str) else f"cut at {one['effort']} tokens"
        name = f"medium, {name}" if name in FURTHER else name
        lines.append(
            f"| {name} | {one['votes']} | {one['accuracy']:.3f} | {low:.3f} to {high:.3f} | {one['tokens']:.0f} "
            f"| {one['agreement']:.2f} | {one['looks']:.2f} | {one['closed']:.2f} |"
        )
    lines.append("")
    for name, one in figures["further_looks"].items():
        low, high = one["ci95"] or (float("nan"), float("nan"))
        lines.append(f"{name} less medium, paired: {one['value']:+.3f} ({low:+.3f} to {high:+.3f}).")
    return "\n".join(lines)


def write(figures: dict[str, Any], folder: Path) -> None:
    """effort.md and effort.svg: accuracy over tokens, one line for each number of votes."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "effort"
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(7, 4))
    lines = [
        (
            f"{votes} vote{'s' * (votes > 1)}",
            [r for r in figures["rows"] if r["votes"] == votes and r["effort"] in EFFORTS],
        )
        for votes in VOTES
    ]
    lines.append(("thought cut short", [r for r in figures["rows"] if r["effort"] in CUTS]))
    lines.append(("asked to look again", [r for r in figures["rows"] if r["effort"] in FURTHER]))
    for (label, rows), marker in zip(lines, "osd^v", strict=True):
        rows = sorted(rows, key=lambda one: one["tokens"])
        spread = [[r["accuracy"] - r["ci95"][0] for r in rows], [r["ci95"][1] - r["accuracy"] for r in rows]]
        axes.errorbar(
            [r["tokens"] for r in rows],
            [r["accuracy"] for r in rows],
            yerr=spread,
            marker=marker,
            capsize=3,
            label=label,
        )
    axes.set(xscale="log", xlabel="tokens written for an answer (mean)", ylabel="accuracy, 95% interval", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(folder / "effort.svg", metadata={"Date": None})
    source = f"`python benchmarks/effort.py --model {figures['model']}`, n = {figures['n']}, seed {figures['seed']}."
    text = f"# What more thinking buys\n\n{source}\n\n{table(figures)}\n\n![accuracy over tokens](effort.svg)\n"
    (folder / "effort.md").write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--problems", help="a problem set instead of the drawn one")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="40 problems")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write effort.md and effort.svg into this folder")
    args = parser.parse_args()
    figures = measure(args.model, args.problems, 40 if args.quick else args.n)
    if args.write:
        write(figures, args.write)
    if not args.json:
        print(table(figures))
    return report(figures, {}, json_only=True)


if __name__ == "__main__":
    sys.exit(main())
