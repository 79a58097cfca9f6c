"""What the attention probe costs, and how exact it is: ``python benchmarks/attention_mass.py [--quick] [--json]``.

Time: forwards of one text model (hidden 512, MLP 1792, 8 layers, 8 heads of which 2 kv, float32, batch 2, 576 image and 512
response tokens), without the probe, with it on all layers and on one, with its other form (the indicator call), and eager
with ``output_attentions``; interleaved, so that a machine's moods hit all alike; medians of the paired ratios, with their
quartiles. Images are left out: a vision tower would only dilute the ratio. Memory: bytes allocated as torch's profiler
counts them, and how the probe's grow with the response. Exactness: the largest difference to eager attention, for tiny
models of eight families (benchmarks/families).

Where the processor has no fast bfloat16, the bfloat16 part is left out (``max_error_bf16`` is null, and ``left_out`` says why).
``check_seconds`` is what the comparison before a model's first measurement takes on the benchmark's model.

The last line is one JSON object (benchmarks/README.md names its figures). Exit code 1 if a figure that must hold does not.
"""

import argparse
import contextlib
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration  # noqa: E402

from benchmarks.families import FAMILIES, REFERENCE  # noqa: E402
from benchmarks.reporting import report, surroundings  # noqa: E402
from configs.machine import bfloat16_is_fast, processor  # noqa: E402
from vlm.attention import AttentionMass, image_token_mask  # noqa: E402

IMAGE, N_IMAGE, N_RESPONSE, BATCH = 5, 576, 512, 2
MUST_HOLD: dict[str, Callable[[Any], bool]] = {
    "time_ratio_all_layers": lambda ratio: ratio <= 1.06,
    "time_ratio_one_layer": lambda ratio: ratio <= 1.02,
    "eager_time_ratio": lambda ratio: ratio >= 1.6,
    "extra_memory_share": lambda share: share <= 0.05,
    "memory_exponent": lambda exponent: exponent <= 1.15,
    "max_error_fp32": lambda error: error <= 1e-5,
    "max_error_bf16": lambda error: error is None or error <= 2e-2,  # None: skipped; ``left_out`` says why
    "families": lambda errors: len(errors) == len(REFERENCE) and max(errors.values()) <= 1e-5,
}


def text_model(attention: str) -> Qwen3VLForConditionalGeneration:
    torch.manual_seed(0)
    rope = {"rope_type": "default", "mrope_section": [12, 10, 10], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 1024,
            "hidden_size": 512,
            "intermediate_size": 1792,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 8192,
            "rope_parameters": rope,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 512,
            "patch_size": 4,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [],
        },
        image_token_id=IMAGE,
        video_token_id=6,
        vision_start_token_id=7,
        vision_end_token_id=8,
        attn_implementation=attention,
    )
    return Qwen3VLForConditionalGeneration(config).eval()


