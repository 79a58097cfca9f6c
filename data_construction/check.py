"""After the run: do the facts of the kept traces hold in the images? Needs problems whose ``meta.facts`` are known."""

from collections import defaultdict
from itertools import chain
from typing import Any

from data_construction.records import Trace
from data_construction.sources import COUNTABLE, row_contents
from reward import claims
from reward.statements import Statement, final_statements, statements
from vlm.problem import Problem


def statement_holds(key: str, value: str, facts: dict[str, str]) -> bool | None:
    """``reward.claims.claim_holds`` with the words of the bundled sources: also what is not in a scene can be counted there."""
    return claims.claim_holds(key, value, facts, COUNTABLE)


def check_traces(traces: list[Trace], problems: dict[str, Problem]) -> dict[str, Any]:
    """Counts over the kept traces, against the scenes.

    Returns:
        ``first_look``: see ``first_look_errors``, over all episodes; the rest is about kept traces only:
        ``checked`` traces (those whose problem states facts), ``corrected`` (a re-look turned a wrong fact right),
        ``spoiled`` (turned a right fact wrong), ``all_final_right`` (everything stated last is so), and the single
        changes ``wrong_to_right``, ``right_to_wrong``, ``wrong_to_wrong``; with shares of the first and third.
    """
    counts = dict.fromkeys(
        ("checked", "corrected", "spoiled", "all_final_right", "wrong_to_right", "right_to_wrong", "wrong_to_wrong"), 0
    )
    for trace in traces:
        facts = problems[trace.problem_id].facts
        if trace.status != "kept" or not facts:
            continue
        changes = _changes(statements(trace.trace), facts)
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
    return {**counts, **shares, "first_look": first_look_errors(traces, problems)}


def first_look_errors(traces: list[Trace], problems: dict[str, Problem]) -> dict[str, dict[str, Any]]:
    """How often the responder's first reply of an episode errs, fact by fact, against the scene.

    A fact is one word of a row (one object's colour, shape or digit), or all that is said of a place or of the whole.

    Returns:
        source -> ``facts``, ``wrong`` and ``share`` (wrong / facts, in [0, 1]), and ``by_family`` with the same three.
    """
    found: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for trace in traces:
        problem = problems[trace.problem_id]
        if trace.rounds and problem.facts:
            wrong = found[problem.source][problem.family]
            for key, value in final_statements(trace.rounds[0].reply).items():
                wrong += _wrong_facts(key, value, problem.facts)
    return {
        source: {
            **_error_share(list(chain.from_iterable(families.values()))),
            "by_family": {f: _error_share(w) for f, w in families.items()},
        }
        for source, families in found.items()
    }


def _wrong_facts(key: str, value: str, facts: dict[str, str]) -> list[bool]:
    """One entry a fact that the statement makes; none where it is not about the scene."""
    if row := row_contents(key, facts):
        words = value.split()
        return [index >= len(words) or not claims.fits(words[index], fact) for index, fact in enumerate(row)]
    verdict = statement_holds(key, value, facts)
    return [] if verdict is None else [not verdict]


def _error_share(wrong: list[bool]) -> dict[str, Any]:
    return {"facts": len(wrong), "wrong": sum(wrong), "share": round(sum(wrong) / len(wrong), 4) if wrong else None}


def _changes(found: list[Statement], facts: dict[str, str]) -> list[tuple[bool, bool]]:
    """(right before, right after) for every statement that a later one about the same place replaces by another value."""
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
