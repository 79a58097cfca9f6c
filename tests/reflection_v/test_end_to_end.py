"""All six stages for real on the bundled models, and `kill -9` in each that takes time.

Random weights would write every reply to its limit, and a reply that was cut off ends its episode.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlm.load import bundled_model

pytestmark = pytest.mark.slow

RUN = """
problems:
  train: {source: "scenes,digits", n: 16, split: train, families: [count, compare, place, claims, digit_sum]}
  heldout: {source: "scenes,digits", n: 12, split: heldout, families: [count, compare, claims], counterfactual: true}
  look: {source: scenes, n: 4, split: heldout, seed: 1, families: [place]}
build: build.yaml
sft: sft.yaml
grpo: grpo.yaml
eval: eval.yaml
"""
SFT = "num_train_epochs: 3\nper_device_train_batch_size: 4\nsave_steps: 2\nlearning_rate: 1e-4\n"
GRPO = """
rewards: {accuracy: 1.0, format: 0.2, attention_ratio: 0.2}
loss_type: dr_grpo
scale_rewards: none
num_generations: 4
per_device_train_batch_size: 8
max_completion_length: 12
max_steps: 6
save_steps: 2
learning_rate: 1e-4
prompt_selection: null
"""
EVAL = "max_new_tokens: 12\nbatch_size: 4\nblank: 4\nswap: 4\nsets:\n  look: {kind: first_look, style: direct}\n"
BUILD = """
prompts: short
concurrency: 4
loop: {rounds: 2}
mix: {min_rows: 16}
"""


class Case:
    """A folder with a small config and two models."""

    def __init__(self, folder: Path, vlm: Path, reasoner: Path) -> None:
        self.folder = folder
        for name, text in (("run", RUN), ("build", BUILD), ("sft", SFT), ("grpo", GRPO), ("eval", EVAL)):
            (folder / f"{name}.yaml").write_text(text)
        self.arguments = ["run", "run.yaml", "--model", str(vlm), "--reasoner", str(reasoner)]

    def start(self, out: str, *options: str) -> subprocess.Popen[str]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "reflection_v.cli", *self.arguments, "--out", out, *options]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd=self.folder, env=environment, text=True, **streams)  # type: ignore[call-overload]

    def run(self, out: str, *options: str) -> str:
        process = self.start(out, *options)
        try:
            printed, _ = process.communicate(timeout=900)
        finally:
            process.kill()  # nothing is left behind where it hangs
        assert process.returncode == 0, printed
        return printed

    def kill_when(self, out: str, sign: str, *options: str, by: int = signal.SIGKILL) -> int:
        """Start, and send a signal as soon as a file exists (a glob relative to the run's folder); returns the exit code."""
        process = self.start(out, *options)
        deadline = time.monotonic() + 600
        try:
            while not list((self.folder / out).glob(sign)):
                assert process.poll() is None and time.monotonic() < deadline, f"no {sign}"
                time.sleep(0.01)
            process.send_signal(by)
            process.communicate(timeout=120)
            return process.returncode
        finally:
            process.kill()
            process.communicate()

    def counts(self, out: str) -> dict[str, object]:
        """What must be the same however often a run was killed."""
        report = json.loads((self.folder / out / "report.json").read_text())
        return {
            "data": report["data"],
            "rows": report["sft"]["rows"],
            "steps": (report["sft"]["steps"], report["grpo"]["steps"]),
            "accuracy": {name: one["accuracy"]["n"] for name, one in report["models"].items()},
            "swap": {name: one["swap_update_rate"]["n"] for name, one in report["models"].items()},
            "problems": report["problems"],
        }


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"), bundled_model("tiny"), bundled_model("tiny-reasoner"))


@pytest.fixture(scope="module")
def whole(case: Case) -> dict[str, object]:
    """The counts of an uninterrupted run."""
    case.run("whole")
    return case.counts("whole")


def test_a_run_ends_with_a_report_and_a_second_call_does_nothing(case: Case, whole: dict[str, object]) -> None:
    report = json.loads((case.folder / "whole" / "report.json").read_text())
    assert list(report["models"]) == ["base", "sft", "rl"]
    assert list(report["seconds"]) == ["problems", "build", "sft", "grpo", "eval"]
    assert {"python", "torch", "transformers", "trl", "git"} <= set(report["versions"])
    page = (case.folder / "whole" / "report.html").read_text()
    assert page.startswith("<!") and "http://" not in page.replace("http://www.w3.org", "")
    assert "Nothing to do" in case.run("whole")


def test_kill_9_in_each_stage_then_the_same_command_gives_the_same_counts(case: Case, whole: dict[str, object]) -> None:
    for sign in (
        "problems/heldout/images/*.png",
        "build/traces.jsonl",
        "sft/checkpoint-2",
        "grpo/checkpoint-2",
        "eval/answers/sft*",
    ):
        case.kill_when("killed", sign)
    printed = case.run("killed")
    assert printed.count("already finished") == 4
    assert case.counts("killed") == whole
    attempts = json.loads((case.folder / "killed" / "report.json").read_text())["attempts"]
    assert attempts == {"problems": 2, "build": 2, "sft": 2, "grpo": 2, "eval": 2}


TWO = ("--processes", "2")


def rows(folder: Path, column: str) -> list[float]:
    return [json.loads(line)[column] for line in (folder / "log.jsonl").read_text().splitlines()]


def trainers(out: Path) -> list[int]:
    """The processes that train in a run's folder."""
    found = []
    for status in Path("/proc").glob("[0-9]*"):
        try:
            words, cwd = (status / "cmdline").read_bytes().split(b"\0"), (status / "cwd").resolve()
        except OSError:
            continue
        if cwd == out.parent and any(word.endswith((b"train/sft.py", b"train/grpo.py")) for word in words):
            found.append(int(status.name))
    return found


@pytest.fixture(scope="module")
def two(case: Case, whole: dict[str, object]) -> Path:
    """The whole run without its training: problems and build are finished."""
    pytest.importorskip("deepspeed")
    folder = Path(shutil.copytree(case.folder / "whole", case.folder / "two"))
    for name in ("sft", "grpo", "eval", "report"):
        (folder / "stages" / f"{name}.json").unlink()
        shutil.rmtree(folder / name, ignore_errors=True)
    return folder


def test_ctrl_c_ends_both_processes(case: Case, two: Path) -> None:
    assert case.kill_when("two", "sft/checkpoint-2/complete", "--only", "sft", *TWO, by=signal.SIGINT) == 130
    assert trainers(two) == []


def test_two_processes_resume_and_teach_what_one_does(case: Case, two: Path) -> None:
    """Resumes the cold start of the test before."""
    case.run("two", "--only", "sft", *TWO)
    log = (two / "logs" / "sft.log").read_text()
    assert "sft: 2 processes, a step takes 4 rows (2 x 1 x 2)" in log
    assert "resuming from step" in log
    one = case.folder / "whole" / "sft"
    assert rows(two / "sft", "step") == rows(one, "step")
    assert rows(two / "sft", "loss") == pytest.approx(rows(one, "loss"), rel=1e-3)
    assert json.loads((two / "sft" / "settings.json").read_text())["processes"] == 2


def test_a_killed_command_takes_its_processes_along(case: Case, two: Path) -> None:
    """Needs the cold start of the tests before."""
    case.kill_when("two", "grpo/checkpoint-2/complete", "--only", "grpo", *TWO)
    deadline = time.monotonic() + 60
    while trainers(two) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert trainers(two) == []
    case.run("two", "--only", "grpo", *TWO)
    assert rows(two / "grpo", "step") == [1, 2, 3, 4, 5, 6]
    assert json.loads((two / "grpo" / "settings.json").read_text())["processes"] == 2
