"""GRPO on a tiny random model: what moves, what each row is paid, where the mass comes from, and resuming."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from configs.errors import ConfigError, UserError
from reward.rewards import REWARDS, Rollout, Score
from train.config import PromptSelection
from train.grpo import load_grpo, main, run_grpo, usable
from train.grpo_trainer import VisualGRPOTrainer, conversation_text
from train.selection import measure_choice
from vlm.chat import encode, question_messages
from vlm.generate import Generation
from vlm.images import open_image
from vlm.load import VLM, load_vlm
from vlm.problem import read_problems
from vlm.thinking import reasoning_token_span

pytestmark = pytest.mark.seam


def toy(rollout: Rollout) -> Score:
    """A reward that differs between the responses of a random model: the share of letters before n."""
    letters = [letter for letter in rollout.text.lower() if letter.isalpha()]
    return Score(sum(letter < "n" for letter in letters) / max(len(letters), 1))


@pytest.fixture
def toy_reward() -> Iterator[None]:
    before = REWARDS["format"]
    REWARDS["format"] = toy
    yield
    REWARDS["format"] = before


@pytest.fixture(scope="module")
def config(tiny_vlm_dir: Path, pictures: Path, runs: Any) -> dict[str, Any]:
    return {
        **runs.BASE,
        "model": str(tiny_vlm_dir),
        "problems": str(pictures),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "prompt_selection": None,
        "rewards": {"accuracy": 0.0, "format": 1.0},
    }


@pytest.fixture
def trainer(config: dict[str, Any], tmp_path: Path) -> VisualGRPOTrainer:
    return make_trainer(config, tmp_path)


def make_trainer(config: dict[str, Any], folder: Path, **changes: Any) -> VisualGRPOTrainer:
    stage = load_grpo(config, {"output_dir": str(folder), **changes})
    return VisualGRPOTrainer(
        load_vlm(config["model"], device="cpu"), read_problems(config["problems"]), stage.options, stage.args
    )


@pytest.fixture(scope="module")
def finished(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps, 2 prompts a step of 6: it passes into its second epoch."""
    torch.set_num_threads(1)
    before, REWARDS["format"] = REWARDS["format"], toy
    folder = tmp_path_factory.mktemp("grpo") / "run"
    try:
        run_grpo(config, {"output_dir": str(folder), "max_steps": 4})
    finally:
        REWARDS["format"] = before
    return folder


def test_every_trainable_tensor_moves(finished: Path, tiny_vlm_dir: Path, runs: Any) -> None:
    assert runs.unmoved(tiny_vlm_dir, finished / "checkpoint-2") == []


def test_constant_rewards_move_nothing(config: dict[str, Any], tiny_vlm_dir: Path, tmp_path: Path, runs: Any) -> None:
    # A random model is never right, so accuracy is 0 in every row: a run that finishes cleanly and learns nothing.
    summary = run_grpo(
        config, {"output_dir": str(tmp_path), "max_steps": 2, "rewards": {"accuracy": 1.0, "format": 0.0}}
    )
    assert runs.unmoved(tiny_vlm_dir, tmp_path) == sorted(runs.weights(tiny_vlm_dir))
    assert summary["zero_std_share"] == 1.0


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    finished: Path, tmp_path: Path, toy_reward: None, runs: Any
) -> None:
    for step in (1, 3):  # in the first epoch, and at the start of the second
        folder = tmp_path / str(step)
        shutil.copytree(finished, folder)
        runs.kill_after(folder, step)
        run_grpo(json.loads((folder / "settings.json").read_text())["settings"], {"output_dir": str(folder)})
        for key in ("step", "loss", "reward", "entropy", "completions/mean_length"):
            assert runs.column(folder, key) == runs.column(finished, key)
        assert runs.unmoved(folder, finished) == sorted(runs.weights(finished))


