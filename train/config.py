"""One YAML a stage: keys and types are checked against the dataclasses before TRL's parser sees them.

TRL's own parser lets ``num_generations: [1, 2]`` and ``max_completion_length: 12.7`` pass, and on a machine without an
accelerator it fails on bf16 before it names an unknown key. So the front door is here: ``check_keys`` knows nothing of
TRL and serves every config of the project; ``load_stage`` builds TRL's arguments and a stage's own options from one
mapping.
"""

import contextlib
import dataclasses
import difflib
import types
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from configs import bundled_config
from configs.api_key import check_variable, refuse_passwords
from configs.errors import ConfigError, UserError
from configs.packages import needs
from configs.processes import joining, settle_processes
from configs.versions import is_installed
from train.precision import Choice, Precision, resolve
from train.resume import Resumption, course, resumption


def read_config(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The mapping in a YAML file (or a copy of the mapping given).

    Raises:
        ConfigError: the file is missing, not YAML, not a mapping, or names a key twice.
    """
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"There is no config at {path}; the project's own stand under configs/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The config {path} cannot be read: {error}.") from None
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"The config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"The config {path} must hold keys and values, found {_found(data)}.")
    return {str(key): value for key, value in data.items()}


class FileKeys(dict[str, Any]):
    """Keys that were read from the config ``file``, perhaps with others in their place; relative names are seen from its folder.

    A config that is read once and used later passes as this, so that it means the same as the file itself.
    """

    def __init__(self, file: str | Path, keys: Mapping[str, Any]) -> None:
        super().__init__(keys)
        self.file = Path(file)


def file_of(source: str | Path | Mapping[str, Any]) -> Path | None:
    """The file of a config; None for a mapping that comes from none."""
    if isinstance(source, Mapping):
        return source.file if isinstance(source, FileKeys) else None
    return Path(source)


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is twice there", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def merge(base: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """``base`` with ``overrides`` on top; nested mappings are merged key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in (overrides or {}).items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def check_keys(data: Mapping[str, Any], *classes: type, where: str = "the config") -> dict[str, Any]:
    """Check that every key of ``data`` is a field of one of the dataclasses and that its value has the field's type.

    Returns:
        The data with values converted where YAML is only clumsy: ``1e-4``, which it reads as text, where a number is
        wanted. Mappings for fields that are dataclasses themselves are checked alike and stay mappings.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value of another type (with the wanted and the
        found).
    """
    hints = {name: hint for cls in classes for name, hint in _fields(cls).items()}
    checked = {}
    for key, value in data.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise ConfigError(f"Unknown key '{key}' in {where}{hint}")
        if key == "api_key_env":
            check_variable(value)  # before its value is repeated in an error message
        checked[key] = _checked(value, hints[key], f"'{key}' in {where}")
    return checked


def build(cls: type, data: Mapping[str, Any], where: str = "the config") -> Any:
    """A dataclass from a mapping, checked by ``check_keys``; nested dataclasses are built too."""
    checked = check_keys(data, cls, where=where)
    hints = _fields(cls)
    for key, value in checked.items():
        inner = _dataclass_of(hints[key])
        if inner is not None and isinstance(value, Mapping):
            checked[key] = build(inner, value, f"'{key}' in {where}")
    return cls(**checked)


def _fields(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls) if item.init}


def _dataclass_of(hint: Any) -> type | None:
    return next(
        (kind for kind in _alternatives(hint) if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None
    )


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _checked(value: Any, hint: Any, name: str) -> Any:
    """``value`` as the type hint wants it, or ConfigError."""
    alternatives = _alternatives(hint)
    enums = [kind for kind in alternatives if isinstance(kind, type) and issubclass(kind, Enum)]
    if enums:  # "SchedulerType | str" wants the name of a scheduler, not any text
        alternatives = tuple(kind for kind in alternatives if kind is not str)
    for kind in alternatives:
        matches, result = _match(value, kind, name)
        if matches:
            return result
    literals = [kind for kind in alternatives if get_origin(kind) is Literal]
    known = [str(choice) for kind in literals for choice in get_args(kind)]
    known += [str(member.value) for kind in enums for member in kind]
    if known and isinstance(value, str):
        near = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
        hint_text = f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(known)}."
        raise ConfigError(f"{name}: unknown value '{value}'{hint_text}")
    raise ConfigError(f"{name}: wanted {_wanted(hint)}, found {_found(value)}.")


