"""What ``benchmarks/two_hosts.py`` must hold, and its log as Markdown for ``docs/two-hosts.md``."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "two-hosts.md"
BEGIN, END = "<!-- log: begin -->", "<!-- log: end -->"


def missed(figures: Mapping[str, Any]) -> list[str]:
    """What does not hold, in words: every run's weights and losses are the reference's, and every loss of a host is told."""
    found = []
    for stage, one in figures["stages"].items():
        for key, most in (("loss_difference", 1e-5), ("resumed_loss_difference", 1e-5)):
            found += [f"{stage}: {key} {one[key]}"] if one[key] is None or one[key] > most else []
        for key in ("weight_difference", "resumed_weight_difference"):
            found += [f"{stage}: {key} {one[key]}"] if one[key] is None or one[key] > 1e-5 else []
        kill = one["kill"]
        if not kill["other_ended"] or not kill["sentence"] or kill["finished"]:
            found.append(f"{stage}: after the kill of host {kill['killed']} the other one did not end with a sentence")
    if (cable := figures.get("cable")) is not None and not (cable["ended"] and all(cable["sentences"])):
        found.append("the cable: not both hosts ended with a sentence")
    apart = figures["apart"]
    if not apart["launcher"] or apart["steps"] or not all(apart["sentences"]):
        found.append("folders of their own: not both hosts ended with a sentence before the first step")
    return found


def log_table(figures: Mapping[str, Any]) -> str:
    """The runs as Markdown: a table of losses for each stage, then what ended how."""
    lines = []
    for stage, one in figures["stages"].items():
        kill, runs = one["kill"], one["losses"]
        lines += [
            f"{stage.upper()}, ZeRO-2:",
            "",
            "| step | one host | two hosts | killed and resumed |",
            "|---|---|---|---|",
        ]
        rows = zip(runs["one-host"], runs["two-hosts"], runs["killed"], strict=True)
        for step, row in enumerate(rows, 1):
            mark = f" (resumed after step {kill['last_checkpoint']})" if step == kill["last_checkpoint"] + 1 else ""
            lines.append(f"| {step} | {' | '.join(f'{loss:.6f}' for loss in row)}{mark} |")
        differences = f"{one['weight_difference']:.1g}, {one['resumed_weight_difference']:.1g}"
        lines += ["", f"Largest difference of a weight, one host to two and uninterrupted to resumed: {differences}."]
        lines += [
            f"Host {kill['killed']} killed: the other one said so after {kill['told_after']} s and had ended after {kill['seconds']} s:",
            "",
            *_quoted(kill["sentence"]),
            "",
        ]
    if (cable := figures.get("cable")) is not None:
        lines += [
            f"Cable pulled out: both hosts ended within {cable['seconds']} s:",
            "",
            *_quoted(cable["sentences"][0]),
            "",
        ]
    lines += ["The second host has an output folder of its own:", "", *_quoted(figures["apart"]["sentences"][1])]
    return "\n".join(lines)


def write_log(figures: Mapping[str, Any], path: Path = DOCS) -> None:
    """Replace what stands between the markers of ``path`` by the log and the machine's state."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    packages = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    machine = f"{os.cpu_count()} cores of {figures['processor']}, load average {figures['load_average']}; {packages}"
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{log_table(figures)}\n\nOn {machine}.\n{END}{after}", encoding="utf-8")


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "an unknown processor"
    )


def _quoted(sentence: str | None) -> list[str]:
    return ["```", f"error: {sentence}", "```"]
