"""The rows of the cold start: the prompt, and the completion with the characters that the loss is on in colour."""

from pathlib import Path
from typing import Any

from demo.viewer import blocks
from demo.viewer.blocks import Block
from demo.viewer.columns import Entry
from demo.viewer.lines import LineTable
from demo.viewer.problem_sets import ProblemIndex
from demo.viewer.values import cut_text, dict_of, list_of, number_of, spans_of, text_of
from demo.viewer.views import View

LEGEND = [["loss", "the loss is on it"], ["masked", "masked: the model reads it, but does not learn it"]]


class SftView(View):
    """``sft.jsonl``: prompt, completion, images and masked spans (``train.data``)."""

    name = "sft"
    title = "SFT rows"

    def __init__(self, path: Path, problems: ProblemIndex) -> None:
        super().__init__(path.parent, problems)
        self.table = LineTable(path, self.entry)

    def entry(self, row: dict[str, Any]) -> Entry:
        words = {"mode": text_of(row.get("mode")), "family": self.problems.family(row.get("problem_id"))}
        completion = text_of(row.get("completion"))
        masked = spans_of(row.get("masked"), len(completion))
        words["mask"] = "some masked" if masked else "none masked"
        numbers = {
            "masked characters": float(sum(end - start for start, end in masked)),
            "characters": float(len(completion)),
        }
        if (relooks := number_of(row.get("relooks"))) is not None:
            numbers["re-looks"] = relooks
        return Entry({name: word[:60] for name, word in words.items() if word}, numbers)

    def brief(self, row: dict[str, Any]) -> dict[str, Any]:
        said = " ".join(part for turn in list_of(row.get("prompt")) for part in turn_texts(turn))
        masked = bool(list_of(row.get("masked")))
        return {
            "title": cut_text(text_of(row.get("completion")), 200),
            "sub": cut_text(said or text_of(row.get("prompt")), 200),
            "badge": text_of(row.get("mode"))[:20],
            "number": "masked" if masked else "",
        }

    def blocks(self, row: dict[str, Any], number: int) -> list[Block]:
        shown = [blocks.images(len(self.images(row)[0]))]
        turns = list_of(row.get("prompt"))
        for turn in turns[:50]:
            role = text_of(dict_of(turn).get("role")) or "prompt"
            shown.append(blocks.shown_text(f"{role} (no loss)", "\n".join(turn_texts(turn))))
        if not turns and row.get("prompt"):
            shown.append(blocks.shown_text("prompt (no loss)", text_of(row.get("prompt"))))
        completion = text_of(row.get("completion"))
        masked = spans_of(row.get("masked"), len(completion))
        hidden = sum(end - start for start, end in masked)
        text = cut_text(completion)
        pieces = blocks.cut_spans(text, [(*span, ["masked", None, "no loss"]) for span in masked])
        spans = [piece if len(piece) > 1 else [piece[0], "loss", None, ""] for piece in pieces]
        spans.append([" ⏎ end of turn", "loss", None, "the token that ends the turn carries loss, too"])
        shown.append(blocks.marked_text("assistant", spans, LEGEND if masked else LEGEND[:1]))
        shown.append(
            blocks.facts(
                [
                    (
                        "loss on",
                        f"{len(completion) - hidden:,} of {len(completion):,} characters, and the end of the turn",
                    ),
                    ("mode", row.get("mode")),
                    ("re-looks", row.get("relooks")),
                    ("problem", row.get("problem_id")),
                    ("family", self.problems.family(row.get("problem_id"))),
                ]
            )
        )
        return shown

    def images(self, row: dict[str, Any]) -> tuple[list[Any], Path]:
        return list_of(row.get("images")), self.folder


def turn_texts(turn: Any) -> list[str]:
    """The texts of a message, ``<image>`` for an image."""
    content = dict_of(turn).get("content")
    if isinstance(content, str):
        return [cut_text(content)]
    parts = [dict_of(part) for part in list_of(content)]
    return [
        cut_text(text_of(part.get("text"))) if part.get("type") == "text" else f"<{text_of(part.get('type'))}>"
        for part in parts
    ]
