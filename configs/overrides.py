"""Reads the settings of a run: a YAML file, the file that it is based on, and the keys of the command line.

    base: ../base/grpo.yaml      # relative to this file; its keys apply unless they are set here
    model: Qwen/Qwen2.5-VL-7B-Instruct
    prompt_selection: {samples: 16}   # nested keys are merged one by one

Later sources win: the base, the file itself, then ``--key value``. The defaults are in the classes against which
``configs.schema`` checks the settings.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.errors import ConfigError
from configs.paths import resolved, user_path
from configs.schema import describe_value

MOST_VALUES = 100_000


class Settings(dict[str, Any]):
    """The keys of a config, and the ``file`` that they come from (None if a caller gave them).

    Relative names in the settings are relative to this file, wherever the settings are used and also if a base holds them.
    ``bases`` are the files that it is based on, the nearest first.
    """

    def __init__(self, keys: Mapping[str, Any], file: Path | None = None, bases: Sequence[Path] = ()) -> None:
        super().__init__(keys)
        self.file, self.bases = file, tuple(bases)

    @property
    def where(self) -> str:
        """The config's name in error messages."""
        bases = ", ".join(base.name for base in self.bases)
        return f"{self.file or 'the config'}{f' (based on {bases})' if bases else ''}"

    @property
    def folder(self) -> Path:
        """The folder to which relative names in the config are relative."""
        return Path.cwd() if self.file is None else self.file.resolve().parent


def read_config(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Settings:
    """The settings in a YAML file (or a copy of the mapping given) with ``overrides`` on top.

    Raises:
        ConfigError: the file or a base of it is missing, not YAML, not a mapping, names a key twice, or is based on itself.
    """
    if isinstance(source, Mapping):
        known = source if isinstance(source, Settings) else Settings({})
        return Settings(merge(source, overrides), known.file, known.bases)
    keys, bases = _read_file(Path(source))
    return Settings(merge(keys, overrides), Path(source), bases)


def _read_file(path: Path, based_on_it: tuple[Path, ...] = ()) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """The keys of a file and of its bases, and the bases."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no config at {path}: give the path of a YAML file; the project's own are under configs/."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The config {path} cannot be read: {error}.") from None
    try:
        data = parse_yaml(text, _UniqueKeyLoader)
    except ValueError as error:
        raise ConfigError(f"The config {path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"The config {path} must hold keys and values, found {describe_value(data)}.")
    keys = {str(key): value for key, value in data.items()}
    if not str(keys.get("base", "")).endswith((".yaml", ".yml")):  # a study has a key "base", which names a model
        return keys, ()
    base, chain = beside(path, str(keys.pop("base"))), (*based_on_it, path.resolve())
    if base in chain:
        circle = " -> ".join(file.name for file in (*chain, base))
        raise ConfigError(f"'base' in {path} leads back to a config that is based on it: {circle}.")
    if not base.is_file():
        raise ConfigError(f"'base' in {path} names {base}, which does not exist.")
    below, bases = _read_file(base, chain)
    return merge(below, keys), (base, *bases)


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value that a YAML text holds.

    Raises:
        ValueError: it is not YAML, is nested too deeply, or its aliases unfold to more than ``MOST_VALUES`` values (also one that
            contains itself). The message is one line.
    """
    try:
        data = yaml.load(text, Loader=loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # a tag on a value that it does not fit (!!int '') makes PyYAML raise anything
        raise ValueError(" ".join(str(error).split())) from None
    waiting, number = [data], 0
    while waiting:
        value, number = waiting.pop(), number + 1
        if number > MOST_VALUES:
            raise ValueError(f"its aliases (*name) unfold to more than {MOST_VALUES:,} values")
        if isinstance(value, dict | list | tuple | set):
            waiting += [*value.values(), *value] if isinstance(value, dict) else value
    return data


class _UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that refuses a repeated key, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):  # such as an unfilled {{ template }}
                raise yaml.constructor.ConstructorError(None, None, "a key must be a text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is twice in the file", key_node.start_mark
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


def beside(file: Path, name: str) -> Path:
    """The path ``name``, relative to the folder of ``file``."""
    return resolved(file.parent / user_path(name))


def parse_arguments(argv: Sequence[str], command: str) -> tuple[str, dict[str, Any]]:
    """Parse ``--config C [--key value ...]`` into the config's path and the overrides (values are read as YAML).

    A dot addresses a nested key (``--prompt_selection.samples 4``). ``--local_rank``, which launchers add, is skipped: the rank
    comes from the environment.

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
            raise ConfigError(f"{command}: '{key}' needs a value after it.")
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
        if not isinstance(target, dict):
            raise ConfigError(
                f"'--{'.'.join(path)}' is a key of '{part}', which is given a value of its own: leave one of them out."
            )
    target[path[-1]] = value


def _read_value(text: str, key: str) -> Any:
    if key.endswith(
        ("api_key_env", "api-key-env")
    ):  # if a key was given instead of a name, the error below must not repeat it
        return None if text == "null" else text
    try:
        return parse_yaml(text)
    except ValueError:
        raise ConfigError(f"'{key}': the value {text!r} cannot be read; put special characters in quotes.") from None
