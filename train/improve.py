"""``reflection-v improve CONFIG``: rounds of sampling, keeping what is correct and grounded, and learning it (STaR, ReST).

A round samples answers to the training problems with the model of the last round, keeps those that are correct and whose
attention to the image holds up in the second half (by a threshold that rises from round to round), trains the start model on
the kept answers of all rounds, and measures held-out accuracy. The rounds end when that accuracy stops rising. With a
``student`` the kept answers train that model instead (distillation).

    OUT/round-1/samples.jsonl   every sample: text, verdict, looks, kept or why not
    OUT/round-1/sft.jsonl       what was trained on
    OUT/round-1/model/          the trained model
    OUT/round-1/eval/           its held-out answers
    OUT/round-1/round.json      the round's counts and accuracy, written last
    OUT/improve.json            all rounds, the best one

After an interruption the same command resumes.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from configs.errors import ConfigError, UserError
from configs.identity import data_sha256
from configs.jsonl import append_jsonl, read_jsonl, read_log, repair_jsonl, write_json_atomic, write_text_atomic
from configs.overrides import beside, read_config
from configs.processes import refuse_several
from configs.provenance import begun
from configs.run_dir import SHA256, RunDir, changes, read_record
from configs.schema import StrictModel, parse_config
from configs.stopping import stop_if_asked
from reward.judge import JudgeKey, judging, prompt_sha256
from train.precision import KEYS, Precision, default, stated
from vlm.identity import model_identity
from vlm.problem import Problem, read_problems

if TYPE_CHECKING:
    from reward.sampling import Sample


class ImproveConfig(StrictModel):
    """The keys of an ``improve`` config.

    Attributes:
        model: samples in the first round, and is what every round trains, unless there is a ``student``.
        student: train this model on the kept answers instead, in a single round (distillation).
        problems, heldout: problem sets; nothing of ``heldout`` is trained on.
        out: the folder of the rounds.
        sft: a training config (keys of ``train/sft.py``), beside this file; model, dataset, output_dir and seed are set here.
        rounds: the largest number of rounds.
        samples: answers per problem and round, at ``temperature``.
        keep: the largest number of a problem's answers that are trained on.
        lift_kept: the share of the first half's lift (attention over uniform attention) that the second half must keep, one
            value per round, the last one for all further rounds. With 0 an answer need only be correct.
        min_looks: the least number of re-looks in an answer's text.
        min_gain: the rounds end unless the held-out accuracy rises by more than this.
        dtype: of the weights for sampling and measuring; ``sft`` sets that of training.
        judge: see ``train.config.GrpoOptions``.
        processes: the number that train (``train.spawn``); sampling and measuring are one process.
    """

    model: str = "tiny"
    student: str | None = None
    problems: str = ""
    heldout: str = ""
    out: str = ""
    sft: str = "sft.yaml"
    rounds: int = Field(default=3, ge=1, le=100)
    samples: int = Field(default=4, ge=1, le=1024)
    keep: int = Field(default=1, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    max_new_tokens: int = Field(default=192, ge=1)
    batch_size: int = Field(default=64, ge=1)
    style: str = "think"
    lift_kept: list[float] = Field(default=[0.0, 0.6, 0.8])
    min_looks: int = Field(default=0, ge=0)
    min_gain: float = 0.0
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    judge: JudgeKey = None
    processes: int | None = Field(default=None, ge=1)
    seed: int = 0


def load_improve(path: Path, overrides: dict[str, Any]) -> ImproveConfig:
    """The checked config, with an absolute ``sft``.

    Raises:
        ConfigError: a key or a value is wrong, or a file does not exist.
    """
    config = parse_config(ImproveConfig, read_config(path, overrides), path)
    for key in ("problems", "heldout", "out"):
        if not getattr(config, key):
            raise ConfigError(f"'{key}' is missing in {path}: set it there, or give --{key}.")
    if not config.lift_kept or not all(math.isfinite(share) and share >= 0 for share in config.lift_kept):
        raise ConfigError(
            f"'lift_kept' in {path} must be a list of numbers of at least 0, found {config.lift_kept}: give one per round."
        )
    sft = beside(path, config.sft)
    if not sft.is_file():
        raise ConfigError(f"{path}: 'sft' names {sft}, which does not exist.")
    rounds = 1 if config.student else config.rounds
    return config.model_copy(update={"sft": str(sft), "rounds": rounds})


def run_improve(config: ImproveConfig) -> dict[str, Any]:
    """Run the rounds that are not finished; returns their report, which is also ``improve.json``.

    Raises:
        UserError: a model or a set cannot be read, the folder holds a run of another config, or no answer could be kept.
    """
    refuse_several("improve")
    out = Path(config.out)
    run = RunDir(out, "improve run", ("config.json", "improve.json", "round-*"), _is_improve, result="improve.json")
    with run.held(), judging(config.judge, config.model, config.student):
        precision = _same_config(config, run, _check_training(config, out))
        problems, heldout = read_problems(config.problems), read_problems(config.heldout)
        shared = {problem.id for problem in problems} & {problem.id for problem in heldout}
        if shared:
            raise UserError(
                f"{len(shared)} problems ({min(shared)}, ...) are in both sets: remove them from 'problems', since held-out "
                "problems must not be trained on."
            )
        problems, dropped = _trainable(problems, config)
        start = config.student or config.model
        rounds = [{"round": 0, "model": start, **_accuracy(start, heldout, out / "round-0" / "eval", config)}]
        sampler = config.model
        rows: list[dict[str, Any]] = []
        ended = "all rounds are done"
        for number in range(1, config.rounds + 1):
            folder = out / f"round-{number}"
            folder.mkdir(exist_ok=True)
            done = folder / "round.json"
            if not done.exists():
                counts = _sample(sampler, problems, folder, number, config)
                if rows and not counts["kept"]:
                    ended = f"round {number}: none of {counts['samples']} answers was correct and grounded enough"
                    print(ended, flush=True)
                    break
                rows += _rows_to_learn(folder, problems, config)
                if not rows:
                    raise UserError(
                        f"None of {counts['samples']} answers was correct and grounded enough: take easier problems, more "
                        "samples, a lower lift_kept or min_looks, or a start model that solves some of them."
                    )
                write_text_atomic(
                    folder / "sft.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                )
                _train(folder, config, start, precision)
                stop_if_asked()
                found = _accuracy(str(folder / "model"), heldout, folder / "eval", config)
                write_json_atomic(
                    done, {"round": number, "model": str(folder / "model"), **counts, "rows": len(rows), **found}
                )
            else:
                rows = read_jsonl(folder / "sft.jsonl")
            rounds.append(json.loads(done.read_text(encoding="utf-8")))
            print(_round_in_words(rounds[-1]), flush=True)
            best = max(one["accuracy"]["value"] for one in rounds[:-1])
            if rounds[-1]["accuracy"]["value"] <= best + config.min_gain:
                ended = f"round {number}: the held-out accuracy did not rise"
                break
            sampler = str(folder / "model")
        report = {
            "rounds": rounds,
            "ended": ended,
            "dropped": dropped,
            "best": max(rounds, key=lambda one: one["accuracy"]["value"])["round"],
            "seed": config.seed,
        }
        return run.finish(report)


def _check_training(config: ImproveConfig, out: Path) -> Precision:
    """Check the training config and its devices before anything is sampled; returns the precision of training."""
    from train.sft import load_sft
    from train.spawn import check_training

    settings = read_config(config.sft, {"dataset": "samples", "output_dir": str(out)})
    precision: Precision = check_training(load_sft, settings, config.processes).precision
    return precision


def _is_improve(folder: Path) -> bool:
    return "lift_kept" in read_record(folder / "config.json")  # a folder of a model has a config.json too


def _trainable(problems: Sequence[Problem], config: ImproveConfig) -> tuple[list[Problem], dict[str, int]]:
    """The problems that can be asked and graded, and the numbers dropped by reason, before anything is sampled.

    Raises:
        UserError: no problem is left, or config and processor of the model cannot be read.
    """
    from train.config import ModelOptions
    from train.filters import filter_problems
    from train.reader import load_reader
    from vlm.chat import position_limit

    reader = load_reader(ModelOptions(model=config.model))
    # Without the model's own tokenizer the count is only an upper bound, so no row is dropped for it.
    limit = position_limit(reader.vlm) - 1 if reader.exact else None
    found = filter_problems(problems, reader.vlm, config.style, limit)
    for reason, n in found.dropped.items():
        print(f"left out as {reason}: {n} ({'; '.join(found.examples[reason])})", flush=True)
    if not found.kept:
        raise UserError(
            f"No problem of {config.problems} can be used: {found.dropped}. Fix these rows, then start again."
        )
    return found.kept, found.dropped


def _same_config(config: ImproveConfig, run: RunDir, precision: Precision) -> Precision:
    """Refuse a folder of another config, models or sets; returns the precision of all rounds, which is the first one's."""
    now = json.loads(config.model_dump_json(exclude={"out", "rounds", "processes"}))
    sft = read_config(config.sft)
    now["sft"] = {key: value for key, value in sft.items() if key not in KEYS}
    now |= {f"{key}_sha256": model_identity(now[key]) for key in ("model", "student") if now[key]}
    if config.judge is not None:
        now["judge_prompt"] = prompt_sha256()
    for key in ("problems", "heldout"):
        if not Path(now[key]).exists():
            read_problems(now[key])  # for its sentence
        now[f"{key}_sha256"] = data_sha256(now[key])
    before = run.known()
    if before is not None:
        before = {"dtype": "float32", **before}  # earlier versions had no such key
        held = before.get("precision") or stated(before["sft"]) or default(precision.device)
        if precision.source != "config" and any(begun(folder) for folder in run.path.glob("round-*/model")):
            precision = replace(precision, name=held, run=str(run.path))
        before["sft"] = {key: value for key, value in before["sft"].items() if key not in KEYS}
        before["precision"] = held if precision.source == "config" else precision.name
        run.refuse(changes(before, {**now, "precision": precision.name}))
        # A run that an earlier version began has no digests in its record, and keeps it so.
        now = {key: value for key, value in now.items() if key in before or not key.endswith(SHA256)}
    run.write({**now, "precision": precision.name})
    return precision


