"""Resume with another number of processes, and check what a checkpoint must hold to be resumed.

A step takes ``per_device_train_batch_size x gradient_accumulation_steps x processes`` rows. Trainer computes the position in an
epoch, the number of steps and the learning rate from the present product, so a run that resumes with another product would
silently train differently. Here the product stays: ``gradient_accumulation_steps`` is adapted to the number of processes.

Each complete checkpoint holds a mark (``train.checkpoints.KeepCheckpoints``) with the ``course`` of the processes that wrote it,
and so does ``settings.json``. In checkpoints of earlier versions the mark is empty, and settings and files tell the course.
"""

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.provenance import COMPLETE
from configs.run_dir import changes, read_record
from train.checkpoints import is_final, last_checkpoint

CUT = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "generation_batch_size")
"""The keys that divide the rows of a step and of a generation; only ``rows_a_step`` and ``rows_a_generation`` must stay."""
PER_DEVICE, ACCUMULATION, PER_GENERATION, GENERATION = CUT
DEFAULTS = {PER_DEVICE: 8, ACCUMULATION: 1}  # Trainer's
# Keys of a DeepSpeed config that affect memory and communication only.
DEEPSPEED_FREE = (
    "overlap_comm",
    "contiguous_gradients",
    "reduce_scatter",
    "allgather_partitions",
    "pin_memory",
    "sub_group_size",
)
DEEPSPEED_FREE_ENDS = ("_bucket_size", "_threshold", "max_live_parameters", "max_reuse_distance", "steps_per_print")


