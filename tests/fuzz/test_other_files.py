"""Configs, options, prompts, rewards, reports and logs that nobody should have written, and whole commands over broken files."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from broken_files import (
    DAMAGE,
    DAMAGES,
    JSON_TEXTS,
    PATIENCE,
    TEXTS,
    Broken,
    broken_files,
    changed,
    check_sentence,
    deep,
    draw_images,
    json_text,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_files import ASKS, COLUMNS, PROBLEMS, TABLES, TALKS, examples

from configs.command_line import explain
from configs.errors import UserError
from configs.overrides import parse_arguments, read_config
from configs.run_config import load_run_config
from configs.schema import check_keys, fields_of, parse_config
from data_construction.build import BuildConfig
from data_construction.prompts import NAMES, load_prompts
from data_construction.stats import write_stats
from eval.audit import AuditConfig
from eval.compare import compare
from eval.harness import EvalConfig, run_eval
from eval.subjects import ScriptedSubject
from reflection_v.stages import EvalKeys
from reward.rewards import Score
from reward.user import UserReward, as_reply, find_reward
from train.config import GrpoOptions, SftOptions
from train.grpo import load_grpo
from train.improve import ImproveConfig, load_improve
from train.sft import load_sft
from vlm.problem import Problem, write_problems

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Path]]:
    """Makes a folder of its own for each example, in which the command runs; the one before is removed."""
    numbers = itertools.count()

    def make() -> Path:
        os.chdir(tmp_path)
        for old in tmp_path.iterdir():
            shutil.rmtree(old)
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        os.chdir(folder)
        return folder

    monkeypatch.chdir(tmp_path)
    yield make


def refused(call: Callable[[], Any]) -> Any:
    """What a call returns; None where it ends in an error that the command line turns into a sentence."""
    try:
        return call()
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        check_sentence(UserError(explained[0]))
        return None


# Configs

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n" for a, b in itertools.pairwise("abcdefghij")
)
YAML_TEXTS = [
    *(
        "!!int ''",
        "!!int x",
        "!!float ''",
        "!!float x",
        "!!bool x",
        "!!timestamp x",
        "!!binary '*'",
        "!!binary é",
        "!!null x",
        "!!str [a]",
    ),
    *(
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
        "!!omap 1",
        "!!map [1]",
        "!!seq {a: 1}",
        "!!python/object:os.system x",
        "!x y",
    ),
    *(
        "&a [*a]",
        "&b {c: *b}",
        "*nobody",
        "{[1]: 2}",
        "{? {a: 1} : 2}",
        "{<<: 1}",
        "{<<: [1]}",
        "{<<: {a: 1}}",
        "2026-99-99",
        "2026-11-30",
    ),
    *(
        "0x",
        "0b",
        "0o7",
        "012",
        "1:30",
        "99:99:99",
        "1_000",
        "_",
        ".",
        ".nan",
        ".inf",
        "-.inf",
        "1e9",
        "1e-4",
        "1e999",
        "~",
        "yes",
        "off",
        "=",
    ),
    *(
        "@x",
        "`x`",
        "%x",
        "{{ x }}",
        "[",
        "{",
        "]",
        "'",
        '"',
        "\t",
        "|",
        ">-",
        "- a",
        "? x",
        "a: b",
        "!!merge x",
        "<<",
        "--- a",
        "...",
        "\x07",
        "\ud800",
        "\ufffe",
    ),
    *("null", "[]", "{}", "[null]", "-1", "0", "1.5", "true", "auto", "no", "steps", "epoch", "all", "wandb"),
]
"""Values as a YAML file may spell them."""
SPELLED = st.sampled_from(YAML_TEXTS + JSON_TEXTS)
LISTS_IN_LISTS = re.compile(r"\[{100,}1\]{100,}")
"""PyYAML takes seconds for them until it gives up; deep mappings, which take their place here, cost it a tenth."""


def _loaded_eval(path: Path) -> Any:
    keys = read_config(path)
    check_keys(keys, EvalKeys, EvalConfig, where=path)
    return [
        parse_config(cls, {key: value for key, value in keys.items() if key in fields_of(cls)}, path)
        for cls in (EvalKeys, EvalConfig)
    ]


def _run_keys() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "configs/tiny/run.yaml").read_text())


REWARDS = {
    "accuracy": 1.0,
    "format": 0.2,
    "shuffled(attention_mean)": {"weight": 0.1, "gate": True},
    "attention_ratio": 0.2,
    "r.py:f": 1,
}
CONFIGS: dict[str, tuple[Callable[[Path], Any], dict[str, Any], list[str]]] = {
    "run": (load_run_config, _run_keys(), ["judge", "base"]),
    "build": (
        lambda path: parse_config(BuildConfig, read_config(path), path),
        {
            "problems": "p",
            "out": "o",
            "loop": {"rounds": 3, "tokens": {"request": 32}},
            "quality": {"near_duplicate": 1.0},
            "mix": {"direct_share": 0.1},
            "roles": {"responder": {"model": "tiny"}},
            "difficulty": {"samples": 2},
            "judge": {"model": "openai:x@http://localhost:1/v1"},
        },
        list(fields_of(BuildConfig)),
    ),
    "sft": (
        load_sft,
        {"output_dir": "o", "dataset": "d.jsonl", "learning_rate": 1e-3, "lora": {"r": 8}, "max_row_tokens": 100},
        list(fields_of(SftOptions)),
    ),
    "grpo": (
        load_grpo,
        {
            "output_dir": "o",
            "problems": "p",
            "rewards": REWARDS,
            "prompt_selection": {"samples": 4},
            "domain_weights": {"count": 1},
            "num_generations": 2,
            "per_device_train_batch_size": 2,
        },
        [
            *fields_of(GrpoOptions),
            "beta",
            "loss_type",
            "save_steps",
            "max_completion_length",
            "temperature",
            "warmup_steps",
            "report_to",
        ],
    ),
    "eval": (
        _loaded_eval,
        {
            "base_styles": ["direct"],
            "sets": {"x": {"kind": "shift"}},
            "layers": [1],
            "judge": "openai:x@http://localhost:1/v1",
        },
        list(fields_of(EvalConfig)),
    ),
    "audit": (
        lambda path: parse_config(AuditConfig, read_config(path), path),
        {"seed": 1},
        list(fields_of(AuditConfig)),
    ),
    "improve": (
        lambda path: load_improve(path, {}),
        {"problems": "p", "heldout": "h", "out": "o", "sft": "sft.yaml", "lift_kept": [0.0, 0.5]},
        list(fields_of(ImproveConfig)),
    ),
}


@pytest.mark.parametrize("stage", CONFIGS)
@examples(12, 60)
def test_configs(tries: int, stage: str, fresh: Callable[[], Path]) -> None:
    load, whole, keys = CONFIGS[stage]

    @settings(PATIENCE, max_examples=tries)
    @given(
        keys=changed([whole], [*keys, *keys, "base"]),
        spelled=st.none() | st.tuples(st.sampled_from([*whole, *keys]), SPELLED),
        damage=DAMAGES,
        at=st.integers(0, 400),
        text=st.sampled_from(["", "", "", LAUGHS]),
    )
    def check(keys: Any, spelled: tuple[str, str] | None, damage: str, at: int, text: str) -> None:
        folder = fresh()
        (folder / "r.py").write_text("f = len\n")
        for name in ("build", "sft", "grpo", "eval"):
            (folder / f"{name}.yaml").write_text("{}")
        (folder / "low.yaml").write_text("base: config.yaml\n")
        path = folder / "config.yaml"
        given = (
            "".join(f"{json_text(key)}: {json_text(value)}\n" for key, value in keys.items())
            if isinstance(keys, dict)
            else json_text(keys)
        )
        if spelled is not None:
            kept = [line for line in given.splitlines(keepends=True) if not line.startswith(f'"{spelled[0]}"')]
            given = "".join(kept) + f"{spelled[0]}: {spelled[1]}\n"
        broken = Broken([], "jsonl", damage, at)
        broken.write(path)
        if path.is_file():
            given = LISTS_IN_LISTS.sub(deep('{"a": ', "}", 1200), given)
            data = (text + given).encode("utf-8", "surrogatepass")
            path.write_bytes(DAMAGE[damage](data, at) if damage in DAMAGE else data)
        refused(lambda: load(path))

    check()


WORDS = (
    TEXTS
    | st.sampled_from(
        [
            "--config",
            "--seed",
            "--loop.rounds",
            "--a.b.c",
            "--a",
            "--",
            "-x",
            "--=",
            "--a=b",
            "--api_key_env",
            "--.",
            "--a..b",
            "c.yaml",
        ]
    )
    | SPELLED
)


@examples(10, 60)
def test_options(tries: int) -> None:
    """Keys of a config on the command line."""

    @settings(PATIENCE, max_examples=tries)
    @given(words=st.lists(WORDS, max_size=5))
    def check(words: list[str]) -> None:
        found = refused(lambda: parse_arguments(["c.yaml", *words], "reflection-v build"))
        if found is not None:
            refused(lambda: parse_config(BuildConfig, found[1]))

    check()


# Prompts and rewards

TEMPLATES = st.sampled_from(
    [
        "{{ question }}",
        "{% for x in y %}",
        "{{ 1 / 0 }}",
        "{{ nothing }}",
        "{% include 'x' %}",
        "{{ question.a.b }}",
        "{{ 'a' * 10 }}",
        "{{",
        "é",
        "",
    ]
)


@examples(5, 40)
def test_prompts(tries: int, fresh: Callable[[], Path]) -> None:
    @settings(PATIENCE, max_examples=tries)
    @given(texts=st.lists(TEMPLATES | TEXTS, min_size=3, max_size=3), damage=DAMAGES)
    def check(texts: list[str], damage: str) -> None:
        folder = fresh() / "prompts"
        folder.mkdir()
        for name, text in zip(NAMES, texts, strict=True):
            path = Broken([], "jsonl", damage, 3).write(folder / f"{name}.jinja")
            if path.is_file():
                data = text.encode("utf-8", "surrogatepass")
                path.write_bytes(DAMAGE[damage](data, 3) if damage in DAMAGE else data)
        prompts = refused(lambda: load_prompts(str(folder)))
        for name in prompts.texts if prompts is not None else ():
            refused(lambda name=name: prompts.render(name, question="q"))

    check()


class Contrary:
    """An object whose own methods raise."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __float__ = __bool__ = __len__ = __eq__ = __hash__ = __repr__  # type: ignore[assignment]