def _sample(
    model: str, problems: Sequence[Problem], folder: Path, number: int, config: ImproveConfig
) -> dict[str, int]:
    """Append ``samples`` answers per problem to ``samples.jsonl``, batch by batch; returns the round's counts."""
    from reward.sampling import sample_and_grade
    from vlm.load import load_vlm

    file = folder / "samples.jsonl"
    repair_jsonl(file)
    # An interruption may leave part of a batch. A problem's saved samples are its first ones, so only the rest is added.
    known = Counter(row["problem_id"] for row in read_log(file)) if file.exists() else Counter()
    floor = config.lift_kept[min(number, len(config.lift_kept)) - 1]
    if any(known[problem.id] < config.samples for problem in problems):
        batches = sample_and_grade(
            load_vlm(model, dtype=config.dtype),
            problems,
            config.samples,
            style=config.style,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
            temperature=config.temperature,
            seed_name=f"improve/{config.seed}/{number}",
            known=known,
            attention={},
        )
        for done, samples in batches:
            append_jsonl(file, [judge_sample(sample, floor, config.min_looks) for sample in samples])
            print(f"round {number}: {done} of {len(problems)} problems sampled", flush=True)
    rows = read_log(file)
    return {
        "samples": len(rows),
        "right": sum(bool(row["right"]) for row in rows),
        "kept": sum(row["kept"] for row in rows),
    }


