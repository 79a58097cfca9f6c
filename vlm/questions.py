"""One question from the command line, or question after question from standard input, for a model that stays loaded."""

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TextIO

from configs.errors import ConfigError, UserError
from configs.stopping import sigterm_received
from vlm.asking import Model, answer_question, is_local, load_for_asking
from vlm.chat import question_messages
from vlm.downloads import decode_base64, fetch_image
from vlm.images import MAX_BYTES, open_image
from vlm.model_card import reads_sentence
from vlm.placement import in_place
from vlm.reasoning import find_effort, vote_seeds, vote_temperature
from vlm.startup import collection_paused

if TYPE_CHECKING:
    from vlm.sentence_attention import ResponseAttention

PROMPT = "Question (empty line or Ctrl-D ends): "
LINE_LIMIT = 1_000_000
"""Characters of a line that are read; a question may have far fewer (``vlm.chat.MAX_QUESTION``)."""


def answer_questions(options: SimpleNamespace) -> int:
    """Answer the question of the options, or those that standard input holds.

    Args:
        options: the options of ``vlm.infer.ask``.

    Returns:
        The exit code: 1 if one of several questions was not answered.

    Raises:
        UserError: what is asked for cannot be done, or the one question was not answered.
    """
    if options.out is not None:
        raise ConfigError("--out belongs to --batch; one answer is printed.")
    if options.chat and options.question is not None:
        raise ConfigError("--chat reads its questions from standard input: leave out the question, or --chat.")
    chat = options.chat or (options.question is None and is_terminal())
    if not options.image or (options.question is None and not chat):
        raise ConfigError(
            "Give an image and a question, --chat to read questions from standard input, or --batch FILE.jsonl."
        )
    if options.heatmap is not None and options.model.startswith("openai:"):
        raise ConfigError(
            "A server does not show where its model looks: leave out --heatmap, or name the model's folder."
        )
    if [*options.image, "-" if chat else options.question].count("-") > 1:
        raise ConfigError("Only one of the images and the question can come from standard input (-).")
    # Before the model loads: a path that does not exist must not cost the user that time.
    images = [read_image(name, options.urls) for name in options.image]
    if options.question is not None and is_file(options.question):
        raise ConfigError(
            f"The question is the name of a file, {options.question}: give a question after the images, or --chat to ask about "
            "all of them."
        )
    question = standard_input().read(LINE_LIMIT) if options.question == "-" else options.question
    if not chat:
        question_messages(question, len(images), options.style)
    vote_seeds(options.seed, options.votes)
    vote_temperature(options.votes, options.temperature)
    if options.heatmap is not None and not options.heatmap.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {options.heatmap.absolute().parent}: make it, or write elsewhere.")
    if options.heatmap is not None and options.heatmap.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(
            f"--heatmap {options.heatmap} is not the name of an image file: end it in .png, .jpg or .webp."
        )
    with collection_paused():
        model = load_for_asking(options.model, options.api_key_env)
    if not chat:
        answer_and_print(model, images, question, options)
        return 0

    def answer(question: str) -> None:
        answer_and_print(model, images, question, options)
        if not options.json:
            print(flush=True)

    failures: list[str] = []

    def failed(why: str) -> None:
        failures.append(why)
        if options.json:  # a line for every question, so that the answers can be counted off
            print(json.dumps({"status": "error", "why": why}, ensure_ascii=False), flush=True)

    # Where standard output is a file or a pipe, the prompt is no part of it.
    answer_each(answer, failed, sys.stdout if sys.stdout.isatty() and not options.json else sys.stderr)
    # A person at the terminal has read what failed. A program sees it by the exit code, as with --batch.
    return 1 if failures and not is_terminal() else 0


def answer_and_print(model: Model, images: Sequence[Any], question: str, options: SimpleNamespace) -> None:
    """Answer one question as the options say: streamed or as JSON, with the heat map drawn."""
    if options.zoom:
        from vlm.ask_zoom import zoom_and_print

        zoom_and_print(model, images, question, options)
        return
    images, question, _ = in_place(images, question, None)  # the heat map shows the images as the model reads them
    result = answer_question(
        model,
        images,
        question,
        effort=options.effort,
        style=options.style,
        votes=options.votes,
        temperature=options.temperature,
        seed=options.seed,
        stream=None if options.json else lambda piece: print(piece, end="", flush=True),
        look=is_local(model) and (options.json or options.heatmap is not None),
    )
    attention = result.pop("attention", None)
    if options.heatmap is not None:
        write_heatmap(images, attention, options.heatmap)
    if options.json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
    else:
        print_answer(result, options)


def is_file(name: str) -> bool:
    """Whether a file has this name; False also for what cannot be a name."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long, or a null character
        return False


def write_heatmap(images: Sequence[Any], attention: "ResponseAttention", file: Path) -> None:
    """Write the mean map of the whole response over the images."""
    from vlm.heatmap import draw_heatmap

    if not attention.maps:
        raise UserError(f"No heat map was drawn: {attention.note}")
    try:
        draw_heatmap(images, attention.maps).save(file)
    except (OSError, ValueError) as error:  # ValueError: an ending that Pillow does not know
        raise UserError(f"The heat map {file} cannot be written ({error}): name a .png file.") from None


def print_answer(result: dict[str, Any], options: SimpleNamespace) -> None:
    """The last lines of a streamed answer."""
    votes = result["votes"]
    if votes["k"] > 1:
        print(result["text"], end="")
    budget = find_effort(options.effort).tokens
    note = ""
    if result["repeats"]:
        note = " (the response repeats itself; ask in other words, or ask another model)"
    elif not result["finished"]:
        note = f" (the budget of {budget} tokens ran out; try --effort high)"
    elif result["closed"]:
        note = f" (asked for after {budget} tokens of reasoning; try --effort high)"
    print(f"\n\nAnswer: {result['answer'] if result['answer'] is not None else 'none'}{note}")
    if result["reads"] is not None:
        print(reads_sentence(result["reads"]))
    if votes["k"] > 1:
        given = ", ".join(f"{answer} x {n}" for answer, n in votes["counts"].items()) or "no answer"
        print(f"Votes: {votes['agreement']:.0%} of {votes['k']} agree ({given})")
    if options.heatmap is not None:
        print(f"Heat map: {options.heatmap}")


def read_image(name: str, urls: bool = False) -> Any:
    """An image from a path, from standard input (``-``), from a data URI or, where allowed, from a URL."""
    if name == "-":
        return open_image(standard_input().buffer.read(MAX_BYTES + 1))
    if name.lower().startswith(("http:", "https:")):
        if not urls:
            raise ConfigError(f"{name[:80]} is a URL: download it and give its path, or allow URLs with --urls.")
        return fetch_image(name)
    if name.lower().startswith("data:") and (content := decode_base64(name)) is not None:
        return open_image(content)
    return open_image(name)


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
