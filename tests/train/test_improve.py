"""Self-improvement rounds on tiny random models: what is kept, when it stops, and that a kill loses nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import ConfigError, UserError
from configs.run_dir import RunDir
from data_construction.sources import write_set
from reward.grade import grade
from reward.sampling import Sample
from train import improve
from train.improve import ImproveConfig, _same_config, judge_sample, load_improve, run_improve
from train.precision import Precision
from vlm.generate import Generation
from vlm.problem import Problem, read_problems

PROBLEM = Problem(id="a", source="test", domain="text", images=["a.png"], question="?", answer="red")


def written(text: str, lift: list[float] | None, finished: bool = True) -> Sample:
    layers = None if lift is None else torch.tensor([lift, [2 * value for value in lift]])
    return Sample(PROBLEM, Generation(text, [1] * 4, finished, 10, lift=layers), grade(PROBLEM, text, finished))


RIGHT = "<think> it is red . Let me look again . red . </think> \\boxed{red}"


@pytest.mark.parametrize(
    ("text", "lift", "finished", "why"),
    [
        (RIGHT, [1.0, 1.0, 0.9, 0.9], True, None),
        (RIGHT, [1.0, 1.0, 0.5, 0.5], True, "ungrounded"),
        (RIGHT, None, True, "ungrounded"),
        (RIGHT, [1.0, 1.0, 1.0, 1.0], False, "unfinished"),
        (RIGHT.replace("{red}", "{blue}"), [1.0, 1.0, 1.0, 1.0], True, "wrong"),
        (RIGHT.replace("Let me look again .", ""), [1.0, 1.0, 1.0, 1.0], True, "looks"),
    ],
)
def test_only_right_and_grounded_answers_are_kept(
    text: str, lift: list[float] | None, finished: bool, why: str | None
) -> None:
    row = judge_sample(written(text, lift, finished), floor=0.8, min_looks=1)
    assert row["why"] == why and row["kept"] == (why is None)
    if lift is None:
        assert judge_sample(written(text, lift), floor=0.0, min_looks=1)["kept"]  # correct answers only


@pytest.fixture
def config(tmp_path: Path, tiny_vlm_dir: Path) -> ImproveConfig:
    write_set("scenes", 6, 0, "train", tmp_path / "train")
    write_set("scenes", 4, 0, "heldout", tmp_path / "heldout")
    (tmp_path / "sft.yaml").write_text(
        "num_train_epochs: 1\nper_device_train_batch_size: 4\nlearning_rate: 1e-4\nsave_steps: 1\ngradient_checkpointing: false\n"
    )
    file = tmp_path / "improve.yaml"
    file.write_text("sft: sft.yaml\nrounds: 3\nsamples: 2\nmax_new_tokens: 12\nlift_kept: [0.0, 0.5]\n")
    keys = {"problems": str(tmp_path / "train"), "heldout": str(tmp_path / "heldout"), "out": str(tmp_path / "rounds")}
    return load_improve(file, {**keys, "model": str(tiny_vlm_dir)})


@pytest.fixture
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models are never right: every answer with a letter in it is kept, so that the rounds have something to learn."""
    real = judge_sample

    def kind(sample: Sample, floor: float, min_looks: int) -> dict[str, Any]:
        row = real(sample, floor, min_looks)
        return {**row, "right": True, "kept": bool(sample.generation.text.strip()), "why": None}

    monkeypatch.setattr(improve, "judge_sample", kind)


