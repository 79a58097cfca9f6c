"""Memory of models of published shape, part by part, beside what ``--plan`` says: ``python benchmarks/real_shapes.py``.

Builds Qwen2.5-VL-3B and the smallest Qwen3.5 with random weights, full vocabulary and vision tower, and as many decoder layers as
``--depth`` says, and measures on one image of about 1,000 tokens: prefill and 8 tokens with the attention probe, one LoRA step of the
cold start, and one LoRA step of GRPO with 2 completions. Every stage is a process of its own (``benchmarks.stage_memory``).
Nothing is downloaded. ``--write`` puts the table into docs/gpu.md.

A part holds if it differs from the plan by at most 20%, or by at most 32 MB, since pages and the allocator's rounding are in it too.
The last line is one JSON object. Exit code 1 if a part differs by more, or a stage failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import surroundings  # noqa: E402
from configs.machine import processor  # noqa: E402

BEGIN, END = "<!-- real shapes: begin -->", "<!-- real shapes: end -->"
SHARE, FLOOR = 0.2, 32e6
MODELS: dict[str, dict[str, Any]] = {
    "Qwen2.5-VL-3B": {"name": "Qwen/Qwen2.5-VL-3B-Instruct", "configs": "qwen2_5_vl_3b", "side": 28, "layers": 36},
    "Qwen3.5-0.8B": {"name": "Qwen/Qwen3.5-0.8B", "configs": "qwen3_5_4b", "side": 32, "layers": 24},
}
STAGES = ("generate", "sft", "grpo")
MEASURED = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "vision activations",
    "logits",
    "key/value cache",
    "prefill",
)


def run_stage(job: dict[str, Any], limit: float) -> dict[str, Any]:
    """The result of a stage in a process of its own, or ``{"failed": reason}``."""
    # Blocks of 64 KB and more are mapped, and given back when freed: else the allocator keeps them and the peak is not theirs.
    memory = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"} if job["device"] == "cpu" else {}
    env = {**os.environ, **memory, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.stage_memory", json.dumps(job)]
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished after {limit:g} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"failed": f"exit code {done.returncode}: {reason[:200]}"}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def compare(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a stage that were measured and planned, in MB, each with its difference and whether it holds."""
    rows = []
    for part in MEASURED:
        planned, measured = result["plan"]["parts_gb"].get(part), result["parts"].get(part)
        if planned is None or measured is None:
            continue
        planned *= 1e9
        difference = planned - measured
        holds = abs(difference) <= max(SHARE * measured, FLOOR)
        share = round(difference / measured, 3) if measured else None
        rows.append(
            {
                "part": part,
                "planned_mb": round(planned / 1e6),
                "measured_mb": round(measured / 1e6),
                "difference": share,
                "holds": holds,
            }
        )
    return rows


def build(folder: Path, model: dict[str, Any], depth: int, dtype: str) -> Path:
    """The model's folder, built in a process of its own, so that this one stays small."""
    code = (
        "import sys; from pathlib import Path; from benchmarks.random_models import build_random_model as build; "
        "build(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(folder), model["name"], str(depth), dtype]
    subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=sys.stderr)
    return folder


def measure(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    for label in args.models:
        model = MODELS[label]
        depth = min(args.depth or model["layers"], model["layers"])
        for dtype in args.dtypes:
            built = build(Path(args.keep or folder) / f"{label}_{depth}_{dtype}", model, depth, dtype)
            for stage in args.stages:
                print(f"{label}, {depth} of {model['layers']} layers, {dtype}: {stage}", file=sys.stderr, flush=True)
                job = {"stage": stage, "model": str(built), "device": "cpu", "dtype": dtype, "threads": args.threads}
                job |= {"image_tokens": args.image_tokens, "side": model["side"], "response_tokens": 200}
                job |= {
                    "new_tokens": 8,
                    "configs": model["configs"],
                    "folder": str(folder / f"{label}_{dtype}_{stage}"),
                }
                result = run_stage(job, args.limit)
                row = {"model": label, "depth": depth, "layers": model["layers"], "dtype": dtype, "stage": stage}
                if "failed" in result:
                    yield {**row, "failed": result["failed"]}
                else:
                    seconds = {name: round(value, 1) for name, value in result["seconds"].items()}
                    extra = {key: result[key] for key in ("prompt_tokens", "tokens_a_row") if key in result}
                    yield {**row, "parts": compare(result), "seconds": seconds, **extra}


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| model, layers, dtype | stage | part | plan MB | measured MB | difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        head = f"{row['model']}, {row['depth']} of {row['layers']}, {row['dtype']} | {row['stage']}"
        if "failed" in row:
            lines.append(f"| {head} | {row['failed']} | | | |")
        for part in row.get("parts", ()):
            share = "" if part["difference"] is None else f"{part['difference']:+.0%}"
            mark = "" if part["holds"] else " (differs)"
            lines.append(f"| {head} | {part['part']} | {part['planned_mb']} | {part['measured_mb']} | {share}{mark} |")
    return lines


def write_between(page: Path, begin: str, end: str, lines: list[str]) -> None:
    """Replace what stands between two marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text("\n".join([before + begin, *lines, end]) + after, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=("bfloat16", "float32"), default=["bfloat16"])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--depth", type=int, default=8, help="decoder layers; 0 for all of them")
    parser.add_argument("--image-tokens", type=int, default=1024)
    parser.add_argument("--limit", type=float, default=1800, help="seconds of one stage")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", help="folder in which the built models stay")
    parser.add_argument("--quick", action="store_true", help="the 3B model with 4 layers, a cold start step alone")
    parser.add_argument("--write", metavar="PAGE", help="put the table into this page (docs/gpu.md)")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    args = parser.parse_args(argv)
    if args.quick:
        args.models, args.stages, args.depth = ["Qwen2.5-VL-3B"], ["sft"], 4
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(args, Path(folder)):
            rows.append(row)
            if not args.json:
                print("\n".join(table([row])[2:]), flush=True)
    if args.write:
        where = f"Processor: {processor()}; load average {os.getloadavg()[0]:.1f}; {args.threads} threads."
        write_between(Path(args.write), BEGIN, END, [*table(rows), "", where])
    held = all("failed" not in row and all(part["holds"] for part in row["parts"]) for row in rows)
    print(json.dumps({"rows": rows, "held": held, **surroundings(args.threads, "torch", "transformers", "trl")}))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
