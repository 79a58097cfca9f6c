"""Options that several commands have, and options that are keys of a command's config."""

from pathlib import Path
from typing import Annotated, Any

import typer

from configs.run_dir import make_folder

ANY_KEY = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of a command that takes any key of its config as an option."""
MODEL_NAMES = "tiny or tiny-reasoner (bundled), a model folder, a hub name, or openai:NAME@URL."

ModelOption = Annotated[
    str | None, typer.Option(help="A vision-language model: tiny (bundled), a folder, or a hub name.")
]
OutOption = Annotated[Path | None, typer.Option(help="Output folder.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Only look for what would go wrong; nothing is trained.")]
ProbeOption = Annotated[
    bool, typer.Option("--probe", help="Only say what the rewards would pay for; nothing is trained.")
]
PlanOption = Annotated[bool, typer.Option("--plan", help="Only estimate the memory of each GPU; nothing is trained.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")]


def example_list(*commands: str) -> str:
    """The end of a command's help."""
    return "Examples:\n" + "".join(f"- {command}\n" for command in commands)


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


def preflight(load: Any, config: Path, keys: dict[str, Any], check: bool, plan: bool) -> int:
    """--check and --plan of a training command; returns the exit code."""
    from train.preflight import run_preflight

    return run_preflight(load, str(config), keys, {"check": check, "plan": plan})
