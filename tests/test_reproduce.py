"""docs/reproduce.md: its training commands pass --check on a small model, and its tables are those of the code."""

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.reproduce import Assumptions, cost_rows, gpu_hours, planned, result_rows
from configs.errors import UserError
from configs.overrides import parse_arguments, read_config
from configs.schema import parse_config
from data_construction.build import BuildConfig
from eval.benchmarks import BENCHMARKS
from eval.runner import Answer
from train.grpo import main as grpo_main
from train.sft import main as sft_main
from vlm.chat import INSTRUCTIONS, question_messages

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reproduce.md").read_text()
COMMANDS = [
    shlex.split(line.split("  #")[0])
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
TRAINING = [words for words in COMMANDS if any(word.startswith("train/") for word in words)]


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A problem set and cold-start rows, enough for a step on eight GPUs."""
    folder = tmp_path_factory.mktemp("data")
    rows, problems = [], []
    for number in range(64):
        name, question = f"{number % 8}.png", f"Which colour is image {number % 8}?"
        if number < 8:
            Image.new("RGB", (96, 96 + 8 * number), (200, 20 * number, 30)).save(folder / name)
        prompt = question_messages(question, 1)
        completion = "<think> It is red . </think> \\boxed{red}"
        rows.append({"prompt": prompt, "completion": completion, "images": [name], "masked": [], "mode": "think"})
        about = {"source": "own", "domain": "text", "images": [name], "question": question, "answer": "red"}
        problems.append({"id": f"p{number}", **about})
    (folder / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return folder


@pytest.mark.parametrize("words", TRAINING, ids=" ".join)
def test_a_training_command_passes_check_on_a_small_model(
    words: list[str],
    data: Path,
    tiny_vlm_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    (at,) = [place for place, word in enumerate(words) if word.startswith("train/")]
    main, given = {"train/sft.py": sft_main, "train/grpo.py": grpo_main}[words[at]], words[at + 1 :]
    given = [word for word in given if word not in ("--check", "--plan")]
    stand_ins = {"--model": tiny_vlm_dir, "--dataset": data / "sft.jsonl", "--problems": data, "--output_dir": tmp_path}
    for option, stand_in in stand_ins.items():
        if option in given:
            given[given.index(option) + 1] = str(stand_in)
    if "--model" not in given:
        given += ["--model", str(tiny_vlm_dir)]
    code = main([*given, "--check", "--json"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])["check"]
    assert code == 0 and report["passed"], report["findings"]


def test_the_stages_follow_from_each_other() -> None:
    """What a command reads, an earlier one writes; the cost table has the commands of the page."""
    written = {
        word
        for words in COMMANDS
        for option in ("--out", "--output_dir")
        if option in words
        for word in [value(words, option)]
    }
    for words in TRAINING:
        read = [value(words, option) for option in ("--model", "--problems") if option in words]
        assert set(read) <= written
        assert "--dataset" not in words or str(Path(value(words, "--dataset")).parent) in written
    evaluated = {words[2] for words in COMMANDS if words[:2] in (["reflection-v", "eval"], ["reflection-v", "audit"])}
    assert {name for name in evaluated if not name.startswith(("Qwen/", "--"))} <= written


def test_the_build_is_configured() -> None:
    builds = [words[2:] for words in COMMANDS if words[:2] == ["reflection-v", "build"]]
    assert builds
    for words in builds:
        own = [word for at, word in enumerate(words) if "--dry-run" not in words[max(at - 1, 0) : at + 1]]
        config, keys = parse_arguments(own, "build")
        keys.pop("out")
        assert parse_config(BuildConfig, {**read_config(config), **keys}, config).prompts == "full"


def test_the_cost_table_is_what_the_script_prints() -> None:
    between = PAGE.split("<!-- cost: begin -->")[1].split("<!-- cost: end -->")[0]
    assert between.strip().splitlines() == cost_rows(Assumptions())


def test_hours_follow_the_formula_of_the_page() -> None:
    loaded, plan, step = planned("grpo", "configs/qwen2_5_vl_3b/grpo_lora.yaml")
    assumed = Assumptions(prompt_tokens=900, response_tokens=100, utilization=0.5, peak_tflops=100)
    hours = gpu_hours(loaded, plan, step, assumed)
    assert step == 32 and loaded.args.max_steps == 500
    assert hours["train"] == pytest.approx(500 * 32 * 1000 * 6 * plan.facts["weights"] / 50e12 / 3600)
    assert hours["sample"] == pytest.approx(500 * 100 / 25 / 3600)
    assert hours["select"] == pytest.approx(8 * 8000 / 0.5 * 100 / (25 * 32) / 3600)


def test_the_prompts_of_the_page_are_those_of_the_code() -> None:
    shown = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \| `[0-9a-f]{16}` \|$", PAGE, flags=re.MULTILINE))
    hashes = dict(re.findall(r"^\| `(\w+)` \| `.+?` \| `([0-9a-f]{16})` \|$", PAGE, flags=re.MULTILINE))
    assert shown == {style: INSTRUCTIONS[style] for style in ("think", "direct", "describe")}
    assert hashes == {style: hashlib.sha256(text.encode()).hexdigest()[:16] for style, text in shown.items()}


def test_the_weights_of_the_page_are_those_of_the_config() -> None:
    section = PAGE.split("## The reward")[1].split("\n## ")[0]
    shown = {
        name: float(weight) for name, weight in re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", section, flags=re.MULTILINE)
    }
    assert shown == read_config(ROOT / "configs/base/grpo_common.yaml")["rewards"]


def evaluated(folder: Path, benchmark: str, right: int, **account: Any) -> None:
    """What ``reflection-v eval`` leaves, as far as the table reads it."""
    share = {"value": right / 10, "ci95": [right / 20, 0.95], "n": 10}
    figures: dict[str, Any] = {
        "accuracy": share,
        "style": "think",
        "errors": {"n": 1},
        "truncated_share": {"value": 0.25},
    }
    if benchmark == "hallusionbench":
        figures["benchmark"] = {"aAcc": share, "fAcc": share}
    about = {
        "name": benchmark,
        "split": BENCHMARKS[benchmark].split,
        "limit": None,
        "dropped": {"no answer": 2},
        **account,
    }
    (folder / "answers").mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"models": {"m": figures}, "problems": {"benchmark": about}}))
    row = Answer(
        problem_id="1",
        key="k",
        tag="main think",
        style="think",
        domain="text",
        family="f",
        text="x",
        prompt_sha256="ab",
    )
    (folder / "answers" / "m.jsonl").write_text(row.model_dump_json() + "\n")


def test_results_become_rows(tmp_path: Path) -> None:
    evaluated(tmp_path / "base" / "one", "mathvista", 5)
    evaluated(tmp_path / "rl" / "one", "mathvista", 7, limit=100)
    evaluated(tmp_path / "rl" / "two", "hallusionbench", 6, split="other")
    rows = result_rows(tmp_path)
    assert rows[:4] == [
        "| model | mathvista | hallusionbench |",
        "|---|---|---|",
        "| base | 50.0 (25.0 to 95.0) | not run |",
        "| rl | 70.0 (35.0 to 95.0) | aAcc 60.0 (30.0 to 95.0), fAcc 60.0 (30.0 to 95.0) |",
    ]
    assert (
        rows[5]
        == "- base, mathvista: n = 10, 3 rows without a grade, style think, prompt ab, 25.0% of the responses cut off"
    )
    assert "the first 100 rows only" in rows[6] and "split other" in rows[7]
    evaluated(tmp_path / "rl" / "three", "mathvista", 7)
    with pytest.raises(UserError, match="holds mathvista twice"):
        result_rows(tmp_path)
    with pytest.raises(UserError, match="No evaluation below"):
        result_rows(tmp_path / "absent")