ODD = [
    *(
        None,
        1,
        0.5,
        True,
        False,
        "1",
        b"1",
        10**400,
        -(10**400),
        float("nan"),
        float("inf"),
        1e7,
        1j,
        [],
        [1.0],
        {},
        {"score": 1},
        object(),
        len,
    ),
    *(
        np.float64(0.5),
        np.float32("nan"),
        np.array(0.5),
        np.array([1.0]),
        np.array([1.0, 2.0]),
        np.array([]),
        np.bool_(True),
        np.datetime64("2026-01-01"),
    ),
    *(
        torch.tensor(0.5),
        torch.tensor([0.5]),
        torch.tensor([1.0, 2.0]),
        torch.zeros(0),
        torch.tensor(True),
        torch.tensor(float("nan")),
        torch.tensor(1j),
        torch.zeros(1, device="meta"),
    ),
    *(
        Score(0.5, {"a": 1.0}),
        Score(None, {"a": "1"}),
        Score(0.5, {"a": None}),
        Score(0.5, [1]),
        Score("x", {}),
        Score(Score(1.0), {}),
        Score(0.5, {1: 2}),
    ),  # type: ignore[arg-type]
    *(
        Score(0.5, dict.fromkeys(map(str, range(99)), 1.0)),
        Score(0.5, {"\ud800": 1.0}),
        Contrary(),
        Score(Contrary(), {}),
        Score(0.5, {"a": Contrary()}),
        iter([1]),
        Exception("x"),
        type,
    ),  # type: ignore[arg-type]
]


