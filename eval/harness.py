"""Evaluate models on held-out problems: accuracy with intervals, paired differences, and grounding.

    report = evaluate({"base": {"path": "tiny", "styles": ["direct", "describe"]}, "sft": {"path": "runs/tiny/sft"}},
                      problems, "runs/tiny/eval")

One model is loaded at a time, and all its measures are taken before the next one is loaded. ``OUT/answers/`` holds every
answer; a second call with the same models and problems generates nothing.
"""

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from configs.api_key import check_variable
from configs.errors import ConfigError, UserError
from configs.jsonl import write_json_atomic
from configs.provenance import versions
from configs.run_dir import RunDir
from eval.benchmarks import BENCHMARKS, read_account
from eval.choice_order import position_bias, rotate_options
from eval.figures import balanced_subset, estimate_accuracy, file_name, grouped, image_clusters, sharing_groups
from eval.grounding import (
    attention_profile,
    behaviour,
    blank_images,
    first_look_error,
    has_counterfactual,
)
from eval.report import pick_samples, read_report, write_report
from eval.runner import Answer, answers_dir, correct_by_id
from eval.session import ModelSession, count_errors
from eval.stats import majority_class_score, paired_difference
from eval.subjects import RecordedSubject, Subject, covered_layers, load_subject, warn_about_reuse
from reward.judge import JudgeKey, check_judge, judge_record, judging
from reward.usable import print_unjudged
from vlm.backends import check_key_has_one_server
from vlm.problem import Problem, read_problems

REPORT_SCHEMA = 1


@dataclass(frozen=True)
class EvalConfig:
    """What to measure, and on how many problems (0 skips a measure). Subsets are balanced over the families.

    Attributes:
        max_new_tokens: limit of a response; longer ones count as truncated.
        batch_size: responses generated at once.
        attention: record mass and lift of every token of the main answers (``layers``: ``last``, ``all`` or a list).
        limit: take the first problems of the set, in its order, and no others for any measure; None is all of them.
        main: problems for accuracy; None is all of them.
        blank: problems asked again with a blank image.
        swap: problems with a counterfactual image offered to the swap test.
        per_set: problems of each named set (shift, skill, first look); None is all of them.
        samples: problems whose responses the report shows with their image.
        k: sampled answers per problem at ``temperature`` (avg@k, pass@k, maj@k), for ``sampled`` problems; 0 is greedy only.
        rotations: further orders in which the options of multiple-choice problems are shown, to expose position bias.
        dtype: of the weights. In float32 a batch gives the same answers as its problems one by one; choose another only if the
            model is too large for it.
        api_key_env: the environment variable that holds a served model's key.
        judge: the model that grades answers of domain ``open``: ``openai:NAME@URL``, or keys of ``reward.judge.JudgeConfig``. By
            default such problems are errors.
        seed: of subsets.
    """

    max_new_tokens: int = 256
    batch_size: int = 64
    attention: bool = True
    layers: Literal["last", "all"] | list[int] = "last"
    limit: int | None = None
    main: int | None = None
    blank: int = 200
    swap: int = 200
    per_set: int | None = 200
    samples: int = 12
    k: int = 0
    temperature: float = 0.7
    sampled: int = 200
    rotations: int = 0
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    api_key_env: str | None = None
    judge: JudgeKey = None
    seed: int = 0

    def __post_init__(self) -> None:
        # The report holds this name, so a key given here by mistake would be published.
        check_variable(self.api_key_env)
        check_judge(self.judge)
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"'limit' is {self.limit}: give the number of problems to take, at least 1.")


@dataclass(frozen=True)
class EvalSet:
    """A further list of problems: ``shift`` (images unlike those of training), ``skill`` (what the model could do before
    training, such as describing) or ``first_look`` (single facts, whose error rate is reported).

    ``style`` None uses the style of each model's main answers.
    """

    kind: Literal["shift", "skill", "first_look"]
    problems: list[Problem]
    style: str | None = None


@dataclass
class _Run:
    """One model's answers, kept for the paired comparisons after its weights have been released."""

    report: dict[str, Any]
    main: list[Answer]
    sets: dict[str, list[Answer]] = field(default_factory=dict)


