"""The agent loop: a text reasoner that never sees the picture asks, a VLM that sees it answers, until the conclusion is right.

Reflection-V (arXiv 2509.12132, section on cold-start data): visual requester, visual responder, summarizer. A wrong
conclusion is discarded and another round starts; a right one ends the episode. An episode is one coroutine; its sampling
seeds depend on the problem and the position in the episode only, so that a run that was killed and taken up again writes
what an uninterrupted one would have written.
"""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from data_construction.cohesion import first_person
from data_construction.prompts import Prompts
from data_construction.records import Call, Round, Trace
from data_construction.statements import corrected_spans
from reward.verifiers import verify
from vlm.backends import Backend, BackendError, Request
from vlm.errors import ImageError
from vlm.images import open_image
from vlm.problem import Problem
from vlm.response import count_looks, parse_response


class Tokens(BaseModel):
    """Most new tokens of each kind of reply."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    request: int = Field(default=256, ge=1)
    reply: int = Field(default=512, ge=1)
    conclusion: int = Field(default=1024, ge=1)
    rewrite: int = Field(default=2048, ge=1)


class LoopConfig(BaseModel):
    """How an episode runs.

    Attributes:
        rounds: most rounds an episode may take.
        confirm_share: share of the episodes, in [0, 1], in which a conclusion that was right at once is followed by one
            more look, so that not every re-look in the data corrects something.
        repairs: how often a reply that cannot be used is sampled anew before the episode ends as an error.
        temperature: sampling temperature of the requester, the rewriter and of every look after the first.
        first_temperature: sampling temperature of the first look and of conclusions.
        tokens: see ``Tokens``.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    rounds: int = Field(default=4, ge=1)
    confirm_share: float = Field(default=0.4, ge=0, le=1)
    repairs: int = Field(default=1, ge=0)
    temperature: float = Field(default=0.7, ge=0)
    first_temperature: float = Field(default=0.0, ge=0)
    tokens: Tokens = Tokens()


@dataclass(frozen=True)
class Roles:
    """Who plays the requester, summarizer and rewriter (``reasoner``) and the responder (``responder``)."""

    reasoner: Backend
    responder: Backend
    prompts: Prompts


class UnusableReply(Exception):
    """A reply that stayed unusable after all repairs; the episode becomes a row with status ``error``."""