def rising(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> list[str]:
    """Held-out accuracies given by hand; returns the models that were measured."""
    measured: list[str] = []

    def accuracy(model: str, heldout: Any, folder: Path, config: Any) -> dict[str, Any]:
        measured.append(model)
        value = values[int(folder.parent.name.rpartition("-")[2])]
        return {"accuracy": {"value": value, "ci95": [0.0, 1.0], "n": len(heldout)}}

    monkeypatch.setattr(improve, "_accuracy", accuracy)
    return measured


def test_rounds_end_when_accuracy_stops_rising(
    config: ImproveConfig, generous: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = rising(monkeypatch, [0.2, 0.5, 0.4, 0.9])
    report = run_improve(config)
    assert [one["round"] for one in report["rounds"]] == [0, 1, 2] and report["best"] == 1
    out = Path(config.out)
    assert measured[1:] == [str(out / "round-1" / "model"), str(out / "round-2" / "model")]
    rows = [len((out / f"round-{n}" / "sft.jsonl").read_text().splitlines()) for n in (1, 2)]
    assert 0 < rows[0] <= 6 and rows[1] > rows[0]  # a round learns what all rounds kept
    assert len((out / "round-1" / "samples.jsonl").read_text().splitlines()) == 12
    # The same command again does nothing; with a round's record gone it only does what is missing.
    samples = (out / "round-2" / "samples.jsonl").read_bytes()
    (out / "round-2" / "round.json").unlink()
    assert run_improve(config)["rounds"] == report["rounds"]
    assert (out / "round-2" / "samples.jsonl").read_bytes() == samples
    with pytest.raises(ConfigError, match="temperature"):
        run_improve(config.model_copy(update={"temperature": 0.5}))


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 8, 11])
def test_a_kill_inside_of_a_batch_loses_no_sample_and_repeats_none(config: ImproveConfig, rows: int) -> None:
    """Batches of two problems, two samples each: the cut lies between batches, between problems, and within one."""
    config = config.model_copy(update={"batch_size": 4})
    folder, problems = Path(config.out), read_problems(config.problems)
    folder.mkdir()
    counts = improve._sample(config.model, problems, folder, 1, config)
    whole = (folder / "samples.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / "samples.jsonl").write_bytes(b"".join(lines[:rows]) + lines[rows][:20])
    assert improve._sample(config.model, problems, folder, 1, config) == counts
    assert (folder / "samples.jsonl").read_bytes() == whole


def test_a_student_learns_what_the_teacher_wrote(
    config: ImproveConfig, generous: None, tmp_path: Path, tiny_vlm_dir: Path
) -> None:
    """All for real: the teacher samples, the student (another random model) is trained and measured."""
    from train.tiny.models import build_tiny_vlm

    student = build_tiny_vlm(tmp_path / "student", seed=1)
    taught = config.model_copy(update={"student": str(student), "rounds": 1})
    report = run_improve(taught)
    assert report["rounds"][0]["model"] == str(student) and report["rounds"][1]["accuracy"]["n"] == 4
    samples = map(json.loads, (Path(config.out) / "round-1" / "samples.jsonl").read_text().splitlines())
    assert all(row["lift_kept"] > 0 for row in samples if row["tokens"] >= 2)
    settings = json.loads((Path(config.out) / "round-1" / "model" / "settings.json").read_text())
    assert settings["settings"]["model"] == str(student)


def test_nothing_kept_is_said(config: ImproveConfig) -> None:
    with pytest.raises(UserError, match="answers was correct and grounded enough"):
        run_improve(config)


def test_a_round_that_keeps_nothing_ends_them(
    config: ImproveConfig, generous: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rising(monkeypatch, [0.2, 0.5, 0.6, 0.9])
    kind = improve.judge_sample

    def strict(sample: Sample, floor: float, min_looks: int) -> dict[str, Any]:
        row = kind(sample, floor, min_looks)
        return row if floor == 0 else {**row, "kept": False, "why": "ungrounded"}

    monkeypatch.setattr(improve, "judge_sample", strict)
    for _ in range(2):  # the second time it finds the samples there
        assert [one["round"] for one in run_improve(config)["rounds"]] == [0, 1]
        assert "round 2: none of 12 answers" in capsys.readouterr().out
    assert not (Path(config.out) / "round-2" / "model").exists()


def spoil(folder: Path, *faults: dict[str, Any]) -> list[str]:
    """Put faults into the first rows of a problem set; returns their ids."""
    file = folder / "problems.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, fault in zip(rows, faults, strict=False):
        row |= fault
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["id"] for row in rows[: len(faults)]]


def test_rows_that_cannot_be_asked_are_left_out_before_the_sampling(
    config: ImproveConfig, generous: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rising(monkeypatch, [0.2, 0.1])
    faults = [
        {"question": "word " * 4001},
        {"question": " \n"},
        {"images": ["missing.png"]},
        {"question": "why " * 3000},
    ]
    bad = spoil(Path(config.problems), *faults)
    for _ in range(2):
        report = run_improve(config)
        said = {"long_question": 1, "no_question": 1, "missing_picture": 1, "over_long": 1}
        assert report["dropped"] == said and report["rounds"][1]["samples"] == 2 * 2
        assert f"left out as no_question: 1 ({bad[1]})" in capsys.readouterr().out
    samples = map(json.loads, (Path(config.out) / "round-1" / "samples.jsonl").read_text().splitlines())
    assert not set(bad) & {row["problem_id"] for row in samples}


def test_a_set_of_bad_rows_ends_before_anything_is_measured(
    config: ImproveConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(improve, "_accuracy", lambda *_: pytest.fail("measured"))
    spoil(Path(config.problems), *[{"domain": "number", "answer": "zzz not a number"}] * 6)
    with pytest.raises(UserError, match=r"No problem of .* can be used: {'unparsable_answer': 6}"):
        run_improve(config)


def test_heldout_problems_are_not_trained_on(config: ImproveConfig) -> None:
    with pytest.raises(UserError, match="are in both sets"):
        run_improve(config.model_copy(update={"heldout": config.problems}))


def test_a_config_that_lacks_something(tmp_path: Path) -> None:
    file = tmp_path / "improve.yaml"
    for text, said in (("rounds: 2\n", "'problems' is missing"), ("round: 2\n", "did you mean 'rounds'")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_improve(file, {})


@pytest.mark.parametrize(
    "old", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["bf16 of the version before", "auto"]
)
def test_rounds_keep_the_precision_of_the_first(
    old: bool, config: ImproveConfig, generous: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds begun in bfloat16 go on in it on a machine where ``auto`` is float32."""
    rising(monkeypatch, [0.2, 0.5, 0.6, 0.7])
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("train.precision.bfloat16_is_fast", lambda device: True)
    out, sft = Path(config.out), Path(config.sft)
    keys = sft.read_text()
    sft.write_text(keys + ("bf16: true\n" if old else "precision: auto\n"))
    run_improve(config.model_copy(update={"rounds": 1}))
    if old:
        begun = json.loads((out / "config.json").read_text())
        del begun["precision"]
        (out / "config.json").write_text(json.dumps({**begun, "sft": {**begun["sft"], "bf16": True}}))
        sft.write_text(keys + "precision: auto\n")
    monkeypatch.setattr("train.precision.bfloat16_is_fast", lambda device: False)
    run_improve(config.model_copy(update={"rounds": 2}))
    for number in (1, 2):
        settings = json.loads((out / f"round-{number}" / "model" / "settings.json").read_text())["settings"]
        assert settings["precision"] == "bfloat16"
    sft.write_text(keys + "precision: float32\n")
    with pytest.raises(ConfigError, match=r"other settings \(precision\)"):
        run_improve(config)


def test_rounds_know_models_and_sets_by_their_content(config: ImproveConfig) -> None:
    """A moved set is the same, an edited one another; rounds of an earlier version know sets by their names, to their end."""
    out, (train, moved) = Path(config.out), (Path(config.problems), Path(config.problems).with_name("moved"))
    out.mkdir()
    run, precision = RunDir(out, "improve run", result="improve.json"), Precision("float32", "config", "cpu")
    _same_config(config, run, precision)
    record = json.loads((out / "config.json").read_text())
    assert {"model_sha256", "problems_sha256", "heldout_sha256"} <= record.keys()
    train.rename(moved)
    with pytest.raises(UserError, match="No problem set at"):
        _same_config(config, run, precision)
    assert json.loads((out / "config.json").read_text()) == record  # a set that is away for one start is not forgotten
    moved.rename(train)
    shutil.copytree(train, moved)
    other = config.model_copy(update={"problems": str(moved)})
    _same_config(other, run, precision)
    rows = (moved / "problems.jsonl").read_text()
    (moved / "problems.jsonl").write_text(rows.partition("\n")[0] + "\n")
    with pytest.raises(ConfigError, match=r"other settings \(the files of .*moved\)"):
        _same_config(other, run, precision)
    old = {key: value for key, value in record.items() if key not in ("problems_sha256", "heldout_sha256")}
    (out / "config.json").write_text(json.dumps(old))
    for _ in range(2):
        _same_config(config, run, precision)
        assert "problems_sha256" not in json.loads((out / "config.json").read_text())
    with pytest.raises(ConfigError, match=r"other settings \(problems\)"):
        _same_config(other, run, precision)
