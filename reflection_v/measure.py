"""The commands that measure a model: ``reflection-v eval`` and ``reflection-v audit``."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from configs.api_key import hide_credentials
from configs.errors import ConfigError
from reflection_v.options import JsonOption, JudgeOption, extra_keys, texts


def evaluate_model(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="tiny (bundled), a model folder, a hub name, or openai:NAME@URL; with --compare also the folder "
            "of a finished evaluation."
        ),
    ],
    problems: Annotated[Path | None, typer.Option(help="The problem set.")] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            help="A benchmark instead of a problem set: mathvista, mathvision, mmmu, mmmu_pro_4, "
            "mmmu_pro_10, mmmu_pro_vision, m3cot or hallusionbench; with --via, the tasks of that package."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="The benchmark's rows: a hub name, a local clone or folder, or one file (parquet, arrow, jsonl, json, csv)."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="A split of the benchmark's rows. Default: the one that the benchmark reports.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Take the first N rows of the benchmark, or the first N problems of the set, in their order. "
            "(--main N takes N spread over the families.)",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/eval"),
    style: Annotated[
        list[str] | None, typer.Option(help="think, direct or describe. If several are given, the better one counts.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="A", help="Compare with A: a model, or the folder of a finished evaluation.")
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Only grade the saved answers again; load no model.")
    ] = False,
    backend: Annotated[
        Literal["hf", "openai"] | None, typer.Option(help="How the model runs. Default: decided by its name.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The server of --backend openai: http://HOST:PORT/v1.")] = None,
    judge: JudgeOption = None,
    via: Annotated[Literal["lmms-eval"] | None, typer.Option(help="Run the tasks of this package instead.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Accuracy with intervals, and grounding: blank and swapped images, attention over the response.

    Writes report.json and report.html. Answers are cached: the same command reuses them. Any key of
    eval.harness.EvalConfig can be given as an option.
    """
    keys = extra_keys(context) | texts({"judge": judge}) | ({} if limit is None else {"limit": limit})
    model = with_backend(model, backend, url)
    if (data or split) and (benchmark is None or via is not None):
        raise ConfigError("--data and --split go with --benchmark NAME, which says how the rows are read.")
    if via is not None:
        if benchmark is None:
            raise ConfigError("--via lmms-eval needs --benchmark: the names of its tasks, with commas.")
        from eval.lmms import run_lmms

        return run_lmms(model, benchmark, out, limit or keys.get("main"))
    from eval.runner import answers_dir

    with answers_dir(out).held():  # locked before anything is written there
        if compare is not None and is_evaluation(compare) and is_evaluation(model):
            from eval.compare import compare as compare_finished

            report = compare_finished(compare, model, out)
        else:
            report = _evaluate_on(
                model, problems, benchmark, (data, split), out, keys, style or ["think"], compare, rescore
            )
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    print_evaluation(report)
    print(f"The report is {out / 'report.html'}, its figures {out / 'report.json'}")


def _evaluate_on(
    model: str,
    problems: Path | None,
    benchmark: str | None,
    source: tuple[str | None, str | None],
    out: Path,
    keys: dict[str, Any],
    styles: list[str],
    against: str | None,
    rescore: bool,
) -> dict[str, Any]:
    from configs.schema import parse_config
    from eval.harness import EvalConfig, run_eval

    config = parse_config(EvalConfig, keys, "the command line")
    if benchmark is not None:
        from eval.benchmarks import describe_account, prepare_benchmark, read_account

        problems = out / "problems"
        data, split = source
        prepare_benchmark(benchmark, problems, data, split=split, limit=config.limit)
        for line in describe_account(read_account(problems) or {}):
            print(line, file=sys.stderr)
    if problems is None:
        raise ConfigError("There is nothing to evaluate on: give --problems DIR or --benchmark NAME.")
    return run_eval(model, problems, out, styles=styles, config=config, rescore=rescore, against=against)


