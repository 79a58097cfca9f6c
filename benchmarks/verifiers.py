"""How often the verifiers agree with careful people, on answers in the formats of public benchmarks.

    python benchmarks/verifiers.py [--json] [--show DOMAIN] [--part table|frozen|all] [--quick] [--judge MODEL]

The work: the rows of ``benchmarks/answers`` (its README says how they were made and judged). A row agrees if the grade is correct
exactly where the readers say so; an answer that cannot be judged agrees with neither. False positives (an incorrect answer that
passes) pay a policy for nonsense, so they are counted apart from false negatives. ``by_domain``, ``by_language`` and ``by_kind`` have
the same figures for each part of the table, and ``frozen`` for the third that nobody looks at while a verifier is changed: ``--show``
lists disagreements of the other two thirds only.

``peers``: the same rows through math-verify alone, through the accuracy reward of TRL (``trl.rewards.accuracy_reward``), and
through the rules that lmms-eval documents for short answers (exact match without case and punctuation, and a relaxed match within
5% for numbers), each over the domains for which it is meant. They are given the same answers; whole responses are left to those that
read them.

``others``: rows about what reads a response beside the verifiers (the terms ``format`` and ``repetition``, and whether a trace admits
its hint). They are no part of the figures above.

``judge`` (with ``--judge``): the same rows through a judge of open answers (``reward.judge``), as if they were of domain ``open``. It
sees the options, where there are any, and no question. A row on which it gives no verdict agrees with neither: ``cannot_tell``,
``order`` (another verdict in the other order) and ``unreadable`` are shares of all rows. No policy is in this process, so a model in
this process may judge, such as ``tiny`` (which cannot: it says nothing about judges).
"""

import argparse
import json
import logging
import re
import string
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.reporting import report, surroundings
from configs.jsonl import read_jsonl
from configs.model_name import served_model
from eval.admissions import ADMITS
from reward.grade import Gold, grade, grade_answer, read_answer
from reward.judge import OUTCOMES, Case, Judge, JudgeConfig, open_judge, prompt_sha256
from reward.rewards import Rollout, repetition, response_format
from reward.verifiers import VERIFIERS
from reward.worker import map_in_threads
from vlm.labels import option_label

Row = Mapping[str, Any]

ANSWERS = Path(__file__).parent / "answers"
PARTS = {"table": ("table",), "frozen": ("frozen",), "all": ("table", "frozen")}
MUST_HOLD = {
    "agreement": lambda share: share >= 0.985,
    "false_positives_per_1000": lambda count: count <= 2,
    "n": lambda count: count >= 1000,
}


def read_rows(part: str, domains: Container[str] = VERIFIERS) -> list[Row]:
    """The rows about some domains of one part, each with the name of its file as ``part``."""
    rows = [{**row, "part": file} for file in PARTS[part] for row in read_jsonl(ANSWERS / f"{file}.jsonl")]
    return [row for row in rows if row["domain"] in domains]


def gold_of(row: Row) -> Gold:
    """The gold answer of a row. An integer or a list is written as JSON, as a data set holds it.

    Rows in German, Spanish or French come from sets that write a decimal comma.
    """
    gold = row["gold"] if isinstance(row["gold"], str) else json.dumps(row["gold"], ensure_ascii=False)
    decimal = "," if row.get("language") in ("de", "es", "fr") else "."
    return Gold(row["domain"], gold, row.get("choices"), decimal)


def passes(row: Row) -> bool | None:
    """Whether the project's grade of a row is correct; None where it cannot be judged."""
    if "response" in row:
        verdict = grade(gold_of(row), row["response"], row.get("finished", True))
    else:
        verdict = grade_answer(gold_of(row), row["answer"])
    return None if verdict.score is None else verdict.correct


def counts(rows: Sequence[Row], verdicts: Sequence[bool | None]) -> dict[str, Any]:
    """Agreement and its two kinds of failure."""
    wrong = Counter(
        "unjudged" if verdict is None else "false_positives" if verdict else "false_negatives"
        for row, verdict in zip(rows, verdicts, strict=True)
        if verdict is not row["correct"]
    )
    n = len(rows)
    return {
        "agreement": round(1 - wrong.total() / n, 4) if n else None,
        "false_positives": wrong["false_positives"],
        "false_negatives": wrong["false_negatives"],
        "unjudged": wrong["unjudged"],
        "n": n,
    }


