"""The ``reflection-v`` command. Each command imports heavy libraries itself, so that ``--help`` is instant.

Exit codes: 0 done, 1 the work failed, 2 bad arguments or config, 75 stopped by SIGTERM, 130 stopped by Ctrl-C. A user's
mistake is reported in one sentence on standard error; a traceback means a bug in this project.
"""

from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer

from configs.command_line import Guarded, KeyName
from reflection_v.build_command import build_traces
from reflection_v.measure import audit_model, evaluate_model
from reflection_v.options import (
    ANY_KEY,
    MODEL_NAMES,
    CheckOption,
    HostOption,
    JudgeOption,
    ModelOption,
    NameOption,
    OutOption,
    PlanOption,
    ProbeOption,
    RootOption,
    example_list,
    extra_keys,
    preflight,
    print_counts,
    texts,
    training_keys,
)
from reflection_v.problem_sets import write_problem_set
from reflection_v.view_command import view_rows
from vlm.infer import ask

app = typer.Typer(
    name="reflection-v",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

command = partial(app.command, cls=Guarded)
with_keys = partial(command, context_settings=ANY_KEY)
"""A command that accepts every key of its config as an option."""


def show_version(wanted: bool) -> None:
    """Print the version and exit."""
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
    """Train vision-language models to look at the image again while they reason, and measure whether they do.

    Start with: **reflection-v run** (every stage, on the bundled tiny models) and
    **reflection-v ask IMAGE QUESTION**.

    Exit codes: 0 done, 1 the work failed, 2 bad arguments or config, 75 stopped by SIGTERM (temporary failure: the same
    command resumes), 130 stopped by Ctrl-C.
    """


@command(
    "run",
    epilog=example_list(
        "reflection-v run",
        "reflection-v run configs/tiny/run.yaml --out runs/tiny",
        "reflection-v run my/run.yaml --model path/to/model --redo grpo",
        "reflection-v run my/run.yaml --processes 4",
    ),
)
def run_pipeline(
    config: Annotated[Path | None, typer.Argument(help="The run config. Default: the bundled tiny one.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: runs/NAME, named after the config.")
    ] = None,
    model: ModelOption = None,
    reasoner: Annotated[str | None, typer.Option(help="The text model of the agent loop: " + MODEL_NAMES)] = None,
    judge: JudgeOption = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that train, one per GPU. Default: all GPUs, and one process on a CPU."),
    ] = None,
    problems: Annotated[Path | None, typer.Option(help="A problem set to train on; overrides the config.")] = None,
    heldout: Annotated[Path | None, typer.Option(help="A problem set to evaluate on; overrides the config.")] = None,
    only: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run only this stage; the stages before it must be finished.")
    ] = None,
    redo: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Delete this stage and all that depend on it, and run them again."),
    ] = None,
) -> None:
    """Run every stage: problems, build, sft, grpo, eval, report.

    Finished stages are skipped and an interrupted one resumes, so the same command can always be given again. After
    SIGTERM the exit code is 75. The last stage writes report.html and report.json into the run's folder. sft and grpo train
    on all GPUs that CUDA_VISIBLE_DEVICES leaves, through DeepSpeed's launcher; a step keeps the rows of the config.
    """
    from reflection_v.stages import run_all

    run_all(
        config,
        out,
        model=model,
        reasoner=reasoner,
        judge=judge,
        processes=processes,
        problems=problems,
        heldout=heldout,
        only=only,
        redo=redo,
    )


command(
    "problems",
    epilog=example_list(
        "reflection-v problems scenes,digits --n 100 --seed 7 --out my/set",
        "reflection-v problems llava.json --from llava --images coco/train2017 --out my/set",
        "reflection-v problems table.csv --question query --answer label --image photo --out my/set",
        "reflection-v problems rows.parquet --domain count --out my/set",
        "reflection-v problems hf:AI4Math/MathVista --split testmini --image decoded_image --n 200 --out my/set",
        "reflection-v problems hf:path/to/clone --split train --out my/set",
    ),
)(write_problem_set)


with_keys(
    "build",
    epilog=example_list(
        "reflection-v build configs/tiny/build.yaml --problems my/set --out my/traces --seed 7",
        "reflection-v build my/build.yaml --dry-run 50",
        "reflection-v build my/build.yaml --export hf",
        "reflection-v build my/build.yaml --out my/traces --shard 3/8",
        "reflection-v build my/build.yaml --out my/traces --merge",
        "reflection-v build --stats my/traces",
    ),
)(build_traces)


@with_keys(
    epilog=example_list(
        "reflection-v sft configs/tiny/sft.yaml --dataset my/traces/sft.jsonl --out my/sft",
        "torchrun --nproc_per_node 2 -m reflection_v.cli sft configs/tiny/sft.yaml --dataset my/traces/sft.jsonl --out my/sft",
    ),
)
def sft(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The training config.")],
    out: OutOption = None,
    model: ModelOption = None,
    check: CheckOption = False,
    plan: PlanOption = False,
) -> None:
    """Cold start: supervised fine-tuning of the VLM on the traces.

    The same code as python -m train.sft --config CONFIG. Any key of the config can be given as an option. After SIGTERM
    the run writes a checkpoint and ends with exit code 75; the same command resumes it.
    """
    keys = training_keys(context, config, out, model)
    from train.sft import load_sft, run_sft

    if check or plan:
        raise typer.Exit(preflight(load_sft, config, keys, check, plan))
    print_counts(run_sft(config, keys), by_launcher=True)


