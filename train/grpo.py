"""GRPO with rewards for the model's attention to the image.

    python train/grpo.py --config configs/tiny/grpo.yaml [--key value ...]
    deepspeed --num_gpus 8 train/grpo.py --config configs/qwen2_5_vl_7b/grpo.yaml

The YAML holds keys of TRL's ``GRPOConfig`` and of ``train.config.GrpoOptions``. The loss is TRL's; what differs from its GRPO:

1. Prompt selection (``train.selection``): the start checkpoint answers each candidate first, and training takes those that it
   solves sometimes. A group whose responses are all correct, or all incorrect, has advantage 0.
2. Rows of the data set are problem numbers. ``vlm.chat`` encodes each prompt, so training sees the tokens of inference.
3. The attention mass is recorded while the responses are generated: the attention rewards cost no forward of their own.
4. Unjudged responses (``reward.aggregate``): one whose answer cannot be graded has no advantage and is in no group mean. One
   that a single reward cannot judge gets the mean of its group, where TRL's ``sum_then_normalize`` counts 0.
5. Controls: ``shuffled(NAME)`` gives each response the value of another one of its group; ``blank_pictures`` hides the images.
6. ``grounding_penalty`` is bounded: it never puts a correct response below an incorrect one of its group.
7. The run stops at the first loss, gradient or weight that is NaN or infinite, before it is saved (``train.finite``).

An interrupted run resumes with the same command, during the selection and during training.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: train/ stands first on the path, the project's root must
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate import PartialState
from trl import GRPOConfig

from configs.errors import ConfigError, UserError
from configs.jsonl import write_json_atomic
from configs.model_name import check_model_name
from configs.overrides import read_config
from configs.schema import nearest
from reward.aggregate import KNOWN, LARGEST, SMALLEST, Term, is_in_float_range, source_of, terms_of
from reward.judge import PROMPT, judging, prompt_sha256
from reward.user import is_user_reward, reward_files
from train.config import GrpoOptions, StageConfig, load_stage
from train.console_warnings import ConsoleWarnings
from train.data import reader_of
from train.distributed import add_blank_images
from train.filters import FilteredProblems, filter_problems
from train.grpo_trainer import VisualGRPOTrainer
from train.launch import (
    STAGE_DEFAULTS,
    STAGE_REFUSED,
    command,
    load_for_training,
    quiet,
    run_stage,
    run_trainer,
)
from train.lora import lora_config, print_coverage
from train.mixing import check_domain_weights, easy_first, mix_domains, pass_rates
from train.run_folder import RunFolder
from train.selection import measured_before, read_pass_rates, select_prompts, selection_key
from train.tracking import StopAtGap
from train.vllm_server import check_vllm_server
from vlm.load import VLM
from vlm.problem import Problem, read_valid_problems

# Each process samples its share of the prompt selection alone, and the first one that finishes waits for the others. The default
# timeout of torch, half an hour, is too short for that.
DEFAULTS = {**STAGE_DEFAULTS, "temperature": 1.0, "beta": 0.0, "ddp_timeout": 86_400}
REFUSED = {
    **STAGE_REFUSED,
    "reward_weights": "weights stand beside the names under 'rewards'.",
    "use_transformers_continuous_batching": "it bypasses the model's own attention, so the mass on the image cannot be "
    "recorded; remove it, or use vLLM.",
    "use_transformers_paged": "it is TRL's old name for continuous batching, with which the mass on the image cannot be "
    "recorded; remove it.",
}
SHOWN = ("reward", "accuracy/right", "mass/second_half", "completions/mean_length", "entropy", "frac_reward_zero_std")


def load_grpo(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> StageConfig:
    """The checked config of a GRPO run; ConfigError otherwise."""
    settings = read_config(source, overrides)
    stage = load_stage(settings, GrpoOptions, GRPOConfig, ("output_dir", "problems"), DEFAULTS, REFUSED)
    check_rewards(stage.options.rewards, stage.args)
    _find_user_rewards(stage, settings.folder)
    check_domain_weights(stage.options.domain_weights)
    for name in (stage.options.responder, stage.options.claim_extractor):
        check_model_name(name or "")
    _check_saving(stage.args)
    _bound_vllm(stage.args, stage.options)
    return stage


def _find_user_rewards(stage: StageConfig, folder: Path) -> None:
    """Set ``reward_folder`` to the config's folder if a user's rewards need one. The files are found here, but not run."""
    options = stage.options
    names = [source_of(name) for name in options.rewards if is_user_reward(source_of(name))]
    if names and options.reward_folder is None:
        options.reward_folder = stage.settings["reward_folder"] = str(folder)
    _reward_files(options)


def _reward_files(options: GrpoOptions) -> dict[str, str]:
    """The checksums of the files that hold a user's rewards and the judge's prompt. Raises ConfigError where one is missing."""
    prompt = {PROMPT.name: prompt_sha256()} if options.judge is not None else {}
    return reward_files(map(source_of, options.rewards), Path(options.reward_folder or ".")) | prompt


def check_rewards(rewards: Mapping[str, float | Term | Mapping[str, Any]], args: Any) -> None:
    """Check names and weights under ``rewards``, and the combinations that cannot work; ConfigError otherwise."""
    known = [*KNOWN, *(f"shuffled({name})" for name in KNOWN if name not in ("accuracy", "format"))]
    terms = terms_of(rewards)
    for name, term in terms.items():
        if name not in known and not is_user_reward(source_of(name)):
            raise ConfigError(f"Unknown reward '{name}'" + (nearest(name, known) or f"; known: {known}."))
        if term.weight != 0 and not is_in_float_range(term.weight):
            raise ConfigError(
                f"The weight of '{name}' must be 0, or from {SMALLEST:g} to {LARGEST:,.0f} with either sign, found "
                f"{term.weight}: rewards are float32, in which other weights become 0 or infinite. Set a weight in this range."
            )
        if term.std is not None and not (term.std > 0 and is_in_float_range(term.std)):
            raise ConfigError(
                f"The std of '{name}' must be from {SMALLEST:g} to {LARGEST:,.0f}, found {term.std}: the reward is scaled to "
                "this standard deviation. Set it in this range, or remove it."
            )
        if source_of(name) in ("accuracy", "format") and (term.gate or term.std):
            raise ConfigError(
                f"'{name}' cannot have 'gate' or 'std': the other rewards are gated by accuracy and scaled beside it. Set only "
                f"the weight of '{name}'."
            )
    if not any(term.weight for term in terms.values()):
        raise ConfigError(
            "All weights under 'rewards' are 0, so there is nothing to learn: set the weight of 'accuracy' above 0."
        )
    penalty = terms.get("grounding_penalty", Term())
    if penalty.std or terms.get("shuffled(grounding_penalty)", Term()).std:
        raise ConfigError(
            "'grounding_penalty' has a fixed bound, which scaling to a standard deviation would break: remove its std."
        )
    if penalty.weight < 0:
        raise ConfigError(
            f"The weight of 'grounding_penalty' is {penalty.weight:g}, but the value of this reward is already negative, so a "
            "negative weight rewards responses that stop attending to the image: set a weight above 0."
        )
    if penalty.weight and args.multi_objective_aggregation != "sum_then_normalize":
        raise ConfigError(
            f"'grounding_penalty' never puts a correct response below an incorrect one in the sum of the rewards, but "
            f"multi_objective_aggregation: {args.multi_objective_aggregation} normalizes each reward before the sum: set "
            "multi_objective_aggregation: sum_then_normalize, or remove 'grounding_penalty'."
        )


def _check_saving(args: Any) -> None:
    """Refuse checkpoints while completions are being reused: a checkpoint does not hold them, so it could not be resumed."""
    cycle = args.steps_per_generation * args.num_iterations
    by_steps = args.save_strategy == "steps" and args.save_steps >= 1
    if by_steps and int(args.save_steps) * args.gradient_accumulation_steps % cycle:
        raise ConfigError(
            f"Completions are reused for {cycle} passes (steps_per_generation x num_iterations) and are not saved, so a "
            f"checkpoint between them cannot be resumed: set 'save_steps' so that save_steps x gradient_accumulation_steps is a "
            f"multiple of {cycle}."
        )


def _bound_vllm(args: Any, options: GrpoOptions) -> None:
    """Limit vLLM to the longest row: by default it reserves memory for all positions of the model, 128 thousand and more."""
    if args.use_vllm and args.vllm_max_model_length is None and options.max_prompt_tokens is not None:
        args.vllm_max_model_length = options.max_prompt_tokens + args.max_completion_length


def run_grpo(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run the GRPO stage of a config (path or mapping) with ``overrides`` on top; returns its summary.

    Leaves in ``output_dir`` the model as a standard folder, ``data.json`` (problems used and dropped by reason),
    ``pass_rates.jsonl`` and ``choice.json`` (sampled accuracy, and whether looking again pays, before the first step),
    ``log.jsonl`` and ``summary.json``.

    Raises:
        UserError: anything in config, model, problems or output folder that the user can fix.
    """
    quiet()
    stage = load_grpo(source, overrides)
    options = stage.options
    with judging(options.judge, options.model):
        return run_stage(stage, "train/grpo.py", options.problems, _train_grpo, _reward_files(options))


