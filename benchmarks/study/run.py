"""The study: arms that differ in one reward, each over several seeds. Which of them learn to use the image?

    python -m benchmarks.study.run configs/tiny/study/study.yaml --run runs/tiny --out runs/study [--minutes 120] [--only ARM]

The study first makes its own start (benchmarks/study/start.py). A unit is one arm with one seed: a GRPO run, its audit, and
its crosses with the reference arm of the same seed and with the start. ``unit.json`` is written last and marks a finished
unit; an interrupted unit resumes inside its training or its audit. Units run seed by seed, so that the arms can be compared
over equally many seeds at any time. After ``--minutes`` no further unit starts.

    OUT/start/                                 OUT/units.csv       every figure of every finished unit
    OUT/ARM/seed-S/grpo/    the run            OUT/contrasts.json  the pre-registered contrasts, over seeds
    OUT/ARM/seed-S/audit/   its answers
    OUT/ARM/seed-S/unit.json
"""

import contextlib
import csv
import ctypes
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.study.config import Arm, StudyConfig
from benchmarks.study.start import prepare
from configs.errors import ConfigError, UserError
from configs.identity import fingerprint
from configs.jsonl import write_json_atomic, write_text_atomic
from configs.overrides import parse_arguments, read_config
from configs.processes import refuse_several
from configs.run_dir import RunDir, changes, read_record
from configs.schema import parse_config
from configs.stopping import stopped_code, watch_sigterm
from vlm.identity import model_identity

if TYPE_CHECKING:
    from eval.runner import Answer
    from vlm.load import VLM
    from vlm.problem import Problem


def load_study(path: Path, overrides: Mapping[str, Any] | None = None) -> StudyConfig:
    """Read and check the config of the study and the GRPO config of each arm, before anything runs.

    Raises:
        ConfigError: an unknown key, a bad value, or an arm that does not exist.
    """
    from eval.audit import AuditConfig
    from train.grpo import load_grpo

    refuse_several("the study")
    config = parse_config(StudyConfig, read_config(path, overrides), path)
    for key in ("run", "out"):
        if not getattr(config, key):
            raise ConfigError(f"{path} must say '{key}', or give --{key}.")
    beside = {key: str((path.parent / getattr(config.start, key)).resolve()) for key in ("build", "sft")}
    grpo = str((path.parent / config.grpo).resolve())
    config = config.model_copy(update={"grpo": grpo, "start": config.start.model_copy(update=beside)})
    parse_config(AuditConfig, config.audit, "'audit' of the study")
    named = {config.reference, *(name for one in config.contrasts for name in (one.first, one.second))}
    if absent := sorted(named - set(config.arms)):
        raise ConfigError(f"{path}: there is no arm '{absent[0]}'; there are {', '.join(config.arms)}.")
    for name, arm in config.arms.items():
        if arm.train:
            load_grpo(grpo, _grpo_keys(config, name, 0))
    return config.model_copy(update={key: str(Path(getattr(config, key)).resolve()) for key in ("run", "out")})


def units(config: StudyConfig, only: str | None = None) -> list[tuple[str, int]]:
    """(arm, seed) of all units, in the order in which they run."""
    most = max(arm.seeds for arm in config.arms.values())
    return [
        (name, seed)
        for seed in range(most)
        for name, arm in config.arms.items()
        if seed < arm.seeds and only in (None, name)
    ]


