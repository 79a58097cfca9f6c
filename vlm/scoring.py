"""Teacher-forced forwards: scores of a response that is already written, with any images.

    seen = score_responses(vlm, conversations, images, responses, attention="all", distributions=True)
    blind = score_responses(vlm, text_conversations, [[]] * n, responses, distributions=True)
    hellinger(seen.root[0], blind.root[0])

Nothing is generated. All rows are those that *predict* the response's tokens: what the model reads to write them.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from configs.errors import UserError
from vlm.attention import AttentionMass
from vlm.chat import Message, Prefix, encode, prefix_ids
from vlm.heatmap import Grid, image_maps, token_grids
from vlm.images import GREY
from vlm.knockout import ImageKnockout
from vlm.load import VLM, evaluation_mode

Layers = Literal["last", "all"] | Sequence[int]


@dataclass
class Scores:
    """Of each response of a batch, T tokens long; on the CPU but for ``root``. A list is empty where it was not asked for.

    Attributes:
        log_p: (T,) log probability of each token, in nats.
        root: (T, vocabulary) square roots of the probabilities of the next token.
        mass, lift: (T,) attention to the images, mean over heads and layers; see ``vlm.attention``.
        token_mass: (T, image tokens) the mass by image token.
        grids: how the image tokens of each image lie; see ``vlm.heatmap.token_grids``.
        no_maps: why there are no maps, where the family has no single grid of image tokens.
        coverage: which of the model's layers the attention covers; see ``AttentionTraits.coverage``.
        knockout: (T,) the image's contribution by knockout, mean over the layers without an attention map; see
            ``vlm.knockout``. Empty also for a model without such layers.
    """

    log_p: list[Tensor] = field(default_factory=list)
    root: list[Tensor] = field(default_factory=list)
    mass: list[Tensor] = field(default_factory=list)
    lift: list[Tensor] = field(default_factory=list)
    token_mass: list[Tensor] = field(default_factory=list)
    grids: list[list[Grid]] = field(default_factory=list)
    no_maps: str = ""
    coverage: dict[str, Any] = field(default_factory=dict)
    knockout: list[Tensor] = field(default_factory=list)

    def maps(self, row: int, first: int = 0, last: int | None = None) -> list[Tensor]:
        """One map an image of the tokens ``first`` up to ``last`` of a response (see ``image_maps``); [] if there are none."""
        return image_maps(self.token_mass[row][first:last], self.grids[row]) if self.grids else []


def score_responses(
    vlm: VLM,
    conversations: Sequence[Sequence[Message]],
    images: Sequence[Sequence[Image.Image]],
    responses: Sequence[Prefix],
    *,
    model: Any = None,
    device: torch.device | None = None,
    attention: Layers | None = None,
    maps: bool = False,
    log_p: bool = True,
    distributions: bool = False,
    knockout: bool = False,
    in_sequence: bool = False,
) -> Scores:
    """Read B responses after their prompts, in one forward.

    Args:
        conversations, images: up to the responses, as for ``vlm.chat.encode``.
        responses: texts, or their token ids.
        model, device: the model that reads, where it is not ``vlm.model`` (in training ``vlm`` only encodes).
        attention: layers to record the attention mass of; None for none. With ``maps`` also by image token.
        log_p, distributions: what to keep of the probabilities.
        knockout: whether to record the image's contribution by knockout.
        in_sequence: number all positions in sequence, also where the model numbers image tokens by row and column (mRoPE);
            only for models with ``numbers_images``.

    Raises:
        UserError: see ``vlm.chat.encode`` and ``vlm.attention.AttentionMass``.
    """
    model = vlm.model if model is None else model
    with vlm.lock:  # a probe belongs to the model, not to a call
        ids = [prefix_ids(vlm.tokenizer, response) for response in responses]
        batch = encode(vlm, conversations, images, ids).to(device or vlm.device)
        if in_sequence:
            positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            batch["position_ids"] = positions.expand(3, *positions.shape)  # time, row, column
        grids, why = [], ""
        if maps:
            try:
                grids = token_grids(model, batch, [len(shown) for shown in images])
            except UserError as error:  # tiles have no single grid; mass and lift can be had all the same
                why = str(error)
        lengths = [len(tokens) for tokens in ids]
        keep = {"log_p": log_p, "distributions": distributions, "per_token": bool(grids), "knockout": knockout}
        scores = read_batch(model, batch, lengths, attention=attention, **keep)
    scores.grids, scores.no_maps = grids, why
    return scores


def numbers_images(model: Any) -> bool:
    """Whether a model has positions of its own for image tokens (mRoPE: time, row and column)."""
    return hasattr(getattr(model, "model", None), "get_rope_index")


def read_batch(
    model: Any,
    batch: Mapping[str, Any],
    lengths: Sequence[int],
    *,
    attention: Layers | None = None,
    per_token: bool = False,
    log_p: bool = True,
    distributions: bool = False,
    knockout: bool = False,
) -> Scores:
    """One forward over a left-padded batch whose rows end in responses of ``lengths`` tokens; options as in ``score_responses``.

    Dropout is off: with it, two forwards over the same text and image differ by several nats.
    """
    # Rows are left padded and end together, so the last ``longest`` positions hold every response.
    longest = max([1, *lengths])
    scores = Scores()
    probe = AttentionMass(model, attention, rows=longest + 1, per_token=per_token) if attention is not None else None
    recorder = None
    if knockout:
        recorder = ImageKnockout(model, batch["input_ids"], batch.get("attention_mask"), longest + 1)
    with torch.no_grad(), evaluation_mode(model), probe or nullcontext(), recorder or nullcontext():
        # A model whose layers share keys computes only the rows that logits are kept of.
        all_rows = log_p or distributions or (probe is not None and probe.traits.shares_keys)
        kept = longest + 1 if all_rows else 1
        logits = model(**batch, logits_to_keep=kept, use_cache=False).logits
    # Row by row: a float32 softmax of the whole batch over the vocabulary would need a second copy of all logits.
    for row, length in enumerate(lengths) if log_p or distributions else ():
        shares = logits[row, longest - length : longest].float().log_softmax(-1)  # row t predicts token t + 1
        if log_p:
            wanted = batch["input_ids"][row, batch["input_ids"].shape[1] - length :]
            scores.log_p.append(shares.gather(-1, wanted[:, None])[:, 0].cpu())
        if distributions:
            scores.root.append((shares / 2).exp())

    def cut(values: Tensor) -> list[Tensor]:
        return [values[:, row, longest - length : longest].mean(0).cpu() for row, length in enumerate(lengths)]

    if probe is not None:
        scores.coverage = probe.coverage
        scores.mass, scores.lift = cut(probe.mass), cut(probe.lift)
        scores.token_mass = cut(probe.token_mass) if probe.token_mass is not None else []
    if recorder is not None and recorder.contribution is not None:
        scores.knockout = cut(recorder.contribution[None])
    return scores


def hellinger(p_root: Tensor, q_root: Tensor) -> Tensor:
    """Hellinger distance of distributions given as square roots: ||sqrt p - sqrt q||_2 / sqrt 2 over the last axis, in
    [0, 1]; 0 for equal ones, 1 for ones that share nothing.

    With P from a forward with the image and Q without, on one and the same text, it is the visual dependency measure (VDM)
    of Reflection-V, arXiv 2509.12132 (there at every 5th of the first 500 tokens; here at every token).
    """
    return ((p_root - q_root).square().sum(-1) / 2).sqrt().clamp(0, 1)


def mask_patches(
    images: Sequence[Image.Image], maps: Sequence[Tensor], share: float, *, most: bool
) -> list[Image.Image]:
    """The images with the ``share`` of their patches that has the most (or least) attention painted mid-grey.

    Args:
        maps: attention of each image's tokens, (rows, columns); the cells divide the image evenly. Patches are
            ranked over all images together, ties in reading order.
    """
    attention = torch.cat([one.flatten() for one in maps])
    count = max(1, round(share * len(attention)))
    chosen = torch.zeros(len(attention), dtype=torch.bool)
    chosen[attention.argsort(descending=most, stable=True)[:count]] = True
    masked: list[Image.Image] = []
    for image, part, cells in zip(images, chosen.split([one.numel() for one in maps]), maps, strict=True):
        pixels = np.array(image)
        for row, column in part.view(cells.shape).nonzero().tolist():
            rows = slice(row * image.height // cells.shape[0], (row + 1) * image.height // cells.shape[0])
            columns = slice(column * image.width // cells.shape[1], (column + 1) * image.width // cells.shape[1])
            pixels[rows, columns] = GREY
        masked.append(Image.fromarray(pixels))
    return masked
