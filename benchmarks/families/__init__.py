"""Tiny random-weight models of the families that the attention probe is compared with eager attention on.

Nothing comes from a hub: each family is its own transformers classes with small numbers. ``FAMILIES`` builds a family by its
name, ``REFERENCE`` names one family of each way to lay out images, for tests that need not run over all of them.
"""

from collections.abc import Callable

import torch

from benchmarks.families import cross, deepseek, gemma, glm, idefics, llava, mistral, other, qwen, sparse
from benchmarks.families.base import EOS, FIRST_WORD, IMAGE, TEXT, VISION, Family, finish

__all__ = ["EOS", "FAMILIES", "FIRST_WORD", "IMAGE", "REFERENCE", "TEXT", "VISION", "Family", "finish"]

MODULES = (qwen, glm, sparse, llava, idefics, gemma, mistral, deepseek, other, cross)


def _seeded(build: Callable[[], Family]) -> Callable[[], Family]:
    """``build`` with the same random numbers each time: transformers draws some parameters that ``finish`` leaves alone."""

    def seeded() -> Family:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build()

    return seeded


FAMILIES: dict[str, Callable[[], Family]] = {
    name: _seeded(build) for module in MODULES for name, build in module.FAMILIES.items()
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
