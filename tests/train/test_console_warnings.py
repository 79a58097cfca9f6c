"""GRPO's warnings: one for each kind of step from which nothing can be learned, once in a run, and none for a sound step."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reward.aggregate import Term
from train.console_warnings import CONSTANT, ConsoleWarnings
from train.grpo import run_grpo

MINE = "mine.py:score"


def row(finished: bool = True, parts: dict[str, float] | None = None, **scores: float | None) -> dict[str, Any]:
    return {"finished": finished, "parts": parts or {}, "scores": {"accuracy": 1.0, "attention_ratio": 0.5, **scores}}


def warned(
    steps: list[list[dict[str, Any]]], capsys: pytest.CaptureFixture[str], logs: dict[str, float] | None = None
) -> list[str]:
    rewards = {"accuracy": Term(1.0), "attention_ratio": Term(0.2), "format": Term(0.0), "length": Term(0.1)}
    trainer = SimpleNamespace(composition={**rewards, MINE: Term(0.5)}, own={MINE: SimpleNamespace(crash="SIGSEGV")})
    watch, state = ConsoleWarnings(trainer), SimpleNamespace(is_world_process_zero=True, global_step=0)
    watch.on_step_end(SimpleNamespace(max_completion_length=16), state, None)  # a resumed run may have no rows yet
    for rows in steps:
        state.global_step += 1
        trainer.rows = [{**one, "scores": {MINE: 0.0, **one["scores"]}} for one in rows]
        watch.on_step_end(SimpleNamespace(max_completion_length=16), state, None)
        watch.on_log(None, state, None, logs)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([[row(), row()]], []),
        ([[row(False), row(False)]], ["all 2 responses of a step were cut off at max_completion_length 16"]),
        ([[row(False), row()], [row(), row(False)]], []),  # some ended
        ([[row(False)], [row(False)], [row(False)]], ["all 1 responses of a step were cut off"]),  # once
        ([[row(), row()], [row(False), row(False)]], ["all 2 responses"]),
        ([[row(attention_ratio=None)] * 2], ["'attention_ratio' has judged none of the 2 responses so far, so"]),
        ([[row(attention_ratio=None)] * 2] * 3, ["'attention_ratio' has judged none"]),
        ([[row(attention_ratio=None), row()]], []),  # one was judged
        ([[row()], [row(attention_ratio=None)]], []),  # it has judged before
        ([[row(accuracy=None)]], ["'accuracy' has judged none of the 1 responses so far"]),
        ([[row(repetition=None, image_information=None)]], []),  # of no weight
        (
            [[row(**{MINE: None}, parts={f"{MINE}/timeout": 1.0})]],
            [f"'{MINE}' has judged none of the 1 responses so far (1 timed out)"],
        ),
        (
            [[row(**{MINE: None}, parts={f"{MINE}/crash": 1.0}), row()]],
            [f"the reward '{MINE}' crashed at 1 of 2 responses (its process ended by SIGSEGV)"],
        ),
        (
            [[row(**{MINE: None}, parts={f"{MINE}/crash": 1.0})]] * 2,
            [f"'{MINE}' crashed at 1 of 1", f"'{MINE}' has judged none of the 1 responses so far (1 crashed)"],
        ),
    ],
)
def test_each_kind_is_said_once(
    steps: list[list[dict[str, Any]]], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = warned(steps, capsys)
    assert len(printed) == len(said), printed
    assert all(line.startswith("warning: ") and part in line for line, part in zip(printed, said, strict=True))


@pytest.mark.parametrize(("share", "count"), [(1.0, 1), (0.99, 0), (0.0, 0)])
def test_constant_groups_are_said_if_every_group_is(
    share: float, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = warned([[row()]] * 3, capsys, {CONSTANT: share})
    assert len(printed) == count and all(
        "at step 1 all responses to a prompt have the same reward" in one for one in printed
    )


def test_a_run_says_what_its_steps_lack(
    tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("import os\n\ndef score(rollout):\n    os._exit(3)\n")
    keys = {"model": str(tiny_vlm_dir), "problems": str(pictures), "output_dir": str(tmp_path / "run"), "max_steps": 2}
    batch = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 2, "save_strategy": "no"}
    rewards = {"accuracy": 1.0, "attention_ratio": 0.2, MINE: 0.5}
    run_grpo(
        {**runs.BASE, **keys, **batch, "rewards": rewards, "reward_folder": str(tmp_path), "prompt_selection": None}
    )
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    for said in (
        "all 4 responses of a step were cut off at max_completion_length 2",
        "the reward 'attention_ratio' has judged none of the 4 responses so far",
        f"the reward '{MINE}' crashed at 4 of 4 responses (its process ended by exit code 3)",
        f"the reward '{MINE}' has judged none of the 4 responses so far (4 crashed)",
        "at step 1 all responses to a prompt have the same reward",
    ):
        assert sum(said in line for line in printed) == 1, (said, printed)
    assert len(printed) == 5
