"""From a question and images to the tensors a model reads. User text stays text: none becomes a control token."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from configs.errors import UserError
from vlm.images import fit_image, open_image, uses_pixel_policy
from vlm.labels import option_label
from vlm.placement import split_at_images
from vlm.response import open_tag_at_end, split_at_tags, tag_tokens

if TYPE_CHECKING:
    from PIL import Image
    from transformers import BatchFeature

    from vlm.load import VLM

INSTRUCTIONS = {
    "think": "Think about the picture, then answer in \\boxed{}.",
    "direct": "Answer at once in \\boxed{}.",
    "describe": "Describe the picture, then answer in \\boxed{}.",
    "none": "",
}
MAX_QUESTION = 20_000
BREAK = "\u200b"  # zero-width space: invisible to a reader, and no control token contains one

Message = dict[str, Any]
Prefix = str | Sequence[int]


class LongPromptError(UserError):
    """A prompt that is longer than the model's positions."""


def question_messages(
    question: str, n_images: int, style: str = "think", choices: Sequence[str] | None = None, note: str | None = None
) -> list[Message]:
    """One user turn: the image parts, then one text part of question, note, ``(A) ...`` choices, instruction.

    An image that the question or a choice names (``<image 2>``) stands there, between two text parts; the others come first.

    Args:
        n_images: the images are those of the parts in their order (see ``vlm.placement``).
        style: a key of ``INSTRUCTIONS``.
        note: a remark about the image that comes with the question (and need not be true).

    Raises:
        UserError: the question is empty or longer than ``MAX_QUESTION`` characters, or the style is unknown.
    """
    # Half a surrogate pair, as in a mistyped shell argument, is no text to a tokenizer.
    question = question.encode("utf-8", "replace").decode("utf-8").strip()
    if not question:
        raise UserError("The question is empty: ask something about the image.")
    if len(question) > MAX_QUESTION:
        raise UserError(f"The question has {len(question):,} characters: shorten it to at most {MAX_QUESTION:,}.")
    if style not in INSTRUCTIONS:
        raise UserError(f"The style '{style}' is not known: use one of {', '.join(INSTRUCTIONS)}.")
    placed: set[int] = set()
    pieces = list(split_at_images(question, n_images, placed))
    if note:
        pieces.append(f" {note.strip()}")  # it is about the question: an option that it repeats stands in the list
    for index, choice in enumerate(choices or ()):
        pieces += [f"\n({option_label(index)}) ", *split_at_images(choice, n_images, placed)]
    pieces.append(("\n" if choices else " ") + INSTRUCTIONS[style])
    return [{"role": "user", "content": _turn_parts(pieces, n_images - len(placed))}]


def _turn_parts(pieces: Sequence[str | None], n_before: int) -> list[dict[str, str]]:
    """The parts of a message: ``n_before`` images, then the pieces, of which None is an image. Text is stripped at both ends."""
    parts = [{"type": "image"}] * n_before
    for is_image, run in groupby(pieces, lambda piece: piece is None):
        if is_image:
            parts += [{"type": "image"} for _ in run]
            continue
        text = "".join(piece or "" for piece in run)
        if all(part["type"] == "image" for part in parts):
            text = text.lstrip()
        if text.strip():  # only spaces stand between two images
            parts.append({"type": "text", "text": text})
    if parts and parts[-1]["type"] == "text":
        parts[-1]["text"] = parts[-1]["text"].rstrip()
    return parts


def plain_text(text: str, tokenizer: Any) -> str:
    """The text with a zero-width space in every control token it spells out, so that it is encoded as ordinary text."""
    return _break_tokens(text, tokenizer, markup=True)


