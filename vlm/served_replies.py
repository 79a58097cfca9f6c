"""Reading what a server sends: a completion, or the reason of an error. Nothing in a body is taken for granted.

Servers agree on the shape of a good reply and on little else: a finish reason has many names, the text may come as a list of parts,
reasoning stands in fields of its own, and an error is anything from ``{"error": {"message"}}`` to a page of HTML.
"""

import html
import json
import math
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from vlm.protocol import BackendError, TokenScore, ending_of
from vlm.tools import MAX_CALLS, write_tool_call

MAX_REASON = 200
"""Characters of a server's reason that are shown."""
_MAX_PAGE = 2**16
"""Characters of an error page in which the reason is looked for."""
_MAX_DEPTH = 6
_MAX_TOKEN = 200
"""Characters of one token's text that are kept; the longest tokens of any vocabulary are shorter."""


def read_completion(body: Any) -> tuple[str, str, tuple[int, int]]:
    """(text, finish reason, (prompt tokens, completion tokens)) of a completion.

    Raises:
        BackendError: it is none. If the body holds an error under HTTP 200, the message is the server's reason.
        ValueError, TypeError, AttributeError: a field has another type; the caller reports the body as unreadable.
    """
    choices = body.get("choices") if isinstance(body, dict) else None
    if not choices or not isinstance(choices, list):
        if isinstance(body, dict) and (body.get("error") or body.get("detail")):
            raise BackendError(f"the server answered with an error: {reason_in(body)}", "server_error")
        raise BackendError("the server's reply has no choices.", "unreadable")
    choice = choices[0]
    if isinstance(choice.get("error"), dict):  # routers report the failure of the server behind them so
        raise BackendError(f"the server answered with an error: {reason_in(choice)}", "server_error")
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BackendError("the server's reply cannot be read: its choice has no message.", "unreadable")
    ended = ending_of(choice.get("finish_reason"))
    text = _text_of(message.get("content")) + _calls_of(message.get("tool_calls"))
    if not text and isinstance(message.get("refusal"), str):
        text, ended = message["refusal"], "filtered"
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str) and reasoning.strip():
        text = _with_reasoning(reasoning, text, ended)
    usage = body.get("usage") or {}
    counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    return text, ended, counts


def _calls_of(found: Any) -> str:
    """The tool calls that a server hands over apart, as the model would write them into its text."""
    functions = [one.get("function") for one in found[: MAX_CALLS + 1] if isinstance(one, dict)] if found else []
    calls = [(one.get("name"), one.get("arguments")) for one in functions if isinstance(one, dict)]
    return "".join(f"\n{write_tool_call(name, arguments)}" for name, arguments in calls if isinstance(name, str))


def read_scores(body: Any, most: int) -> tuple[TokenScore, ...]:
    """The log-probabilities of a completion's tokens (``choices[0].logprobs.content`` of the chat API).

    At most ``most`` are read, and none from the first entry on that is malformed; a server that sends none gives ().
    ``body`` is one that ``read_completion`` has read.
    """
    logprobs = body["choices"][0].get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    scores: list[TokenScore] = []
    for entry in content[:most] if isinstance(content, list) else ():
        score = _token_and_log_p(entry)
        if score is None:
            break
        top = entry.get("top_logprobs")
        ranked = [_token_and_log_p(one) for one in top[:100]] if isinstance(top, list) else []
        likeliest = max((one for one in ranked if one is not None), key=lambda one: one[1], default=None)
        # A server may leave the token itself out of the list that it leads.
        taken = likeliest is None or score[1] >= likeliest[1]
        scores.append(TokenScore(*score, None if likeliest is None else score[0] if taken else likeliest[0]))
    return tuple(scores)


def _token_and_log_p(entry: Any) -> tuple[str, float] | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    log_p = entry.get("logprob")
    if isinstance(log_p, bool) or not isinstance(log_p, int | float) or not math.isfinite(log_p):
        return None
    return entry["token"][:_MAX_TOKEN], float(log_p)


def _text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BackendError("the server's reply is not text.", "unreadable")
    texts, thoughts = [], []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("thinking"), str):
            thoughts.append(part["thinking"])
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
    if not texts and not thoughts:
        raise BackendError("the server's reply is not text.", "unreadable")
    return _with_reasoning("".join(thoughts), "".join(texts), "stop") if thoughts else "".join(texts)


def _with_reasoning(reasoning: str, text: str, ended: str) -> str:
    """One text of reasoning and answer, which servers with a reasoning parser hand over apart."""
    if text.strip():
        return f"<think>{reasoning}</think>{text}"
    # A parser that meets no closing tag takes the whole reply for reasoning. A reply that ended by itself is then the answer,
    # perhaps with tags of its own, and one that was cut off was still thinking.
    return reasoning if ended == "stop" else f"<think>{reasoning}"