def evaluate(
    models: Mapping[str, Mapping[str, Any]],
    problems: Sequence[Problem],
    out_dir: str | Path,
    config: EvalConfig | None = None,
    sets: Mapping[str, EvalSet] | None = None,
    load: Callable[[str], Subject] | None = None,
) -> dict[str, Any]:
    """Evaluate ``models`` on ``problems``; see docs/evaluation.md for every key of the report.

    Args:
        models: name -> ``{"path": model, "style": S}`` or ``{"path": model, "styles": [S, ...]}``; of several prompt styles
            the most accurate one counts (this favours the model, because the style is chosen on the same problems).
            Paired differences are later model minus earlier one, so name them in the order base, sft, rl.
        out_dir: gets ``answers/*.jsonl`` (resumable) and ``samples.json``.
        sets: name -> further problems.
        load: makes a subject from a model's path; the default is ``load_subject`` with the config's dtype.

    Returns:
        The report; it can be written as JSON. ``eval.report.write_report`` makes report.json and report.html of it.

    Raises:
        UserError: no problems, a model of which every question failed (with the first reason), or a folder that another process
            writes into.
    """
    config, sets, out = config or EvalConfig(), sets or {}, Path(out_dir)
    paths = [str(model["path"]) for model in models.values()]
    # ``held`` only: rounds of ``improve`` write into folders with other files
    with RunDir(out, "evaluation").held(), judging(config.judge, *paths):
        load = load or partial(load_subject, dtype=config.dtype, api_key_env=config.api_key_env)
        if not problems:
            raise UserError("There are no problems to evaluate on: the problem set is empty.")
        chosen = balanced_subset(problems[: config.limit], config.main, config.seed)
        print_unjudged([*chosen, *(problem for one in sets.values() for problem in one.problems)])
        check_key_has_one_server(paths, config.api_key_env)
        runs, seconds = {}, {}
        for name, model in models.items():
            start = time.monotonic()
            runs[name] = _evaluate_model(name, model, chosen, out / "answers", config, sets, load)
            seconds[name] = round(time.monotonic() - start, 1)
            gc.collect()  # releases this model's weights before the next one is loaded
        write_json_atomic(
            out / "samples.json", pick_samples(chosen, {n: run.main for n, run in runs.items()}, config.samples)
        )
        families = [problem.family for problem in chosen]
        return {
            "schema_version": REPORT_SCHEMA,
            "models": {name: run.report for name, run in runs.items()},
            "paired": _pairs({name: run.main for name, run in runs.items()}, chosen),
            "paired_sets": {
                set_name: _pairs({name: run.sets[set_name] for name, run in runs.items()}, problem_set.problems)
                for set_name, problem_set in sets.items()
            },
            "majority_class": {
                **majority_class_score([problem.answer for problem in chosen], families),
                "by_family": {
                    family: majority_class_score([p.answer for p in members])
                    for family, members in grouped(chosen, lambda problem: problem.family).items()
                },
            },
            "problems": {"n": len(chosen), "families": dict(sorted(Counter(families).items()))},
            "evaluation": {
                "config": asdict(config),
                "seconds": seconds,
                "load_average": round(os.getloadavg()[0], 2),
                "shared_images": sharing_groups(image_clusters(chosen)),
            }
            | judge_record(),
            "versions": versions(),
            "seed": config.seed,
        }


