"""Ask a model about images, from Python: ``answer_question`` and what it stands on."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Union

from configs.errors import ConfigError
from vlm.chat import question_messages
from vlm.images import Source, open_image
from vlm.model_card import what_it_reads
from vlm.placement import in_place
from vlm.reasoning import (
    BudgetedResponse,
    Effort,
    count_votes,
    find_effort,
    think_batch,
    think_served,
    think_stream,
    vote_seeds,
    vote_temperature,
    with_style,
)
from vlm.response import count_looks, parse_response

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from vlm.backends import Backend
    from vlm.load import VLM
    from vlm.sentence_attention import ResponseAttention

Model = Union["VLM", "Backend"]


def answer_question(
    model: Model,
    images: Sequence[Source],
    question: str,
    *,
    effort: str = "medium",
    style: str = "think",
    votes: int = 1,
    stream: Callable[[str], Any] | None = None,
    choices: Sequence[str] | None = None,
    temperature: float | None = None,
    seed: int = 0,
    look: bool = False,
) -> dict[str, Any]:
    """Ask one question about images.

    Args:
        model: from ``vlm.load.load_vlm``, or a backend.
        images: paths, file contents or PIL images.
        effort: a key of ``vlm.reasoning.EFFORTS``.
        style: a key of ``vlm.chat.INSTRUCTIONS``; ``think`` takes the one that the effort brings.
        votes: responses to be sampled; the most common answer counts.
        stream: called with every piece of text as it is written, if there is one vote only.
        temperature: 0 takes the likeliest token; by default 0 for one vote, ``VOTE_TEMPERATURE`` for several.
        look: also measure where the model looked (with ``VLM`` only; takes one forward more).

    Returns:
        ``answer`` (str or None), ``trace`` (the reasoning), ``text`` (all that was written), ``tokens`` (of all votes),
        ``seconds``, ``looks`` (how many times the trace goes back to the image), ``finished`` (False: the budget ran
        out), ``repeats`` (it repeated itself, and was stopped if it could be: only a boxed answer counts), ``relooks`` and
        ``closed`` (see ``vlm.reasoning.BudgetedResponse``), ``votes`` (``k``, ``agreement``, ``counts``), ``reads`` (see
        ``vlm.model_card.what_it_reads``), and with ``look`` ``sentences``: ``text, start, end, mass, lift`` of each,
        ``attention_layers``: which layers they cover (``vlm.attention_traits.AttentionTraits.coverage``), and
        ``attention``, a ``vlm.sentence_attention.ResponseAttention``.

    Raises:
        UserError: a bad image, question, effort, style or number of votes; a server without a usable reply.
    """
    how, seeds = with_style(find_effort(effort), style), vote_seeds(seed, votes)
    images, question, choices = in_place(images, question, choices)
    opened = [open_image(image) for image in images]
    messages = question_messages(question, len(opened), how.style, choices)
    temperature = vote_temperature(votes, temperature)
    started = time.perf_counter()
    # Several votes run as one batch, which does not stream.
    if is_local(model) and votes == 1:
        pieces = think_stream(model, messages, opened, how, temperature=temperature, seed=seed, stop_repeats=True)
        try:
            for piece in pieces:
                if stream is not None:
                    stream(piece)
        finally:
            pieces.close()  # after Ctrl-C the model must stop writing
        assert pieces.result is not None  # the stream ended by itself
        responses = [pieces.result]
    else:
        responses = think_all(model, [messages] * votes, [opened] * votes, how, temperature, seeds)
        if stream is not None and votes == 1:  # a server, which answers in one piece
            stream(responses[0].text)
    seconds = round(time.perf_counter() - started, 3)
    result = summarize(responses) | {"seconds": seconds, "reads": what_it_reads(model.name)}
    if look:
        if not is_local(model):
            raise ConfigError("A server does not show where its model looks: load the model from its folder for that.")
        from vlm.sentence_attention import attention_by_sentence

        attention = attention_by_sentence(model, messages, opened, result["text"])
        result |= {
            "sentences": sentence_rows(attention),
            "attention_layers": attention.coverage,
            "attention": attention,
        }
    return result


def think_all(
    model: Model,
    conversations: Sequence[list[Any]],
    images: Sequence[list[Any]],
    effort: Effort,
    temperature: float,
    seeds: Sequence[int],
) -> list[BudgetedResponse]:
    """One response to each conversation: in batches by a local model, side by side by a server."""
    if is_local(model):
        return think_batch(
            model, conversations, images, effort, temperature=temperature, seeds=seeds, stop_repeats=True
        )

    async def ask_server() -> list[BudgetedResponse]:
        asked = [
            think_served(model, messages, shown, effort, temperature=temperature, seed=seed)
            for messages, shown, seed in zip(conversations, images, seeds, strict=True)
        ]
        try:
            return list(await asyncio.gather(*asked))
        finally:
            await model.aclose()

    return asyncio.run(ask_server())


def is_local(model: Model) -> "TypeIs[VLM]":
    """Whether the model runs in this process, where it can be stopped, continued and watched."""
    return not hasattr(model, "complete")


def summarize(responses: Sequence[BudgetedResponse]) -> dict[str, Any]:
    """What K responses to one question come to; see ``answer_question``."""
    # The last line of a loop is no answer.
    parsed = [parse_response(one.text, finished=not one.repeats) for one in responses]
    votes = count_votes([response.answer for response in parsed])
    response, chosen = parsed[votes.winner], responses[votes.winner]
    return {
        "answer": response.answer,
        "trace": response.reasoning,
        "text": chosen.text,
        "tokens": sum(one.tokens for one in responses),
        "looks": count_looks(response.reasoning or chosen.text),
        "finished": chosen.finished,
        "repeats": chosen.repeats,
        "relooks": chosen.relooks,
        "closed": chosen.closed,
        "votes": {"k": len(responses), "agreement": round(votes.agreement, 4), "counts": votes.counts},
    }


def sentence_rows(attention: "ResponseAttention") -> list[dict[str, Any]]:
    """The sentences as they stand in JSON."""
    return [
        {
            "text": sentence.text,
            "start": sentence.start,
            "end": sentence.end,
            "mass": round(sentence.mass, 5),
            "lift": round(sentence.lift, 4),
        }
        for sentence in attention.sentences
    ]


def load_for_asking(name: str, api_key_env: str | None = None) -> Model:
    """``tiny``, a folder or a hub name as a ``VLM``; ``openai:NAME@URL`` as a backend. Errors as in ``vlm.backends``."""
    if name.startswith("openai:"):
        from vlm.backends import make_backend

        return make_backend(name, api_key_env=api_key_env)
    from vlm.load import load_vlm

    return load_vlm(name, dtype="auto")  # one question at a time needs no more than the weights were stored with
