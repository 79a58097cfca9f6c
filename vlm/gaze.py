"""Where a model looked in each sentence of its response: mass and lift by token, means and a heat map by sentence.

One forward over prompt and response, whoever wrote it and however it was forced; so it needs the model in this process.
The rows are those that *predict* a token: what the model looks at to write it.
"""

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from configs.errors import UserError
from vlm.response import MAX_READ, split_sentences

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from vlm.chat import Message
    from vlm.load import VLM

_TAG = re.compile(r"</?think>|</?answer>", re.IGNORECASE)
_CLAUSE = re.compile(r";(?=\s)|\s*(?=\\boxed)")


@dataclass
class Sentence:
    """A stretch of the response. ``maps``: one (rows, columns) map a picture that sums, over all, to ``mass``; see ``vlm.heatmap``."""

    start: int
    end: int
    text: str
    tokens: tuple[int, int]
    mass: float
    lift: float
    maps: "list[torch.Tensor]" = field(default_factory=list, repr=False)


@dataclass
class Gaze:
    """Mass in [0, 1] and lift (1 is uniform attention) of each response token, mean over layers; and the sentences.

    ``maps``: of the whole response. ``note``: why there are no maps, where there are none.
    """

    mass: list[float]
    lift: list[float]
    sentences: list[Sentence]
    maps: "list[torch.Tensor]" = field(default_factory=list, repr=False)
    note: str = ""


def sentence_spans(text: str, breaks: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Spans of sentences, of clauses that end in a semicolon, and of the box; thinking tags belong to none.

    No span goes across one of the characters ``breaks``.
    """
    blank = _TAG.sub(lambda match: "\n" * len(match[0]), text)
    spans = []
    for start, end in split_sentences(blank):
        cuts = {start, *(match.end() for match in _CLAUSE.finditer(blank, start, end)), end}
        cuts |= {place for place in breaks if start < place < end}
        for first, last in pairwise(sorted(cuts)):
            piece = blank[first:last]
            if piece.strip():
                begin = first + len(piece) - len(piece.lstrip())
                spans.append((begin, begin + len(piece.strip())))
    return spans


def watch(
    vlm: "VLM",
    messages: "Sequence[Message]",
    images: "Sequence[Image.Image]",
    response: str,
    layers: Literal["last", "all"] | Sequence[int] = "all",
    breaks: Sequence[int] = (),
) -> Gaze:
    """Mass, lift and heat maps of a response that is already written.

    Args:
        messages, images: the conversation up to the response, as for ``vlm.chat.encode``; at least one picture.
        response: assistant text from its first character.
        layers: as for ``vlm.attention.AttentionMass``.
        breaks: characters at which a sentence ends whatever it says, such as the end of what was given.

    Raises:
        UserError: there is no picture or no response, it is too long for the model, or the probe cannot read the model.
    """
    import torch

    from vlm.attention import AttentionMass
    from vlm.chat import encode, prefix_ids
    from vlm.heatmap import image_maps, token_grids

    if not images:
        raise UserError("There is nothing to look at: the conversation has no picture.")
    response = response[:MAX_READ]
    with vlm.lock:
        ids = prefix_ids(vlm.tokenizer, response)
        if not ids:
            raise UserError("There is no response yet: ask first.")
        batch = encode(vlm, [messages], [images], [ids])
        try:
            grids, note = token_grids(vlm.model, batch, [len(images)])[0], ""
        except UserError as error:
            grids, note = [], str(error)
        with torch.no_grad(), AttentionMass(vlm.model, layers, rows=len(ids) + 1, per_token=bool(grids)) as probe:
            vlm.model(**batch, logits_to_keep=1)
        ends = _token_ends(vlm.tokenizer, ids, response)
    mass, lift = (values[:, 0, :-1].float().mean(0).cpu() for values in (probe.mass, probe.lift))
    per_token = probe.token_mass[:, 0, :-1].float().mean(0).cpu() if probe.token_mass is not None else None

    def part(first: int, last: int) -> dict[str, Any]:
        maps = image_maps(per_token[first:last], grids) if per_token is not None else []
        return {"mass": float(mass[first:last].mean()), "lift": float(lift[first:last].mean()), "maps": maps}

    sentences = []
    for start, end in sentence_spans(response, breaks):
        first, last = ends(start)[0], ends(end - 1)[1]
        sentences.append(Sentence(start, end, response[start:end], (first, last), **part(first, last)))
    whole = part(0, len(ids))
    return Gaze(mass.tolist(), lift.tolist(), sentences, whole["maps"], note)


def _token_ends(tokenizer: Any, ids: list[int], text: str) -> Any:
    """A function of a character that gives the token it is in, as (first, one past it). Decodes as few prefixes as it can."""

    def length(n: int) -> int:
        return len(tokenizer.decode(ids[:n], skip_special_tokens=True, clean_up_tokenization_spaces=False))

    # Decoding may add or drop a character in all (a leading blank); a proportion keeps the places right to a character.
    total = max(1, length(len(ids)))
    scale = total / max(1, len(text)) if abs(total - len(text)) > 2 else 1.0

    def token_at(character: int) -> tuple[int, int]:
        place = min(total - 1, int(character * scale))
        token = bisect.bisect_right(range(len(ids) + 1), place, key=length) - 1
        token = min(max(token, 0), len(ids) - 1)
        return token, token + 1

    return token_at
