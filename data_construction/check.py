"""Check the facts that kept traces state against the images. Works for problems whose ``meta.facts`` are known."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from data_construction.records import Trace
from data_construction.sources import COUNTABLE, row_contents
from reward import claims
from reward.statements import Statement, final_statements, statements
from vlm.problem import Problem


def statement_holds(key: str, value: str, facts: dict[str, str]) -> bool | None:
    """``reward.claims.claim_holds`` with the words of the bundled sources, so that ``blue: 0`` holds where nothing is blue."""
    return claims.claim_holds(key, value, facts, COUNTABLE)


def check_traces(traces: Iterable[Trace], problems: Mapping[str, Problem]) -> dict[str, Any]:
    """Count correct and incorrect facts of the kept traces.

    Returns:
        ``first_look``: the error rate of the responder's first reply in each episode, fact by fact, as a dict: source ->
        ``facts``, ``wrong`` and ``share`` (wrong / facts, in [0, 1]), and ``by_family`` with the same three. A fact is one word of
        a row (the colour, shape or digit of one object), or a whole statement about a place or the image. All other counts are
        over kept traces: ``checked`` traces (their problem states facts), ``corrected`` (a re-look corrected a fact), ``spoiled``
        (a re-look made a correct fact incorrect), ``all_final_right`` (no final statement is incorrect), the single changes
        ``wrong_to_right``, ``right_to_wrong`` and ``wrong_to_wrong``, and the shares of ``corrected`` and ``all_final_right`` in
        ``checked``.
    """
    counts = dict.fromkeys(
        ("checked", "corrected", "spoiled", "all_final_right", "wrong_to_right", "right_to_wrong", "wrong_to_wrong"), 0
    )
    first_look: dict[str, dict[str, Counter[bool]]] = defaultdict(lambda: defaultdict(Counter))
    for trace in traces:
        problem = problems[trace.problem_id]
        facts = problem.facts
        if not facts:
            continue
        if trace.rounds:
            errors = first_look[problem.source][problem.family]
            for key, value in final_statements(trace.rounds[0].reply).items():
                errors.update(_fact_errors(key, value, facts))
        if trace.status != "kept":
            continue
        changes = _changes(statements(trace.trace), facts)
        # A statement that is not about the scene has the verdict None and counts neither way.
        final = [statement_holds(key, value, facts) for key, value in final_statements(trace.trace).items()]
        counts["checked"] += 1
        counts["corrected"] += (False, True) in changes
        counts["spoiled"] += (True, False) in changes
        counts["all_final_right"] += all(verdict is not False for verdict in final)
        counts["wrong_to_right"] += changes.count((False, True))
        counts["right_to_wrong"] += changes.count((True, False))
        counts["wrong_to_wrong"] += changes.count((False, False))
    n = counts["checked"]
    shares = {f"{name}_share": round(counts[name] / n, 4) if n else None for name in ("corrected", "all_final_right")}
    looks = {
        source: {
            **_error_share(sum(families.values(), Counter())),
            "by_family": {family: _error_share(errors) for family, errors in families.items()},
        }
        for source, families in first_look.items()
    }
    return {**counts, **shares, "first_look": looks}


def _fact_errors(key: str, value: str, facts: dict[str, str]) -> list[bool]:
    """For each fact of the statement, whether it is incorrect; empty where the statement is not about the scene."""
    if row := row_contents(key, facts):
        words = value.split()
        return [index >= len(words) or not claims.fits(words[index], fact) for index, fact in enumerate(row)]
    verdict = statement_holds(key, value, facts)
    return [] if verdict is None else [not verdict]


def _error_share(errors: Counter[bool]) -> dict[str, Any]:
    share = round(errors[True] / errors.total(), 4) if errors.total() else None
    return {"facts": errors.total(), "wrong": errors[True], "share": share}


def _changes(found: list[Statement], facts: dict[str, str]) -> list[tuple[bool, bool]]:
    """(correct before, correct after) of each statement that a later one with the same key replaces by another value."""
    latest: dict[str, str] = {}
    changes = []
    for statement in found:
        before = latest.get(statement.key)
        if before is not None and before != statement.value:
            verdicts = (
                statement_holds(statement.key, before, facts),
                statement_holds(statement.key, statement.value, facts),
            )
            if verdicts[0] is not None and verdicts[1] is not None:
                changes.append((verdicts[0], verdicts[1]))
        latest[statement.key] = statement.value
    return changes