def test_the_order_of_prompts_is_new_in_each_epoch(trainer: VisualGRPOTrainer) -> None:
    orders = []
    for epoch in (0.0, 0.9999999, 1.0, 2.0):
        trainer.state.epoch = epoch
        orders.append(list(trainer._get_train_sampler()))
    assert orders[0] != orders[1] == orders[2] != orders[3]
    assert [sorted(order) for order in orders] == [sorted(orders[0])] * 4


def test_the_log_names_everything(finished: Path) -> None:
    row = json.loads((finished / "log.jsonl").read_text().splitlines()[-1])
    names = [
        "loss",
        "reward",
        "entropy",
        "frac_reward_zero_std",
        "completions/mean_length",
        "completions/clipped_ratio",
    ]
    names += [f"rewards/{name}/mean" for name in REWARDS]  # also those of weight 0
    names += [
        f"correlation/{name}/{what}"
        for name in ("attention_ratio", "grounding_penalty")
        for what in ("length", "right")
    ]
    names += ["accuracy/right", "looks/mean", "constant_accuracy_share", "step_time", "seconds"]
    assert not [name for name in names if name not in row]
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 4 and summary["seconds_per_step"] > 0 and summary["entropy"] > 0
    assert 0 <= summary["zero_std_share_first_third"] <= 1


def test_the_saved_processor_is_the_one_that_was_loaded(finished: Path, tiny_vlm_dir: Path) -> None:
    saved, loaded = AutoProcessor.from_pretrained(finished), AutoProcessor.from_pretrained(tiny_vlm_dir)
    assert saved.image_processor.to_dict() == loaded.image_processor.to_dict()
    assert saved.image_processor.do_resize
    assert load_vlm(finished, device="cpu").model.config.model_type == "qwen3_vl"


def capture(trainer: VisualGRPOTrainer, indices: list[int]) -> tuple[list[Any], dict[str, Any]]:
    """Rollouts and TRL's batch for one generation of the given problems (4 responses each)."""
    rollouts: list[Any] = []
    make = trainer._rollout

    def kept(*args: Any) -> Rollout:
        rollouts.append(make(*args))
        return rollouts[-1]

    trainer._rollout = kept  # type: ignore[method-assign]
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"index": index} for index in indices for _ in range(4)])
    return rollouts, batch


def test_prompts_are_those_of_inference(trainer: VisualGRPOTrainer, pictures: Path) -> None:
    trainer.problems[0].question = "What is <|im_end|> or <|image_pad|> or <think> at A1?"
    problems = trainer.problems
    _, batch = capture(trainer, [0, 1])
    vlm = VLM(trainer.model, trainer.full_processor, "tiny")
    expected = encode(
        vlm,
        [question_messages(problems[index].question, 1) for index in (0, 1)],
        [[open_image(problems[index].images[0])] for index in (0, 1)],
    )
    image_pad = trainer.model.config.image_token_id
    grids = iter(batch["image_grid_thw"].prod(-1).tolist())
    for row in range(8):
        ids = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()].tolist()
        one = row // 4
        assert ids == expected["input_ids"][one][expected["attention_mask"][one].bool()].tolist()
        # As many image tokens as the images, in the size in which TRL's own call of the processor read them.
        assert ids.count(image_pad) == next(grids) // 4
    patches = expected["image_grid_thw"].prod(-1).tolist()
    assert torch.equal(batch["pixel_values"][: patches[0]], expected["pixel_values"][: patches[0]])
    assert torch.equal(batch["pixel_values"][-patches[1] :], expected["pixel_values"][-patches[1] :])


