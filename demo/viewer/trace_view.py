"""The traces of a build: each round with its request, look, conclusion and verdict; what was dropped, and why."""

import json
import re
from pathlib import Path
from typing import Any

from demo.viewer import blocks
from demo.viewer.blocks import Block
from demo.viewer.columns import Entry
from demo.viewer.lines import LineTable, signature
from demo.viewer.problem_sets import ProblemIndex
from demo.viewer.values import cut_text, dict_of, list_of, number_of, spans_of, text_of
from demo.viewer.views import View
from vlm.response import relook_spans

TONES = {"kept": "good", "no_reflection": "plain", "wrong": "bad", "filtered": "bad", "error": "bad"}
STATUS_IN_WORDS = {
    "kept": "Kept: the conclusion is correct after at least one re-look.",
    "no_reflection": "Correct at the first look, so there is no re-look to learn from.",
    "wrong": "Dropped: no round came to a correct conclusion.",
    "filtered": "Dropped by a filter, although its conclusion is correct.",
    "error": "No episode: a model gave no usable reply. The next build tries the problem again.",
}
LEFT_OUT = {
    "kept": "Kept, but not in the cold-start set: it would be a re-look that corrects, of which the mix has enough (mix.min_confirm).",
    "no_reflection": "Not in the cold-start set, which has enough rows without a re-look (mix.plain_share).",
}
MAX_REPLIES = 200
MAX_SCANNED = 2**30
"""Bytes of the log of replies that are searched for those of one problem."""
_TAUGHT = re.compile(rb'"mode": "think", "problem_id": ("(?:[^"\\]|\\.)*")')


