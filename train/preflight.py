"""``--check`` and ``--plan``: report what would go wrong in a run, before any weight loads.

    python train/grpo.py --config configs/qwen2_5_vl_7b/grpo.yaml --problems my/set --output_dir runs/rl --check

A finding has a level: ``error`` (the run would fail or learn nothing), ``dropped`` (rows that are not trained on), ``note``
(worth knowing). The exit code is 1 if there is an error. A machine without accelerator is assumed not to be the one that
trains if the config is for GPUs, so its missing packages, keys and small disk are only notes.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from configs.errors import ConfigError, UserError
from configs.overrides import read_config
from configs.processes import as_one_process, is_main_process, settle_processes, world_size
from reward.judge import judging
from train.config import GrpoOptions, ModelOptions, StageConfig, as_if
from train.data import Row, read_rows
from train.distributed import mixed
from train.filters import KEPT_ALL_THE_SAME, REMEDIES, FilteredProblems, filter_problems
from train.held_out import split_rows
from train.lora import check_lora
from train.memory import GB, make_plan, planned_weights, zero_of
from train.mixing import mix_domains, pass_rates
from train.precision import resolve, stated
from train.reader import Reader, load_reader, skeleton
from train.refusals import machine_refusals, model_refusals, refusals
from train.resume import course
from train.run_folder import check_output_folder
from vlm.attention import AttentionMass
from vlm.problem import Problem, read_valid_problems

Level = Literal["error", "dropped", "note"]
Load = Callable[[str | Mapping[str, Any], Mapping[str, Any]], StageConfig]

ROW_REMEDIES = {
    **REMEDIES,
    "malformed": "fix the fields that are named (docs/your-own-data.md shows a row)",
    "image_count": "give one image part in the prompt for each image",
    "over_long": "raise max_row_tokens, lower max_pixels, or shorten the rows",
    "control_token": "remove control tokens from the completions",
}


@dataclass
class Finding:
    level: Level
    check: str
    said: str


@dataclass
class Report:
    """What a check found; ``counts`` are figures by name (rows, tokens, bytes)."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)

    def add(self, level: Level, check: str, said: str) -> None:
        self.findings.append(Finding(level, check, said))

    @property
    def passed(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)


def check(stage: StageConfig) -> Report:
    """Run all checks on a stage's config; takes seconds."""
    unset_hf_deepspeed_config()  # as in make_plan: skeletons must not be sharded
    report, began = Report(), time.monotonic()
    args, options = stage.args, stage.options
    world = options.gpus or world_size()
    here = _trains_here(stage)
    for name, sentence in machine_refusals(args, options):
        report.add("error" if here else "note", name, sentence)
    for name, sentence in refusals(args, options, world):
        report.add("error", name, sentence)
    with _as_finding(report, "output_dir"):
        check_output_folder(Path(args.output_dir), options.model)
    _resume(report, stage, world)
    reader: Reader | None = None
    try:
        reader = load_reader(options)
    except UserError as error:
        report.add("error", "model", str(error))
    if reader is not None:
        if not reader.exact:
            report.add(
                "note",
                "model",
                f"The tokenizer of {options.model} is not here, so counts of text tokens are upper bounds.",
            )
        faults = list(model_refusals(args, options, reader))
        for name, sentence in faults:
            report.add("error", name, sentence)
        if any(name == "chat_template" for name, _ in faults):  # no row can be encoded
            image_counts = []
        elif isinstance(options, GrpoOptions):
            problems = _grpo_rows(report, stage, reader)
            _course(report, options, reader, problems)
            image_counts = [len(problem.images) for problem in problems]
        else:
            image_counts = [len(row.images) for row in _sft_rows(report, args, options, reader)]
        _check_batches(report, args, options, world, report.counts.get("rows", len(image_counts)))
        with _as_finding(report, "pictures"):
            mixed(image_counts, world, zero_of(args)["stage"] == 3)
        if _lora(report, options, reader):
            _disk(report, stage, reader, "error" if here else "note")
    report.counts |= {
        "precision": stage.precision.name,
        "processes": world,
        "seconds": round(time.monotonic() - began, 2),
    }
    return report


