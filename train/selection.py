"""Prompt selection: keep the problems that the start checkpoint solves sometimes, and measure whether re-looks help it.

Every candidate problem is answered ``samples`` times at training's temperature. Rows are appended to ``pass_rates.jsonl``
after each batch, so an interrupted selection resumes from there.
"""

import contextlib
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import PartialState
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from configs.errors import UserError
from configs.jsonl import append_jsonl, read_log, repair_jsonl, write_json_atomic
from eval.figures import image_clusters
from eval.stats import estimate_difference, estimate_share
from reward.sampling import Sample, sample_and_grade
from train.config import GrpoOptions, PromptSelection
from train.distributed import whole_weights
from train.launch import load_for_training
from train.run_folder import RunFolder
from vlm.load import VLM
from vlm.problem import Problem
from vlm.response import count_looks


def select_prompts(
    problems: list[Problem], vlm: VLM, args: Any, options: GrpoOptions, run: RunFolder, state: PartialState
) -> list[Problem]:
    """The prompts that a run trains on; all problems without a selection. Samples on disk are reused."""
    selection = options.prompt_selection
    if selection is None:
        return problems
    temperature, budget = _sampling(args, selection)
    done = run.path / "choice.json"
    if not done.exists():
        with (
            _whole_model(vlm, args, options, state) as sampler,
            torch.autocast(state.device.type, torch.bfloat16, enabled=args.bf16),
        ):
            sample_pass_rates(
                sampler,
                problems,
                selection,
                style=options.style,
                temperature=temperature,
                max_new_tokens=budget,
                seed=args.seed,
                folder=run.path,
                model_sha256=run.model_sha256,
                rank=state.process_index,
                world=state.num_processes,
                say=(lambda text: print(text, flush=True)) if run.main else (lambda text: None),
            )
        state.wait_for_everyone()
    rows = read_pass_rates(run.path, selection_key(args, options, run.model_sha256) or "")
    chosen = choose(problems, rows, selection, args.seed)
    if run.main and not done.exists():
        choice = measure_choice(rows, selection, image_clusters(problems))
        write_json_atomic(done, choice)
        print(f"before the first step: {_choice_in_words(choice)}", flush=True)
    return chosen


def _sampling(args: Any, selection: PromptSelection) -> tuple[float, int]:
    """(temperature, token budget) of the selection's samples; by default those of training."""
    temperature = args.temperature if selection.temperature is None else selection.temperature
    return temperature, selection.max_new_tokens or args.max_completion_length


def selection_key(args: Any, options: GrpoOptions, model_sha256: str | None) -> str | None:
    """``settings_key`` of this run; None without a selection."""
    if options.prompt_selection is None:
        return None
    sampling = _sampling(args, options.prompt_selection)
    return settings_key(options.model, options.prompt_selection, options.style, *sampling, args.seed, model_sha256)


def _choice_in_words(choice: dict[str, Any]) -> str:
    parts = [f"sampled accuracy {choice['sampled_accuracy']['value']:.3f}"]
    for kind in ("looking", "not_looking"):
        if choice[kind]["samples"]:
            parts.append(
                f"{kind.replace('_', ' ')} {choice[kind]['accuracy']['value']:.3f} (n {choice[kind]['samples']})"
            )
    return ", ".join(parts)


@contextlib.contextmanager
def _whole_model(vlm: VLM, args: Any, options: GrpoOptions, state: PartialState) -> Iterator[VLM]:
    """The start checkpoint, unsharded and on this process's device. Under ZeRO-3 the model to train is already sharded."""
    if not is_deepspeed_zero3_enabled():
        vlm.model.to(state.device)
        yield vlm
        return
    with whole_weights(args):
        whole = load_for_training(options, args)
        whole.model.to(state.device)
        yield whole
        del whole


def measured_before(folder: Path) -> dict[str, Any]:
    """What the selection measured about the start checkpoint, from the run's folder; empty without a selection."""
    file = folder / "choice.json"
    if not file.exists():
        return {}
    choice = json.loads(file.read_text(encoding="utf-8"))
    before = {"sampled_accuracy_before": choice["sampled_accuracy"]["value"], "look_share_before": choice["look_share"]}
    return {**before, "looking_pays": choice["looking_pays"]}


