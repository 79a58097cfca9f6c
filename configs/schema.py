"""One checker for every config of the project, whether it is defined by dataclasses or by a pydantic model.

TRL's configs are dataclasses that silently accept any type; the configs of this project are dataclasses or pydantic models.
Keys and types of both are checked here against their type hints, with the same messages. Ranges and validators of a pydantic
model are then checked by pydantic.
"""

import dataclasses
import difflib
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from configs.api_key import check_variable
from configs.errors import ConfigError
from configs.model_name import check_model_name

# Checked when a config is read, so that a key or a password in it gets into no file and no error message.
ModelName = Annotated[str, AfterValidator(check_model_name)]
KeyVariable = Annotated[str | None, BeforeValidator(check_variable)]

MOST_NAMED = 20
"""If no known key resembles an unknown one, all are listed up to this number; TRL's configs have about two hundred."""
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
_NO_MATCH = object()
_SHORT = reprlib.Repr()  # a value may be nested without end, or unfold to more than fits into memory
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = 30
_SHORT.maxlevel = 3


class StrictModel(BaseModel):
    """A config as a pydantic model: no unknown keys, no conversion of types, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def check_keys(data: Mapping[str, Any], *classes: type, where: str | Path = "the config") -> dict[str, Any]:
    """Check that every key of ``data`` is a field of one of ``classes`` and that its value has the field's type.

    Args:
        classes: dataclasses or pydantic models, whose fields together are the known keys.
        where: names the config in error messages, usually by its file.

    Returns:
        The data with values converted where YAML is only clumsy: ``1e-4``, which it reads as text, where a number is
        wanted. Nested configs are checked alike and stay mappings.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value of another type (with the wanted and the
        found).
    """
    return _check_mapping(data, classes, "", where)


def parse_config(cls: type, data: Mapping[str, Any], where: str | Path = "the config") -> Any:
    """An instance of ``cls``, a dataclass or a pydantic model, from a mapping; nested configs become instances too.

    Raises:
        ConfigError: see ``check_keys``; also a missing key, or a value that the class refuses.
    """
    return _build(cls, check_keys(data, cls, where=where), "", where)


@lru_cache
def fields_of(cls: Any) -> dict[str, Any]:
    """The keys of a config class with their type hints."""
    hints = typing.get_type_hints(cls)
    if issubclass(cls, BaseModel):
        return {name: hints[name] for name in cls.model_fields}
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def describe_value(value: Any) -> str:
    """A value with its kind, for error messages: ``'8' (text)``."""
    if value is None:
        return "nothing"
    kind = _NAMES.get(type(value), type(value).__name__)
    kind = "a list" if isinstance(value, list | tuple) else "keys and values" if isinstance(value, Mapping) else kind
    try:
        text = _SHORT.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = "a very long number"
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kind})"


def _check_mapping(data: Mapping[str, Any], classes: Iterable[type], path: str, where: str | Path) -> dict[str, Any]:
    hints = {name: hint for cls in classes for name, hint in fields_of(cls).items()}
    checked = {}
    for key, value in data.items():
        name = f"{path}{key}"
        if key == "base" and key not in hints:
            raise ConfigError(
                f"'base' in {where} must name a YAML file, and can be set only in a file; found {describe_value(value)}."
            )
        if key not in hints:
            near = nearest(str(key), hints) or (f"; known are {', '.join(hints)}." if len(hints) <= MOST_NAMED else ".")
            raise ConfigError(f"Unknown key '{name}' in {where}{near}")
        if key == "api_key_env":
            check_variable(value)  # before its value is repeated in an error message
        checked[key] = _check_value(value, hints[key], name, where)
    return checked


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'X'?`` for the end of an error message; empty if no known word resembles this one."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _check_value(value: Any, hint: Any, name: str, where: str | Path) -> Any:
    """``value`` converted to its type hint; ConfigError if it does not match."""
    kinds = _alternatives(hint)
    if any(_is(kind, Enum) for kind in kinds):  # "SchedulerType | str" wants the name of a scheduler, not any text
        kinds = tuple(kind for kind in kinds if kind is not str)
    for kind in kinds:
        matched = _match(value, kind, name, where)
        if matched is not _NO_MATCH:
            return matched
    known = [choice for kind in kinds for choice in _choice_names(kind)]
    if known and isinstance(value, str):
        near = nearest(value, known) or f"; known are {', '.join(known)}."
        raise ConfigError(f"'{name}' in {where}: unknown value '{value}'{near}")
    raise ConfigError(f"'{name}' in {where}: wanted {_wanted(hint)}, found {describe_value(value)}.")


def _match(value: Any, kind: Any, name: str, where: str | Path) -> Any:
    """``value`` converted to one alternative of a type hint, or ``_NO_MATCH``; ConfigError if something inside it is wrong."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:  # True == 1, but True does not match Literal[1]
        matches = any(value == choice and type(value) is type(choice) for choice in arguments)
    elif _is(kind, Enum):
        if value is False and any(member.value == "no" for member in kind):
            return "no"  # YAML 1.1 reads the word no as false
        matches = any(value in (member, member.value) for member in kind)
    elif kind is float:
        return _as_float(value)
    elif kind is int:
        matches = isinstance(value, int) and not isinstance(value, bool)
    elif kind is str and isinstance(value, Path):
        return str(value)
    elif origin is dict and isinstance(value, Mapping):
        inner = arguments[1] if arguments else Any
        return {str(key): _check_value(item, inner, f"{name}.{key}", where) for key, item in value.items()}
    elif origin is list and isinstance(value, Sequence) and not isinstance(value, str):
        inner = arguments[0] if arguments else Any
        return [_check_value(item, inner, f"{name}[{number}]", where) for number, item in enumerate(value)]
    elif _is_config(kind) and isinstance(value, Mapping):
        return _check_mapping(value, (kind,), f"{name}.", where)
    else:
        matches = _is(origin, object) and isinstance(value, origin)
    return value if matches else _NO_MATCH


