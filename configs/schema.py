"""One checker for every config of the project, whether a dataclass or a pydantic model says what it may hold."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError

from configs.api_key import check_variable
from configs.errors import ConfigError
from configs.model_name import check_model_name

# Checked when a config is read: a key or a password that stands in it must not get into a file or an error message.
ModelName = Annotated[str, AfterValidator(check_model_name)]
KeyVariable = Annotated[str | None, BeforeValidator(check_variable)]


def check_keys(data: Mapping[str, Any], *classes: type, where: str = "the config") -> dict[str, Any]:
    """Check that every key of ``data`` is a field of one of the dataclasses and that its value has the field's type.

    Returns:
        The data with values converted where YAML is only clumsy: ``1e-4``, which it reads as text, where a number is
        wanted. Mappings for fields that are dataclasses themselves are checked alike and stay mappings.

    Raises:
        ConfigError: an unknown key (with the nearest known one), or a value of another type (with the wanted and the
        found).
    """
    hints = {name: hint for cls in classes for name, hint in fields_of(cls).items()}
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


def parse_dataclass(cls: type, data: Mapping[str, Any], where: str = "the config") -> Any:
    """A dataclass from a mapping, checked by ``check_keys``; nested dataclasses are built too."""
    checked = check_keys(data, cls, where=where)
    hints = fields_of(cls)
    for key, value in checked.items():
        inner = _dataclass_of(hints[key])
        if inner is not None and isinstance(value, Mapping):
            checked[key] = parse_dataclass(inner, value, f"'{key}' in {where}")
    return cls(**checked)


def fields_of(cls: type) -> dict[str, Any]:
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
    raise ConfigError(f"{name}: wanted {_wanted(hint)}, found {found(value)}.")


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


def found(value: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "nothing"}
    kind = "a list" if isinstance(value, list | tuple) else "keys and values" if isinstance(value, Mapping) else None
    kind = kind or kinds.get(type(value), type(value).__name__)
    return kind if value is None else f"{value!r} ({kind})"


def checked(model: type[BaseModel], settings: dict[str, Any], name: str | Path) -> Any:
    """``settings`` as a ``model``, or one sentence on the first thing that is wrong with them.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a missing one, or a value of the wrong type.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        # An unknown key first: it is usually why another one is missing.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        raise ConfigError(_sentence(model, name, problems[0])) from None


def _sentence(model: type[BaseModel], name: str | Path, problem: Any) -> str:
    *parents, key = [str(part) for part in problem["loc"]] or [""]
    where = ".".join([*parents, key])
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, parents)
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return f"Unknown key '{where}' in {name}; " + (
            f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}."
        )
    if problem["type"] == "missing":
        return f"The key '{where}' is missing in {name}."
    if problem["type"] == "value_error":
        return f"{name}: " + (f"'{where}': " if where else "") + f"{problem['ctx']['error']}."
    wish = problem["msg"].removeprefix("Input should be ")
    return f"'{where}' in {name} should be {wish}, found {_kind(problem['input'])} {_short(problem['input'])}."


def _fields_at(model: type[BaseModel], parents: list[str]) -> list[str]:
    """The keys that are known at a place of a config, reached through fields, ``dict[str, X]`` and ``X | None``."""
    kind: Any = model
    for parent in parents:
        is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = kind.model_fields[parent].annotation if is_model else get_args(kind)[-1]
        if get_origin(kind) in (Union, UnionType):
            kind = next(part for part in get_args(kind) if part is not type(None))
    return list(kind.model_fields)


def _kind(value: Any) -> str:
    kinds = {bool: "yes/no", int: "an integer", float: "a number", str: "the text", list: "a list", dict: "a mapping"}
    return kinds.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
