"""``ask --zoom``: the trace of a model that zooms in, its crops in files beside it, and its boxes drawn on the originals."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from configs.errors import ConfigError, UserError
from vlm.asking import Model
from vlm.drawing import content_name, draw_boxes, side_by_side
from vlm.images import png_bytes
from vlm.model_card import reads_sentence, what_it_reads
from vlm.placement import in_place
from vlm.reasoning import ANSWER_TOKENS, find_effort, vote_temperature, with_style
from vlm.tools import ToolCall, ZoomResult, ZoomSettings
from vlm.zoom import ZoomAnswer, answer_with_zoom

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def check_zoom_options(options: SimpleNamespace) -> None:
    """Refuse options of ``ask`` that do not go with ``--zoom``, or go with nothing else, before a model loads.

    Raises:
        ConfigError: one sentence that names them.
    """
    if not options.zoom:
        given = [f"--{name}" for name in ("boxes", "crops") if getattr(options, name, None) is not None]
        if given:
            raise ConfigError(f"{' and '.join(given)} needs --zoom: add it, or leave {given[0]} out.")
        return
    if options.votes != 1 or options.heatmap is not None or options.batch is not None:
        raise ConfigError("--zoom gives one response: leave out --votes, --heatmap and --batch.")
    if options.looks < 1:
        raise ConfigError(f"--looks is {options.looks}: give at least 1, or leave out --zoom.")
    if options.boxes is None:
        return
    if not options.boxes.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {options.boxes.absolute().parent}: make it, or write elsewhere.")
    if options.boxes.suffix.lower() not in IMAGE_ENDINGS:
        raise ConfigError(f"--boxes {options.boxes} is not the name of an image file: end it in .png, .jpg or .webp.")


class CropFiles:
    """Writes the crops of a response into a folder, each named by its content.

    Attributes:
        files: the file of each result so far; None where there is no crop.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Path | None] = []

    def write(self, result: ZoomResult) -> Path | None:
        """Raises UserError: the folder cannot be written to."""
        file = None
        if result.crop is not None:
            content = png_bytes(result.crop)
            file = self.folder / content_name(content, "png")
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            except OSError as error:
                reason = error.strerror or str(error)
                raise UserError(f"The crop {file} cannot be written ({reason}): name a folder by --crops.") from None
        self.files.append(file)
        return file


def zoom_and_print(model: Model, images: Sequence[Any], question: str, options: SimpleNamespace) -> None:
    """Answer one question as the options say: streamed or as JSON, with the crops written and the boxes drawn."""
    images, question, _ = in_place(images, question, None)
    effort, crops = with_style(find_effort(options.effort), options.style), CropFiles(options.crops or Path("crops"))

    def show(result: ZoomResult) -> None:
        file = crops.write(result)
        if not options.json:
            print(f"\n{_look_line(len(crops.files), result, file)}", flush=True)

    answer = answer_with_zoom(
        model,
        images,
        question,
        settings=ZoomSettings(max_looks=options.looks),
        max_new_tokens=effort.tokens + ANSWER_TOKENS,
        temperature=vote_temperature(1, options.temperature),
        seed=options.seed,
        style=effort.style,
        stream=None if options.json else lambda piece: print(piece, end="", flush=True),
        on_result=show,
        stop_repeats=True,
    )
    if options.boxes is not None:
        write_boxes(images, answer.results, options.boxes)
    reads = what_it_reads(model.name)
    if options.json:
        print(json.dumps(zoom_record(answer, crops.files) | {"reads": reads}, ensure_ascii=False), flush=True)
        return
    note = "" if answer.finished else f" (the budget of {effort.tokens} tokens or the looks ran out; try --effort high)"
    print(f"\n\nAnswer: {answer.answer if answer.answer is not None else 'none'}{note}")
    if reads is not None:
        print(reads_sentence(reads))
    if options.boxes is not None:
        print(f"Boxes: {options.boxes}")


def _look_line(number: int, result: ZoomResult, file: Path | None) -> str:
    """A result on one line. The label is the model's own text, so it is quoted."""
    if result.crop is None:
        return f"[look {number}: {result.error}]"
    label = f" {json.dumps(result.label, ensure_ascii=False)}" if result.label else ""
    return f"[look {number}:{label} image {result.img_idx}, pixels {result.box}: {file}]"


def zoom_record(answer: ZoomAnswer, files: Sequence[Path | None]) -> dict[str, Any]:
    """A response with its calls, as it stands in JSON: boxes in pixels of the originals, and the files of the crops."""
    calls = [
        {
            "name": result.call.name if isinstance(result.call, ToolCall) else None,
            "arguments": result.call.arguments if isinstance(result.call, ToolCall) else None,
            "img_idx": result.img_idx,
            "label": result.label,
            "box": result.box,
            "crop": None if file is None else str(file),
            "error": result.error,
        }
        for result, file in zip(answer.results, files, strict=True)
    ]
    return {
        "answer": answer.answer,
        "text": answer.text,
        "tokens": answer.tokens,
        "finished": answer.finished,
        "errors": answer.errors,
        "calls": calls,
    }


def write_boxes(images: Sequence[Any], results: Sequence[ZoomResult], file: Path) -> None:
    """Write the originals, side by side, with the numbered boxes of the looks on them.

    Raises:
        UserError: the file cannot be written.
    """
    numbered = [(number, one) for number, one in enumerate(results, start=1) if one.crop is not None]
    drawn = [
        draw_boxes(image, [(number, one.box) for number, one in numbered if one.img_idx == index and one.box])
        for index, image in enumerate(images)
    ]
    try:
        side_by_side(drawn).save(file)
    except (OSError, ValueError) as error:
        raise UserError(f"The boxes {file} cannot be written ({error}): name a .png file.") from None
