"""Compare two finished evaluations from their reports and logs."""

from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from configs.errors import UserError
from configs.provenance import versions
from eval.figures import file_name
from eval.harness import REPORT_SCHEMA
from eval.report import read_report, write_report
from eval.runner import Answer, answers_dir, correct_by_id, read_answers
from eval.stats import paired_difference


def compare(first: str | Path, second: str | Path, out: str | Path) -> dict[str, Any]:
    """``reflection-v eval --compare A B`` of two finished evaluations: their reports side by side and the paired difference,
    second minus first, over the problems that both answered and that were graded alike. Nothing is generated.

    Raises:
        UserError: a folder is not a finished evaluation, or was changed so that it can no longer be read, or the two have no problem
            in common.
    """
    try:
        return _compare_reports(first, second, out)
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        RecursionError,
        TemplateError,
    ) as error:
        raise UserError(
            f"report.json or the answers of {first} or {second} do not hold what an evaluation writes there "
            f"({type(error).__name__}: {error}): restore them, or evaluate again."
        ) from None


def _compare_reports(first: str | Path, second: str | Path, out: str | Path) -> dict[str, Any]:
    if Path(out).resolve() in (Path(first).resolve(), Path(second).resolve()):
        raise UserError(f"{out} is one of the evaluations that are compared: choose another --out.")
    answers_dir(out).refuse_foreign()
    sides: dict[str, tuple[dict[str, Any], list[Answer]]] = {}
    about: list[dict[str, Any]] = []
    for folder in (Path(first), Path(second)):
        report = read_report(folder)
        about.append(report.get("evaluation", {}))
        (name, figures), *_ = report["models"].items()
        log = folder / "answers" / f"{file_name(name)}.{file_name('main ' + figures['style'])}.jsonl"
        latest = {row.problem_id: row for row in read_answers(log)}
        label = name if name not in sides else f"{name} ({folder.name})"
        sides[label] = (figures, list(latest.values()))
    (_, rows), (_, others) = sides.values()
    # ``graded`` hashes verifier and gold answer: a difference must not come from another grading.
    graded = {(row.problem_id, row.graded) for row in rows} & {(row.problem_id, row.graded) for row in others}
    if not graded:
        raise UserError(f"{first} and {second} have no problem in common: evaluate both on the same problem set.")
    correct = {
        label: correct_by_id(row for row in rows if (row.problem_id, row.graded) in graded)
        for label, (_, rows) in sides.items()
    }
    earlier, later = correct
    # Reports of earlier releases do not tell which problems share images: each problem then counts as one image.
    shared = [one["shared_images"] for one in about if "shared_images" in one]
    clusters = {id_: id_ for id_, _ in graded} | {id_: group[0] for group in (shared or [[]])[0] for id_ in group}
    pair = {"models": [later, earlier], **paired_difference(correct[later], correct[earlier], clusters)}
    result = {
        "schema_version": REPORT_SCHEMA,
        "models": {label: figures for label, (figures, _) in sides.items()},
        "paired": {f"{later}-{earlier}": pair},
        "problems": {"n": len(graded)},
        "versions": versions(),
    }
    write_report(result, out, logs={})
    return result