def run_study(config: StudyConfig, minutes: float | None = None, only: str | None = None) -> dict[str, Any]:
    """Run the unfinished units; writes ``units.csv`` and ``contrasts.json`` again after each.

    Raises:
        UserError: the folder holds another study, or a unit's run cannot start.
    """
    if only is not None and only not in config.arms:
        raise ConfigError(f"There is no arm '{only}'; there are {', '.join(config.arms)}.")
    out, began = Path(config.out), time.monotonic()
    writes = ("study.json", "units*", "contrasts.json")
    study = RunDir(
        out, "study", writes, lambda folder: "arms" in read_record(folder / "study.json"), record="study.json"
    )
    with study.held():
        _same_study(config, study)
        prepare(config.start, config.base, Path(config.run), _settings(config), out / "start", config.precision)
        todo = units(config, only)
        for number, (name, seed) in enumerate(todo, start=1):
            done = unit_folder(config, name, seed) / "unit.json"
            if done.exists():
                continue
            if minutes is not None and time.monotonic() - began > minutes * 60:
                print(f"{minutes:g} minutes are over; {len(todo) - number + 1} units are left", flush=True)
                break
            print(f"unit {number} of {len(todo)}: {name}, seed {seed}", flush=True)
            run_unit(config, name, seed)
            cross_units(config)
            write_tables(config)
            _return_memory()
        cross_units(config)
        return write_tables(config)


def _return_memory() -> None:
    """Make glibc return free memory. Responses of varying lengths fragment the heap by about 300 MB per unit otherwise."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def unit_folder(config: StudyConfig, name: str, seed: int) -> Path:
    return Path(config.out) / name / f"seed-{seed}"


def run_unit(config: StudyConfig, name: str, seed: int) -> dict[str, Any]:
    """Train and audit one arm with one seed; both resume if they were interrupted."""
    from eval.audit import AuditConfig, run_audit
    from train.grpo import run_grpo
    from vlm.problem import read_problems

    arm, folder, began = config.arms[name], unit_folder(config, name, seed), time.monotonic()
    summary = run_grpo(config.grpo, _grpo_keys(config, name, seed)) if arm.train else {}
    settings = parse_config(AuditConfig, config.audit, "'audit' of the study")
    heldout = read_problems(Path(config.run) / "problems" / "heldout")
    report = run_audit(model_of(config, name, seed), heldout, folder / "audit", config=settings)
    kept = {key: value for key, value in report.items() if key not in NO_FIGURES}
    figures = flat(kept | report["measures"])
    figures |= {f"grpo.{key}": value for key, value in flat(summary).items()}
    unit = {
        "arm": name,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "figures": figures,
        "curves": {key: report["measures"].get(key, {}).get("curve") for key in ("attention", "cutoff", "vdm")},
    }
    write_json_atomic(folder / "unit.json", unit)
    return unit


def cross_units(config: StudyConfig) -> None:
    """Cross each finished unit with the reference arm of its seed and with its untrained start, if these are finished.

    The results are in ``crosses.json`` beside ``unit.json``; existing ones are reused.
    """
    from vlm.problem import read_problems

    done = [(row["arm"], row["seed"]) for row in finished(config)] if config.cross else []
    heldout: list[Problem] = []
    for name, seed in done:
        start = config.arms[name].start
        others = {f"to_{config.reference}": (config.reference, seed)}
        if untrained := [other for other, arm in config.arms.items() if not arm.train and arm.start == start]:
            others["to_start"] = (untrained[0], 0)
        file = unit_folder(config, name, seed) / "crosses.json"
        crosses = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        for key, other in others.items():
            if key not in crosses and other[0] != name and other in done:
                heldout = heldout or read_problems(Path(config.run) / "problems" / "heldout")
                crosses[key] = _cross(config, other, (name, seed), heldout)
                write_json_atomic(file, crosses)


def _cross(
    config: StudyConfig, other: tuple[str, int], unit: tuple[str, int], heldout: "list[Problem]"
) -> dict[str, Any]:
    from eval.cross import cross
    from eval.figures import balanced_subset
    from eval.runner import read_answers
    from vlm.load import load_vlm

    def load(name: str, seed: int) -> "tuple[VLM, dict[str, Answer]]":
        answers = read_answers(unit_folder(config, name, seed) / "audit" / "answers" / "main.jsonl")
        return load_vlm(model_of(config, name, seed)), {answer.problem_id: answer for answer in answers}

    pair = {other[0]: load(*other), unit[0]: load(*unit)}
    shared = [problem for problem in heldout if all(problem.id in answers for _, answers in pair.values())]
    return cross(pair, balanced_subset(shared, config.cross))


def model_of(config: StudyConfig, name: str, seed: int) -> str:
    """The model of a unit: the trained one, or the start if the arm is not trained."""
    arm = config.arms[name]
    return str(unit_folder(config, name, seed) / "grpo") if arm.train else _start_of(config, arm)


def _start_of(config: StudyConfig, arm: Arm) -> str:
    return str(Path(config.out) / "start" / "model") if arm.start == "cold" else config.base


def _grpo_keys(config: StudyConfig, name: str, seed: int) -> dict[str, Any]:
    arm = config.arms[name]
    prompts = Path(config.out) / "start" / "prompts"
    own = {"model": _start_of(config, arm), "problems": str(prompts), "seed": seed, "precision": config.precision}
    folder = str(unit_folder(config, name, seed) / "grpo")
    base = dict.fromkeys(
        read_config(config.grpo).get("rewards", {}), 0.0
    )  # an arm lists all of its rewards, so those of the file are off
    return {**arm.keys, **own, "output_dir": folder, "rewards": {**base, **arm.rewards}}


def _settings(config: StudyConfig) -> dict[str, Any]:
    from train.grpo import load_grpo

    args = load_grpo(config.grpo, _grpo_keys(config, config.reference, 0)).args
    return {"temperature": args.temperature, "max_completion_length": args.max_completion_length}


NO_FIGURES = ("schema_version", "config", "versions", "problems", "seed", "seconds", "load_average", "measures")
"""Keys of an audit's report that are no results."""
ABOUT = ("value", "ci95", "n", "p", "p_holm", "margin", "clusters", "smallest_detectable")
"""Keys of an estimate that describe its value."""


