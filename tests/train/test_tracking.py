"""What a run is known by, where it is sent (the real wandb, offline), and the stop past a bound."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest

from configs.errors import ConfigError, UserError
from train.grpo import load_grpo, run_grpo
from train.mixing import easy_first, mix_domains, pass_rates
from train.selection import read_pass_rates
from train.sft import run_sft
from train.tracking import GAP, StopAtGap, Tracked
from vlm.problem import Problem

ROOT = Path(__file__).parents[2]


def test_a_run_is_known_by_all_that_decides_it(tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, runs: Any) -> None:
    pytest.importorskip("tensorboard")
    keys = {"model": str(tiny_vlm_dir), "dataset": str(pictures / "rows.jsonl"), "seed": 3, "max_steps": 1}
    run_sft({**runs.BASE, **keys, "output_dir": str(tmp_path / "a"), "report_to": "tensorboard"})
    known = json.loads((tmp_path / "a" / "settings.json").read_text())
    provenance = {"settings", "versions", "git", "seed", "data_sha256", "processes"}
    assert set(known) == {*provenance, "precision_source", "run", "model_sha256", "course"}
    assert known["seed"] == 3 and known["settings"]["learning_rate"] == 1e-3 and len(known["data_sha256"]) == 64
    assert {"torch", "transformers", "trl", "python"} <= set(known["versions"])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (tmp_path / "a").rglob("events.out.tfevents*")
    seen = EventAccumulator(str(events)).Reload()
    assert "train/loss" in seen.Tags()["scalars"] and "reflection_v/text_summary" in seen.Tags()["tensors"]


@pytest.mark.slow
def test_wandb_offline_holds_config_curves_and_completions_with_pictures(
    taught: Path, pictures: Path, tmp_path: Path
) -> None:
    """In a process of its own: wandb leaves a service behind it."""
    pytest.importorskip("wandb")
    keys = {
        "model": str(taught),
        "problems": str(pictures),
        "output_dir": str(tmp_path / "run"),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 24,
        "max_steps": 2,
        "gradient_checkpointing": False,
        "prompt_selection": None,
        "report_to": "wandb",
        "log_completions": True,
    }
    (tmp_path / "grpo.json").write_text(json.dumps(keys))
    tracker = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_DATA_DIR": str(tmp_path / "data")}
    environment = {**os.environ, **tracker, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train/grpo.py", "--config", str(tmp_path / "grpo.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=420)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (record,) = folder.glob("*.wandb")
    assert (tmp_path / "run" / "wandb_run.txt").read_text().strip() == folder.name.rpartition("-")[2]
    content = record.read_bytes()
    for said in (b"reflection_v", b"data_sha256", b"train/reward", b"completions", b"media/images/"):
        assert said in content
    assert list((folder / "files" / "media" / "table").glob("completions_*.json"))
    # A table's images are in its artifact, whose files wait here until a `wandb sync`.
    staged = [path.read_bytes()[:4] for path in (tmp_path / "data" / "artifacts" / "staging").iterdir()]
    assert b"\x89PNG" in staged
    tables = [pandas.read_parquet(file) for file in (tmp_path / "run" / "completions").glob("*.parquet")]
    assert len(tables) == 2
    for table in tables:  # prompts and responses are text, images are named in it
        assert table["prompt"].str.contains("<image>").all() and table["prompt"].str.contains("What is at A").all()
        assert table["completion"].map(type).eq(str).all()


def test_a_run_that_goes_on_goes_on_in_its_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)
    told: list[Any] = []
    wandb = SimpleNamespace(run=None, finish=lambda: told.append("finished"))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    trackio = SimpleNamespace(config=SimpleNamespace(update=lambda known, **_: told.append(known)))
    handler = SimpleNamespace(callbacks=[SimpleNamespace(_trackio=trackio)])
    args, state = SimpleNamespace(report_to=["wandb", "trackio"]), SimpleNamespace(is_world_process_zero=True)
    for begun in (None, "a1b2"):
        tracked = Tracked({"seed": 0}, handler, tmp_path)
        assert os.environ.get("WANDB_RUN_ID") == begun
        wandb.run = SimpleNamespace(id="a1b2", config=SimpleNamespace(update=lambda known, **_: told.append(known)))
        tracked.on_train_begin(args, state, None)
        tracked.on_train_end(args, state, None)
        assert "WANDB_RUN_ID" not in os.environ and told == [{"reflection_v": {"seed": 0}}] * 2 + ["finished"]
        told.clear()
        wandb.run = None
    wandb.run = SimpleNamespace(id="theirs", config=SimpleNamespace(update=lambda known, **_: None))
    Tracked({}, handler, tmp_path).on_train_end(args, state, None)  # a run that the caller has opened stays open
    assert told == [] and "WANDB_RUN_ID" not in os.environ


def test_the_gap_between_sampling_and_training_ends_a_run() -> None:
    stop, state = StopAtGap(0.1), SimpleNamespace(global_step=7)
    stop.on_log(None, state, None, {GAP: 0.1})
    stop.on_log(None, state, None, {"loss": 1.0})
    stop.on_log(None, state, None, None)
    with pytest.raises(UserError, match=r"At step 7 .* differ by 0.3 .* max_logprob_gap 0.1"):
        stop.on_log(None, state, None, {GAP: 0.3})


def test_trl_logs_the_gap_under_that_name() -> None:
    import inspect

    from trl import GRPOTrainer

    assert f'"{GAP}"' in inspect.getsource(GRPOTrainer)


# Which problems, and in which order


def some(**counts: int) -> list[Problem]:
    problems = []
    for domain, n in counts.items():
        for number in range(n):
            meta = {"pass_rate": number / n}
            given = {"id": f"{domain}-{number}", "domain": domain, "meta": meta}
            problems.append(Problem(source="test", question="?", answer="1", **given))
    return problems


def test_domains_are_mixed_by_weight() -> None:
    mixed = mix_domains(some(count=30, text=10, number=7), {"count": 1, "text": 3}, seed=0)
    assert len(mixed) == 40
    names = [problem.id for problem in mixed]
    assert (
        sum(name.startswith("text") for name in names) == 30 and sum(name.startswith("count") for name in names) == 10
    )
    assert {names.count(f"text-{number}") for number in range(10)} == {3}
    assert len(set(names)) == 20
    assert [p.id for p in mix_domains(some(count=30, text=10), {"count": 1, "text": 3}, seed=0)] == names
    with pytest.raises(UserError, match="'science'"):
        mix_domains(some(count=3), {"science": 1}, seed=0)


@pytest.mark.parametrize("weights", [{"colour": 1.0}, {"count": -1.0}, {"count": 0.0}, {"count": float("nan")}])
def test_bad_domain_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="domain_weights"):
        load_grpo({"output_dir": "out", "problems": "set", "domain_weights": weights})


def test_easy_problems_come_first(tmp_path: Path) -> None:
    problems = some(count=4)
    assert [p.id for p in easy_first(problems, pass_rates(problems, []))] == [f"count-{n}" for n in (3, 2, 1, 0)]
    sampled = {"id": "count-0", "right": 4, "samples": [{}] * 4, "key": "these"}
    others = {"id": "count-1", "right": 4, "samples": [{}] * 4, "key": "those"}  # sampled under other settings
    (tmp_path / "pass_rates.jsonl").write_text(json.dumps(sampled) + "\n" + json.dumps(others) + "\n")
    rates = pass_rates(problems, read_pass_rates(tmp_path, "these"))
    assert easy_first(problems, rates)[0].id == "count-0" and rates["count-1"] == 0.25
    problems[1].meta = {}
    with pytest.raises(UserError, match="count-1 has none"):
        pass_rates(problems, read_pass_rates(tmp_path, "these"))


def test_a_curriculum_over_two_domains_trains_in_order(
    tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, runs: Any
) -> None:
    rows = [json.loads(line) for line in (pictures / "problems.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"images": [str(pictures / row["images"][0])], "meta": {"pass_rate": number / 6}}
        row |= {"domain": "count", "answer": "3"} if number < 3 else {}
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"model": str(tiny_vlm_dir), "problems": str(tmp_path), "output_dir": str(tmp_path / "run"), "max_steps": 3}
    batch = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "prompt_selection": None,
    }
    mix = {"domain_weights": {"count": 1.0, "text": 1.0}, "curriculum": "easy_first"}
    run_grpo({**runs.BASE, **keys, **batch, **mix})
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert ["domain/text" in row for row in log] == [
        True,
        True,
        False,
    ]  # 5 4, 3 2, 1 0: the text problems are the easy ones
    assert ["domain/count" in row for row in log] == [False, True, True]
    assert json.loads((tmp_path / "run" / "data.json").read_text())["domains"] == {"text": 3, "count": 3}
