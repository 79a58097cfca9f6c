"""Ask a model about a picture: ``python -m vlm.infer --image FILE --question TEXT`` streams trace and answer."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vlm.chat import INSTRUCTIONS, question_messages
from vlm.errors import UserError
from vlm.images import Source, open_image
from vlm.response import count_looks, parse_response

if TYPE_CHECKING:
    from vlm.load import VLM

EFFORTS = {"low": 128, "medium": 512, "high": 2048}
"""Token budget of a response."""


def answer_question(
    vlm: "VLM",
    images: Sequence[Source],
    question: str,
    *,
    effort: str = "medium",
    style: str = "think",
    stream: Callable[[str], Any] | None = None,
    choices: Sequence[str] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask one question about pictures.

    Args:
        images: paths, file contents or PIL images.
        effort: a key of ``EFFORTS``.
        style: a key of ``vlm.chat.INSTRUCTIONS``.
        stream: called with every piece of text as it is written.

    Returns:
        ``answer`` (str or None), ``trace`` (the thought), ``text`` (all that was written), ``tokens``, ``seconds``,
        ``looks`` (how many times the trace goes back to the picture), ``finished`` (False: the budget ran out).

    Raises:
        UserError: a bad picture, question, effort or style.
    """
    if effort not in EFFORTS:
        raise UserError(f"The effort '{effort}' is not known: use one of {', '.join(EFFORTS)}.")
    pictures = [open_image(image) for image in images]
    messages = question_messages(question, len(pictures), style, choices)
    from vlm.generate import generate_stream

    started = time.perf_counter()
    pieces = generate_stream(
        vlm, messages, pictures, max_new_tokens=EFFORTS[effort], temperature=temperature, seed=seed
    )
    for piece in pieces:
        if stream is not None:
            stream(piece)
    written = pieces.generation
    assert written is not None  # set by a stream that ended without an error
    response = parse_response(written.text)
    return {
        "answer": response.answer,
        "trace": response.thought,
        "text": written.text,
        "tokens": len(written.token_ids),
        "seconds": round(time.perf_counter() - started, 3),
        "looks": count_looks(response.thought or written.text),
        "finished": written.finished,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 the work failed, 2 bad arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m vlm.infer", description="Ask a vision-language model about a picture."
    )
    parser.add_argument("--image", action="append", required=True, help="picture file; may be given several times")
    parser.add_argument("--question", required=True)
    parser.add_argument("--model", default="tiny", help="'tiny' (default), a Hugging Face folder, or a hub name")
    parser.add_argument("--effort", choices=EFFORTS, default="medium", help="token budget of the response")
    parser.add_argument(
        "--style", choices=INSTRUCTIONS, default="think", help="think first, answer directly, describe first"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) takes the likeliest token")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the stream")
    options = parser.parse_args(argv)
    try:
        pictures = [open_image(path) for path in options.image]  # before the model: a wrong path should answer at once
        question_messages(options.question, len(pictures), options.style)
        from vlm.load import load_vlm

        result = answer_question(
            load_vlm(options.model),
            pictures,
            options.question,
            effort=options.effort,
            style=options.style,
            temperature=options.temperature,
            seed=options.seed,
            stream=None if options.json else lambda piece: print(piece, end="", flush=True),
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        note = (
            ""
            if result["finished"]
            else f" (the budget of {EFFORTS[options.effort]} tokens ran out; try --effort high)"
        )
        print(f"\n\nAnswer: {result['answer'] if result['answer'] is not None else 'none'}{note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
