"""GRPO whose responses are sampled by vLLM in the same process: one run, killed and resumed, and two short ones."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import LogitsProcessor, LogitsProcessorList

from train.data import reader_of
from train.grpo import load_grpo
from train.grpo_trainer import VisualGRPOTrainer
from train.prompts import problem_messages
from vlm.attention import attention_traits
from vlm.attention_parts import image_token_mask
from vlm.chat import encode
from vlm.images import open_image
from vlm.load import load_vlm
from vlm.problem import read_problems

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]
TINY = ROOT / "vlm" / "models" / "tiny-vlm"
HARNESS = Path(__file__).with_name("harness.py")
BOUND = 1e-3
"""Nats a token: how far sampling and training may be apart in float32."""
WAITING = 1800
"""Seconds: how long a busy machine may take for a run."""
SETTINGS: dict[str, Any] = {
    "prompt_selection": "null",
    "num_generations": 4,
    "per_device_train_batch_size": 12,
    "max_prompt_tokens": 400,
    "max_completion_length": 48,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "freeze_vision": "false",
    "precision": "float32",
    "shuffle_dataset": "false",
    "rewards": '{"accuracy": 1.0, "format": 0.2, "attention_late_mass": 0.5}',
}
VLLM = {
    "use_vllm": "true",
    "vllm_mode": "colocate",
    "vllm_importance_sampling_correction": "true",
    "max_logprob_gap": BOUND,
}


@dataclass
class Run:
    """A GRPO run with the harness."""

    folder: Path
    problems: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def start(self, *flags: str, **settings: Any) -> subprocess.Popen[bytes]:
        self.folder.mkdir(exist_ok=True)
        given = {"model": TINY, "problems": self.problems, "output_dir": self.out, **SETTINGS, **VLLM, **settings}
        command = [sys.executable, str(HARNESS), str(self.folder), *flags, "--config", "configs/tiny/grpo.yaml"]
        command += [text for key, value in given.items() for text in (f"--{key}", str(value))]
        with open(self.folder / "output.txt", "ab") as file:
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            return subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)

    def finish(self, *flags: str, **settings: Any) -> int:
        process = self.start(*flags, **settings)
        try:
            return process.wait(WAITING)
        finally:
            process.kill()

    def kill_after(self, file: Path, **settings: Any) -> None:
        """Start, wait for ``file``, and kill."""
        process, began = self.start(**settings), time.monotonic()
        while not file.exists() and process.poll() is None and time.monotonic() - began < WAITING:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, self.printed

    @property
    def printed(self) -> str:
        return (self.folder / "output.txt").read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "log.jsonl").read_text().splitlines()]

    @cached_property
    def engine(self) -> dict[str, Any]:
        return json.loads((self.folder / "engine.json").read_text())

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        files = sorted(self.folder.glob("*.pt"), key=lambda file: int(file.stem))
        return [torch.load(file, weights_only=False) for file in files]


@pytest.fixture(scope="module")
def run(mixed_problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six steps, with a kill after the third."""
    run = Run(tmp_path_factory.mktemp("run"), mixed_problems)
    run.kill_after(run.out / "checkpoint-3" / "complete", max_steps=6, save_steps=3)
    (run.folder / "before.jsonl").write_text((run.out / "log.jsonl").read_text())
    assert run.finish(max_steps=6, save_steps=3) == 0, run.printed[-5000:]
    return run


@pytest.mark.smoke
def test_the_engine_makes_room_for_the_images_of_the_data_alone(run: Run) -> None:
    assert run.engine["arguments"]["limit_mm_per_prompt"] == {"image": 3, "video": 0, "audio": 0}
    assert run.engine["limits"] == {"image": 3, "video": 0}
    assert run.engine["dtype"] == "torch.float32"
    assert "Found 1 <|video_pad|> tokens" not in run.printed


@pytest.mark.smoke
def test_vllm_reads_what_training_reads(run: Run) -> None:
    assert len(run.steps) == 6
    for step in run.steps:
        assert step["num_images"] == [0] * 4 + [1] * 4 + [3] * 4
        kept = zip(step["prompt_ids"], step["prompt_mask"].bool(), strict=True)
        assert step["read"] == [ids[mask].tolist() for ids, mask in kept]
        sizes = {tuple(size) for size in step["image_grid_thw"].tolist()}
        assert len(sizes) == 3


@pytest.mark.smoke
def test_sampling_and_training_agree_after_each_synchronisation(run: Run) -> None:
    for step in run.steps:
        mask = step["completion_mask"].bool()
        gap = (step["old_per_token_logps"] - step["sampling_per_token_logps"]).abs()[mask]
        assert gap.mean() <= BOUND
    logged = [row["sampling/sampling_logp_difference/mean"] for row in run.log]
    assert max(logged) <= BOUND
    print("gap:", max(logged), max(row["sampling/sampling_logp_difference/max"] for row in run.log))