def audit_model(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="tiny (bundled), a model folder, a hub name, or openai:NAME@URL.")
    ] = "tiny",
    problems: Annotated[
        Path | None, typer.Option(help="Your own problem set. Default: 300 problems of the bundled sources.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/audit"),
    style: Annotated[
        str, typer.Option(help="What the model does before it answers: think, direct, describe or none.")
    ] = "think",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer problems for the same measures.")] = False,
    zoom: Annotated[
        bool,
        typer.Option(
            "--zoom",
            help="Also offer the zoom tool, and swap, misplace, blank and withhold the crops that it returns. Limits: --zoom.max_looks, "
            "--zoom.max_pixels, --zoom.min_box.",
        ),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Only compare a served MODEL with the weights in this folder (or tiny): prompt tokens, greedy tokens, "
            "log-probabilities. Exit code 1 if they differ.",
        ),
    ] = None,
    judge: JudgeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Does the model use the image? Grounding measures with intervals and verdicts, and one name for its behaviour.

    A model folder is a white box. A served model is a black box: only the measures that need no more than answers are
    taken. Writes audit.json and audit.html. Answers are cached: the same command resumes an interrupted audit. Any key of
    eval.audit.AuditConfig can be given as an option; with --reference, of eval.served.ServedConfig.
    """
    if reference is not None:
        if quick or zoom or judge is not None:
            raise ConfigError(
                "--reference asks its own prompts and grades nothing: leave out --quick, --zoom and --judge."
            )
        return _compare_with_weights(model, reference, problems, out, style, extra_keys(context), as_json)
    from configs.schema import parse_config
    from data_construction.sources.audit_sets import audit_sets
    from eval.audit import AuditConfig, run_audit, summary
    from eval.audit import quick as with_fewer
    from eval.runner import answers_dir
    from vlm.problem import read_problems

    keys = extra_keys(context) | texts({"judge": judge})
    if zoom:
        keys.setdefault("zoom", {})
    config = parse_config(AuditConfig, keys, "the command line")
    with answers_dir(out, "audit").held():
        asked, shifts = (
            (read_problems(problems), {}) if problems is not None else audit_sets(out / "problems", config.seed)
        )
        config = with_fewer(config, keys) if quick else config
        report = run_audit(model, asked, out, style=style, config=config, shifts=shifts)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    print("\n".join(summary(report)))
    print(f"The report is {out / 'audit.html'}, its figures {out / 'audit.json'}")


def _compare_with_weights(
    model: str,
    reference: str,
    problems: Path | None,
    out: Path,
    style: str,
    keys: dict[str, Any],
    as_json: bool,
) -> None:
    from configs.schema import parse_config
    from eval.served import ServedConfig, check_served_and_reference, compare_served
    from eval.served_report import print_served
    from vlm.problem import read_problems

    check_served_and_reference(model, reference)
    config = parse_config(ServedConfig, keys, "the command line")
    asked = [] if problems is None else read_problems(problems)
    report = compare_served(model, reference, out, problems=asked, style=style, config=config)
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print_served(report)
        print(f"The figures are {out / 'served.json'}")
    raise typer.Exit(int(report["verdict"] != "equal"))


def with_backend(model: str, backend: str | None, url: str | None) -> str:
    """The model's name under ``--backend`` and ``--url``."""
    served = model.startswith("openai:")
    if backend == "hf" and served:
        raise ConfigError(f"'{hide_credentials(model)}' is served: --backend hf takes a folder or a hub name.")
    if backend == "openai" and not served:
        if url is None:
            raise ConfigError("--backend openai needs --url http://HOST:PORT/v1, or the model as openai:NAME@URL.")
        return f"openai:{model}@{url}"
    if url is not None and backend != "openai":
        raise ConfigError("--url goes with --backend openai.")
    return model


def is_evaluation(folder: str) -> bool:
    """Whether a folder holds a finished evaluation."""
    return (Path(folder) / "report.json").is_file() and (Path(folder) / "answers").is_dir()


def print_evaluation(report: dict[str, Any]) -> None:
    """Print the accuracies, and the differences between two models."""
    for name, figures in report["models"].items():
        for title, one in {"accuracy": figures["accuracy"], **figures.get("benchmark", {})}.items():
            if one["ci95"]:
                low, high = one["ci95"]
                print(f"{name}: {title} {one['value']:.3f}, 95% {low:.3f} to {high:.3f}, n {one['n']}")
        if figures["errors"]["n"]:
            print(
                f"{name}: {figures['errors']['n']} problems could not be asked or graded; they do not count as incorrect"
            )
    for name, one in report["paired"].items():
        if one["ci95"]:
            low, high = one["ci95"]
            print(
                f"{name}: {one['value']:+.3f}, 95% {low:+.3f} to {high:+.3f}, McNemar p {one['mcnemar_p']:.4f}, n {one['n']}"
            )
        elif "why_no_interval" in one:
            print(f"{name}: {one['value']:+.3f} (no interval: {one['why_no_interval']}), n {one['n']}")
