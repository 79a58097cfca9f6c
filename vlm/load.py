"""Loading vision-language and text models from folders or the hub, with a sentence for every way it can fail."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from configs.api_key import hide_credentials, redact_tokens
from configs.errors import UserError, memory_error
from configs.machine import limit_threads
from configs.paths import user_path
from vlm.hub import cache_alone, hub_remedy, why_unreachable
from vlm.pixel_limits import check_with_processor

BUNDLED = {"tiny": "tiny-vlm", "tiny-vlm": "tiny-vlm", "tiny-reasoner": "tiny-reasoner"}
Dtype = Literal["float32", "bfloat16", "auto"]


@dataclass
class VLM:
    """A model and the processor that feeds it; for text models the processor is the tokenizer.

    ``lock`` is held while the model generates: the attention probe belongs to the model, not to a call.
    """

    model: Any
    processor: Any
    name: str
    lock: Any = field(default_factory=threading.RLock, repr=False, compare=False)

    @property
    def tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def device(self) -> Any:
        return self.model.device

    @property
    def reads_images(self) -> bool:
        return self.tokenizer is not self.processor


def bundled_model(name: str) -> Path:
    """Folder of a bundled model: ``tiny`` (or ``tiny-vlm``), ``tiny-reasoner``.

    Raises:
        UserError: no bundled model of that name, or its folder is not there.
    """
    if name not in BUNDLED:
        raise UserError(f"There is no bundled model '{name}': the names are {', '.join(BUNDLED)}.")
    folder = Path(__file__).parent / "models" / BUNDLED[name]
    if not (folder / "config.json").exists():
        raise UserError(
            f"The bundled model {name} is not at {folder}: install the project again, or rebuild it with "
            "'python -m train.tiny.pretrain'."
        )
    return folder


def load_vlm(
    name: str | Path,
    dtype: Dtype = "float32",
    device: str | None = None,
    quantization: Any = None,
    **processor_kwargs: Any,
) -> VLM:
    """Load a vision-language model for inference (evaluation mode, left padding).

    Args:
        name: ``tiny``, a standard Hugging Face folder, or a hub name.
        dtype: of the weights. float32 by default: small updates round away in bfloat16, and a batch equals its singles
            only up to the rounding of the type. ``auto`` is the type of the checkpoint.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``auto`` (spread by accelerate); by default the first GPU, else the CPU.
        quantization: transformers' config of a quantization that is applied while the weights load, on ``device``.
        processor_kwargs: for the processor, e.g. ``max_pixels=1280 * 28 * 28``.

    Raises:
        UserError: no such folder, no processor in it, not a vision-language model, or weights that do not load or are not
            finite.
    """
    return _load(name, dtype, device, processor_kwargs, kind="vlm", quantization=quantization)


def load_text_model(name: str | Path, dtype: Dtype = "float32", device: str | None = None) -> VLM:
    """Load a language model as a ``VLM`` whose processor is the tokenizer; arguments and errors as ``load_vlm``."""
    return _load(name, dtype, device, {}, kind="text")


def load_model(name: str | Path, dtype: Dtype = "float32", device: str | None = None) -> VLM:
    """Load whichever of the two kinds the model's config names; arguments and errors as ``load_vlm``."""
    return _load(name, dtype, device, {}, kind="either")


