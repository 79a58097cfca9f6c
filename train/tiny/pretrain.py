"""Give the bundled tiny models their weights: ``python -m train.tiny.pretrain`` (2 cores, at most 60 minutes).

Four stages make the VLM. Vision first: the tower alone, with linear heads on every image token (without this stage the
language model never learns to look). Then text only: the arithmetic of plain reasoning, with the operands given. Then the
mixture: images and text together. Last glances, and conversations in which the user asks to look again. The reasoner starts from
the language model of the mixture, which has met the arithmetic, and learns, from dialogues about facts that it cannot see, to ask
for a look, to conclude, and to rewrite a finished transcript as one first-person trace; only it meets words that go back to
the image.

    python -m train.tiny.pretrain --out runs/pretrain            # both, resumable; then copy with --install
    python -m train.tiny.pretrain --random --out DIR             # standard folders with random weights, for tests
    python -m train.tiny.pretrain --half --only vlm --out DIR    # a smaller VLM, to be taught by a larger one
"""

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from configs.jsonl import write_json_atomic
from data_construction.sources import LEARNED
from data_construction.sources.digits import digits_image, draw_digits
from data_construction.sources.render import CELLS, COLOURS, PLACES, SHAPES, draw_radii
from data_construction.sources.scenes import attribute, draw_grid, grid_image
from data_construction.sources.wording import SMALL
from train.precision import fastest
from train.tiny.examples import TRUST, Dialogues, Examples, PretrainExample, collate, dialogue_batches
from train.tiny.model_card import write_reasoner_card, write_vlm_card
from train.tiny.models import WIDTH, build_tiny_reasoner, build_tiny_vlm

# Stages. Each yields a loss for every step; fit() does the rest.


def arithmetic(precision: str) -> torch.autocast:
    """Autocast where the precision is bfloat16."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")


def vision_stage(
    model: Any, processor: Any, head: nn.Linear, examples: Examples, steps: int, precision: str = "float32"
) -> Iterator[Any]:
    """The tower alone, read out by linear heads on every image token; easy images first, then mostly hard ones.

    The heads tell colour, shape, size (small or not), digit and cell. ``head`` has ``sum(HEADS)`` outputs.
    """
    tower, side = model.model.visual, 6
    cells = [(y * CELLS // side) * CELLS + x * CELLS // side for y in range(side) for x in range(side)]
    unknown = [-100] * len(cells)
    for step in range(steps):
        hard = 0.0 if step < 0.35 * steps else 0.8
        pictures: list[Any] = []
        targets: list[list[int]] = [[] for _ in HEADS]
        for index in range(PICTURES // rank_count()):
            look = examples.look(hard)
            if index % 3 == 0:
                hand = draw_digits(examples.rng, "pretrain")
                pictures.append(digits_image(hand, look, examples.rng))
                seen = [unknown, unknown, unknown, [hand[cell][0] for cell in cells], cells]
            else:
                scene, radii = draw_grid(examples.rng), draw_radii(look, examples.rng)
                pictures.append(grid_image(scene, look, examples.rng, radii))
                colours = [("none", *COLOURS).index(attribute(scene[cell], "colour")) for cell in cells]
                shapes = [("none", *SHAPES).index(attribute(scene[cell], "shape")) for cell in cells]
                sizes = [int(radii[cell] < SMALL) if scene[cell] else -100 for cell in cells]
                seen = [colours, shapes, sizes, unknown, cells]
            for target, values in zip(targets, seen, strict=True):
                target += values
        batch = processor.image_processor(pictures, do_resize=False, return_tensors="pt")
        with arithmetic(precision):
            features = tower(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
        features = torch.cat(features) if isinstance(features, (list, tuple)) else features
        parts = head(features.float()).split(HEADS, dim=-1)
        gold = [torch.tensor(target) for target in targets]
        loss = sum(F.cross_entropy(part, target) for part, target in zip(parts, gold, strict=True))
        right = [
            (part.argmax(-1) == target)[target != -100].float().mean().item()
            for part, target in zip(parts, gold, strict=True)
        ]
        yield loss, "colour {:.3f} shape {:.3f} size {:.3f} digit {:.3f} cell {:.3f}".format(*right)


def language_stage(
    model: Any,
    processor: Any,
    draw_batch: Callable[[float], list[PretrainExample]],
    steps: int,
    precision: str = "float32",
) -> Iterator[Any]:
    """Next-token loss on the answers; ``draw_batch(fraction)`` gives the examples of one step."""
    for step in range(steps):
        batch = collate(processor, draw_batch(step / steps))
        with arithmetic(precision):
            yield model(**batch).loss, ""


def fit(
    losses: Iterator[Any],
    parameters: list[nn.Parameter],
    steps: int,
    rate: float,
    log: Callable[[str], None],
    kernel: SDPBackend = SDPBackend.MATH,  # with images the fused kernel's backward is the slower one
) -> None:
    """AdamW with 50 steps of warm-up and a cosine down to 5%; gradients are averaged over the processes."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05, betas=(0.9, 0.95))
    began = time.time()
    for step in range(steps):
        scale = min(1.0, (step + 1) / 50) * (0.475 * (1 + math.cos(math.pi * step / steps)) + 0.05)
        for group in optimizer.param_groups:
            group["lr"] = rate * scale
        with sdpa_kernel(kernel):
            loss, note = next(losses)
            loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 50 == 0:
            log(f"{time.time() - began:.0f}s step {step + 1}/{steps} loss {loss.item():.4f} {note}")


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """The mean gradient of all processes, in place. Two processes of one thread each use two cores better than one of two."""
    if rank_count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= rank_count()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def rank_count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