def _as_float(value: Any) -> Any:
    if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text, and only 1.0e-4 as a number
        try:
            return float(value)
        except ValueError:
            return _NO_MATCH
    return value if isinstance(value, int | float) and not isinstance(value, bool) else _NO_MATCH


def _build(cls: Any, data: Mapping[str, Any], path: str, where: str | Path) -> Any:
    """An instance of ``cls`` from checked data."""
    if issubclass(cls, BaseModel):
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_problem_sentence(error.errors()[0], where)) from None
    hints = fields_of(cls)
    values = {key: _instances(value, hints[key], f"{path}{key}", where) for key, value in data.items()}
    for field in dataclasses.fields(cls):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.init and field.name not in values:
            raise ConfigError(f"The key '{path}{field.name}' is missing in {where}.")
    return cls(**values)


def _instances(value: Any, hint: Any, name: str, where: str | Path) -> Any:
    """A checked value whose nested configs are converted to instances."""
    for kind in _alternatives(hint):
        if _is_config(kind) and isinstance(value, Mapping):
            return _build(kind, value, f"{name}.", where)
        if get_origin(kind) is dict and isinstance(value, Mapping):
            inner = get_args(kind)[1]
            return {key: _instances(item, inner, f"{name}.{key}", where) for key, item in value.items()}
    return value


def _problem_sentence(problem: Any, where: str | Path) -> str:
    """One of pydantic's errors as a sentence."""
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"The key '{name}' is missing in {where}."
    if problem["type"] == "value_error":
        return f"{where}: " + (f"'{name}': " if name else "") + f"{problem['ctx']['error']}."
    message = problem["msg"]
    if message.startswith("Input should be "):
        wish = message.removeprefix("Input should be ")
        return f"'{name}' in {where}: wanted a value {wish}, found {describe_value(problem['input'])}."
    return f"'{name}' in {where}: {message[0].lower()}{message[1:]}."


def _wanted(hint: Any) -> str:
    kinds = []
    for kind in _alternatives(hint):
        origin, arguments = get_origin(kind) or kind, get_args(kind)
        if choices := _choice_names(kind):
            kinds.append("one of " + ", ".join(choices))
        elif origin is list:
            kinds.append("a list" + (f" of {_wanted(arguments[0])}" if arguments else ""))
        elif origin is dict or _is_config(kind):
            kinds.append("keys and values")
        else:
            kinds.append(_NAMES.get(kind) or str(getattr(kind, "__name__", kind)))
    return " or ".join(dict.fromkeys(kinds))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _choice_names(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    return [str(member.value) for member in kind] if _is(kind, Enum) else []


def _is(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _is_config(kind: Any) -> bool:
    return _is(kind, BaseModel) or (isinstance(kind, type) and dataclasses.is_dataclass(kind))
