"""Tiny random-weight models of the families that the attention probe is compared with eager attention on.

Nothing comes from a hub: each family is its own transformers classes with small numbers. ``FAMILIES`` builds a family by its
name, ``REFERENCE`` names one family of each way to lay out images, for tests that need not run over all of them.
"""

from collections.abc import Callable

from benchmarks.families import gemma, idefics, llava, mistral, qwen
from benchmarks.families.base import FIRST_WORD, IMAGE, TEXT, VISION, Family, finish

__all__ = ["FAMILIES", "FIRST_WORD", "IMAGE", "REFERENCE", "TEXT", "VISION", "Family", "finish"]

FAMILIES: dict[str, Callable[[], Family]] = {
    **qwen.FAMILIES,
    **llava.FAMILIES,
    **idefics.FAMILIES,
    **gemma.FAMILIES,
    **mistral.FAMILIES,
}
REFERENCE = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava_onevision",
    "internvl",
    "smolvlm",
    "gemma3",
    "mistral3",
)
