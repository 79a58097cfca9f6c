"""The start of a study: its own cold start, and the prompts that all arms train on.

It writes into the study's folder:

    OUT/start/sft.jsonl     rows from a run's traces, some with no-op re-looks (``data_construction.dataset.MixConfig``)
    OUT/start/model/        the base model fine-tuned on these rows
    OUT/start/prompts/      problems that this model solves sometimes; chosen once, so that all arms train on the same ones
    OUT/start/start.json    counts, written last
"""

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from configs.errors import UserError
from configs.jsonl import write_json_atomic, write_text_atomic
from configs.schema import StrictModel, parse_config


class Start(StrictModel):
    """Settings of the start.

    Attributes:
        build: config of the agent loop (beside the study's file) whose ``quality`` and ``mix`` make the rows.
        mix: keys that override its ``mix``, such as ``hollow_share``.
        sft: config of the cold start (beside the study's file).
        prompts: keys of ``train.config.PromptSelection``.
        seed: of rows, training and prompt selection; the arms have their own seeds.
    """

    build: str = "../build.yaml"
    mix: dict[str, Any] = Field(default_factory=dict)
    sft: str = "../sft.yaml"
    prompts: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0


def prepare(
    start: Start, base: str, run: Path, grpo: dict[str, Any], out: Path, precision: str = "float32"
) -> dict[str, Any]:
    """Make rows, model and prompts. Existing results are reused, and an interrupted training resumes.

    Args:
        base: the model before the cold start.
        run: a finished ``reflection-v run``, for its traces and problem sets.
        grpo: the arms' sampling settings (temperature, longest completion), under which prompts are chosen.
        precision: of the cold start.

    Raises:
        UserError: the run has no traces, or the model solves each prompt always or never.
    """
    from train.sft import run_sft

    done = out / "start.json"
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    out.mkdir(parents=True, exist_ok=True)
    rows = _start_rows(start, run, out / "sft.jsonl")
    keys = {"model": base, "dataset": str(out / "sft.jsonl"), "output_dir": str(out / "model"), "seed": start.seed}
    trained = run_sft(start.sft, {**keys, "precision": precision})
    counts = {"rows": rows, "sft": trained, "prompts": _choose(start, run, grpo, out)}
    write_json_atomic(done, counts)
    return counts


def _start_rows(start: Start, run: Path, file: Path) -> dict[str, Any]:
    from configs.overrides import read_config
    from data_construction.build import BuildConfig
    from data_construction.dataset import MixConfig, cold_start_rows
    from data_construction.derive import judged_traces, problems_for_rows

    traces = run / "build" / "traces.jsonl"
    if not traces.exists():
        raise UserError(f"There are no traces in {run}: finish 'reflection-v run' there first.")
    config = parse_config(BuildConfig, read_config(start.build, {"out": str(traces.parent)}), start.build)
    mix = parse_config(MixConfig, config.mix.model_dump() | start.mix, "'start.mix' of the study")
    problems = problems_for_rows(run / "problems" / "train")
    rows, counts = cold_start_rows(judged_traces(problems, config), problems, mix, start.seed)
    write_text_atomic(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return counts


def _choose(start: Start, run: Path, grpo: dict[str, Any], out: Path) -> dict[str, Any]:
    from eval.figures import image_clusters
    from train.config import PromptSelection
    from train.selection import choose, measure_choice, read_pass_rates, sample_pass_rates, settings_key
    from vlm.identity import model_identity
    from vlm.load import load_vlm
    from vlm.problem import read_problems, write_problems

    selection = parse_config(PromptSelection, start.prompts, "'start.prompts' of the study")
    problems = read_problems(run / "problems" / "rl")
    vlm, known = load_vlm(out / "model"), model_identity(out / "model")
    temperature, longest = grpo["temperature"], grpo["max_completion_length"]
    sample_pass_rates(
        vlm,
        problems,
        selection,
        style="think",
        temperature=temperature,
        max_new_tokens=longest,
        seed=start.seed,
        folder=out,
        model_sha256=known,
        say=lambda text: print(text, flush=True),
    )
    rows = read_pass_rates(out, settings_key(vlm.name, selection, "think", temperature, longest, start.seed, known))
    chosen = choose(problems, rows, selection, start.seed)
    (out / "prompts").mkdir(exist_ok=True)
    write_problems(chosen, out / "prompts")
    return measure_choice(rows, selection, image_clusters(problems))
