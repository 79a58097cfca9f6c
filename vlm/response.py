"""Reading what a model wrote: reasoning, answer, sentences, and the places where it goes back to the image.

Pure Python. Model output is untrusted: every pattern here runs in linear time, and an answer has a bounded length.
"""

import contextlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_READ = 200_000
"""Characters that are read: the answer in the last ones, looks in the first ones."""
MAX_ANSWER = 1_000
"""A longer "answer" is not one."""


@dataclass(frozen=True)
class Response:
    """A response taken apart.

    Attributes:
        reasoning: the text inside ``<think>``, without the tags; empty if there is none.
        answer: the final answer, or None.
        closed: there is a ``</think>``.
        boxed: the answer stood in ``\\boxed{}``.
    """

    reasoning: str
    answer: str | None
    closed: bool
    boxed: bool


def parse_response(text: str, finished: bool = True) -> Response:
    """Take a response apart, in any format that models use.

    The answer is, in this order: the last balanced ``\\boxed{...}`` (the inner of two nested ones), the last
    ``<answer>...</answer>``, the value of ``answer`` in a JSON object, what follows the last "answer is" or "answer:" (in several
    languages), the last line that is not blank. Two boxes or tags with an "or" between them are one answer, ``12 or 24``. It is
    looked for after the reasoning; if there is none, a box or an ``<answer>`` inside the reasoning counts. Reasoning
    that was never closed gives no answer in prose, because the model may still change its mind.

    Args:
        finished: False for a response that was cut off. It has no last line, so only an answer that it has boxed counts.
    """
    span = find_reasoning(text)
    unfinished = span.opened and not span.closed
    reasoning, tail = text[span.start : span.end], text[span.end :]
    if span.closed:
        tail = text[span.after :]
    while end := next(
        (mark for mark in _TURN_ENDS if tail.rstrip().endswith(mark)), None
    ):  # where a server leaves it in the text
        tail = tail.rstrip().removesuffix(end)
    answer = None if unfinished else _boxed(tail)
    boxed = answer is not None
    if answer is None and not unfinished:
        answer = _tagged(tail) or _json_answer(tail) or _phrased(tail) or _last_line(tail)
    if answer is None:
        answer = _boxed(reasoning)
        boxed = answer is not None
    if answer is None:
        answer = _tagged(reasoning)
    if not (finished or boxed):
        answer = None
    return Response(reasoning.strip(), answer, span.closed, boxed)


_OPEN = re.compile(
    r"<(?:seed:)?think(?:ing)?>|<(?:thought|reasoning)>|◁think▷|\[THINK\]|<\|begin_of_thought\|>"
    r"|<\|channel\|>(?:analysis|thought)<\|message\|>|<\|channel>thought\b",  # harmony, Gemma 4
    re.IGNORECASE,
)
_CLOSE = re.compile(
    r"</(?:seed:)?think(?:ing)?>|</(?:thought|reasoning)>|◁/think▷|\[/THINK\]|<\|end_of_thought\|>"
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>|<channel\|>",
    re.IGNORECASE,
)
_TAG = re.compile(rf"{_OPEN.pattern}|{_CLOSE.pattern}|</?answer>|</?tool_call>", re.IGNORECASE)
_TAG_TOKENS = {  # one token of a tokenizer -> its tokens that thinking tags are made of, where a tag has several
    "<|channel>": {"<|channel>"},
    "<|channel|>": {"<|channel|>", "<|message|>", "<|start|>", "<|end|>"},
}
_TURN_ENDS = ("<|return|>", "<|end|>", "<|im_end|>", "<|eot_id|>", "<turn|>", "<end_of_turn>", "</s>")


class Tags(NamedTuple):
    """The tags around a thinking span, as a family of models writes them."""

    opening: str
    closing: str


