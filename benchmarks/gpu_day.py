"""What only a GPU can show, in one command: ``benchmarks/gpu_day.sh`` (at most 25 minutes on one 80 GB GPU, nothing downloaded).

Parts, each in a process of its own with its own time limit: the attention probe against eager attention and its cost over the bare
forward with sdpa, flash and flex attention, at the shapes of Qwen2.5-VL-3B and 7B (512 response tokens, 1,000 and 4,000 image tokens);
a GRPO step with and without the attention reward, responses by transformers and by vLLM; peak memory beside ``--plan`` and tokens a
second of cold start and GRPO by LoRA, 3B and 7B. Weights are random (``benchmarks.random_models``).

A part that fails, or whose package is missing, is a row with its reason and does not end the day. Finished parts are kept in
``--out`` and not run again. ``--dry`` runs the same parts with tiny shapes on the CPU. ``--write docs/gpu.md`` puts the table there.
The last line is one JSON object. Exit code 1 if a part failed (one that was left out for a missing package did not).
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.real_shapes import write_between  # noqa: E402
from configs.jsonl import write_json_atomic  # noqa: E402

BEGIN, END = "<!-- gpu day: begin -->", "<!-- gpu day: end -->"
MODELS = {
    "3B": {"name": "Qwen/Qwen2.5-VL-3B-Instruct", "configs": "qwen2_5_vl_3b", "side": 28, "needs_gb": 24},
    "7B": {"name": "Qwen/Qwen2.5-VL-7B-Instruct", "configs": "qwen2_5_vl_7b", "side": 28, "needs_gb": 40},
}
KERNELS = {"sdpa": ("sdpa", None), "flash": ("flash_attention_2", "flash_attn"), "flex": ("flex_attention", None)}
DAY = 25 * 60  # seconds
# Dense bfloat16 operations a second, from the vendors' data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}


def plan_parts(dry: bool) -> list[dict[str, Any]]:
    """The parts of the day in their order: the cheapest first. ``limit`` in seconds."""
    device, dtype = ("cpu", "float32") if dry else ("cuda", "bfloat16")
    limit = 300 if dry else 90
    parts: list[dict[str, Any]] = []
    for size in MODELS:
        for image in (16, 64) if dry else (1024, 4096):
            for kernel in KERNELS:
                job = {"kind": "probe", "size": size, "kernel": kernel, "image_tokens": image}
                job |= {"response_tokens": 8 if dry else 512, "rounds": 2 if dry else 10}
                parts.append({"id": f"probe-{size}-{kernel}-{image}", "limit": limit, **job})
    for size in MODELS:
        step = {"size": size, "image_tokens": 64 if dry else 1024}
        parts.append({"id": f"build-{size}", "kind": "build", "limit": 4 * limit, **step})
        parts.append({"id": f"sft-{size}", "kind": "sft", "limit": 2 * limit, **step, "rows": 1 if dry else 4})
        for attention in (True, False):
            name = f"grpo-{size}-{'attention' if attention else 'plain'}"
            job = {"kind": "grpo", **step, "attention": attention, "completions": 2 if dry else 8}
            job |= {"new_tokens": 4 if dry else 64, "limit": 2 * limit}
            parts.append({"id": f"{name}-transformers", "engine": "transformers", **job})
            if size == "3B":
                parts.append({"id": f"{name}-vllm", "engine": "vllm", **job})
    for part in parts:
        part |= {
            "device": device,
            "dtype": dtype,
            "dry": dry,
            "response_tokens": part.get("response_tokens", 8 if dry else 512),
        }
    return parts


def missing(part: dict[str, Any]) -> str | None:
    """The reason to leave a part out before it starts, or None."""
    package = KERNELS[part["kernel"]][1] if "kernel" in part else "vllm" if part.get("engine") == "vllm" else None
    if package and importlib.util.find_spec(package) is None:
        return f"the package {package} is not installed"
    if part["device"] == "cpu" and part.get("kernel") == "flex":
        return "flex attention is compiled for GPUs"
    return None


def refuse(dry: bool) -> str | None:
    """One sentence if this machine cannot run the day; it names what fits."""
    if dry:
        return None
    import torch

    if not torch.cuda.is_available():
        return "No GPU was found: run this on a machine with one of 80 GB, or give --dry to run the same parts with tiny shapes on the CPU."
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9
    fits = [size for size, model in MODELS.items() if model["needs_gb"] <= memory]
    if len(fits) < len(MODELS):
        what = (
            f"the parts of {', '.join(fits)} fit: give --sizes {' '.join(fits)}" if fits else "no part fits, only --dry"
        )
        return f"The GPU has {memory:.0f} GB and the day needs {max(model['needs_gb'] for model in MODELS.values())} GB; {what}."
    return None


def run_part(part: dict[str, Any], out: Path, limit: float) -> dict[str, Any]:
    """Run a part in a process of its own, and end it at the limit; a row either way."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu_day", "--part", json.dumps(part), "--out", str(out)]
    began = time.monotonic()
    log = out / f"{part['id']}.log"
    with log.open("w", encoding="utf-8") as errors:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return {"status": "failed", "reason": f"not finished after {limit:.0f} s"}
    if done.returncode or not done.stdout.strip():
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"status": "failed", "reason": f"exit code {done.returncode}: {(lines or ['no output'])[-1][:200]}"}
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    return {"status": "done", "seconds": round(time.monotonic() - began, 1), **figures}


