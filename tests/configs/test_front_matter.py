"""The header of a README.md, and what is none."""

from pathlib import Path

import pytest

from configs.front_matter import MAX_README, read_front_matter


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("---\nreads: rows of digits\nconfigs: [1]\n---\n# Title\n", {"reads": "rows of digits", "configs": [1]}),
        ("---\nreads: x\n", {}),
        ("# Title\n---\nreads: x\n---\n", {}),
        ("---\n[1, 2]\n---\n", {}),
        ("---\nreads: [\n---\n", {}),
        ("", {}),
        ("---\n" + "a: " + "x" * MAX_README + "\n---\n", {}),
    ],
    ids=["header", "no end", "not at the top", "no mapping", "broken", "empty", "too long"],
)
def test_the_header_is_read_or_there_is_none(tmp_path: Path, text: str, header: dict[str, object]) -> None:
    (tmp_path / "README.md").write_text(text)
    assert read_front_matter(tmp_path / "README.md") == header
    assert read_front_matter(tmp_path / "none.md") == read_front_matter(tmp_path) == {}
