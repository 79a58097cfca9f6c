"""What ``reflection-v eval`` does around the evaluation itself: the model's name, what to evaluate on, what came out."""

import sys
from pathlib import Path
from typing import Any

from configs.api_key import hide_credentials
from configs.errors import ConfigError
from configs.folders import writing_to


def with_backend(model: str, backend: str | None, url: str | None) -> str:
    """The model's name with what ``--backend`` and ``--url`` say about it."""
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


def evaluation(
    model: str,
    problems: Path | None,
    benchmark: str | None,
    data: str | None,
    out: Path,
    keys: dict[str, Any],
    styles: list[str],
    compare: str | None,
    rescore: bool,
) -> dict[str, Any]:
    """The report of an evaluation in ``out``: of two finished ones, of a problem set, or of a benchmark's rows.

    Raises:
        ConfigError: there is nothing to evaluate on, or ``keys`` are not those of eval.harness.EvalConfig.
    """
    with writing_to(out):
        if compare is not None and is_evaluation(compare) and is_evaluation(model):
            from eval.compare import compare as compare_finished

            return compare_finished(compare, model, out)
        from configs.schema import parse_config
        from eval.harness import EvalConfig, run_eval
        from eval.runner import refuse_other_output

        config = parse_config(EvalConfig, keys, "the command line")
        refuse_other_output(out, "report", "evaluation")  # before anything is written there
        if benchmark is not None:
            from eval.benchmarks import prepare_benchmark

            problems = out / "problems"
            _, left_out = prepare_benchmark(benchmark, problems, data)
            for why, count in left_out.items():
                print(f"{count} rows left out: {why}", file=sys.stderr)
        if problems is None:
            raise ConfigError("There is nothing to evaluate on: give --problems DIR or --benchmark NAME.")
        return run_eval(model, problems, out, styles=styles, config=config, rescore=rescore, against=compare)


def is_evaluation(folder: str) -> bool:
    """Whether a folder holds a finished evaluation."""
    return (Path(folder) / "report.json").is_file() and (Path(folder) / "answers").is_dir()


def print_evaluation(report: dict[str, Any]) -> None:
    """Accuracies, and differences of two models."""
    for name, figures in report["models"].items():
        for title, one in {"accuracy": figures["accuracy"], **figures.get("benchmark", {})}.items():
            if one["ci95"]:
                low, high = one["ci95"]
                print(f"{name}: {title} {one['value']:.3f}, 95% {low:.3f} to {high:.3f}, n {one['n']}")
        if figures["errors"]["n"]:
            print(
                f"{name}: {figures['errors']['n']} problems could not be asked or graded; they are not counted as wrong"
            )
    for name, one in report["paired"].items():
        if one["ci95"]:
            low, high = one["ci95"]
            print(
                f"{name}: {one['value']:+.3f}, 95% {low:+.3f} to {high:+.3f}, McNemar p {one['mcnemar_p']:.4f}, n {one['n']}"
            )
