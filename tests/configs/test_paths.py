"""Paths as users write them: none of them is a traceback."""

from pathlib import Path

import pytest

from configs.overrides import beside
from configs.paths import resolved, user_path
from vlm.problem import image_path


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a") == Path("/home/me/a") and user_path("a/~") == Path("a/~")
    assert user_path("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")


@pytest.mark.parametrize("name", ["loop", "a\0b", "x" * 5000, "a/" * 3000, "~nobody-of-this-name/a", "\ud800"])
def test_paths_that_cannot_be_resolved_stay(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert resolved(tmp_path / name) == tmp_path / name
    assert image_path(tmp_path, name) == str(tmp_path / name)
    assert beside(tmp_path / "config.yaml", name) == tmp_path / name
