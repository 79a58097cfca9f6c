"""Options of a command that are keys of its config."""

from pathlib import Path
from typing import Any

import typer

from configs.folders import make_folder


def extra_keys(context: typer.Context) -> dict[str, Any]:
    """``--key value`` pairs that are no option of the command: keys of its config, with a dot for nested ones."""
    from configs.overrides import parse_arguments

    _, overrides = parse_arguments(["CONFIG", *context.args], f"reflection-v {context.info_name}")
    return overrides


def texts(values: dict[str, Any]) -> dict[str, str]:
    """Those that were given, as text."""
    return {key: str(value) for key, value in values.items() if value is not None}


def training_keys(context: typer.Context, config: Path, out: Path | None, model: str | None) -> dict[str, Any]:
    """The command line's keys for a training config. The output folder is made first: a typo in it fails at once."""
    from configs.overrides import read_config

    read_config(config)  # before the training libraries, which take seconds to import
    if out is not None:
        make_folder(out)
    return extra_keys(context) | texts({"output_dir": out, "model": model})


def look_first(load: Any, config: Path, keys: dict[str, Any], check: bool, plan: bool) -> int:
    """--check and --plan of a training command; returns the exit code."""
    from train.preflight import run_preflight

    return run_preflight(load, str(config), keys, {"check": check, "plan": plan})
