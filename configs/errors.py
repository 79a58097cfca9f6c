"""Errors that a user can fix: one sentence with the cause and the remedy."""

import re
import sys

NO_HOST_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
NO_GPU_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class UserError(Exception):
    """An error that the user can fix. The command line prints its sentence and exits with ``exit_code``."""

    exit_code = 1


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
