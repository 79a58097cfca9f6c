"""The YAML at the top of a README.md, between two lines of ``---``: the header of a model card or of a data set's card."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.overrides import parse_yaml

MAX_README = 2**20


def read_front_matter(readme: Path) -> Mapping[str, Any]:
    """The keys of the header; none if there is no file, no header, or a broken one."""
    header: Any = None
    with contextlib.suppress(OSError, ValueError):  # a broken header declares nothing
        with readme.open(encoding="utf-8") as file:
            text = file.read(MAX_README)
        first, *lines = text.splitlines() or [""]
        ends = [number for number, line in enumerate(lines) if line.rstrip() == "---"]
        if first.rstrip() == "---" and ends:
            header = parse_yaml("\n".join(lines[: ends[0]]))
    return header if isinstance(header, Mapping) else {}