@pytest.mark.parametrize("rows", ["token", "predicting"])
def test_the_mass_of_the_generation_is_that_of_a_forward(config: dict[str, Any], tmp_path: Path, rows: str) -> None:
    trainer = make_trainer(config, tmp_path, attention_rows=rows, attention_layers="all")
    rollouts, batch = capture(trainer, [1, 0])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
    extra = {name: batch[name] for name in names if name in batch}
    width = batch["completion_ids"].shape[1]
    # The pass in which the mass is recorded with vLLM, in two chunks.
    with torch.no_grad():
        trainer._recording_pass(
            lambda: super(VisualGRPOTrainer, trainer)._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, width, batch_size=4, **extra
            ),
            ids,
            mask,
            width,
        )
    assert len(trainer.recorded) == len(rollouts) == 8
    for rollout, (mass, lift) in zip(rollouts, trainer.recorded, strict=True):
        assert mass.shape == (rollout.token_count,) == rollout.mass.shape
        # A generation never feeds its last token: in a response cut off at the limit that row is open.
        known = ~rollout.mass.isnan()
        assert known.sum() >= rollout.token_count - (rows == "token" and not rollout.finished)
        assert torch.allclose(rollout.mass[known], mass[known], atol=1e-5)
        assert torch.allclose(rollout.lift[known], lift[known], atol=1e-4)
        assert bool((mass[known] > 0).all() and (mass[known] <= 1).all())


def test_no_picture_token_is_sampled(trainer: VisualGRPOTrainer) -> None:
    config = trainer.model.config
    tokens = {config.image_token_id, config.video_token_id, config.vision_start_token_id}
    assert set(trainer.generation_config.suppress_tokens) == tokens


def test_pictures_and_text_alone_in_one_batch(trainer: VisualGRPOTrainer) -> None:
    trainer.problems[1].images = []
    rollouts, batch = capture(trainer, [0, 1])
    assert [rollout.n_images for rollout in rollouts] == [1] * 4 + [0] * 4
    assert batch["num_images"] == [1] * 4 + [0] * 4
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, batch)
    assert math.isfinite(loss.item())
    rollouts, batch = capture(trainer, [1, 1])
    assert "pixel_values" not in batch and all(rollout.n_images == 0 for rollout in rollouts)


@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_part_of_a_batch_may_be_text_alone(
    config: dict[str, Any], tmp_path: Path, toy_reward: None, lora: Any, runs: Any
) -> None:
    """One row a part, so every problem without an image is one; for the model, and for what the KL term compares it with."""
    rows = [json.loads(line) for line in (Path(config["problems"]) / "problems.jsonl").read_text().splitlines()[:2]]
    rows[0]["images"], rows[1]["images"] = [str(Path(config["problems"]) / "0.png")], []
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    batch = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "num_generations": 2}
    keys = {**config, **batch, "problems": str(tmp_path), "max_steps": 2, "lora": lora, "beta": 0.04}
    run_grpo(keys, {"output_dir": str(tmp_path / "run")})
    assert runs.column(tmp_path / "run", "step") == [1, 2]
    assert all(math.isfinite(loss) for loss in runs.column(tmp_path / "run"))