def counts_by(key: str, rows: Sequence[Row], verdicts: Sequence[bool | None]) -> dict[str, Any]:
    """``counts`` of each group of rows, by the value of ``key``."""
    groups: dict[str, tuple[list[Row], list[bool | None]]] = defaultdict(lambda: ([], []))
    for row, verdict in zip(rows, verdicts, strict=True):
        groups[row[key]][0].append(row)
        groups[row[key]][1].append(verdict)
    return {name: counts(*group) for name, group in sorted(groups.items())}


# Peers: (domains for which it is meant, verdict on (gold as text, answer as text))


def math_verify_alone(gold: str, answer: str) -> bool:
    """math-verify on gold and answer in dollar signs, as its README shows it."""
    from math_verify import parse, verify

    return bool(
        verify(
            parse(f"${gold}$", parsing_timeout=None), parse(f"${answer}$", parsing_timeout=None), timeout_seconds=None
        )
    )


def trl_accuracy(gold: str, answer: str) -> bool | None:
    """TRL's accuracy reward, given the answer in a box. None where TRL skips the row, since it cannot parse the gold answer."""
    from trl.rewards import accuracy_reward

    score = accuracy_reward([[{"content": f"\\boxed{{{answer}}}"}]], [f"${gold}$"])[0]
    return None if score is None else score >= 1


def exact_match(gold: str, answer: str) -> bool:
    """Equal without case, punctuation and outer space (lmms-eval's ``exact_match`` with both options on)."""
    table = str.maketrans("", "", string.punctuation)
    return gold.lower().translate(table).strip() == answer.lower().translate(table).strip()


def relaxed_match(gold: str, answer: str) -> bool:
    """Numbers within 5%, other texts equal without case (ChartQA's relaxed accuracy, which lmms-eval uses)."""

    def number(text: str) -> float | None:
        text = text.strip()
        found = re.fullmatch(r"(-?\d+(?:\.\d+)?)(%?)", text)
        return float(found[1]) / (100 if found[2] else 1) if found else None

    want, got = number(gold), number(answer)
    if want and got is not None:
        return abs(got - want) / abs(want) <= 0.05
    return gold.strip().lower() == answer.strip().lower()


Peer = Callable[[str, str], bool | None]
PEERS: dict[str, tuple[tuple[str, ...], Peer]] = {
    "math_verify": (("number", "count", "expression", "science"), math_verify_alone),
    "trl_accuracy_reward": (("number", "count", "expression", "science"), trl_accuracy),
    "lmms_eval_exact_match": (("text", "choice", "yes_no"), exact_match),
    "lmms_eval_relaxed_match": (("number", "count", "text"), relaxed_match),
}


def peer_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Each peer over the rows of its domains that hold an answer (not a whole response), and ours over the same rows."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    figures = {}
    for name, (domains, verdict_of) in PEERS.items():
        suitable = [row for row in rows if row["domain"] in domains and "answer" in row]
        verdicts = [guarded(verdict_of, gold_of(row).answer, row["answer"]) for row in suitable]
        ours = map_in_threads(passes, suitable)
        figures[name] = {"domains": domains, **counts(suitable, verdicts), "ours": counts(suitable, ours)}
    return figures


def rollout_of(row: Row) -> Rollout:
    return Rollout(row["response"], "text", row["gold"], finished=row.get("finished", True))


MILD = 0.05
"""A penalty for repetition below this is none: honest text may say something twice."""
OTHERS: dict[str, Callable[[Row], bool]] = {
    "format": lambda row: response_format(rollout_of(row)).value == 1.0,
    "repetition": lambda row: -(repetition(rollout_of(row)).value or 0.0) < MILD,
    "admission": lambda row: ADMITS.search(row["response"]) is not None,
}
"""Domain of the rows that are not about a verifier -> the verdict on a row."""