def flat(report: Mapping[str, Any], where: str = "") -> dict[str, float]:
    """The numbers of a nested report by dotted name. An estimate becomes its value; curves and lists are skipped."""
    found: dict[str, float] = {}
    for key, value in report.items():
        name = f"{where}{key}"
        if isinstance(value, Mapping):
            if "value" in value:
                found |= {name: float(value["value"])} if value["value"] is not None else {}
                value = {key: one for key, one in value.items() if key not in ABOUT}
            found |= flat(value, f"{name}.")
        elif isinstance(value, int | float):
            found[name] = float(value)
    return found


def finished(config: StudyConfig) -> list[dict[str, Any]]:
    """The records of the finished units, in order, with their crosses."""
    rows = []
    for name, seed in units(config):
        folder = unit_folder(config, name, seed)
        if (folder / "unit.json").exists():
            row = json.loads((folder / "unit.json").read_text(encoding="utf-8"))
            if (folder / "crosses.json").exists():
                row["figures"] |= flat(json.loads((folder / "crosses.json").read_text(encoding="utf-8")), "cross.")
            rows.append(row)
    return rows


def write_tables(config: StudyConfig) -> dict[str, Any]:
    """Write ``units.csv`` and ``contrasts.json`` of the finished units; returns the content of the latter."""
    from eval.stats import holm, paired_over_seeds

    rows, out = finished(config), Path(config.out)
    columns = sorted({key for row in rows for key in row["figures"]})
    with open(out / "units.csv.new", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["arm", "seed", "seconds", *columns])
        for row in rows:
            table.writerow([row["arm"], row["seed"], row["seconds"], *(row["figures"].get(key, "") for key in columns)])
    (out / "units.csv.new").replace(out / "units.csv")

    def of(arm: str, figure: str) -> dict[int, float | None]:
        return {row["seed"]: row["figures"].get(figure) for row in rows if row["arm"] == arm}

    contrasts = []
    for one in config.contrasts:
        first, second = of(one.first, one.figure), of(one.second, one.figure)
        seeds = min(config.arms[one.first].seeds, config.arms[one.second].seeds)
        contrast = {**one.model_dump(), **paired_over_seeds(first, second)}
        # A finished unit may lack the figure (no problem to swap). Name its seed, so that it is not dropped silently.
        without = sorted(seed for some in (first, second) for seed, value in some.items() if value is None)
        contrasts.append({**contrast, "seeds_without": without, "final": contrast["n"] + len({*without}) >= seeds})
    for contrast, p in zip(contrasts, holm([contrast["p"] for contrast in contrasts]), strict=True):
        contrast["p_holm"] = p
    result = {"units": len(rows), "of": len(units(config)), "signal": signal(config, rows), "contrasts": contrasts}
    write_text_atomic(out / "contrasts.json", json.dumps(result, indent=2) + "\n")
    return result


