"""Turns with tool calls as text and token ids, for whoever holds what a model wrote as tokens: the cold start and the rollouts of GRPO.

A response with calls is the model's turns and, between them, what the chat template puts around the tools' results. Both are
built here from a short conversation of their own, so that no template can change, or drop the thinking of, a turn that was written before.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from configs.errors import UserError
from vlm.chat import Message, clean_turns, end_of_turn, render_prompt
from vlm.images import fit_image, uses_pixel_policy

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from vlm.load import VLM

_MARK = "what-it-wrote"
_NAME = "image_zoom_in_tool"


def call_text(vlm: "VLM", calls: Sequence[Mapping[str, Any]], content: str = "") -> str:
    """What a model writes for tool calls behind the text ``content`` of its turn, by its chat template.

    Args:
        calls: ``tool_calls`` of a message: ``{"type": "function", "function": {"name", "arguments"}}`` each.

    Raises:
        UserError: the chat template writes no tool calls.
    """
    if not calls:
        return ""
    turns = clean_turns(vlm, [*_dummy_user(vlm), _dummy_call(vlm, _MARK, calls)])
    text = render_prompt(vlm, turns, add_generation_prompt=False).partition(_MARK)[2]
    text = text.rpartition(_end_token(vlm))[0]
    if not all(str(_called_function(call).get("name")) in text for call in calls):
        raise UserError(
            f"The chat template of {vlm.name} writes no tool calls, so the model cannot be taught any: use a model whose chat "
            "template has tools, such as Qwen3-VL."
        )
    return text if content.strip() else text.lstrip()  # templates put a line between the text and the calls


def tool_turn_text(vlm: "VLM", messages: Sequence[Message]) -> str:
    """What stands between the end token of a turn with calls and the model's next turn: the results, in messages of role ``tool``.

    Raises:
        UserError: the chat template does not show such messages, or it changes the turn before them.
    """
    name = messages[0].get("name") or _NAME
    call = {"type": "function", "function": {"name": name, "arguments": {}}}
    before = clean_turns(vlm, [*_dummy_user(vlm), _dummy_call(vlm, "", [call])])
    start, end = render_prompt(vlm, before, add_generation_prompt=False), _end_token(vlm)
    start = start[: start.rindex(end) + len(end)]
    whole = render_prompt(vlm, [*before, *clean_turns(vlm, messages)])
    if not whole.startswith(start):
        raise UserError(
            f"The chat template of {vlm.name} changes a turn when a tool's result follows it, so a response with calls cannot be "
            "continued: use a chat template that leaves earlier turns as they are."
        )
    return whole[len(start) :]


def tool_turn_ids(vlm: "VLM", messages: Sequence[Message], images: "Sequence[Image.Image]") -> list[int]:
    """``tool_turn_text`` as token ids, with the image tokens of ``images``, one for each image part of the messages."""
    text = tool_turn_text(vlm, messages)
    if not images:
        return list(vlm.tokenizer(text, add_special_tokens=False)["input_ids"])
    batch = vlm.processor(text=[text], add_special_tokens=False, return_tensors="pt", **_image_options(vlm, images))
    return list(batch["input_ids"][0].tolist())


def replace_images(vlm: "VLM", batch: Any, images: "Sequence[Sequence[Image.Image]]", image_token: int | None) -> None:
    """Replace in place the images of an encoded batch by those of its prompts and of the tool turns in its responses.

    Args:
        batch: of ``vlm.chat.encode`` with the responses as prefixes.
        images: of each row all images in the order of their tokens.
        image_token: the token that stands for one image feature.
    """
    flat = [image for shown in images for image in shown]
    for key, value in image_features(vlm, flat).items():
        if key in batch:
            batch[key] = value.to(batch[key])
    kinds = next((key for key in ("mm_token_type_ids", "token_type_ids") if key in batch), None)
    if kinds is not None:
        batch[kinds] = (batch["input_ids"] == image_token).to(batch[kinds].dtype)


def image_features(vlm: "VLM", images: "Sequence[Image.Image]") -> "Mapping[str, torch.Tensor]":
    """What the image processor makes of images, each in the size in which ``vlm.chat.encode`` shows it."""
    return dict(vlm.processor.image_processor(return_tensors="pt", **_image_options(vlm, images)))


def _image_options(vlm: "VLM", images: "Sequence[Image.Image]") -> dict[str, Any]:
    fitted = [fit_image(image, vlm.processor) for image in images]
    # The images have their final size. A second resize by the processor could round differently.
    return {"images": fitted} | ({"do_resize": False} if uses_pixel_policy(vlm.processor) else {})


def _dummy_user(vlm: "VLM") -> list[Message]:
    return [{"role": "user", "content": _text_content(vlm, "x")}]


def _dummy_call(vlm: "VLM", text: str, calls: Sequence[Mapping[str, Any]]) -> Message:
    return {"role": "assistant", "content": _text_content(vlm, text), "tool_calls": list(calls)}


def _text_content(vlm: "VLM", text: str) -> Any:
    return [{"type": "text", "text": text}] if vlm.reads_images else text


def _end_token(vlm: "VLM") -> str:
    return str(vlm.tokenizer.decode([end_of_turn(vlm)]))


def _called_function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    return call.get("function") or call
