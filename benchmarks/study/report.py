"""Tables and figures of a study: ``python -m benchmarks.study.report runs/study --write docs/study``.

    units.csv       all figures of all units        swap.svg      swap difference: seeds, and means with 95% intervals
    contrasts.csv   the registered contrasts        accuracy.svg  the same for held-out accuracy
    curves.csv      curves by arm, means of seeds   curves.svg    mass, lift, image removed, VDM over the response
    swapped.csv     all swapped problems            cross.svg     change of the mass: text, weights, interaction
    results.md      all tables

The same units give the same files.
"""

import argparse
import csv
import json
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks.study.run import flat
from benchmarks.study.swap import swapped_problems
from benchmarks.study.tables import PARTS, Unit, by_arm, mean_and_interval, results
from configs.errors import UserError
from configs.jsonl import write_text_atomic

CURVES = {
    "mass": ("attention", "position", "mass", "attention mass on the picture", "token"),
    "lift": ("attention", "position", "lift", "lift over uniform attention", "token"),
    "cutoff": ("cutoff", "at", "accuracy", "accuracy, picture taken away after", "share of the response"),
    "vdm": ("vdm", "position", "vdm", "VDM (Hellinger)", "token"),
}


def read_units(study: Path) -> list[Unit]:
    """The finished units, in the order of the study's arms and seeds.

    Raises:
        UserError: no unit is finished, or the tables were not written yet.
    """
    files = sorted(study.glob("*/seed-*/unit.json"))
    units: list[Unit] = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for unit, file in zip(units, files, strict=True):
        crosses = file.with_name("crosses.json")
        if crosses.exists():
            unit["figures"] |= flat(json.loads(crosses.read_text(encoding="utf-8")), "cross.")
    if not units:
        raise UserError(f"There are no finished units in {study}: run 'make study' first.")
    tables = study / "contrasts.json"  # written after the units and their crosses
    if not tables.exists() or json.loads(tables.read_text(encoding="utf-8"))["units"] != len(units):
        raise UserError(f"The tables of {study} are not written yet: run 'make study' again, which writes them.")
    arms = list(json.loads((study / "study.json").read_text(encoding="utf-8"))["arms"])
    return sorted(units, key=lambda unit: (arms.index(unit["arm"]), unit["seed"]))


def curve_rows(units: list[Unit]) -> list[tuple[str, str, float, float, int]]:
    """(arm, curve, x, mean over seeds, number of seeds) of each curve, over the range that all seeds of an arm cover.

    Curves over tokens have bins whose width depends on the longest response, so each is interpolated at whole tokens.
    """
    rows = []
    for arm in dict.fromkeys(unit["arm"] for unit in units):
        own = [unit for unit in units if unit["arm"] == arm]
        for name, (measure, x, y, _, _) in CURVES.items():
            curves = [_points((unit.get("curves") or {}).get(measure), x, y) for unit in own]
            if not all(curves):
                continue
            if x == "position":
                first, last = max(one[0][0] for one in curves), min(one[-1][0] for one in curves)
                places = [float(at) for at in range(math.ceil(first), math.floor(last) + 1)]
            else:
                places = sorted(set.intersection(*({at for at, _ in one} for one in curves)))
            for at in places:
                values = [
                    float(np.interp(at, [left for left, _ in one], [right for _, right in one])) for one in curves
                ]
                rows.append((arm, name, at, fmean(values), len(values)))
    return rows


def _points(curve: Any, x: str, y: str) -> list[tuple[float, float]]:
    """The points of a curve, which is stored as lists by name or as rows with estimates."""
    if isinstance(curve, dict):
        return list(zip(curve[x], curve[y], strict=True))
    return [(row[x], row[y]["value"]) for row in curve or [] if row[y]["value"] is not None]


