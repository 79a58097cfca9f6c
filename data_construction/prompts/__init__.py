"""Prompts of the agent loop: Jinja templates in a folder (request, conclude, rewrite and, if wanted, repair), named by a hash.

``repair`` is what a model is told when its reply could not be used; without it the same prompt is sampled anew.
``short`` is the language of the bundled tiny reasoner, ``full`` is written for large models, and ``few_shot`` shows examples that
small models and base models continue. A user's own folder works too.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from configs.errors import ConfigError

NAMES = ("request", "conclude", "rewrite")
SHIPPED = ("short", "full", "few_shot")


@dataclass(frozen=True)
class Prompts:
    """The prompt texts and the SHA-256 over them."""

    texts: dict[str, str]
    sha256: str

    def render(self, name: str, **values: Any) -> str:
        """Fill in a prompt.

        Raises:
            ConfigError: the template is not valid or names something that is not given.
        """
        try:
            return _compiled(self.texts[name]).render(**values).strip()
        except Exception as error:  # a template is a program of the user's: ``{{ 1 / 0 }}`` is no error of a template
            raise ConfigError(
                f"The prompt {name}.jinja does not render: {str(error) or type(error).__name__}."
            ) from None


def load_prompts(name: str) -> Prompts:
    """``short``, ``full``, ``few_shot`` or the path of a folder with request.jinja, conclude.jinja and rewrite.jinja.

    Raises:
        ConfigError: a template is missing, or cannot be read.
    """
    folder = Path(__file__).parent / name if name in SHIPPED else Path(name)
    missing = [f"{part}.jinja" for part in NAMES if not (folder / f"{part}.jinja").is_file()]
    if missing:
        raise ConfigError(
            f"The prompts folder {folder} lacks {', '.join(missing)}; use 'short', 'full', 'few_shot' or a folder with all three."
        )
    names = [*NAMES, "repair"] if (folder / "repair.jinja").is_file() else NAMES
    texts = {part: _template_text(folder / f"{part}.jinja") for part in names}
    return Prompts(texts, hashlib.sha256("\0".join(texts.values()).encode()).hexdigest())


def _template_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The prompt {file} cannot be read: {error}. Save it as UTF-8 text.") from None


@functools.lru_cache(maxsize=32)  # compiling takes longer than all else that is done for a prompt
def _compiled(text: str) -> Template:
    return Environment(undefined=StrictUndefined, keep_trailing_newline=False, autoescape=False).from_string(text)
