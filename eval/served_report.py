"""What a comparison of a served model with its weights found, in words: a table, and lines for its end."""

from collections.abc import Mapping
from typing import Any

HEAD: tuple[str, ...] = ("prompt", "prompt tokens", "equal tokens", "log-probability gap", "result")


def served_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row of text for each prompt, under ``HEAD``."""
    rows: list[tuple[str, ...]] = []
    for one in report["probes"]:
        served, own = one["served_prompt"], one["own_prompt"]
        prompt = f"{own}" if served == own else f"{'not given' if served is None else served}, here {own}"
        gap = (
            "not given" if one["log_p_gap"] is None else f"{one['log_p_gap']:.1e} (at most {one['log_p_gap_max']:.1e})"
        )
        if one["refused"]:
            prompt, gap = f"here {own}", ""
        equal = "" if one["refused"] else f"{one['common']} of {one['own_tokens']}"
        result = "equal" if not one["differs"] else ", ".join(one["differs"]).replace("_", " ")
        rows.append((one["name"], prompt, equal, gap, result))
    return rows


def served_summary(report: Mapping[str, Any]) -> list[str]:
    """The verdict and the causes in plain lines."""
    probes = report["probes"]
    differing = sum(bool(one["differs"]) for one in probes)
    tolerance = f"{report['tolerance']['log_p_mean']:g} nats per token"
    lines = []
    if report["verdict"] == "equal":
        given = report["given"]
        what = ["prompt tokens"] * given["prompt_tokens"] + ["greedy tokens"]
        what += [f"log-probabilities (within {tolerance})"] * given["log_probabilities"]
        lines.append(
            f"equal: {report['served']} answers as {report['reference']} on {len(probes)} prompts: {', '.join(what)}."
        )
    else:
        first = report["first_difference"]
        lines.append(
            f"differs: {report['served']} answers otherwise than {report['reference']} on {differing} of {len(probes)} prompts "
            f"(log-probabilities count from {tolerance})."
        )
        lines.append(f"First on '{first['probe']}': {first['sentence']}")
    for cause in report["causes"]:
        lines.append(f"{cause['name']} ({'recomputed' if cause['recomputed'] else 'likely'}): {cause['sentence']}")
    if not report["given"]["log_probabilities"]:
        lines.append(
            "The server gives no log-probabilities: quantized weights and small faults that change no greedy token stay unseen."
        )
    if not report["given"]["prompt_tokens"]:
        lines.append("The server gives no usage: the numbers of prompt tokens are not compared.")
    return [*lines, *report["notes"]]


def print_served(report: Mapping[str, Any]) -> None:
    """Print the table and the lines."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:  # a log has no width to wrap at
        console = Console(width=140)
    table = Table()
    for title in HEAD:
        table.add_column(title, overflow="fold")
    for row in served_rows(report):
        table.add_row(*map(Text, row))  # Text: names of problems are no markup
    console.print(table)
    for line in served_summary(report):
        print(line)