def judge_sample(sample: "Sample", floor: float, min_looks: int) -> dict[str, Any]:
    """The row of one sample: text, correctness, re-looks, the share of lift that it kept, and whether it is trained on."""
    from reward.rewards import halves
    from vlm.response import count_looks, parse_response

    problem, written, correct = sample.problem, sample.generation, sample.grade.correct
    response = parse_response(written.text)
    looks, share = count_looks(written.text), None
    if problem.images and written.lift is not None:
        lift = written.lift.float().mean(dim=0)  # over layers
        lift = lift[lift.isfinite()]  # the last token of a truncated response has none
        first, second = halves(lift) if len(lift) >= 2 else (0.0, 0.0)
        share = second / first if first > 0 else None
    why = None
    if not correct:
        why = "wrong"
    elif not (written.finished and response.closed):
        why = "unfinished"
    elif looks < min_looks:
        why = "looks"
    elif floor > 0 and problem.images and (share is None or share < floor):
        why = "ungrounded"
    return {
        "problem_id": problem.id,
        "text": written.text,
        "tokens": len(written.token_ids),
        "right": correct,
        "looks": looks,
        "lift_kept": share,
        "kept": why is None,
        "why": why,
    }


def _rows_to_learn(folder: Path, problems: Sequence[Problem], config: ImproveConfig) -> list[dict[str, Any]]:
    """The kept answers as rows of ``train.sft``: the best grounded of each problem, without duplicate texts."""
    from vlm.chat import question_messages

    by_problem: dict[str, dict[str, dict[str, Any]]] = {}
    for row in read_log(folder / "samples.jsonl"):
        if row["kept"]:
            by_problem.setdefault(row["problem_id"], {}).setdefault(row["text"], row)
    rows = []
    for problem in problems:
        kept = sorted(by_problem.get(problem.id, {}).values(), key=lambda row: -(row["lift_kept"] or 0.0))
        for row in kept[: config.keep]:
            prompt = question_messages(
                problem.question, len(problem.images), style=config.style, choices=problem.choices
            )
            rows.append(
                {
                    "prompt": prompt,
                    "completion": row["text"].strip(),
                    "images": problem.images,
                    "masked": [],
                    "mode": config.style,
                }
            )
    return rows


