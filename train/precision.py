"""``precision: auto | bfloat16 | float32``: the arithmetic of a training stage. Resolved here and nowhere else.

``auto`` is bfloat16 autocast if the processor or GPU is fast at it (``configs.machine``), else float32. TRL's own ``bf16`` and
``fp16`` also work and count as an explicit choice. A run keeps the precision that it began with: a resume on another machine
computes as before, and an explicit change is refused like that of any other setting. No heavy imports here, because
``reflection_v`` reads records with it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from configs.errors import ConfigError, UserError
from configs.machine import bfloat16_is_fast, measure_bfloat16, processor
from configs.provenance import begun

Choice = Literal["auto", "bfloat16", "float32"]

KEYS = ("precision", "bf16", "fp16")
"""The keys of a stage's config that set the precision."""


@dataclass(frozen=True)
class Precision:
    """A resolved precision.

    Attributes:
        name: ``bfloat16``, ``float32``, or ``float16`` (by TRL's ``fp16`` alone).
        source: ``auto``, ``config`` (an explicit choice), or ``default`` (not set: TRL's choice on the device).
        device: the type of the device that computes.
        run: the folder of the resumed run that began with it.
    """

    name: str
    source: Literal["auto", "config", "default"]
    device: str
    run: str | None = None

    def __str__(self) -> str:
        if self.run is not None:
            return f"precision: {self.name} ({self.source}: the run in {self.run} began with it)"
        if self.source != "auto":
            return f"precision: {self.name}"
        thing = "processor" if self.device == "cpu" else f"device, {self.device},"
        why = f"this {thing} is fast at it" if self.name == "bfloat16" else f"this {thing} has no fast bfloat16"
        return f"precision: {self.name} (auto: {why})"


def stated(config: Mapping[str, Any], where: str = "the config") -> str | None:
    """The precision that a stage's config (or the recorded settings of a run) sets: a name, ``auto``, or None if not set.

    Raises:
        ConfigError: ``precision``, ``bf16`` and ``fp16`` contradict each other.
    """
    chosen = config.get("precision")
    if config.get("bf16") and config.get("fp16"):
        raise ConfigError(f"'bf16' and 'fp16' in {where} are both true: remove one of them.")
    given = "bfloat16" if config.get("bf16") else "float16" if config.get("fp16") else None
    if given is None and config.get("bf16") is False:
        given = "float32"
    if chosen in (None, "auto"):
        return given or chosen
    if given not in (None, chosen):
        key = "fp16" if given == "float16" else "bf16"
        raise ConfigError(
            f"'precision: {chosen}' and '{key}: {str(config[key]).lower()}' in {where} contradict each other: remove {key} "
            f"(or give --{key} null)."
        )
    return chosen


def recorded(folder: str | Path) -> str | None:
    """The precision of the run in a folder; None if nothing was saved there yet."""
    file = Path(folder) / "settings.json"
    if not begun(folder) or not file.exists():
        return None
    try:
        settings = json.loads(file.read_text(encoding="utf-8")).get("settings", {})
    except (OSError, ValueError, AttributeError):  # the resume reports what is wrong with the file
        return None
    # Earlier versions recorded bf16 and fp16, or neither of them for TRL's choice.
    return _explicit(stated(settings)) or default(device_type(settings))


def resolve(config: Mapping[str, Any], where: str = "the config") -> Precision:
    """The precision of a stage with this checked config, on this machine and in its ``output_dir``.

    Raises:
        ConfigError: see ``stated``.
    """
    choice, device = stated(config, where), device_type(config)
    if (explicit := _explicit(choice)) is not None:
        return Precision(explicit, "config", device)
    source: Literal["auto", "default"] = "auto" if choice == "auto" else "default"
    if config.get("output_dir") and (before := recorded(config["output_dir"])) is not None:
        return Precision(before, source, device, run=str(config["output_dir"]))
    return Precision(fastest(device) if choice == "auto" else default(device), source, device)


def fastest(device: str) -> str:
    """What ``auto`` resolves to on a device of this type."""
    return "bfloat16" if bfloat16_is_fast(device) else "float32"


def default(device: str) -> str:
    """The precision if a config sets none: float32 on a CPU, else bfloat16, as in TRL."""
    return "float32" if device == "cpu" else "bfloat16"


def device_type(config: Mapping[str, Any]) -> str:
    """The type of the device on which a stage with this config trains on this machine."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if accelerator is None or config.get("use_cpu") else str(accelerator.type)


def comparable(
    before: Mapping[str, Any], now: Mapping[str, Any], folder: str | Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A stage's recorded and present config for a comparison, each with one ``precision`` in place of ``KEYS``.

    The recorded precision is that of the run in ``folder``. The present config takes it over unless it sets one explicitly. If
    nothing was saved there, no result depends on the precision, and both configs have none.
    """
    old, new = ({key: value for key, value in one.items() if key not in KEYS} for one in (before, now))
    held = recorded(folder)
    if held is not None:
        old, new = {**old, "precision": held}, {**new, "precision": _explicit(stated(now)) or held}
    return old, new


def announce(precision: Precision, main: bool) -> None:
    """Print the precision, and a warning if it is slow on this machine.

    Raises:
        UserError: the processes that train together have resolved different ones.
    """
    _agree(precision)
    if not main:
        return
    print(precision, flush=True)
    if (warning := slow_here(precision)) is not None:
        print(warning, flush=True)


def slow_here(precision: Precision) -> str | None:
    """A warning with the measured ratio if bfloat16 was chosen on a device that is slow at it, else None."""
    if precision.name != "bfloat16" or bfloat16_is_fast(precision.device):
        return None
    ratio = measure_bfloat16(device_type=precision.device).value
    if ratio <= 1:
        return None
    sets = ", ".join(processor().instructions) or "instruction sets unknown"
    here = f"processor ({sets}; measured)" if precision.device == "cpu" else f"device ({precision.device}; measured)"
    kept = precision.run is not None
    remedy = "a new run with precision: auto or float32" if kept else "precision: auto or float32"
    return f"bfloat16 takes {ratio:.1f} times as long as float32 on this {here}: {remedy} is faster."


def _explicit(choice: str | None) -> str | None:
    return None if choice == "auto" else choice


def _agree(precision: Precision) -> None:
    from train.distributed import world_size

    if world_size() == 1:
        return
    import torch

    names: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(names, precision.name)
    if len(set(names)) > 1:
        raise UserError(
            f"'precision: auto' resolves differently on the machines of this run (processes 0 to {len(names) - 1}: "
            f"{', '.join(names)}): set precision: bfloat16 or precision: float32."
        )
