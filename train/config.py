"""The config of a training stage: TRL's arguments and the stage's own options, from one mapping.

TRL's own parser lets ``num_generations: [1, 2]`` and ``max_completion_length: 12.7`` pass, and on a machine without an
accelerator it fails on bf16 before it names an unknown key. So keys and types are checked (``configs.schema``) before TRL
sees them.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from configs import bundled_config
from configs.api_key import refuse_passwords
from configs.errors import ConfigError, UserError
from configs.overrides import read_config
from configs.packages import needs
from configs.processes import joining, settle_processes
from configs.schema import check_keys, fields_of, parse_config
from configs.versions import is_installed
from train.precision import Choice, Precision, resolve
from train.resume import Resumption, course, resumption

_PROCESSES: ContextVar[int | None] = ContextVar("processes", default=None)


@contextlib.contextmanager
def as_if(processes: int | None) -> Iterator[None]:
    """Inside this, configs are checked as by one of so many processes, though there is only this one."""
    token = _PROCESSES.set(processes)
    try:
        yield
    finally:
        _PROCESSES.reset(token)


def _for_processes(trl_class: type) -> type:
    processes = _PROCESSES.get()
    if processes is None:
        return trl_class
    return type(trl_class.__name__, (trl_class,), {"world_size": property(lambda self: processes)})


@dataclass
class Stage:
    """A checked config: TRL's arguments, our options, and the plain settings they came from (for the run's record).

    In ``settings`` the precision is the resolved one. ``course`` (``train.resume.course``) is that of ``args``, in which
    ``resumption`` has changed what keeps the rows of a step.
    """

    args: Any
    options: Any
    settings: dict[str, Any]
    precision: Precision
    course: dict[str, Any]
    resumption: Resumption


def load_stage(
    source: str | Path | Mapping[str, Any],
    options_class: type,
    trl_class: type,
    required: Sequence[str],
    defaults: Mapping[str, Any],
    refused: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> Stage:
    """Read, check and build the config of a training stage.

    Args:
        required: keys without which the stage cannot start.
        defaults: values that this project sets in place of TRL's own, for keys that the config leaves out.
        refused: keys of TRL that another key of this project stands for, with the reason.

    Raises:
        ConfigError: anything wrong with a key, a type or a value, in one sentence; or see ``configs.processes``.
        UserError: the other processes do not come.
    """
    given = read_config(source, overrides)
    where = given.where
    for key, reason in refused.items():
        if given.get(key) not in (None, False, defaults.get(key)):
            raise ConfigError(f"'{key}' in {where}: {reason}")
    checked = check_keys(given, options_class, trl_class, where=where)
    refuse_passwords(checked, where)  # all of them are kept in the run's folder
    for key in required:
        if not checked.get(key):
            raise ConfigError(f"{where} must say '{key}'.")
    if isinstance(checked.get("deepspeed"), str):
        checked["deepspeed"] = _deepspeed_file(checked["deepspeed"], where)
    if checked.get("deepspeed") and not is_installed("deepspeed"):  # TRL's arguments cannot even be built
        raise UserError(needs("deepspeed", "deepspeed"))
    settings = {**defaults, **checked}
    ours = {key: value for key, value in settings.items() if key in fields_of(options_class)}
    theirs = {key: value for key, value in settings.items() if key not in ours}
    precision = resolve(settings, where)
    # Before TRL's arguments are built: they and DeepSpeed's config take it from here.
    theirs |= {"bf16": precision.name == "bfloat16", "fp16": precision.name == "float16"}
    if precision.name in get_args(Choice):
        settings["precision"] = precision.name
    options = parse_config(options_class, ours, where)
    processes = settle_processes()  # TRL's arguments open the process group
    count = _PROCESSES.get() or processes.count
    resumed = resumption(settings, count)
    theirs |= resumed.keys
    try:
        with warnings.catch_warnings(), joining(processes):
            # TRL itself sets the key under its former name
            warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)
            args = _for_processes(trl_class)(**{**_device_defaults(checked), **theirs})
    except (ValueError, TypeError, ImportError) as error:
        if resumed.refusal is not None:  # the likelier reason
            raise resumed.refusal from None
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from None
    return Stage(args, options, settings, precision, course(vars(args), count), resumed)


def _deepspeed_file(name: str, where: str) -> str:
    """The DeepSpeed config of that name: as given, or the one of this project that stands under ``configs/``."""
    bundled = bundled_config(name.removeprefix("configs/"))
    for path in (Path(name), bundled):
        if path.is_file():
            return str(path)
    raise ConfigError(f"'deepspeed' in {where}: there is no file {name}; this project's are under configs/deepspeed/.")


def _device_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without an accelerator: the CPU, no pinned memory."""
    import torch

    if torch.accelerator.is_available() and not given.get("use_cpu"):
        return {}
    return {"use_cpu": True, "dataloader_pin_memory": False}