def text_batch(response: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(10, 1000, (BATCH, N_IMAGE + response), generator=torch.Generator().manual_seed(0))
    ids[:, :N_IMAGE] = IMAGE
    # Positions are given, so that the model does not ask for the images' grids.
    return {"input_ids": ids, "position_ids": torch.arange(ids.shape[1]).expand(3, BATCH, -1)}


class Blind(contextlib.nullcontext[None]):
    """In place of the probe's view of the forward's kernel: leaves it form (a), the indicator call."""

    call = None


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def spread(ratios: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"median": round(middle, 4), "q1": round(low, 4), "q3": round(high, 4), "n": len(ratios)}


def measure_time(pairs: int) -> dict[str, Any]:
    """Interleaved forwards; each round runs its variants in a turned order."""
    stock, eager, batch = text_model("sdpa"), text_model("eager"), text_batch(N_RESPONSE)

    def probed(layers: Any) -> Callable[[], Any]:
        def run() -> None:
            with AttentionMass(stock, layers, rows=N_RESPONSE) as probe:
                stock(**batch, use_cache=False)
            assert probe.mass.shape[1:] == (BATCH, N_RESPONSE)

        return run

    def by_indicator() -> None:
        with mock.patch("vlm.attention.KernelTap", Blind):
            probed("all")()

    variants: dict[str, Callable[[], Any]] = {
        "all": probed("all"),
        "none": lambda: stock(**batch, use_cache=False),  # beside both of the others
        "one": probed("last"),
        "indicator": by_indicator,
        "eager": lambda: eager(**batch, use_cache=False, output_attentions=True),
    }
    for work in variants.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for n in range(pairs):
        for name in names[n % len(names) :] + names[: n % len(names)]:
            # The form that is not in use on CPU is only reported: a third of the rounds is enough.
            times[name].append(math.nan if name == "indicator" and n % 3 else seconds(variants[name]))

    def ratios(above: str, below: str) -> dict[str, float]:
        return spread([a / b for a, b in zip(times[above], times[below], strict=True) if not math.isnan(a)])

    all_layers, one_layer, against_eager = ratios("all", "none"), ratios("one", "none"), ratios("eager", "all")
    return {
        "time_ratio_all_layers": all_layers["median"],
        "time_ratio_one_layer": one_layer["median"],
        "eager_time_ratio": against_eager["median"],
        "time_ratio_all_layers_indicator": ratios("indicator", "none")["median"],
        "spread": {"all_layers": all_layers, "one_layer": one_layer, "eager": against_eager},
        "seconds_without_probe": round(statistics.median(times["none"]), 4),
        "n": pairs,
    }


def allocated(work: Callable[[], Any]) -> int:
    """Bytes allocated while ``work`` runs, every allocation counted, as torch's profiler records them."""
    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        work()
    events = trace.profiler.kineto_results.events()  # type: ignore[union-attr]
    return sum(max(0, event.nbytes()) for event in events if event.name() == "[memory]")


def measure_memory(lengths: list[int]) -> dict[str, Any]:
    model, extra, share = text_model("sdpa"), [], 0.0
    for length in lengths:
        batch = text_batch(length)

        def probed(batch: dict[str, torch.Tensor] = batch, length: int = length) -> None:
            with AttentionMass(model, "all", rows=length):
                model(**batch, use_cache=False)

        def bare(batch: dict[str, torch.Tensor] = batch) -> None:
            model(**batch, use_cache=False)

        base = allocated(bare)
        extra.append(allocated(probed) - base)
        if length == N_RESPONSE:
            share = extra[-1] / base
    # The slope of a least-squares line through (log length, log extra bytes).
    x, y = [math.log(length) for length in lengths], [math.log(byte) for byte in extra]
    slope = statistics.linear_regression(x, y).slope
    return {
        "extra_memory_share": round(share, 4),
        "memory_exponent": round(slope, 3),
        "extra_bytes": dict(zip(map(str, lengths), extra, strict=True)),
    }


def check_seconds() -> float:
    """Seconds of the comparison that a model passes once: the first entry of a probe, on a fresh model."""
    model = text_model("sdpa")
    model.generation_config.update(pad_token_id=0)
    return round(seconds(lambda: AttentionMass(model).__enter__()), 3)


def error_of(family: str, dtype: torch.dtype) -> float:
    """The largest difference to eager attention over heads, layers, rows and kinds of batch."""
    tiny = FAMILIES[family]()
    model, worst = tiny.model.to(dtype), 0.0
    for images, side in (([1, 2], "left"), ([2, 1], "right"), ([1, 1], "left")):
        batch = tiny.batch(images, [24, 20], side)
        batch = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
        with AttentionMass(model, "all", per_head=True) as probe:
            model(**batch)
        model.set_attn_implementation("eager")
        maps = torch.stack(model(**batch, output_attentions=True).attentions).float()
        model.set_attn_implementation("sdpa")
        columns = image_token_mask(model, batch["input_ids"])
        wanted = (maps * columns[None, :, None, None]).sum(-1)
        real = batch["attention_mask"].bool()[None, :, None].expand_as(wanted)
        worst = max(worst, float((probe.head_mass - wanted)[real].abs().max()))
    return worst


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and shorter responses")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    figures: dict[str, Any] = measure_time(pairs=15 if args.quick else 40)
    figures |= measure_memory([512, 1024, 2048] if args.quick else [512, 1024, 2048, 4096])
    figures["families"] = {family: error_of(family, torch.float32) for family in REFERENCE}
    figures["max_error_fp32"] = max(figures["families"].values())
    figures["max_error_bf16"], figures["left_out"] = None, f"bfloat16, which is slow on this processor: {processor()}"
    if bfloat16_is_fast("cpu"):
        figures["max_error_bf16"] = max(error_of(family, torch.bfloat16) for family in REFERENCE)
        figures["left_out"] = None
    figures |= {"check_seconds": check_seconds(), "processor": str(processor())}
    figures |= surroundings(args.threads, "torch", "transformers")
    return report(figures, MUST_HOLD, args.json)


if __name__ == "__main__":
    sys.exit(main())
