"""The ``reflection-v`` command. What is heavy is imported inside the command that uses it: ``--help`` is instant.

Exit codes: 0 done, 1 the work failed, 2 bad arguments or config, 130 stopped by Ctrl-C. A user's mistake is one
sentence on standard error; a traceback means a bug of ours.
"""

import errno
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from reflection_v.files import disk_full, make_folder, writing_to
from vlm.errors import UserError

CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class Guarded(TyperGroup):
    """A command group in which a user's mistake ends as a sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            explained = explain(error)
            if explained is None:
                raise
            sentence, code = explained
            print(f"reflection-v: {sentence}", file=sys.stderr)
            raise typer.Exit(code) from None


def explain(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the exit code for an error that a user can mend; None for a bug."""
    if isinstance(error, BaseExceptionGroup):  # tasks that ran side by side: the first that says something
        return next((found for inner in error.exceptions if (found := explain(inner))), None)
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "Stopped. What was finished is kept; the same command does the rest.", 130
    path = getattr(error, "filename", None) or Path.cwd()
    if disk_full(error):
        return f"The disk is full: {path} could not be written. Free some space, then try again.", 1
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
        return f"{path} cannot be used: {error.strerror}. Choose another path.", 1
    return None


app = typer.Typer(
    cls=Guarded,
    name="reflection-v",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ANY_KEY = {"allow_extra_args": True, "ignore_unknown_options": True}


def examples(*commands: str) -> str:
    """The end of a command's help."""
    return "Examples:\n" + "".join(f"- {command}\n" for command in commands)


NAMES = "tiny or tiny-reasoner (bundled), a model folder, a hub name, or openai:NAME@URL."
Model = Annotated[str | None, typer.Option(help="A vision-language model: tiny (bundled), a folder, or a hub name.")]
Out = Annotated[Path | None, typer.Option(help="Output folder.")]


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        try:
            print(f"reflection-v {version('reflection-v')}")
        except PackageNotFoundError:
            print("reflection-v, from a checkout that is not installed")
        raise typer.Exit


@app.callback()
def front_door(
    _version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train vision-language models to look again, and measure whether they do.

    Start with: **reflection-v run** (every stage, on the bundled tiny models) and
    **reflection-v ask IMAGE QUESTION**.
    """


@app.command(
    epilog=examples(
        "reflection-v run",
        "reflection-v run configs/tiny/run.yaml --out runs/tiny",
        "reflection-v run my/run.yaml --model path/to/model --redo grpo",
    )
)
def run(
    config: Annotated[
        Path | None, typer.Argument(help="The run config; the bundled tiny one where none is given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; runs/NAME, after the config, where none is given.")
    ] = None,
    model: Model = None,
    reasoner: Annotated[str | None, typer.Option(help="The text model of the agent loop: " + NAMES)] = None,
    problems: Annotated[Path | None, typer.Option(help="A problem set to train on, in place of the config's.")] = None,
    heldout: Annotated[
        Path | None, typer.Option(help="A problem set to evaluate on, in place of the config's.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run one stage; those before must be finished.")
    ] = None,
    redo: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Throw away a stage and what follows from it, and do them again."),
    ] = None,
) -> None:
    """Run every stage: problems, build, sft, grpo, eval, report.

    Finished stages are skipped and a stopped or killed one goes on where it was, so the same command can always be
    given again. Ends with report.html and report.json in the run's folder.
    """
    from reflection_v.stages import run_all

    run_all(config, out, model=model, reasoner=reasoner, problems=problems, heldout=heldout, only=only, redo=redo)


@app.command(epilog=examples("reflection-v problems scenes,digits --n 100 --seed 7 --out my/set"))
def problems(
    source: Annotated[str, typer.Argument(help="scenes, digits, or both with a comma.")],
    n: Annotated[int, typer.Option(min=1, help="How many problems.")],
    out: Annotated[Path, typer.Option(help="Output folder.")],
    seed: Annotated[int, typer.Option(help="The same seed draws the same problems.")] = 0,
    split: Annotated[str, typer.Option(help="pretrain, train or heldout: three sets that share nothing.")] = "train",
    family: Annotated[list[str] | None, typer.Option(help="Only this kind of question; may be repeated.")] = None,
    difficulty: Annotated[
        str, typer.Option(help="How hard the pictures are to read: easy, hard, unseen_noise, ...")
    ] = "hard",
    counterfactual: Annotated[
        bool, typer.Option(help="Also draw, for each, a picture that gives the same question another answer.")
    ] = False,
) -> None:
    """Write a problem set: pictures, questions and answers, as problems.jsonl with PNG files beside it."""
    from data_construction.sources import write_set

    knobs = {"family_names": family, "difficulty": difficulty, "counterfactual": counterfactual}
    with writing_to(out):
        file = write_set(source, n, seed, split, out, **knobs)
    print(f"{n} problems in {file}")


@app.command(
    context_settings=ANY_KEY,
    epilog=examples("reflection-v build configs/tiny/build.yaml --problems my/set --out my/traces --seed 7"),
)
def build(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The config of the agent loop.")],
    problems: Annotated[Path | None, typer.Option(help="The problem set.")] = None,
    out: Out = None,
    model: Annotated[str | None, typer.Option(help="The VLM that looks: " + NAMES)] = None,
    reasoner: Annotated[str | None, typer.Option(help="The text model that asks and concludes: " + NAMES)] = None,
) -> None:
    """Build reflection traces: a text reasoner asks about pictures that it cannot see, a VLM looks and answers.

    Writes traces.jsonl, row by row, and sft.jsonl. Given again, the same command does the problems that are left. Any
    key of the config can be given as an option.
    """
    from reflection_v.config import checked
    from train.config import merge, read_config

    given = {"problems": problems, "out": out, "model": model, "reasoner": reasoner}
    settings = merge(read_config(config), extra_keys(context) | texts(given))
    from data_construction.build import BuildConfig, run_build

    values = checked(BuildConfig, settings, config)
    with writing_to(values.out or None):
        print_counts(run_build(values))


@app.command(
    context_settings=ANY_KEY,
    epilog=examples("reflection-v sft configs/tiny/sft.yaml --dataset my/traces/sft.jsonl --out my/sft"),
)
def sft(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The training config.")],
    out: Out = None,
    model: Model = None,
) -> None:
    """Cold start: teach the VLM the traces.

    The same code as python -m train.sft --config CONFIG. Any key of the config can be given as an option.
    """
    keys = training_keys(context, config, out, model)
    from train.sft import run_sft

    print_counts(run_sft(config, keys))


@app.command(
    context_settings=ANY_KEY,
    epilog=examples("reflection-v grpo configs/tiny/grpo.yaml --model my/sft --problems my/set --out my/rl"),
)
def grpo(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The training config.")],
    out: Out = None,
    model: Model = None,
) -> None:
    """Reinforcement learning with rewards that look at the model's attention to the picture.

    The same code as python -m train.grpo --config CONFIG. Any key of the config can be given as an option.
    """
    keys = training_keys(context, config, out, model)
    from train.grpo import run_grpo

    print_counts(run_grpo(config, keys))


@app.command(
    "eval",
    context_settings=ANY_KEY,
    epilog=examples(
        "reflection-v eval tiny --problems my/set",
        "reflection-v eval runs/tiny/grpo --problems my/set --out my/report --blank 50 --max_new_tokens 512",
    ),
)
def evaluate(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="tiny (bundled), a model folder, or a hub name.")],
    problems: Annotated[Path, typer.Option(help="The problem set.")],
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/eval"),
    style: Annotated[
        list[str] | None, typer.Option(help="think, direct or describe; of several, the better one counts.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Accuracy with intervals, and grounding: blank and swapped pictures, attention over the response.

    Writes report.json and report.html. Answers are kept: the same command again generates nothing. Any key of
    eval.harness.EvalConfig can be given as an option.
    """
    from train.config import build as checked_config

    keys = extra_keys(context)
    from eval.harness import EvalConfig, run_eval

    config = checked_config(EvalConfig, keys, "the command line")
    with writing_to(out):
        report = run_eval(model, problems, out, styles=style or ["think"], config=config)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    for name, figures in report["models"].items():
        accuracy = figures["accuracy"]
        low, high = accuracy["ci95"]
        print(f"{name}: accuracy {accuracy['value']:.3f}, 95% {low:.3f} to {high:.3f}, n {accuracy['n']}")
    print(f"The report is {out / 'report.html'}, its figures {out / 'report.json'}")


@app.command(epilog=examples('reflection-v ask picture.png "How many orange shapes are there?"'))
def ask(
    image: Annotated[str, typer.Argument(help="A picture file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Annotated[
        str, typer.Option(help="A vision-language model: tiny (bundled), a folder, or a hub name.")
    ] = "tiny",
    effort: Annotated[Literal["low", "medium", "high"], typer.Option(help="How many tokens it may write.")] = "medium",
    style: Annotated[
        Literal["think", "direct", "describe"], typer.Option(help="What to do before answering.")
    ] = "think",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object in place of the stream.")] = False,
) -> None:
    """Ask a model about a picture: its trace as it is written, then the answer."""
    from vlm.infer import main as infer

    arguments = [f"--image={image}", f"--question={question}", f"--model={model}", f"--effort={effort}"]
    arguments += [f"--style={style}", f"--temperature={temperature}", f"--seed={seed}"]
    raise typer.Exit(infer([*arguments, "--json"] if as_json else arguments))


def training_keys(context: typer.Context, config: Path, out: Path | None, model: str | None) -> dict[str, Any]:
    """The command line's keys for a training config. The output folder is made first: a typo in it fails at once."""
    from train.config import read_config

    read_config(config)  # before the training libraries, which take seconds to import
    if out is not None:
        make_folder(out)
    return extra_keys(context) | texts({"output_dir": out, "model": model})


def extra_keys(context: typer.Context) -> dict[str, Any]:
    """``--key value`` pairs that are no option of the command: keys of its config, with a dot for nested ones."""
    from train.config import parse_arguments

    _, overrides = parse_arguments(["CONFIG", *context.args], f"reflection-v {context.info_name}")
    return overrides


def texts(values: dict[str, Any]) -> dict[str, str]:
    """Those that were given, as text."""
    return {key: str(value) for key, value in values.items() if value is not None}


def print_counts(counts: dict[str, Any] | None) -> None:
    """Print a stage's counts, one a line."""
    for key, value in (counts or {}).items():
        print(f"{key}: {value}")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