@pytest.mark.smoke
def test_every_tensor_moves(run: Run) -> None:
    before, after = load_file(TINY / "model.safetensors"), load_file(run.out / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@pytest.mark.smoke
def test_the_killed_run_was_resumed(run: Run) -> None:
    before = (run.folder / "before.jsonl").read_text().splitlines()[:3]
    assert [row["step"] for row in run.log] == [1, 2, 3, 4, 5, 6]
    assert [json.dumps(row) for row in run.log[:3]] == [json.dumps(json.loads(line)) for line in before]


def responses(step: dict[str, Any]) -> list[list[int]]:
    kept = zip(step["completion_ids"], step["completion_mask"].bool(), strict=True)
    return [ids[mask].tolist() for ids, mask in kept]


@pytest.mark.smoke
def test_the_recorded_mass_is_that_of_eager_attention(run: Run) -> None:
    """Of the first step, whose weights are those of the bundled model."""
    step, vlm, compared = run.steps[0], load_vlm(str(TINY), device="cpu"), 0
    problems, reader = read_problems(run.problems), reader_of(vlm)
    traits = attention_traits(vlm.model)
    vlm.model.set_attn_implementation("eager")
    for index, ids, (mass, _) in zip(step["indices"], responses(step), step["mass"], strict=True):
        problem = problems[index]
        images = [open_image(path) for path in problem.images]
        batch = encode(reader, [problem_messages(problem, "think", reader)], [images], [ids])
        with torch.no_grad():
            maps = vlm.model(**batch, output_attentions=True).attentions
        last = maps[sorted(traits.measured).index(traits.last)].float().mean(1)[0]
        wanted = (last * image_token_mask(vlm.model, batch["input_ids"])).sum(-1)[-len(ids) :][: len(mass)]
        known = ~mass.isnan()
        assert (mass[known] - wanted[known]).abs().max() < 1e-5
        compared += int((known & (wanted > 0)).sum())
    assert compared > 50


class Forced(LogitsProcessor):
    """Writes the given responses, whatever the logits are."""

    def __init__(self, responses: list[list[int]], end: int) -> None:
        self.responses, self.end, self.written = responses, end, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if len(scores) != len(self.responses):  # the probe's own short generation, before the first batch
            return scores
        forced = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(self.responses):
            forced[row, ids[self.written] if self.written < len(ids) else self.end] = 0
        self.written += 1
        return forced


@pytest.mark.smoke
def test_rewards_are_those_of_sampling_by_transformers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same completions, written by transformers with the weights of the first step, get the same scores and parts."""
    step, vlm = run.steps[0], load_vlm(str(TINY), device="cpu")
    monkeypatch.chdir(ROOT)
    keys = {"model": str(TINY), "problems": str(run.problems), "output_dir": str(tmp_path)}
    keys |= {key: yaml.safe_load(str(value)) for key, value in SETTINGS.items()}
    stage = load_grpo("configs/tiny/grpo.yaml", keys)
    trainer = VisualGRPOTrainer(vlm, read_problems(run.problems), stage.options, stage.args)
    forced = Forced(responses(step), trainer.eos_token_ids[0])
    monkeypatch.setattr(trainer.model, "_get_logits_processor", lambda *_, **__: LogitsProcessorList([forced]))
    keep, kept = trainer._keep, []
    monkeypatch.setattr(trainer, "_keep", lambda *given: (keep(*given), kept.extend(trainer.recorded)))
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"index": index} for index in step["indices"]])
    assert responses(batch) == responses(step)
    assert len(trainer.rows) == len(step["rows"]) == 12
    for ours, theirs in zip(trainer.rows, step["rows"], strict=True):
        assert flat(ours) == pytest.approx(flat(theirs), abs=1e-4, nan_ok=True)
    for (ours, _), (theirs, _) in zip(kept, step["mass"], strict=True):
        known = ~(ours.isnan() | theirs.isnan())  # a generation does not feed its last token
        assert known.sum() >= len(ours) - 1 or theirs.isnan().all()
        assert torch.allclose(ours[known], theirs[known], atol=1e-5)


def flat(row: dict[str, Any]) -> dict[str, float]:
    """Scores and parts of a response by name; NaN for what cannot be judged."""
    named = {f"{kind}/{name}": value for kind in ("scores", "parts") for name, value in row[kind].items()}
    return {name: math.nan if value is None else float(value) for name, value in named.items()}


def test_adapters_are_synchronised(mixed_problems: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "lora", mixed_problems)
    code = run.finish(max_steps=3, save_steps=3, learning_rate=1e-3, lora='{"r": 4}')
    assert code == 0, run.printed[-5000:]
    assert max(row["sampling/sampling_logp_difference/mean"] for row in run.log) <= BOUND
    first, last = (step["sampling_per_token_logps"] for step in (run.steps[0], run.steps[-1]))
    assert first.shape != last.shape or not torch.equal(first, last)
    adapters = [
        name for name in load_file(next(run.out.glob("checkpoint-3/adapter_model.safetensors"))) if "lora_B" in name
    ]
    assert adapters


def test_weights_that_were_not_synchronised_end_the_run(mixed_problems: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "left", mixed_problems)
    assert run.finish("--without-sync", max_steps=4, save_steps=4, learning_rate=1e-3) == 1
    (error,) = [line for line in run.printed.splitlines() if line.startswith("error: ")]
    assert "the log-probabilities of sampling and of training differ by" in error
    assert "more than max_logprob_gap 0.001: check that vLLM serves the same model" in error
    assert "Traceback" not in run.printed
    assert not (run.out / "model.safetensors").exists()
