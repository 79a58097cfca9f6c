"""GRPO with the zoom tool on a tiny model whose tokens are scripted: TRL's loop, the mask, the mass of each image, the tokens."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationMixin, LogitsProcessor

from configs.errors import ConfigError, UserError
from train import grpo_trainer
from train.grpo import load_grpo, run_grpo
from train.grpo_trainer import VisualGRPOTrainer
from train.zoom_rollout import ZoomTrainer, image_masses, own_positions
from vlm.load import load_vlm

pytestmark = pytest.mark.seam

CALL = '<think> A1 is small . </think><tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": %s}}\n</tool_call>'
ANSWER = "<think> A1 is red now , as it was at first . </think> \\boxed{%s}"


class Scripted(LogitsProcessor):
    """Writes given tokens, one list a row."""

    def __init__(self, rows: list[list[int]], start: int) -> None:
        self.rows, self.start = rows, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(self.rows):
            step = input_ids.shape[1] - self.start
            forced[row, ids[min(step, len(ids) - 1)]] = 0.0
        return forced


@pytest.fixture
def scripted(tool_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The turns that the responses of a step write: one list for each generation."""
    tokenizer = load_vlm(tool_vlm_dir, device="cpu").tokenizer
    turns: list[list[str]] = []
    original = GenerationMixin.generate

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "pixel_values" not in kwargs:  # the check of the probe, from text alone
            return original(self, *args, **kwargs)
        texts = turns.pop(0)
        ids = [tokenizer(text + "<|im_end|>", add_special_tokens=False)["input_ids"] for text in texts]
        assert len(ids) == len(kwargs["input_ids"])
        kwargs["logits_processor"] = [Scripted(ids, kwargs["input_ids"].shape[1])]
        return original(self, *args, **kwargs)

    monkeypatch.setattr(GenerationMixin, "generate", generate)
    yield turns


@pytest.fixture
def config(tool_vlm_dir: Path, pictures: Path, tmp_path: Path, runs: Any) -> dict[str, Any]:
    return {
        **runs.BASE,
        "model": str(tool_vlm_dir),
        "problems": str(pictures),
        "output_dir": str(tmp_path / "run"),
        "prompt_selection": None,
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 400,
        "max_steps": 1,
        "save_strategy": "no",
        "zoom": {"max_looks": 2},
        "rewards": {"accuracy": 1.0, "format": 0.2, "tool_cost": 0.1, "shuffled(tool_cost)": 0.1},
    }


def test_calls_are_answered_masked_and_learned_from(
    scripted: list[list[str]], config: dict[str, Any], tool_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch, runs: Any
) -> None:
    """Of four responses one zooms twice, one calls badly and then well, one calls and fails, one calls nothing."""
    scripted += [
        [CALL % "[0, 0, 500, 500]", CALL % "[9, 9, 1, 1]", CALL % "[0, 0, 999, 999]", ANSWER % "blue"],
        [CALL % "[0, 0, 250, 250]", CALL % "[0, 0, 500, 500]", ANSWER % "green"],
        [ANSWER % "red", ANSWER % "yellow"],
    ]
    batches: list[Any] = []
    original = VisualGRPOTrainer._generate_and_score_completions
    rewards = VisualGRPOTrainer._calculate_rewards
    rollouts: list[Any] = []

    def kept(self: Any, inputs: Any) -> Any:
        batches.append(original(self, inputs))
        return batches[-1]

    def recorded(self: Any, *args: Any) -> Any:
        masks, images = self.tool_masks, self.by_image
        rollouts.append((masks, images, self.shown, list(self.recorded), args[3]))
        return rewards(self, *args)

    monkeypatch.setattr(VisualGRPOTrainer, "_generate_and_score_completions", kept)
    monkeypatch.setattr(VisualGRPOTrainer, "_calculate_rewards", recorded)
    run_grpo(config)
    assert runs.unmoved(tool_vlm_dir, Path(config["output_dir"])) == []
    masks, images, shown, masses, ids = rollouts[0]
    tokenizer = load_vlm(tool_vlm_dir, device="cpu").tokenizer
    for row, mask in enumerate(masks):
        own = tokenizer.decode([one for one, keep in zip(ids[row], mask, strict=True) if keep])
        other = tokenizer.decode([one for one, keep in zip(ids[row], mask, strict=True) if not keep])
        assert "tool_response" not in own and "<|image_pad|>" not in own and "\\boxed" not in other
        kept_tokens = batches[0]["tool_mask"][row][: len(mask)].tolist()
        assert kept_tokens == mask
        assert len(masses[row][0]) == sum(map(len, own_positions(ids[row], mask, [ids[row][-1]])))
        assert masses[row][0].isfinite().all() and ((masses[row][0] > 0) & (masses[row][0] <= 1)).all()
    assert [len(one) for one in shown] == [2, 2, 1, 0]
    assert [one[0].error is None for one in shown[:3]] == [True, False, True]
    assert images[0].shape[1] == 3 and images[1].shape[1] >= 2
    first = images[0]
    assert (first[0, 1:] == 0).all() and (first[-1, 1:] > 0).all()  # the crops have no mass before they come
    total = first.sum(1)
    assert torch.allclose(total, masses[0][0], atol=1e-4)
    log = json.loads((Path(config["output_dir"]) / "log.jsonl").read_text().splitlines()[0])
    assert (
        log["zoom/calls"] == 5 / 4 and log["zoom/called"] == 3 / 4 and log["zoom/error_share"] == pytest.approx(1 / 6)
    )
    assert log["zoom/mass_crop_1"] > 0 and log["tools/call_frequency"] == 5 / 4


