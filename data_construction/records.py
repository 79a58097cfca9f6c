"""The records of the agent loop: a round, and the trace that an episode leaves behind."""

from typing import Any, Literal

from pydantic import BaseModel

Role = Literal["requester", "responder", "summarizer", "rewriter"]
ROLES: tuple[Role, ...] = ("requester", "responder", "summarizer", "rewriter")
Status = Literal["kept", "wrong", "no_reflection", "filtered", "error"]


class Round(BaseModel):
    """One request by the text reasoner, the VLM's reply, and what was concluded from all that was seen so far."""

    request: str
    reply: str
    conclusion: str  # the reasoning, without its boxed answer
    answer: str | None
    verdict: bool  # the answer matches the gold answer


class Call(BaseModel):
    """One reply of a model; its text is in ``replies.jsonl``."""

    role: Role
    prompt_tokens: int
    tokens: int
    seconds: float


class Trace(BaseModel):
    """An episode on one problem.

    ``status``: ``kept`` (right after at least one re-look), ``no_reflection`` (right at once; nothing was looked at
    again), ``wrong`` (no round ended right), ``filtered`` (by a filter of ``data_construction.quality``; never in
    ``traces.jsonl``, since filters are applied anew whenever the cold-start set is made) or ``error`` (a reply could not
    be had or used: ``error`` names the failure, ``why`` says it in words; tried again on the next run). ``trace`` is the
    first-person text; ``corrected`` are the character spans of it that state what a later sentence corrects; ``looks``
    counts how often it goes back to the image. ``usage``: ``tokens`` (written), ``prompt_tokens``, ``calls``,
    ``repairs`` (replies that could not be used), ``seconds`` (sum over calls), ``by_role`` (role -> prompt tokens,
    tokens, calls).
    """

    schema_version: int = 1
    id: str
    problem_id: str
    rounds: list[Round] = []
    trace: str = ""
    answer: str | None = None
    looks: int = 0
    corrected: list[tuple[int, int]] = []
    cohesion: Literal["model", "template", "none"] = "none"
    models: dict[str, str] = {}
    prompts_sha256: str = ""
    usage: dict[str, Any] = {}
    status: Status
    error: str = ""
    why: str = ""
