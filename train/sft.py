"""Cold start: supervised fine-tuning on reflection traces with TRL's ``SFTTrainer``.

    python train/sft.py --config configs/tiny/sft.yaml [--key value ...]
    deepspeed --num_gpus 8 train/sft.py --config configs/qwen2_5_vl_7b/sft.yaml

The YAML holds keys of TRL's ``SFTConfig`` and of ``train.config.SftOptions``. After an interruption the same command resumes
from the last complete checkpoint. Left out on purpose: packing (the tokens of packed rows would attend to each other's
images, and TRL refuses it for images) and truncation (it would separate image tokens from their features). Rows that are
too long are dropped and counted instead.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: train/ stands first on the path, the project's root must
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from configs.jsonl import write_json_atomic
from configs.processes import world_size
from train.checkpoints import EpochSampler
from train.config import SftOptions, StageConfig, load_stage
from train.data import FILLER, Collator, Row, read_rows
from train.distributed import FilledSampler, add_blank_images, fillers
from train.finite import FiniteTrainer, Numbered, shortened
from train.held_out import LOSS, EvaluateAtEnd, HeldOutTrainer, evaluation_defaults, held_out_summary, split_rows
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
from train.resume import rows_at_once
from train.run_folder import RunFolder

OWN_ROWS = "this project reads the rows and computes their labels itself (docs/your-own-data.md); remove it."
DEFAULTS = {
    **STAGE_DEFAULTS,
    "max_length": None,  # TRL's default of 1024 would cut rows, image tokens and all
    "dataset_kwargs": {"skip_prepare_dataset": True},  # TRL would tokenize; our collator does
}
REFUSED = {
    **STAGE_REFUSED,
    "max_length": "rows with images are never truncated; set 'max_row_tokens' to drop the long ones.",
    "packing": "rows with images are not packed, because their tokens would attend to each other; remove it.",
    "padding_free": "rows with images are padded, because their tokens would attend to each other; remove it.",
    **dict.fromkeys(
        ("dataset_kwargs", "dataset_text_field", "completion_only_loss", "assistant_only_loss", "chat_template_path"),
        OWN_ROWS,
    ),
}
SHOWN = ("loss", LOSS, "mean_token_accuracy", "entropy", "learning_rate")


class ColdStartTrainer(HeldOutTrainer, FiniteTrainer, SFTTrainer):
    """TRL's trainer with a loss that weights all tokens equally, a row order that a resume repeats, and no model card.

    Args:
        rows: all usable rows; a batch names them by number (``train.finite.Numbered``).
        fillers: the number of filler rows, which stay at the end of every epoch (``train.distributed.fillers``).
    """

    def __init__(self, *args: Any, rows: Sequence[Row], fillers: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows, self.fillers = rows, fillers
        # Vision-language models declare that they take no token count, so Trainer would average the mean losses of processes
        # and accumulated batches whatever their lengths. TRL's loss does not need the model for it: it divides by the count.
        self.model_accepts_loss_kwargs = True

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        rows = len(dataset) - self.fillers
        own = dataset.select(range(rows)) if self.fillers else dataset
        sampler = EpochSampler(super()._get_train_sampler(own), self.args.seed, lambda: self.state)
        return FilledSampler(sampler, range(rows, len(dataset))) if self.fillers else sampler

    def row_names(self, numbers: Sequence[int]) -> str:
        return "rows " + shortened([str(self.rows[number].line) for number in numbers if number != FILLER])

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Left out: it would describe the run as TRL's example."""


def load_sft(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> StageConfig:
    """The checked config of a cold start; ConfigError otherwise."""
    required = ("output_dir", "dataset")
    return load_stage(source, SftOptions, SFTConfig, required, DEFAULTS, REFUSED, overrides, evaluation_defaults)


def run_sft(source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run the cold start of a config (path or mapping) with ``overrides`` on top; returns its summary.

    Leaves in ``output_dir`` the model as a standard folder, ``data.json`` (rows used, rows dropped by reason),
    ``log.jsonl`` and ``summary.json``.

    Raises:
        UserError: see ``train.config.load_stage``, ``train.data.read_rows`` and ``train.run_folder.RunFolder``.
    """
    quiet()
    stage = load_sft(source, overrides)
    return run_stage(stage, "train/sft.py", stage.options.dataset, _train_sft)


def _train_sft(stage: StageConfig, run: RunFolder) -> dict[str, Any]:
    args, options = stage.args, stage.options
    vlm = load_for_training(options, args)
    rows, dropped = read_rows(options.dataset, vlm, options.max_row_tokens)
    add_blank_images(vlm, [len(row.images) for row in rows])
    trained, held_out = split_rows(rows, options.held_out, args.seed)
    checkpoint = run.begin()
    data = {
        "rows": len(trained),
        **({"held_out": len(held_out)} if held_out else {}),
        "direct": sum(rows[index].mode == "direct" for index in trained),
        "with_masked_spans": sum(rows[index].has_masked_spans for index in trained),
        **({"with_tool_calls": called} if (called := sum(bool(rows[index].calls) for index in trained)) else {}),
        "dropped": dropped.counts,
        "examples": dropped.examples,
    }
    if run.main:
        write_json_atomic(run.path / "data.json", data)
        held = f", {len(held_out)} held out" if held_out else ""
        print(f"{len(trained)} rows{held}, {sum(dropped.counts.values())} dropped {dropped.counts or ''}", flush=True)
    if checkpoint is not None:
        args.eval_on_start = False  # it was measured when the run began
    adapters = lora_config(options.lora, vlm.model, checkpoint[0] if checkpoint else None)
    if run.main:
        print_coverage(options.lora, adapters, vlm.model)
    filled = 0 if args.dataloader_drop_last else fillers(len(trained), rows_at_once(vars(args), world_size()))
    # accelerate would repeat held-out rows too, and they would count twice.
    evaluated = [*held_out, *[FILLER] * fillers(len(held_out), args.per_device_eval_batch_size * world_size())]
    trainer = ColdStartTrainer(
        model=vlm.model,
        args=args,
        fillers=filled,
        train_dataset=Dataset.from_dict({"index": [*trained, *[FILLER] * filled]}),
        eval_dataset=Dataset.from_dict({"index": evaluated}) if held_out else None,
        data_collator=Numbered(Collator(rows, vlm)),
        processing_class=vlm.processor,
        peft_config=adapters,
        rows=rows,
    )
    if held_out:
        trainer.add_callback(EvaluateAtEnd())
    steps = run_trainer(trainer, run, checkpoint, SHOWN, options)
    return run.finish({**_sft_summary(run.rows(), steps, data), "precision": stage.precision.name})


def _sft_summary(rows: list[dict[str, Any]], steps: int, data: dict[str, Any]) -> dict[str, Any]:
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    seconds = rows[-1]["seconds"] if rows else 0.0
    return {
        "steps": steps,
        "seconds": seconds,
        "seconds_per_step": seconds / steps if steps else None,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "rows": data["rows"],
        **({"held_out": data["held_out"]} if "held_out" in data else {}),
        **held_out_summary(rows),
        "dropped": data["dropped"],
    }


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return command(argv, "train/sft.py", run_sft, load_sft)


if __name__ == "__main__":
    sys.exit(main())
