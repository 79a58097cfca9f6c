"""How a row is shown: what every kind of row has in common, and problems and rows of any other kind."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from demo.viewer import blocks
from demo.viewer.blocks import Block
from demo.viewer.columns import Entry
from demo.viewer.problem_sets import Found, ProblemIndex, family_of
from demo.viewer.table import Table, ViewedRow
from demo.viewer.values import bounded_json, cut_text, dict_of, list_of, number_of, text_of

MAX_FACET_WORD = 60
FEW = 40
"""Different words up to which a column of rows of an unknown kind is a facet."""


class View:
    """The rows of one kind.

    Args:
        folder: from which the image paths of its rows start.
        problems: the problems that its rows belong to.
    """

    name: ClassVar[str] = "rows"
    title: ClassVar[str] = "Rows"
    table: Table

    def __init__(self, folder: Path, problems: ProblemIndex) -> None:
        self.folder, self.problems = folder, problems

    def entry(self, row: dict[str, Any]) -> Entry:
        """What a row can be filtered by."""
        raise NotImplementedError

    def brief(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row's line in the list: ``title``, ``sub``, ``badge``, ``tone`` and ``number``."""
        raise NotImplementedError

    def blocks(self, row: dict[str, Any], number: int) -> list[Block]:
        """What the page draws of a row."""
        raise NotImplementedError

    def images(self, row: dict[str, Any]) -> tuple[list[Any], Path]:
        """The images of a row as they are stored, and the folder from which their paths start."""
        found = self.problem_of(row)
        return (list_of(found.row.get("images")), found.folder) if found else ([], self.folder)

    def problem_of(self, row: dict[str, Any]) -> Found | None:
        """The problem that a row belongs to, if one of the sets has it."""
        return self.problems.find(row.get("problem_id"))

    def problem_blocks(self, row: dict[str, Any], more: Sequence[tuple[str, Any]] = ()) -> list[Block]:
        """Image, question and gold answer of a row's problem, and ``more`` names and values."""
        found = self.problem_of(row)
        if found is None:
            return [blocks.facts(more)] if more else []
        problem = found.row
        return [
            blocks.images(len(list_of(problem.get("images")))),
            blocks.facts(
                [
                    ("question", problem.get("question")),
                    ("choices", problem.get("choices")),
                    ("gold answer", problem.get("answer")),
                    ("family", family_of(problem)),
                    ("domain", problem.get("domain")),
                    *more,
                ]
            ),
        ]

    def line(self, number: int, row: ViewedRow) -> dict[str, Any]:
        """The line of a row in the list, also of one that cannot be read."""
        if row.content is None:
            return {"n": number, "title": row.raw[:200] or row.fault, "badge": "fault", "tone": "bad", "sub": row.fault}
        return {"n": number, **self.brief(row.content)}

    def detail(self, number: int, row: ViewedRow) -> dict[str, Any]:
        """All that the page shows of a row, also of one that cannot be read."""
        if row.content is None:
            shown = [blocks.note(row.fault, "bad"), blocks.shown_text("What stands there", row.raw)]
            return {"n": number, "title": f"row {number + 1}", "blocks": shown}
        title = text_of(row.content.get("id") or row.content.get("problem_id")) or f"row {number + 1}"
        shown = [*self.blocks(row.content, number), blocks.as_in_file(bounded_json(row.content))]
        return {"n": number, "title": cut_text(title, 200), "blocks": shown}


class PlainView(View):
    """Rows of any kind: columns of few words are facets, those of numbers are ranges.

    Args:
        sample: some rows, which tell the columns of few words.
    """

    def __init__(self, folder: Path, problems: ProblemIndex, sample: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(folder, problems)
        seen: dict[str, Counter[str]] = {}
        for row in sample:
            for key, value in row.items():
                if isinstance(value, str | bool):
                    seen.setdefault(key, Counter())[text_of(value)] += 1
        few = [
            key
            for key, words in seen.items()
            if len(words) <= min(FEW, max(2, words.total() // 4)) and max(map(len, words)) <= MAX_FACET_WORD
        ]
        self.facets = few[:6]

    def entry(self, row: dict[str, Any]) -> Entry:
        words = {key: text_of(row[key])[:MAX_FACET_WORD] for key in self.facets if row.get(key) not in (None, "")}
        if family := self.problems.family(row.get("problem_id")):
            words.setdefault("family", family)
        numbers = {key: number for key, value in row.items() if (number := number_of(value)) is not None}
        return Entry(words, numbers)

    def brief(self, row: dict[str, Any]) -> dict[str, Any]:
        texts = sorted((value for value in row.values() if isinstance(value, str)), key=len)
        named = text_of(row.get("id") or row.get("problem_id") or row.get("name"))
        return {
            "title": cut_text(named or (texts[-1] if texts else text_of(row)), 200),
            "sub": cut_text(texts[-1], 200) if named and texts else "",
            "badge": text_of(row.get(self.facets[0]))[:20] if self.facets else "",
        }

    def blocks(self, row: dict[str, Any], number: int) -> list[Block]:
        short = [(key, value) for key, value in row.items() if not isinstance(value, str) or len(value) <= 120]
        long = [(key, value) for key, value in row.items() if isinstance(value, str) and len(value) > 120]
        simple = [(key, value) for key, value in short if not isinstance(value, dict | list | bytes)]
        texts = [blocks.shown_text(key, cut_text(value)) for key, value in long]
        return [blocks.images(len(self.images(row)[0])), blocks.facts(simple), *texts]

    def images(self, row: dict[str, Any]) -> tuple[list[Any], Path]:
        own = row.get("images", row.get("image"))
        own = own if isinstance(own, list) else [] if own is None else [own]
        return (own, self.folder) if own else super().images(row)


class ProblemView(PlainView):
    """Problems: the image, the question, the gold answer and what is known of the image."""

    name = "problems"
    title = "Problems"

    def entry(self, row: dict[str, Any]) -> Entry:
        words = {key: text_of(row.get(key))[:MAX_FACET_WORD] for key in ("domain", "source") if row.get(key)}
        return Entry({"family": family_of(row), **words}, {})

    def brief(self, row: dict[str, Any]) -> dict[str, Any]:
        gold = f"{text_of(row.get('id'))} · gold: {text_of(row.get('answer'))}"
        return {
            "title": cut_text(text_of(row.get("question")), 200),
            "sub": cut_text(gold, 200),
            "badge": family_of(row),
        }

    def blocks(self, row: dict[str, Any], number: int) -> list[Block]:
        meta = dict_of(row.get("meta"))
        keys = ("question", "choices", "answer", "domain", "source", "id")
        return [
            blocks.images(len(list_of(row.get("images")))),
            blocks.facts([*((key, row.get(key)) for key in keys), *((f"meta.{key}", meta[key]) for key in meta)]),
        ]