def prefix_ids(tokenizer: Any, prefix: Prefix) -> list[int]:
    """Token ids of assistant text already written. Its ``<think>`` is a token, but nothing in it ends the turn."""
    if not isinstance(prefix, str):
        return list(prefix)
    text = _break_tokens(prefix, tokenizer, markup=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def control_token(tokenizer: Any, completion: str) -> str | None:
    """The first control token that a completion spells outside of its thinking and answer tags, or None."""
    pattern = _control_pattern(tokenizer, len(tokenizer), markup=False)
    found = (pattern.search(piece) for piece in split_at_tags(completion)[::2]) if pattern else ()
    return next((match[0] for match in found if match), None)


def encode(
    vlm: "VLM",
    conversations: Sequence[Sequence[Message]],
    images: "Sequence[Sequence[Image.Image]]",
    prefixes: Sequence[Prefix] | None = None,
    tools: Sequence[dict[str, Any]] | Sequence[Sequence[dict[str, Any]]] = (),
) -> "BatchFeature":
    """Tensors for conversations that end where the assistant is to speak.

    Args:
        conversations: B lists of messages; content is a string or a list of ``{"type": "image"}`` and
            ``{"type": "text", "text": ...}`` parts.
        images: B lists of images, one for each image part in order. Only images pass: a string would be opened or
            downloaded by the processor.
        prefixes: B assistant texts (or their token ids) already written, which generation continues.
        tools: JSON schemas of tools that the model is offered; B lists of them where the conversations differ.

    Returns:
        ``input_ids`` and ``attention_mask`` (B, L), left padded, and what else the model reads, on its device.

    Raises:
        LongPromptError: a prompt longer than the model's positions.
        UserError: images and image parts do not match, or a model without chat template.
    """
    import torch

    for conversation, shown in zip(conversations, images, strict=True):
        _check_images(conversation, shown, vlm)
    tokenizer = vlm.tokenizer
    cleaned = [clean_turns(vlm, turns) for turns in conversations]
    offered: Any = [tools] * len(cleaned) if not tools or isinstance(tools[0], Mapping) else tools
    texts = [render_prompt(vlm, turns, schemas) for turns, schemas in zip(cleaned, offered, strict=True)]
    bos = getattr(tokenizer, "bos_token", None)
    # A template that begins with the BOS token has written it already; a second one is unlike anything in training.
    options: dict[str, Any] = {
        "padding": True,
        "padding_side": "left",
        "return_tensors": "pt",
        "add_special_tokens": not (bos and texts[0].startswith(bos)),
    }
    if not vlm.reads_images:
        batch = tokenizer(texts, **options)
    else:
        fitted = [[fit_image(open_image(image), vlm.processor) for image in shown] for shown in images]
        if any(fitted):
            options["images"] = fitted
            # The images have their final size. A second resize by the processor could round differently.
            if uses_pixel_policy(vlm.processor):
                options["do_resize"] = False
        batch = vlm.processor(text=texts, **options)
    if prefixes is not None and any(len(prefix) for prefix in prefixes):
        _append(batch, [prefix_ids(tokenizer, prefix) for prefix in prefixes], tokenizer.pad_token_id)
    if (length := batch["input_ids"].shape[1]) >= position_limit(vlm):
        raise LongPromptError(
            f"The prompt has {length:,} tokens and {vlm.name} reads at most {position_limit(vlm):,}: shorten the text or "
            "use smaller images."
        )
    batch = batch.to(vlm.device)
    for key, value in batch.items():  # a bfloat16 model takes bfloat16 pixels
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            batch[key] = value.to(vlm.model.dtype)
    return batch


def render_prompt(
    vlm: "VLM", turns: Sequence[Message], tools: Sequence[dict[str, Any]] = (), add_generation_prompt: bool = True
) -> str:
    """The text of a conversation by the model's chat template; by default it ends where the assistant is to speak.

    Args:
        tools: JSON schemas of tools that the model is offered; some templates leave them out.

    Raises:
        UserError: the model has no chat template, or it failed.
    """
    options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt} | (
        {"tools": list(tools)} if tools else {}
    )
    try:
        return str(vlm.processor.apply_chat_template(turns, tokenize=False, **options))
    except Exception as error:  # a template is a program of the model's author; a missing one is a ValueError
        if not any(getattr(one, "chat_template", None) for one in (vlm.processor, vlm.tokenizer)):
            raise UserError(
                f"{vlm.name} has no chat template, so no question can be put to it: copy chat_template.jinja from the instruct "
                "model of its family into its folder, or give that model."
            ) from None
        raise UserError(
            f"The chat template of {vlm.name} failed ({error}): check chat_template.jinja in its folder."
        ) from error


def opened_tag(vlm: "VLM", turns: Sequence[Message]) -> str:
    """The thinking tag that the chat template itself opens for the assistant, with the blanks behind it; else empty.

    Templates of models that think by default do so: the response then begins inside the span.
    """
    return open_tag_at_end(render_prompt(vlm, clean_turns(vlm, turns)))


def clean_turns(vlm: "VLM", turns: Sequence[Message]) -> list[Message]:
    """The messages without control tokens in their text: those of the chat template alone remain."""
    return [_clean(message, vlm.tokenizer, vlm.reads_images) for message in turns]


def end_of_turn(vlm: "VLM") -> int:
    """The token that the chat template puts after an assistant's turn and at which generation stops.

    The tokenizer's end token may be another one: Gemma's ends the document, not the turn.

    Raises:
        UserError: the template puts no stop token there, so a trained model would never stop.
    """
    mark = "reflection"
    turns = [{"role": "user", "content": [{"type": "text", "text": "x"}]}]
    turns += [{"role": "assistant", "content": [{"type": "text", "text": mark}]}]
    text = vlm.processor.apply_chat_template(turns, tokenize=False)
    after = vlm.tokenizer(text.rpartition(mark)[2], add_special_tokens=False)["input_ids"]
    stops = vlm.model.generation_config.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops or ())
    stops.add(vlm.tokenizer.eos_token_id)
    found = next((token for token in after if token in stops), None)
    if found is None:
        raise UserError(
            f"The chat template of {vlm.name} ends an assistant's turn without any of the model's end tokens, so a trained "
            "model would not stop: add the end-of-turn token to eos_token_id in generation_config.json."
        )
    return int(found)


