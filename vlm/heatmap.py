"""Where a model looks while it writes: the attention mass of a stretch of its response, laid over its pictures.

    maps = response_maps(vlm, messages, pictures, response)      # one (rows, columns) map a picture
    draw_heatmap(pictures, maps).save("look.png")

A map has one cell for each image token, and the cells divide the picture evenly, whatever size it was shrunk or stretched
to before the model read it. The rows used are those that *predict* the tokens: what the model looks at to write them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from configs.errors import UserError
from vlm.attention import AttentionMass, image_token_mask
from vlm.chat import Message, Prefix, encode, prefix_ids
from vlm.load import VLM

Grid = tuple[int, int]
# Heat from none to most: transparent black, violet, orange, light yellow (r, g, b, opacity).
_STOPS = np.array([[0, 0, 4, 0.0], [110, 30, 130, 0.45], [240, 110, 40, 0.7], [252, 250, 165, 0.85]])


def token_grids(model: nn.Module, batch: Mapping[str, Any], pictures: Sequence[int]) -> list[list[Grid]]:
    """How the image tokens of each picture lie: for each sequence, (rows, columns) of each of its pictures.

    Args:
        model: the model that reads the batch.
        batch: what the processor made: ``input_ids`` and its sizes (``image_grid_thw``, ``image_sizes``).
        pictures: the number of pictures of each sequence.

    Raises:
        UserError: the family cuts pictures into tiles, or spells them in another way that has no single grid.
    """
    config: Any = getattr(model, "config", None)
    counts = image_token_mask(model, batch["input_ids"]).sum(1).tolist()
    if batch.get("image_grid_thw") is not None:  # the Qwen-VL families: patches, merged by two in each direction
        merge = config.vision_config.spatial_merge_size
        grids = [(int(height) // merge, int(width) // merge) for _, height, width in batch["image_grid_thw"]]
    elif config.model_type == "mistral3":
        cell = config.vision_config.patch_size * config.spatial_merge_size
        grids = [(int(height) // cell, int(width) // cell) for height, width in batch.get("image_sizes", [])]
    else:  # families with a fixed number of tokens a picture, in a square
        grids = [(side := math.isqrt(_tokens_a_picture(config)), side)] * sum(pictures)
    shared: list[list[Grid]] = []
    for count, n in zip(counts, pictures, strict=True):
        own, grids = grids[:n], grids[n:]
        if sum(rows * columns for rows, columns in own) != count:
            raise UserError(
                f"a heat map needs one grid of image tokens a picture, but {config.model_type} spells {n} pictures in "
                f"{count} tokens. Families that cut pictures into tiles are not supported; switch tiling off "
                "in the processor, or use a Qwen-VL model."
            )
        shared.append(own)
    return shared


def _tokens_a_picture(config: Any) -> int:
    for name in ("mm_tokens_per_image", "image_seq_length"):
        if isinstance(tokens := getattr(config, name, None), int):
            return tokens
    if scale := getattr(config, "scale_factor", None):  # the Idefics 3 family shuffles scale x scale patches into one
        return (config.vision_config.image_size // config.vision_config.patch_size // scale) ** 2
    return 0


def image_maps(token_mass: torch.Tensor, grids: Sequence[Grid]) -> list[torch.Tensor]:
    """The mean mass of some rows over the pictures of one sequence.

    Args:
        token_mass: (..., image tokens), as :class:`vlm.attention.AttentionMass` keeps it for one sequence with
            ``per_token``; NaN rows (padding) are left out of the mean.
        grids: the sequence's pictures, from :func:`token_grids`.

    Returns:
        One float32 (rows, columns) map a picture. All cells of all maps sum to the mean mass of the rows, in [0, 1].

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


