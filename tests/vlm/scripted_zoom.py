"""A model in this process whose tokens are scripted: everything around ``model.generate`` is real."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from vlm.load import VLM, load_vlm
from vlm.tools import write_tool_call

TEMPLATE = (Path(__file__).parent / "zoom_template.jinja").read_text()


def zoom(*box: float, **others: Any) -> str:
    return write_tool_call("image_zoom_in_tool", {"bbox_2d": list(box), **others})


class ScriptedVLM:
    """Writes given turns one after the other.

    Attributes:
        vlm: the model, whose chat template has tools.
        prompts: the tokens of each prompt.
        pixels: the number of image patches of each prompt.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, special: bool = False) -> None:
        self.vlm: VLM = load_vlm(folder)
        self.vlm.processor.chat_template = self.vlm.tokenizer.chat_template = TEMPLATE
        self.vlm.tokenizer.add_tokens(["<tool_call>", "</tool_call>"], special_tokens=special)
        self.vlm.model.config.get_text_config().max_position_embeddings = 6000
        self.turns: list[str] = []
        self.prompts: list[list[int]] = []
        self.patches: list[int] = []
        patch.setattr(self.vlm.model, "generate", self.generate)

    def script(self, *turns: str) -> "ScriptedVLM":
        self.turns = list(turns)
        return self

    def generate(self, **call: Any) -> torch.Tensor:
        ids = call["input_ids"]
        self.prompts.append(ids[0].tolist())
        self.patches.append(len(call["pixel_values"]))
        written = self.vlm.tokenizer(self.turns.pop(0), add_special_tokens=False)["input_ids"]
        written = [*written, self.vlm.tokenizer.eos_token_id][: call["generation_config"].max_new_tokens]
        if (streamer := call["streamer"]) is not None:
            streamer.put(ids)
            for token in written:
                streamer.put(torch.tensor(token))
            streamer.end()
        return torch.cat([ids, torch.tensor([written])], dim=1)

    def prompt(self, number: int) -> str:
        """A prompt as text, each image as one placeholder."""
        tokens: Sequence[int] = self.prompts[number]
        image = self.vlm.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        kept = [token for place, token in enumerate(tokens) if token != image or tokens[place - 1] != image]
        return str(self.vlm.tokenizer.decode(kept))