def _train_grpo(stage: StageConfig, run: RunFolder) -> dict[str, Any]:
    args, options = stage.args, stage.options
    check_vllm_server(args)
    vlm = load_for_training(options, args)
    filtered = FilteredProblems()
    problems, dropped = usable(read_valid_problems(options.problems, filtered.reject), vlm, options, filtered, args)
    checkpoint = run.begin()
    chosen = select_prompts(problems, vlm, args, options, run, PartialState())
    if options.domain_weights is not None:
        chosen = mix_domains(chosen, options.domain_weights, args.seed)
    if options.curriculum == "easy_first":
        key = selection_key(args, options, run.model_sha256)
        chosen = easy_first(chosen, pass_rates(chosen, read_pass_rates(run.path, key) if key else []))
        args.shuffle_dataset = False  # or TRL would undo the order
    prompts_a_step = args.generation_batch_size // args.num_generations
    if len(chosen) < prompts_a_step:
        raise UserError(
            f"{len(chosen)} prompts are left of {len(problems)}, but a step takes {prompts_a_step}: give more problems, widen "
            "min_right and max_right of prompt_selection, or lower per_device_train_batch_size."
        )
    domains = dict(Counter(problem.domain for problem in chosen))
    data = {"problems": len(problems), "prompts": len(chosen), "domains": domains, "dropped": dropped}
    if run.main:
        for reason, n in dropped.items():
            print(f"left out as {reason}: {n} ({'; '.join(filtered.examples[reason])})", flush=True)
        write_json_atomic(run.path / "data.json", data)
        print(f"{len(chosen)} prompts of {len(problems)} problems, {prompts_a_step} a step", flush=True)
    add_blank_images(vlm, [len(problem.images) for problem in chosen])
    adapters = lora_config(options.lora, vlm.model, checkpoint[0] if checkpoint else None)
    if run.main:
        print_coverage(options.lora, adapters, vlm.model)
    trainer = VisualGRPOTrainer(vlm, chosen, options, args, peft_config=adapters)
    trainer.add_callback(ConsoleWarnings(trainer))
    if options.max_logprob_gap is not None:
        trainer.add_callback(StopAtGap(options.max_logprob_gap))
    steps = run_trainer(trainer, run, checkpoint, SHOWN, options)
    return run.finish(
        {**_grpo_summary(run.rows(), steps), **data, **measured_before(run.path), "precision": stage.precision.name}
    )


