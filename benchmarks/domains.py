"""One domain alone or all together: ``python benchmarks/domains.py --model runs/tiny/sft [--json] [--write FILE]``.

The question of Guru (arXiv 2506.14965) at this size: does reinforcement learning on one domain transfer to others, and is a
mixture worse for a domain than training on it alone? From one start, GRPO with ``configs/tiny/grpo.yaml`` takes the same number
of steps on each domain of a problem set, then on all of them. Every model answers the same held-out problems, greedily.

``rows``: ``trained`` (a domain, ``mixed``, or ``start``), then the accuracy (``value``, ``ci95``, ``n``) over ``all`` and over
each domain. There is one seed, so differences may not hold for others. Finished runs in --out are reused. The last line is one
JSON object; ``--write`` writes the table as Markdown.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import report, surroundings  # noqa: E402
from configs.jsonl import write_text_atomic  # noqa: E402
from eval.harness import EvalConfig, evaluate  # noqa: E402
from train.grpo import run_grpo  # noqa: E402
from vlm.problem import read_problems  # noqa: E402


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for the start, each domain, and the mixture."""
    domains = sorted({problem.domain for problem in read_problems(options.problems)})
    models = {"start": {"path": options.model, "style": "think"}}
    for name in [*domains, "mixed"]:
        weights = {name: 1.0} if name in domains else dict.fromkeys(domains, 1.0)
        folder = options.out / name
        keys = {
            "model": options.model,
            "problems": str(options.problems),
            "output_dir": str(folder),
            "seed": options.seed,
        }
        keys |= {"domain_weights": weights, "max_steps": options.steps, "prompt_selection": None}
        run_grpo(str(ROOT / "configs" / "tiny" / "grpo.yaml"), keys)
        models[name] = {"path": str(folder), "style": "think"}
    config = EvalConfig(attention=False, blank=0, swap=0, samples=0)
    found = evaluate(models, read_problems(options.heldout), options.out / "eval", config)["models"]
    return [
        {"trained": name, "all": one["accuracy"]}
        | {domain: one["accuracy_by_domain"].get(domain) for domain in domains}
        for name, one in found.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table: one row per model, one column per domain."""
    columns = [key for key in rows[0] if key != "trained"]

    def cell(found: Any) -> str:
        return "" if found is None else "{:.3f} ({:.3f} to {:.3f})".format(found["value"], *found["ci95"])

    lines = [f"| trained on | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {row['trained']} | {' | '.join(cell(row[key]) for key in columns)} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the start, such as the cold start of a run")
    parser.add_argument("--problems", type=Path, default=Path("runs/tiny/problems/rl"))
    parser.add_argument("--heldout", type=Path, default=Path("runs/tiny/problems/heldout"))
    parser.add_argument("--out", type=Path, default=Path("runs/domains"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="two steps per model, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.out = 2, options.out.with_name(f"{options.out.name}-quick")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    rows = measure(options)
    if options.write:
        write_text_atomic(options.write, table(rows))
    about = {
        "steps": options.steps,
        "seed": options.seed,
        **surroundings(os.cpu_count(), "torch", "transformers", "trl"),
    }
    return report({"rows": rows, **about}, {}, options.json)


if __name__ == "__main__":
    sys.exit(main())
