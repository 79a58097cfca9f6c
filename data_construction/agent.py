"""The agent loop: a text reasoner that never sees the image asks, a VLM that sees it answers, until the answer is correct.

Reflection-V (arXiv 2509.12132, section on cold-start data): visual requester, visual responder, summarizer. An incorrect
conclusion is discarded and another round starts; a correct one ends the episode. Each episode is one coroutine. Its sampling
seeds depend only on the problem and the position in the episode, so that a resumed run writes what an uninterrupted one
writes.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import Field

from configs.errors import ImageError
from configs.schema import StrictModel
from data_construction.cohesion import first_person
from data_construction.failures import FailureWatch
from data_construction.reading import FAULTS, read_conclusion, read_look, read_request
from data_construction.records import Call, Role, Round, RoundZoom, Status, Trace
from data_construction.reply_log import ReplyLog, position_seed
from data_construction.roles import Roles
from data_construction.zooming import keep_zoom
from reward.grade import grade_answer
from reward.statements import corrected_spans
from vlm.images import SharedImages
from vlm.problem import Problem
from vlm.protocol import BackendError, Reply, Request, is_whole
from vlm.response import after_reasoning, count_looks
from vlm.tools import ZoomSettings
from vlm.zoom import zoom_with_backend


class Tokens(StrictModel):
    """The limit of new tokens for each kind of reply."""

    request: int = Field(default=256, ge=1)
    reply: int = Field(default=512, ge=1)
    conclusion: int = Field(default=1024, ge=1)
    rewrite: int = Field(default=2048, ge=1)


class LoopConfig(StrictModel):
    """How an episode runs.

    Attributes:
        rounds: most rounds of an episode.
        confirm_share: share of the episodes, in [0, 1], that take one more look after a first conclusion that is correct,
            so that not every re-look in the data corrects something.
        confirm_again: share of the correct later conclusions, in [0, 1], that are followed by one more look. Without them no trace
            has a re-look after the answer was found, and a model that is asked for a further look has learned nothing to say.
        shown_rounds: of more rounds than this the requester and the summarizer are shown the first and the last ones (the
            summarizer also the new one); None shows all. For text models with few positions, or taught on short transcripts.
        repairs: how often an unusable reply is requested again before the episode ends as an error.
        temperature: sampling temperature of the requester, the rewriter and of every look after the first.
        first_temperature: sampling temperature of the first look and of conclusions.
        tokens: see ``Tokens``.
        zoom: the responder may call the zoom tool before it replies; ``zoom_limits``: see ``vlm.tools.ZoomSettings``.
    """

    rounds: int = Field(default=4, ge=1)
    confirm_share: float = Field(default=0.4, ge=0, le=1)
    confirm_again: float = Field(default=0.0, ge=0, le=1)
    shown_rounds: int | None = Field(default=None, ge=1)
    repairs: int = Field(default=1, ge=0)
    temperature: float = Field(default=0.7, ge=0)
    first_temperature: float = Field(default=0.0, ge=0)
    tokens: Tokens = Tokens()
    zoom: bool = False
    zoom_limits: ZoomSettings = ZoomSettings()


class UnusableReply(Exception):
    """A reply is still unusable after all repairs. The episode becomes a row with status ``error``."""

    def __init__(self, role: Role, fault: str) -> None:
        super().__init__(f"the {role} gave no usable reply; of the last one: {FAULTS[fault]}")
        self.name = fault


class Unjudged(Exception):
    """The verifier could not decide. This is not the model's fault, so the answer does not count as incorrect."""

    name = "unjudged"