def test_whatever_a_users_reward_returns_is_a_score_or_a_sentence() -> None:
    for value in ODD:
        reply = as_reply(lambda _, value=value: value, SimpleNamespace())  # type: ignore[arg-type, misc]
        json.dumps(reply).encode()
        assert ("error" in reply) != ("value" in reply) and "\n" not in reply.get("error", "")


CODE = st.sampled_from(
    [
        "def f(rollout):\n    return 1.0\n",
        "import nothing_of_this_name\n",
        "f = 3\n",
        "def f(:\n",
        "raise SystemExit\n",
        "import os\nos._exit(3)\n",
        "f = len",
        "def g(): pass\n",
        "print('x' * 100_000)\nf = len\n",
        "\x00",
        "raise BaseException('é')\n",
    ]
)


@pytest.mark.slow
def test_files_of_rewards(fresh: Callable[[], Path]) -> None:
    """A process is started for each, so there are only a few."""

    @settings(PATIENCE, max_examples=12)
    @given(
        code=CODE,
        damage=DAMAGES,
        name=st.sampled_from(
            ["r.py:f", "r.py:f", "r.py", "r.txt:f", "r.py:1", "\x00.py:f", "img/" + "x" * 300 + ".py:f"]
        ),
    )
    def check(code: str, damage: str, name: str) -> None:
        folder = fresh()
        path = Broken([], "jsonl", damage, 3).write(folder / "r.py")
        if path.is_file():
            path.write_bytes(DAMAGE[damage](code.encode(), 3) if damage in DAMAGE else code.encode())
        if refused(lambda: find_reward(name, folder)) is not None:
            reward = UserReward(name, folder)
            refused(reward.start)
            reward.close()

    check()