@dataclass
class Episode:
    """One problem on its way to a trace. The gold answer is used for verdicts only and reaches no prompt."""

    problem: Problem
    roles: Roles
    config: LoopConfig
    seed: int
    calls: list[Call] = field(default_factory=list)

    async def run(self) -> Trace:
        """Play the episode. Never raises for what models, servers or pictures do: that is a trace with status ``error``."""
        rounds: list[Round] = []
        try:
            pictures = [open_image(image) for image in self.problem.images]
            await self._rounds(rounds, pictures)
        except (UnusableReply, BackendError, ImageError) as error:
            return self._trace("error", rounds, why=str(error))
        if not rounds[-1].verdict:
            return self._trace("wrong", rounds, why=f"no right conclusion in {len(rounds)} rounds")
        text, how = await first_person(self._ask_rewriter, self.problem, rounds, self.config.repairs)
        return self._trace("kept" if len(rounds) > 1 else "no_reflection", rounds, text=text, cohesion=how)

    async def _rounds(self, rounds: list[Round], pictures: list[Image.Image]) -> None:
        confirm = self._share("confirm") < self.config.confirm_share
        while len(rounds) < self.config.rounds:
            request = await self._request(rounds)
            reply = await self._look(request, pictures, again=bool(rounds), number=len(rounds))
            conclusion, answer = await self._conclude(rounds, request, reply)
            verdict = verify(self.problem.domain, answer, self.problem.answer, self.problem.choices)
            rounds.append(
                Round(request=request, reply=reply, conclusion=conclusion, answer=answer, verdict=verdict.score == 1.0)
            )
            if rounds[-1].verdict and not (confirm and len(rounds) == 1):
                return

    async def _request(self, rounds: list[Round]) -> str:
        prompt = self._prompt("request", rounds)
        for attempt in range(self.config.repairs + 1):
            text = await self._ask("requester", prompt, "request", self.config.temperature, len(rounds), attempt)
            # A thinking model writes its thought first; what is asked for is the last line of what follows it.
            lines = [line.strip() for line in text.rsplit("</think>", 1)[-1].splitlines() if line.strip()]
            if lines and len(lines[-1]) <= 400:
                return re.sub(r"^(asked|request|question)\s*:\s*", "", lines[-1], flags=re.IGNORECASE)
        raise UnusableReply("the requester asked for nothing that could be passed on")

    async def _look(self, request: str, pictures: list[Image.Image], again: bool, number: int) -> str:
        parts: list[dict[str, str]] = [{"type": "image"} for _ in pictures]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": request}]}]
        temperature = self.config.temperature if again else self.config.first_temperature
        for attempt in range(self.config.repairs + 1):
            text = await self._call("responder", messages, pictures, "reply", temperature, number, attempt)
            reply = " ".join(text.rsplit("</think>", 1)[-1].split())
            if reply:
                return reply
        raise UnusableReply("the responder saw nothing: every reply was empty")

    async def _conclude(self, rounds: list[Round], request: str, reply: str) -> tuple[str, str | None]:
        """The reasoning without its box, and the answer (None where none could be read: a wrong conclusion, no error)."""
        open_round = Round(request=request, reply=reply, conclusion="", answer=None, verdict=False)
        prompt = self._prompt("conclude", [*rounds, open_round])
        reasoning, answer = "", None
        for attempt in range(self.config.repairs + 1):
            temperature = self.config.first_temperature if attempt == 0 else self.config.temperature
            text = await self._ask("summarizer", prompt, "conclusion", temperature, len(rounds), attempt)
            text = text.rsplit("</think>", 1)[-1].strip()
            answer = parse_response(text).answer
            reasoning = " ".join(text.split("\\boxed", 1)[0].split())
            if answer is not None and reasoning:
                return reasoning, answer
        if not reasoning:
            raise UnusableReply("the summarizer concluded nothing: every reply was empty")
        return reasoning, answer

    async def _ask_rewriter(self, rounds: list[Round], attempt: int) -> str:
        prompt = self._prompt("rewrite", rounds)
        return await self._ask("rewriter", prompt, "rewrite", self.config.temperature, len(rounds), attempt)

    def _prompt(self, name: str, rounds: list[Round]) -> str:
        shown = [{"request": r.request, "reply": r.reply, "conclusion": r.conclusion} for r in rounds]
        question = self.problem.question
        if self.problem.choices:
            letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
            question += "".join(
                f"\n({letter}) {text}" for letter, text in zip(letters, self.problem.choices, strict=False)
            )
        return self.roles.prompts.render(name, question=question, rounds=shown)

    async def _ask(self, role: Any, prompt: str, limit: str, temperature: float, number: int, attempt: int) -> str:
        messages = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
        return await self._call(role, messages, [], limit, temperature, number, attempt)

    async def _call(
        self, role: Any, messages: list[dict[str, Any]], pictures: list[Image.Image], limit: str, temperature: float,
        number: int, attempt: int,
    ) -> str:  # fmt: skip
        backend = self.roles.responder if role == "responder" else self.roles.reasoner
        request = Request(
            messages=messages,
            images=pictures,
            max_tokens=getattr(self.config.tokens, limit),
            temperature=temperature,
            seed=self._seed(role, number, attempt),
        )
        reply = await backend.complete(request)
        self.calls.append(Call(role=role, text=reply.text, tokens=reply.completion_tokens, seconds=reply.seconds))
        return reply.text

    def _seed(self, *position: Any) -> int:
        name = "/".join(map(str, (self.seed, self.problem.id, *position)))
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")

    def _share(self, name: str) -> float:
        return self._seed(name) / 2**48

    def _trace(self, status: Any, rounds: list[Round], why: str = "", text: str = "", cohesion: Any = "none") -> Trace:
        usage: dict[str, Any] = {"tokens": sum(call.tokens for call in self.calls), "calls": len(self.calls)}
        usage["seconds"] = round(sum(call.seconds for call in self.calls), 3)
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
            calls=self.calls,
            status=status,
            why=why,
        )