def _evaluate_model(
    name: str,
    model: Mapping[str, Any],
    problems: list[Problem],
    answers: Path,
    config: EvalConfig,
    sets: Mapping[str, EvalSet],
    load: Callable[[str], Subject],
) -> _Run:
    subject = load(str(model["path"]))
    warn_about_reuse(subject, answers, f"{file_name(name)}.*.jsonl")
    clusters = image_clusters(problems)
    styles = list(model.get("styles") or [model.get("style", "think")])
    limits = config.max_new_tokens, config.batch_size, config.seed
    session = ModelSession(subject, answers, styles[0], clusters, *limits, prefix=f"{file_name(name)}.")
    attention = {"layers": config.layers} if config.attention else None
    by_style = {s: session.ask(problems, f"main {s}", style=s, attention=attention) for s in styles}
    accuracies = {style: session.accuracy(rows) for style, rows in by_style.items()}
    style = max(styles, key=lambda style: accuracies[style]["value"] or 0.0)
    session, main = replace(session, style=style), by_style[style]
    report: dict[str, Any] = {
        "path": str(model["path"]),
        "weights": subject.fingerprint,
        "style": style,
        "accuracy_by_style": accuracies,
        **session.accuracies(main),
        "errors": count_errors(main, f"{name} ({model['path']})"),
        "accuracy_of_finished": session.accuracy([answer for answer in main if not answer.truncated]),
        **behaviour(main, clusters),
        "attention": attention_profile(main, clusters, config.layers, covered_layers(subject, config.layers)),
    }
    scratch = {answer.problem_id: answer for answer in main}
    if config.blank:
        with_image = balanced_subset([problem for problem in problems if problem.images], config.blank, config.seed)
        blank = session.ask(with_image, "blank", images=blank_images)
        report["blank_accuracy"] = session.accuracy(blank)
        report["blank_drop"] = paired_difference(correct_by_id(main), correct_by_id(blank), clusters)
    if config.swap:
        swappable = [problem for problem in problems if has_counterfactual(problem)]
        key, result = session.swap(balanced_subset(swappable, config.swap, config.seed), scratch)
        report[key] = {name: value for name, value in result.items() if name != "values"}
        if key == "swap":
            report["swap_update_rate"] = result["update_rate"]
    if config.k:
        report["sampled"] = session.sample(
            balanced_subset(problems, config.sampled, config.seed), config.k, config.temperature
        )[1]
    if config.rotations and (chosen := [problem for problem in problems if problem.choices]):
        rotated = [
            session.ask([rotate_options(problem, by) for problem in chosen], f"rotation {by}")
            for by in range(1, config.rotations + 1)
        ]
        report["position_bias"] = position_bias(chosen, [[scratch[p.id] for p in chosen], *rotated])
    benchmark = BENCHMARKS.get(problems[0].source)
    if benchmark and benchmark.score and len({problem.source for problem in problems}) == 1:
        report["benchmark"] = benchmark.score(problems, main)

    run = _Run(report, main)
    keys = {"shift": "shift_accuracy", "skill": "skill_accuracy", "first_look": "first_look_error"}
    for set_name, problem_set in sets.items():
        asked = balanced_subset(problem_set.problems, config.per_set, config.seed)
        tag = f"{problem_set.kind} {set_name}"
        rows = run.sets[set_name] = session.ask(asked, tag, style=problem_set.style or style)
        images = image_clusters(asked)
        golds = {problem.id: problem.answer for problem in asked}
        score = partial(first_look_error, golds=golds) if problem_set.kind == "first_look" else estimate_accuracy
        by_family = grouped(rows, lambda answer: answer.family)
        report.setdefault(keys[problem_set.kind], {})[set_name] = {
            **score(rows, clusters=images),
            "by_family": {family: score(some, clusters=images) for family, some in sorted(by_family.items())},
        }
    return run


def run_eval(
    model: str,
    problems: str | Path,
    out: str | Path,
    *,
    styles: Sequence[str] = ("think",),
    config: EvalConfig | None = None,
    load: Callable[[str], Subject] | None = None,
    rescore: bool = False,
    against: str | None = None,
) -> dict[str, Any]:
    """``reflection-v eval MODEL --problems DIR``: accuracy and grounding of one model, with report.json and report.html.

    Args:
        rescore: grade the answers in ``out`` again and generate none; the model is not even loaded.
        against: a model to compare with, evaluated on the same problems before.

    Raises:
        UserError: no such model or problem set, an output folder that cannot be written, or nothing answered.
    """
    out = Path(out)
    paths = [path for path in (against, model) if path]
    names = [Path(path).name or path if "://" not in path else path.split("@")[0] for path in paths]
    if len(set(names)) < len(names):
        names = paths
    if rescore:
        weights = {figures["path"]: figures["weights"] for figures in read_report(out)["models"].values()}
        if missing := [path for path in paths if path not in weights]:
            raise UserError(
                f"{out} holds no evaluation of {missing[0]} to grade again: its models are {list(weights)}."
            )
        load = lambda path: RecordedSubject(path, weights[path])  # noqa: E731
    models = {name: {"path": path, "styles": list(styles)} for name, path in zip(names, paths, strict=True)}
    with answers_dir(out).held():
        report = evaluate(models, read_problems(problems), out, config, load=load)
        if (account := read_account(problems)) is not None:
            report["problems"]["benchmark"] = account
        report["seconds"] = {"eval": sum(report["evaluation"]["seconds"].values())}
        write_report(report, out, logs={}, samples=out / "samples.json")
    return report


def _pairs(answers: Mapping[str, Sequence[Answer]], problems: Sequence[Problem]) -> dict[str, dict[str, Any]]:
    """``later-earlier`` -> paired difference, for every pair of models; its key ``models`` names the two."""
    clusters = image_clusters(problems)
    correct = {name: correct_by_id(rows) for name, rows in answers.items()}
    return {
        f"{later}-{earlier}": {
            "models": [later, earlier],
            **paired_difference(correct[later], correct[earlier], clusters),
        }
        for earlier, later in combinations(correct, 2)
    }
