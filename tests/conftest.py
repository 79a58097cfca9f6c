"""Fixtures shared by all tests: tiny models with random weights, built once a session. Nothing comes from a hub."""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores: more threads only wait

from collections.abc import Iterator
from pathlib import Path

import pytest

from configs import versions

# A test run in the background may have begun with Ctrl-C ignored, and its child processes would ignore it as well.
signal.signal(signal.SIGINT, signal.default_int_handler)


class Site:
    """A folder that is looked at before the environment: what it holds counts as installed, code apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def package(self, name: str, release: str, *lines: str) -> None:
        """Metadata of a package, with further header lines."""
        folder = self.folder / f"{name.replace('-', '_')}-{release}.dist-info"
        folder.mkdir()
        head = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {release}", *lines]
        (folder / "METADATA").write_text("\n".join(head) + "\n\n")
        versions.declared.cache_clear()

    def project(self, *requirements: str, extras: tuple[str, ...] = (), python: str = ">=3.11") -> None:
        """This project, with other requirements than its own."""
        asked = [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {one}" for one in requirements]
        self.package("reflection-v", "9", f"Requires-Python: {python}", *asked)


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """See ``Site``; what a start has said already is forgotten."""
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(versions, "_warned", set())
    versions.declared.cache_clear()
    yield Site(folder)
    versions.declared.cache_clear()


@pytest.fixture(scope="session")
def tiny_vlm_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Qwen3-VL as a standard folder. Read only: copy it before changing anything."""
    from train.tiny.models import build_tiny_vlm

    return build_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny-vlm")


@pytest.fixture(scope="session")
def tiny_reasoner_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Qwen3 text model as a standard folder. Read only."""
    from train.tiny.models import build_tiny_reasoner

    return build_tiny_reasoner(tmp_path_factory.mktemp("models") / "tiny-reasoner")
