"""Errors that a user can fix: one sentence with the cause and the remedy."""

import re
import sys

NO_HOST_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
NO_GPU_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


LONGEST = 2_000
"""Characters of a sentence."""
_BREAK = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class UserError(Exception):
    """An error that the user can fix. The command line prints its sentence and exits with ``exit_code``."""

    exit_code = 1

    def __str__(self) -> str:
        """The sentence on one line. It may repeat names and texts of any kind: control characters are escaped, since a terminal
        would obey them, and of a very long text the middle is left out."""
        text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", _BREAK.sub(" ", super().__str__()))
        half = LONGEST // 2
        return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


class ConfigError(UserError):
    """Bad arguments or a bad config file."""

    exit_code = 2


class ImageError(UserError):
    """An image that is missing, unreadable or over the limits."""

    exit_code = 2


def memory_error(error: BaseException, doing: str = "") -> UserError | None:
    """The error to raise if a GPU's or the machine's memory is full; None for every other error.

    Args:
        doing: what failed because of it, such as ``Loading the weights``.
    """
    torch = sys.modules.get("torch")  # if torch is not loaded, the error is not from torch
    text, remedy = str(error), "end what else uses it"
    by_words = isinstance(error, RuntimeError | OSError)
    if (torch is not None and isinstance(error, torch.OutOfMemoryError)) or (
        by_words and any(words in text for words in NO_GPU_MEMORY)
    ):
        found = re.search(r"GPU (\d+) has a total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", text)
        full = f"GPU {found[1]} has {found[3]} of {found[2]} free" if found else "the GPU's memory is full"
        remedy += ", choose another GPU with CUDA_VISIBLE_DEVICES"
    elif isinstance(error, MemoryError) or (by_words and any(words in text for words in NO_HOST_MEMORY)):
        full = "the machine's memory is full"
    else:
        return None
    full = f"{doing} failed ({full})" if doing else full[0].upper() + full[1:]
    return UserError(f"{full}: {remedy}, or ask for less at a time (a smaller batch, max_pixels, bfloat16 weights).")