def other_model(asked: str, completion: Any) -> str:
    """The name under which a server answered, if it is not the asked one; "" if it is, or if the server gives none.

    A date or an organisation more or less is no other name (``gpt-4o-2024-08-06``), nor is the path of a file.
    """
    named = completion.get("model") if isinstance(completion, dict) else None
    if not isinstance(named, str):
        return ""
    ours, theirs = (name.rstrip("/").rpartition("/")[2].casefold() for name in (asked, named))
    return "" if ours in theirs or theirs in ours else named[:200]


def reason_in(body: Any) -> str:
    """What a server said about an error, on one line of at most ``MAX_REASON`` characters; "no reason given" for nothing.

    Args:
        body: the parsed JSON, or the text of the response.
    """
    if isinstance(body, bytes):
        body = body[:_MAX_PAGE].decode("utf-8", "replace")
    if isinstance(body, str):
        body = _json_or_words(body)
    said = " ".join(next(_reasons(body, 0), "").split())
    return said if len(said) <= MAX_REASON else said[: MAX_REASON - 1] + "…"


_SAYS = (
    "message",
    "detail",
    "details",
    "error",
    "errors",
    "msg",
    "error_description",
    "reason",
    "title",
    "raw",
    "metadata",
    "description",
)
"""Keys behind which a reason stands, the most telling first."""
_SAYS_NOTHING = re.compile(r"provider returned error|error|bad request|internal server error|none|null", re.IGNORECASE)


def _reasons(found: Any, depth: int) -> Iterator[str]:
    """The texts of a body that may be its reason, the most telling first."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(found, str):
        parsed = _json_or_words(found) if found.lstrip()[:1] in ("{", "[", "<") else found
        if not isinstance(parsed, str):
            yield from _reasons(parsed, depth + 1)
        elif parsed.strip():
            yield parsed
    elif isinstance(found, dict):
        said = [text for key in _SAYS if key in found for text in _reasons(found[key], depth + 1)]
        # A router's own sentence says only that the server behind it failed.
        yield from sorted(said, key=lambda text: bool(_SAYS_NOTHING.fullmatch(text.strip(" ."))))
    elif isinstance(found, list):
        where = [
            ".".join(map(str, one["loc"]))
            for one in found[:1]
            if isinstance(one, dict) and isinstance(one.get("loc"), list)
        ]
        for one in found[:5]:
            for text in _reasons(one, depth + 1):
                yield f"{where[0]}: {text}" if where else text


_HIDDEN = re.compile(r"<(script|style)\b.*?</\1>", re.IGNORECASE | re.DOTALL)
_TITLE = re.compile(r"<title[^>]{0,100}>([^<]{1,500})", re.IGNORECASE)


def _json_or_words(text: str) -> Any:
    """A body that came as text: JSON, the title or the words of an HTML page, or the text itself."""
    text = text.strip()[:_MAX_PAGE]
    if text[:1] in ("{", "["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    if text[:1] != "<":
        return text
    if title := _TITLE.search(text):
        return html.unescape(title[1])
    return html.unescape(re.sub(r"<[^>]{0,1000}>", " ", _HIDDEN.sub(" ", text)))


def remedy(status: int, url: str) -> str:
    """What to do about a status, where the URL or the environment tells it; empty otherwise."""
    parts = urlsplit(url)
    proxy = next(
        (
            name
            for name in ("http_proxy", "https_proxy", "all_proxy")
            if os.environ.get(name) or os.environ.get(name.upper())
        ),
        None,
    )
    local = parts.hostname in ("localhost", "::1") or (parts.hostname or "").startswith("127.")
    if local and proxy and status in (403, 407, 502, 503, 504) and not _excepted(parts.hostname or ""):
        return f" A proxy ({proxy.upper()}) is set, and this address is local: add it to NO_PROXY."
    if status in (404, 405) and not parts.path.rstrip("/").endswith(("/v1", "/openai")):
        return " Most servers want a URL that ends in /v1."
    return ""


def _excepted(host: str) -> bool:
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return any(name.strip() in ("*", host) for name in given.split(","))


_QUOTA = re.compile(r"quota|billing|credit|balance|payment", re.IGNORECASE)


def status_name(status: int, reason: str) -> str:
    """The kind of failure in one word: ``quota`` where the account has no money, which servers call 429 as well."""
    return "quota" if status == 402 or (status == 429 and _QUOTA.search(reason)) else f"status_{status}"