def day(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the parts that are not kept from before; every row is on disk before the next part begins."""
    out, began = Path(args.out), time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for part in plan_parts(args.dry):
        if part["size"] not in args.sizes or (args.parts and not part["id"].startswith(tuple(args.parts))):
            continue
        kept = out / f"{part['id']}.json"
        if kept.exists() and (row := json.loads(kept.read_text(encoding="utf-8"))).get("part") == part:
            rows.append(row)
            continue
        left = args.minutes * 60 - (time.monotonic() - began)
        if (reason := missing(part)) is not None:
            result: dict[str, Any] = {"status": "left out", "reason": reason}
        elif left < 10:
            result = {"status": "failed", "reason": f"the {args.minutes:g} minutes were over"}
        else:
            result = run_part(part, out, min(part["limit"], left))
        row = {"id": part["id"], "part": part, **result}
        rows.append(row)
        print(f"{part['id']}: {summary(row)}", file=sys.stderr, flush=True)
        if row["status"] == "done":  # what failed is tried again by the next call
            write_json_atomic(kept, row)
    return rows


def summary(row: dict[str, Any]) -> str:
    """A row's figures in a few words."""
    if row["status"] != "done":
        return f"{row['status']}: {row['reason']}"
    shown = (
        "error",
        "cost",
        "milliseconds",
        "step_seconds",
        "tokens_per_second",
        "peak_flops_share",
        "peak_gb",
        "plan_gb",
    )
    return ", ".join(f"{key} {row[key]:.3g}" for key in shown if row.get(key) is not None)


def table(rows: list[dict[str, Any]], device: str) -> list[str]:
    lines = [f"Device: {device}.", "", "| part | result |", "|---|---|"]
    return [*lines, *(f"| {row['id']} | {summary(row)} |" for row in rows)]


# The parts, inside their own processes


def probe_part(part: dict[str, Any]) -> dict[str, Any]:
    """Error of the probe against eager attention, and the time that it adds to a forward (``cost`` 0.05 is 5%)."""
    import statistics

    import torch
    from transformers import AutoModelForImageTextToText

    from benchmarks.random_models import shape_config
    from vlm.attention import AttentionMass, image_token_mask

    device, rows = part["device"], part["response_tokens"]
    config = shape_config(MODELS[part["size"]]["name"], 2 if part["dry"] else 4, part["dry"])
    torch.manual_seed(0)
    torch.set_default_device(device)
    kind = getattr(torch, part["dtype"])
    model = AutoModelForImageTextToText.from_config(
        config, dtype=kind, attn_implementation=KERNELS[part["kernel"]][0]
    ).eval()
    ids = torch.randint(10, 1000, (1, part["image_tokens"] + rows))
    ids[:, : part["image_tokens"]] = config.image_token_id
    batch = {"input_ids": ids, "position_ids": torch.arange(ids.shape[1]).expand(3, 1, -1)}
    batch["attention_mask"] = torch.ones_like(ids)

    def timed(probed: bool) -> float:
        _wait(device)
        start = time.perf_counter()
        if probed:
            with AttentionMass(model, "all", rows=rows):
                model.model(**batch, use_cache=False)
        else:
            model.model(**batch, use_cache=False)
        _wait(device)
        return time.perf_counter() - start

    with torch.no_grad():
        with AttentionMass(model, "all", rows=rows, per_head=True) as probe:
            model.model(**batch, use_cache=False)
        found = probe.head_mass[..., -rows:].float()
        timed(True), timed(False)
        pairs = [(timed(True), timed(False)) for _ in range(part["rounds"])]
        model.set_attn_implementation("eager")
        maps = model.model(**batch, use_cache=False, output_attentions=True).attentions
        columns = image_token_mask(model, ids).to(kind)
        wanted = torch.stack([(one.float() * columns[:, None, None].float()).sum(-1)[..., -rows:] for one in maps])
    return {
        "error": float((found - wanted.to(found.device)).abs().max()),
        "cost": statistics.median(a / b for a, b in pairs) - 1,
        "milliseconds": 1000 * statistics.median(b for _, b in pairs),
    }


def _wait(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def build_part(part: dict[str, Any], out: Path) -> Path:
    """The folder of the random model; the parts that train find it complete."""
    from benchmarks.random_models import build_random_model

    model = MODELS[part["size"]]
    depth = 2 if part["dry"] else None
    return build_random_model(out / f"model-{part['size']}", model["name"], depth, part["dtype"], part["dry"])


def training_part(part: dict[str, Any], out: Path) -> dict[str, Any]:
    """A step of the cold start or of GRPO by LoRA at full depth: seconds, and peak memory beside the plan."""
    from benchmarks.stage_memory import STAGES, Meter

    model = MODELS[part["size"]]
    folder = build_part(part, out)
    job = {**part, "model": str(folder), "configs": model["configs"], "side": model["side"], "steps": 2}
    if part.get("engine") == "vllm":
        job["changes"] = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3}
    work = out / f"work-{part['id']}"
    work.mkdir(parents=True, exist_ok=True)
    result = STAGES[part["kind"]](job, work, Meter(part["device"]))
    planned = result["plan"]["peak_gb"] - result["plan"]["parts_gb"]["context"]
    figures = {"peak_gb": result["peak"] / 1e9, "plan_gb": planned, "step_seconds": result["step_seconds"]}
    figures |= {"parts": result["parts"], "parts_planned_gb": result["plan"]["parts_gb"]}
    if part["kind"] == "sft":
        tokens = result["tokens_a_row"] * result["rows"]
        figures["tokens_per_second"] = tokens / result["step_seconds"]
        # Forward, its repetition (checkpointing) and the gradients of the inputs; the frozen weights have no gradients.
        operations = 6 * tokens * result["plan"]["weights_by_part"]["language"]
        figures["peak_flops_share"] = _share(operations / result["step_seconds"], part["device"])
    return figures


def _share(rate: float, device: str) -> float | None:
    if device == "cpu":
        return None
    import torch

    name = torch.cuda.get_device_name(0)
    return next((rate / peak for key, peak in PEAK_FLOPS.items() if key in name), None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/gpu_day", help="folder of finished parts, logs and built models")
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--sizes", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--parts", nargs="+", help="only parts whose id begins so, such as probe or sft-3B")
    parser.add_argument("--minutes", type=float, default=DAY / 60)
    parser.add_argument("--write", metavar="PAGE", help="put the table into this page (docs/gpu.md)")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part:
        part = json.loads(args.part)
        if part["kind"] == "build":
            figures: dict[str, Any] = {"folder": build_part(part, Path(args.out)).name}
        else:
            figures = probe_part(part) if part["kind"] == "probe" else training_part(part, Path(args.out))
        print(json.dumps(figures))
        return 0
    if (reason := refuse(args.dry)) is not None and not (args.sizes != list(MODELS) and "--sizes" in reason):
        print(f"error: {reason}", file=sys.stderr)
        return 2
    rows = day(args)
    if args.dry:
        device = "CPU, tiny shapes (a dry run)"
    else:
        import torch

        device = torch.cuda.get_device_name(0)
    result = {"device": device, "dry": args.dry, "rows": rows}
    write_json_atomic(Path(args.out) / "gpu_day.json", result)
    if args.write:
        write_between(Path(args.write), BEGIN, END, table(rows, device))
    print(json.dumps(result))
    return 1 if any(row["status"] == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
