"""Where a model looks while it writes: the attention mass of a span of its response, laid over its images.

    scores = score_responses(vlm, [messages], [images], [response], attention="all", maps=True)      # of vlm.scoring
    draw_heatmap(images, scores.maps(0)).save("look.png")

A map has one cell for each image token, and the cells divide the image evenly, whatever size it was shrunk or enlarged
to before the model read it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from configs.errors import UserError
from vlm.attention import image_token_mask
from vlm.drawing import side_by_side

Grid = tuple[int, int]
# From no attention to most: transparent black, violet, orange, light yellow (r, g, b, opacity).
_STOPS = np.array([[0, 0, 4, 0.0], [110, 30, 130, 0.45], [240, 110, 40, 0.7], [252, 250, 165, 0.85]])


def token_grids(model: nn.Module, batch: Mapping[str, Any], images: Sequence[int]) -> list[list[Grid]]:
    """How the image tokens of each image lie: for each sequence, (rows, columns) of each of its images.

    Args:
        model: the model that reads the batch.
        batch: what the processor made: ``input_ids`` and its sizes (``image_grid_thw``, ``image_sizes``).
        images: the number of images of each sequence.

    Raises:
        UserError: the family cuts images into tiles, or spells them in another way that has no single grid.
    """
    config: Any = getattr(model, "config", None)
    counts = image_token_mask(model, batch["input_ids"]).sum(1).tolist()
    if batch.get("image_grid_thw") is not None:  # the Qwen-VL families: patches, merged by two in each direction
        merge = config.vision_config.spatial_merge_size
        grids = [(int(height) // merge, int(width) // merge) for _, height, width in batch["image_grid_thw"]]
    elif config.model_type == "mistral3":
        cell = config.vision_config.patch_size * config.spatial_merge_size
        grids = [(int(height) // cell, int(width) // cell) for height, width in batch.get("image_sizes", [])]
    else:  # families with a fixed number of tokens an image, in a square
        grids = [(side := math.isqrt(_tokens_an_image(config)), side)] * sum(images)
    shared: list[list[Grid]] = []
    for count, n in zip(counts, images, strict=True):
        own, grids = grids[:n], grids[n:]
        if sum(rows * columns for rows, columns in own) != count:
            raise UserError(
                f"a heat map needs one grid of image tokens an image, but {config.model_type} spells {n} images in "
                f"{count} tokens. Families that cut images into tiles are not supported; switch tiling off "
                "in the processor, or use a Qwen-VL model."
            )
        shared.append(own)
    return shared


def _tokens_an_image(config: Any) -> int:
    for name in ("mm_tokens_per_image", "image_seq_length"):
        if isinstance(tokens := getattr(config, name, None), int):
            return tokens
    if scale := getattr(config, "scale_factor", None):  # the Idefics 3 family shuffles scale x scale patches into one
        return (config.vision_config.image_size // config.vision_config.patch_size // scale) ** 2
    return 0


def image_maps(token_mass: torch.Tensor, grids: Sequence[Grid]) -> list[torch.Tensor]:
    """The mean mass of some rows over the images of one sequence.

    Args:
        token_mass: (..., image tokens), as :class:`vlm.attention.AttentionMass` keeps it for one sequence with
            ``per_token``; NaN rows (padding) are left out of the mean.
        grids: the sequence's images, from :func:`token_grids`.

    Returns:
        One float32 (rows, columns) map an image. All cells of all maps sum to the mean mass of the rows, in [0, 1].

    Raises:
        UserError: no row is there.
    """
    tokens = sum(rows * columns for rows, columns in grids)
    rows = token_mass[..., :tokens].reshape(-1, tokens)
    rows = rows[~rows.isnan().any(1)]
    if not len(rows):
        raise UserError("no response token was given for the heat map: the span is empty.")
    parts = rows.mean(0).float().cpu().split([height * width for height, width in grids])
    return [part.view(grid) for part, grid in zip(parts, grids, strict=True)]


def overlay(image: Image.Image, attention: torch.Tensor, most: float | None = None) -> Image.Image:
    """An image with its map laid over it, of the image's size.

    Args:
        attention: (rows, columns), non-negative.
        most: the value that is drawn strongest; the map's own maximum unless given (give it to compare images).
    """
    scale = max(float(attention.max()) if most is None else most, 1e-12)
    cells = Image.fromarray((attention / scale).clamp(0, 1).numpy().astype(np.float32))
    level = np.asarray(cells.resize(image.size, Image.Resampling.BILINEAR)).clip(0, 1)
    # Interpolated by hand: an overlay needs four stops, not a plotting library.
    at = np.linspace(0, 1, len(_STOPS))
    colour = np.stack([np.interp(level, at, _STOPS[:, channel]) for channel in range(4)], axis=-1)
    opacity = colour[..., 3:]
    base = np.asarray(image.convert("RGB"), dtype=np.float64)
    return Image.fromarray((base * (1 - opacity) + colour[..., :3] * opacity).round().astype(np.uint8))


def draw_heatmap(images: Sequence[Image.Image], maps: Sequence[torch.Tensor]) -> Image.Image:
    """All images of a conversation with their maps, side by side, on one scale of colour."""
    # One scale, so that the colours of two images can be compared.
    most = max(float(one.max()) for one in maps)
    return side_by_side([overlay(image, one, most) for image, one in zip(images, maps, strict=True)])