def usable(
    problems: Sequence[Problem],
    vlm: VLM,
    options: GrpoOptions,
    filtered: FilteredProblems | None = None,
    args: Any = None,
) -> tuple[list[Problem], dict[str, int]]:
    """Drop problems that would fail or be truncated during training; returns the others, and the number dropped by reason.

    The reasons are the keys of ``train.filters.REMEDIES``; ``filtered`` holds the rows that ``read_valid_problems`` dropped.
    ``args`` are TRL's; their completion length is kept free in the model's positions.
    """
    filtered = filter_problems(
        problems,
        reader_of(vlm),
        options.style,
        options.max_prompt_tokens,
        completion_tokens=0 if args is None else args.max_completion_length,
        filtered=filtered,
    )
    if not filtered.kept:
        raise UserError(f"No problem of {options.problems} can be used: {filtered.dropped or 'the set is empty'}.")
    return filtered.kept, filtered.dropped


def _grpo_summary(rows: list[dict[str, Any]], steps: int) -> dict[str, Any]:
    def mean(key: str, some: Sequence[dict[str, Any]]) -> float | None:
        values = [row[key] for row in some if row.get(key) is not None]
        return sum(values) / len(values) if values else None

    seconds = rows[-1]["seconds"] if rows else 0.0
    third = rows[: max(1, len(rows) // 3)]
    edges = {"first": rows[: max(1, len(rows) // 10)], "last": rows[-max(1, len(rows) // 10) :]}
    summary: dict[str, Any] = {
        "steps": steps,
        "seconds": seconds,
        "seconds_per_step": seconds / steps if steps else None,
        "zero_std_share": mean("frac_reward_zero_std", rows),
        "zero_std_share_first_third": mean("frac_reward_zero_std", third),
        "entropy": mean("entropy", rows),
        "truncated_share": mean("completions/clipped_ratio", rows),
        "length_mean": mean("completions/mean_length", rows),
    }
    for name, key in (("reward", "reward"), ("accuracy", "accuracy/right"), ("entropy", "entropy")):
        for edge, some in edges.items():  # means of the first and the last tenth of the steps
            summary[f"{name}_{edge}"] = mean(key, some)
    return summary


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return command(argv, "train/grpo.py", run_grpo, load_grpo)


if __name__ == "__main__":
    sys.exit(main())
