"""What the project's GRPO trainer costs over bare TRL, and what the attention reward costs over accuracy alone.

    python benchmarks/train_step.py [--quick] [--json]

Peers, on the same model, problems, seed, and batch: TRL's ``GRPOTrainer`` with two plain reward functions over the same prompts
and images; ``VisualGRPOTrainer`` with all its logging and the attention reward (``grpo_ratio`` = ours / TRL's); and ours with the
mass never recorded (``attention_reward_ratio`` = with / without). The trainers share one model in one process and take steps in
turns; every step samples, and all responses are cut at the same length, so that the work is equal. Ratios are medians of paired
rounds, CPU time of this process, which other work on the machine disturbs less than the clock; the clock's are beside them.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from datasets import Dataset
from trl import GRPOTrainer

from benchmarks.reporting import report, surroundings
from data_construction.sources import write_set
from reward.grade import Gold, grade
from train.grpo import load_grpo
from train.grpo_trainer import VisualGRPOTrainer
from train.launch import quiet
from train.prompts import problem_messages
from train.tiny.models import build_tiny_vlm
from vlm.images import open_image
from vlm.load import VLM, load_vlm
from vlm.problem import Problem, read_problems

MUST_HOLD = {"grpo_ratio": lambda x: x <= 1.05, "attention_reward_ratio": lambda x: x <= 1.05}
RESPONSES, GROUP, LENGTH = 64, 8, 96


class Unwatched(VisualGRPOTrainer):
    """Ours without the probe: every mass is unknown."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        ids, logprobs = GRPOTrainer._generate_single_turn(self, *args, **kwargs)
        nothing = torch.full((max(map(len, ids)),), float("nan"))
        self.recorded = [(nothing[: self._token_count(row)], nothing[: self._token_count(row)]) for row in ids]
        return ids, logprobs


def stage(model: Path, folder: Path, problems: Path, length: int, rewards: dict[str, float]) -> Any:
    keys = {
        "model": str(model),
        "problems": str(problems),
        "output_dir": str(folder),
        "per_device_train_batch_size": RESPONSES,
        "num_generations": GROUP,
        "max_completion_length": length,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "beta": 0.0,
        "learning_rate": 1e-6,
        "max_steps": 10_000,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "prompt_selection": None,
        "rewards": rewards,
        "seed": 0,
        # No response ends of itself, so that all trainers do the same work.
        "generation_kwargs": {"min_new_tokens": length},
    }
    return load_grpo(keys)


def correct(completions: list[Any], domain: list[str], gold: list[str], **_: Any) -> list[float | None]:
    texts = [turns[0]["content"] for turns in completions]
    return [grade(Gold(*one), text, True).score for *one, text in zip(domain, gold, texts, strict=True)]


def closed(completions: list[Any], **_: Any) -> list[float]:
    return [float("</think>" in turns[0]["content"]) for turns in completions]


def bare(vlm: VLM, args: Any, problems: list[Problem]) -> GRPOTrainer:
    """TRL's trainer on the same prompts and images."""
    rows = [
        {
            "prompt": problem_messages(problem, "think", vlm),
            "images": [open_image(path) for path in problem.images],
            "domain": problem.domain,
            "gold": problem.answer,
        }
        for problem in problems
    ]
    args.reward_weights = [1.0, 0.2]
    return GRPOTrainer(
        model=vlm.model,
        reward_funcs=[correct, closed],
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=vlm.processor,
    )


class Steps:
    """A trainer that takes one whole step (prompts, sampling, rewards, loss, backward, optimizer, log) at a time."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        trainer.model.train()
        trainer.create_optimizer_and_scheduler(10_000)
        trainer.model_wrapped = trainer.model
        trainer.current_gradient_accumulation_steps = 1
        self.batches = self._forever()

    def _forever(self) -> Iterator[Any]:
        while True:
            yield from self.trainer.get_train_dataloader()

    def __call__(self) -> tuple[float, float]:
        """CPU and wall seconds of a step."""
        batch = next(self.batches)
        cpu, wall = time.process_time(), time.perf_counter()
        trainer = self.trainer
        loss = trainer.training_step(trainer.model, batch, None)
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        trainer.state.global_step += 1
        trainer.log({"loss": loss.item()})
        return time.process_time() - cpu, time.perf_counter() - wall


def measure(rounds: int, length: int, folder: Path) -> dict[str, Any]:
    quiet()
    model = build_tiny_vlm(folder / "tiny-vlm")
    write_set("scenes,digits", 64, 0, "train", folder / "problems")
    problems = read_problems(folder / "problems")
    watched = {"accuracy": 1.0, "format": 0.2, "attention_ratio": 0.2, "grounding_penalty": 0.1}
    plain = {"accuracy": 1.0, "format": 0.2}

    # One model for all: where weights lie in memory is worth some percent of a step.
    vlm = load_vlm(model, device="cpu")

    def ours(kind: type[VisualGRPOTrainer], name: str, rewards: dict[str, float]) -> Steps:
        one = stage(model, folder / name, folder / "problems", length, rewards)
        return Steps(kind(vlm, problems, one.options, one.args))

    steps = {
        "trl": Steps(bare(vlm, stage(model, folder / "trl", folder / "problems", length, plain).args, problems)),
        "ours": ours(VisualGRPOTrainer, "ours", watched),
        "unwatched": ours(Unwatched, "unwatched", plain),
    }
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    wall: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(rounds + 1):
        for name in names[number % 3 :] + names[: number % 3]:
            with contextlib.redirect_stdout(None):
                used, passed = steps[name]()
            if number:  # the first round warms up
                cpu[name].append(used)
                wall[name].append(passed)

    def ratio(times: dict[str, list[float]], above: str, below: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[above], times[below], strict=True)), 4)

    return {
        "grpo_ratio": ratio(cpu, "ours", "trl"),
        "attention_reward_ratio": ratio(cpu, "ours", "unwatched"),
        "grpo_ratio_wall": ratio(wall, "ours", "trl"),
        "attention_reward_ratio_wall": ratio(wall, "ours", "unwatched"),
        "seconds_a_step": {name: round(statistics.median(times), 3) for name, times in wall.items()},
        "n": rounds,
        "responses": RESPONSES,
        "tokens_a_response": length,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter responses")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(8 if args.quick else 20, 48 if args.quick else LENGTH, Path(folder))
    figures |= surroundings(args.threads, "torch", "transformers", "trl")
    return report(figures, MUST_HOLD, args.json)


if __name__ == "__main__":
    sys.exit(main())