def guarded(verdict_of: Peer, gold: str, answer: str) -> bool | None:
    """A peer's verdict; one that raises gives none."""
    try:
        return verdict_of(gold, answer)
    except Exception:  # of whatever library the peer uses
        return None


def judge_figures(judge: Judge, rows: Sequence[Row]) -> dict[str, Any]:
    """A judge over all rows that give an answer, and ours over the same rows."""
    asked = [row for row in rows if answer_read(row)]
    judge.try_out()
    outcomes = judge.outcomes([judge_case(row) for row in asked])
    scores = [OUTCOMES[outcome][0] for outcome in outcomes]
    without = {
        name: round(outcomes.count(name) / len(asked), 4) for name, (score, _) in OUTCOMES.items() if score is None
    }
    return {
        "name": judge.name,
        "prompt_sha256": prompt_sha256(),
        **counts(asked, [None if score is None else score >= 1 for score in scores]),
        **without,
        "ours": counts(asked, map_in_threads(passes, asked)),
    }


def judge_case(row: Row) -> Case:
    """What a judge is shown of a row."""
    options = "; ".join(f"{option_label(index)}) {choice}" for index, choice in enumerate(row.get("choices") or ()))
    return Case(f"The options are: {options}" if options else "", gold_of(row).answer, answer_read(row))


def answer_read(row: Row) -> str:
    """The answer of a row, for a person."""
    return row["answer"] if "answer" in row else read_answer(row["response"], row.get("finished", True)) or ""


def show(rows: Iterable[Row], verdicts: Iterable[bool | None], domain: str) -> None:
    """List the disagreements in the open part of the table."""
    for row, verdict in zip(rows, verdicts, strict=True):
        if row["part"] == "table" and domain in (row["domain"], "all") and verdict is not row["correct"]:
            said = {None: "unjudged", True: "FALSE POSITIVE", False: "false negative"}[verdict]
            options = f" of {row['choices']}" if row.get("choices") else ""
            print(
                f"{row['id']:20} {said:15} {answer_read(row)!r} for {row['gold']!r}{options}  [{row['kind']}, {row['language']}]"
            )


def judged(model: str, rows: Sequence[Row]) -> dict[str, Any]:
    """``judge_figures`` of a model. Only a served one is cached: other weights may lie in a folder of the same name."""
    with tempfile.TemporaryDirectory() as folder:
        judge = open_judge(JudgeConfig(model=model, cache=None if served_model(model) else folder))
        try:
            return judge_figures(judge, rows)
        finally:
            judge.close()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--quick", action="store_true", help="without the peers")
    parser.add_argument("--part", choices=PARTS, default="all", help="rows to read (default: all)")
    parser.add_argument("--show", metavar="DOMAIN", help="list the disagreements of a domain, or of all")
    parser.add_argument("--judge", metavar="MODEL", help="openai:NAME@URL, or a text model in this process")
    given = parser.parse_args(arguments)
    rows = read_rows(given.part)
    verdicts = map_in_threads(passes, rows)
    if given.show:
        show(rows, verdicts, given.show)
    others = read_rows(given.part, OTHERS)
    verdicts_of_others = [OTHERS[row["domain"]](row) for row in others]
    if given.show:
        show(others, verdicts_of_others, given.show)
    total = counts(rows, verdicts)
    figures = {
        **total,
        "false_positives_per_1000": round(1000 * total["false_positives"] / total["n"], 2),
        "by_part": counts_by("part", rows, verdicts),
        "by_domain": counts_by("domain", rows, verdicts),
        "by_language": counts_by("language", rows, verdicts),
        "by_kind": {}
        if given.json
        else {name: one for name, one in counts_by("kind", rows, verdicts).items() if one["agreement"] < 1},
        "peers": {} if given.quick else peer_figures(rows),
        **({"judge": judged(given.judge, rows)} if given.judge else {}),
        "others": counts_by("domain", others, verdicts_of_others),
        **surroundings(None, "math-verify", "trl"),
    }
    return report(figures, MUST_HOLD, given.json)


if __name__ == "__main__":
    sys.exit(main())
