"""Prompts of the agent loop: three Jinja templates (request, conclude, rewrite) in a folder, named by a hash of all three.

``short`` is the language of the bundled tiny reasoner; ``full`` is written for large models; a user's own folder works too.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, TemplateError

from vlm.errors import ConfigError

NAMES = ("request", "conclude", "rewrite")


@dataclass(frozen=True)
class Prompts:
    """The three prompt texts and the SHA-256 over them."""

    texts: dict[str, str]
    sha256: str

    def render(self, name: str, **values: Any) -> str:
        """Fill in a prompt.

        Raises:
            ConfigError: the template is not valid or names something that is not given.
        """
        environment = Environment(undefined=StrictUndefined, keep_trailing_newline=False, autoescape=False)
        try:
            return environment.from_string(self.texts[name]).render(**values).strip()
        except TemplateError as error:
            raise ConfigError(f"The prompt {name}.jinja does not render: {error}.") from None


def load_prompts(name: str) -> Prompts:
    """``short``, ``full`` or the path of a folder with request.jinja, conclude.jinja and rewrite.jinja.

    Raises:
        ConfigError: a template is missing.
    """
    folder = Path(__file__).parent / name if name in ("short", "full") else Path(name)
    missing = [f"{part}.jinja" for part in NAMES if not (folder / f"{part}.jinja").is_file()]
    if missing:
        raise ConfigError(
            f"The prompts folder {folder} lacks {', '.join(missing)}; use 'short', 'full' or a folder with all three."
        )
    texts = {part: (folder / f"{part}.jinja").read_text(encoding="utf-8") for part in NAMES}
    return Prompts(texts, hashlib.sha256("\0".join(texts[part] for part in NAMES).encode()).hexdigest())
