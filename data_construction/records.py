"""The records of the agent loop: a round, and the trace that an episode leaves behind."""

from typing import Any, Literal

from pydantic import BaseModel

Role = Literal["requester", "responder", "summarizer", "rewriter"]
ROLES: tuple[Role, ...] = ("requester", "responder", "summarizer", "rewriter")
Status = Literal["kept", "wrong", "no_reflection", "filtered", "error"]


class RoundZoom(BaseModel):
    """One call of the zoom tool by the responder.

    Attributes:
        arguments: as it wrote them.
        box: (left, top, right, bottom) of the crop in pixels of image ``img_idx``.
        crop: the crop's file in the build's folder, named by its content; None after an ``error``.
    """

    arguments: dict[str, Any] = {}
    box: tuple[int, int, int, int] | None = None
    img_idx: int | None = None
    crop: str | None = None
    error: str | None = None


class Round(BaseModel):
    """One request by the text reasoner, the VLM's reply, and the conclusion from all replies so far.

    ``zooms``: the calls that the VLM made before its reply, if it may zoom in.
    """

    request: str
    reply: str
    conclusion: str  # the reasoning, without its boxed answer
    answer: str | None
    verdict: bool  # the answer matches the gold answer
    zooms: list[RoundZoom] = []


class Call(BaseModel):
    """One reply of a model; its text is in ``replies.jsonl``."""

    role: Role
    prompt_tokens: int
    tokens: int
    seconds: float


class Trace(BaseModel):
    """An episode on one problem. What tells how it ended stands first: ``trace_log`` reads no more of most rows.

    Attributes:
        status: ``kept`` (correct after at least one re-look), ``no_reflection`` (correct without a re-look), ``wrong``
            (no round was correct), ``filtered`` (dropped by ``data_construction.quality``; never in ``traces.jsonl``,
            since filters run whenever the cold-start set is made), or ``error`` (a model gave no usable reply; the next
            run tries the problem again).
        error, why: the name of the failure, and the reason in words.
        trace: the first-person text.
        corrected: character spans of ``trace`` that a later sentence corrects.
        looks: the re-look count.
        usage: ``tokens`` (completion), ``prompt_tokens``, ``calls``, ``repairs`` (replies that could not be used),
            ``seconds`` (sum over calls), ``by_role`` (role -> prompt tokens, tokens, calls).
    """

    schema_version: int = 1
    id: str
    problem_id: str
    status: Status
    error: str = ""
    why: str = ""
    rounds: list[Round] = []
    trace: str = ""
    answer: str | None = None
    looks: int = 0
    corrected: list[tuple[int, int]] = []
    cohesion: Literal["model", "template", "none"] = "none"
    models: dict[str, str] = {}
    prompts_sha256: str = ""
    usage: dict[str, Any] = {}