def response_maps(
    vlm: VLM,
    messages: Sequence[Message],
    pictures: Sequence[Image.Image],
    response: Prefix,
    span: tuple[int, int] | None = None,
    layers: Literal["last", "all"] | Sequence[int] = "all",
) -> list[torch.Tensor]:
    """Where the model looked while it wrote a response, with one forward over prompt and response.

    Args:
        messages: the conversation up to the response, as for :func:`vlm.chat.encode`.
        pictures: its pictures, in order.
        response: the text, or its token ids.
        span: the response tokens to average over, first and one past the last; all of them unless given.
        layers: as for :class:`vlm.attention.AttentionMass`; the maps are the mean over them.

    Returns:
        One map a picture, see :func:`image_maps`.

    Raises:
        UserError: there is no picture, the span lies outside of the response, or see :func:`token_grids`.
    """
    if not pictures:
        raise UserError("a heat map needs a picture: the conversation has none.")
    ids = prefix_ids(vlm.tokenizer, response)
    start, stop = span or (0, len(ids))
    if not 0 <= start < stop <= len(ids):
        raise UserError(f"the span {start} to {stop} is not a stretch of the response's {len(ids)} tokens.")
    batch = encode(vlm, [messages], [pictures], [ids])
    grids = token_grids(vlm.model, batch, [len(pictures)])[0]
    # The row before a token predicts it, so the rows reach one position back and leave out the last token's own.
    with vlm.lock, torch.no_grad(), AttentionMass(vlm.model, layers, rows=len(ids) + 1, per_token=True) as probe:
        vlm.model(**batch, logits_to_keep=1)
    assert probe.token_mass is not None
    return image_maps(probe.token_mass[:, 0, start:stop], grids)


def token_span(tokenizer: Any, response: str, characters: tuple[int, int]) -> tuple[int, int]:
    """The tokens that a stretch of characters of a response touches, for the ``span`` of :func:`response_maps`.

    Raises:
        UserError: the characters touch no token.
    """
    first, last = characters
    ends = [len(tokenizer.decode(prefix)) for prefix in _prefixes(prefix_ids(tokenizer, response))]
    starts = [0, *ends[:-1]]
    touched = [n for n, (begin, end) in enumerate(zip(starts, ends, strict=True)) if begin < last and end > first]
    if not touched:
        raise UserError(f"the characters {first} to {last} touch no token of the response.")
    return touched[0], touched[-1] + 1


def _prefixes(ids: list[int]) -> list[list[int]]:
    return [ids[: n + 1] for n in range(len(ids))]


def overlay(picture: Image.Image, heat: torch.Tensor, most: float | None = None) -> Image.Image:
    """A picture with its map laid over it, of the picture's size.

    Args:
        heat: (rows, columns), non-negative.
        most: the heat that is drawn strongest; the map's own maximum unless given (give it to compare pictures).
    """
    scale = max(float(heat.max()) if most is None else most, 1e-12)
    cells = Image.fromarray((heat / scale).clamp(0, 1).numpy().astype(np.float32))
    level = np.asarray(cells.resize(picture.size, Image.Resampling.BILINEAR)).clip(0, 1)
    at = np.linspace(0, 1, len(_STOPS))
    colour = np.stack([np.interp(level, at, _STOPS[:, channel]) for channel in range(4)], axis=-1)
    opacity = colour[..., 3:]
    base = np.asarray(picture.convert("RGB"), dtype=np.float64)
    return Image.fromarray((base * (1 - opacity) + colour[..., :3] * opacity).round().astype(np.uint8))


def draw_heatmap(pictures: Sequence[Image.Image], maps: Sequence[torch.Tensor]) -> Image.Image:
    """All pictures of a conversation with their maps, side by side, on one scale of colour."""
    most = max(float(heat.max()) for heat in maps)
    drawn = [overlay(picture, heat, most) for picture, heat in zip(pictures, maps, strict=True)]
    gap = 8
    sheet = Image.new(
        "RGB", (sum(image.width + gap for image in drawn) - gap, max(image.height for image in drawn)), "white"
    )
    left = 0
    for image in drawn:
        sheet.paste(image, (left, 0))
        left += image.width + gap
    return sheet