@with_keys(
    epilog=example_list(
        "reflection-v grpo configs/tiny/grpo.yaml --model my/sft --problems my/set --out my/rl --probe",
        "reflection-v grpo configs/tiny/grpo.yaml --model my/sft --problems my/set --out my/rl",
    ),
)
def grpo(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The training config.")],
    out: OutOption = None,
    model: ModelOption = None,
    judge: JudgeOption = None,
    check: CheckOption = False,
    plan: PlanOption = False,
    probe: ProbeOption = False,
) -> None:
    """Reinforcement learning (GRPO) with rewards on the model's attention to the image.

    The same code as python -m train.grpo --config CONFIG. Any key of the config can be given as an option. After SIGTERM
    the run writes a checkpoint and ends with exit code 75; the same command resumes it.
    """
    keys = training_keys(context, config, out, model) | texts({"judge": judge})
    if probe:
        from train.probe import run_probe

        run_probe(config, keys)
        return
    from train.grpo import load_grpo, run_grpo

    if check or plan:
        raise typer.Exit(preflight(load_grpo, config, keys, check, plan))
    print_counts(run_grpo(config, keys), by_launcher=True)


@with_keys(
    epilog=example_list(
        "reflection-v improve configs/improve.yaml --model runs/tiny/sft --problems my/set --heldout my/heldout --out my/rounds",
        "reflection-v improve configs/improve.yaml --model BIG --student SMALL --problems my/set --heldout my/test --out my/small",
    ),
)
def improve(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The config of the rounds.")],
    problems: Annotated[Path | None, typer.Option(help="The problem set to sample answers to.")] = None,
    heldout: Annotated[Path | None, typer.Option(help="The problem set to measure on.")] = None,
    out: OutOption = None,
    model: ModelOption = None,
    judge: JudgeOption = None,
) -> None:
    """Self-improvement: sample answers, keep the correct and grounded ones, train on them, measure; until accuracy stops rising.

    With --student the kept answers train that model instead (distillation). Any key of the config can be given as an
    option.
    """
    from train.improve import load_improve, run_improve

    given = {"problems": problems, "heldout": heldout, "out": out, "model": model, "judge": judge}
    report = run_improve(load_improve(config, extra_keys(context) | texts(given)))
    best = report["rounds"][report["best"]]
    print(f"The best round is {report['best']}: {best['model']}, accuracy {best['accuracy']['value']:.3f}")


with_keys(
    "eval",
    epilog=example_list(
        "reflection-v eval tiny --problems my/set",
        "reflection-v eval runs/tiny/grpo --problems my/set --out my/report --blank 50 --max_new_tokens 512",
        "reflection-v eval path/to/model --benchmark mathvista --out runs/mathvista --k 8",
        "reflection-v eval path/to/model --benchmark mmmu --data path/to/clone --limit 100 --out runs/mmmu",
        "reflection-v eval --compare runs/eval-a runs/eval-b --out runs/compared",
    ),
)(evaluate_model)
with_keys(
    "audit",
    epilog=example_list(
        "reflection-v audit tiny",
        "reflection-v audit path/to/model --problems my/set --out my/audit --quick",
        "reflection-v audit openai:NAME@http://localhost:8000/v1",
        "reflection-v audit openai:NAME@http://localhost:8000/v1 --reference path/to/model --out runs/served",
        "reflection-v audit path/to/model --zoom --out runs/audit-zoom",
        "reflection-v audit scripted:always_looks",
    ),
)(audit_model)
command(
    "ask",
    epilog=example_list(
        'reflection-v ask image.png "How many orange shapes are there?"',
        'reflection-v ask before.png after.png "What has changed?" --effort high --votes 4',
        'reflection-v ask image.png "Where is the star?" --heatmap look.png --json',
        "reflection-v ask image.png --chat",
        "reflection-v ask --batch questions.jsonl --out answers.jsonl",
    ),
)(ask)


@command(
    epilog=example_list(
        "reflection-v demo",
        "reflection-v demo --run runs/tiny",
        "reflection-v demo --model runs/tiny/grpo --model tiny --port 7861",
        "reflection-v demo --allowed_host lab.example --root_path /look",
    )
)
def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model to choose from; the first one is selected at the start: " + MODEL_NAMES + " May be repeated."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder of 'reflection-v run': its base and its trained model answer every question side by side, and its "
            "traces, rollouts and curves are a second tab.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 chooses a free port.")] = 7860,
    host: HostOption = "127.0.0.1",
    allowed_host: NameOption = None,
    root_path: RootOption = "/",
    api_key_env: KeyName = None,
) -> None:
    """A web page that shows where the model looks in each sentence of its reasoning, and lets you test it."""
    from demo.access import Access

    access = Access.parse(host, allowed_host or (), root_path)
    from reflection_v.trained import models_of_run

    pair = models_of_run(run) if run is not None else None
    from demo.serve import serve

    serve(model or ([] if pair else ["tiny"]), host, port, api_key_env, access, pair, run)


command(
    "view",
    epilog=example_list(
        "reflection-v view runs/tiny",
        "reflection-v view my/traces --problems my/set",
        "reflection-v view my/rl/completions --port 7871",
        "reflection-v view my/traces/sft.jsonl --problems path/to/images",
    ),
)(view_rows)


@command(epilog=example_list("reflection-v doctor", "reflection-v doctor --json"))
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check this machine: hardware, package versions against the tested ones, and what the stages would choose here.

    Each error names its remedy. The exit code is 1 if the tiny run cannot run here.
    """
    from reflection_v.doctor import run_doctor

    raise typer.Exit(run_doctor(as_json))


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
