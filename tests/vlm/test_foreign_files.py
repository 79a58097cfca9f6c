"""Which format a file has is told from its head, without taking anything from whoever reads it afterwards."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm.foreign_files import foreign_format


@pytest.mark.parametrize("text", ['{"question": "a"}\n', '{"messages": []}\n', "a,b\n1,2\n"])
def test_a_pipe_is_left_whole(tmp_path: Path, text: str) -> None:
    pipe = tmp_path / "rows"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text,), daemon=True)
    writer.start()
    assert foreign_format(pipe) is None
    read: list[str] = []  # in a thread: without a writer, reading would wait without end
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    reader.join(5)
    assert read == [text]


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path), lambda path: None])
def test_what_is_no_file_has_no_format(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "rows.csv")
    assert foreign_format(tmp_path / "rows.csv") is None


def test_a_name_that_is_too_long_has_no_format(tmp_path: Path) -> None:
    assert foreign_format(tmp_path / ("a" * 300)) is None
