"""After the run: do the facts of the kept traces hold in the pictures? Needs problems whose ``meta.facts`` are known."""

from typing import Any

from data_construction.records import Trace
from data_construction.sources.render import PLACES
from data_construction.statements import Statement, final_statements, statements
from vlm.problem import Problem


def holds(key: str, value: str, facts: dict[str, str]) -> bool | None:
    """Is ``key: value`` so in the scene? None where the statement is not about the scene (``note: ...``).

    ``row 2: red none blue`` is so if every word is the colour, shape or content of its place; ``B2: red`` and
    ``B2: red star`` likewise.
    """
    places = {place.lower(): place for place in facts}
    if key in places:
        return _fits(value, facts[places[key]])
    if key.startswith("row ") and set(facts) == set(PLACES):
        row = [place for place in PLACES if place[1:] == key.removeprefix("row ")]
        words = value.split()
        return bool(row) and len(words) == len(row) and all(map(_fits, words, (facts[place] for place in row)))
    return None


def _fits(value: str, fact: str) -> bool:
    return value == fact or value in fact.split()


def check_traces(traces: list[Trace], problems: dict[str, Problem]) -> dict[str, Any]:
    """Counts over the kept traces, against the scenes.

    Returns:
        ``checked`` traces (those whose problem states facts), ``corrected`` (a re-look turned a wrong fact right),
        ``spoiled`` (turned a right fact wrong), ``all_final_right`` (everything stated last is so), and the single
        changes ``wrong_to_right``, ``right_to_wrong``, ``wrong_to_wrong``; with shares of the first and third.
    """
    counts = dict.fromkeys(
        ("checked", "corrected", "spoiled", "all_final_right", "wrong_to_right", "right_to_wrong", "wrong_to_wrong"), 0
    )
    for trace in traces:
        facts = problems[trace.problem_id].meta.get("facts")
        if trace.status != "kept" or not facts:
            continue
        changes = _changes(statements(trace.trace), facts)
        final = [holds(key, value, facts) for key, value in final_statements(trace.trace).items()]
        counts["checked"] += 1
        counts["corrected"] += (False, True) in changes
        counts["spoiled"] += (True, False) in changes
        counts["all_final_right"] += all(verdict is not False for verdict in final)
        counts["wrong_to_right"] += changes.count((False, True))
        counts["right_to_wrong"] += changes.count((True, False))
        counts["wrong_to_wrong"] += changes.count((False, False))
    n = counts["checked"]
    shares = {f"{name}_share": round(counts[name] / n, 4) if n else None for name in ("corrected", "all_final_right")}
    return {**counts, **shares}


def _changes(found: list[Statement], facts: dict[str, str]) -> list[tuple[bool, bool]]:
    """(right before, right after) for every statement that a later one about the same place replaces by another value."""
    latest: dict[str, str] = {}
    changes = []
    for statement in found:
        before = latest.get(statement.key)
        if before is not None and before != statement.value:
            verdicts = holds(statement.key, before, facts), holds(statement.key, statement.value, facts)
            if verdicts[0] is not None and verdicts[1] is not None:
                changes.append((verdicts[0], verdicts[1]))
        latest[statement.key] = statement.value
    return changes
