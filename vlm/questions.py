"""Question after question from standard input, for a model that stays loaded."""

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from configs.errors import ConfigError, UserError
from configs.stopping import sigterm_received

PROMPT = "Question (empty line or Ctrl-D ends): "
LINE_LIMIT = 1_000_000
"""Characters of a line that are read; a question may have far fewer (``vlm.chat.MAX_QUESTION``)."""


def standard_input() -> TextIO:
    """Standard input; bytes that are not UTF-8 are read as U+FFFD.

    Raises:
        ConfigError: it is closed.
    """
    if sys.stdin is None:
        raise ConfigError("Standard input is closed: give the image and the question as arguments.")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    return sys.stdin


def is_terminal() -> bool:
    """Whether somebody can type questions."""
    return sys.stdin is not None and sys.stdin.isatty()


def answer_each(answer: Callable[[str], None], failed: Callable[[str], None], screen: TextIO) -> None:
    """Call ``answer`` with every question that standard input holds, until it ends.

    Args:
        answer: answers one question. Its ``UserError`` is one sentence on standard error, and Ctrl-C ends this answer;
            the next question follows in both cases.
        failed: called with the reason when a question was not answered.
        screen: where a terminal shows the prompt.

    Raises:
        KeyboardInterrupt: Ctrl-C while a question is waited for, or SIGTERM.
    """
    for question in read_questions(screen):
        try:
            answer(question)
        except UserError as error:
            print(error, file=sys.stderr)
            failed(str(error))
        except KeyboardInterrupt:
            if sigterm_received():
                raise
            print("\nStopped this answer.", file=sys.stderr)
            failed("stopped by Ctrl-C")


def read_questions(screen: TextIO) -> Iterator[str]:
    """The lines of standard input. A terminal is prompted, and an empty line ends; elsewhere empty lines are skipped."""
    source, typed = standard_input(), is_terminal()
    if typed and screen.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  input() then has line editing, and the arrow keys bring earlier questions
    while True:
        try:
            question = _typed_line(screen) if typed else _question_line(source)
        except KeyboardInterrupt:
            print(file=sys.stderr)
            raise KeyboardInterrupt("Stopped.") from None
        if question is None or (typed and not question.strip()):
            return
        if question.strip():
            yield question


def _typed_line(screen: TextIO) -> str | None:
    """One line from a terminal; None for its end (Ctrl-D)."""
    try:
        if screen is sys.stdout:
            return input(PROMPT)
        print(PROMPT, end="", file=screen, flush=True)
        return input()
    except EOFError:
        print(file=screen)
        return None


def _question_line(source: TextIO) -> str | None:
    """One line; None at the end. What exceeds the limit is dropped, so that memory stays bounded."""
    line = rest = source.readline(LINE_LIMIT)
    while rest and not rest.endswith("\n"):
        rest = source.readline(LINE_LIMIT)
    return line or None
