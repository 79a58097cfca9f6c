"""Ask a model about images: ``python -m vlm.infer --image FILE --question TEXT``, which is ``reflection-v ask FILE TEXT``.

Heavy libraries are imported when the command runs, so that ``--help`` is instant.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import typer

from configs.command_line import Guarded, KeyName
from configs.errors import ConfigError


def ask(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE...", help="Image files, or - for standard input.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION",
            help="What to ask about them, or - for standard input. Without it, on a terminal, you are asked for questions.",
        ),
    ] = None,
    image: Annotated[list[str] | None, typer.Option(help="The same as IMAGE; may be repeated.")] = None,
    question: Annotated[str | None, typer.Option(help="The same as QUESTION.")] = None,
    model: Annotated[
        str, typer.Option(help="tiny (bundled), a model folder, a hub name, or openai:NAME@URL.")
    ] = "tiny",
    effort: Annotated[
        Literal["off", "low", "medium", "high"],
        typer.Option(help="How long the model may think; with high, its reasoning has at least two re-looks."),
    ] = "medium",
    votes: Annotated[int, typer.Option(help="Number of sampled responses; the most common answer counts.")] = 1,
    style: Annotated[
        Literal["think", "direct", "describe"], typer.Option(help="What to do before answering.")
    ] = "think",
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="0 takes the likeliest token; the default where there is one vote.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    heatmap: Annotated[
        Path | None, typer.Option(help="Write a PNG heat map of where the model looked, for the last question.")
    ] = None,
    zoom: Annotated[
        bool, typer.Option("--zoom", help="Let the model zoom in: it may call for crops of the original images.")
    ] = False,
    looks: Annotated[int, typer.Option(help="With --zoom: the most crops that the model may call for.")] = 4,
    crops: Annotated[
        Path | None, typer.Option(help="With --zoom: the folder for the crops, 'crops' by default.")
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="With --zoom: write a PNG of the images with the boxes.")] = None,
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Answer one question per line of standard input. All arguments are images."),
    ] = False,
    batch: Annotated[
        Path | None,
        typer.Option(help="A JSON Lines file of questions; given again, it answers the rows that are left."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The answers of --batch; FILE.answers.jsonl by default.")] = None,
    urls: Annotated[bool, typer.Option("--urls", help="Images may be http(s) URLs, which are downloaded.")] = False,
    api_key_env: KeyName = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per question instead of the stream.")
    ] = False,
) -> None:
    """Ask a model about images: its trace as it is written, then the answer.

    On a terminal without a question, or with --chat, the model stays loaded and answers question after question. Each
    is answered by itself: the model does not see the earlier ones. Ctrl-C stops the answer that is being written.
    """
    options = SimpleNamespace(**locals())
    del options.images, options.text
    options.image = [*(image or []), *(images or [])]
    if text is not None and (chat or question is not None or not options.image):
        options.image.append(text)  # the last argument is the question only after an image
    elif text is not None:
        options.question = text
    raise typer.Exit(run_ask(options))


def run_ask(options: SimpleNamespace) -> int:
    """Do what the options of ``ask`` say. Returns the exit code; raises UserError."""
    from vlm.ask_zoom import check_zoom_options

    check_zoom_options(options)
    if options.batch is None:
        from vlm.questions import answer_questions

        return answer_questions(options)
    from vlm.ask_file import answer_file

    if options.image or options.question or options.heatmap or options.chat:
        raise ConfigError("--batch brings its own images and questions, and draws no heat map: leave the rest out.")
    return answer_file(options)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 the work failed, 2 bad arguments, 130 stopped by Ctrl-C, 75 by SIGTERM."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
    app.command(cls=Guarded)(ask)
    try:
        app(None if argv is None else list(argv), prog_name="python -m vlm.infer")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
