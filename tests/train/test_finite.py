"""A run stops at the first loss, gradient or weight that is not finite, and neither saves nor publishes any."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trl import GRPOTrainer, SFTTrainer

import train.grpo
import train.sft
from configs.errors import UserError
from reward.rewards import REWARDS, Rollout, Score
from train import finite
from train.checkpoints import last_checkpoint
from train.config import Lora
from train.lora import merge_adapter

pytestmark = pytest.mark.seam

NAN, INF = float("nan"), float("inf")
PUBLISHED = ("model.safetensors", "adapter_model.safetensors", "config.json", "summary.json")


@pytest.fixture(scope="module")
def configs(tiny_vlm_dir: Path, pictures: Path, runs: Any) -> dict[str, dict[str, Any]]:
    """The config of each stage: 4 steps, of whose checkpoints one is kept."""
    both = {**runs.BASE, "model": str(tiny_vlm_dir), "max_steps": 4, "save_total_limit": 1}
    grpo = {
        "problems": str(pictures),
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 6,
        "prompt_selection": None,
        "rewards": {"accuracy": 1.0, "format": 1.0},
    }
    sft = {"dataset": str(pictures / "rows.jsonl"), "per_device_train_batch_size": 2}
    return {"sft": {**both, **sft}, "grpo": {**both, **grpo}}


@pytest.fixture(autouse=True)
def rewards_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the responses of a random model would have no advantage, and no gradient."""
    monkeypatch.setitem(REWARDS, "format", lambda rollout: Score(len(rollout.text) % 7 / 7))


@pytest.fixture(scope="module")
def finished(configs: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cold start of 4 steps with all of its checkpoints. Read only."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finite") / "run"
    train.sft.run_sft(configs["sft"], {"output_dir": str(folder), "save_total_limit": 9})
    return folder