def signal(config: StudyConfig, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether the reference arm has learned: its gain in held-out accuracy over the untrained start, and its entropy.

    ``there`` is None until all seeds of the reference are finished. The untrained start has one value, used for all seeds.
    """
    from eval.stats import paired_over_seeds

    untrained = [name for name, arm in config.arms.items() if not arm.train and arm.start == "cold"]
    before = next((row["figures"].get("accuracy") for row in rows if row["arm"] in untrained), None)
    after = {row["seed"]: row["figures"].get("accuracy") for row in rows if row["arm"] == config.reference}
    gain = paired_over_seeds(after, dict.fromkeys(after, before))
    entropies = [row["figures"].get("grpo.entropy_last") for row in rows if row["arm"] == config.reference]
    known = [one for one in entropies if one is not None]
    entropy = min(known) if known else None
    there = None
    all_done = gain["n"] >= config.arms[config.reference].seeds
    if all_done and gain["interval"] is not None and entropy is not None:
        there = gain["interval"][0] > 0 and entropy >= config.entropy_floor
    return {"there": there, "gain": gain, "lowest_entropy": entropy, "entropy_floor": config.entropy_floor}


def _same_study(config: StudyConfig, study: RunDir) -> None:
    """Refuse a study that changes what was registered or run. Arms and seeds may be added."""
    from data_construction.build import BuildConfig

    # Checked first, so that an API key in this file is refused and not copied into study.json.
    parse_config(BuildConfig, read_config(config.start.build), config.start.build)
    now = config.model_dump(exclude={"out", "run"}) | {"base_sha256": model_identity(config.base)}
    now["grpo"] = read_config(config.grpo)  # the content of the files, not their paths
    now["start"] |= {key: read_config(getattr(config.start, key)) for key in ("build", "sft")}
    inputs = ("problems/train", "problems/rl", "problems/heldout", "build/traces.jsonl")
    now["inputs"] = {
        name: fingerprint(Path(config.run) / name) for name in inputs if (Path(config.run) / name).exists()
    }
    now = json.loads(json.dumps(now))
    if (before := study.known()) is not None:
        changed = [*changes({**before, "arms": {}}, {**now, "arms": {}})]
        for name, arm in before["arms"].items():
            other = now["arms"].get(name, {"seeds": 0})
            changed += changes({name: {**arm, "seeds": 0}}, {name: {**other, "seeds": 0}}, "arms.")
            changed += [f"arms.{name}.seeds"] * (other["seeds"] < arm["seeds"])
        study.refuse(changed)
    study.write(now)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    watch_sigterm()
    try:
        path, overrides = parse_arguments(sys.argv[1:] if argv is None else argv, "benchmarks.study.run")
        minutes, only = overrides.pop("minutes", None), overrides.pop("only", None)
        if minutes is not None and not isinstance(minutes, int | float):
            raise ConfigError("--minutes needs a number, such as --minutes 120.")
        result = run_study(load_study(Path(path), overrides), minutes, only)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Stopped; finished units are kept, and the same command resumes.", file=sys.stderr)
        return stopped_code()
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