def _match(value: Any, kind: Any, name: str) -> tuple[bool, Any]:
    """Whether one alternative of a type hint takes the value, and as what."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return True, value
    if kind is type(None):
        return value is None, None
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments), value
    if isinstance(kind, type) and issubclass(kind, Enum):
        return any(value in (member, member.value) for member in kind), value
    if kind is bool:
        return isinstance(value, bool), value
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if kind is float:
        return _match_float(value)
    if kind is str:
        return isinstance(value, str | Path), str(value)
    if kind is dict or origin is dict:
        if not isinstance(value, Mapping):
            return False, value
        inner = arguments[1] if arguments else Any
        return True, {str(key): _checked(item, inner, f"'{key}' of {name}") for key, item in value.items()}
    if kind is list or origin is list:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False, value
        inner = arguments[0] if arguments else Any
        return True, [_checked(item, inner, f"an item of {name}") for item in value]
    if dataclasses.is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]
            return True, value
        return isinstance(value, Mapping), check_keys(value, kind, where=name) if isinstance(value, Mapping) else value  # type: ignore[arg-type]
    return isinstance(kind, type) and isinstance(value, kind), value


def _match_float(value: Any) -> tuple[bool, Any]:
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text: it wants 1.0e-4
        try:
            return True, float(value)
        except ValueError:
            return False, value
    return isinstance(value, int | float) and not isinstance(value, bool), value


def _wanted(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    said = []
    for kind in _alternatives(hint):
        origin, arguments = get_origin(kind), get_args(kind)
        if kind in names:
            said.append(names[kind])
        elif origin is Literal:
            said.append("one of " + ", ".join(str(choice) for choice in arguments))
        elif kind is list or origin is list:
            said.append("a list" + (f" of {_wanted(arguments[0])}" if arguments else ""))
        elif kind is dict or origin is dict or dataclasses.is_dataclass(kind):
            said.append("keys and values")
        elif isinstance(kind, type) and issubclass(kind, Enum):
            said.append("one of " + ", ".join(str(member.value) for member in kind))
        else:
            said.append(getattr(kind, "__name__", str(kind)))
    return " or ".join(dict.fromkeys(said))


def _found(value: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "nothing"}
    kind = "a list" if isinstance(value, list | tuple) else "keys and values" if isinstance(value, Mapping) else None
    kind = kind or kinds.get(type(value), type(value).__name__)
    return kind if value is None else f"{value!r} ({kind})"


def parse_arguments(argv: Sequence[str], command: str) -> tuple[str, dict[str, Any]]:
    """``--config C [--key value ...]`` to the config's path and the overrides (values are read as YAML).

    A dot reaches into a nested key (``--prompt_selection.samples 4``). ``--local_rank``, which launchers add, is passed
    over: the rank comes from the environment.

    Raises:
        ConfigError: no config, or a key without a value.
    """
    config: str | None = None
    overrides: dict[str, Any] = {}
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while words:
        key = words.pop(0)
        if not key.startswith("--"):
            if config is not None:
                raise ConfigError(f"{command}: unexpected '{key}'; usage: {command} --config C [--key value ...]")
            config = key
            continue
        if not words:
            raise ConfigError(f"{command}: '{key}' needs a value behind it.")
        value = words.pop(0)
        name = key[2:].replace("-", "_")
        if name == "config":
            config = value
        elif name != "local_rank":
            _set(overrides, name.split("."), _read_value(value, key))
    if config is None:
        raise ConfigError(f"{command} needs a config: {command} --config configs/tiny/... [--key value ...]")
    return config, overrides


def _set(target: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        target = target.setdefault(part, {})
    target[path[-1]] = value


def _read_value(text: str, key: str) -> Any:
    if key.endswith(("api_key_env", "api-key-env")):  # a key given in its place must not be repeated below
        return None if text == "null" else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"'{key}': the value {text!r} cannot be read; put special characters in quotes.") from None


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
    where = str(file_of(source) or "the config")
    given = merge(read_config(source), overrides)
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
    ours = {key: value for key, value in settings.items() if key in _fields(options_class)}
    theirs = {key: value for key, value in settings.items() if key not in ours}
    precision = resolve(settings, where)
    # Before TRL's arguments are built: they and DeepSpeed's config take it from here.
    theirs |= {"bf16": precision.name == "bfloat16", "fp16": precision.name == "float16"}
    if precision.name in get_args(Choice):
        settings["precision"] = precision.name
    options = build(options_class, ours, where)
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
