"""Tables and figures of a study, from units that were made up."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study.config import Arm, Contrast, StudyConfig
from benchmarks.study.report import curve_rows, main, read_units
from benchmarks.study.run import write_tables
from benchmarks.study.swap import Swapped
from benchmarks.study.tables import by_arm, mean_and_interval, results

ARMS = {"start": Arm(train=False, seeds=1), "accuracy": Arm(seeds=3), "ratio": Arm(seeds=3)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    config = StudyConfig(
        run="r",
        out=str(tmp_path),
        arms=ARMS,
        contrasts=[Contrast(first="ratio", second="accuracy", figure="swap.difference")],
    )
    (tmp_path / "study.json").write_text(json.dumps(config.model_dump()))
    for number, (name, arm) in enumerate(ARMS.items()):
        for seed in range(arm.seeds):
            figures = {"accuracy": 0.5 + 0.1 * number, "swap.difference": 0.5 + number * (0.1 + seed / 100)}
            figures |= {"grpo.entropy_last": 0.2}
            if name == "ratio":
                figures |= {
                    f"cross.to_accuracy.effects.{part}": 0.01 for part in ("total", "text", "weights", "interaction")
                }
            curves: dict[str, Any] = {
                "attention": {
                    "position": [1, 2, 3 + seed],
                    "mass": [0.3, 0.2, 0.1 * seed],
                    "lift": [1, 1, 1],
                    "n": [9, 9, 9],
                },
                "cutoff": [{"at": 0.0, "accuracy": {"value": 0.2}}, {"at": 0.5, "accuracy": {"value": None}}],
                "vdm": None,
            }
            unit = {"arm": name, "seed": seed, "seconds": 1.0, "figures": figures, "curves": curves}
            folder = tmp_path / name / f"seed-{seed}"
            folder.mkdir(parents=True)
            (folder / "unit.json").write_text(json.dumps(unit))
    write_tables(config)
    return tmp_path


def test_means_over_seeds(study: Path) -> None:
    units = read_units(study)
    assert [unit["arm"] for unit in units] == ["start"] + ["accuracy"] * 3 + ["ratio"] * 3
    values = by_arm(units, "swap.difference")["ratio"]
    mean, reach = mean_and_interval(values)
    assert mean == pytest.approx(0.72) and reach == pytest.approx(4.303 * 0.02 / 3**0.5, rel=1e-3)
    assert mean_and_interval({0: 0.4}) == (0.4, 0.0)


def test_a_curve_goes_as_far_as_all_seeds_reach(study: Path) -> None:
    rows = curve_rows(read_units(study))
    mass = [(x, y) for arm, curve, x, y, _ in rows if (arm, curve) == ("accuracy", "mass")]
    # At token 3 the second and the third seed are read between two points of theirs.
    assert mass == [(1, pytest.approx(0.3)), (2, pytest.approx(0.2)), (3, pytest.approx((0.0 + 0.15 + 0.2) / 3))]
    assert [(x, y) for arm, curve, x, y, _ in rows if (arm, curve) == ("start", "cutoff")] == [(0.0, 0.2)]
    assert not any(curve == "vdm" for _, curve, *_ in rows)


def test_everything_is_written_and_the_same_again(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main([str(study), "--write", str(out)]) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert set(before) == {
        "units.csv", "contrasts.csv", "curves.csv", "swapped.csv", "results.md", "swap.svg", "accuracy.svg", "curves.svg",
        "cross.svg",
    }  # fmt: skip
    assert main([str(study), "--write", str(out)]) == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    contrast = next(csv.DictReader((out / "contrasts.csv").open()))
    assert float(contrast["value"]) == pytest.approx(0.11) and contrast["n"] == "3"
    for seed, commit in ((0, "a" * 40), (1, "b" * 40 + "-dirty")):
        (study / "ratio" / f"seed-{seed}" / "grpo").mkdir()
        (study / "ratio" / f"seed-{seed}" / "grpo" / "settings.json").write_text(json.dumps({"git": commit}))
    units = read_units(study)
    text = results(study, units, [])
    assert "Trained at commit aaaaaaaaaaaa (1 units), bbbbbbbbbbbb (1 units)." in text
    assert "Signal: yes" in text and "| ratio - accuracy, swap.difference | +0.110 (" in text
    assert "| ratio | accuracy | 0.010 | 0.010 | 0.010 | 0.010 |" in text
    table = text.split("## What the rewards moved")[1].split("##")[0]
    assert "| ratio | - accuracy | - start |\n" in table  # the control is the reference here: one column
    row = next(line for line in table.splitlines() if line.startswith("| accuracy | +0.1"))
    assert "| +0.200 (" in row and "| tokens | - | - |" in table  # the start stands against every seed
    assert "| accuracy | - start |\n" in table
    rows = [
        Swapped(unit["arm"], unit["seed"], f"p{n}", "f", float(unit["arm"] == "ratio"))
        for unit in units
        for n in range(6)
    ]
    text = results(study, units, rows)
    assert "| ratio - start | f | 6 | +1.000 (+1.000 to +1.000) | 0 | 3 |" in text
    assert "| accuracy - start | shared problems | 6 | none in any seed |" in text
    config = json.loads((study / "study.json").read_text())
    config["arms"]["ratio"]["start"] = "base"  # the untrained start is not its own
    (study / "study.json").write_text(json.dumps(config))
    text = results(study, units, rows)
    assert "ratio - start" not in text and "| ratio | - accuracy |\n" in text
    config["reference"] = "ratio"  # the first arm of a contrast may be the reference; no arm stands against itself
    (study / "study.json").write_text(json.dumps(config))
    text = results(study, units, rows)
    assert "| ratio | - accuracy |\n" in text and "ratio - ratio" not in text


def test_a_folder_without_units_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--write", str(tmp_path / "out")]) == 1
    assert "make study" in capsys.readouterr().err


def test_units_without_tables_are_refused(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "contrasts.json").unlink()
    assert main([str(study), "--write", str(tmp_path / "out")]) == 1
    assert "not written yet" in capsys.readouterr().err


def test_tables_older_than_the_units_are_refused(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = study / "ratio" / "seed-3"
    newest.mkdir()
    (newest / "unit.json").write_text((study / "ratio" / "seed-2" / "unit.json").read_text())
    assert main([str(study), "--write", str(tmp_path / "out")]) == 1
    assert "not written yet" in capsys.readouterr().err
