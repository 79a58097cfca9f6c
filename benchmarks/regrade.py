"""Grade saved answers again: how many verdicts a change of the verifiers changes, and which.

    python benchmarks/regrade.py FOLDER ... --problems SET [SET ...] [--json]

The work: every log of answers (``answers/*.jsonl`` of an evaluation or an audit) below the folders, graded by the code as it is, against
the score and the answer that the log holds. Nothing is written: the logs of an evaluation are brought up to date by the evaluation itself.
Run it on the commit that wrote the logs first: there no verdict may change. A row whose image was replaced is graded by the
gold answer of that image, as the audit does.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reporting import report, surroundings
from configs.errors import UserError
from configs.jsonl import iter_log
from eval.grounding import counterfactual
from eval.runner import Answer, read_answers
from reward.grade import Grade, grade
from reward.worker import map_in_threads
from vlm.problem import Problem, read_problems

OF_ANOTHER_IMAGE = ("other picture", "other from scratch")
"""How the tags of those conditions end in which the counterfactual image is shown."""

EXAMPLES = 20


def saved_answers(folders: Sequence[Path]) -> Iterator[Answer]:
    """The last row of each key in every log below the folders; rows without a response are left out."""
    logs = sorted({log for folder in folders for log in folder.rglob("answers/*.jsonl")})
    if not logs:
        raise UserError(
            f"There is no log of answers below {', '.join(map(str, folders))}: name the folder of an evaluation."
        )
    for log in logs:
        if "text" in next(iter_log(log), {}):  # the logs of forward measures lie beside those of answers
            yield from (row for row in {row.key: row for row in read_answers(log)}.values() if row.text)


def problem_of(row: Answer, problems: dict[str, Problem]) -> Problem | None:
    """The problem that decides a row's grade; None if no named set has it."""
    problem = problems.get(row.problem_id)
    return counterfactual(problem) if problem and row.tag.endswith(OF_ANOTHER_IMAGE) else problem


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--problems", nargs="+", required=True, metavar="SET", help="the problem sets that were answered"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    given = parser.parse_args(arguments)
    problems = {problem.id: problem for name in given.problems for problem in read_problems(name)}
    rows = list(saved_answers(given.folders))
    known = [(row, problem) for row in rows if (problem := problem_of(row, problems))]

    def graded(pair: tuple[Answer, Problem]) -> Grade:
        return grade(pair[1], pair[0].prefix + pair[0].text, not pair[0].truncated)

    changed: Counter[str] = Counter()
    other_answer, examples = 0, []
    for (row, problem), now in zip(known, map_in_threads(graded, known), strict=True):
        other_answer += now.answer != row.answer
        if now.score != row.score:
            changed[f"{problem.domain}: {row.score} to {now.score}"] += 1
            examples.append(
                f"{problem.id}: {row.answer!r} for {problem.answer!r} ({problem.domain}): {row.score} to {now.score}"
            )
    figures = {
        "answers": len(known),
        "of_other_problems": len(rows) - len(known),
        "changed": changed.total(),
        "by_change": dict(changed),
        "other_answer_read": other_answer,
        "examples": examples[:EXAMPLES],
        **surroundings(None, "math-verify"),
    }
    return report(figures, {}, given.json)


if __name__ == "__main__":
    sys.exit(main())