def start(stage: str, config: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and sentence of the stage's command, as a user gives it."""
    file = folder.parent / f"{folder.name}.json"  # JSON is YAML
    file.write_text(json.dumps(config))
    capsys.readouterr()
    main = {"sft": train.sft.main, "grpo": train.grpo.main}[stage]
    code = main(["--config", str(file), "--output_dir", str(folder)])
    # Without the warning about newer releases than the tested ones, which a process prints once.
    lines = capsys.readouterr().err.splitlines()
    return code, "\n".join(line for line in lines if line.startswith("error: "))


def end_of(
    stage: str,
    config: dict[str, Any],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    kept: int | None,
    again: bool = False,
) -> str:
    """The sentence with which a run ends (and the same command ``again``); of its checkpoints that of step ``kept`` stays."""
    code, sentence = start(stage, config, folder, capsys)
    if again:
        assert start(stage, config, folder, capsys) == (code, sentence)
    assert code == 1 and sentence.startswith("error: Training has diverged: at step ")
    assert [name for name in PUBLISHED if (folder / name).exists()] == []
    found = last_checkpoint(folder, remove_torn=False)
    assert (found and found[1]) == kept
    assert f"The checkpoint of step {kept} is kept" in sentence or (kept is None and "No checkpoint" in sentence)
    if found:
        assert finite.lost_in_files(found[0])[0] == []
    assert "in another output_dir" in sentence and "learning_rate" in sentence
    return sentence


def with_extra_loss(monkeypatch: pytest.MonkeyPatch, extra: Callable[[torch.Tensor], torch.Tensor], step: int) -> None:
    """Add ``extra(a weight)`` to the loss of a step, in both stages."""
    for trainer in (SFTTrainer, GRPOTrainer):
        compute = trainer.compute_loss

        def computed(self: Any, *args: Any, compute: Any = compute, **kwargs: Any) -> Any:
            loss = compute(self, *args, **kwargs)
            weight = next(weight for weight in self.model.parameters() if weight.requires_grad)
            return loss + extra(weight.flatten()[0]) if self.state.global_step + 1 == step else loss

        monkeypatch.setattr(trainer, "compute_loss", computed)


LOST = {
    "loss": (lambda weight: weight * NAN, "the loss is NaN ({rows}"),
    "infinite loss": (lambda weight: weight * 0 + INF, "the loss is infinite ({rows}"),
    # The square root of 0 has an infinite slope.
    "gradient": (lambda weight: (weight - weight.detach()).sqrt(), "the gradient of model.visual"),
    "norm": (lambda weight: 1e25 * (weight - weight.detach()), "the norm of the gradient overflows"),
}


@pytest.mark.parametrize(("stage", "kind"), [*(("sft", kind) for kind in LOST), ("grpo", "loss"), ("grpo", "gradient")])
def test_a_run_stops_where_it_is_no_longer_finite(
    stage: str,
    kind: str,
    configs: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    runs: Any,
) -> None:
    extra, said = LOST[kind]
    with_extra_loss(monkeypatch, extra, step=3)
    sentence = end_of(stage, configs[stage], tmp_path / "run", capsys, kept=2, again=kind == "loss")
    rows = "rows" if stage == "sft" else "problems p"
    assert "at step 3 " + said.format(rows=rows) in sentence
    assert runs.column(tmp_path / "run", "step") == [1, 2]
    if "loss" in kind:
        assert f"Look at {rows}" in sentence


@pytest.mark.parametrize(("stage", "lora"), [("sft", False), ("sft", True), ("grpo", True)])
def test_a_step_that_makes_weights_infinite_is_the_last(
    stage: str, lora: bool, configs: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The look after a step finds them, since no save comes before the last step."""
    config = configs[stage] | {"learning_rate": 1e39, "save_steps": 10}
    config |= {"lora": {"r": 2, "alpha": 4}} if lora else {}
    sentence = end_of(stage, config, tmp_path / "run", capsys, kept=None, again=True)
    assert "at step 1 the weight " in sentence and ("lora_" in sentence) == lora


def test_a_learning_rate_that_is_far_too_high_ends_in_the_sentence(
    configs: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights of its first step are finite, but what is computed with them is not."""
    end_of("sft", configs["sft"] | {"learning_rate": 1e30}, tmp_path / "run", capsys, kept=1, again=True)


def test_gradient_accumulation_counts_steps_and_not_batches(
    configs: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_extra_loss(monkeypatch, LOST["gradient"][0], step=2)
    config = configs["sft"] | {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_grad_norm": 0}
    assert "at step 2 the gradient of" in end_of("sft", config, tmp_path / "run", capsys, kept=1)


def test_what_is_not_finite_is_not_saved(
    configs: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The look before each save stands by itself: it is the only one at weights that ZeRO-3 shards."""

    def spoil(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            next(self.trainer.model.parameters()).data.view(-1)[0] = NAN

    monkeypatch.setattr(finite.FiniteWeights, "on_step_end", spoil)
    assert "at step 3 the weight " in end_of("sft", configs["sft"], tmp_path / "run", capsys, kept=2)


def copied(finished: Path, folder: Path, runs: Any, step: int) -> dict[str, Any]:
    """A killed run whose last complete checkpoint is that of ``step``; its settings."""
    shutil.copytree(finished, folder)
    runs.kill_after(folder, step)
    return json.loads((folder / "settings.json").read_text())["settings"] | {"output_dir": str(folder)}


def test_a_final_checkpoint_of_an_earlier_version_is_not_published(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: Any
) -> None:
    folder = tmp_path / "run"
    settings = copied(finished, folder, runs, step=4)
    for name in PUBLISHED:
        (folder / name).unlink(missing_ok=True)
    tensors = runs.poison(folder / "checkpoint-4")
    for _ in range(2):
        code, sentence = start("sft", settings, folder, capsys)
        assert code == 1 and "Traceback" not in sentence
        assert f"checkpoint-4 holds NaN or infinity in {(tensors + 1) // 2} of {tensors} tensors" in sentence
        assert "Remove that folder, and the same command then resumes from checkpoint-3" in sentence
        assert [name for name in PUBLISHED if (folder / name).exists()] == []
    shutil.rmtree(folder / "checkpoint-4")
    assert start("sft", settings, folder, capsys) == (0, "")
    assert runs.unmoved(folder, finished) == sorted(runs.weights(finished))


@pytest.mark.parametrize(("what", "value"), [("weights", NAN), ("weights", INF), ("optimizer", NAN), ("all", NAN)])
def test_a_checkpoint_that_is_not_finite_is_not_resumed(
    what: str, value: float, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: Any
) -> None:
    folder = tmp_path / "run"
    settings = copied(finished, folder, runs, step=3)
    if what == "optimizer":
        file = folder / "checkpoint-3" / "optimizer.pt"
        state = torch.load(file, weights_only=True)
        state["state"][5]["exp_avg_sq"].view(-1)[0] = value
        torch.save(state, file)
    else:
        name = next(iter(load_file(folder / "checkpoint-3" / "model.safetensors")))
        for step in (1, 2, 3) if what == "all" else (3,):
            runs.poison(folder / f"checkpoint-{step}", name, value)
    code, sentence = start("sft", settings, folder, capsys)
    where = "the optimizer's exp_avg_sq" if what == "optimizer" else "1 of "
    assert code == 1 and f"checkpoint-3 holds NaN or infinity in {where}" in sentence
    then = "then begins again" if what == "all" else "then resumes from checkpoint-2"
    assert f"Remove that folder, and the same command {then}" in sentence
    assert runs.column(folder, "step") == [1, 2, 3]


def test_grpo_does_not_resume_from_nan(
    configs: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: Any
) -> None:
    folder = tmp_path / "run"
    assert start("grpo", configs["grpo"] | {"max_steps": 2}, folder, capsys)[0] == 0
    (folder / "summary.json").unlink()
    for steps, said in ((2, "nor published"), (3, "neither resumed from")):
        settings = json.loads((folder / "settings.json").read_text())
        settings["settings"]["max_steps"] = steps  # 2: only to be published; 3: to be resumed
        (folder / "settings.json").write_text(json.dumps(settings))
        state = json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text()) | {"max_steps": steps}
        (folder / "checkpoint-2" / "trainer_state.json").write_text(json.dumps(state))
        runs.poison(folder / "checkpoint-2")
        (folder / "checkpoint-2" / "complete").write_text("")  # of an earlier version, which knew no sizes
        code, sentence = start("grpo", configs["grpo"] | {"max_steps": steps}, folder, capsys)
        assert code == 1 and said in sentence and "then begins again" in sentence


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("stage", ["sft", "grpo", "selection"])
def test_a_start_model_that_is_not_finite_is_refused(
    stage: str,
    value: float,
    configs: dict[str, dict[str, Any]],
    tiny_vlm_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    runs: Any,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_vlm_dir, model)
    name = "model.language_model.norm.weight"
    runs.poison(model, name, value)
    config = configs["sft" if stage == "sft" else "grpo"] | {"model": str(model)}
    if stage == "selection":
        config["prompt_selection"] = {"samples": 2, "max_right": 1, "candidates": 2}
    code, sentence = start("sft" if stage == "sft" else "grpo", config, tmp_path / "run", capsys)
    assert code == 1 and f"The weights of {model} hold NaN or infinity ({name})" in sentence
    assert not (tmp_path / "run" / "pass_rates.jsonl").exists()


@pytest.mark.parametrize("sampling", [{}, {"do_sample": False}])
def test_scores_that_are_not_finite_are_not_sampled_from(
    sampling: dict[str, Any],
    configs: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Finite weights, whose numbers overflow while step 2 generates: torch would raise, or write token 0."""
    generate = GRPOTrainer._generate_single_turn

    def overflowing(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 0:
            return generate(self, *args, **kwargs)
        head = self.model.lm_head.register_forward_hook(lambda _module, _args, output: output * NAN)
        try:
            return generate(self, *args, **kwargs)
        finally:
            head.remove()

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", overflowing)
    config = configs["grpo"] | {"generation_kwargs": sampling}
    sentence = end_of("grpo", config, tmp_path / "run", capsys, kept=1, again=not sampling)
    assert "at step 2 the scores of the next token" in sentence


def test_a_merge_that_overflows_is_not_published(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    from peft import get_peft_model

    from train.lora import lora_config
    from vlm.load import load_vlm

    vlm = load_vlm(tiny_vlm_dir, device="cpu")
    adapted: Any = get_peft_model(vlm.model, lora_config(Lora(r=2, alpha=2), vlm.model))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.fill_(1e20)  # the product of two is infinite
    adapted.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"merging it into .* makes .* infinite .* no model is published"):
        merge_adapter(tmp_path, str(tiny_vlm_dir), "float32")
    assert not (tmp_path / "model.safetensors").exists()


def test_an_infinite_reward_is_said(
    configs: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def infinite(_rollout: Rollout) -> Score:
        return Score(INF)

    monkeypatch.setitem(REWARDS, "repetition", infinite)
    code, sentence = start("grpo", configs["grpo"], tmp_path / "run", capsys)
    assert code == 1 and "At step 1 the reward 'repetition' is infinite" in sentence


def test_a_score_that_no_advantage_can_be_made_of_ends_the_run(
    configs: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One response that gets it would leave its whole group without an advantage."""
    (tmp_path / "mine.py").write_text("def large(rollout):\n    return 1e308 if rollout.token_count else 0.5\n")
    rewards = {"accuracy": 1.0, str(tmp_path / "mine.py") + ":large": 1.0}
    code, sentence = start("grpo", configs["grpo"] | {"rewards": rewards}, tmp_path / "run", capsys)
    assert (
        code == 1
        and "mine.py:large' failed: it returned 1e+308" in sentence
        and "from -1,000,000 to 1,000,000" in sentence
    )
    assert not (tmp_path / "run" / "summary.json").exists()


def test_gradients_of_deepspeed_and_of_float16_are_judged_by_their_own_signs() -> None:
    class Engine:
        is_deepspeed_enabled, norm, scale = True, 1.0, 65536.0
        args = type("Args", (), {"fp16": False})

        @property
        def accelerator(self) -> Any:
            scaler = None if self.is_deepspeed_enabled else type("S", (), {"get_scale": lambda _: self.scale})()
            return type("A", (), {"clip_grad_norm_": lambda *_: self.norm, "scaler": scaler})()

    engine: Any = Engine()
    lost = finite.FiniteTrainer._lost_gradient
    assert lost(engine) is None
    for norm in (NAN, INF, -1.0, torch.tensor(INF)):
        engine.norm = norm
        assert lost(engine) == "the gradient holds NaN or infinity"
    engine.norm = None
    assert lost(engine) is None
    engine.args.fp16, engine.norm = True, INF  # an overflow that its loss scale takes care of
    assert lost(engine) is None
    engine.is_deepspeed_enabled = False
    assert lost(engine) is None
    engine.scale = 2.0**-20
    assert "at every loss scale of float16" in str(lost(engine))