# The recipe


TALLIES = ("count", "count", "compare", "claims", "digit_sum")  # families whose conclusion is more than a copy
HEADS = [len(COLOURS) + 1, len(SHAPES) + 1, 2, 10, len(PLACES)]  # colour, shape, size, digit, cell
PICTURES, ROWS = 32, 64  # of a step, over all processes: with images, and of text alone
VLM_STEPS = {"vision": 1800, "text": 300, "mixture": 1500, "conversation": 700}
REASONER_STEPS = 700


def text_batch(examples: Examples) -> Callable[[float], list[PretrainExample]]:
    """The arithmetic of plain reasoning, without images."""
    return lambda _: [examples.derivation(examples.rng.choice(TALLIES)) for _ in range(ROWS // rank_count())]


def mixture_batch(examples: Examples) -> Callable[[float], list[PretrainExample]]:
    """Images and text together; easy images first."""

    def batch(fraction: float) -> list[PretrainExample]:
        rng, hard, drawn = examples.rng, 0.8 if fraction > 0.25 else 0.4, []
        for _ in range(PICTURES // rank_count()):
            share = rng.random()
            if share < 0.25:
                drawn.append(examples.passing(hard))
            elif share < 0.50:
                drawn.append(examples.careful(hard))
            elif share < 0.55:
                drawn.append(examples.noted(hard))
            elif share < 0.88:
                drawn.append(examples.reasoning(rng.choice(LEARNED), hard))
            else:
                drawn.append(examples.direct(rng.choice(LEARNED), hard))
        return drawn

    return batch


def conversation_batch(examples: Examples) -> Callable[[float], list[PretrainExample]]:
    """A third of it the mixture; glances; and above all conversations in which the user asks to look again.

    Without these a second statement about a place copies the first one, whatever the image shows, and the cold start is too
    short to change that (docs/log.md).
    """
    mixture = mixture_batch(examples)

    def batch(fraction: float) -> list[PretrainExample]:
        size = PICTURES // rank_count()
        names = examples.rng.choices(LEARNED, k=size)
        again = [examples.asked_again(name, 0.8) for name in names[: size // 2]]
        glances = [examples.glance(name, 0.8) for name in names[: size // 6]]
        return again + glances + mixture(1.0)[len(again) + len(glances) :]

    return batch


def pretrain_vlm(
    work: Path, steps: dict[str, int], log: Callable[[str], None], half: bool = False, precision: str = "float32"
) -> Path:
    """Run the four stages, each from the folder that the one before has left; a finished stage is not run again."""
    before = work / "vlm-random"
    if rank() == 0 and not (before / "config.json").exists():
        build_tiny_vlm(before, half=half)
    wait()
    for number, stage in enumerate(VLM_STEPS):
        folder = work / f"vlm-{stage}"
        if not (folder / "seconds.json").exists():
            began = time.time()
            log(f"== {stage}")
            model = AutoModelForImageTextToText.from_pretrained(before, dtype=torch.float32)
            processor = AutoProcessor.from_pretrained(before)
            examples, rate, everything = Examples(rank_count() * number + rank()), 1.5e-3, list(model.parameters())
            if stage == "vision":
                head = nn.Linear(model.config.text_config.hidden_size, sum(HEADS))
                losses = vision_stage(model, processor, head, examples, steps[stage], precision)
                everything = [*model.model.visual.parameters(), *head.parameters()]
            elif stage == "text":
                losses = language_stage(model, processor, text_batch(examples), steps[stage], precision)
            else:
                draw_batch = mixture_batch(examples) if stage == "mixture" else conversation_batch(examples)
                losses = language_stage(model, processor, draw_batch, steps[stage], precision)
                rate = 8e-4
            fit(losses, everything, steps[stage], rate, log)
            _save_trained(model, processor, folder, time.time() - began)
        before = folder
    return before


def pretrain_reasoner(work: Path, steps: int, log: Callable[[str], None], precision: str = "float32") -> Path:
    """One stage, from the language model of ``vlm-mixture``."""
    folder = work / "reasoner"
    if not (folder / "seconds.json").exists():
        began = time.time()
        log("== reasoner")
        start = work / "reasoner-start"
        if rank() == 0:
            build_tiny_reasoner(start, start=work / "vlm-mixture")
        wait()
        model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(start)
        draw_batch = dialogue_batches(Dialogues(rank()), ROWS // rank_count())
        losses = language_stage(model, tokenizer, draw_batch, steps, precision)
        fit(losses, list(model.parameters()), steps, 1.5e-3, log, SDPBackend.FLASH_ATTENTION)
        _save_trained(model, tokenizer, folder, time.time() - began)
    return folder


def _save_trained(model: Any, processor: Any, folder: Path, seconds: float) -> None:
    """By the first process; all wait for it."""
    if rank() == 0:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json_atomic(folder / "seconds.json", round(seconds))
    wait()


def wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def install(work: Path, source: Path, name: str) -> Path:
    """Copy finished weights into ``vlm/models`` with a card; the reasoner as bfloat16, so that both stay below 25 MB."""
    target = Path(__file__).parents[2] / "vlm" / "models" / name
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("seconds.json"))
    if name == "tiny-reasoner":
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(target)
        dialogues = Dialogues(9)  # not met in training, where the seed is a rank
        drawn = [row for _ in range(60) for row in dialogues.rows()]
        rows = [(row.question.split("\n")[0].removeprefix("Task: "), row.question, row.answer) for row in drawn]
        figures: Any = write_reasoner_card(target, rows, json.loads((source / "seconds.json").read_text()))
    else:
        stages = {stage: work / f"vlm-{stage}" / "seconds.json" for stage in VLM_STEPS}
        figures = write_vlm_card(target, {stage: json.loads(file.read_text()) for stage, file in stages.items()}, TRUST)
    print(json.dumps(figures))
    return target


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain"), help="where the stages are kept")
    parser.add_argument(
        "--random", action="store_true", help="write random weights to OUT/tiny-vlm and OUT/tiny-reasoner"
    )
    parser.add_argument(
        "--only", choices=("vlm", "reasoner"), help="one of the two; the reasoner starts from the VLM in OUT"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiply all steps, to try the recipe in little time")
    parser.add_argument(
        "--half", action="store_true", help="a VLM half as wide, 1.0 M parameters, to teach as a student"
    )
    parser.add_argument("--processes", type=int, default=2, help="that share each step's rows, one thread each")
    parser.add_argument(
        "--precision",
        choices=("auto", "bfloat16", "float32"),
        default="auto",
        help="bfloat16 autocast or float32; auto is the faster one here, or what the stages in OUT were trained in",
    )
    parser.add_argument("--install", action="store_true", help="copy the results into vlm/models")
    options = parser.parse_args(argv)
    if options.half and (options.install or options.only != "vlm"):
        parser.exit(2, "--half makes a VLM alone, and it is not bundled: give --only vlm, and no --install.\n")
    if options.half and options.random:
        parser.exit(2, "--random writes the bundled models' shapes: leave --half out.\n")
    before = options.out / "vlm-random" / "config.json"
    if before.exists() and (json.loads(before.read_text())["text_config"]["hidden_size"] == WIDTH) == options.half:
        parser.exit(2, f"{options.out} holds the stages of a VLM of another width: choose another --out.\n")
    if options.random:
        print(build_tiny_vlm(options.out / "tiny-vlm"), build_tiny_reasoner(options.out / "tiny-reasoner"))
        return
    if options.only == "reasoner" and not (options.out / "vlm-mixture" / "config.json").exists():
        parser.exit(
            2, f"The reasoner starts from the VLM, and {options.out} holds none: train the VLM first (no --only).\n"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    held = held_precision(options.out)
    if options.precision not in ("auto", held or options.precision):
        parser.exit(
            2, f"The stages in {options.out} were trained in {held}: leave --precision out, or choose another --out.\n"
        )
    if options.precision == "auto":
        options.precision = held or fastest("cpu")
    write_json_atomic(options.out / "precision.json", options.precision)
    print(f"precision: {options.precision}", flush=True)
    rendezvous = tempfile.mkdtemp()
    if options.processes == 1:
        work(0, options, rendezvous)
    else:
        mp.spawn(work, (options, rendezvous), nprocs=options.processes)
    names = {"vlm": "tiny-vlm", "reasoner": "tiny-reasoner"}
    for name in (options.only,) if options.only else names:
        source = options.out / (f"vlm-{list(VLM_STEPS)[-1]}" if name == "vlm" else "reasoner")
        print(install(options.out, source, names[name]) if options.install else source)


def held_precision(out: Path) -> str | None:
    """What the finished stages in ``out`` were trained in; None where there is none."""
    if not any(out.glob("*/seconds.json")):
        return None
    file = out / "precision.json"
    return str(json.loads(file.read_text())) if file.exists() else "bfloat16"  # once the only one


def work(process: int, options: argparse.Namespace, rendezvous: str) -> None:
    """One process of the training."""
    if options.processes > 1:
        torch.set_num_threads(1)
        store = dist.FileStore(f"{rendezvous}/store", options.processes)
        dist.init_process_group("gloo", store=store, rank=process, world_size=options.processes)

    def log(line: str) -> None:
        if process == 0:
            print(line, flush=True)

    if options.only != "reasoner":
        steps = {stage: max(1, round(n * options.scale)) for stage, n in VLM_STEPS.items()}
        pretrain_vlm(options.out, steps, log, options.half, options.precision)
    if options.only != "vlm":
        pretrain_reasoner(options.out, max(1, round(REASONER_STEPS * options.scale)), log, options.precision)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