def test_a_result_that_does_not_fit_ends_the_response(
    scripted: list[list[str]], config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in TRL: the crop is taken back, and the others go on."""
    scripted += [[CALL % "[0, 0, 500, 500]"] * 3 + [ANSWER % "blue"]]
    lengths: list[Any] = []
    rewards = VisualGRPOTrainer._calculate_rewards

    def recorded(self: Any, *args: Any) -> Any:
        lengths.append(([len(one) for one in self.shown], [len(one) for one in args[3]]))
        return rewards(self, *args)

    monkeypatch.setattr(VisualGRPOTrainer, "_calculate_rewards", recorded)
    run_grpo({**config, "max_completion_length": 130})
    assert lengths[0][0] == [0] * 4 and max(lengths[0][1]) <= 130 and not scripted


def test_without_calls_a_step_is_that_of_training_without_the_tool(
    scripted: list[list[str]], config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, runs: Any
) -> None:
    """Bit for bit, where the prompts have the same tokens: here they do not show the tool."""
    monkeypatch.setattr(grpo_trainer, "tool_schemas", lambda: ())
    answers = [ANSWER % one for one in ("red", "green", "blue", "yellow")]
    folders = []
    for number, zoom in enumerate(({"max_looks": 2}, None)):
        scripted.append(list(answers))
        out = Path(config["output_dir"]) / str(number)
        out.parent.mkdir(exist_ok=True)
        run_grpo({**config, "zoom": zoom, "output_dir": str(out)})
        folders.append(out)
    assert runs.unmoved(*folders) == sorted(runs.weights(folders[0]))
    with_tool, without = (runs.column(folder, "loss") for folder in folders)
    assert with_tool == without


def test_a_model_without_tools_is_refused_before_training(config: dict[str, Any], tiny_vlm_dir: Path) -> None:
    with pytest.raises(UserError, match="writes no tool calls"):
        run_grpo({**config, "model": str(tiny_vlm_dir)})


@pytest.mark.parametrize(
    ("zoom", "why"),
    [({"max_looks": 0}, "max_looks"), ({"looks": 3}, "looks"), ({"min_box": "x"}, "min_box"), (4, "zoom")],
)
def test_the_config_of_the_tool_is_checked(config: dict[str, Any], zoom: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load_grpo({**config, "zoom": zoom})


def test_image_information_and_the_tool_exclude_each_other(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="image_information"):
        load_grpo({**config, "rewards": {"accuracy": 1.0, "image_information": 0.1}})


def test_own_positions_and_masses_of_images() -> None:
    assert own_positions([5, 9, 7, 7, 6, 9], [1, 1, 0, 0, 1, 1], [9]) == [[0], [4]]
    assert own_positions([5, 6], None, [9]) == [[0, 1]]
    token_mass = torch.tensor([[[[0.1, 0.2, 0.3]], [[0.5, torch.nan, torch.nan]]]])
    first, second = image_masses(token_mass, [[1, 8, 8, 1, 8], [8, 1]], 8)
    assert torch.allclose(first[0, :, 0], torch.tensor([0.3, 0.5]))
    assert second[0, 0, 0] == pytest.approx(0.3) and second[0, 1].isnan().all()


def test_the_loop_is_trls() -> None:
    for name in ("_tool_call_loop", "_get_tool_suffix_ids"):
        assert name in vars(ZoomTrainer) and hasattr(ZoomTrainer.__mro__[1], name)
