"""The text output of ``reflection-v doctor``."""

from collections.abc import Iterator, Mapping
from typing import Any

from configs.versions import TOOLS

Row = tuple[str, str]
MARKS = {"newer": "newer than tested", "older": "older than tested", "excluded": "known not to work"}


def sections(found: Mapping[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    """Yield the title and the rows (name, text) of each section."""
    python, machine = found.get("python"), found.get("machine")
    rows: list[Row] = []
    if python:
        project = python["project"] or "not installed"
        rows += [("reflection-v", project), ("Python", f"{python['version']} (needs {python['needed']})")]
    if machine:
        sets = ", ".join(machine["instructions"]) or "instruction sets unknown"
        limit = f"; limited by {machine['limit']}" if machine["limit"] else ""
        rows += [("system", machine["system"]), ("processor", f"{machine['processor']} ({sets}{limit})")]
        rows.append(("cores", str(machine["cores"])))
        if machine["free_memory_gb"] is not None:
            rows.append(("free memory", f"{machine['free_memory_gb']} GB"))
    for gpu in found.get("gpus") or []:
        free = "cannot be used" if gpu["free_gb"] is None else f"{gpu['free_gb']} of {gpu['total_gb']} GB free"
        rows.append((f"GPU {gpu['index']}", f"{gpu['name']}, {free}"))
    if found.get("gpus") == []:
        rows.append(("GPUs", "none that torch can use"))
    yield "Machine", rows
    packages = found.get("packages") or []
    tools = [row for row in packages if row["extras"] == [TOOLS] and row["state"] == "tested"]
    yield "Packages", [(row["package"], _package(row)) for row in packages if row not in tools]
    yield (
        "Extras",
        [
            (name, "installed" if not one["missing"] else f"without {', '.join(one['missing'])}: {one['install']}")
            for name, one in (found.get("extras") or {}).items()
        ],
    )
    yield "What the stages would choose", list(_chosen(found.get("choices") or {}))
    rows = []
    if speed := found.get("speed"):
        times = f"float32 {speed['float32_ms']:g} ms, bfloat16 {speed['bfloat16_ms']:g} ms"
        rows.append((f"one step on {speed['device']}", f"{times}: bfloat16 takes {speed['ratio']:g} times as long"))
    yield "Measured", rows
    rows = []
    if disk := found.get("disk"):
        rows.append(
            ("free disk", f"{disk['free_gb']:g} GB for {disk['folder']} (make run needs {disk['needed_gb']:g})")
        )
    for name, cache in (found.get("caches") or {}).items():
        rows.append((name, cache["folder"] if cache["writable"] else f"{cache['folder']}, not writable"))
    yield "Disk", rows


def _package(row: Mapping[str, Any]) -> str:
    state, tested = row["state"], row["tested"]
    if tested:
        tested = f" ({tested})" if tested.endswith("or newer") else f" (tested: {tested})"
    return f"{row['installed'] or state}{tested}" + (
        f", {MARKS.get(state, state)}" if state not in ("tested", "missing") else ""
    )


def _chosen(choices: Mapping[str, Any]) -> Iterator[Row]:
    if "device" in choices:
        yield "device", choices["device"]
    for stage, words in choices.get("precision", {}).items():
        yield f"precision of {stage}", words
    if attention := choices.get("attention"):
        yield "attention", f"{attention['kernel']}; the probe reads {attention['probe']}"
    if "threads" in choices:
        yield "threads of torch", str(choices["threads"])
        yield "data workers", f"at most {choices['data_workers_at_most']}"
    if "answer_workers" in choices:
        yield "processes that read answers", str(choices["answer_workers"])


def closing_lines(found: Mapping[str, Any]) -> list[str]:
    """The lines at the end: warnings, errors, and whether the tiny run can start."""
    lines = [f"warning: {line}" for line in found["warnings"]] + [f"error: {line}" for line in found["errors"]]
    can = "can run here" if found["ok"] else "cannot run here until these errors are fixed"
    return [*lines, f"The tiny run (make run) {can}."]


def show(found: Mapping[str, Any]) -> None:
    """Print tables on a terminal. Without a terminal, or without rich, print plain lines."""
    parts = [(title, rows) for title, rows in sections(found) if rows]
    if not _show_tables(parts):
        width = max((len(name) for _, rows in parts for name, _ in rows), default=0)
        for title, rows in parts:
            print(f"{title}:")
            for name, text in rows:
                print(f"  {name:<{width}}  {text}")
    for line in closing_lines(found):
        print(line)


def _show_tables(parts: list[tuple[str, list[Row]]]) -> bool:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    console = Console()
    if not console.is_terminal:
        return False
    for title, rows in parts:
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in rows:
            table.add_row(Text(name), Text(text))
        console.print(table)
    return True
