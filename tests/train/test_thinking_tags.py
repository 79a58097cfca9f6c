"""Training with a tokenizer whose thinking tags are special tokens, and with templates that open the span themselves."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from reward.rewards import Rollout
from train.completion_log import mass_by_sentence, reward_sums
from train.data import IGNORED, Collator, read_rows
from train.grpo import load_grpo
from train.grpo_trainer import VisualGRPOTrainer
from train.sft import run_sft
from vlm.generate import generate
from vlm.images import open_image
from vlm.load import VLM, load_vlm
from vlm.problem import read_problems

pytestmark = pytest.mark.seam

GOOD = "<think> A1 is red . Let me look again . A1 is red . </think> \\boxed{red}"
WRONG = GOOD.replace("boxed{red}", "boxed{blue}")
MARKS = ("<think>", "</think>")


@pytest.fixture(scope="module")
def special_dir(tiny_vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with thinking tags that are special tokens."""
    folder = tmp_path_factory.mktemp("special")
    for file in tiny_vlm_dir.iterdir():
        text = file.read_bytes()
        if file.name == "tokenizer.json":
            data = json.loads(text)
            for token in data["added_tokens"]:
                token["special"] = token["special"] or token["content"] in MARKS
            text = json.dumps(data).encode()
        (folder / file.name).write_bytes(text)
    tokenizer = load_vlm(folder, device="cpu").tokenizer
    ids = tokenizer.convert_tokens_to_ids(list(MARKS))
    assert all(tokenizer.added_tokens_decoder[number].special for number in ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""  # they would be lost
    return folder


class Dictated(LogitsProcessor):
    """The model may choose only the next token of a given text; row by row, from the end of the prompt."""

    def __init__(self, texts: list[list[int]], end: int) -> None:
        self.texts, self.end, self.start = texts, end, 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.start = self.start or input_ids.shape[1]
        step = input_ids.shape[1] - self.start
        forced = torch.full_like(scores, float("-inf"))
        for row, text in enumerate(self.texts):
            forced[row, text[step] if step < len(text) else self.end] = 0.0
        return forced  # type: ignore[return-value]


def step_of(folder: Path, pictures: Path, out: Path, monkeypatch: pytest.MonkeyPatch, runs: Any) -> dict[str, Any]:
    """One step of GRPO on the attention of dictated responses: what was logged, and the names of weights that moved."""
    keys = {
        **runs.BASE,
        "model": str(folder),
        "problems": str(pictures),
        "output_dir": str(out),
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 32,
        "max_steps": 1,
        "prompt_selection": None,
        "log_completions": True,
        "num_completions_to_print": 1,
        "rewards": {"accuracy": 1.0, "attention_ratio_clipped": 0.5, "grounding_penalty": 0.5, "repetition": 0.1},
    }
    stage = load_grpo(keys)
    vlm = load_vlm(folder, device="cpu")
    problems = [problem for problem in read_problems(pictures) if problem.answer == "red"]
    trainer = VisualGRPOTrainer(vlm, problems, stage.options, stage.args)
    texts = [vlm.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (GOOD, WRONG, GOOD, WRONG)]
    dictated = LogitsProcessorList([Dictated(texts, trainer.eos_token_ids[0])])
    original = vlm.model.generate

    def generate_dictated(*args: Any, **more: Any) -> Any:
        return original(*args, **{"logits_processor": dictated, **more})  # the probe's check brings its own

    monkeypatch.setattr(vlm.model, "generate", generate_dictated, raising=False)
    before = {name: weight.clone() for name, weight in vlm.model.named_parameters()}
    trainer.train()
    moved = [name for name, weight in vlm.model.named_parameters() if not torch.equal(weight, before[name])]
    logged = {key: value for row in trainer.state.log_history for key, value in row.items()}
    completions = pandas.read_parquet(out / "completions" / "completions_00001.parquet")
    return {"moved": moved, "count": len(before), "logged": logged, "completions": completions}


def test_the_attention_of_special_tags_is_judged_as_of_others(
    special_dir: Path, tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Any
) -> None:
    found = {}
    for name, folder in (("special", special_dir), ("added", tiny_vlm_dir)):
        found[name] = step_of(folder, pictures, tmp_path / name, monkeypatch, runs)
        logged = found[name]["logged"]
        for term in ("attention_ratio", "attention_ratio_clipped", "attention_late_mass", "grounding_penalty"):
            assert logged[f"{term}/unjudged"] == 0.0, name
        assert logged["accuracy/right"] == 0.5 and logged["looks/mean"] == 1.0
        assert 0 < logged["rewards/attention_ratio_clipped/mean"] <= 0.5
        assert len(found[name]["moved"]) == found[name]["count"]
    same = {
        key: value for key, value in found["added"]["logged"].items() if "time" not in key and "per_second" not in key
    }
    assert {key: found["special"]["logged"][key] for key in same} == pytest.approx(same, nan_ok=True)


def test_the_log_of_completions_has_tags_problem_reward_and_the_mass_of_each_sentence(
    special_dir: Path,
    tiny_vlm_dir: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runs: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables = []
    for name, folder in (("special", special_dir), ("added", tiny_vlm_dir)):
        tables.append(step_of(folder, pictures, tmp_path / name, monkeypatch, runs)["completions"])
        table = tables[-1]
        assert [text.replace(" ", "") for text in table["completion"]] == [
            t.replace(" ", "") for t in (GOOD, WRONG) * 2
        ]
        assert set(table["problem"]) <= {one.id for one in read_problems(pictures)}
        paid = 1.0 * table["accuracy"] + 0.5 * table["attention_ratio_clipped"] + 0.5 * table["grounding_penalty"]
        assert (paid + 0.1 * table["repetition"]).tolist() == pytest.approx(table["reward"].tolist())
        for text, said in zip(table["completion"], table["sentences"], strict=True):
            rows = json.loads(said)
            parts = [text[start:end].replace(" ", "") for start, end, _, _ in rows]
            assert parts[:3] == ["A1isred.", "Letmelookagain.", "A1isred."] and "boxed" in parts[-1]
            assert all(0 < mass < 1 and lift > 0 for _, _, mass, lift in rows)
            assert len({mass for _, _, mass, _ in rows}) > 1
    assert tables[0]["sentences"].tolist() == tables[1]["sentences"].tolist()
    printed = capsys.readouterr().out
    assert "[[" not in printed and re.search(r"0\.\d\d", printed)  # the table on the screen has the masses alone


def test_a_row_that_nothing_judged_has_no_reward() -> None:
    none = float("nan")
    rewards, weights = torch.tensor([[1.0, none], [none, none]]), torch.tensor([2.0, 1.0])
    assert reward_sums(rewards, weights) == pytest.approx([2.0, none], nan_ok=True)
    empty = Rollout(text="", domain="text", gold="red")
    assert mass_by_sentence(empty, [], None) == "[]" and str(mass_by_sentence(empty, [], None)) == ""


def test_the_cold_start_learns_special_tags(special_dir: Path, pictures: Path, tmp_path: Path, runs: Any) -> None:
    vlm = load_vlm(special_dir, device="cpu")
    rows, dropped = read_rows(pictures / "rows.jsonl", vlm)
    assert len(rows) == 6 and not dropped.counts
    opening, closing = vlm.tokenizer.convert_tokens_to_ids(list(MARKS))
    for row in rows[1:]:
        ids, labels = Collator(rows, vlm).completion(row)
        assert labels[0] == ids[0] == opening and labels.count(closing) == 1 and IGNORED in labels
    size = {"per_device_train_batch_size": 6, "max_steps": 25, "learning_rate": 2e-3, "save_strategy": "no"}
    keys = {"model": str(special_dir), "dataset": str(pictures / "rows.jsonl"), "output_dir": str(tmp_path / "run")}
    run_sft({**runs.BASE, **keys, **size})
    trained = load_vlm(tmp_path / "run", device="cpu")
    row = rows[1]
    written = generate(trained, [row.prompt], [[open_image(row.images[0])]], max_new_tokens=40)[0]
    assert written.text.startswith("<think>") and "</think>" in written.text  # and not lost in decoding


@pytest.fixture
def opened(tiny_vlm_dir: Path) -> Iterator[VLM]:
    """The tiny model with a template that opens the thinking span, as those of models that think by default."""
    vlm = load_vlm(tiny_vlm_dir, device="cpu")
    vlm.processor.chat_template = vlm.processor.chat_template.replace("|>assistant\n", "|>assistant\n<think>\n")
    yield vlm


def test_rows_go_on_where_the_template_ends(opened: VLM, pictures: Path) -> None:
    plain = [json.loads(line) for line in (pictures / "rows.jsonl").read_text().splitlines()]
    rows, _ = read_rows(pictures / "rows.jsonl", opened)
    opening, closing = opened.tokenizer.convert_tokens_to_ids(list(MARKS))
    for row, old in zip(rows, plain, strict=True):
        words = [row.completion[start:end] for start, end in row.masked]
        assert words == [old["completion"][start:end] for start, end in old["masked"]]
        batch = Collator([row], opened)([{"index": 0}])
        ids = batch["input_ids"][0].tolist()
        assert ids.count(opening) == ids.count(closing) == 1  # opened by the prompt, closed by the response
        learned = batch["labels"][0] != IGNORED
        assert opening not in batch["labels"][0] and closing in batch["input_ids"][0][learned]
    assert rows[0].mode == "direct" and rows[0].completion.startswith("\n</think>\n\n\\boxed{")
    assert rows[1].completion.startswith("A1 is ")