def _trains_here(stage: StageConfig) -> bool:
    """Whether this machine is the one that trains: it has an accelerator, or nothing in the config asks for one."""
    if torch.accelerator.is_available() or os.environ.get("DS_ACCELERATOR") == "cpu":
        return True
    needs_gpus = stage.args.deepspeed or getattr(stage.args, "use_vllm", False) or stage.options.gpus
    return not needs_gpus and stage.options.dtype == "float32"


def _resume(report: Report, stage: StageConfig, world: int) -> None:
    """Report how a run in ``output_dir`` is resumed. With DeepSpeed the number of processes is known only if ``gpus`` is set."""
    known = stage.options.gpus or world > 1 or not stage.args.deepspeed
    if stage.resumption.refusal is not None:
        report.add("error" if known else "note", "resume", str(stage.resumption.refusal))
    elif stage.resumption.message is not None:
        report.add("note", "resume", stage.resumption.message)


def _lora(report: Report, options: ModelOptions, reader: Reader) -> bool:
    """Report the coverage of the adapters; False if ``lora`` is wrong, so that no plan can be made."""
    if options.lora is None:
        return True
    try:
        found, notes = check_lora(options.lora, skeleton(reader.config.to_json_string()))
    except UserError as error:
        report.add("error", "lora", str(error))
        return False
    for note in notes:
        report.add("note", "lora", note)
    bits = {"bits": options.lora.bits} if options.lora.bits else {}
    report.counts["lora"] = {"layers": found.layers, "mixers": list(found.mixer), "mlps": list(found.mlp), **bits}
    return True


@contextlib.contextmanager
def _as_finding(report: Report, check: str) -> Iterator[None]:
    """Turn an error that training would raise into a finding."""
    try:
        yield
    except UserError as error:
        report.add("error", check, str(error))


def _course(report: Report, options: GrpoOptions, reader: Reader, problems: list[Problem]) -> None:
    """Report what would end a run after the rows are read. The prompt selection's choice is not known yet."""
    with _as_finding(report, "attention_layers"):
        AttentionMass(skeleton(reader.config.to_json_string()), layers=options.attention_layers)
    if problems and options.domain_weights is not None:
        with _as_finding(report, "domain_weights"):
            problems = mix_domains(problems, options.domain_weights, 0)
    if options.curriculum == "easy_first" and options.prompt_selection is None:
        with _as_finding(report, "curriculum"):
            pass_rates(problems, [])


def _grpo_rows(report: Report, stage: StageConfig, reader: Reader) -> list[Problem]:
    options: GrpoOptions = stage.options
    try:
        filtered = FilteredProblems()
        problems = read_valid_problems(options.problems, filtered.reject)
        limit = options.max_prompt_tokens
        with judging(options.judge, options.model):
            room = stage.args.max_completion_length
            filter_problems(
                problems,
                reader.vlm,
                options.style,
                limit,
                completion_tokens=room,
                count=True,
                decode=True,
                filtered=filtered,
            )
    except UserError as error:
        report.add("error", "problems", str(error))
        return []
    for reason, n in filtered.counts.items():
        level: Level = "note" if reason in KEPT_ALL_THE_SAME else "dropped"
        report.add(level, reason, f"{n} rows ({'; '.join(filtered.examples[reason])}): {REMEDIES[reason]}.")
    if not filtered.kept:
        report.add("error", "problems", f"No problem of {options.problems} can be used: fix what is named above.")
    report.counts |= {
        "problems": len(filtered.kept),
        "dropped": sum(filtered.dropped.values()),
        "with_pictures": sum(bool(problem.images) for problem in filtered.kept),
        "prompt_tokens": _token_lengths(filtered.tokens),
    }
    return filtered.kept