def course(settings: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """What must stay the same when a run resumes.

    Args:
        settings: keys of a training config, or ``vars`` of TRL's arguments.

    Returns:
        ``processes``, ``rows_a_step``, ``rows_a_generation`` (GRPO only, else None), ``bound`` (why the number of processes
        must stay, or None if it may change), ``zero`` (DeepSpeed's stage, or None) and ``deepspeed`` (its config, or None).
    """
    rows = rows_at_once(settings, processes)
    step = rows * (settings.get(ACCUMULATION) or DEFAULTS[ACCUMULATION])
    generation = settings.get(GENERATION) or rows * (settings.get(PER_GENERATION) or step // rows)
    generates = any(settings.get(key) for key in ("problems", "num_generations", PER_GENERATION, GENERATION))
    deepspeed = deepspeed_config(settings.get("deepspeed"))
    return {
        "processes": processes,
        "rows_a_step": step,
        "rows_a_generation": generation if generates else None,
        "bound": bound(settings),
        "zero": None if deepspeed is None else int(deepspeed.get("zero_optimization", {}).get("stage", 0)),
        "deepspeed": deepspeed,
    }


def rows_at_once(settings: Mapping[str, Any], processes: int) -> int:
    """The rows of one forward, summed over all processes."""
    accelerator = settings.get("accelerator_config")
    split = (
        accelerator.get("split_batches")
        if isinstance(accelerator, Mapping)
        else getattr(accelerator, "split_batches", 0)
    )
    return int(settings.get(PER_DEVICE) or DEFAULTS[PER_DEVICE]) * (1 if split else processes)


def bound(settings: Mapping[str, Any]) -> str | None:
    """Why a run with these settings can be resumed only by the same number of processes; None if any number can."""
    by_accelerate = {
        name for name in ("DEEPSPEED", "FSDP") if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"
    }
    if settings.get("deepspeed") or "DEEPSPEED" in by_accelerate:
        return "DeepSpeed divides the optimizer state among them"
    if settings.get("fsdp") or "FSDP" in by_accelerate:
        return "FSDP divides the weights among them"
    if settings.get("parallelism_config"):
        return "parallelism_config divides the model among them"
    if settings.get("auto_find_batch_size"):
        return "auto_find_batch_size may have changed the rows of a step"
    if settings.get("average_tokens_across_devices") is False:
        return "with average_tokens_across_devices: false the weight of a row depends on their number"
    return None


def deepspeed_config(given: Any) -> dict[str, Any] | None:
    """DeepSpeed's config as a mapping, from a mapping or a file; None if there is none or it cannot be read."""
    if not given or isinstance(given, Mapping):
        return dict(given) if given else None
    try:
        return dict(json.loads(Path(given).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # DeepSpeed reports what is wrong with it
        return None


def possible_numbers(settings: Mapping[str, Any]) -> list[int]:
    """The numbers of processes that can share the rows of a step, and of a generation, evenly; see ``divide_rows``."""
    rows, generation = _meant_rows(settings)
    shared = math.gcd(rows, generation)
    return [number for number in range(1, shared + 1) if shared % number == 0]


def divide_rows(settings: Mapping[str, Any], processes: int) -> dict[str, int]:
    """The keys with which ``processes`` processes take, in a step, the rows that a config means for its ``gpus`` (default 1).

    No process takes more rows at once than the config says, so the memory of a GPU suffices. Keys that keep their value are left
    out. ``processes`` is one of ``possible_numbers``.
    """
    rows, generation = _meant_rows(settings)
    if rows_at_once(settings, 1) == rows_at_once(settings, 2):  # split_batches: a batch is that of all processes
        return {}
    share = math.gcd(rows, generation) // processes
    size = max(number for number in range(1, min(_given(settings, PER_DEVICE), share) + 1) if share % number == 0)
    keys = {PER_DEVICE: size, ACCUMULATION: rows // (size * processes)}
    if settings.get(PER_GENERATION):
        keys[PER_GENERATION] = generation // (size * processes)
    if settings.get("gpus"):
        keys["gpus"] = processes
    return {key: value for key, value in keys.items() if value != _given(settings, key)}


def _meant_rows(settings: Mapping[str, Any]) -> tuple[int, int]:
    meant = course(settings, settings.get("gpus") or 1)
    return meant["rows_a_step"], meant["rows_a_generation"] or meant["rows_a_step"]


def changed_deepspeed(before: Any, now: Any) -> list[str]:
    """The keys in which two DeepSpeed configs differ, except those that may change on a resume."""
    changed = changes({"deepspeed": before}, {"deepspeed": now})
    names = {place: place.rpartition(".")[2] for place in changed}
    return [
        place for place, name in names.items() if name not in DEEPSPEED_FREE and not name.endswith(DEEPSPEED_FREE_ENDS)
    ]


def read_course(known: Mapping[str, Any], checkpoint: Path | None) -> dict[str, Any]:
    """The ``course`` of a run, from its checkpoint's mark, else from its ``settings.json`` (``known``), of any version."""
    mark = read_mark(checkpoint) if checkpoint is not None else {}
    if "rows_a_step" in mark:
        return mark
    found = known.get("course")
    processes = _writers(checkpoint) or known.get("processes") or 1
    if not found:
        return course(known.get("settings", {}), int(mark.get("processes", processes)))
    return {**found, "processes": mark.get("processes", processes)}


def read_mark(checkpoint: Path) -> dict[str, Any]:
    """The mark of a complete checkpoint; empty if an earlier version wrote it."""
    return read_record(checkpoint / COMPLETE)


def _writers(checkpoint: Path | None) -> int:
    """The number of processes whose random state is in a checkpoint; 0 if none."""
    if checkpoint is None:
        return 0
    return len(list(checkpoint.glob("rng_state_*.pth"))) or int((checkpoint / "rng_state.pth").exists())


@dataclass(frozen=True)
class Resumption:
    """How the run in an output folder is resumed, decided before anything loads.

    Attributes:
        keys: keys of the config with the values that replace its own.
        message: the line to print about them.
        refusal: why the run cannot be resumed.
    """

    keys: dict[str, int] = field(default_factory=dict)
    message: str | None = None
    refusal: UserError | None = None

    def confirm(self, main: bool) -> None:
        """Print the message, or raise the refusal."""
        if self.refusal is not None:
            raise self.refusal
        if self.message is not None and main:
            print(self.message, flush=True)


def resumption(settings: Mapping[str, Any], processes: int) -> Resumption:
    """How ``processes`` processes resume the run in a config's ``output_dir``; empty if there is no run.

    Any number of processes can resume a run whose last step is done. If the user changed the division of the rows (``CUT``),
    nothing is adapted: ``train.run_folder`` compares the settings and may refuse them.
    """
    folder = Path(settings["output_dir"])
    found, known = last_checkpoint(folder, remove_torn=False), read_record(folder / "settings.json")
    checkpoint, ended = found[0] if found else None, (folder / "summary.json").exists()
    if checkpoint is None and not ended:
        return Resumption()
    before = read_course(known, checkpoint)
    if checkpoint is not None and not ended:
        if (lacking := missing_part(checkpoint, before)) is not None:
            return Resumption(
                refusal=UserError(f"{checkpoint} cannot be resumed: {lacking}. {_other_ways(checkpoint)}")
            )
        ended = is_final(checkpoint)
    if not ended and processes != before["processes"] and (why := before.get("bound") or bound(settings)) is not None:
        again = f"start it with {_several(before['processes'])}"
        if checkpoint is not None and _has_weights(checkpoint):
            again += f", or begin another output_dir with model: {checkpoint} (its weights; the optimizer begins anew)"
        return Resumption(
            refusal=UserError(
                f"{folder} holds an interrupted run of {_several(before['processes'])}, which {_several(processes)} cannot resume, "
                f"since {why}: {again}."
            )
        )
    if "settings" in known and any(_given(known["settings"], key) != _given(settings, key) for key in CUT):
        return Resumption()
    return _keep_rows(settings, before, processes, folder, ended)


def _keep_rows(
    settings: Mapping[str, Any], before: Mapping[str, Any], processes: int, folder: Path, ended: bool
) -> Resumption:
    """The values of ``CUT`` with which a step and a generation keep their rows."""
    rows, at_once = before["rows_a_step"], rows_at_once(settings, processes)
    generation = before.get("rows_a_generation") or rows
    keys = {ACCUMULATION: rows // at_once}
    if settings.get(PER_GENERATION):
        keys[PER_GENERATION] = generation // at_once
    if rows % at_once or generation % at_once:
        if ended:  # nothing is trained, so any values that TRL accepts will do
            whole = math.lcm(generation, at_once)
            return Resumption(
                {ACCUMULATION: whole // at_once, **({PER_GENERATION: whole // at_once} if len(keys) > 1 else {})}
            )
        return Resumption(refusal=_cannot_share(settings, rows, generation, processes, folder))
    keys = {key: value for key, value in keys.items() if value != _given(settings, key)}
    if not keys or ended:
        return Resumption(keys)
    changes = ", ".join(f"{key} {_given(settings, key)} -> {value}" for key, value in keys.items())
    was = before["processes"]
    instead = f" instead of {was}" if was != processes else ""
    return Resumption(
        keys, f"resuming with {_several(processes)}{instead}: {changes}, so that a step keeps its {rows} rows"
    )


def _cannot_share(settings: Mapping[str, Any], rows: int, generation: int, processes: int, folder: Path) -> UserError:
    """The refusal, with values that would work."""
    size, shared = _given(settings, PER_DEVICE), math.gcd(rows, generation)
    numbers = [str(number) for number in range(1, shared + 1) if shared % (size * number) == 0]
    ways = [f"start it with {' or '.join(numbers)} process{'es' if numbers != ['1'] else ''}"] if numbers else []
    sizes = [number for number in range(1, shared + 1) if shared % (number * processes) == 0]
    for number in sizes[-1:]:
        cut = {PER_DEVICE: number, ACCUMULATION: rows // number // processes}
        if settings.get(PER_GENERATION):
            cut[PER_GENERATION] = generation // number // processes
        ways.append("set " + ", ".join(f"{key}: {value}" for key, value in cut.items()))
    takes = f"{rows} rows" if rows == generation else f"{rows} rows and a generation {generation}"
    return UserError(
        f"A step of the interrupted run in {folder} takes {takes}, which {_several(processes)} with {PER_DEVICE} {size} "
        f"cannot share evenly: {', or '.join(ways) or 'choose another output_dir'}."
    )


def _given(settings: Mapping[str, Any], key: str) -> Any:
    value = settings.get(key)
    return DEFAULTS.get(key) if value is None else value


def _several(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def missing_part(checkpoint: Path, before: Mapping[str, Any]) -> str | None:
    """What a complete checkpoint lacks for a resume, or None. transformers would silently resume without some of its files.

    A run whose last step is done needs only the weights.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        final = state["global_step"] >= state["max_steps"]
    except FileNotFoundError:
        return "trainer_state.json is not there"
    except (OSError, ValueError, TypeError, KeyError):
        return "trainer_state.json is damaged"
    sizes = read_mark(checkpoint).get("files", {})
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is not there"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} of {size} bytes"
    if final:
        return None
    needed = _state_files(checkpoint, before)
    if sizes:  # with save_on_each_node, the random states of other nodes are theirs
        needed = [name for name in needed if name in sizes or not name.startswith("rng_state_")]
    absent = [name for name in needed if not (checkpoint / name).is_file()]
    if absent:
        saved_model_only = len(absent) == len(needed)
        return f"{absent[0]} is not there" + (" (save_only_model leaves the state of training out)" * saved_model_only)
    torn = [
        name for name in needed if name not in sizes and name != "latest" and not zipfile.is_zipfile(checkpoint / name)
    ]
    return f"{torn[0]} is damaged" if torn else None


def _state_files(checkpoint: Path, before: Mapping[str, Any]) -> list[str]:
    """The files that a resume reads besides weights and ``trainer_state.json``."""
    processes = before["processes"]
    random = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    why = before.get("bound") or ""
    if "DeepSpeed" in why:
        latest = checkpoint / "latest"
        folder = checkpoint / (latest.read_text(encoding="utf-8").strip() if latest.is_file() else "none")
        # Without ZeRO the optimizer's state is in the same file as the weights.
        parts = sorted(folder.glob("*_optim_states.pt" if before.get("zero") else "*_model_states.pt"))
        states = [str(part.relative_to(checkpoint)) for part in parts] or ["the optimizer state of DeepSpeed"]
        return ["latest", *states, *random]
    if "FSDP" in why:
        return ["scheduler.pt", *random]
    return ["optimizer.pt", "scheduler.pt", *random]


def _has_weights(checkpoint: Path) -> bool:
    """Whether a checkpoint can be loaded as a model: it has all weights, not only an adapter or the shards of each process."""
    names = ("model.safetensors", "model.safetensors.index.json")
    return (checkpoint / "config.json").is_file() and any((checkpoint / name).is_file() for name in names)


def _other_ways(checkpoint: Path) -> str:
    steps = [mark.parent.name.rpartition("-")[2] for mark in checkpoint.parent.glob(f"checkpoint-*/{COMPLETE}")]
    earlier = sorted(int(step) for step in steps if step.isdigit() and checkpoint.name != f"checkpoint-{step}")
    ways = [f"Remove that folder to resume from checkpoint-{earlier[-1]}" if earlier else "Remove it to train again"]
    if _has_weights(checkpoint):
        ways.append(f"begin another output_dir with model: {checkpoint} (its weights; the optimizer begins anew)")
    return ", or ".join(ways) + "."


def begin_random_numbers(args: Any, checkpoint: Path, step: int) -> None:
    """If the number of processes has changed, seed each one from seed, step and rank.

    The checkpoint has no random state for this number, and Trainer would repeat the random numbers of the first steps.
    """
    from transformers import set_seed

    if read_course({}, checkpoint)["processes"] != args.world_size:
        set_seed((args.seed + 1_000_003 * step + args.process_index) % 2**32)