def _train(folder: Path, config: ImproveConfig, start: str, precision: Precision) -> None:
    from train.sft import load_sft, run_sft
    from train.spawn import train_stage

    own: dict[str, Any] = {
        "model": start,
        "dataset": str(folder / "sft.jsonl"),
        "output_dir": str(folder / "model"),
        "seed": config.seed,
    }
    if precision.source != "config":  # not set explicitly: every round takes the first one's, also on another machine
        own["precision"] = precision.name
    train_stage("train/sft.py", load_sft, run_sft, read_config(config.sft, own), config.processes)


def _accuracy(model: str, heldout: Sequence[Problem], folder: Path, config: ImproveConfig) -> dict[str, Any]:
    """Held-out accuracy with its interval, also by domain, and the mean length; answers on disk are reused."""
    from eval.harness import EvalConfig, evaluate

    settings = EvalConfig(
        max_new_tokens=config.max_new_tokens,
        batch_size=config.batch_size,
        blank=0,
        swap=0,
        per_set=0,
        samples=0,
        seed=config.seed,
        dtype=config.dtype,
        judge=config.judge,
    )
    report = evaluate({"model": {"path": model, "style": config.style}}, list(heldout), folder, settings)["models"][
        "model"
    ]
    return {key: report[key] for key in ("accuracy", "accuracy_by_domain", "length_mean") if key in report}


def _round_in_words(one: dict[str, Any]) -> str:
    low, high = one["accuracy"]["ci95"]
    return (
        f"round {one['round']}: {one['kept']} of {one['samples']} answers kept, {one['rows']} rows, held-out accuracy "
        f"{one['accuracy']['value']:.3f} (95% {low:.3f} to {high:.3f}, n {one['accuracy']['n']})"
    )
