"""Options that several commands share, and options that are keys of a command's config."""

from pathlib import Path
from typing import Annotated, Any

import typer

from configs.processes import is_main_process
from configs.run_dir import make_folder

ANY_KEY = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of a command that accepts every key of its config as an option."""
MODEL_NAMES = "tiny or tiny-reasoner (bundled), a model folder, a hub name, or openai:NAME@URL."

ModelOption = Annotated[
    str | None, typer.Option(help="A vision-language model: tiny (bundled), a folder, or a hub name.")
]
OutOption = Annotated[Path | None, typer.Option(help="Output folder.")]
CheckOption = Annotated[bool, typer.Option("--check", help="Only check the config, data and machine; train nothing.")]
ProbeOption = Annotated[
    bool, typer.Option("--probe", help="Only report what the rewards would pay for; train nothing.")
]
PlanOption = Annotated[bool, typer.Option("--plan", help="Only estimate the memory of each GPU; train nothing.")]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        help="Grades answers of domain open: openai:NAME@URL. Further keys: --judge.model, --judge.api_key_env."
    ),
]
HostOption = Annotated[str, typer.Option(help="The address to listen on. Only this machine can reach the default.")]
NameOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allowed_host",
        "--allowed-host",
        metavar="NAME[:PORT]",
        help="A name under which a proxy (nginx) serves the page. May be repeated.",
    ),
]
RootOption = Annotated[
    str,
    typer.Option(
        "--root_path",
        "--root-path",
        metavar="PATH",
        help="The path below which a proxy serves the page, such as /look.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")]


def example_list(*commands: str) -> str:
    """The examples at the end of a command's help."""
    return "Examples:\n" + "".join(f"- {command}\n" for command in commands)


def extra_keys(context: typer.Context) -> dict[str, Any]:
    """The ``--key value`` pairs that are not options of the command. They are keys of its config; a dot separates nested keys."""
    from configs.overrides import parse_arguments

    _, overrides = parse_arguments(["CONFIG", *context.args], f"reflection-v {context.info_name}")
    return overrides


def texts(values: dict[str, Any]) -> dict[str, str]:
    """The values that were given, as text."""
    return {key: str(value) for key, value in values.items() if value is not None}


def training_keys(context: typer.Context, config: Path, out: Path | None, model: str | None) -> dict[str, Any]:
    """The keys that the command line sets in a training config. Also creates the output folder, so that a typo fails at once."""
    from configs.overrides import read_config

    read_config(config)  # a missing file fails before the training libraries are imported, which takes seconds
    if out is not None:
        make_folder(out)
    return extra_keys(context) | texts({"output_dir": out, "model": model})


def preflight(load: Any, config: Path, keys: dict[str, Any], check: bool, plan: bool) -> int:
    """Run --check and --plan of a training command; returns the exit code."""
    from train.preflight import run_preflight

    return run_preflight(load, str(config), keys, {"check": check, "plan": plan})


def print_counts(counts: dict[str, Any] | None, by_launcher: bool = False) -> None:
    """Print a stage's counts, one per line. ``by_launcher``: there may be several processes, of which the first one prints."""
    if by_launcher and not is_main_process():
        return
    for key, value in (counts or {}).items():
        print(f"{key}: {value}")