def _load(
    name: str | Path,
    dtype: str,
    device: str | None,
    processor_kwargs: dict[str, Any],
    kind: str,
    quantization: Any = None,
) -> VLM:
    where, local = _locate(name)
    if local:
        _check_config(name, Path(where))
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    from vlm.finite import check_loaded
    from vlm.images import pixel_limits

    limit_threads()  # every command that computes with torch comes through here
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "auto": "auto"}
    if dtype not in dtypes:
        raise UserError(f"The dtype '{dtype}' is not known: use one of {', '.join(dtypes)}.")

    unreachable = None if local else why_unreachable()

    def attempt(what: str, load: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            with cache_alone(unreachable):
                return load(*args, **kwargs)
        # The loaders raise OSError, ValueError, KeyError, RuntimeError and the errors of their libraries.
        except Exception as error:
            if (full := memory_error(error, f"Loading {what} of {name}")) is not None:  # the folder is not to blame
                raise full from error
            reason = (redact_tokens(str(error)).strip().splitlines() or [type(error).__name__])[0][:300]
            remedy = "check that its folder is complete" if local else hub_remedy(unreachable)
            raise UserError(f"Loading {what} of {name} failed ({reason}): {remedy}.") from error

    config = attempt("the config", AutoConfig.from_pretrained, where, local_files_only=local)
    reads_images = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    if kind == "vlm" and not reads_images:
        raise UserError(
            f"{name} is a text-only model ({config.model_type}): give a vision-language model, for example "
            "Qwen2.5-VL or Qwen3-VL, or a model trained from one."
        )
    if kind == "text" and reads_images:
        raise UserError(
            f"{name} is a vision-language model ({config.model_type}): give a text model, or load it as one."
        )
    if local:
        _require_files(name, Path(where), reads_images)
    reader, loader = (
        (AutoProcessor, AutoModelForImageTextToText) if reads_images else (AutoTokenizer, AutoModelForCausalLM)
    )
    processor = attempt("the processor", reader.from_pretrained, where, local_files_only=local, **processor_kwargs)
    if reads_images and not hasattr(processor, "image_processor"):
        raise UserError(f"{name} has no image processor: copy preprocessor_config.json from the model it came from.")
    check_with_processor(processor_kwargs, pixel_limits(processor) if reads_images else None)
    # Loaded on the CPU first and moved, except with ``auto``, which needs accelerate's map at load time.
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options = {"config": config, "dtype": dtypes[dtype], "local_files_only": local, "output_loading_info": True}
    if device == "auto":
        options["device_map"] = "auto"
    if quantization is not None:  # weights are packed on the device that computes with them
        options |= {"quantization_config": quantization, "device_map": {"": device}}
    with _quiet():
        model, info = attempt("the weights", loader.from_pretrained, where, **options)
    if missing := sorted(info["missing_keys"]):  # the loader would initialize them at random
        raise UserError(f"The weights of {name} lack {len(missing)} tensors ({missing[0]}, ...): restore its folder.")
    # On the CPU it is already; under ZeRO-3 a move there would take the frozen weights, and not the others, off their GPU.
    if device not in ("auto", "cpu") and quantization is None:
        model = attempt(f"the weights onto {device}", model.to, device)
    check_loaded(model, str(name))
    vlm = VLM(model.eval(), processor, str(name))
    vlm.tokenizer.padding_side = "left"
    if vlm.tokenizer.pad_token_id is None:
        vlm.tokenizer.pad_token = vlm.tokenizer.eos_token
    return vlm


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Evaluation mode inside, so no dropout; afterwards, also after an exception, each module's own mode as before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:  # not model.train(): a frozen part may have been in evaluation mode
            module.training = True


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar while weights load, because ``ask`` prints only its answer."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _locate(name: str | Path) -> tuple[str, bool]:
    """(what ``from_pretrained`` takes, whether it is a local folder)."""
    text = str(name)
    if text in BUNDLED and not Path(text).exists():
        return str(bundled_model(text)), True
    folder = user_path(text)
    if text.strip() and folder.is_dir():
        return str(folder), True
    if folder.is_file():
        raise UserError(f"{text} is a file: give the folder of the model.")
    parts = text.split("/")
    if isinstance(name, Path) or len(parts) != 2 or not all(parts) or text.startswith((".", "~")) or "\\" in text:
        raise UserError(
            f"The model folder {hide_credentials(text) or repr(text)} does not exist: give 'tiny', a folder, or a hub name "
            "such as Qwen/Qwen3-VL-2B-Instruct."
        )
    return text, False


def _require_files(name: str | Path, folder: Path, reads_images: bool) -> None:
    """Name the missing part of a folder. The loaders' own messages send people to the hub."""
    if reads_images and not any(
        (folder / file).exists() for file in ("processor_config.json", "preprocessor_config.json")
    ):
        raise UserError(
            f"The model folder {name} has no processor (processor_config.json or preprocessor_config.json): save it "
            "with processor.save_pretrained(folder), or copy these files from the model it was trained from."
        )
    if not any(
        (folder / file).exists()
        for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
    ):
        raise UserError(
            f"The model folder {name} has no tokenizer: copy tokenizer.json and tokenizer_config.json into it."
        )
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise UserError(
            f"The model folder {name} has no weights (*.safetensors): save it with model.save_pretrained(folder)."
        )


def _check_config(name: str | Path, folder: Path) -> None:
    file = folder / "config.json"
    if not file.exists():
        if (folder / "adapter_config.json").exists():
            raise UserError(
                f"{name} holds a LoRA adapter without its model: merge it into the model first (merge_and_unload)."
            )
        raise UserError(
            f"The folder {name} is not a model: it has no config.json. Save one with model.save_pretrained(folder)."
        )
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): restore it from the model it was copied from.") from None
