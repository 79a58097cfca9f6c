"""The prompt of a problem, the same in the checks before training and in training."""

from typing import Any

from vlm.chat import plain_text, question_messages
from vlm.load import VLM
from vlm.problem import Problem


def problem_messages(problem: Problem, style: str, reader: VLM) -> list[dict[str, Any]]:
    """The prompt of a problem, its text already neutralised (TRL renders it once more)."""
    turns = question_messages(problem.question, len(problem.images), style=style, choices=problem.choices)
    for turn in turns:
        turn["content"] = [
            {**part, "text": plain_text(part["text"], reader.tokenizer)} if part["type"] == "text" else part
            for part in turn["content"]
        ]
    return turns
