"""LoRA: adapters on the language model, merged at the end, so that the result is a standard model folder.

A decoder is a stack of blocks, and a block is a mixer (which moves information between tokens: attention, a gated delta rule,
a convolution, Mamba) and an MLP. The linear layers differ between families, and in hybrid models between blocks, so the
targets are found from the model: every linear layer of the language model's blocks. These get no adapter:

- the vision tower, the merger, embeddings and heads, which are outside of these blocks;
- routers of a mixture of experts, because a small change moves whole tokens between experts, and indexers, which select tokens
  without a gradient;
- in a state space mixer (Mamba) all layers but ``in_proj``: its fused kernel reads the other weights directly, without their
  adapters;
- experts that are stacked in one parameter (as transformers keeps them): PEFT would add a full matrix for every expert in each
  forward. ``--check`` and the run report it.
"""

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from configs.errors import ConfigError, UserError
from train.config import MERGER_NAMES, Lora
from train.reader import part_of
from vlm.finite import NotFinite, first_not_finite
from vlm.load import VLM, load_vlm

ADAPTER = "adapter"
LINEAR = (nn.Linear, Conv1D)  # Conv1D is the linear layer of GPT-2, its weight transposed
# Names of a block's MLP, and ends of the names of its class. Every other part of a block with weights is its mixer.
MLP_NAMES = ("mlp", "feed_forward", "ffn", "moe", "block_sparse_moe", "intermediate", "output")
MLP_CLASSES = ("MLP", "MoE", "Moe", "MoeBlock", "FFN", "FF", "FeedForward", "Experts", "Router")
ROUTERS = {"router", "gate", "shared_expert_gate"}


@dataclass
class Block:
    """One block of the language model, by the full names of its modules.

    Attributes:
        mixer, mlp: the linear layers that can carry an adapter.
        has_mixer, has_mlp: whether the block has such a part, also if it has no linear layer.
        experts: parameters that stack the weights of several experts.
    """

    name: str
    mixer: list[str] = field(default_factory=list)
    mlp: list[str] = field(default_factory=list)
    has_mixer: bool = False
    has_mlp: bool = False
    experts: list[str] = field(default_factory=list)

    @property
    def number(self) -> int:
        return int(self.name.rpartition(".")[2])


