"""One measured stage in its own process: ``python -m benchmarks.stage_memory JSON`` prints one JSON object with bytes by part.

Stages: ``generate`` (prefill of one image and question, then tokens with the attention probe), ``sft`` and ``grpo`` (one step of the
project's own trainers). On a CPU memory is the process's resident set: Linux resets its high-water mark (``/proc/self/clear_refs``),
so each part has a peak of its own. On a GPU it is torch's allocator. ``benchmarks.real_shapes`` and ``benchmarks.gpu_day`` start it.
"""

import contextlib
import ctypes
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image

from benchmarks.train_step import Steps, Unwatched
from configs import bundled_config
from configs.jsonl import write_text_atomic
from train.data import Collator, read_rows
from train.finite import Numbered
from train.grpo import load_grpo, usable
from train.grpo_trainer import VisualGRPOTrainer
from train.launch import load_for_training, quiet
from train.lora import lora_config
from train.memory import Plan, make_plan
from train.sft import ColdStartTrainer, load_sft
from vlm.attention import AttentionMass
from vlm.chat import encode, question_messages
from vlm.problem import read_valid_problems

QUESTION = "How many red circles are to the left of the blue square?"
WORDS = ("the", "red", "circle", "is", "left", "of", "blue", "square", "and", "small")


class Meter:
    """Bytes in use now, and their peak since the last ``reset``."""

    def __init__(self, device: str) -> None:
        self.on_cpu, self.highest = device == "cpu", 0

    def now(self) -> int:
        if not self.on_cpu:
            torch.cuda.synchronize()
            return torch.cuda.memory_allocated()
        return _status("VmRSS")

    def peak(self) -> int:
        if not self.on_cpu:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        return _status("VmHWM")

    def reset(self, collect: bool = False) -> int:
        """Start a new peak; returns the bytes in use."""
        if collect:
            gc.collect()
        self.highest = max(self.highest, self.peak())
        if not self.on_cpu:
            torch.cuda.reset_peak_memory_stats()
            return self.now()
        ctypes.CDLL(None).malloc_trim(0)  # what is freed but kept by the allocator would count as in use
        Path("/proc/self/clear_refs").write_text("5")
        return self.now()


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}: memory is measured on Linux only.")


def tensor_bytes(tensors: Any) -> int:
    """Bytes of the storages behind some tensors."""
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(sizes.values())