def _sft_rows(report: Report, args: Any, options: Any, reader: Reader) -> list[Row]:
    try:
        rows, dropped = read_rows(options.dataset, reader.vlm, options.max_row_tokens, decode=True)
    except UserError as error:
        report.add("error", "dataset", str(error))
        return []
    for reason, n in dropped.counts.items():
        shown = "; ".join(line for line in dropped.examples if f", {reason}:" in line)
        report.add("dropped", reason, f"{n} rows ({shown}): {ROW_REMEDIES[reason]}.")
    trained = len(rows)
    with _as_finding(report, "held_out"):
        trained = len(split_rows(rows, options.held_out, args.seed)[0])
    report.counts |= {
        "rows": trained,
        **({"held_out": len(rows) - trained} if options.held_out else {}),
        "dropped": sum(dropped.counts.values()),
        "with_pictures": sum(bool(row.images) for row in rows),
    }
    return rows


def _check_batches(report: Report, args: Any, options: Any, world: int, rows: int) -> None:
    step = course(vars(args), world)["rows_a_step"]
    report.counts["rows_a_step"] = step
    if isinstance(options, GrpoOptions):
        responses = args.per_device_train_batch_size * world * args.steps_per_generation
        step = responses // args.num_generations
        report.counts["prompts_a_generation"] = step
    if 0 < rows < step:
        report.add(
            "error",
            "batch",
            f"{rows} usable rows are fewer than the {step} of one step: give more rows, or lower the batch size.",
        )


def _disk(report: Report, stage: StageConfig, reader: Reader, level: Level) -> None:
    """Compare the disk space that checkpoints need with the free space.

    A checkpoint has the weights, and 12 bytes per trainable weight (Adam and, under DeepSpeed, float32 weights). With LoRA its
    weights are those of the adapters, and the whole model is written once, merged.
    """
    args = stage.args
    weights, trainable = (sum(counts.values()) for counts in planned_weights(reader.config, stage.options))
    width = 4 if stage.options.dtype == "float32" and not args.deepspeed else 2
    saved = weights * width if stage.options.lora is None else trainable * 4
    one = saved + (trainable * 12 if args.save_strategy != "no" else 0)
    # One more than the limit: the oldest is removed after the new one is complete.
    kept = 0 if args.save_strategy == "no" else (args.save_total_limit or 10) + 1
    wanted = kept * one + weights * width + (saved if stage.options.lora is not None else 0)
    folder = Path(args.output_dir).resolve()
    folder = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    report.counts |= {"disk_wanted_gb": round(wanted / GB, 2), "disk_free_gb": round(free / GB, 2)}
    if wanted > free:
        report.add(
            level,
            "disk",
            f"Checkpoints need {wanted / GB:.0f} GB and {folder} has {free / GB:.0f} GB: lower save_total_limit "
            "or choose another output_dir.",
        )