def sample_pass_rates(
    vlm: VLM,
    problems: Sequence[Problem],
    selection: PromptSelection,
    *,
    style: str,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    folder: Path,
    model_sha256: str | None = None,
    rank: int = 0,
    world: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Sample this process's share of the candidates (every ``world``-th) into ``pass_rates.jsonl``.

    A row: ``id``, ``domain``, ``family``, ``key`` (of the settings), ``right`` (how many), and ``samples``, each with
    ``right`` (None: the answer could not be judged), ``looks``, ``tokens`` and ``finished``.
    """
    file = folder / ("pass_rates.jsonl" if world == 1 else f"pass_rates.{rank}.jsonl")
    repair_jsonl(file)
    key = settings_key(vlm.name, selection, style, temperature, max_new_tokens, seed, model_sha256)
    known = {row["id"]: row for row in read_pass_rates(folder, key)}
    mine = candidates(problems, selection, seed)[rank::world]
    wanted = math.ceil(selection.prompts / world) if selection.prompts else math.inf
    found = sum(is_chosen(known[problem.id], selection) for problem in mine if problem.id in known)
    if found >= wanted:
        return
    batches = sample_and_grade(
        vlm,
        mine,
        selection.samples,
        style=style,
        max_new_tokens=max_new_tokens,
        batch_size=selection.batch_size,
        temperature=temperature,
        seed_name=str(seed),
        known=dict.fromkeys(known, selection.samples),
    )
    for done, samples in batches:
        rows = [{**_pass_rate(list(own)), "key": key} for _, own in groupby(samples, lambda one: one.problem.id)]
        append_jsonl(file, rows)
        found += sum(is_chosen(row, selection) for row in rows)
        say(f"prompt selection: {done} of {len(mine)} candidates sampled, {found} chosen")
        if found >= wanted:
            break


def candidates(problems: Sequence[Problem], selection: PromptSelection, seed: int) -> list[Problem]:
    """The problems to sample, in a seeded random order."""
    order = list(problems)
    random.Random(seed).shuffle(order)
    return order[: selection.candidates]


def is_chosen(row: dict[str, Any], selection: PromptSelection) -> bool:
    """Whether a problem's number of correct samples is in the selection's range."""
    return selection.min_right <= row["right"] <= selection.max_right


def read_pass_rates(folder: Path, key: str) -> list[dict[str, Any]]:
    """The rows that were sampled with the settings of ``key``, by whatever number of processes."""
    files = sorted(folder.glob("pass_rates*.jsonl"))
    return [row for file in files for row in read_log(file) if row.get("key") == key]


def settings_key(
    model: str,
    selection: PromptSelection,
    style: str,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    model_sha256: str | None,
) -> str:
    """A hash of everything that pass rates depend on; rows with another key are not reused.

    Args:
        model: the model's name, used if ``model_sha256`` (``vlm.identity.model_identity``) is None.
    """
    parts = json.dumps([model_sha256 or model, selection.samples, style, temperature, max_new_tokens, seed])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def choose(
    problems: Sequence[Problem], rows: Sequence[dict[str, Any]], selection: PromptSelection, seed: int
) -> list[Problem]:
    """The chosen problems in candidate order, at most ``selection.prompts``, at least ``selection.at_least``.

    Raises:
        UserError: no problem is in range, and ``at_least`` is 0.
    """
    by_id = {row["id"]: row for row in rows}
    order = candidates(problems, selection, seed)
    chosen = [problem for problem in order if problem.id in by_id and is_chosen(by_id[problem.id], selection)]
    spare = [problem for problem in order if problem.id in by_id and not is_chosen(by_id[problem.id], selection)]
    chosen += spare[: max(0, selection.at_least - len(chosen))]
    if not chosen:
        correct = [row["right"] for row in rows]
        raise UserError(
            f"No prompt is correct in {selection.min_right} to {selection.max_right} of {selection.samples} samples (mean "
            f"{sum(correct) / max(len(correct), 1):.2f} of {len(correct)} prompts): take easier or harder problems, more "
            "candidates, or a start checkpoint that solves some of them; or set prompt_selection.at_least to train on prompts "
            "out of this range."
        )
    return chosen[: selection.prompts]


def measure_choice(
    rows: Sequence[dict[str, Any]], selection: PromptSelection, clusters: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Accuracy of responses with and without a re-look, at sampling temperature, before the first step.

    Accuracies are means over problems with a 95% interval (samples of one problem are not independent). ``difference``
    compares the two kinds of response within the problems that have both, because a model may re-look more often at hard
    problems. ``clusters`` (problem id -> image): problems that share an image are dependent. With fewer than
    ``eval.intervals.LEAST_CLUSTERS`` images the difference has no interval, and ``looking_pays`` is None.
    """
    names = ("all", "looking", "other", "difference")
    values: dict[str, list[float]] = {name: [] for name in names}
    images: dict[str, list[Any]] = {name: [] for name in names}
    tokens: dict[bool, list[int]] = {True: [], False: []}
    for index, row in enumerate(rows):
        kinds: dict[bool, list[float]] = {True: [], False: []}
        for sample in row["samples"]:
            if sample["right"] is not None:
                kinds[sample["looks"] > 0].append(float(sample["right"]))
                tokens[sample["looks"] > 0].append(sample["tokens"])
        looking, other = kinds[True], kinds[False]
        found = {
            name: fmean(some) for name, some in zip(names, (looking + other, looking, other), strict=False) if some
        }
        if looking and other:
            found["difference"] = found["looking"] - found["other"]
        for name, value in found.items():
            values[name].append(value)
            images[name].append(index if clusters is None else clusters[row["id"]])
    n_samples = len(tokens[True]) + len(tokens[False])
    difference = estimate_difference(values["difference"], images["difference"])
    return {
        "problems": len(rows),
        "samples": n_samples,
        "chosen": sum(is_chosen(row, selection) for row in rows),
        "sampled_accuracy": estimate_share(values["all"], images["all"]),
        "look_share": len(tokens[True]) / n_samples if n_samples else None,
        "looking": {
            "accuracy": estimate_share(values["looking"], images["looking"]),
            "samples": len(tokens[True]),
            "tokens": fmean(tokens[True]) if tokens[True] else None,
        },
        "not_looking": {
            "accuracy": estimate_share(values["other"], images["other"]),
            "samples": len(tokens[False]),
            "tokens": fmean(tokens[False]) if tokens[False] else None,
        },
        "difference": difference,
        "looking_pays": None if difference["ci95"] is None else difference["ci95"][0] > 0,
        "right_of_samples": {str(n): sum(row["right"] == n for row in rows) for n in range(selection.samples + 1)},
    }


def _pass_rate(samples: Sequence[Sample]) -> dict[str, Any]:
    """One problem's row of ``pass_rates.jsonl``."""
    problem = samples[0].problem
    rows = [
        {
            "right": None if grade.score is None else grade.correct,
            "looks": count_looks(generation.text),
            "tokens": len(generation.token_ids),
            "finished": generation.finished,
        }
        for _, generation, grade in samples
    ]
    right = sum(row["right"] is True for row in rows)
    return {"id": problem.id, "domain": problem.domain, "family": problem.family, "right": right, "samples": rows}
