"""The completions of GRPO: their rewards and advantages beside those of their group, and the attention mass by sentence."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.run_dir import read_record
from demo.viewer import blocks
from demo.viewer.blocks import Block
from demo.viewer.columns import Entry
from demo.viewer.parquet import ParquetTable, in_order
from demo.viewer.problem_sets import Found, ProblemIndex
from demo.viewer.values import cut_text, dict_of, list_of, number_of, text_of
from demo.viewer.views import View
from reward.grade import read_answer
from vlm.response import relook_spans

TEXTS = ("prompt", "completion", "sentences")
NO_REWARD = ("step", "advantage", "reward", *TEXTS, "problem")
MAX_GROUP_ROWS = 64


class CompletionView(View):
    """``completions/*.parquet``, as TRL writes them with ``log_completions``; of an earlier version some columns are absent.

    Args:
        path: the folder of the files, or one of them.
    """

    name = "completions"
    title = "Completions"
    table: ParquetTable

    def __init__(self, path: Path, problems: ProblemIndex) -> None:
        super().__init__(path if path.is_dir() else path.parent, problems)
        files = (lambda: in_order(path)) if path.is_dir() else (lambda: [path])
        self.table = ParquetTable(files, _short_columns, self.entry)
        named = read_record(self.folder.parent / "settings.json").get("settings")
        self.weights = dict_of(dict_of(named).get("rewards"))

    def entry(self, row: dict[str, Any]) -> Entry:
        words = {"family": self.problems.family(row.get("problem"))}
        if (accuracy := number_of(row.get("accuracy"))) is not None:
            words["answer"] = "correct" if accuracy >= 1 else "partly correct" if accuracy > 0 else "incorrect"
        if (advantage := number_of(row.get("advantage"))) is not None:
            words["learns"] = "more of it" if advantage > 0 else "less of it" if advantage < 0 else "nothing"
        numbers = {key: number_of(value) for key, value in row.items()}
        return Entry(
            {name: word for name, word in words.items() if word},
            {name: number for name, number in numbers.items() if number is not None},
        )

    def brief(self, row: dict[str, Any]) -> dict[str, Any]:
        advantage, accuracy = number_of(row.get("advantage")), number_of(row.get("accuracy"))
        tone = "plain" if accuracy is None else "good" if accuracy >= 1 else "bad"
        graded = {"good": "correct", "bad": "incorrect"}.get(tone, "")
        return {
            "title": cut_text(text_of(row.get("completion")), 200),
            "sub": cut_text(f"step {text_of(row.get('step'))} · {text_of(row.get('prompt'))}", 200),
            "badge": graded,
            "tone": tone,
            "number": "" if advantage is None else f"{advantage:+.2f}",
        }

    def problem_of(self, row: dict[str, Any]) -> Found | None:
        return self.problems.find(row.get("problem"))

    def blocks(self, row: dict[str, Any], number: int) -> list[Block]:
        shown = self.problem_blocks(row, [("problem", row.get("problem")), ("step", row.get("step"))])
        shown += [self._completion(row), self._rewards(row)]
        if (group := self._group(number)) is not None:
            shown.append(group)
        return [*shown, blocks.shown_text("Prompt", cut_text(_as_text(row.get("prompt"))))]

    def _rewards(self, row: dict[str, Any]) -> Block:
        parts = [key for key in row if key not in NO_REWARD and (row[key] is None or number_of(row[key]) is not None)]
        weights = {key: _weight(self.weights.get(key)) for key in parts}
        paid = [key for key in parts if weights[key]]
        rows = [[key, _number_text(row[key]), f"{weights[key]:g}", _weighted(row[key], weights[key])] for key in paid]
        if row.get("reward") is not None:
            rows.append(["reward", "", "", _number_text(row["reward"])])
        rows.append(["advantage", "", "", _number_text(row.get("advantage"))])
        # Rewards of weight 0 are measured too. Without the run's config no weight is known.
        rows += [[key, _number_text(row[key]), "" if not self.weights else "0", ""] for key in parts if key not in paid]
        return blocks.table("Rewards", ["part", "value", "weight", "in the reward"], rows)

    def _completion(self, row: dict[str, Any]) -> Block:
        text = cut_text(_as_text(row.get("completion")))
        looks = relook_spans(text)
        sentences = mass_of(row.get("sentences"), len(text))
        if sentences:
            highest = max((mass for _, _, mass, _ in sentences), default=0.0) or 1.0
            marks = [_heat_mark(sentence, highest, looks) for sentence in sentences]
            legend = [["heat", "attention mass on the image, relative to the highest sentence"]]
            if looks:
                legend.append(["heat relook", "a re-look"])
            return blocks.marked_text("Completion", blocks.cut_spans(text, marks), legend)
        marks = [(start, end, ["relook", None, "goes back to the image"]) for start, end in looks]
        return blocks.marked_text(
            "Completion", blocks.cut_spans(text, marks), [["relook", "a re-look"]] if looks else []
        )

    def _group(self, number: int) -> Block | None:
        """The other completions of the same prompt in the same step, with which this one was compared."""
        numbers = self.table.same(number, ("step", "prompt", "problem"))[:MAX_GROUP_ROWS]
        rows = [(other, content) for other in numbers if (content := self.table.row(other).content) is not None]
        if len(rows) < 2:
            return None
        head = ["answer", "accuracy", "reward", "advantage", "re-looks"]
        lines = []
        for _, content in rows:
            said = _as_text(content.get("completion"))
            answer = cut_text(read_answer(said, finished=True) or "none", 60)
            measured = [_number_text(content.get(key)) for key in ("accuracy", "reward", "advantage")]
            lines.append([answer, *measured, str(len(relook_spans(said)))])
        current = next((place for place, (other, _) in enumerate(rows) if other == number), -1)
        return blocks.table(
            "The group of this prompt", head, lines, links=[other for other, _ in rows], current=current
        )


def mass_of(value: Any, length: int) -> list[tuple[int, int, float, float]]:
    """(start, end, mass, lift) of the sentences, in order and without overlaps; none where they were not recorded."""
    try:
        rows = list_of(json.loads(value)) if isinstance(value, str) else []
    except (ValueError, RecursionError):
        return []
    found: list[tuple[int, int, float, float]] = []
    for row in rows[:1_000]:
        if not isinstance(row, list) or len(row) != 4 or type(row[0]) is not int or type(row[1]) is not int:
            continue
        mass, lift = number_of(row[2]), number_of(row[3])
        if mass is None or lift is None or not (found[-1][1] if found else 0) <= row[0] < row[1] <= length:
            continue
        found.append((row[0], row[1], mass, lift))
    return found


def _short_columns(names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in TEXTS]


def _heat_mark(
    sentence: tuple[int, int, float, float], highest: float, looks: Sequence[tuple[int, int]]
) -> tuple[int, int, list[Any]]:
    """A sentence in the colour of its mass, relative to the highest one."""
    start, end, mass, lift = sentence
    hint = f"{mass:.2f} of the attention is on the image, {lift:.2f} times as much as if attention were uniform"
    return start, end, ["heat relook" if _touches(start, end, looks) else "heat", mass / highest, hint]


def _touches(start: int, end: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(start < other and begin < end for begin, other in spans)


def _as_text(value: Any) -> str:
    """A text, or the texts of a conversation."""
    if isinstance(value, list):
        return "\n".join(_as_text(dict_of(turn).get("content", dict_of(turn).get("text"))) for turn in value)
    return text_of(value)


def _weight(given: Any) -> float | None:
    """A reward's weight in the config: a number, or a mapping that has it."""
    return number_of(given["weight"] if isinstance(given, dict) and "weight" in given else given)


def _number_text(value: Any) -> str:
    number = number_of(value)
    return "not judged" if number is None else f"{number + 0.0:.4g}"  # no -0


def _weighted(value: Any, weight: float | None) -> str:
    number = number_of(value)
    return "" if number is None or not weight else f"{number * weight + 0.0:+.4g}"