def _token_lengths(values: list[int]) -> dict[str, int]:
    ordered = sorted(values)
    if not ordered:
        return {}
    return {"median": ordered[len(ordered) // 2], "longest": ordered[-1]}


def _precision_of_the_run(given: Mapping[str, Any], config: str) -> dict[str, str]:
    """The precision that the run will resolve on its device, if this check, on a CPU, would resolve another one."""
    if stated(given, config) not in (None, "auto") or given.get("use_cpu"):
        return {}
    if torch.accelerator.is_available():
        return {"precision": resolve(given, config).name}
    # With DeepSpeed, another machine trains on GPUs, where both "auto" and TRL's default are bfloat16.
    on_gpus = bool(given.get("deepspeed")) and os.environ.get("DS_ACCELERATOR") != "cpu"
    return {"precision": "bfloat16"} if on_gpus else {}


def load_as_on_a_cpu(
    load: Load, config: str | Mapping[str, Any], overrides: Mapping[str, Any], processes: int
) -> StageConfig:
    """The config of a stage as one of ``processes`` processes would read it, without starting any of them.

    TRL refuses bf16 without a GPU, and the machine that checks may not be the one that trains. Each process of a launcher checks
    on its own: nothing is exchanged, so no process waits for another.
    """
    given = read_config(config, overrides)
    overrides = {**overrides, **_precision_of_the_run(given, given.where)}
    with as_one_process(), as_if(processes):
        return load(config, {**overrides, "use_cpu": True})


def run_preflight(load: Load, config: str, overrides: Mapping[str, Any], wanted: Mapping[str, Any]) -> int:
    """``--check`` and ``--plan`` of a stage's command: prints the report and returns the exit code.

    Args:
        wanted: ``check``, ``plan``, ``json`` (true or false), ``memory`` and ``device`` (or None).
    """
    gpus = read_config(config, overrides).get("gpus")
    processes = settle_processes().count
    stage = load_as_on_a_cpu(load, config, overrides, gpus if isinstance(gpus, int) and gpus > 0 else processes)
    output: dict[str, Any] = {}
    passed = True
    if wanted.get("check"):
        report = check(stage)
        passed = report.passed
        output["check"] = {"passed": passed, "findings": [asdict(one) for one in report.findings], **report.counts}
    if wanted.get("plan"):
        device = wanted.get("device") or "cuda"
        plan = make_plan(stage.args, stage.options, wanted.get("gpus"), wanted.get("memory"), device).as_json()
        output["plan"] = {**plan, "rows_a_step": course(vars(stage.args), plan["gpus"])["rows_a_step"]}
    if not is_main_process():
        return 0 if passed else 1
    if wanted.get("json"):
        print(json.dumps(output))
    else:
        _print(output)
    return 0 if passed else 1


def _print(output: Mapping[str, Any]) -> None:
    if "check" in output:
        for finding in output["check"]["findings"]:
            print(f"{finding['level']:<8}{finding['check']}: {finding['said']}")
        rest = {key: value for key, value in output["check"].items() if key not in ("findings", "passed")}
        print(
            f"check {'passed' if output['check']['passed'] else 'failed'}: "
            + ", ".join(f"{k} {v}" for k, v in rest.items())
        )
    if "plan" in output:
        plan = output["plan"]
        for part, size in plan["parts_gb"].items():
            print(f"{part:<22}{size:8.2f} GB")
        fit = "fits" if plan["fits"] else "does not fit"
        unit = "process" if plan["device"] == "cpu" else "GPU"
        of = f"{plan['gpus']} x {plan['gpu_memory_gb']:g} GB"
        print(f"{'peak (' + plan['largest'] + ')':<22}{plan['peak_gb']:8.2f} GB per {unit}, {of}: {fit}")
        print(f"{'a step':<22}{plan['rows_a_step']:8} rows")
        if plan["cpu_gb"]:
            print(f"{'CPU memory':<22}{plan['cpu_gb']:8.2f} GB per process")
        for line in plan["advice"]:
            print(f"change: {line}")


def take_flags(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Take ``--check``, ``--plan``, ``--json``, ``--memory GB``, ``--device cpu|cuda`` out of a command line. ``--gpus`` and
    ``--dtype`` stay: they are config keys.

    Raises:
        ConfigError: ``--memory`` without a number, or ``--device`` without one of its names.
    """
    rest, words = [], list(argv)
    wanted: dict[str, Any] = {"check": False, "plan": False, "json": False, "memory": None, "device": None}
    while words:
        word = words.pop(0)
        if word in ("--check", "--plan", "--json"):
            wanted[word[2:]] = True
        elif word == "--memory":
            try:
                wanted["memory"] = float(words.pop(0))
            except (IndexError, ValueError):
                raise ConfigError("--memory needs the memory of one GPU in GB, for example --memory 80.") from None
        elif word == "--device":
            if not words or words[0] not in ("cpu", "cuda"):
                raise ConfigError(
                    "--device needs the device that --plan is for: --device cuda (the default) or --device cpu."
                )
            wanted["device"] = words.pop(0)
        else:
            rest.append(word)
    return rest, wanted