def find_blocks(model: Any) -> list[Block]:
    """The language model's blocks, in order: the elements of the outermost module lists of its decoder."""
    decoder = model.get_decoder()
    start = next(name for name, module in model.named_modules() if module is decoder)
    stacks: list[str] = []
    blocks: list[Block] = []
    for name, module in decoder.named_modules(prefix=start):
        inside = any(name.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and not inside and part_of(name) == "language":
            stacks.append(name)
            stack = [_read_block(f"{name}.{number}", block) for number, block in enumerate(module)]
            blocks += stack if any(block.mixer or block.mlp for block in stack) else []  # or a list of embeddings
    return blocks


def _read_block(name: str, module: nn.Module) -> Block:
    block = Block(name)
    for path, child in _children(name, module):
        if all(len(_weight_shape(weight)) < 2 for weight in child.parameters()):
            continue  # norms and activations
        mlp = isinstance(child, LINEAR) or path.rpartition(".")[2] in MLP_NAMES
        mlp = mlp or type(child).__name__.endswith(MLP_CLASSES)
        block.has_mixer, block.has_mlp = block.has_mixer or not mlp, block.has_mlp or mlp
        owners = dict(child.named_modules(prefix=path))
        for at, part in owners.items():
            if isinstance(part, LINEAR):
                if _takes_adapter(at.removeprefix(name), owners.get(at.rpartition(".")[0]), mlp):
                    (block.mlp if mlp else block.mixer).append(at)
            elif mlp and not isinstance(part, nn.Conv1d):
                own = part.named_parameters(recurse=False)
                block.experts += [f"{at}.{key}" for key, weight in own if len(_weight_shape(weight)) == 3]
    return block


def _takes_adapter(path: str, parent: nn.Module | None, mlp: bool) -> bool:
    words = path.split(".")
    state_space = hasattr(parent, "A_log") and hasattr(parent, "D")
    return not ((state_space and words[-1] != "in_proj") or "indexer" in words or (mlp and ROUTERS & set(words)))


def _children(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for own, child in module.named_children():
        if isinstance(child, nn.ModuleList):  # T5 lists the parts of a block
            yield from _children(f"{name}.{own}", child)
        else:
            yield f"{name}.{own}", child


def _weight_shape(weight: Any) -> tuple[int, ...]:
    return tuple(getattr(weight, "ds_shape", weight.shape))  # under ZeRO-3 a process holds an empty tensor


def target_names(lora: Lora, model: Any) -> list[str]:
    """Full names of the language model's layers that get an adapter: ``lora.targets``, or all linear layers of its blocks.

    Raises:
        ConfigError: no linear layer has one of the target names, or none was found.
    """
    if lora.targets is None:
        found = [name for block in find_blocks(model) for name in (*block.mixer, *block.mlp)]
        if not found:
            raise ConfigError(
                "No linear layer was found in the blocks of the language model: name the layers in 'lora.targets'."
            )
        return found
    names = [name for name, layer in model.named_modules() if isinstance(layer, LINEAR) and part_of(name) == "language"]
    targets = [name for name in names if name.rpartition(".")[2] in lora.targets]
    if missing := sorted(set(lora.targets) - {name.rpartition(".")[2] for name in targets}):
        raise ConfigError(
            f"'lora.targets': the language model has no linear layer named {', '.join(missing)}; remove 'lora.targets' to adapt "
            "every linear layer."
        )
    return targets


def _begun_targets(checkpoint: Path, model: Any) -> list[str]:
    """Full names of the layers that a checkpoint adapts. PEFT saves only the shortest unambiguous ends of the names."""
    saved = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))["target_modules"]
    ends = tuple(f".{name}" for name in saved)
    names = [name for name, _ in model.named_modules() if f".{name}".endswith(ends)]
    if not names:
        raise UserError(
            f"{checkpoint} holds adapters for layers that the model does not have in this version of transformers: install the "
            "version that settings.json names, or choose another output_dir."
        )
    return names


def lora_config(lora: Lora | None, model: Any, checkpoint: Path | None = None) -> Any:
    """PEFT's config for the adapters of ``lora`` on ``model``; None if ``lora`` is None.

    Args:
        checkpoint: the checkpoint that the run resumes from. Its adapters are the targets, because an earlier version may
            have found others for the same config, and a run keeps the adapters that it began with.

    Raises:
        ConfigError: a number out of range, or no layer has one of the target names.
        UserError: the model has none of the layers that the checkpoint adapts.
    """
    if lora is None:
        return None
    from peft import LoraConfig

    if lora.r < 1 or lora.alpha < 1 or not 0 <= lora.dropout < 1 or lora.targets == []:
        raise ConfigError(
            f"'lora' needs r and alpha of at least 1, dropout in [0, 1) and at least one target, found r {lora.r}, alpha "
            f"{lora.alpha}, dropout {lora.dropout}, targets {lora.targets}: set them so, or remove the key for its default."
        )
    begun = checkpoint is not None and (checkpoint / "adapter_config.json").exists()
    targets = _begun_targets(checkpoint, model) if checkpoint and begun else target_names(lora, model)
    mergers = [name for name, _ in model.named_modules() if _is_merger(*name.rpartition(".")[::2])]
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


@dataclass
class Coverage:
    """Which blocks of the language model have adapters, in the mixer and in the MLP.

    Attributes:
        layers: the number of layers with an adapter.
        mixer, mlp: the numbers of blocks with an adapter in that part, and of blocks that have such a part.
        bare: the blocks whose mixer carries none.
        experts: the number of blocks whose experts carry none.
    """

    layers: int
    mixer: tuple[int, int]
    mlp: tuple[int, int]
    bare: list[Block]
    experts: int

    def line(self, r: int) -> str:
        """What a run prints."""
        line = (
            f"LoRA: {self.mixer[0]} of {self.mixer[1]} blocks carry adapters in the mixer, {self.mlp[0]} of {self.mlp[1]} in "
            f"the MLP (rank {r}, {self.layers} layers)"
        )
        return f"{line}; the experts of {self.experts} blocks carry none (see --check)" if self.experts else line


