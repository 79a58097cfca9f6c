"""Errors of the constructors of TRL's configs as sentences that name the key and the remedy, and values that they let pass."""

import re
from collections.abc import Mapping
from typing import Any

from configs.errors import ConfigError

AT_LEAST_ONE = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "generation_batch_size"),
    *("num_iterations", "max_completion_length", "gpus", "per_device_eval_batch_size"),
)
ABOVE_ZERO = ("temperature", "repetition_penalty", "top_p")

SENTENCES = (
    (
        r"generation_batch_size \((\d+)\) must be divisible by num_generations \((\d+)\)",
        "a generation has {0} responses (per_device_train_batch_size x steps_per_generation x processes), not divisible by "
        "'num_generations' {1}: change per_device_train_batch_size, gradient_accumulation_steps or num_generations.",
    ),
    (
        r"generation_batch_size \((\d+)\) must be divisible by the global batch size \((\d+)\)",
        "'generation_batch_size' {0} is no multiple of the {1} responses that the processes train on at once: change it, or "
        "remove it.",
    ),
    (
        r"requires at least 2 generations per prompt .* You provided (-?\d+)",
        "'num_generations' must be at least 2, found {0}: the responses to a prompt are compared with each other. Usual are 8.",
    ),
    (
        r"lr_scheduler_type (\w+) requires an eval strategy",
        "'lr_scheduler_type: {0}' follows a loss on held-out rows, and none is measured: set held_out (SFT only), or choose "
        "another one, such as cosine or constant_with_warmup.",
    ),
    (
        r"--load_best_model_at_end requires",
        "'load_best_model_at_end' publishes another step than the last one, and a run's result is always its last step: remove it, and "
        "compare checkpoints with 'reflection-v eval'.",
    ),
    (
        r"--tf32 requires",
        "'tf32' needs an NVIDIA GPU of the Ampere generation or newer: remove it.",
    ),
    (
        r"At most one of fp16 and bf16",
        "'fp16' and 'bf16' exclude each other: remove one of them.",
    ),
)
"""Patterns of messages and the sentences that replace them; the braces are the groups of the pattern."""


def constructor_sentence(message: str) -> str:
    """A message of a constructor as a sentence about the config; an unknown one with its options as keys."""
    message = " ".join(message.split())
    for pattern, sentence in SENTENCES:
        if match := re.search(pattern, message):
            return sentence.format(*match.groups())
    return re.sub(r"--(\w+)", r"'\1'", message)


def check_numbers(settings: Mapping[str, Any], where: str) -> None:
    """Refuse numbers that the constructors accept, and that end a run by a division by zero or at its first batch.

    Raises:
        ConfigError: names the key.
    """
    for key in AT_LEAST_ONE:
        value = settings.get(key)
        if value is not None and value < 1:
            raise ConfigError(
                f"'{key}' in {where} must be at least 1, found {value}: raise it, or remove it for the default."
            )
    for key in ABOVE_ZERO:
        value = settings.get(key)
        if value is not None and value <= 0:
            raise ConfigError(
                f"'{key}' in {where} must be above 0, found {value}: responses are sampled. Raise it, or remove it for the default."
            )
    if (settings.get("top_p") or 0) > 1:
        raise ConfigError(f"'top_p' in {where} must be at most 1, found {settings['top_p']}: lower it, or remove it.")
