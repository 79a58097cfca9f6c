"""The options of ``ask`` as its command line reads them."""

from types import SimpleNamespace

import pytest

from vlm import infer


def ask_options(*arguments: str) -> SimpleNamespace:
    seen: list[SimpleNamespace] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(infer, "run_ask", lambda options: seen.append(options) or 0)
        assert infer.main(arguments) == 0
    return seen[0]
