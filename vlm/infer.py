"""Ask a model about pictures: one question with its trace as it is written, one after another, or a file of questions.

``python -m vlm.infer --image FILE --question TEXT`` is the same as ``reflection-v ask FILE TEXT``.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from configs.errors import ConfigError, UserError, memory_error
from configs.stopping import stopped_code, watch_sigterm
from configs.versions import warn_outside_range
from vlm.chat import INSTRUCTIONS, question_messages
from vlm.images import MAX_BYTES, Source, fetch_image, open_image
from vlm.questions import LINE_LIMIT, answer_each, is_terminal, standard_input
from vlm.reasoning import (
    EFFORTS,
    Effort,
    Thought,
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
from vlm.startup import collection_paused

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
    """Ask one question about pictures.

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
        ``answer`` (str or None), ``trace`` (the thought), ``text`` (all that was written), ``tokens`` (of all votes),
        ``seconds``, ``looks`` (how many times the trace goes back to the picture), ``finished`` (False: the budget ran
        out), ``relooks`` and ``closed`` (see ``vlm.reasoning.Thought``), ``votes`` (``k``, ``agreement``, ``counts``), and
        with ``look`` ``sentences``: ``text, start, end, mass, lift`` of each, and ``attention``, a
        ``vlm.sentence_attention.ResponseAttention``.

    Raises:
        UserError: a bad picture, question, effort, style or number of votes; a server without a usable reply.
    """
    how, seeds = with_style(find_effort(effort), style), vote_seeds(seed, votes)
    pictures = [open_image(image) for image in images]
    messages = question_messages(question, len(pictures), how.style, choices)
    temperature = vote_temperature(votes, temperature)
    started = time.perf_counter()
    if is_local(model):
        if votes == 1:
            pieces = think_stream(model, messages, pictures, how, temperature=temperature, seed=seed)
            try:
                for piece in pieces:
                    if stream is not None:
                        stream(piece)
            finally:
                pieces.close()  # after Ctrl-C the model must not go on writing
            assert pieces.thought is not None  # the stream ended by itself
            thoughts = [pieces.thought]
        else:
            thoughts = think_batch(
                model, [messages] * votes, [pictures] * votes, how, temperature=temperature, seeds=seeds
            )
    else:
        thoughts = asyncio.run(_ask_server(model, messages, pictures, how, temperature, seeds))
        if stream is not None and votes == 1:
            stream(thoughts[0].text)
    result = summarize(thoughts) | {"seconds": round(time.perf_counter() - started, 3)}
    if look:
        if not is_local(model):
            raise ConfigError("A server does not show where its model looks: load the model from its folder for that.")
        from vlm.sentence_attention import attention_by_sentence

        attention = attention_by_sentence(model, messages, pictures, result["text"])
        result |= {"sentences": sentence_rows(attention), "attention": attention}
    return result


async def _ask_server(
    backend: "Backend", messages: list[Any], pictures: list[Any], effort: Effort, temperature: float, seeds: list[int]
) -> list[Thought]:
    try:
        asked = [
            think_served(backend, messages, pictures, effort, temperature=temperature, seed=seed) for seed in seeds
        ]
        return list(await asyncio.gather(*asked))
    finally:
        await backend.aclose()


def is_local(model: Model) -> "TypeIs[VLM]":
    """Whether the model runs in this process, where it can be stopped, continued and watched."""
    return not hasattr(model, "complete")


def summarize(thoughts: Sequence[Thought]) -> dict[str, Any]:
    """What K responses to one question come to; see ``answer_question``."""
    parsed = [parse_response(thought.text) for thought in thoughts]
    votes = count_votes([response.answer for response in parsed])
    response, chosen = parsed[votes.winner], thoughts[votes.winner]
    return {
        "answer": response.answer,
        "trace": response.thought,
        "text": chosen.text,
        "tokens": sum(thought.tokens for thought in thoughts),
        "looks": count_looks(response.thought or chosen.text),
        "finished": chosen.finished,
        "relooks": chosen.relooks,
        "closed": chosen.closed,
        "votes": {"k": len(thoughts), "agreement": round(votes.agreement, 4), "counts": votes.counts},
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


# The command line


def build_parser(prog: str = "python -m vlm.infer") -> argparse.ArgumentParser:
    """Options of one question."""
    parser = argparse.ArgumentParser(prog=prog, description="Ask a vision-language model about pictures.")
    parser.add_argument("--image", action="append", default=[], help="picture file, or - for stdin; may be repeated")
    parser.add_argument("--question", help="or - for stdin; on a terminal, without it, it asks for one after another")
    parser.add_argument(
        "--chat",
        action="store_true",
        help="answer question after question, one a line of standard input; each by itself, without the earlier ones",
    )
    parser.add_argument(
        "--batch", type=Path, help="JSON Lines of {question, image or images, ...}, in place of one question"
    )
    parser.add_argument("--out", type=Path, help="where the answers of --batch go (FILE.answers.jsonl)")
    parser.add_argument("--model", default="tiny", help="tiny (default), a folder, a hub name, or openai:NAME@URL")
    parser.add_argument("--api_key_env", help="name of the environment variable that holds the server's key")
    parser.add_argument("--effort", choices=EFFORTS, default="medium", help="how long it may think")
    parser.add_argument(
        "--style", choices=INSTRUCTIONS, default="think", help="think first, answer directly, describe first"
    )
    parser.add_argument("--votes", type=int, default=1, help="sample so many responses; the most common answer counts")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heatmap", type=Path, help="write a PNG of where it looked; of the last question")
    parser.add_argument("--urls", action="store_true", help="pictures may be http(s) URLs, which are downloaded")
    parser.add_argument("--json", action="store_true", help="print one JSON object a question instead of the stream")
    return parser


def run(options: argparse.Namespace) -> int:
    """Do what the parsed options say. Returns the exit code; raises UserError."""
    if options.batch is not None:
        from vlm.ask_file import answer_file

        if options.image or options.question or options.heatmap or options.chat:
            raise ConfigError(
                "--batch brings its own pictures and questions, and draws no heat map: leave the rest out."
            )
        return answer_file(options)
    if options.out is not None:
        raise ConfigError("--out belongs to --batch; one answer is printed.")
    if options.chat and options.question is not None:
        raise ConfigError("--chat reads its questions from standard input: leave out the question, or --chat.")
    chat = options.chat or (options.question is None and is_terminal())
    if not options.image or (options.question is None and not chat):
        raise ConfigError(
            "Give a picture and a question, --chat to read questions from standard input, or --batch FILE.jsonl."
        )
    if options.heatmap is not None and options.model.startswith("openai:"):
        raise ConfigError(
            "A server does not show where its model looks: leave out --heatmap, or name the model's folder."
        )
    if [*options.image, "-" if chat else options.question].count("-") > 1:
        raise ConfigError("Only one of the pictures and the question can come from standard input (-).")
    # Before the model: a wrong path should answer at once.
    pictures = [read_picture(name, options.urls) for name in options.image]
    if options.question is not None and is_file(options.question):
        raise ConfigError(
            f"The question is the name of a file, {options.question}: give a question after the images, or --chat to ask about "
            "all of them."
        )
    question = standard_input().read(LINE_LIMIT) if options.question == "-" else options.question
    if not chat:
        question_messages(question, len(pictures), options.style)
    vote_seeds(options.seed, options.votes)
    vote_temperature(options.votes, options.temperature)
    if options.heatmap is not None and not options.heatmap.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {options.heatmap.absolute().parent}: make it, or write elsewhere.")
    with collection_paused():
        model = load_for_asking(options.model, options.api_key_env)
    if not chat:
        answer_and_print(model, pictures, question, options)
        return 0

    def answer(question: str) -> None:
        answer_and_print(model, pictures, question, options)
        if not options.json:
            print(flush=True)

    failures: list[str] = []

    def failed(why: str) -> None:
        failures.append(why)
        if options.json:  # a line for every question, so that the answers can be counted off
            print(json.dumps({"status": "error", "why": why}, ensure_ascii=False), flush=True)

    # Where standard output is a file or a pipe, the prompt is no part of it.
    answer_each(answer, failed, sys.stdout if sys.stdout.isatty() and not options.json else sys.stderr)
    # Who types has read what failed; a program learns it by the exit code, as with --batch.
    return 1 if failures and not is_terminal() else 0


def answer_and_print(model: Model, pictures: Sequence[Any], question: str, options: argparse.Namespace) -> None:
    """Answer one question as the options say: streamed or as JSON, with the heat map drawn."""
    result = answer_question(
        model,
        pictures,
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
        write_heatmap(pictures, attention, options.heatmap)
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


def read_picture(name: str, urls: bool = False) -> Any:
    """A picture from a path, from standard input (``-``), or, where allowed, from a URL."""
    if name == "-":
        return open_image(standard_input().buffer.read(MAX_BYTES + 1))
    if name.lower().startswith(("http:", "https:")):
        if not urls:
            raise ConfigError(f"{name[:80]} is a URL: download it and give its path, or allow URLs with --urls.")
        return fetch_image(name)
    return open_image(name)


def write_heatmap(pictures: Sequence[Any], attention: "ResponseAttention", file: Path) -> None:
    """Write the mean map of the whole response over the pictures."""
    from vlm.heatmap import draw_heatmap

    if not attention.maps:
        raise UserError(f"No heat map was drawn: {attention.note}")
    try:
        draw_heatmap(pictures, attention.maps).save(file)
    except (OSError, ValueError) as error:  # ValueError: an ending that Pillow does not know
        raise UserError(f"The heat map {file} cannot be written ({error}): name a .png file.") from None


def print_answer(result: dict[str, Any], options: argparse.Namespace) -> None:
    """The last lines of a streamed answer."""
    votes = result["votes"]
    if votes["k"] > 1:
        print(result["text"], end="")
    budget = find_effort(options.effort).tokens
    note = ""
    if not result["finished"]:
        note = f" (the budget of {budget} tokens ran out; try --effort high)"
    elif result["closed"]:
        note = f" (asked for after {budget} tokens of thought; try --effort high)"
    print(f"\n\nAnswer: {result['answer'] if result['answer'] is not None else 'none'}{note}")
    if votes["k"] > 1:
        given = ", ".join(f"{answer} x {n}" for answer, n in votes["counts"].items()) or "no answer"
        print(f"Votes: {votes['agreement']:.0%} of {votes['k']} agree ({given})")
    if options.heatmap is not None:
        print(f"Heat map: {options.heatmap}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 the work failed, 2 bad arguments, 130 stopped by Ctrl-C, 75 by SIGTERM."""
    options = build_parser().parse_args(argv)
    watch_sigterm()
    warn_outside_range()
    try:
        return run(options)
    except (UserError, MemoryError, RuntimeError) as error:
        known = error if isinstance(error, UserError) else memory_error(error)
        if known is None:
            raise
        print(known, file=sys.stderr)
        return known.exit_code
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return stopped_code()


if __name__ == "__main__":
    sys.exit(main())
