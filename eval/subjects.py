"""Who is evaluated: anything that writes a text for a question about pictures, from nothing or from a text begun.

``LocalSubject`` is a Hugging Face model; ``ScriptedSubject`` runs a function in its place, for tests and for checking a
measure against models whose grounding is known because it was written down.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from PIL import Image

if TYPE_CHECKING:
    from vlm.generate import Generation
    from vlm.load import VLM


@dataclass(frozen=True)
class Turn:
    """All that a subject gets to see of a problem. ``prefix`` is text that it has written already and goes on from."""

    question: str
    choices: list[str] | None
    style: str
    images: list[Image.Image]
    prefix: str = ""


class Subject(Protocol):
    """``fingerprint`` changes when the model does: saved answers of another fingerprint are not reused."""

    name: str
    fingerprint: str

    def write(
        self, turns: Sequence[Turn], *, max_new_tokens: int, attention: dict[str, Any] | None = None
    ) -> "list[Generation]":
        """One greedy generation a turn, in order, without the prefix."""
        ...


class LocalSubject:
    """A vision-language model in this process; all turns of a call form one batch."""

    def __init__(self, vlm: "VLM"):
        self.vlm = vlm
        self.name = vlm.name
        self.fingerprint = weights_checksum(vlm.model)

    def write(
        self, turns: Sequence[Turn], *, max_new_tokens: int, attention: dict[str, Any] | None = None
    ) -> "list[Generation]":
        from vlm.chat import question_messages
        from vlm.generate import generate

        messages = [
            question_messages(turn.question, len(turn.images), style=turn.style, choices=turn.choices) for turn in turns
        ]
        return generate(
            self.vlm,
            messages,
            [turn.images for turn in turns],
            max_new_tokens=max_new_tokens,
            prefixes=[turn.prefix for turn in turns] if any(turn.prefix for turn in turns) else None,
            batch_size=len(turns),
            attention=attention,
        )


class ScriptedSubject:
    """``function(turn)`` returns the text that follows the turn's prefix; a token is a word. No attention."""

    def __init__(self, function: Callable[[Turn], str], name: str = "scripted"):
        self.function = function
        self.name = name
        self.fingerprint = f"scripted:{name}"

    def write(
        self, turns: Sequence[Turn], *, max_new_tokens: int, attention: dict[str, Any] | None = None
    ) -> "list[Generation]":
        from vlm.generate import Generation

        written = []
        for turn in turns:
            words = self.function(turn).split(" ")
            written.append(
                Generation(
                    text=" ".join(words[:max_new_tokens]),
                    token_ids=list(range(min(len(words), max_new_tokens))),
                    finished=len(words) <= max_new_tokens,
                    prompt_tokens=len(turn.question.split()),
                    mass=None,
                )
            )
        return written


def load_subject(path: str, dtype: Literal["float32", "bfloat16", "auto"] = "float32") -> LocalSubject:
    """Load a model folder, hub name or bundled model (see ``vlm.load.load_vlm``) for evaluation."""
    from vlm.load import load_vlm

    return LocalSubject(load_vlm(path, dtype=dtype))


def weights_checksum(model: Any) -> str:
    """16 hexadecimal digits of the model's weights, the same on every machine.

    Each tensor counts by its name, its shape and the exact integer sum of its bits, which does not depend on the order
    of summation.
    """
    import torch

    digest = hashlib.sha256(type(model).__name__.encode())
    views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for name, tensor in sorted(model.state_dict().items()):
        bits = tensor.detach().contiguous().view(views[tensor.element_size()])
        digest.update(f"{name}{tuple(tensor.shape)}{int(bits.sum(dtype=torch.int64))}".encode())
    return digest.hexdigest()[:16]
