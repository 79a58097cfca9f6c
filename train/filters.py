"""The filter of GRPO's problems: those that cannot be trained on are dropped before training, counted by reason, with examples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from configs.errors import ImageError, UserError
from reward.grade import Gold
from reward.usable import REMEDIES as PROBLEM_REMEDIES
from reward.usable import DroppedProblems, Sizes, gradable_golds, image_sizes, problem_faults
from train.data import in_threads
from train.prompts import problem_messages
from vlm.chat import encode, position_limit, render_prompt
from vlm.images import image_tokens, open_image
from vlm.load import VLM
from vlm.problem import Problem

REMEDIES = {
    **PROBLEM_REMEDIES,
    "malformed": "fix the fields that are named (docs/your-own-data.md shows a row)",
    "duplicate_id": "give every problem its own id",
    "unusable_picture": "crop or scale these images",
    "over_long": "raise max_prompt_tokens, lower max_completion_length or max_pixels, or shorten the questions",
    "control_token": "nothing to do: the token is read as plain text; remove it if it is a mistake",
    "image_in_text": "name images in 'images', not in the question; the mark is read as plain text",
}
KEPT_ALL_THE_SAME = ("control_token", "image_in_text")
TEMPLATE_TOKENS = 512
"""More than the instruction, the options' letters and the chat template add to a prompt."""
TILED_IMAGE = 4096
"""More than the tokens of an image that a processor cuts into tiles by a rule of its own."""


@dataclass
class FilteredProblems(DroppedProblems):
    """What the filter kept and dropped. ``counts`` also holds remarks on rows that are kept (``KEPT_ALL_THE_SAME``).

    Attributes:
        kept: the problems that can be trained on.
        tokens: prompt tokens of each kept problem, images included; empty if they were not counted.
    """

    kept: list[Problem] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def reject(self, reason: str, number: int, why: str) -> None:
        """Count a row that is no problem (see ``vlm.problem.read_valid_problems``)."""
        self.add(reason, f"row {number}", why)

    @property
    def dropped(self) -> dict[str, int]:
        return {reason: n for reason, n in self.counts.items() if reason not in KEPT_ALL_THE_SAME}


def filter_problems(
    problems: Sequence[Problem],
    reader: VLM,
    style: str,
    max_prompt_tokens: int | None,
    *,
    completion_tokens: int = 0,
    count: bool = False,
    decode: bool = False,
    filtered: FilteredProblems | None = None,
) -> FilteredProblems:
    """Drop the problems that would fail or be truncated during training.

    Args:
        max_prompt_tokens: longer prompts are dropped. The model's positions limit them as well.
        completion_tokens: positions that the response needs behind the prompt.
        count: count the tokens of every prompt, not only of those that may be too long.
        decode: decode every image. By default only the checksums of a PNG are compared, which is faster.
        filtered: the rows that ``read_valid_problems`` dropped; more are added to it.
    """
    filtered = FilteredProblems() if filtered is None else filtered
    golds = gradable_golds(problems)
    limit, whose = prompt_limit(reader, max_prompt_tokens, completion_tokens)
    for problem, sizes in zip(problems, in_threads(partial(image_sizes, decode=decode), problems), strict=True):
        faults = dict(_faults(problem, sizes, reader, golds))
        dropped = next((reason for reason in faults if reason not in KEPT_ALL_THE_SAME), None)
        if dropped is not None:  # for one reason, so that the counts add up to the rows
            filtered.add(dropped, problem.id, faults[dropped])
            continue
        if isinstance(sizes, ImageError):
            continue
        counted = count or max_prompt_tokens is not None
        try:
            tokens = None
            if counted or _most_tokens(problem, sizes, reader) > limit:
                tokens = prompt_tokens(problem, sizes, style, reader)
        except UserError as error:
            reason = "unusable_picture" if isinstance(error, ImageError) else "over_long"
            filtered.add(reason, problem.id, str(error))
            continue
        if tokens is not None:
            if tokens > limit:
                filtered.add("over_long", problem.id, f"{tokens} tokens, at most {limit} are allowed{whose}")
                continue
            filtered.tokens += [tokens] if counted else []
        for reason, why in faults.items():
            filtered.add(reason, problem.id, why)
        filtered.kept.append(problem)
    return filtered


def prompt_limit(reader: VLM, max_prompt_tokens: int | None, completion_tokens: int) -> tuple[int, str]:
    """The tokens that a prompt may have, and where the limit comes from if it is not ``max_prompt_tokens``.

    Raises:
        UserError: the responses leave no positions for a prompt.
    """
    positions = position_limit(reader)
    # One position is always left for the response: ``vlm.chat.encode`` refuses a prompt that takes all of them.
    room = positions - max(1, completion_tokens)
    if room < 1:
        raise UserError(
            f"'max_completion_length' {completion_tokens} leaves no room for a prompt in the {positions} positions of {reader.name}: "
            "lower max_completion_length."
        )
    if max_prompt_tokens is not None and max_prompt_tokens <= room:
        return max_prompt_tokens, ""
    less = f" less max_completion_length {completion_tokens}" if completion_tokens else ""
    return room, f" ({positions} positions of the model{less})"


def _most_tokens(problem: Problem, sizes: list[tuple[int, int]], reader: VLM) -> int:
    """An upper bound of a prompt's tokens, which costs no tokenizer: a token has at least one byte."""
    # Twice, because each control token that the text spells is broken apart by a character of three bytes.
    text = 2 * sum(len(part.encode("utf-8", "replace")) for part in (problem.question, *(problem.choices or ())))
    images = (image_tokens(size, reader.processor) for size in sizes)
    return text + sum(TILED_IMAGE if n is None else n for n in images) + TEMPLATE_TOKENS


def _faults(problem: Problem, sizes: Sizes, reader: VLM, golds: dict[Gold, bool]) -> Iterator[tuple[str, str]]:
    yield from problem_faults(problem, sizes, golds)
    spelled = next((token for token in reader.tokenizer.all_special_tokens if token in problem.question), None)
    if spelled is not None:
        yield ("image_in_text" if "image" in spelled or "vision" in spelled else "control_token"), spelled


def prompt_tokens(problem: Problem, sizes: list[tuple[int, int]], style: str, reader: VLM) -> int:
    """Tokens of the prompt, its images included. If the processor's sizing rule is known, no pixels are read.

    Raises:
        UserError, ImageError: a prompt that cannot be built, an image that cannot be sized.
    """
    turns: list[dict[str, Any]] = problem_messages(problem, style, reader)
    counts = [image_tokens(size, reader.processor) for size in sizes]
    if any(n is None for n in counts):
        images = [[open_image(path) for path in problem.images]]
        return int(encode(reader, [turns], images)["input_ids"].shape[1])
    text = render_prompt(reader, turns)
    words = reader.tokenizer(text, verbose=False)["input_ids"]
    return len(words) + sum(n - 1 for n in counts if n is not None)  # the text already has one placeholder per image
