"""The prompt of a problem: one function for the checks and for training, and its form for vLLM."""

from collections.abc import Sequence
from typing import Any

from configs.errors import UserError
from vlm.chat import plain_text, question_messages
from vlm.load import VLM
from vlm.problem import Problem


def problem_messages(problem: Problem, style: str, reader: VLM) -> list[dict[str, Any]]:
    """The prompt of a problem. Control tokens in its text are already neutralised, because TRL renders it once more."""
    turns = question_messages(problem.question, len(problem.images), style=style, choices=problem.choices)
    for turn in turns:
        turn["content"] = [
            {**part, "text": plain_text(part["text"], reader.tokenizer)} if part["type"] == "text" else part
            for part in turn["content"]
        ]
    return turns


def image_token(config: Any) -> int | None:
    """The token that stands for one image feature in a prompt; None if the config names none."""
    names = ("image_token_id", "image_token_index")
    return next((token for name in names if isinstance(token := getattr(config, name, None), int)), None)


def one_token_per_image(
    prompt_ids: Sequence[list[int]], images: Sequence[Sequence[Any] | None], token: int | None
) -> list[list[int]]:
    """The prompts with each run of image tokens shortened to one token per image, which vLLM expands again.

    Raises:
        UserError: the numbers of runs and images differ, because this model puts no token between two images.
    """
    short = []
    for ids, pictures in zip(prompt_ids, images, strict=True):
        kept = [one for at, one in enumerate(ids) if one != token or at == 0 or ids[at - 1] != token]
        runs, wanted = sum(one == token for one in kept), len(pictures or ())
        if runs != wanted:
            raise UserError(
                f"A prompt has {runs} runs of image tokens for {wanted} images, so vLLM could not place them: set use_vllm: false "
                "for this model."
            )
        short.append(kept)
    return short