def check_template(vlm: "VLM") -> None:
    """Render a short question; the errors are those of ``render_prompt``."""
    render_prompt(vlm, question_messages("What is this?", int(vlm.reads_images)))


def position_limit(vlm: "VLM") -> int:
    """Number of tokens, prompt and response together, that the model has positions for."""
    limit = getattr(vlm.model.config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) else 2**31


@lru_cache(maxsize=16)
def _control_pattern(tokenizer: Any, _size: int, markup: bool) -> re.Pattern[str] | None:
    """Matches the special tokens; with ``markup`` also other added tokens that look like <tags> or are thinking tags.

    Added tokens that are plain words (or ``\\boxed{``) carry no control and stay whole. ``_size`` renews the cache
    entry of a tokenizer to which tokens were added.
    """
    added = {
        token.content: token.special for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1
    }
    tokens = {token for token, special in added.items() if special}
    if markup:
        tokens |= tag_tokens(added.keys()) | {
            token for token in added if re.fullmatch(r"[<\[].*[>\]]", token, re.DOTALL)
        }
    if not tokens:
        return None
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))


def _break_tokens(text: str, tokenizer: Any, markup: bool) -> str:
    """The text without control tokens; without ``markup`` thinking tags and their like stay, also where they are special."""
    pattern = _control_pattern(tokenizer, len(tokenizer), markup)
    if pattern is None:
        return text
    pieces = [text] if markup else split_at_tags(text)
    for place in range(0, len(pieces), 2):
        while pattern.search(pieces[place]):  # again, as long as broken tokens uncover overlapping ones
            pieces[place] = pattern.sub(lambda match: match[0][0] + BREAK + match[0][1:], pieces[place])
    return "".join(pieces)


def _clean(message: Message, tokenizer: Any, parts: bool) -> Message:
    """The message as plain text. What the model wrote keeps its thinking tags, and a system prompt may name them."""
    markup = message["role"] not in ("assistant", "system")
    content = message.get("content") or ""  # a turn of tool calls alone may have none
    if message.get("tool_calls"):  # the template writes the tags around them
        message = {**message, "tool_calls": _clean_values(message["tool_calls"], tokenizer)}
    if isinstance(content, str):
        return {**message, "content": _break_tokens(content, tokenizer, markup)}
    if not parts:  # templates of text models take strings
        text = "".join(part.get("text", "") for part in content)
        return {**message, "content": _break_tokens(text, tokenizer, markup)}
    return {
        **message,
        "content": [
            {"type": "text", "text": _break_tokens(part["text"], tokenizer, markup)}
            if part["type"] == "text"
            else {"type": "image"}
            for part in content
        ],
    }


def _clean_values(value: Any, tokenizer: Any) -> Any:
    """A value of JSON with every text in it as plain text."""
    if isinstance(value, str):
        return _break_tokens(value, tokenizer, markup=True)
    if isinstance(value, Mapping):
        return {_clean_values(key, tokenizer): _clean_values(inner, tokenizer) for key, inner in value.items()}
    return [_clean_values(inner, tokenizer) for inner in value] if isinstance(value, list | tuple) else value


def _check_images(conversation: Sequence[Message], images: Sequence[Any], vlm: "VLM") -> None:
    from PIL import Image

    contents = [turn.get("content") or "" for turn in conversation]
    kinds = [part["type"] for content in contents if not isinstance(content, str) for part in content]
    if other := set(kinds) - {"text", "image", "image_url"}:
        raise UserError(f"Messages hold text and images, not {sorted(other)}.")
    slots = sum(kind != "text" for kind in kinds)
    if slots != len(images):
        raise UserError(
            f"The conversation has {slots} image parts but {len(images)} images were given: make them equal."
        )
    if slots and not vlm.reads_images:
        raise UserError(f"{vlm.name} is a text-only model and cannot be given images: use a vision-language model.")
    for image in images:
        if not isinstance(image, Image.Image):
            raise UserError(f"An image was given as {type(image).__name__}: read it with vlm.images.open_image first.")


def _append(batch: Any, additions: list[list[int]], pad: int) -> None:
    """Append token ids to each row of a left-padded batch, in place, and pad again."""
    import torch

    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    width = max(int(row.sum()) + len(added) for row, added in zip(mask, additions, strict=True))
    for key, value in list(batch.items()):
        if not isinstance(value, torch.Tensor) or value.shape != ids.shape:
            continue
        fill = pad if key == "input_ids" else 0
        grown = torch.full((len(additions), width), fill, dtype=value.dtype)
        for row, added in enumerate(additions):
            kept = value[row][mask[row]]
            tail = (
                torch.tensor(added) if key == "input_ids" else torch.full((len(added),), int(key == "attention_mask"))
            )
            grown[row, width - len(kept) - len(added) :] = torch.cat([kept, tail.to(value.dtype)])
        batch[key] = grown
