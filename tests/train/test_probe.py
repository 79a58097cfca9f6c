"""The probe names planted hacks without a step; a user's reward, the YAML's composition and the image's information."""

import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from configs.errors import ConfigError, UserError
from reward.aggregate import Term
from train.data import reader_of
from train.grpo import load_grpo
from train.grpo_trainer import VisualGRPOTrainer
from train.information import information, mismatched_pairs
from train.probe import run_probe
from train.prompts import problem_messages
from vlm.images import open_image
from vlm.load import load_vlm
from vlm.problem import Problem, read_problems, write_problems
from vlm.scoring import score_responses

DOC = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
PLANTED = """
def wordy(rollout):
    return rollout.token_count / 50

def flat(rollout):
    return 0.05 / float(rollout.mass[0])
"""


@pytest.fixture
def keys(tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, runs: Any) -> dict[str, Any]:
    """A config whose six problems all have the answer red, and whose folder holds the user's files."""
    problems = [p.model_copy(update={"answer": "red"}) for p in read_problems(pictures)]
    write_problems(problems, tmp_path / "problems")
    (tmp_path / "planted.py").write_text(PLANTED)
    return {
        **runs.BASE,
        "model": str(tiny_vlm_dir),
        "problems": str(tmp_path / "problems"),
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "prompt_selection": None,
    }


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four responses are right; length, first half and second half vary, each on its own."""
    rng = random.Random(0)

    def turn(self: VisualGRPOTrainer, prompt_ids: list[Any], *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        written = []
        self.recorded = []
        for index in range(len(prompt_ids)):
            filler = "A1 is red . " * rng.randint(2, 9)
            text = f"<think> {filler}</think> \\boxed{{{'blue' if index % 4 == 3 else 'red'}}}"
            ids = self.reader.tokenizer(text, add_special_tokens=False)["input_ids"]
            half = len(ids) // 2
            mass = torch.tensor([rng.uniform(0.1, 0.4)] * half + [rng.uniform(0.05, 0.1)] * (len(ids) - half))
            self.recorded.append((mass, mass * 3))
            written.append([*ids, self.eos_token_ids[0]])
        return written, None

    monkeypatch.setattr(VisualGRPOTrainer, "_generate_single_turn", turn)


def test_planted_hacks_are_named_without_a_step(
    keys: dict[str, Any], scripted: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: Any
) -> None:
    rewards = {"accuracy": 1.0, "planted.py:wordy": {"weight": 2.0, "gate": "right"}}
    rewards["planted.py:flat"] = {"weight": 1.0, "gate": "right", "std": 0.6}
    config = tmp_path / "grpo.yaml"
    config.write_text(yaml.safe_dump({**keys, "rewards": rewards}))
    report = run_probe(config)
    kinds = {(warning["term"], warning["kind"]) for warning in report["warnings"]}
    assert {("planted.py:wordy", "length"), ("planted.py:flat", "flatness")} <= kinds
    assert ("planted.py:wordy", "flatness") not in kinds and ("planted.py:flat", "length") not in kinds
    assert report["groups"] == 6 and report["rows"] == 24 and report["accuracy"] == 0.75
    assert "expect longer text" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["probe.json"]  # no checkpoint, no model, no log


def test_the_composition_of_the_yaml(keys: dict[str, Any], tmp_path: Path) -> None:
    rewards: dict[str, Any] = {"accuracy": 1, "attention_ratio": {"weight": 1.0, "gate": "none", "std": 0.1}}
    trainer_keys = {**keys, "rewards": rewards | {"shuffled(attention_ratio)": 0.5}}
    stage = load_grpo(trainer_keys)
    trainer = VisualGRPOTrainer(load_vlm(keys["model"]), read_problems(keys["problems"]), stage.options, stage.args)
    assert trainer.composition["attention_ratio"] == Term(1.0, "none", 0.1)
    weights = dict(zip(trainer.terms, stage.args.reward_weights, strict=True))
    assert {name: weight for name, weight in weights.items() if weight} == {
        "accuracy": 1.0,
        "attention_ratio": 1.0,
        "shuffled(attention_ratio)": 0.5,
    }


BAD = [
    ({"acuracy": 1.0}, "did you mean 'accuracy'"),
    ({"accuracy": 1.0, "length": {"wieght": 1.0}}, "Unknown key 'rewards.length.wieght'"),
    ({"accuracy": 1.0, "length": {"weight": 1.0, "gate": "wrong"}}, "wanted|known|unknown"),
    ({"accuracy": 1.0, "length": {"weight": 1.0, "std": 0.0}}, r"std of 'length' must be from 1e-12 to 1,000,000"),
    ({"accuracy": 1.0, "length": {"weight": 1.0, "std": float("nan")}}, "std of 'length' must be from"),
    ({"accuracy": 1e300}, r"weight of 'accuracy' must be 0, or from 1e-12 to 1,000,000 .* found 1e\+300"),
    ({"accuracy": 1.0, "format": -1e39}, "weight of 'format'"),
    ({"accuracy": float("inf")}, "weight of 'accuracy'"),
    ({"accuracy": 1e-50}, "weight of 'accuracy'"),  # 0 in float32: nothing to learn from
    ({"accuracy": {"weight": 1.0, "gate": "right"}}, "Set only the weight of 'accuracy'"),
    ({"accuracy": 1.0, "absent.py:f": 1.0}, "there is no file"),
    ({"accuracy": 1.0, "shuffled(accuracy)": 1.0}, "Unknown reward"),
]


@pytest.mark.parametrize(("rewards", "said"), BAD)
def test_a_bad_composition_is_refused(keys: dict[str, Any], rewards: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_grpo({**keys, "rewards": rewards})


@pytest.mark.parametrize("floor", [0.0, -1.0, float("nan"), float("inf")])
def test_a_lift_floor_that_cannot_be_divided_by_is_refused(keys: dict[str, Any], floor: float) -> None:
    with pytest.raises(ConfigError, match="'lift_floor' must be a number above 0"):
        load_grpo({**keys, "lift_floor": floor})


def test_claims_without_facts_or_responder_are_refused(keys: dict[str, Any]) -> None:
    stage = load_grpo({**keys, "rewards": {"accuracy": 1.0, "process_claims": 0.2}})
    with pytest.raises(UserError, match="Name a responder"):
        VisualGRPOTrainer(load_vlm(keys["model"]), read_problems(keys["problems"]), stage.options, stage.args)


def test_the_documented_example_runs(keys: dict[str, Any], scripted: None, tmp_path: Path) -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", DOC, re.DOTALL) if "def brief" in block)
    config = next(block for block in re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL) if "my_grpo.yaml" in block)
    (tmp_path / "my_rewards.py").write_text(code)
    (tmp_path / "my_grpo.yaml").write_text(config + yaml.safe_dump(keys))
    report = run_probe(tmp_path / "my_grpo.yaml")
    assert report["terms"]["my_rewards.py:brief"]["weight"] == 0.1
    assert report["terms"]["my_rewards.py:brief"]["advantage_share"] > 0


def test_information_is_a_difference_of_forwards(keys: dict[str, Any], tmp_path: Path) -> None:
    stage = load_grpo({**keys, "rewards": {"accuracy": 1.0, "image_information": 0.0}, "blank_pictures": True})
    trainer = VisualGRPOTrainer(load_vlm(keys["model"]), read_problems(keys["problems"]), stage.options, stage.args)
    assert trainer._example(0, {})["images"][0].getpixel((5, 5)) == (127, 127, 127)
    trainer.options.blank_pictures = False
    rollouts: list[Any] = []
    make = trainer._rollout

    def kept(*args: Any) -> Any:
        rollouts.append(make(*args))
        return rollouts[-1]

    trainer._rollout = kept  # type: ignore[method-assign]
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"index": index} for index in (0, 1) for _ in range(4)])
    width = batch["completion_ids"].shape[1]
    names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    with torch.no_grad():
        expected = super(VisualGRPOTrainer, trainer)._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            width,
            **{name: batch[name] for name in names if name in batch},
        )[0]
    problems = [trainer.problems[index] for index in (0, 1) for _ in range(4)]
    turns = [problem_messages(problem, "think", trainer.reader) for problem in problems]
    responses = [
        row[: rollout.token_count].tolist() for row, rollout in zip(batch["completion_ids"], rollouts, strict=True)
    ]
    images = [[open_image(path) for path in problem.images] for problem in problems]
    device = torch.device("cpu")
    found = score_responses(trainer.reader, turns, images, responses, model=trainer.model).log_p
    for row, (values, rollout) in enumerate(zip(found, rollouts, strict=True)):
        assert torch.allclose(values, expected[row, : len(values)], atol=1e-4)
        assert rollout.information.shape == rollout.information_blank.shape == (rollout.token_count,)
        assert rollout.information.abs().max() > 1e-6
    # Its own image in place of its own image says nothing.
    rows: list[tuple[Problem, Problem | None]] = [(problem, problem) for problem in problems[:2]]
    same = information(trainer.model, trainer.reader, rows, turns[:2], responses[:2], device)
    assert all(torch.equal(other, torch.zeros_like(other)) for other, _ in same if other is not None)
    none = information(trainer.model, trainer.reader, [(problems[0], None)], turns[:1], responses[:1], device)
    assert none[0][0] is None and none[0][1] is not None


def test_dropout_of_a_model_in_training_does_not_reach_image_information(keys: dict[str, Any], tmp_path: Path) -> None:
    """The own image against itself says nothing, whatever the training's dropout is; and training goes on as it was."""
    peft = pytest.importorskip("peft")
    vlm = load_vlm(keys["model"])
    settings = peft.LoraConfig(r=4, lora_dropout=0.3, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(vlm.model, settings).train()
    model.base_model.model.model.visual.eval()  # a frozen part may be in evaluation mode: it stays so
    modes = {name: module.training for name, module in model.named_modules()}
    problems, reader = read_problems(keys["problems"])[:2], reader_of(vlm)
    turns = [problem_messages(problem, "think", reader) for problem in problems]
    ids = vlm.tokenizer("A1 is red . " * 5, add_special_tokens=False)["input_ids"]
    rows: list[tuple[Problem, Problem | None]] = [(problem, problem) for problem in problems]
    found = information(model, reader, rows, turns, [ids, ids], torch.device("cpu"))
    assert all(torch.equal(own, torch.zeros(len(ids))) for own, _ in found if own is not None)
    assert {name: module.training for name, module in model.named_modules()} == modes
    with pytest.raises(IndexError):
        information(model, reader, rows, turns, [[10**9], ids], torch.device("cpu"))
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_pictures_are_borrowed_within_the_family(pictures: Path) -> None:
    problems = read_problems(pictures)
    assert set(mismatched_pairs(problems)) == set(range(6)) and all(
        number != other for number, other in mismatched_pairs(problems).items()
    )
    for problem, family in zip(problems, "aabbbc", strict=True):
        problem.meta["family"] = family
    found = mismatched_pairs(problems)
    assert found[0] == 1 and found[1] == 0 and {found[2], found[3], found[4]} == {2, 3, 4} and found[5] != 5
    problems[5].images = []
    assert 5 not in mismatched_pairs(problems)