# Reports and logs


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished evaluations by scripted models."""
    root = tmp_path_factory.mktemp("evaluated")
    (root / "set").mkdir()
    problems = [
        Problem(id=str(n), source="s", domain="count", question=f"What is {n} + 0?", answer=str(n)) for n in range(8)
    ]
    write_problems(problems, root / "set")
    for name, answer in (("a", "3"), ("b", "4")):
        subject = ScriptedSubject(lambda turn, answer=answer: f"\\boxed{{{answer}}}", name)
        run_eval(name, root / "set", root / name, config=EvalConfig(blank=0, swap=0), load=lambda _, one=subject: one)
    return root


@examples(4, 50)
def test_reports_that_are_compared(tries: int, fresh: Callable[[], Path], evaluated: Path) -> None:
    """``eval --compare`` over a changed report or a changed log of answers."""
    report = json.loads((evaluated / "a/report.json").read_text())
    log = next((evaluated / "a/answers").glob("*.jsonl"))
    answers = [json.loads(line) for line in log.read_text().splitlines()]

    @settings(PATIENCE, max_examples=tries)
    @given(
        report=broken_files([report], ["models", "paired"]),
        log_file=broken_files(answers, ["problem_id", "graded"]),
        which=st.sampled_from(["report", "answers", "both"]),
    )
    def check(report: Broken, log_file: Broken, which: str) -> None:
        folder = fresh()
        shutil.copytree(evaluated, folder / "both")
        if which != "answers":
            (folder / "both/a/report.json").unlink()
            Broken(report.rows[:1], "jsonl", report.damage, report.at).write(folder / "both/a/report.json")
        if which != "report":
            (folder / "both/a/answers" / log.name).unlink()
            log_file.write(folder / "both/a/answers" / log.name)
        refused(lambda: compare(folder / "both/a", folder / "both/b", folder / "out"))

    check()


EPISODES = [
    {
        "problem_id": "1",
        "status": "kept",
        "error": "",
        "rounds": [{}],
        "looks": 2,
        "trace": "a b",
        "cohesion": "model",
        "usage": {"repairs": 1, "seconds": 1.0},
    },
    {
        "problem_id": "2",
        "status": "error",
        "error": "timeout",
        "rounds": [],
        "looks": 0,
        "trace": "",
        "cohesion": "",
        "usage": {},
    },
]


@examples(2, 10)
def test_traces_that_are_counted(tries: int, fresh: Callable[[], Path]) -> None:
    """``build --stats``."""

    @settings(PATIENCE, max_examples=tries)
    @given(
        traces=broken_files(EPISODES, list(EPISODES[0])),
        counts=broken_files([{"problems": 3, "tokens_by_role": {"reasoner": {"completion": 3}}}], ["dropped"]),
    )
    def check(traces: Broken, counts: Broken) -> None:
        folder = fresh()
        traces.write(folder / "traces.jsonl")
        Broken(counts.rows[:1], "jsonl", counts.damage, counts.at).write(folder / "build.json")
        refused(lambda: write_stats(folder))

    check()


# Whole commands

COMMANDS: list[tuple[list[str], list[dict[str, Any]], list[str]]] = [
    (["problems", "FILE", "--out", "out"], [*TABLES, *TALKS], COLUMNS),
    (["problems", "FILE", "--from", "llava", "--out", "out"], TALKS, COLUMNS),
    (["problems", "FILE", "--from", "csv", "--out", "out"], TABLES, COLUMNS),
    (["problems", "FILE", "--from", "parquet", "--out", "out"], TABLES, COLUMNS),
    (["problems", "hf:.", "--out", "out"], TABLES, COLUMNS),
    (["ask", "--batch", "FILE", "--model", "openai:x@http://127.0.0.1:1/v1"], ASKS, ["question"]),
    (["build", "FILE"], [{"problems": "p", "out": "out"}], ["loop"]),
    (["run", "FILE", "--out", "out"], [_run_keys()], ["model"]),
    (["build", "config.yaml", "--problems", "FILE", "--out", "out"], PROBLEMS, ["meta"]),
    (["build", "--stats", "."], EPISODES, ["x"]),
    (["sft", "FILE"], [{"output_dir": "o"}], ["lora"]),
]
START = "import sys; from reflection_v.cli import main; sys.argv[0] = 'reflection-v'; sys.exit(main())"


@pytest.mark.slow
def test_fifty_commands(fresh: Callable[[], Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Real processes. Most of these commands end before torch is imported, so that fifty take a minute or two."""
    images = draw_images(tmp_path_factory.mktemp("images"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}

    @st.composite
    def cases(draw: Any) -> tuple[list[str], Broken]:
        command, whole, columns = draw(st.sampled_from(COMMANDS))
        encodings = ["jsonl", "json", "csv", "parquet"] if command[0] == "problems" else ["jsonl"]
        return command, draw(broken_files(whole, columns, encodings))

    @settings(PATIENCE, max_examples=50, deadline=None)
    @given(case=cases())
    def check(case: tuple[list[str], Broken]) -> None:
        command, file = case
        folder = fresh()
        (folder / "img").symlink_to(images / "img")
        (folder / "config.yaml").write_text(
            "stop_after: 2\nconcurrency: 1\nmodel: openai:x@http://127.0.0.1:1/v1\nreasoner: openai:x@http://127.0.0.1:1/v1\n"
        )
        name = (
            "traces.jsonl"
            if "--stats" in command
            else "config.yml"
            if command[0] in ("run", "sft")
            else f"rows.{file.encoding}"
        )
        file.write(folder / name)
        words = [word.replace("FILE", name) for word in command]
        done = subprocess.run(
            [sys.executable, "-c", START, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
        told = done.stderr.decode("utf-8", "replace")
        assert (
            done.returncode in (0, 1, 2) and "Traceback" not in told and "Error:" not in told.split("reflection-v:")[0]
        ), (words, told)
        assert done.returncode == 0 or re.search(r"\S", told), words

    check()