def keep_in_memory(model: Any) -> None:
    """Copy weights that are mapped from a file: under pressure the kernel drops such pages, and reading them again would count."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.data = weight.data.clone()


class Watch:
    """Hooks that take the peaks of vision tower, decoder, loss and backward during one training pass.

    ``layer`` boundaries are set by the gradients that arrive at each decoder layer, so that gradients of weights, which grow
    during the backward, are not counted as activations.
    """

    def __init__(self, model: Any, meter: Meter) -> None:
        self.meter, self.model = meter, model
        self.found: dict[str, int] = {}
        self.armed = False
        decoder = model.get_decoder()
        self.base = self.at_loss = self.gradients = 0
        self.backward: list[int] = []
        tower = next((module for name, module in model.named_modules() if name.rpartition(".")[2] == "visual"), None)
        self.hooks = [
            decoder.register_forward_pre_hook(self._decoder_begins),
            decoder.register_forward_hook(self._decoder_ends),
            *(layer.register_forward_hook(self._layer_ends) for layer in decoder.layers),
        ]
        if tower is not None:
            self.hooks += [
                tower.register_forward_pre_hook(self._vision_begins),
                tower.register_forward_hook(self._vision_ends),
            ]
        self.in_forward = False

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _vision_begins(self, *_: Any) -> None:
        if self.armed:
            self.vision = self.meter.reset()

    def _vision_ends(self, *_: Any) -> None:
        if self.armed:
            self.found["vision activations"] = self.meter.peak() - self.vision
            self.found["vision kept"] = self.meter.reset() - self.vision

    def _decoder_begins(self, *_: Any) -> None:
        if self.armed:
            self.base, self.in_forward = self.meter.reset(), True

    def _layer_ends(self, _module: Any, _args: Any, output: Any) -> None:
        if self.armed and self.in_forward:
            states = output[0] if isinstance(output, tuple) else output
            if states.requires_grad:
                states.register_hook(self._boundary)

    def _decoder_ends(self, _module: Any, _args: Any, output: Any) -> None:
        if self.armed and self.in_forward:
            self.in_forward = False
            self.at_loss = self.meter.reset()
            if output.last_hidden_state.requires_grad:  # with vLLM a pass without gradients comes first
                self.found["kept"] = self.at_loss - self.base
                output.last_hidden_state.register_hook(self._loss_ends)

    def _loss_ends(self, gradient: Any) -> None:
        self.found["logits"] = self.meter.peak() - self.at_loss
        self.meter.reset()
        self.gradients = self._weight_gradients()

    def _boundary(self, gradient: Any) -> None:
        self.backward.append(self.meter.peak() - self.base - self.gradients)
        self.meter.reset()
        self.gradients = self._weight_gradients()

    def _weight_gradients(self) -> int:
        return tensor_bytes(weight.grad for weight in self.model.parameters() if weight.grad is not None)

    def finish(self) -> dict[str, int]:
        """The parts, after the backward."""
        self._boundary(None)
        self.found["activations"] = max(self.backward)
        self.found["gradients"] = self._weight_gradients()
        self.armed = False
        return self.found


def image_file(folder: Path, tokens: int, side: int) -> tuple[Path, int]:
    """A noise image of about ``tokens`` image tokens, and its pixels; ``side`` is that of a token in pixels."""
    edge = round(tokens**0.5) * side
    path = folder / "image.png"
    if not path.exists():
        Image.effect_noise((edge, edge), 60).convert("RGB").save(path)
    return path, edge * edge


def text_of(words: int) -> str:
    chosen = random.Random(0)
    return " ".join(chosen.choice(WORDS) for _ in range(words))


def _keys(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    cpu = job["device"] == "cpu"
    half = job["dtype"] == "bfloat16"
    keys = {
        "model": job["model"],
        "output_dir": str(folder / "run"),
        "dtype": job["dtype"],
        "bf16": half,
        "use_cpu": cpu,
    }
    keys |= {"save_strategy": "no", "max_steps": 2, "gpus": 1, "gradient_accumulation_steps": 1, "warmup_steps": 0}
    return keys | {"max_pixels": job["pixels"], **job.get("changes", {})}


def sft(job: dict[str, Any], folder: Path, meter: Meter) -> dict[str, Any]:
    """One cold-start step of the shipped LoRA config on one row."""
    path, job["pixels"] = image_file(folder, job["image_tokens"], job["side"])
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    row = {"prompt": prompt, "completion": text_of(job["response_tokens"]), "images": [path.name]}
    write_text_atomic(folder / "rows.jsonl", (json.dumps(row) + "\n") * 4)
    batch = job.get("rows", 1)
    keys = _keys(job, folder) | {"dataset": str(folder / "rows.jsonl"), "per_device_train_batch_size": batch}
    keys |= {"held_out": 0.0, "dataloader_num_workers": 0}
    config = bundled_config(f"{job['configs']}/sft_lora.yaml")
    stage = load_sft(config, keys | {"max_row_tokens": 8192})
    empty = meter.reset(collect=True)
    vlm = load_for_training(stage.options, stage.args)
    rows, _ = read_rows(stage.options.dataset, vlm, None)
    collator = Collator(rows, vlm)
    tokens = collator([{"index": 0}])["input_ids"].shape[1]
    from datasets import Dataset

    trainer = ColdStartTrainer(
        model=vlm.model,
        args=stage.args,
        train_dataset=Dataset.from_dict({"index": list(range(len(rows)))}),
        data_collator=Numbered(collator),
        processing_class=vlm.processor,
        peft_config=lora_config(stage.options.lora, vlm.model),
        rows=rows,
    )

    def plan() -> Plan:
        planned = load_sft(config, keys | {"max_row_tokens": tokens})
        return make_plan(planned.args, planned.options, device=job["device"])

    return _step(trainer, meter, empty, job, {"tokens_a_row": tokens, "rows": batch}, plan)


def grpo(job: dict[str, Any], folder: Path, meter: Meter) -> dict[str, Any]:
    """One GRPO step of the shipped LoRA config: two completions of one prompt, cut at the same length."""
    path, job["pixels"] = image_file(folder, job["image_tokens"], job["side"])
    problem = {"source": "shapes", "domain": "count", "question": QUESTION, "answer": "3", "images": [path.name]}
    lines = [json.dumps({"id": str(number), **problem}) + "\n" for number in range(2)]
    write_text_atomic(folder / "problems.jsonl", "".join(lines))
    new, completions = job["new_tokens"], job.get("completions", 2)
    keys = _keys(job, folder) | {"problems": str(folder / "problems.jsonl"), "prompt_selection": None}
    keys |= {"per_device_train_batch_size": completions, "num_generations": completions}
    keys |= {"max_completion_length": new, "generation_kwargs": {"min_new_tokens": new}, "log_completions": False}
    config = bundled_config(f"{job['configs']}/grpo_lora.yaml")
    stage = load_grpo(config, keys)
    empty = meter.reset(collect=True)
    vlm = load_for_training(stage.options, stage.args)
    problems, _ = usable(
        read_valid_problems(stage.options.problems, lambda *_: None), vlm, stage.options, None, stage.args
    )
    kind = VisualGRPOTrainer if job.get("attention", True) else Unwatched
    trainer = kind(vlm, problems, stage.options, stage.args, peft_config=lora_config(stage.options.lora, vlm.model))
    example = trainer._example(0, {})
    prompt = encode(vlm, [example["prompt"]], [example["images"]])["input_ids"].shape[1]

    def plan() -> Plan:
        planned = load_grpo(config, keys | {"max_prompt_tokens": prompt})
        return make_plan(planned.args, planned.options, device=job["device"])

    return _step(trainer, meter, empty, job, {"prompt_tokens": prompt, "completions": completions}, plan)


def _step(
    trainer: Any, meter: Meter, empty: int, job: dict[str, Any], facts: dict[str, Any], plan: Callable[[], Plan]
) -> dict[str, Any]:
    """Watch one step of a trainer. ``plan`` is called last: it builds TRL's arguments anew, and the trainer would lose its state."""
    model, seconds = trainer.model, dict[str, float]()
    base = model.get_base_model()
    trainer.model.train()
    keep_in_memory(model)
    if trainer.args.gradient_checkpointing:  # Trainer does this when training begins, and ``Steps`` goes past that
        base.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    if job["device"] != "cpu":
        model.to(job["device"])
    held = meter.reset(collect=True)
    parts: dict[str, int] = {"weights": tensor_bytes(model.parameters())}
    parts["weights, resident"] = held - empty
    meter.highest = held  # what loading took is no part of a step
    step = Steps(trainer)
    batch = next(step.batches)
    watch = Watch(base, meter)
    with _generation(trainer, base, watch, meter, parts, seconds):
        began = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            watch.armed = not hasattr(trainer, "_generate_single_turn")
            trainer.training_step(trainer.model, batch, None)
    seconds["forward and backward"] = round(time.perf_counter() - began, 2) - sum(seconds.values())
    training = watch.finish()
    before = meter.reset()
    began = time.perf_counter()
    trainer.optimizer.step()
    seconds["optimizer"] = round(time.perf_counter() - began, 2)
    states = [value for state in trainer.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    parts["optimizer, resident peak"] = meter.peak() - before
    meter.reset()
    parts |= {"gradients": training["gradients"], "optimizer": tensor_bytes(states)}
    parts |= {
        key: training[key]
        for key in ("activations", "kept", "vision activations", "vision kept", "logits")
        if key in training
    }
    result = {"parts": parts, "seconds": seconds, "peak": meter.highest - empty, **facts}
    if job.get("steps", 1) > 1:  # a second step is not watched, so that its time is that of training
        trainer.optimizer.zero_grad()
        watch.remove()
        with contextlib.redirect_stdout(sys.stderr):
            result["step_seconds"] = step()[1]
    print(json.dumps(result), file=sys.stderr, flush=True)  # a log keeps it if the plan fails
    result["plan"] = plan().as_json()
    return result


@contextlib.contextmanager
def _generation(
    trainer: Any, base: Any, watch: Watch, meter: Meter, parts: dict[str, int], seconds: dict[str, float]
) -> Iterator[None]:
    """Measures the sampling inside a GRPO step, and arms ``watch`` after it."""
    if not hasattr(trainer, "_generate_single_turn"):
        yield
        return
    generate = trainer._generate_single_turn
    with torch.no_grad(), AttentionMass(trainer.model, layers=trainer.options.attention_layers):
        pass  # at its first entry the probe compares itself with eager attention, by forwards of its own

    def measured(*args: Any, **kwargs: Any) -> Any:
        began, before, prefill = time.perf_counter(), meter.reset(), Prefill(base, meter)
        result = generate(*args, **kwargs)
        prefill.remove()
        seconds["generation"] = round(time.perf_counter() - began, 2)
        parts["key/value cache"] = prefill.cache
        parts["prefill"] = prefill.peak - before
        watch.armed = True
        return result

    trainer._generate_single_turn = measured
    yield
    del trainer._generate_single_turn


class Prefill:
    """The peak of the first forward of a generation without its cache, and the cache's bytes after the last."""

    def __init__(self, model: Any, meter: Meter) -> None:
        self.meter, self.peak, self.cache, self.seconds, self.calls = meter, 0, 0, 0.0, 0
        self.began = time.perf_counter()
        self.hook = model.register_forward_hook(self._after)

    def _after(self, _module: Any, _args: Any, output: Any) -> None:
        self.calls += 1
        cache = getattr(output, "past_key_values", None)
        held = tensor_bytes(_tensors(cache))
        if self.calls == 1:
            self.peak = self.meter.peak() - held
            self.seconds = time.perf_counter() - self.began
        self.cache = held

    def remove(self) -> None:
        self.hook.remove()


def _tensors(cache: Any) -> Iterator[torch.Tensor]:
    """The tensors of a cache, whichever layers it has."""
    for layer in getattr(cache, "layers", ()):
        for value in vars(layer).values():
            for one in (
                value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
            ):
                if torch.is_tensor(one) and one.numel():
                    yield one


def generate(job: dict[str, Any], folder: Path, meter: Meter) -> dict[str, Any]:
    """Prefill of one image and question, then ``new_tokens`` tokens with the attention probe."""
    from train.activations import Arithmetic, cache_bytes, decoder_activations, patches_of_token, vision_activations
    from vlm.load import load_vlm

    path, pixels = image_file(folder, job["image_tokens"], job["side"])
    empty = meter.reset(collect=True)
    vlm = load_vlm(job["model"], dtype=job["dtype"], device=job["device"], max_pixels=pixels)
    keep_in_memory(vlm.model)
    held = meter.reset(collect=True)
    with Image.open(path) as opened:
        batch = encode(vlm, [question_messages(QUESTION, 1)], [[opened.convert("RGB")]])
    with torch.no_grad(), AttentionMass(vlm.model) as probe:
        # Inside: at its first entry the probe compares itself with eager attention, by forwards of its own.
        before, began = meter.reset(), time.perf_counter()
        prefill = Prefill(vlm.model, meter)
        new = job["new_tokens"]
        ids = vlm.model.generate(**batch, max_new_tokens=new, min_new_tokens=new, do_sample=False)
    prefill.remove()
    seconds = {"prefill": round(prefill.seconds, 2), "tokens": round(time.perf_counter() - began - prefill.seconds, 2)}
    parts = {"weights": tensor_bytes(vlm.model.parameters()), "weights, resident": held - empty}
    parts |= {"key/value cache": prefill.cache, "prefill": prefill.peak - before}
    tokens, config = ids.shape[1], vlm.model.config
    wide = job["dtype"] == "float32"
    arithmetic = Arithmetic(wide, False, False, None)
    patches = (batch["input_ids"] == config.image_token_id).sum().item()
    patches *= patches_of_token(vlm.processor.image_processor)
    planned = {
        "weights": sum(weight.numel() for weight in vlm.model.parameters()) * (4 if wide else 2),
        "key/value cache": cache_bytes(config.get_text_config(), tokens, 4 if wide else 2),
        "prefill": max(
            decoder_activations(config, tokens - new, arithmetic).forward,
            vision_activations(config, patches, arithmetic, False).layer,
        ),
    }
    plan = {"parts_gb": {name: size / 1e9 for name, size in planned.items()}}
    mass = float(probe.mass.mean())
    return {"parts": parts, "seconds": seconds, "plan": plan, "prompt_tokens": tokens - new, "mean_mass": mass}


STAGES: dict[str, Callable[[dict[str, Any], Path, Meter], dict[str, Any]]] = {
    "generate": generate,
    "sft": sft,
    "grpo": grpo,
}


def main() -> int:
    job = json.loads(sys.argv[1])
    quiet()
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    if job["device"] == "cpu":
        torch.set_num_threads(job.get("threads", 2))
    result = STAGES[job["stage"]](job, folder, Meter(job["device"]))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
