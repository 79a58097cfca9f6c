"""What the tiny families share: the interface, ids and sizes of the text part, and weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

VOCAB, EOS = 99, 98
# Ids of the special tokens: one that is replaced by vision features, and markers that are not.
IMAGE, VIDEO, IMAGE_START, IMAGE_END, IMAGE_BREAK = 5, 6, 7, 8, 9
FIRST_WORD = 10

TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
# The towers that are built like CLIP; the Qwen towers have numbers of their own.
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}

Sizes = Sequence[Sequence[int]]
"""The images of a batch: for each sequence the size codes (0, 1 or 2) of its images."""


TILES = (1, 3, 5)
"""Tiles for each size code, in families that cut an image: the image alone, or several tiles and an overview."""


def flat(sizes: Sizes) -> Iterator[int]:
    """The size codes of all images of a batch, in order."""
    return (code for row in sizes for code in row)


def no_extras(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """For families that read nothing beside the ids and the mask."""
    return {}


@dataclass
class Family:
    """A tiny model, how one image is spelled in ids, and the pixels for images laid out over a batch.

    Attributes:
        name: the model type, and what tells apart two families of one type.
        image_ids: the ids of one image of a size code: 0, 1 or 2. The three have different numbers of image tokens, except in
            families whose processors resize every image to one size.
        pixels: what the model is given beside the ids; called where the batch has an image.
        per_token: what the model is given for each token beside the ids and the mask.
        pads_left: whether transformers computes left-padded sequences of this family as it does without padding.
    """

    name: str
    model: PreTrainedModel
    image_ids: Callable[[int], list[int]]
    pixels: Callable[[Sizes], dict[str, Any]]
    per_token: Callable[[torch.Tensor], dict[str, torch.Tensor]] = field(default=no_extras)
    pads_left: bool = True

    def batch(
        self,
        images: Sequence[int | Sequence[int]],
        lengths: list[int] | None = None,
        side: str = "left",
        response: int = 6,
    ) -> dict[str, Any]:
        """Sequences with the images ``images[b]`` and ``lengths[b]`` further words, padded on ``side``.

        ``images[b]`` is a list of size codes, or a number of images that all have size code 0.
        """
        draw = torch.Generator().manual_seed(1)
        sizes = [[0] * row if isinstance(row, int) else list(row) for row in images]
        rows = []
        for codes, words in zip(sizes, lengths or [response] * len(sizes), strict=True):
            text = torch.randint(FIRST_WORD, EOS, (3 + words,), generator=draw).tolist()
            spelled = [token for code in codes for token in self.image_ids(code)]
            rows.append([1, *text[:1], *spelled, *text[1:]])
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for b, row in enumerate(rows):
            at = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
            ids[b, at] = torch.tensor(row)
            mask[b, at] = 1
        batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, **self.per_token(ids)}
        return {**batch, **self.pixels(sizes)} if any(sizes) else batch

    def more(self, batch: dict[str, Any], ids: torch.Tensor) -> dict[str, Any]:
        """The batch with its ids continued to ``ids``, as for a forward over what a generation wrote."""
        grown = torch.ones(ids.shape[0], ids.shape[1] - batch["input_ids"].shape[1], dtype=torch.long)
        mask = torch.cat([batch["attention_mask"], grown], 1)
        return {**batch, "input_ids": ids, "attention_mask": mask, **self.per_token(ids)}


def finish(model: PreTrainedModel) -> PreTrainedModel:
    """The model in evaluation mode, with weights large enough for attention to be far from uniform."""
    draw = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            # Experts stand in one tensor, (experts, outputs, inputs).
            inputs = weight.shape[-1] if "experts" in name else weight[0].numel()
            scale = 0.3 if "embed" in name else 0.8 / inputs**0.5
            weight.data.normal_(0, scale, generator=draw)
        elif name.endswith("A_log"):
            # Linear attention that forgets slowly: otherwise its state is near 0, and normalising it enlarges rounding errors.
            weight.data.uniform_(0.05, 1, generator=draw).log_()
    model.generation_config.update(bos_token_id=1, eos_token_id=EOS, pad_token_id=0)
    # Random weights may well write an image token; real models are kept from it when they sample.
    model.generation_config.suppress_tokens = [IMAGE, VIDEO, IMAGE_START, IMAGE_END, IMAGE_BREAK]
    return model.eval()


def noise(*shape: int) -> torch.Tensor:
    """Pixels: the same numbers for the same shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def positions(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """For families whose attention depends on a token's own position: counted without the padding, as ``generate`` does."""
    return {"position_ids": ((ids != 0).cumsum(1) - 1).clamp(min=0)}


def one_size(model: PreTrainedModel, image: list[int], side: int = 16) -> Family:
    """A family that resizes every image to one size: ``image`` spells any of them."""
    return Family(
        model.config.model_type,
        finish(model),
        lambda code: image,
        lambda sizes: {"pixel_values": noise(len(list(flat(sizes))), 3, side, side)},
    )


def tiled(model: PreTrainedModel, image_ids: Callable[[int], list[int]], side: int = 16) -> Family:
    """A family that cuts an image into :data:`TILES` tiles of one size: ``image_ids`` spells an image of so many."""
    return Family(
        model.config.model_type,
        finish(model),
        lambda code: image_ids(TILES[code]),
        lambda sizes: {"pixel_values": noise(sum(TILES[code] for code in flat(sizes)), 3, side, side)},
    )
