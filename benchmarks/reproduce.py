"""Two tables of docs/reproduce.md: what the stages cost (derived), and your own results beside the published ones.

    python benchmarks/reproduce.py cost [--peak_tflops 989 --utilization 0.4 ...]
    python benchmarks/reproduce.py table runs/eval

``cost`` runs nothing. Memory and batches are those of ``--plan``; hours follow from the assumptions, each of which is an option.
``table`` reads ``FOLDER/MODEL/BENCHMARK/report.json``, which ``reflection-v eval`` wrote, and prints one row for each MODEL.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_day import PEAK_FLOPS
from benchmarks.regrade import saved_answers
from configs.errors import UserError
from configs.overrides import parse_arguments
from eval.benchmarks import BENCHMARKS
from eval.report import read_report
from train.grpo import load_grpo
from train.memory import Plan, make_plan
from train.resume import course
from train.sft import load_sft

# (row, stage, config and options as in the commands of docs/reproduce.md)
STAGES = [
    ("7B cold start", "sft", "configs/qwen2_5_vl_7b/sft.yaml"),
    ("7B GRPO", "grpo", "configs/qwen2_5_vl_7b/grpo.yaml"),
    ("3B cold start, LoRA", "sft", "configs/qwen2_5_vl_3b/sft_lora.yaml"),
    ("3B GRPO, LoRA", "grpo", "configs/qwen2_5_vl_3b/grpo_lora.yaml --prompt_selection.prompts 2000"),
    ("3B cold start, QLoRA", "sft", "configs/qwen2_5_vl_3b/sft_lora.yaml --lora.bits 4"),
    (
        "3B GRPO, QLoRA",
        "grpo",
        "configs/qwen2_5_vl_3b/grpo_lora.yaml --lora.bits 4 --prompt_selection.prompts 2000",
    ),
]


@dataclass(frozen=True)
class Assumptions:
    """What is assumed and not measured; each is an option of ``cost``.

    Attributes:
        problems: that the agent loop plays.
        reasoner_tokens: of an episode, written by the text roles, thinking included.
        server_tokens: written per second by the reasoner's server, at full load.
        server_gpus: of both servers of the agent loop.
        traces: rows of the cold start.
        row_tokens: of a row, image included.
        prompt_tokens: of a prompt, image included.
        response_tokens: of a response while sampling.
        peak_tflops: dense bfloat16 peak of a GPU.
        utilization: share of the peak that training reaches.
        vllm_tokens: generated tokens per second and GPU by vLLM.
        tokens_per_row: generated tokens per second of one response of a batch, by transformers.
        chosen_share: share of the sampled problems that the prompt selection keeps.
        unpacking: how many times slower 4-bit weights are.
        eval_responses: to all benchmarks, blank and swapped images included, of one model.
        audit_responses: of an audit of one model.
        eval_batch: responses at once in ``eval`` and ``audit``.
    """

    problems: float = 10000
    reasoner_tokens: float = 8000
    server_tokens: float = 1500
    server_gpus: float = 6
    traces: float = 5000
    row_tokens: float = 2048
    prompt_tokens: float = 1300
    response_tokens: float = 600
    peak_tflops: float = PEAK_FLOPS["A100"] / 1e12
    utilization: float = 0.3
    vllm_tokens: float = 2000
    tokens_per_row: float = 25
    chosen_share: float = 0.5
    unpacking: float = 1.3
    eval_responses: float = 10000
    audit_responses: float = 5000
    eval_batch: float = 8


def planned(stage: str, words: str) -> tuple[Any, Plan, int]:
    """The checked config of a row of ``STAGES``, its plan, and the rows of a step."""
    load, data = (load_sft, "dataset") if stage == "sft" else (load_grpo, "problems")
    config, keys = parse_arguments(words.split(), stage)
    loaded = load(config, {**keys, data: "x", "output_dir": "x", "use_cpu": True})
    plan = make_plan(loaded.args, loaded.options)
    return loaded, plan, course(vars(loaded.args), plan.facts["gpus"])["rows_a_step"]


def gpu_hours(loaded: Any, plan: Plan, step: int, assumed: Assumptions) -> dict[str, float]:
    """GPU hours by part: ``train``, and in GRPO ``sample`` (responses of the steps) and ``select`` (the prompt selection).

    A trained token takes 2 operations per weight forward, 2 to compute the forward again (gradient checkpointing), 2 for the
    gradient of the activations, and 2 for that of the weights, which adapters hardly have. With vLLM, one more forward
    gives the log-probabilities of its responses and the attention.
    """
    args, lora = loaded.args, loaded.options.lora
    slower = assumed.unpacking if lora and lora.bits else 1.0
    operations = (6 if lora else 8) + (2 if getattr(args, "use_vllm", False) else 0)
    per_second = assumed.peak_tflops * 1e12 * assumed.utilization / slower

    def training(tokens: float) -> float:
        return tokens * operations * plan.facts["weights"] / per_second / 3600

    if not hasattr(args, "num_generations"):
        return {"train": training(args.num_train_epochs * assumed.traces * assumed.row_tokens)}
    responses = args.max_steps * step
    at_once = step / plan.facts["gpus"]  # of one GPU: a generation fills all accumulated batches of a step
    by_transformers = assumed.tokens_per_row / slower
    sampled = assumed.vllm_tokens if args.use_vllm else by_transformers * at_once
    selection = loaded.options.prompt_selection
    tried = selection.samples * selection.prompts / assumed.chosen_share
    return {
        "train": training(responses * (assumed.prompt_tokens + assumed.response_tokens)),
        "sample": responses * assumed.response_tokens / sampled / 3600,
        "select": tried * assumed.response_tokens / (by_transformers * selection.batch_size) / 3600,
    }


def cost_rows(assumed: Assumptions) -> list[str]:
    """The table of docs/reproduce.md, line by line."""
    rows = [
        "| stage | GPUs | GB per GPU | rows of a step | train | sample | select | GPU hours |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def evaluated(responses: float) -> float:
        return responses * assumed.response_tokens / (assumed.tokens_per_row * assumed.eval_batch) / 3600

    episodes = assumed.problems * assumed.reasoner_tokens / assumed.server_tokens / 3600 * assumed.server_gpus
    others = [
        ("build, servers of 72B and 32B", assumed.server_gpus, episodes),
        ("eval of one model, transformers", 1, evaluated(assumed.eval_responses)),
        ("audit of one model, transformers", 1, evaluated(assumed.audit_responses)),
    ]
    for name, stage, words in STAGES:
        loaded, plan, step = planned(stage, words)
        hours = gpu_hours(loaded, plan, step, assumed)
        parts = [f"{hours[part]:.1f}" if part in hours else "" for part in ("train", "sample", "select")]
        cells = [name, str(plan.facts["gpus"]), f"{plan.peak:.0f}", str(step), *parts, f"{sum(hours.values()):.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    for name, gpus, total in others:
        rows.append(f"| {name} | {gpus:g} | | | | {total:.1f} | | {total:.0f} |")
    return rows


def percent(figure: Mapping[str, Any]) -> str:
    """A share as a percentage with its interval."""
    if figure["value"] is None:
        return "insufficient data"
    interval = " ({:.1f} to {:.1f})".format(*(100 * side for side in figure["ci95"])) if figure["ci95"] else ""
    return f"{100 * figure['value']:.1f}{interval}"


def result(folder: Path) -> tuple[str, str, list[str]]:
    """(benchmark, cell, what a reader must know of it) of one evaluation's folder."""
    report = read_report(folder)
    account = report.get("problems", {}).get("benchmark")
    if account is None or len(report["models"]) != 1:
        raise UserError(
            f"{folder} is not one model on one benchmark: reflection-v eval MODEL --benchmark NAME --out ..."
        )
    (figures,) = report["models"].values()
    name = account["name"]
    scores = figures.get("benchmark")
    cell = ", ".join(f"{key} {percent(one)}" for key, one in scores.items()) if scores else percent(figures["accuracy"])
    notes = [f"n = {figures['accuracy']['n']}"]
    if account["split"] and account["split"] != BENCHMARKS[name].split:
        notes.append(f"split {account['split']}")
    if account["limit"] is not None:
        notes.append(f"the first {account['limit']} rows only")
    if unused := sum(account["dropped"].values()) + figures["errors"]["n"]:
        notes.append(f"{unused} rows without a grade")
    asked = {row.prompt_sha256 for row in saved_answers([folder]) if row.tag.startswith("main ")}
    notes.append(f"style {figures['style']}, prompt {', '.join(sorted(asked))}")
    if cut := figures["truncated_share"]["value"]:
        notes.append(f"{100 * cut:.1f}% of the responses cut off")
    return name, cell, notes


