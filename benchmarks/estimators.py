"""The estimators of accelerate and DeepSpeed beside ``--plan``: ``python benchmarks/estimators.py``.

Three sources for the memory of weights, gradients and optimizer of a model that is trained in full: accelerate's ``estimate-memory``
(its functions, on a model without storage, so nothing is downloaded), DeepSpeed's ``estimate_zero*_model_states_mem_needs_all_live``,
and the plan. For a model of tiny widths ZeRO-2 and ZeRO-3 really take a step, in one process, and the bytes of their tensors are
counted. Small buckets (``SMALL``), since the plan counts buckets as ``context``.

The last line is one JSON object, in bytes.
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.random_models import build_random_model, shape_config  # noqa: E402
from configs import bundled_config  # noqa: E402
from train.layer_memory import Live  # noqa: E402
from train.memory import make_plan  # noqa: E402
from train.reader import skeleton  # noqa: E402
from train.sft import load_sft  # noqa: E402

NAME = "Qwen/Qwen2.5-VL-3B-Instruct"
SMALL = {"reduce_bucket_size": 100_000, "allgather_bucket_size": 100_000}
STATES = ("weights", "gradients", "optimizer")


def by_accelerate(model: Any) -> dict[str, int]:
    """Bytes in training with Adam by dtype; ``estimate-memory`` shows the largest of its four numbers."""
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes

    total, _ = calculate_maximum_sizes(model)
    total = total * 4 // next(model.parameters()).element_size()  # it expects a float32 model
    return {dtype: max(estimate_training_usage(total, dtype).values()) for dtype in ("float32", "bfloat16")}


def by_deepspeed(model: Any) -> dict[str, float]:
    """Bytes on one GPU without offloading by ZeRO stage, as printed (GiB with two decimals)."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs_all_live
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs_all_live

    found = {}
    for stage, estimate in (
        ("ZeRO-2", estimate_zero2_model_states_mem_needs_all_live),
        ("ZeRO-3", estimate_zero3_model_states_mem_needs_all_live),
    ):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            estimate(model, num_gpus_per_node=1, num_nodes=1)
        row = next(line for line in printed.getvalue().splitlines() if "offload_optimizer=none" in line)
        found[stage] = float(re.findall(r"([\d.]+)GB", row)[1]) * 2**30
    return found


def by_plan(model: str, stage: int | None, dtype: str = "float32", **changes: Any) -> dict[str, float]:
    """Bytes of the states, and of the step, by the plan."""
    zero = {"deepspeed": str(ROOT / f"configs/deepspeed/zero{stage}.json")} if stage else {}
    keys = {"model": model, "dataset": "x", "output_dir": "x", "use_cpu": True, "dtype": dtype, "bf16": bool(stage)}
    loaded = load_sft(bundled_config("qwen2_5_vl_3b/sft.yaml"), {**keys, "deepspeed": None, **zero, **changes})
    sizes = make_plan(loaded.args, loaded.options, gpus=1).sizes
    return {"states": sum(sizes[part] for part in STATES), "step": sizes.get("optimizer's step", 0.0)}


def measured(folder: Path, stage: int) -> dict[str, int]:
    """Bytes of the tensors of a real ZeRO step of a model whose vision tower and merger are frozen: held after it, and its peak."""
    import deepspeed
    from transformers import AutoModelForImageTextToText

    zero = {"stage": stage, "overlap_comm": False, "contiguous_gradients": True, **SMALL}
    config = {"train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_optimization": zero}
    config["zero_allow_untested_optimizer"] = True
    with Live() as live:
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
        model.model.visual.requires_grad_(False)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, fused=True)  # the one that transformers takes
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        for _ in range(2):  # the first step makes the optimizer's states
            loss = engine(input_ids=torch.arange(8)[None]).logits.float().mean()
            engine.backward(loss)
            del loss
            before, live.peak = live.now, live.now
            engine.step()
    return {"before": before, "held": live.now, "peak": live.peak}


def main() -> int:
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29655"}
    os.environ.update({**alone, "DS_ACCELERATOR": "cpu"})
    import deepspeed
    from transformers import AutoModelForImageTextToText

    with tempfile.TemporaryDirectory() as temporary:
        tiny = build_random_model(Path(temporary) / "tiny", NAME, 4, "bfloat16", tiny=True)
        real = AutoModelForImageTextToText.from_pretrained(tiny, dtype=torch.float32)
        empty = skeleton(shape_config(NAME).to_json_string())
        found: dict[str, Any] = {
            "tiny": {"weights": sum(weight.numel() for weight in real.parameters())},
            "3B": {"weights": sum(weight.numel() for weight in empty.parameters())},
        }
        for label, model, name in (("tiny", real, str(tiny)), ("3B", empty, NAME)):
            every = {"freeze_vision": label == "tiny", "freeze_merger": label == "tiny"}
            found[label]["accelerate"] = by_accelerate(model)
            found[label]["deepspeed"] = by_deepspeed(model)
            found[label]["plan"] = {
                "float32": by_plan(name, None, **every),
                **{f"ZeRO-{stage}": by_plan(name, stage, "bfloat16", **every) for stage in (2, 3)},
            }
        del real
        print(json.dumps(found), file=sys.stderr, flush=True)  # a log keeps it if a step fails
        with contextlib.redirect_stdout(sys.stderr):
            deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}  # see ``train.distributed.join_deepspeed``
            deepspeed.init_distributed("gloo")
            found["tiny"]["measured"] = {f"ZeRO-{stage}": measured(tiny, stage) for stage in (2, 3)}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