@dataclass
class Episode:
    """One problem and its rounds until it becomes a trace. The gold answer is only used for verdicts and reaches no prompt.

    Attributes:
        replies: saves and replays replies; None requests every reply.
        tries: how often this problem ended with unusable replies before; the repairs allowed grow with it.
        images: opens the problem's images; concurrent episodes share it.
        folder: the build's folder, for the crops of ``loop.zoom``.
        watch: ends the build when the model of a role is down; concurrent episodes share it.
    """

    problem: Problem
    roles: Roles
    config: LoopConfig
    seed: int
    replies: ReplyLog | None = None
    tries: int = 0
    images: SharedImages = field(default_factory=SharedImages)
    watch: FailureWatch | None = None
    folder: Path | None = None
    calls: list[Call] = field(default_factory=list)
    repairs: int = 0

    async def run(self) -> Trace:
        """Play the episode. A failure of a model, server or image does not raise: the trace has the status ``error``.

        Raises:
            RoleDown: the model of a role is down, by ``watch``.
        """
        rounds: list[Round] = []
        try:
            images = [await asyncio.to_thread(self.images.open, image) for image in self.problem.images]
            await self._rounds(rounds, images)
            if not rounds[-1].verdict:
                return self._trace("wrong", rounds, why=f"no correct conclusion in {len(rounds)} rounds")
            text, how = await first_person(self.ask_rewriter, self.problem, rounds, self.config.repairs)
        except (UnusableReply, Unjudged, BackendError) as error:
            return self._trace("error", rounds, why=str(error), error=error.name)
        except ImageError as error:
            return self._trace("error", rounds, why=str(error), error="picture")
        return self._trace("kept" if len(rounds) > 1 else "no_reflection", rounds, text=text, cohesion=how)

    async def _rounds(self, rounds: list[Round], images: list[Image.Image]) -> None:
        fault = ""
        while len(rounds) < self.config.rounds:
            request = await self._request(rounds)
            reply, zooms = await self._look(request, images, again=bool(rounds), number=len(rounds))
            conclusion, answer, fault = await self._conclude(rounds, request, reply)
            # In a thread: comparing expressions may take seconds, and the other episodes must go on.
            grade = await asyncio.to_thread(grade_answer, self.problem, answer)
            if grade.score is None:
                raise Unjudged(f"the answer cannot be judged: {grade.reason}")
            rounds.append(
                Round(
                    request=request,
                    reply=reply,
                    conclusion=conclusion,
                    answer=answer,
                    verdict=grade.correct,
                    zooms=zooms,
                )
            )
            if rounds[-1].verdict and not self._confirms(len(rounds)):
                return
        if all(round_.answer is None for round_ in rounds):  # no answer is not an incorrect answer
            raise UnusableReply("summarizer", fault)

    def _confirms(self, rounds: int) -> bool:
        """Whether the episode looks once more although the conclusion of its last round is correct."""
        if rounds == 1:
            return self._seed("confirm") / 2**48 < self.config.confirm_share
        return self._seed("confirm", rounds) / 2**48 < self.config.confirm_again

    async def _request(self, rounds: list[Round]) -> str:
        messages, fault = self._messages("request", self._shown(rounds)), ""
        for attempt in range(self._attempts()):
            text, finish = await self._call("requester", messages, [], self.config.temperature, len(rounds), attempt)
            request, fault = read_request(text, finish)
            if not fault:
                return request
            messages = self._repair(messages, text, fault, "request")
        raise UnusableReply("requester", fault)

    async def _look(
        self, request: str, images: list[Image.Image], again: bool, number: int
    ) -> tuple[str, list[RoundZoom]]:
        """What the responder saw, and its calls of the zoom tool on the way there."""
        parts: list[dict[str, str]] = [{"type": "image"} for _ in images]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": request}]}]
        temperature, fault = self.config.temperature if again else self.config.first_temperature, ""
        for attempt in range(self._attempts()):
            zooms: list[RoundZoom] = []
            if self.config.zoom:
                text, finish, zooms = await self._zoom(request, images, temperature, number, attempt)
            else:
                text, finish = await self._call("responder", messages, images, temperature, number, attempt)
            look, fault = read_look(text, finish)
            if not fault:
                return look, zooms
            messages = self._repair(messages, text, fault, "look")
        raise UnusableReply("responder", fault)

    async def _conclude(self, rounds: list[Round], request: str, reply: str) -> tuple[str, str | None, str]:
        """The reasoning without its box, the answer (None if the round has none), and the fault."""
        open_round = Round(request=request, reply=reply, conclusion="", answer=None, verdict=False)
        messages, fault, reasoning = self._messages("conclude", [*self._shown(rounds), open_round]), "", ""
        for attempt in range(self._attempts()):
            temperature = self.config.first_temperature if attempt == 0 else self.config.temperature
            text, finish = await self._call("summarizer", messages, [], temperature, len(rounds), attempt)
            reasoning, answer, fault = read_conclusion(text, finish)
            if not fault:
                return reasoning, answer, ""
            messages = self._repair(messages, text, fault, "conclude")
        if not reasoning:
            raise UnusableReply("summarizer", fault)
        return reasoning, None, fault

    async def ask_rewriter(self, rounds: list[Round], attempt: int) -> str:
        """The rewrite of finished rounds as ``first_person`` asks for it; "" if it was cut off."""
        messages = self._messages("rewrite", rounds)
        text, finish = await self._call("rewriter", messages, [], self.config.temperature, len(rounds), attempt)
        return after_reasoning(text) if is_whole(finish) else ""

    def _shown(self, rounds: list[Round]) -> list[Round]:
        shown = self.config.shown_rounds
        return rounds if shown is None or len(rounds) <= shown else [rounds[0], *rounds[len(rounds) - shown + 1 :]]

    def _attempts(self) -> int:
        return (self.config.repairs + 1) * (self.tries + 1)

    def _messages(self, name: str, rounds: list[Round]) -> list[dict[str, Any]]:
        shown = [{"request": r.request, "reply": r.reply, "conclusion": r.conclusion} for r in rounds]
        question = self.problem.question
        if self.problem.choices:
            letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
            question += "".join(
                f"\n({letter}) {text}" for letter, text in zip(letters, self.problem.choices, strict=False)
            )
        return [_text_message("user", self.roles.prompts.render(name, question=question, rounds=shown))]

    def _repair(self, messages: list[dict[str, Any]], text: str, fault: str, task: str) -> list[dict[str, Any]]:
        """The messages of the next attempt. They hold only the last unusable reply, so that the prompt stays short."""
        self.repairs += 1
        if "repair" not in self.roles.prompts.texts:
            return messages  # sampled again, under the seed of the next attempt
        told = self.roles.prompts.render("repair", fault=FAULTS[fault], task=task)
        unusable = after_reasoning(text).strip()[:500] or "(nothing)"
        return [messages[0], _text_message("assistant", unusable), _text_message("user", told)]

    async def _zoom(
        self, request: str, images: list[Image.Image], temperature: float, number: int, attempt: int
    ) -> tuple[str, str, list[RoundZoom]]:
        """(the last turn's text, finish reason, calls) of a look that may zoom in. Each turn is a reply of its own in the log."""
        settings = self.roles.settings.of("responder")
        backend = ResponderBackend(self, number, attempt)
        async with self.roles.alone if backend.vlm is not None else contextlib.nullcontext():
            answer = await zoom_with_backend(
                backend,
                images,
                request,
                settings=self.config.zoom_limits,
                max_new_tokens=settings.max_tokens or self.config.tokens.reply,
                temperature=temperature if settings.temperature is None else settings.temperature,
                seed=self._seed("responder", number, attempt),
                style="none",
            )
        if backend.vlm is not None:  # its turns were no requests
            self.calls.append(Call(role="responder", prompt_tokens=0, tokens=answer.tokens, seconds=0.0))
        assert self.folder is not None, "crops need a folder"
        zooms = [await asyncio.to_thread(keep_zoom, result, self.folder) for result in answer.results]
        last = answer.turns[-1]
        text = last["content"] if last["role"] == "assistant" and not last.get("tool_calls") else ""
        return text, "stop" if answer.finished else "length", zooms

    async def _call(
        self, role: Role, messages: list[dict[str, Any]], images: list[Image.Image], temperature: float, number: int,
        attempt: int,
    ) -> tuple[str, str]:  # fmt: skip
        """(text, finish reason) of one reply."""
        settings = self.roles.settings.of(role)
        request = Request(
            messages=messages,
            images=images,
            max_tokens=settings.max_tokens or getattr(self.config.tokens, LIMITS[role]),
            temperature=temperature if settings.temperature is None else settings.temperature,
            seed=self._seed(role, number, attempt),
        )
        reply = await self.send(role, request, number, attempt)
        return reply.text, reply.finish_reason

    async def send(self, role: Role, request: Request, number: int, attempt: int) -> Reply:
        """The reply to one request of a role, from the log where it is there."""
        settings, backend = self.roles.settings.of(role), self.roles.backend(role)
        request = replace(request, top_p=settings.top_p, extra=settings.extra_body | request.extra)
        try:
            if self.replies is None:
                reply = await backend.complete(request)
            else:
                reply = await self.replies.get(backend, request, self.problem.id, role, (number, attempt))
        except BackendError as error:
            if self.watch is not None:
                self.watch.failed(role, error)
            raise
        if self.watch is not None:
            self.watch.answered(role)
        self.calls.append(
            Call(role=role, prompt_tokens=reply.prompt_tokens, tokens=reply.completion_tokens, seconds=reply.seconds)
        )
        return reply

    def _seed(self, *position: Any) -> int:
        return position_seed(self.seed, self.problem.id, *position)

    def _trace(
        self,
        status: Status,
        rounds: list[Round],
        why: str = "",
        error: str = "",
        text: str = "",
        cohesion: Any = "none",
    ) -> Trace:
        by_role: dict[str, list[int]] = {}
        for call in self.calls:
            counts = by_role.setdefault(call.role, [0, 0, 0])
            by_role[call.role] = [counts[0] + call.prompt_tokens, counts[1] + call.tokens, counts[2] + 1]
        usage = {
            "tokens": sum(call.tokens for call in self.calls),
            "prompt_tokens": sum(call.prompt_tokens for call in self.calls),
            "calls": len(self.calls),
            "repairs": self.repairs,
            "seconds": round(sum(call.seconds for call in self.calls), 3),
            "by_role": by_role,
        }
        return Trace(
            id=f"{self.problem.id}#{self.seed}",
            problem_id=self.problem.id,
            rounds=rounds,
            trace=text,
            answer=rounds[-1].answer if rounds else None,
            looks=count_looks(text),
            corrected=corrected_spans(text),
            cohesion=cohesion,
            models={"reasoner": self.roles.reasoner.name, "responder": self.roles.responder.name},
            prompts_sha256=self.roles.prompts.sha256,
            usage=usage,
            status=status,
            error=error,
            why=why,
        )


class ResponderBackend:
    """The responder of one look, as the zoom loop asks it: each turn goes through the episode's log, counts and watch."""

    def __init__(self, episode: Episode, number: int, attempt: int) -> None:
        self.episode, self.place = episode, (number, attempt)
        self.name = episode.roles.responder.name
        # A model in this process writes its turns itself, and they are not in the log.
        self.vlm = getattr(episode.roles.responder, "vlm", None)

    async def complete(self, request: Request) -> Reply:
        return await self.episode.send("responder", request, *self.place)

    async def aclose(self) -> None:
        """The backend stays open: other episodes use it."""


LIMITS: dict[Role, str] = {
    "requester": "request",
    "responder": "reply",
    "summarizer": "conclusion",
    "rewriter": "rewrite",
}
"""Role -> the key of ``Tokens`` that limits its replies."""


def _text_message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
