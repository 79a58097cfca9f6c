"""A teacher and its student: ``python benchmarks/student.py --models TEACHER STUDENT [--heldout SET] [--json] [--write FILE]``.

For each model: ``parameters``, ``accuracy`` on held-out problems (greedy, with its interval), ``tokens_per_second`` in batches of
64 and ``tokens_per_second_single`` one question at a time; batches of the models take turns in one process, medians. The last
line is one JSON object; ``--write`` writes the table as Markdown. docs/training.md tells how the student was trained.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.reporting import report, surroundings  # noqa: E402
from configs.jsonl import write_text_atomic  # noqa: E402
from eval.figures import image_clusters  # noqa: E402
from eval.runner import open_images  # noqa: E402
from eval.stats import estimate_share  # noqa: E402
from reward.grade import grade  # noqa: E402
from vlm.chat import question_messages  # noqa: E402
from vlm.generate import generate  # noqa: E402
from vlm.load import VLM, load_vlm  # noqa: E402
from vlm.problem import Problem, read_problems  # noqa: E402

BATCH, TOKENS, SINGLES = 64, 256, 20


def answer(vlm: VLM, problems: list[Problem]) -> tuple[list[float | None], float]:
    """The scores of the problems, and the tokens per second."""
    messages = [question_messages(p.question, len(p.images), "think", p.choices) for p in problems]
    images = [open_images(p) for p in problems]
    began = time.perf_counter()
    written = generate(vlm, messages, images, max_new_tokens=TOKENS, batch_size=BATCH)
    seconds = time.perf_counter() - began
    scores = [grade(p, one.text, one.finished).score for p, one in zip(problems, written, strict=True)]
    return scores, sum(len(one.token_ids) for one in written) / seconds


def accuracy(scores: dict[str, float | None], images: dict[str, str]) -> dict[str, Any]:
    """The mean score of the problems that could be graded; those that share an image are dependent."""
    judged = {id_: score for id_, score in scores.items() if score is not None}
    return estimate_share(judged.values(), [images[id_] for id_ in judged])


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    problems = read_problems(options.heldout)[: 128 if options.quick else None]
    order = sorted(problems, key=lambda p: (p.family, len(p.question), p.id))
    models = {path: load_vlm(path) for path in options.models}
    scores: dict[str, list[float | None]] = {path: [] for path in models}
    rates: dict[str, list[float]] = {path: [] for path in models}
    images = image_clusters(order)
    singles: dict[str, list[float]] = {path: [] for path in models}
    for first in range(0, len(order), BATCH):
        for path, vlm in models.items():
            found, rate = answer(vlm, order[first : first + BATCH])
            scores[path] += found
            rates[path].append(rate)
    for problem in problems[:SINGLES]:
        for path, vlm in models.items():
            singles[path].append(answer(vlm, [problem])[1])
    return [
        {
            "model": path,
            "parameters": sum(weight.numel() for weight in vlm.model.parameters()),
            "accuracy": accuracy(dict(zip(images, scores[path], strict=True)), images),
            "tokens_per_second": round(statistics.median(rates[path])),
            "tokens_per_second_single": round(statistics.median(singles[path])),
        }
        for path, vlm in models.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| model | parameters | accuracy | tokens/s, batches of 64 | tokens/s, one at a time |", "|---" * 5 + "|"]
    for row in rows:
        found = "{:.3f} ({:.3f} to {:.3f})".format(row["accuracy"]["value"], *row["accuracy"]["ci95"])
        rates = f"{row['tokens_per_second']:,} | {row['tokens_per_second_single']:,}"
        lines.append(f"| `{row['model']}` | {row['parameters'] / 1e6:.1f} M | {found} | {rates} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="MODEL")
    parser.add_argument("--heldout", type=Path, default=Path("runs/tiny/problems/heldout"))
    parser.add_argument("--quick", action="store_true", help="128 problems")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = measure(options)
    if options.write:
        write_text_atomic(options.write, table(rows))
    return report({"rows": rows, **surroundings(torch.get_num_threads(), "torch", "transformers")}, {}, options.json)


if __name__ == "__main__":
    sys.exit(main())
