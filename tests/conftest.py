"""Fixtures shared by all tests: tiny models with random weights, built once a session. Nothing comes from a hub."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores: more threads only wait

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_vlm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Qwen3-VL as a standard folder. Read only: copy it before changing anything."""
    from train.tiny_models import build_tiny_vlm

    return build_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny-vlm")


@pytest.fixture(scope="session")
def tiny_reasoner_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Qwen3 text model as a standard folder. Read only."""
    from train.tiny_models import build_tiny_reasoner

    return build_tiny_reasoner(tmp_path_factory.mktemp("models") / "tiny-reasoner")