TAGS = (
    Tags("<think>", "</think>"),
    Tags("<|channel>thought\n", "<channel|>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("◁think▷", "◁/think▷"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("<thinking>", "</thinking>"),
    Tags("<thought>", "</thought>"),
    Tags("<reasoning>", "</reasoning>"),
    Tags("<|begin_of_thought|>", "<|end_of_thought|>"),
    Tags("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)
"""The tags that are written; those that are read also differ in case."""


class Reasoning(NamedTuple):
    """Where a response reasons: characters [start, end) strictly inside its first ``<think> ... </think>``.

    A prompt may have opened the tag already: then ``opened`` is False and the span begins at 0. Of a text that was never closed
    it goes on to the end, and of a text without tags it is empty. ``after`` is where the text behind the closing tag begins; tags of
    other models count like ``<think>``.
    """

    start: int
    end: int
    opened: bool
    closed: bool
    after: int


def find_reasoning(text: str) -> Reasoning:
    """The one reader of thinking tags, in whatever case and by whichever family of models they are written."""
    close = _CLOSE.search(text)
    start = _OPEN.search(text, 0, close.start() if close else len(text))
    end = close.start() if close else len(text) if start else 0
    return Reasoning(
        start.end() if start else 0, end, start is not None, close is not None, close.end() if close else end
    )


def closing_tag(text: str) -> str:
    """The tag that closes the thinking span which a text opens first, in the same family; ``</think>`` if it opens none."""
    opening = _OPEN.search(text)
    written = opening[0].lower() if opening else ""
    return next((tags.closing for tags in TAGS if written == tags.opening.strip().lower()), TAGS[0].closing)


def open_tag_at_end(prompt: str) -> str:
    """The opening tag with which a prompt ends, and the blanks behind it; empty for any other prompt."""
    *_, last = [None, *_OPEN.finditer(prompt)]
    return prompt[last.start() :] if last and not prompt[last.end() :].strip() else ""


def thinking_tags(text: str) -> list[tuple[int, int, bool]]:
    """Every thinking tag of a text: its characters [start, end), and whether it opens a span."""
    found = [
        (*match.span(), opens)
        for pattern, opens in ((_OPEN, True), (_CLOSE, False))
        for match in pattern.finditer(text)
    ]
    return sorted(found)


def tag_tokens(tokens: Collection[str]) -> set[str]:
    """Of the tokens of a tokenizer those that spell a thinking tag, an answer tag or a tool call's, or a part of one."""
    parts = {part for token, several in _TAG_TOKENS.items() if token in tokens for part in several}
    return {token for token in tokens if token in parts or _TAG.fullmatch(token.strip())}


def split_at_tags(text: str) -> list[str]:
    """The text in pieces that together are the text: what stands before, between and after tags, and at odd places the tags."""
    return re.split(f"({_TAG.pattern})", text, flags=re.IGNORECASE)


def after_reasoning(text: str) -> str:
    """What follows the last ``</think>``; the whole text where there is none, empty where another ``<think>`` stays open."""
    *_, rest = _CLOSE.split(text)
    return "" if _OPEN.search(rest) else rest


def repeats_tags(text: str) -> bool:
    """Whether a thinking tag occurs more than once."""
    return any(len(pattern.findall(text)) > 1 for pattern in (_OPEN, _CLOSE))


def marks_answer(text: str) -> bool:
    """Whether a text holds an answer in a box or in ``<answer>`` tags."""
    return (_boxed(text) or _tagged(text)) is not None


def without_tags(text: str) -> str:
    """The text with a line end for each character of a tag, so that offsets stay and no sentence goes across one."""
    return _TAG.sub(lambda match: "\n" * len(match[0]), text)


_BRACES = re.compile(r"\\\s?boxed\s{0,8}\{|\\[\\{}]|[{}]")


def _boxed(text: str) -> str | None:
    """Content of the balanced box that opens last. One pass with a stack: braces take no longer than prose."""
    text = text[-MAX_READ:]
    open_braces: list[re.Match[str] | None] = []  # the opening of a box; None for any other brace
    closed = []
    for match in _BRACES.finditer(text):
        token = match[0]
        if token == "{":
            open_braces.append(None)
        elif token == "}":
            opening = open_braces.pop() if open_braces else None
            if opening is not None and (inside := text[opening.end() : match.start()].strip()):
                closed.append(_Marked(opening.start(), match.end(), inside))
        elif token.endswith("boxed{") or len(token) > 2:
            open_braces.append(match)
    return _last_of(text, closed)


class _Marked(NamedTuple):
    """An answer in a box or a tag, and where these stand."""

    start: int
    end: int
    content: str


_ALTERNATIVE = re.compile(
    r"[\s$*_,;)\]\\]{0,8}(?:\b(?:or|oder|ou|o|или)\b|أو|或者?|还是|또는|혹은|または|もしくは|あるいは)[\s$*_(\[\\]{0,8}",
    re.IGNORECASE,
)


def _last_of(text: str, marked: Sequence[_Marked]) -> str | None:
    """The marked answer that begins last, with those to which an "or" joins it (``12 or 24``: no verifier takes that for one)."""
    if not marked:
        return None
    last = max(marked, key=lambda one: one.start)
    answers, begin = [last.content], last.start
    for one in reversed(marked):
        if one.end <= begin:
            if len(answers) >= 8 or begin - one.end > 40 or not _ALTERNATIVE.fullmatch(text, one.end, begin):
                break
            answers.append(one.content)
            begin = one.start
    return _bounded(" or ".join(dict.fromkeys(reversed(answers))))


_ANSWER_TAG = re.compile(r"</?answer>", re.IGNORECASE)


def _tagged(text: str) -> str | None:
    text = text[-MAX_READ:]
    opening, tagged = None, []
    for match in _ANSWER_TAG.finditer(text):
        if not match[0].startswith("</"):
            opening = match
        elif opening is not None:
            tagged.append(_Marked(opening.start(), match.end(), text[opening.end() : match.start()].strip()))
            opening = None
    return _last_of(text, tagged)


_JSON_ANSWER = re.compile(
    r"[\"'](?:final[_ ]?)?answer[\"']\s{0,8}:\s{0,8}(\"(?:[^\"\\\n]|\\.){1,1000}\"|-?\d[\d.]{0,40}|\[[^\[\]]{0,1000}\]|true|false)",
    re.IGNORECASE,
)


def _json_answer(text: str) -> str | None:
    """The last value of ``answer`` or ``final_answer`` in a JSON object, wherever it stands in the text."""
    *_, value = ["", *(match[1] for match in _JSON_ANSWER.finditer(text[-MAX_READ:]))]
    if value.startswith('"'):
        with contextlib.suppress(ValueError):
            value = json.loads(value, strict=False)
    return _bounded(value)


# "The answer is", "La réponse correcte est", "Die Antwort lautet:", "答案是", "정답은", "الإجابة هي": with a colon in any language.
_ANSWER_PHRASE = re.compile(
    r"(?:\banswer[*_]{0,3}(?:\s{1,4}(?:is|would\s{1,4}be|should\s{1,4}be|must\s{1,4}be)\b|\s{0,4}(?:[:=：]|->|→))"
    r"|\b(?:antwort|lösung|réponse|respuesta|resposta|risposta|ответ|الإجابة|الاجابة|الجواب)[*_]{0,3}(?:\s{1,4}\w{1,20})?"
    r"(?:\s{1,4}(?:ist|lautet|est|es|é|è|هي|هو)\b|\s{0,4}[:=：—])"
    r"|(?:答案|答え|正解|回答|解答)[*_]{0,3}\s{0,4}(?:应该是|应为|是|为|為|は|[:=：])"
    r"|(?:정답|답)[*_]{0,3}\s{0,4}(?:은|는|[:=：]))[\s:：*_]{0,8}",
    re.IGNORECASE,
)
_STOP = re.compile(r"\n|[.!?](?=\s)|[.!?]$|[。！？]")


def states_answer(text: str) -> bool:
    """Whether a text gives its answer in a box or in words, so that its last line need not be taken for one."""
    return "\\boxed" in text or _ANSWER_PHRASE.search(text) is not None


def _phrased(text: str) -> str | None:
    text = text[-MAX_READ:]
    last = max(_ANSWER_PHRASE.finditer(text), key=lambda match: match.end(), default=None)
    if last is None:
        return None
    phrase = text[last.end() : last.end() + MAX_ANSWER + 1]
    stop = _STOP.search(phrase)
    return _undressed(phrase[: stop.start()] if stop else phrase)


def _last_line(text: str) -> str | None:
    return _undressed(text.strip()[-MAX_READ:].rsplit("\n", 1)[-1])


def _bounded(answer: str) -> str | None:
    answer = answer.strip()
    return answer if 0 < len(answer) <= MAX_ANSWER else None


def _undressed(answer: str) -> str | None:
    """An answer in prose without the markdown emphasis, quotes and full stop around it."""
    answer = answer.strip().strip("*_`\"'")
    if answer.endswith(".") and not answer.endswith(".."):
        answer = answer[:-1]
    return _bounded(answer.strip().strip("*_`\"'"))


# A full stop ends a sentence where a blank follows it, unless the sentence so far is but a number ("1. ").
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]++[\"')\]*]{0,3}(?=\s|$)|[。！？]++|\n++")


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Spans (start, end) of the sentences without the blanks around them; together they hold every visible letter."""
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if match[0][0] == "." and text[start : match.start()].strip().isdigit():
            continue
        _add_span(spans, text, start, match.end())
        start = match.end()
    _add_span(spans, text, start, len(text))
    return spans


def _add_span(spans: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    if visible := piece.strip():
        begin = start + len(piece) - len(piece.lstrip())
        spans.append((begin, begin + len(visible)))


_SIGHT = r"(?:picture|image|figure|photo|diagram|chart|graph|table|grid|scene|drawing|plot)"
_NEAR = r"[^.!?\n]{0,60}?\b"  # within the same sentence, and bounded: these patterns run over untrusted text
RELOOK_CUES = (
    rf"\blook(?:ing|ed)?\b{_NEAR}(?:again|once\s{{1,3}}more|closer|more\s{{1,3}}(?:closely|carefully))\b",
    r"\blook(?:ing)?\s{1,3}(?:back|closely)\b",
    r"\bre-?(?:examin|inspect|check)(?:e|ing)?\b",
    rf"\b(?:re-?visit|re-?view|double-?check)(?:ing)?\b{_NEAR}{_SIGHT}\b",
    rf"\b(?:check|verify|see|inspect|examine)(?:ing)?\b{_NEAR}(?:again|once\s{{1,3}}more)\b",
    r"\b(?:another|second|one\s{1,3}more|closer)\s{1,3}look\b",
    r"\bzoom(?:ing)?\s{1,3}in\b",
    rf"\b(?:go|going|return|returning|back)\s{{1,3}}(?:back\s{{1,3}})?to\s{{1,3}}the\s{{1,3}}{_SIGHT}\b",
    r"再看|再次(?:看|检查|观察)|重新(?:看|检查|观察|审视)|回到图",
)
"""Patterns (case ignored) of a sentence that goes back to the image."""
LOOK_CUES = (
    r"\blet(?:'s|\s{1,3}me|\s{1,3}us)\s{1,3}(?:have\s{1,3}a\s{1,3}|take\s{1,3}a\s{1,3})?look\b",
    rf"\b(?:check|verify|inspect|examine|consult)(?:ing)?\b{_NEAR}{_SIGHT}\b",
)
"""Patterns of a look that counts as a re-look only after the first sentence; in the first sentence it is the first look."""

_RELOOK = re.compile("|".join(RELOOK_CUES), re.IGNORECASE)
_LOOK = re.compile("|".join(LOOK_CUES), re.IGNORECASE)


def relook_spans(text: str) -> list[tuple[int, int]]:
    """Span (start, end) of every sentence that goes back to the image."""
    text = _OPEN.sub(lambda match: " " * len(match[0]), text[:MAX_READ])  # blanks keep the offsets
    spans = split_sentences(text)
    return [
        (start, end)
        for index, (start, end) in enumerate(spans)
        if _RELOOK.search(text, start, end) or (index and _LOOK.search(text, start, end))
    ]


def relook_starts(text: str) -> list[int]:
    """Character offset of every sentence that goes back to the image, in order."""
    return [start for start, _ in relook_spans(text)]


def count_looks(text: str) -> int:
    """Number of sentences in which the text goes back to the image."""
    return len(relook_spans(text))


def first_relook(text: str) -> int | None:
    """Character offset of the first sentence that goes back to the image, or None."""
    return next(iter(relook_starts(text)), None)
