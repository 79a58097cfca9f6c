"""Read a model's reply for each role of the agent loop: the usable part, or the name of its fault.

Pure functions over untrusted text. They run in linear time, and their results have bounded length.
"""

import re
import zlib

from reward.grade import read_answer
from vlm.protocol import ending_of
from vlm.response import after_reasoning, find_reasoning, split_sentences, states_answer

FAULTS = {
    "empty": "it is empty",
    "endless": "it was cut off before it came to an end",
    "filtered": "a content filter withheld it or a part of it",
    "failed": "the server ended it by an error",
    "repeating": "it repeats itself",
    "too_long": "it is far too long",
    "no_request": "it holds no question that could be passed on",
    "answers_itself": "it gives an answer, where a question to the one who sees the picture was wanted",
    "refusal": "it refuses, or says that there is no picture",
    "asks_back": "it asks a question, where a description of the picture was wanted",
    "no_answer": "it gives no final answer",
    "bare": "it gives an answer without the reasoning that leads to it",
    "two_answers": "it gives several final answers that differ",
    "undecided": "it does not decide on an answer",
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
    if not asking and (_REFUSAL.search(line) or _is_undecided(line)):
        return "", "no_request"
    return (line, "") if 0 < len(line) <= MAX_REQUEST else ("", "no_request")


def read_look(text: str, finish_reason: str) -> tuple[str, str]:
    """(what was seen, on one line, "") or ("", fault)."""
    reply, fault = _usable_text(text, finish_reason, MAX_LOOK)
    look = " ".join(reply.split()).replace("’", "'")
    if fault or not look:
        return "", fault or "empty"
    if len(look) <= 600:  # a refusal is short, and a long description may quote one
        if _REFUSAL.search(look) or _is_undecided(look):
            return "", "refusal"
        sentences = [look[start:end] for start, end in split_sentences(look)]
        if _ASKS.search(look) or all(sentence.endswith(("?", "？")) for sentence in sentences):
            return "", "asks_back"
    return look, ""


def read_conclusion(text: str, finish_reason: str) -> tuple[str, str | None, str]:
    """(the reasoning without its box, the answer, "") or (the reasoning or "", None, fault).

    Of a conclusion that was cut off, an answer that it had boxed already counts, as in a grade. An answer in prose that decides
    nothing ("it cannot be determined") is none; in a box it counts, since an option may say just that.
    """
    ended = ending_of(finish_reason)
    reply, fault = _usable_text(text, "stop" if ended == "length" and "\\boxed" in text else ended, MAX_CONCLUSION)
    if fault:
        return "", None, fault
    before, boxed, after = reply.partition("\\boxed")
    reasoning = " ".join(before.split()) or " ".join(after.partition("}")[2].split())
    answers = {"".join(answer.lower().split()) for answer in _BOX.findall(reply)}
    if len(answers) > 1:
        return reasoning, None, "two_answers"
    answer = read_answer(reply, ended != "length")
    if answer is None:
        return reasoning, None, "no_answer"
    if not boxed and (_REFUSAL.search(answer) or _is_undecided(_last_sentence(answer))):
        return reasoning, None, "undecided"
    return (reasoning, answer, "") if reasoning else ("", None, "bare")


def stated_answer(text: str) -> str | None:
    """The last answer that a trace states itself, in a box or in words, or None."""
    return read_answer(text, True) if states_answer(text) else None


def repeats(text: str) -> bool:
    """Whether a text repeats itself: zlib compresses it to a twelfth of its length, where plain prose reaches a third."""
    return len(text) >= 600 and len(text.encode()) > 12 * len(zlib.compress(text.encode(), 6))


def _usable_text(text: str, finish_reason: str, most: int = MAX_CONCLUSION) -> tuple[str, str]:
    """(the reply without reasoning and code fences, fault)."""
    ended = ending_of(finish_reason)  # a saved reply may hold the server's own word
    if ended in ("filtered", "failed"):
        return "", ended
    if ended == "too_long" or len(text) > 4 * MAX_CONCLUSION:
        return "", "too_long"
    reply = after_reasoning(text)
    if not reply.strip():
        reasoning = find_reasoning(text)
        unclosed = reasoning.opened and not reasoning.closed
        return "", "endless" if ended == "length" or unclosed else "empty"
    if repeats(reply):
        return "", "repeating"
    if ended == "length":
        return "", "endless"
    if len(reply) > most:
        return "", "too_long"
    reply = _FENCE.sub("", reply).strip()
    return reply, "" if reply else "empty"


def _is_undecided(text: str) -> bool:
    """Whether a short text says only that it does not know: each of its sentences does."""
    if len(text) > 300:
        return False
    text = text.replace("’", "'")
    sentences = [text[start:end] for start, end in split_sentences(text)]
    return bool(sentences) and all(_UNDECIDED.search(sentence) for sentence in sentences)


def _last_sentence(text: str) -> str:
    spans = split_sentences(text)
    return text[spans[-1][0] : spans[-1][1]] if spans else text


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
    rf"|\b(?:do not|don't) (?:see|have|have access to) (?:the|this|that|an?y?|your) {_IMAGES}\b"
    rf"|\b(?:can(?:no|')t|can not|unable to) (?:see|view|access) {_IMAGES}\b"
    rf"|\bno {_IMAGES} (?:was|were|is|has been|have been) (?:provided|attached|uploaded|given|shared|included|visible)\b"
    rf"|\b(?:have|has|did) ?(?:not|n't) (?:provided?|attach(?:ed)?|upload(?:ed)?|shared?|included?) (?:the|an?y?|your) {_IMAGES}\b"
    rf"|\b{_IMAGES} (?:is missing|did(?: not|n't) load|could(?: not|n't) be (?:loaded|opened|displayed|processed))\b"
    r"|\bas an? (?:AI|language model)\b"
    r"|抱歉|对不起|无法(?:查看|看到|识别|提供|回答)(?:图|该|这|您)",
    re.IGNORECASE,
)
_UNDECIDED = re.compile(
    r"\b(?:need|requires?|lack|missing|without) (?:some )?(?:more|further|additional|enough|sufficient) "
    r"(?:information|details?|context|data)\b"
    r"|\b(?:not enough|insufficient|no) (?:information|details?|context|data|evidence)\b"
    r"|\b(?:can(?:no|')t|can not|could(?: not|n't)|unable to|(?:im|not )possible to|not able to) (?:be )?"
    r"(?:determined?|tell|told|say|said|answer(?:ed)?|know|known|identif(?:y|ied)|concluded?|decided?|judged?|inferred?|help|assist)\b"
    r"|\b(?:do not|don't) (?:know|understand)\b|\b(?:not |un)(?:sure|certain|clear|known|determined|decided)\b|\bindeterminate\b"
    r"|\bno idea\b|^\W{0,3}(?:I'm |I am |we're )?(?:very |so )?sorry\b|^\W{0,3}(?:I |my )?apologi[sz]e|^\s{0,9}n/?a\W{0,3}$"
    r"|(?:无法|不能|難以|难以)(?:确定|確定|判断|判斷|回答|得知|看出|识别)|不(?:确定|確定|知道|清楚)|(?:需要更多|缺少|没有足够的?)(?:信息|資訊|资料)|信息不足"
    r"|(?:わかり|分かり|判断でき|特定でき|答えられ)ません|情報が(?:足り|不足|必要)"
    r"|알 수 없|모르겠|판단할 수 없|정보가 (?:부족|더 필요)"
    r"|\b(?:weiß|kann)\b[^.!?]{0,60}\bnicht\b|\bnicht (?:bestimmbar|erkennbar|zu erkennen|genug)\b"
    r"|\bne (?:sais|peux|peut) pas\b|\bimpossible (?:de|à) (?:dire|déterminer|savoir)\b|\bplus d'informations\b"
    r"|\bno (?:sé|puedo|se puede)\b|\b(?:necesito|falta) (?:más )?información\b",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\b(?:could|can|would) you (?:please )?(?:clarify|specify|provide|upload|share)\b"
    r"|\bplease (?:provide|upload|share|clarify|specify)\b|请(?:提供|上传|说明)",
    re.IGNORECASE,
)
