"""LoRA: adapters on the language model, merged at the end, so that what comes out is a model folder like any other."""

from pathlib import Path
from typing import Any

from train.options import MERGER_NAMES, VISION_NAMES, Lora
from vlm.errors import ConfigError, UserError
from vlm.load import VLM, load_vlm

ADAPTER = "adapter"


def lora_config(lora: Lora | None, model: Any) -> Any:
    """PEFT's config for the adapters of ``lora`` on ``model``; None where ``lora`` is None.

    Adapters go on the language model alone: names such as ``q_proj`` also occur in some vision towers.

    Raises:
        ConfigError: a number out of range, or no layer has one of the target names.
    """
    if lora is None:
        return None
    from peft import LoraConfig

    if lora.r < 1 or lora.alpha < 1 or not 0 <= lora.dropout < 1 or not lora.targets:
        raise ConfigError("'lora' needs r and alpha of at least 1, dropout in [0, 1), and at least one target.")
    targets = target_names(lora, model)
    names = [name for name, _ in model.named_modules()]
    mergers = [name for name in names if _is_merger(*name.rpartition(".")[::2])]
    mergers = [name for name in mergers if not any(name.startswith(other + ".") for other in mergers)]
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=mergers if lora.train_merger else None,
    )


def _is_merger(parent: str, name: str) -> bool:
    return parent.endswith("merger_list") or (name.startswith(MERGER_NAMES) and not name.endswith("merger_list"))


def target_names(lora: Lora, model: Any) -> list[str]:
    """Full names of the language model's layers that get an adapter.

    Raises:
        ConfigError: no layer has one of the target names.
    """
    outside = {*VISION_NAMES, *MERGER_NAMES}
    names = [name for name, _ in model.named_modules()]
    targets = [name for name in names if name.split(".")[-1] in lora.targets and not outside & {*name.split(".")}]
    if missing := sorted(set(lora.targets) - {name.split(".")[-1] for name in targets}):
        raise ConfigError(f"'lora.targets': the language model has no layer named {', '.join(missing)}.")
    return targets


def merge_adapter(folder: Path, model: str, dtype: Any) -> None:
    """Merge the adapter saved in ``folder`` into ``model`` and leave there the whole model; the adapter moves to ``adapter/``.

    Raises:
        UserError: the model that the adapter was trained on cannot be loaded any more.
    """
    from peft import PeftModel

    adapter = folder / ADAPTER
    adapter.mkdir(exist_ok=True)
    for file in folder.glob("adapter_*"):
        file.replace(adapter / file.name)
    if not (adapter / "adapter_config.json").exists():
        raise UserError(f"{folder} holds no adapter to merge: give the same training command again.")
    base: VLM = load_vlm(model, dtype=dtype, device="cpu")
    merged = PeftModel.from_pretrained(base.model, str(adapter)).merge_and_unload()
    merged.save_pretrained(folder)