def coverage(model: Any, targets: Collection[str]) -> Coverage:
    """The coverage of adapters on the layers ``targets`` (full names, as ``target_names`` returns them)."""
    blocks, adapted = find_blocks(model), set(targets)
    mixers, mlps = [block for block in blocks if block.has_mixer], [block for block in blocks if block.has_mlp]
    bare = [block for block in mixers if not adapted & {*block.mixer}]
    return Coverage(
        layers=len(adapted),
        mixer=(len(mixers) - len(bare), len(mixers)),
        mlp=(sum(bool(adapted & {*block.mlp}) for block in mlps), len(mlps)),
        bare=bare,
        experts=sum(bool(block.experts) for block in blocks),
    )


def print_coverage(lora: Lora | None, peft_config: Any, model: Any) -> None:
    """Print the coverage of the adapters of ``lora_config``, and the mixers without adapters; nothing without ``lora``."""
    if lora is None:
        return
    found = coverage(model, peft_config.target_modules)
    bits = f"; the blocks' linear layers are loaded in {lora.bits} bits" if lora.bits else ""
    print("\n".join([found.line(lora.r) + bits, *_bare_mixers(lora, found)]), flush=True)


def check_lora(lora: Lora, model: Any) -> tuple[Coverage, list[str]]:
    """The coverage of the adapters of ``lora``, and a sentence for each part of the language model's blocks without them.

    Raises:
        ConfigError: see ``lora_config``.
    """
    found = coverage(model, lora_config(lora, model).target_modules)
    notes = _bare_mixers(lora, found)
    if found.experts:
        sizes = {name: math.prod(_weight_shape(weight)) for name, weight in model.named_parameters()}
        stacked = sum(sizes[name] for block in find_blocks(model) for name in block.experts)
        share = stacked / sum(size for name, size in sizes.items() if part_of(name) == "language")
        notes.append(
            f"The experts of {found.experts} of {found.mlp[1]} MLPs carry no adapter, because each weight stacks all experts: "
            f"{share:.0%} of the language model's weights stay as they are unless 'lora' is left out."
        )
    return found, notes


def _bare_mixers(lora: Lora, found: Coverage) -> list[str]:
    """A sentence for the mixers that could have adapters but have none, and one for those without a linear layer."""
    notes = []
    if missed := [block for block in found.bare if block.mixer]:
        names = ", ".join(dict.fromkeys(name.rpartition(".")[2] for block in missed for name in block.mixer))
        remedy = f"add {names} to 'lora.targets', or leave 'lora.targets' out to adapt every linear layer."
        if lora.targets is None:  # a run that an earlier version began
            remedy = f"the run keeps the adapters that it began with; another output_dir begins with {names} too."
        notes.append(
            f"The mixer of {len(missed)} of {found.mixer[1]} blocks ({_ranges(missed)}) carries no adapter: {remedy}"
        )
    if rest := [block for block in found.bare if not block.mixer]:
        notes.append(
            f"The mixer of {len(rest)} of {found.mixer[1]} blocks ({_ranges(rest)}) carries no adapter: it has no linear layer."
        )
    return notes


def _ranges(blocks: Sequence[Block]) -> str:
    """The blocks' numbers, consecutive ones as a range: ``0-2, 4, 6-8``."""
    runs: list[list[int]] = []
    for number in (block.number for block in blocks):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def merge_adapter(folder: Path, model: str, dtype: Any) -> None:
    """Merge the adapter in ``folder`` into ``model`` and save the whole model there; the adapter moves to ``adapter/``.

    Raises:
        UserError: ``model`` cannot be loaded any more, or the merged weights are not finite.
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
    if (lost := first_not_finite(merged.named_parameters())) is not None:
        raise NotFinite(
            f"The adapter in {adapter} is finite, but merging it into {model} makes {lost} infinite in {dtype}, so no model is "
            "published: set dtype: float32 in another output_dir."
        )
    merged.save_pretrained(folder)