def draw(units: list[Unit], study: Path, out: Path) -> None:
    """Draw the four figures.

    To stay readable, curves.svg shows only the arms of the registered contrasts (one colour per pair), the reference and
    the untrained arms; curves.csv has all arms.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "study"  # fixed ids, so that the same units give the same file
    import matplotlib.pyplot as plt

    def save(name: str) -> None:
        plt.tight_layout()
        plt.savefig(out / name, metadata={"Date": None})
        plt.close()

    arms = list(dict.fromkeys(unit["arm"] for unit in units))
    for name, figure, label in (
        ("swap.svg", "swap.difference", "swap difference"),
        ("accuracy.svg", "accuracy", "held-out accuracy"),
    ):
        plt.figure(figsize=(8, 0.4 * len(arms) + 1.2))
        for row, arm in enumerate(arms):
            values = by_arm(units, figure).get(arm, {})
            if values:
                mean, reach = mean_and_interval(values)
                plt.plot(list(values.values()), [row] * len(values), "o", color="0.7", markersize=4)
                plt.errorbar(mean, row, xerr=reach, fmt="D", color="C0", markersize=5, capsize=3)
        plt.yticks(range(len(arms)), arms)
        plt.gca().invert_yaxis()
        plt.xlabel(f"{label}: seeds, and their mean with 95% interval")
        plt.grid(axis="x", alpha=0.3)
        save(name)

    rows = curve_rows(units)
    config = json.loads((study / "study.json").read_text(encoding="utf-8"))
    styles = {arm: ("0.6", "-") for arm in arms if not config["arms"][arm]["train"]}
    styles[config["reference"]] = ("black", "-")
    for number, one in enumerate(config["contrasts"]):
        for arm, line in ((one["first"], "-"), (one["second"], "--")):
            styles.setdefault(arm, (f"C{number}", line))
    page, axes = plt.subplots(2, 2, figsize=(11, 8))
    for axis, (name, (_, _, _, title, x_label)) in zip(axes.flat, CURVES.items(), strict=True):
        for arm, (colour, line) in styles.items():
            points = [(x, y) for of, curve, x, y, _ in rows if of == arm and curve == name]
            if points:
                axis.plot(*zip(*points, strict=True), line, color=colour, label=arm, linewidth=1.2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x_label)
        axis.grid(alpha=0.3)
    lines = {text: handle for axis in axes.flat for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    page.legend(lines.values(), lines, loc="outside lower center", ncols=3, fontsize=8)
    plt.tight_layout(rect=(0, 0.07, 1, 1))
    plt.savefig(out / "curves.svg", metadata={"Date": None})
    plt.close()

    crossed = {part: by_arm(units, f"cross.to_accuracy.effects.{part}") for part in PARTS}
    shown = [arm for arm in arms if arm in crossed["total"]]
    if shown:
        plt.figure(figsize=(8, 0.6 * len(shown) + 1.4))
        for number, part in enumerate(PARTS):
            pairs = [mean_and_interval(crossed[part][arm]) for arm in shown]
            places = [row + (number - 1.5) * 0.2 for row in range(len(shown))]
            plt.barh(places, [m for m, _ in pairs], 0.18, xerr=[r for _, r in pairs], label=part, color=f"C{number}")
        plt.yticks(range(len(shown)), shown)
        plt.gca().invert_yaxis()
        plt.axvline(0, color="0.3", linewidth=0.8)
        plt.xlabel("change of the second half's mass against accuracy alone, same seed")
        plt.legend(fontsize=8)
        save("cross.svg")


def write_study_report(study: Path, out: Path) -> None:
    """Write all files that the module's docstring lists. Raises UserError if no unit is finished."""
    units = read_units(study)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(study / "units.csv", out / "units.csv")
    outcome = json.loads((study / "contrasts.json").read_text(encoding="utf-8"))
    write_rows(out / "contrasts.csv", outcome["contrasts"])
    names = ("arm", "curve", "x", "mean", "seeds")
    write_rows(out / "curves.csv", [dict(zip(names, row, strict=True)) for row in curve_rows(units)])
    swapped = swapped_problems(study, units)
    write_rows(out / "swapped.csv", [one._asdict() for one in swapped])
    write_text_atomic(out / "results.md", results(study, units, swapped))
    draw(units, study, out)


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as opened:
        table = csv.DictWriter(opened, list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows(rows)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.study.report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("study", type=Path, help="the folder of the study")
    parser.add_argument("--write", type=Path, required=True, metavar="DIR", help="where the files go")
    args = parser.parse_args(argv)
    try:
        write_study_report(args.study, args.write)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
