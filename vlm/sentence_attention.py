"""Where a model looked in each sentence of its response: mass and lift by token, means and a heat map by sentence.

One forward over prompt and response (``vlm.scoring``), whoever wrote it; so it needs the model in this process.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from configs.errors import UserError
from vlm.response import MAX_READ, split_sentences, without_tags
from vlm.thinking import Alignment

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from vlm.chat import Message
    from vlm.load import VLM

_CLAUSE = re.compile(r";(?=\s)|\s*(?=\\boxed)")


@dataclass
class Sentence:
    """A span of the response: characters ``start`` to ``end``, and its ``tokens``.

    ``maps``: one (rows, columns) map an image; all their cells sum to ``mass``; see ``vlm.heatmap``.
    """

    start: int
    end: int
    text: str
    tokens: tuple[int, int]
    mass: float
    lift: float
    maps: "list[torch.Tensor]" = field(default_factory=list, repr=False)


@dataclass
class ResponseAttention:
    """Mass in [0, 1] and lift (1 is uniform attention) of each response token, mean over layers; and the sentences.

    ``maps``: of the whole response. ``note``: why there are no maps, where there are none. ``coverage``: the layers that the
    means are over; see ``vlm.attention_traits.AttentionTraits.coverage``.
    """

    mass: list[float]
    lift: list[float]
    sentences: list[Sentence]
    maps: "list[torch.Tensor]" = field(default_factory=list, repr=False)
    note: str = ""
    coverage: dict[str, Any] = field(default_factory=dict)


def sentence_spans(text: str, breaks: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Spans of sentences, of clauses that end in a semicolon, and of the box; thinking tags belong to none.

    No span goes across one of the characters ``breaks``.
    """
    blank = without_tags(text)
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


def attention_by_sentence(
    vlm: "VLM",
    messages: "Sequence[Message]",
    images: "Sequence[Image.Image]",
    response: str,
    layers: Literal["last", "all"] | Sequence[int] = "all",
    breaks: Sequence[int] = (),
) -> ResponseAttention:
    """Mass, lift and heat maps of a response that is already written.

    Args:
        messages, images: the conversation up to the response, as for ``vlm.chat.encode``; at least one image.
        response: assistant text from its first character.
        layers: as for ``vlm.attention.AttentionMass``.
        breaks: characters at which a sentence ends whatever it says, such as the end of a given prefix.

    Raises:
        UserError: there is no image or no response, it is too long for the model, or the probe cannot read the model.
    """
    from vlm.chat import prefix_ids
    from vlm.scoring import score_responses

    if not images:
        raise UserError("There is nothing to look at: the conversation has no image.")
    response = response[:MAX_READ]
    # A tokenizer keeps settings of a call, so no other thread may use it meanwhile.
    with vlm.lock:
        ids = prefix_ids(vlm.tokenizer, response)
        if not ids:
            raise UserError("There is no response yet: ask first.")
        scores = score_responses(vlm, [messages], [images], [ids], attention=layers, maps=True, log_p=False)
        places = sentence_tokens(vlm.tokenizer, ids, response, breaks)
    mass, lift = scores.mass[0], scores.lift[0]
    sentences = []
    for start, end, first, last in places:
        means = float(mass[first:last].mean()), float(lift[first:last].mean())
        sentences.append(Sentence(start, end, response[start:end], (first, last), *means, scores.maps(0, first, last)))
    return ResponseAttention(mass.tolist(), lift.tolist(), sentences, scores.maps(0), scores.no_maps, scores.coverage)


def sentence_tokens(
    tokenizer: Any, ids: list[int], text: str, breaks: Sequence[int] = ()
) -> list[tuple[int, int, int, int]]:
    """(start, end, first token, one past the last token) of each sentence of a response whose tokens are ``ids``."""
    tokens_at = _token_ends(tokenizer, ids, text)
    return [(start, end, tokens_at(start)[0], tokens_at(end - 1)[1]) for start, end in sentence_spans(text, breaks)]


def _token_ends(tokenizer: Any, ids: list[int], text: str) -> Any:
    """A function of a character that gives the tokens it is in, as (first, one past the last)."""
    alignment = Alignment(tokenizer, ids)
    # Decoding may add or drop a character in all (a leading blank); a proportion keeps the positions correct to one character.
    total = max(1, len(alignment.text))
    scale = total / max(1, len(text)) if abs(total - len(text)) > 2 else 1.0

    def token_at(character: int) -> tuple[int, int]:
        first, last = alignment.tokens_of(min(total - 1, int(character * scale)))
        return min(first, len(ids) - 1), min(last, len(ids))

    return token_at