def result_rows(root: Path) -> list[str]:
    """One row per model, one column per benchmark that was evaluated, and a line of notes for each cell."""
    found = {(path.parts[-3], path.parent) for path in sorted(root.glob("*/*/report.json"))}
    if not found:
        raise UserError(
            f"No evaluation below {root}: reflection-v eval MODEL --benchmark NAME --out {root}/MODEL/NAME."
        )
    cells: dict[str, dict[str, str]] = {}
    notes = []
    for model, folder in sorted(found):
        name, cell, known = result(folder)
        if name in cells.setdefault(model, {}):
            raise UserError(
                f"{folder.parent} holds {name} twice: keep one, or give the other model a folder of its own."
            )
        cells[model][name] = cell
        notes.append(f"- {model}, {name}: {', '.join(known)}")
    columns = [name for name in BENCHMARKS if any(name in row for row in cells.values())]
    rows = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    rows += [
        f"| {model} | {' | '.join(row.get(name, 'not run') for name in columns)} |" for model, row in cells.items()
    ]
    return [*rows, "", *notes]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cost = commands.add_parser("cost", help="memory by --plan, hours by stated assumptions")
    for one in fields(Assumptions):
        cost.add_argument(f"--{one.name}", type=float, default=one.default, help=f"default: {one.default:g}")
    table = commands.add_parser("table", help="Markdown rows of the evaluations in FOLDER/MODEL/BENCHMARK")
    table.add_argument("folder", type=Path, metavar="FOLDER")
    given = vars(parser.parse_args(arguments))
    command = given.pop("command")
    try:
        rows = result_rows(given["folder"]) if command == "table" else cost_rows(Assumptions(**given))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