def test_rows_that_are_no_problems_are_left_out(
    config: dict[str, Any], tmp_path: Path, toy_reward: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training drops what --check says that it drops."""
    rows = [json.loads(line) for line in (Path(config["problems"]) / "problems.jsonl").read_text().splitlines()]
    for row in rows:
        row["images"] = [str(Path(config["problems"]) / image) for image in row["images"]]
    rows += [{**rows[0]}, {**rows[1], "id": "x", "domain": "colour"}]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_grpo(config, {"problems": str(tmp_path), "output_dir": str(tmp_path / "run"), "max_steps": 1})
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert data["problems"] == 6 and data["dropped"] == {"duplicate_id": 1, "malformed": 1}
    said = capsys.readouterr().out
    assert (
        "left out as duplicate_id: 1 (row 7: the id 'p0' occurs twice; ids must be unique)" in said
        and "row 8: field 'domain'" in said
    )


def scripted(trainer: VisualGRPOTrainer, texts: list[str], masses: list[list[float]]) -> torch.Tensor:
    """TRL's advantages for responses given by hand: a group of 4 for problem 0."""
    end = trainer.eos_token_ids[0]
    tokenizer = trainer.reader.tokenizer
    ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts]

    def turn(*args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        trainer.recorded = []
        for row, values in zip(ids, masses, strict=True):
            mass = torch.tensor(values).repeat_interleave(len(row))[:: len(values)][: len(row) - 1]
            trainer.recorded.append((mass, mass * 3))
        return ids, None

    trainer._generate_single_turn = turn  # type: ignore[method-assign]
    trainer.model.train()
    return trainer._generate_and_score_completions([{"index": 0}] * 4)["advantages"]


LONG = "<think> A1 is red . Let me look again . A1 is red . </think> \\boxed{red}"
SHORT = "<think> red . </think> \\boxed{red}"
WRONG = LONG.replace("boxed{red}", "boxed{blue}")
FALLING, LEVEL, RISING = [0.4, 0.2], [0.3, 0.3], [0.2, 0.4]


def test_an_unjudged_row_gets_no_advantage_from_the_attention_term(config: dict[str, Any], tmp_path: Path) -> None:
    trainer = make_trainer(config, tmp_path, rewards={"accuracy": 1.0, "attention_ratio": 1.0})
    given = scripted(trainer, [LONG, SHORT, LONG, LONG], [FALLING, FALLING, LEVEL, RISING])
    assert given[1].item() == pytest.approx(0.0, abs=1e-5)  # reasoning under 8 tokens
    assert given[0] < given[2] < given[3]
    mixed = scripted(trainer, [LONG, SHORT, WRONG, WRONG], [FALLING, FALLING, RISING, RISING])
    assert mixed[1].item() == pytest.approx(mixed[0].item(), abs=1e-5)  # what an average right row has
    assert mixed[2] == mixed[3] < mixed[0]


def test_the_grounding_penalty_orders_right_answers_and_never_drops_one_below_a_wrong_one(
    config: dict[str, Any], tmp_path: Path
) -> None:
    trainer = make_trainer(config, tmp_path, rewards={"accuracy": 1.0, "grounding_penalty": 100.0})
    given = scripted(trainer, [LONG, LONG, WRONG, WRONG], [FALLING, RISING, RISING, FALLING])
    assert given[1] > given[0] > given[2] == given[3]


def test_a_constant_group_can_drop_its_attention_term(config: dict[str, Any], tmp_path: Path) -> None:
    rewards = {"accuracy": 1.0, "attention_ratio": 1.0}
    trainer = make_trainer(config, tmp_path, rewards=rewards, drop_in_constant_groups=True)
    assert scripted(trainer, [LONG] * 4, [FALLING, LEVEL, RISING, RISING]).tolist() == [0.0] * 4
    varied = scripted(trainer, [LONG, LONG, LONG, WRONG], [FALLING, LEVEL, RISING, RISING])
    assert len(set(varied.tolist())) == 4


SPANS = [
    ("<think> one two </think> \\boxed{3}", "one two"),
    ("one two </think> \\boxed{3}", "one two"),
    ("say <think> one </think> then <think> two </think>", "one"),
    ("<think></think> x", ""),
    ("no thought", None),
    ("<think> never closed", None),
]


@pytest.mark.parametrize(("text", "inside"), SPANS)
def test_the_thought_is_strictly_inside(trainer: VisualGRPOTrainer, text: str, inside: str | None) -> None:
    tokenizer = trainer.reader.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    span = reasoning_token_span(tokenizer, ids)
    if inside is None:
        assert span is None
    else:
        assert span is not None
        assert tokenizer.decode(ids[span[0] : span[1]]).strip() == inside
        assert "think>" not in tokenizer.decode(ids[span[0] : span[1]])


def test_bad_settings_end_before_training(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="its layers are 0 to 3"):
        run_grpo(config, {"output_dir": str(tmp_path / "a"), "attention_layers": [9]})
    with pytest.raises(UserError, match="6 prompts are left of 6, but a step takes 8"):
        run_grpo(config, {"output_dir": str(tmp_path / "b"), "per_device_train_batch_size": 32})
    with pytest.raises(ConfigError, match="vllm_importance_sampling_correction"):
        make_trainer(config, tmp_path, use_vllm=True, vllm_importance_sampling_correction=False)
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert "There is no config at" in capsys.readouterr().err


def test_unusable_problems_are_counted(config: dict[str, Any], tmp_path: Path) -> None:
    vlm = load_vlm(config["model"], device="cpu")
    problems = read_problems(config["problems"])
    problems[0].images = ["absent.png"]
    problems[1].domain, problems[1].answer = "number", "many"
    problems[2].question = "why " * 600
    options = load_grpo(config, {"output_dir": str(tmp_path), "max_prompt_tokens": 200}).options
    kept, dropped = usable(problems, vlm, options)
    assert [problem.id for problem in kept] == ["p3", "p4", "p5"]
    assert dropped == {"missing_picture": 1, "unparsable_answer": 1, "over_long": 1}


# Prompt selection


class Scripted:
    """Stands in for ``vlm.generate.generate``: problem p<i> is right in i of its samples; looks in every second one."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(
        self, vlm: Any, conversations: Any, images: Any, *, seeds: list[int], **kwargs: Any
    ) -> list[Generation]:
        self.calls.append(len(conversations))
        written, seen = [], {}
        for conversation, pictures in zip(conversations, images, strict=True):
            colour = pictures[0].getpixel((0, 0))
            index = self.index[colour, pictures[0].size]
            sample = seen[index] = seen.get(index, -1) + 1
            answer = self.answers[index] if sample < index else "no idea"
            look = "Let me look again ." if sample % 2 else ""
            written.append(Generation(f"<think> so . {look} </think> \\boxed{{{answer}}}", [1, 2, 3], True, 10))
            del conversation
        assert len(set(seeds)) == len(seeds)
        return written

    index: dict[Any, int]
    answers: list[str]


@pytest.fixture
def sampler(monkeypatch: pytest.MonkeyPatch, pictures: Path) -> Scripted:
    fake = Scripted()
    problems = read_problems(pictures)
    opened = [open_image(problem.images[0]) for problem in problems]
    fake.index = {(image.getpixel((0, 0)), image.size): number for number, image in enumerate(opened)}
    fake.answers = [problem.answer for problem in problems]
    monkeypatch.setattr("reward.sampling.generate", fake)
    return fake


def test_prompts_are_chosen_by_pass_rate(
    config: dict[str, Any], tmp_path: Path, sampler: Scripted, toy_reward: None
) -> None:
    chosen = {"samples": 4, "min_right": 1, "max_right": 3, "batch_size": 8}
    changes = {"prompt_selection": chosen, "output_dir": str(tmp_path / "run"), "max_steps": 1}
    run_grpo(config, changes)
    rates = [json.loads(line) for line in (tmp_path / "run" / "pass_rates.jsonl").read_text().splitlines()]
    assert {row["id"]: row["right"] for row in rates} == {f"p{index}": min(index, 4) for index in range(6)}
    assert [sample["looks"] for sample in rates[0]["samples"]] == [0, 1, 0, 1]
    assert set(rates[0]["samples"][0]) == {"right", "looks", "tokens", "finished"}
    assert json.loads((tmp_path / "run" / "data.json").read_text())["prompts"] == 3
    choice = json.loads((tmp_path / "run" / "choice.json").read_text())
    assert choice["chosen"] == 3 and choice["samples"] == 24 and choice["look_share"] == 0.5
    assert choice["sampled_accuracy"]["n"] == 6
    # Right in the first i samples, looking in the odd ones: not looking is right more often.
    assert choice["difference"]["value"] < 0 and choice["looking_pays"] is not True
    assert sampler.calls == [8, 8, 8]
    # Killed after the first batch: only the rest is sampled again.
    other = tmp_path / "killed"
    other.mkdir()
    shutil.copy(tmp_path / "run" / "settings.json", other)
    kept = (tmp_path / "run" / "pass_rates.jsonl").read_text().splitlines(keepends=True)[:2]
    (other / "pass_rates.jsonl").write_text("".join(kept) + kept[0][:30])
    run_grpo(config, {**changes, "output_dir": str(other)})
    assert sampler.calls[3:] == [8, 8]
    assert json.loads((other / "choice.json").read_text()) == choice
    # Sampled with other settings: nothing of it is used.
    third = tmp_path / "third"
    third.mkdir()
    for name in ("settings.json", "pass_rates.jsonl"):
        shutil.copy(tmp_path / "run" / name, third)
    run_grpo(config, {**changes, "output_dir": str(third), "prompt_selection": {**chosen, "temperature": 0.5}})
    assert sampler.calls[5:] == [8, 8, 8]


def test_selection_stops_when_it_has_enough(
    config: dict[str, Any], tmp_path: Path, sampler: Scripted, toy_reward: None
) -> None:
    chosen = {"samples": 4, "min_right": 0, "max_right": 4, "batch_size": 8, "prompts": 2}
    run_grpo(config, {"prompt_selection": chosen, "output_dir": str(tmp_path), "max_steps": 1})
    assert sampler.calls == [8]
    assert json.loads((tmp_path / "data.json").read_text())["prompts"] == 2


def test_nothing_in_range_is_said_with_the_remedy(config: dict[str, Any], tmp_path: Path, sampler: Scripted) -> None:
    with pytest.raises(UserError, match="No prompt is correct in 8 to 8 of 8 samples"):
        run_grpo(config, {"output_dir": str(tmp_path), "prompt_selection": {"min_right": 8, "max_right": 8}})


def sample(right: bool, looks: int) -> dict[str, Any]:
    return {"right": right, "looks": looks, "tokens": 10 + 20 * looks, "finished": True}


def test_the_choice_is_measured_within_problems() -> None:
    # Looking pays in each problem, but hard problems look more: over all samples looking would seem to harm.
    easy = {"id": "e", "right": 7, "samples": [sample(True, 0)] * 6 + [sample(False, 0), sample(True, 1)]}
    hard = {"id": "h", "right": 2, "samples": [sample(False, 0)] + [sample(True, 1)] * 2 + [sample(False, 1)] * 5}
    choice = measure_choice([easy, hard] * 10, PromptSelection())
    assert choice["difference"]["value"] == pytest.approx((1 - 6 / 7 + 2 / 7) / 2)
    assert choice["looking_pays"] is True
    assert choice["difference"]["n"] == 20 and choice["looking"]["tokens"] == 30
    assert choice["right_of_samples"]["7"] == 10
    few = measure_choice([easy, hard], PromptSelection())
    assert few["difference"]["ci95"] is None and few["looking_pays"] is None  # two problems pay nothing
    assert few["difference"]["why_no_interval"] == "2 independent values: an interval needs 5"
    one_image = measure_choice([easy, hard] * 10, PromptSelection(), {"e": "image", "h": "image"})
    assert one_image["looking_pays"] is None and one_image["difference"]["clusters"] == 1
    empty = measure_choice([], PromptSelection())
    assert empty["sampled_accuracy"] == {"value": None, "ci95": None, "n": 0} and empty["looking_pays"] is None


def test_logged_conversations_are_text() -> None:
    parts = question_messages("What is at A1?", 2, style="direct")[-1]["content"]
    turns = [{"role": "system", "content": "Look."}, {"role": "user", "content": parts}]
    said = conversation_text(turns)
    assert said.startswith("Look.\n<image><image>") and "What is at A1?" in said
    assert conversation_text(said) == said