class TraceView(View):
    """``traces.jsonl``, with ``filtered.jsonl``, ``sft.jsonl`` and ``replies.jsonl`` beside it where they are there."""

    name = "traces"
    title = "Traces"

    def __init__(self, path: Path, problems: ProblemIndex) -> None:
        super().__init__(path.parent, problems)
        self._derived = (path.parent / "filtered.jsonl", path.parent / "sft.jsonl")
        self._seen: object = None
        self._filters: dict[str, str] = {}
        self._taught: set[str] | None = None
        self.table = LineTable(path, self.entry, self._read_derived)

    def _read_derived(self) -> object:
        """Read again what the build derived from its traces, if it has changed; returns what tells a change."""
        now = signature(*self._derived)
        if now != self._seen:
            self._seen, self._filters, self._taught = now, {}, None
            filtered, taught = self._derived
            if filtered.exists():
                for line in filtered.read_bytes().splitlines():
                    try:
                        row = dict_of(json.loads(line))
                    except (ValueError, RecursionError):
                        continue
                    self._filters[text_of(row.get("id"))] = text_of(row.get("filter"))
            if taught.exists():
                self._taught = {str(json.loads(one)) for one in _TAUGHT.findall(taught.read_bytes())}
        return now

    def _status(self, row: dict[str, Any]) -> tuple[str, str]:
        """How the episode ended, and why in one word."""
        dropped = self._filters.get(text_of(row.get("id")))
        if dropped is not None:
            return "filtered", dropped
        return text_of(row.get("status")), text_of(row.get("error"))

    def entry(self, row: dict[str, Any]) -> Entry:
        status, why = self._status(row)
        words = {"status": status, "why": why, "family": self.problems.family(row.get("problem_id"))}
        words["text by"] = text_of(row.get("cohesion"))
        if self._taught is not None:
            words["in SFT set"] = "yes" if self._is_taught(row, status) else "no"
        rounds = [dict_of(one) for one in list_of(row.get("rounds"))]
        numbers = {"rounds": float(len(rounds)), "re-looks": number_of(row.get("looks"))}
        for key in ("tokens", "repairs"):
            numbers[key] = number_of(dict_of(row.get("usage")).get(key))
        if rounds:
            words["first round"] = "correct" if rounds[0].get("verdict") is True else "incorrect"
        return Entry(
            {name: word[:60] for name, word in words.items() if word},
            {name: number for name, number in numbers.items() if number is not None},
        )

    def _is_taught(self, row: dict[str, Any], status: str) -> bool:
        return status in ("kept", "no_reflection") and text_of(row.get("problem_id")) in (self._taught or ())

    def brief(self, row: dict[str, Any]) -> dict[str, Any]:
        status, _ = self._status(row)
        found = self.problem_of(row)
        rounds = [dict_of(one) for one in list_of(row.get("rounds"))]
        marks = "".join("✓" if one.get("verdict") is True else "✗" for one in rounds[:8])
        asked = text_of(found.row.get("question")) if found else ""
        first = text_of(rounds[0].get("request")) if rounds else text_of(row.get("why"))
        return {
            "title": cut_text(first or asked or text_of(row.get("problem_id")), 200),
            "sub": cut_text(text_of(row.get("problem_id")), 100),
            "badge": status.replace("_", " "),
            "tone": TONES.get(status, "plain"),
            "number": marks,
        }

    def blocks(self, row: dict[str, Any], number: int) -> list[Block]:
        status, why = self._status(row)
        shown = [self._outcome(row, status, why), *self.problem_blocks(row)]
        rounds = [dict_of(one) for one in list_of(row.get("rounds"))]
        shown += [_round_block(place, one) for place, one in enumerate(rounds[:50], start=1)]
        if trace := text_of(row.get("trace")):
            shown.append(_trace_block(trace, row))
        usage = dict_of(row.get("usage"))
        shown.append(
            blocks.facts(
                [
                    ("answer", row.get("answer")),
                    ("re-looks", row.get("looks")),
                    ("text by", row.get("cohesion")),
                    *((role, model) for role, model in dict_of(row.get("models")).items()),
                    *((key, usage.get(key)) for key in ("calls", "repairs", "tokens", "prompt_tokens", "seconds")),
                ]
            )
        )
        if (self.folder / "replies.jsonl").exists():
            shown.append({"kind": "more", "title": "Replies of the models, as they were written", "n": number})
        return shown

    def _outcome(self, row: dict[str, Any], status: str, why: str) -> Block:
        said = STATUS_IN_WORDS.get(status, f"Status: {status}.")
        if self._taught is not None and status in LEFT_OUT and not self._is_taught(row, status):
            said = LEFT_OUT[status]
        reason = ": ".join(part for part in (why, text_of(row.get("why"))) if part)
        return blocks.note(f"{said} ({reason})" if reason else said, TONES.get(status, "plain"))

    def replies(self, row: dict[str, Any]) -> list[Block]:
        """The replies to the requests of a row's episode, also those that could not be used; the log is searched for them."""
        found = self._find_replies(text_of(row.get("problem_id")))
        shown = []
        for one in found[:MAX_REPLIES]:
            reply = dict_of(one.get("reply"))
            place = (
                f"{text_of(one.get('role'))}, round {text_of(one.get('round'))}, attempt {text_of(one.get('attempt'))}"
            )
            tokens = f"{text_of(reply.get('prompt_tokens'))} + {text_of(reply.get('completion_tokens'))} tokens"
            shown.append(
                blocks.shown_text(
                    f"{place} ({tokens}, {text_of(reply.get('finish_reason'))})", text_of(reply.get("text"))
                )
            )
        return shown or [blocks.note("replies.jsonl has no reply of this episode.")]

    def _find_replies(self, problem_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        wanted = b'"problem_id": ' + json.dumps(problem_id, ensure_ascii=False).encode("utf-8", "replace")
        scanned = 0
        with open(self.folder / "replies.jsonl", "rb") as file:
            while scanned < MAX_SCANNED and len(found) < MAX_REPLIES:
                block = file.read(2**22) + file.readline()
                if not block:
                    break
                scanned += len(block)
                at = 0
                while (at := block.find(wanted, at)) >= 0:
                    start, end = block.rfind(b"\n", 0, at) + 1, block.find(b"\n", at)
                    end = len(block) if end < 0 else end
                    at = end
                    try:
                        row = dict_of(json.loads(block[start:end]))
                    except (ValueError, RecursionError):
                        continue
                    if row.get("problem_id") == problem_id:
                        found.append(row)
        return sorted(found, key=lambda row: (number_of(row.get("round")) or 0.0, number_of(row.get("attempt")) or 0.0))


def _round_block(place: int, one: dict[str, Any]) -> Block:
    correct = one.get("verdict") is True
    answer = text_of(one.get("answer"))
    verdict = "correct" if correct else "incorrect" if answer else "no answer"
    return {
        "kind": "round",
        "title": f"Round {place}",
        "verdict": f"{verdict}: {cut_text(answer, 300)}" if answer else verdict,
        "tone": "good" if correct else "bad",
        "parts": [
            [name, cut_text(text_of(one.get(key)))]
            for name, key in (("Request", "request"), ("Look", "reply"), ("Conclusion", "conclusion"))
        ],
    }


def _trace_block(trace: str, row: dict[str, Any]) -> Block:
    """The text of a trace: what it corrects later, and the sentences that go back to the image."""
    trace = cut_text(trace)
    corrected = spans_of(row.get("corrected"), len(trace))
    marks: list[tuple[int, int, list[Any]]] = [
        (*span, ["corrected", None, "corrected later: no loss"]) for span in corrected
    ]
    for start, end in relook_spans(trace):
        if not any(start < other and end > begin for begin, other in corrected):
            marks.append((start, end, ["relook", None, "goes back to the image"]))
    legend = [["relook", "a re-look"], ["corrected", "corrected later, so it carries no loss"]]
    used = {mark[2][0] for mark in marks}
    return blocks.marked_text(
        "Trace", blocks.cut_spans(trace, sorted(marks)), [one for one in legend if one[0] in used]
    )
