"""The two models of a run folder that are worth comparing: the one that training began with, and what it became."""

from pathlib import Path
from typing import NamedTuple

from configs.errors import UserError
from configs.paths import user_path
from configs.run_dir import read_record
from reflection_v.run import stage_record

TRAINING = ("grpo", "sft")
"""The stages that leave a model, the last one first."""


class TrainedPair(NamedTuple):
    """Names of models as ``vlm.load.load_vlm`` takes them."""

    base: str
    trained: str


def models_of_run(folder: str | Path) -> TrainedPair:
    """Base and trained model of a folder of ``reflection-v run``, or of a single training run (``sft``, ``grpo``).

    Of a run whose GRPO has not finished, the trained model is the cold start's.

    Raises:
        UserError: it is no such folder, or training has not finished there.
    """
    path = user_path(folder)
    if not path.is_dir():
        raise UserError(f"There is no run folder {folder}: give a folder of 'reflection-v run', such as runs/tiny.")
    alone = read_record(path / "settings.json").get("settings")
    if isinstance(alone, dict) and isinstance(alone.get("model"), str):
        if not (path / "summary.json").exists() or not (path / "config.json").exists():
            raise UserError(f"The training in {folder} has not finished: give its command again, then start the demo.")
        return TrainedPair(alone["model"], str(path))
    if not (path / "stages").is_dir():
        raise UserError(
            f"{folder} is no folder of 'reflection-v run', since it has no stages in it: for a model's folder give --model."
        )
    for stage in TRAINING:
        if stage_record(path, stage) is not None and (path / stage / "config.json").exists():
            base = (stage_record(path, "sft") or {}).get("config", {}).get("model")
            if not isinstance(base, str):
                raise UserError(f"{path / 'stages' / 'sft.json'} does not name the base model: give --model twice.")
            return TrainedPair(base, str(path / stage))
    raise UserError(
        f"{folder} has no trained model yet, since its stage 'sft' has not finished: give the command of that run again to finish "
        "it, or start the demo with --model tiny."
    )
