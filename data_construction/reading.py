"""Read a model's reply for each role of the agent loop: the usable part, or the name of its fault.

Pure functions over untrusted text. They run in linear time, and their results have bounded length.
"""

import re
import zlib

from reward.grade import read_answer
from vlm.response import after_reasoning, find_reasoning, split_sentences, states_answer

FAULTS = {
    "empty": "it is empty",
    "endless": "it was cut off before it came to an end",
    "repeating": "it repeats itself",
    "too_long": "it is far too long",
    "no_request": "it holds no question that could be passed on",
    "answers_itself": "it gives an answer, where a question to the one who sees the picture was wanted",
    "refusal": "it refuses, or says that there is no picture",
    "asks_back": "it asks a question, where a description of the picture was wanted",
    "no_answer": "it gives no final answer",
    "bare": "it gives an answer without the reasoning that leads to it",
    "two_answers": "it gives several final answers that differ",
}
"""Name of a fault -> the sentence about it in the repair prompt. A changed sentence changes the keys of saved replies."""

MAX_REQUEST = 400
MAX_LOOK = 20_000
MAX_CONCLUSION = 50_000
_FENCE = re.compile(r"^\s{0,8}(?:```|~~~)[\w-]{0,20}\s*$", re.MULTILINE)


def read_request(text: str, finish_reason: str) -> tuple[str, str]:
    """(the question to the visual responder, "") or ("", fault).

    If there are several lines, it is the last one labelled as the question, else the last question, else the last line.
    """
    reply, fault = _usable_text(text, finish_reason)
    if fault:
        return "", fault
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    labelled = [line for line in lines if _LABEL.match(line) and _LABEL.sub("", line)]
    asking = [line for line in lines if line.rstrip("*_`\"'”」)").endswith(("?", "？"))]
    line = _undecorated((labelled or asking or lines)[-1])
    if len(line) > MAX_REQUEST:  # a paragraph: its last question
        sentences = [line[start:end] for start, end in split_sentences(line[-10_000:])]
        line = next((one for one in reversed(sentences) if one.endswith(("?", "？"))), line)
    if _CONCLUDES.search(line) or ("\\boxed" in reply and not asking):
        return "", "answers_itself"
    return (line, "") if 0 < len(line) <= MAX_REQUEST else ("", "no_request")


def read_look(text: str, finish_reason: str) -> tuple[str, str]:
    """(what was seen, on one line, "") or ("", fault)."""
    reply, fault = _usable_text(text, finish_reason, MAX_LOOK)
    look = " ".join(reply.split()).replace("’", "'")
    if fault or not look:
        return "", fault or "empty"
    if len(look) <= 600:  # a refusal is short, and a long description may quote one
        if _REFUSAL.search(look):
            return "", "refusal"
        sentences = [look[start:end] for start, end in split_sentences(look)]
        if _ASKS.search(look) or all(sentence.endswith(("?", "？")) for sentence in sentences):
            return "", "asks_back"
    return look, ""


def read_conclusion(text: str, finish_reason: str) -> tuple[str, str | None, str]:
    """(the reasoning without its box, the answer, "") or (the reasoning or "", None, fault)."""
    reply, fault = _usable_text(text, finish_reason, MAX_CONCLUSION)
    if fault:
        return "", None, fault
    before, boxed, after = reply.partition("\\boxed")
    reasoning = " ".join(before.split()) or " ".join(after.partition("}")[2].split())
    if not boxed and finish_reason == "length":
        return reasoning, None, "endless"
    answers = {"".join(answer.lower().split()) for answer in _BOX.findall(reply)}
    if len(answers) > 1:
        return reasoning, None, "two_answers"
    answer = read_answer(reply, finish_reason != "length")
    if answer is None:
        return reasoning, None, "no_answer"
    return (reasoning, answer, "") if reasoning else ("", None, "bare")


def stated_answer(text: str) -> str | None:
    """The last answer that a trace states itself, in a box or in words, or None."""
    return read_answer(text, True) if states_answer(text) else None


def repeats(text: str) -> bool:
    """Whether a text repeats itself: zlib compresses it to a twelfth of its length, where plain prose reaches a third."""
    return len(text) >= 600 and len(text.encode()) > 12 * len(zlib.compress(text.encode(), 6))


def _usable_text(text: str, finish_reason: str, most: int = MAX_CONCLUSION) -> tuple[str, str]:
    """(the reply without reasoning and code fences, fault)."""
    if finish_reason == "too_long" or len(text) > 4 * MAX_CONCLUSION:
        return "", "too_long"
    reply = after_reasoning(text)
    if not reply.strip():
        reasoning = find_reasoning(text)
        unclosed = reasoning.opened and not reasoning.closed
        return "", "endless" if finish_reason == "length" or unclosed else "empty"
    if repeats(reply):
        return "", "repeating"
    if len(reply) > most:
        return "", "too_long"
    reply = _FENCE.sub("", reply).strip()
    return reply, "" if reply else "empty"


def _undecorated(line: str) -> str:
    """A line without list marks, label, and the emphasis or quotes around it."""
    line = re.sub(r"^(?:[-*•]|\d{1,2}[.)])\s{1,4}", "", line).strip("*_`\"'“”「」 ")
    return _LABEL.sub("", line).strip("*_`\"'“”「」 ")


_LABEL = re.compile(
    r"^[*_#\s]{0,6}(?:asked|request|(?:my |next |the )?question|问题|提问)[*_]{0,3}\s?[:：][*_\s]{0,5}", re.IGNORECASE
)
_CONCLUDES = re.compile(
    r"\\boxed|^(?:so |thus |therefore,? )?the (?:final )?answer is\b|^(?:final )?answer\s?:", re.IGNORECASE
)
_BOX = re.compile(r"\\boxed\s{0,4}\{([^{}]{1,200})\}")
_IMAGES = r"(?:image|picture|photo|figure)s?"
_REFUSAL = re.compile(
    r"\b(?:sorry|apologi[sz]e)\b[^.!?\n]{0,60}\b(?:can(?:no|')t|can not|unable|not able)\b"
    r"|\bI(?: a|')m (?:unable|not able) to (?:help|assist|comply|view|see|access|process)\b"
    rf"|\b(?:can(?:no|')t|can not|unable to) (?:help|assist|comply|(?:view|see|access|process) (?:the|this|that|an?y?|your) {_IMAGES})\b"
    rf"|\bno {_IMAGES} (?:was|were|is|has been|have been) (?:provided|attached|uploaded|given|shared)\b"
    r"|\bas an? (?:AI|language model)\b"
    r"|抱歉|对不起|无法(?:查看|看到|识别|提供|回答)(?:图|该|这|您)",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\b(?:could|can|would) you (?:please )?(?:clarify|specify|provide|upload|share)\b"
    r"|\bplease (?:provide|upload|share|clarify|specify)\b|请(?:提供|上传|说明)",
    re.IGNORECASE,
)
