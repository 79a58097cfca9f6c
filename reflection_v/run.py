"""The stage runner: it skips finished stages, resumes an interrupted one, and adds up the seconds of its attempts.

The runner knows nothing about models. A stage is a function that writes into the run's folder and resumes from the files
there when it is called again. The runner adds these files:

    OUT/stages/NAME.json           of a finished stage: its config, counts, seconds, load, peak memory
    OUT/stages/NAME.running.json   of an unfinished stage: its config and the seconds so far
    OUT/logs/NAME.log              everything that the stage printed

A record holds the stage's whole config, so that a call with another config can be refused with the keys that changed.
"""

import contextlib
import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.errors import ConfigError, UserError
from configs.jsonl import temporary_beside
from configs.run_dir import RunDir, changes, disk_full, shorten
from configs.stopping import Stopped, stop_if_asked
from reflection_v.terminal import duration, heartbeat, printing_to

PLAIN: Any = {"highlight": False, "soft_wrap": True}  # lines for a person, not for a pretty printer


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: names its record and its log; the value of ``--only`` and ``--redo``.
        work: runs the stage and returns its counts (JSON). After an interruption it is called again and resumes.
        config: everything that decides the result (JSON). A finished stage is never reused under another config.
        needs: the stages whose outputs it reads.
        outputs: the paths it writes, relative to the run's folder. ``--redo`` removes these and nothing else.
        check: raises a UserError if the stage would fail. All checks run before the first stage.
        differs: compares the config of a record with this one and returns the differences by key. A stage whose config
            depends on the machine has its own rule.
    """

    name: str
    work: Callable[[], dict[str, Any]]
    config: dict[str, Any]
    needs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    check: Callable[[], object] | None = None
    differs: Callable[[dict[str, Any], dict[str, Any]], dict[str, str]] = changes


def run_stages(
    stages: list[Stage], out: Path, console: Console, only: str | None = None, redo: str | None = None
) -> dict[str, dict[str, Any]]:
    """Run the unfinished stages in order; returns the records of all finished ones.

    Args:
        only: run this stage alone; the stages that it needs must be finished.
        redo: first remove the results of this stage and of all that depend on it, directly or not.

    Raises:
        ConfigError: ``only`` or ``redo`` names no stage, or a stage has a record of another config.
        UserError: the folder cannot be written, is in use by another process, or the disk is full.
        Stopped: Ctrl-C or SIGTERM.
    """
    names = [stage.name for stage in stages]
    for option, name in (("--only", only), ("--redo", redo)):
        if name is not None and name not in names:
            raise ConfigError(f"{option} {name}: no such stage; choose from {', '.join(names)}.")
    outputs = tuple(output for stage in stages for output in stage.outputs)
    with RunDir(out, "run", outputs, lambda folder: (folder / "stages").is_dir()).held():
        _clear_leftovers(out)
        forgotten = [] if redo is None else _dependents(stages, redo)
        chosen = [stage for stage in stages if only in (None, stage.name)]
        for stage in stages:
            if stage.name not in forgotten:
                _refuse_other_config(stage, stages, out)
        for stage in chosen:
            if stage.check is not None and (stage.name in forgotten or stage_record(out, stage.name) is None):
                stage.check()
        _forget(
            [stage for stage in stages if stage.name in forgotten], out
        )  # last, so that a refused call removes nothing
        ran = [stage.name for stage in chosen if _skip_or_run(stage, out, console)]
        if not ran:
            console.print(
                "Nothing to do: " + ("every stage" if only is None else "the stage") + " is already finished."
            )
        return {name: record for name in names if (record := stage_record(out, name)) is not None}


def stage_dir(out: Path, name: str) -> RunDir:
    """The records of one stage. All stages of a run share its folder."""
    return RunDir(out, name, record=f"stages/{name}.running.json", result=f"stages/{name}.json")


def stage_record(out: Path, name: str) -> dict[str, Any] | None:
    """The record of a finished stage, or None."""
    return stage_dir(out, name).finished()


def _clear_leftovers(out: Path) -> None:
    """Remove half-written files, and outputs that an interrupted ``--redo`` had moved away."""
    for file in (out / "stages").glob(".*.json.*"):
        file.unlink()
    for folder in out.glob(".redo[.-]*"):
        shutil.rmtree(folder)


def _refuse_other_config(stage: Stage, stages: list[Stage], out: Path) -> None:
    records = stage_dir(out, stage.name)
    finished = records.finished()
    record = finished or records.known()
    if record is None:
        return
    changed = [f"{key}: {how}" for key, how in stage.differs(record["config"], _as_json(stage.config)).items()]
    if changed:
        later = _dependents(stages, stage.name)[1:]
        also = f" and the stages that depend on it ({', '.join(later)})" if later else ""
        raise ConfigError(
            f"Stage '{stage.name}' in {out} was {'finished' if finished else 'begun'} with another config "
            f"({'; '.join(changed[:3])}). Give another --out, or --redo {stage.name} to do it{also} again."
        )
    # Check the outputs here, or the next stage would fail with a less clear message.
    for output in stage.outputs if finished else ():
        if not (out / output).exists():
            raise UserError(f"Stage '{stage.name}' was finished, but {out / output} is gone: give --redo {stage.name}.")


def _skip_or_run(stage: Stage, out: Path, console: Console) -> bool:
    """Run the stage unless it is finished; returns whether it ran."""
    record = stage_record(out, stage.name)
    if record is not None:
        console.print(f"{stage.name:<9} already finished, in {duration(record['seconds'])}", **PLAIN)
        return False
    for need in stage.needs:
        if stage_record(out, need) is None:
            raise UserError(f"Stage '{stage.name}' needs '{need}', which is not finished: run that first.")
    stop_if_asked()
    _run(stage, out, console)
    return True


def _run(stage: Stage, out: Path, console: Console) -> None:
    config, records = _as_json(stage.config), stage_dir(out, stage.name)
    before = records.known() or {"seconds": 0.0, "attempts": 0}
    load, began = os.getloadavg()[0], time.monotonic()

    def running() -> dict[str, Any]:
        seconds = before["seconds"] + time.monotonic() - began
        return {"stage": stage.name, "config": config, "seconds": seconds, "attempts": before["attempts"] + 1}

    def note() -> None:
        """Write the progress record. On a full disk the older one stays; the stage itself reports the full disk."""
        with contextlib.suppress(OSError):
            records.write(running())

    log = out / "logs" / f"{stage.name}.log"
    try:
        log.parent.mkdir(exist_ok=True)
        records.write(running())
        with printing_to(log), heartbeat(stage.name, log, console, note):
            result = stage.work()
        state = running()
        records.finish(
            {
                "schema_version": 1,
                "stage": stage.name,
                "config_sha256": digest(config),
                "config": config,
                "result": result,
                "seconds": round(state["seconds"], 2),
                "attempts": state["attempts"],
                "load_average": {"start": round(load, 2), "end": round(os.getloadavg()[0], 2)},
                "peak_memory_gb": _peak_memory_gb(),  # of the largest process so far, so it never falls between stages
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        (out / records.record).unlink(missing_ok=True)
    except (KeyboardInterrupt, Stopped) as stop:
        note()
        raise Stopped(
            f"Stopped in stage '{stage.name}'. Give the same command again to resume; complete results in {out} are kept.",
            stop.exit_code if isinstance(stop, Stopped) else None,
        ) from None
    except Exception as error:
        note()
        console.print(f"{stage.name:<9} failed; its output is in {log}", style="red", **PLAIN)
        if disk_full(error):
            raise UserError(
                f"The disk is full: stage '{stage.name}' could not write into {out}. Complete results are kept: free "
                "some space and give the same command again."
            ) from None
        raise
    counts = [f"{key} {shorten(value)}" for key, value in result.items() if isinstance(value, int | float | str)]
    console.print(f"{stage.name:<9} done in {duration(state['seconds'])}  {', '.join(counts)}", **PLAIN)


def _forget(stages: list[Stage], out: Path) -> None:
    """Remove the records and outputs of stages, the last stage first.

    Outputs are moved away before the record is deleted. An interruption in between leaves a record without outputs, which
    the next call refuses. The reverse order could leave outputs without a record, from which the next call would resume.
    """
    with temporary_beside(out / "redo") as trash:
        trash.mkdir()
        for stage in reversed(stages):
            records = stage_dir(out, stage.name)
            if not (records.finished() or records.known()):
                continue
            for number, output in enumerate(stage.outputs):
                if (out / output).exists():
                    (out / output).rename(trash / f"{stage.name}-{number}")
            for file in (records.result, records.record):
                (out / file).unlink(missing_ok=True)


def _dependents(stages: list[Stage], name: str) -> list[str]:
    """``name`` and all stages that depend on it, directly or through others."""
    found = [name]
    for stage in stages:
        if stage.name not in found and set(stage.needs) & set(found):
            found.append(stage.name)
    return found


def digest(value: Any) -> str:
    """The SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _as_json(value: Any) -> Any:
    """The value as a record returns it: tuples become lists, keys become strings."""
    return json.loads(json.dumps(value))


def _peak_memory_gb() -> float:
    own, started = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    peak = max(resource.getrusage(who).ru_maxrss for who in (own, started))
    # ru_maxrss counts bytes on macOS and KiB on Linux.
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 2**30, 2)
