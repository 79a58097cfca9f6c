"""QLoRA: the weights that adapters are trained on, packed into 4 or 8 bits by bitsandbytes (``lora: {bits: 4}``).

4 bits are NF4 with quantized constants (arXiv 2305.14314); arithmetic is in the precision of the run. The adapters are merged into
the unquantized model, so the result is a standard folder.

- **Packed**: the linear layers in the blocks of the language model that an adapter can be put on (``train.lora.find_blocks``), so that
  an adapter can correct what packing loses. With ``lora.targets`` the others are packed as well: that is where the memory is.
- **Not packed**: the vision tower and the merger, which get no adapter, a tenth of the weights of a 7B model, and the source of every
  image feature that the attention rewards look at; embeddings and heads, often one tensor; routers, indexers and what a fused
  kernel reads directly, for the reasons in ``train.lora``; stacked experts, which bitsandbytes does not read.

``peft.prepare_model_for_kbit_training`` is not called, as in TRL 1.16: PEFT freezes the model already, TRL makes the inputs of checkpointed
layers require gradients, and the function's float32 copies of norms and embeddings would only cost memory under autocast.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from train.config import Lora
from train.lora import find_blocks

BLOCK, NESTED_BLOCK = 64, 256
"""Weights that share a constant of 8 bits in NF4, and constants that share one of 32 bits."""


def quantized_layers(model: Any) -> list[str]:
    """Full names of the layers that are packed."""
    names = [name for block in find_blocks(model) for name in (*block.mixer, *block.mlp)]
    # transformers replaces these classes, and none that is derived from them.
    return [name for name in names if type(model.get_submodule(name)) in (nn.Linear, Conv1D)]


def quantization_config(lora: Lora, model: Any, args: Any) -> Any:
    """transformers' config of the quantization of ``lora.bits``.

    Args:
        model: the model without weights (``train.reader.skeleton``).
        args: TRL's arguments, for the precision of the run.
    """
    from transformers import BitsAndBytesConfig

    packed = set(quantized_layers(model))
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    compute = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=lora.bits == 4,
        load_in_8bit=lora.bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=[name for name in linear if name not in packed],  # for 4 bits too, whatever its name says
    )


def keep_trainable(model: Any) -> None:
    """Keep bitsandbytes from packing 4-bit weights a second time, for a CPU kernel without a backward.

    On processors with AVX-512-BF16 a layer does so at its first forward in evaluation mode, and for good: after the first generation or
    evaluation no gradient would pass such a layer, with no more than a warning of torch.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def packed_size(bits: int, rows: int, columns: int) -> float:
    """Bytes of a packed weight of ``rows`` outputs with its constants."""
    if bits == 8:
        return rows * columns + 4 * rows
    return rows * columns * (4 + 8 / BLOCK + 32 / (BLOCK * NESTED_BLOCK)) / 8


def keep_adapter_dtype(model: Any) -> None:
    """Give the adapters of a quantized model float32 weights, and parts that are trained in full the dtype and values of the original.

    TRL casts both to bfloat16, in which most of AdamW's updates at a learning rate of 1e-5 round to nothing: a weight of 0.01
    changes in steps of 6e-5. A checkpoint that the run resumes from is loaded into these weights afterwards.
    """
    from peft.utils import ModulesToSaveWrapper

    for name, weight in model.named_parameters():
        if weight.requires_grad and "lora_" in name:
            weight.data = weight.data.float()
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            original = dict(module.original_module.named_parameters())
            for name, weight in module.modules_to_save[module.active_adapters[0]].named_parameters():
                weight.data = original[name].detach().clone()


def trial(lora: Lora) -> str | None:
    """Why bitsandbytes, which is installed, cannot pack weights on this machine's device; None if it can. It packs one weight."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        import bitsandbytes
        from transformers.utils.import_utils import BITSANDBYTES_MIN_VERSION, is_bitsandbytes_available

        if not is_bitsandbytes_available():
            return (
                f"'lora.bits' needs bitsandbytes {BITSANDBYTES_MIN_VERSION} or later, found {bitsandbytes.__version__}: "
                "pip install --upgrade bitsandbytes"
            )
        weight = torch.ones(BLOCK, BLOCK, device=device)
        if lora.bits == 4:
            back = bitsandbytes.functional.dequantize_4bit(*bitsandbytes.functional.quantize_nf4(weight))
        else:
            packed, constants, _ = bitsandbytes.functional.int8_vectorwise_quant(weight.half())
            back = bitsandbytes.functional.int8_vectorwise_dequant(packed, constants)
        if not math.isclose(float(back.float().mean()), 1, rel_tol=0.1):
            raise ValueError("it returns other weights than it was given")
    except Exception as error:  # a library that does not load, a device without kernels: each raises errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return (
            f"'lora.bits' needs a device that bitsandbytes supports, and on this machine's ({device}) it fails ({reason}): install "
            "the release for the device, or remove bits from 'lora'."
        )
    return None
