"""``reflection-v grpo CONFIG --probe``: what the rewards of a config favour, measured on the start checkpoint without a step.

    python -m train.probe --config configs/tiny/grpo.yaml --problems my/set --output_dir runs/rl

The trainer itself samples groups and computes their rewards, but no gradient is taken. Writes ``probe.json`` into
``output_dir``; the run can then begin in the same folder. With ``zoom`` every prompt is sampled a second time with its crops withheld
(``train.zoom_probe``).
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: train/ stands first on the path, the project's root must
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from accelerate import PartialState

from configs.jsonl import write_json_atomic
from configs.run_dir import make_folder
from eval.figures import image_clusters
from eval.tampering import withheld
from reward.forecast import forecast, in_words
from reward.judge import judging
from train.config import PromptSelection, StageConfig
from train.distributed import add_blank_images
from train.filters import FilteredProblems
from train.grpo import load_grpo, usable
from train.grpo_trainer import VisualGRPOTrainer
from train.launch import check_launch, command, load_for_training, prepare_stage, quiet
from train.lora import lora_config
from train.refusals import require_accepted
from train.run_folder import check_output_folder
from train.selection import candidates
from train.zoom_probe import zoom_in_words, zoom_report
from vlm.problem import read_valid_problems


def run_probe(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The report of ``reward.forecast`` on ``probe_prompts`` prompts of the config, with training's sampling settings.

    Raises:
        UserError: anything in config, model, problems or output folder that the user can fix.
    """
    quiet()
    stage = load_grpo(source, overrides)
    with judging(stage.options.judge, stage.options.model):
        return _probe(stage)


def _probe(stage: StageConfig) -> dict[str, Any]:
    args, options = stage.args, stage.options
    check_launch(args, "train/probe.py")
    state = PartialState()
    require_accepted(args, options, state.num_processes)
    folder = Path(args.output_dir)
    check_output_folder(folder, options.model)
    make_folder(folder)
    prepare_stage(stage, state.is_main_process)
    vlm = load_for_training(options, args)
    filtered = FilteredProblems()
    problems, _ = usable(read_valid_problems(options.problems, filtered.reject), vlm, options, filtered, args)
    # The first candidates of the prompt selection: a probe comes before the selection and costs less.
    chosen = candidates(problems, options.prompt_selection or PromptSelection(), args.seed)[: options.probe_prompts]
    at_once = max(1, args.per_device_train_batch_size * args.steps_per_generation // args.num_generations)
    rounds = math.ceil(len(chosen) / (at_once * state.num_processes))
    add_blank_images(vlm, [len(problem.images) for problem in chosen])
    trainer = VisualGRPOTrainer(vlm, chosen, options, args, peft_config=lora_config(options.lora, vlm.model))
    trainer.model.train()  # so that TRL uses the group size and the metrics of training

    def sample() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for number in range(rounds):
            # Every process takes whole groups, and equally many. The last round is filled up with the first prompts.
            start = (number * state.num_processes + state.process_index) * at_once
            mine = [index % len(chosen) for index in range(start, start + at_once)]
            trainer._generate_and_score_completions([{"index": i} for i in mine for _ in range(args.num_generations)])
            rows += trainer.rows
            if state.is_main_process:
                print(f"probe: {len(rows)} responses", flush=True)
        return rows[: len(chosen) * args.num_generations]

    rows = sample()
    report = forecast(
        rows,
        trainer.composition,
        args.num_generations,
        seed=args.seed,
        scale=args.scale_rewards,
        normalize_first=args.multi_objective_aggregation == "normalize_then_sum",
        drop_in_constant_groups=options.drop_in_constant_groups,
    )
    if options.zoom:
        trainer.change = withheld
        clusters = image_clusters(chosen)
        images = [clusters[problem.id] for problem in chosen]
        report["zoom"] = zoom_report(rows, sample(), args.num_generations, images)
    if state.is_main_process:
        write_json_atomic(folder / "probe.json", report)
        print(in_words(report), flush=True)
        if options.zoom:
            print(zoom_in_words(report["zoom"]), flush=True)
    return report


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return command(argv, "train/probe.py", run_probe, load_grpo)


if __name__ == "__main__":
    sys.exit(main())
