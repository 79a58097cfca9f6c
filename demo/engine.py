"""Runs the models for the page: ask and stream, stop, and the three tests of a re-look. No Gradio and no HTML here."""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from configs.errors import ConfigError, UserError
from eval.grounding import cut_reasoning, reasoning_span
from vlm.asking import Model, is_local, load_for_asking, summarize
from vlm.backends import BackendError, check_key, check_key_has_one_server
from vlm.chat import question_messages
from vlm.images import blank
from vlm.model_card import what_it_reads
from vlm.reasoning import (
    CUE,
    BudgetedResponse,
    Effort,
    find_effort,
    reasoning_end,
    think_batch,
    think_served,
    think_stream,
    vote_seeds,
    vote_temperature,
)

if TYPE_CHECKING:
    from vlm.backends import Backend
    from vlm.load import VLM
    from vlm.sentence_attention import ResponseAttention

RUN_SECONDS = 120.0
MODELS_KEPT = 2
SESSIONS = 64
BOTH = "both, side by side"
"""Chooses the two models of a run folder at once."""
TESTS = {"again": "Look again", "swap": "Swap image", "blank": "Blank image"}


@dataclass
class Run:
    """One response, running or finished.

    Attributes:
        text: the response so far. A test wrote its first ``given`` characters, the model the rest.
        state: ``thinking``, ``done``, ``stopped`` (by the visitor) or ``late`` (by the time limit).
        attention: mass by sentence and its maps; None while the response grows, and for a server.
        repeats: the response repeats itself (``vlm.repetition``).
        reads: what the model's card says it reads.
        expected: the correct answer, for an example.
    """

    model: str
    image: Image.Image = field(repr=False)
    question: str
    effort: str
    title: str = "Response"
    text: str = ""
    given: int = 0
    state: str = "thinking"
    answer: str | None = None
    tokens: int = 0
    seconds: float = 0.0
    looks: int = 0
    votes: dict[str, int] = field(default_factory=dict)
    agreement: float = 1.0
    attention: "ResponseAttention | None" = field(default=None, repr=False)
    note: str = ""
    repeats: bool = False
    reads: str | None = None
    expected: str | None = None


@dataclass
class Session:
    """The runs of one visitor. The stop button sets ``stop``.

    Attributes:
        base: the base model's response, where two models answer.
        before: the response that can be tested; after: the test of it.
        asks: whether what the visitor chose is to be asked at once.
    """

    base: Run | None = None
    before: Run | None = None
    after: Run | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    asks: bool = True

    def restart(self, asks: bool = True) -> None:
        """End the current run, if any. A new event, so that stopping the old run cannot stop the next one."""
        self.asks = asks
        self.stop.set()
        self.stop = threading.Event()


class Sessions:
    """Session hash -> session. If there are more than ``capacity``, the least recently used one is dropped."""

    def __init__(self, capacity: int = SESSIONS) -> None:
        self._kept: OrderedDict[str, Session] = OrderedDict()
        self._capacity, self._lock = capacity, threading.Lock()

    def of(self, name: str | None) -> Session:
        if not name:
            raise UserError("The page has lost its session: reload the page.")
        with self._lock:
            session = self._kept.pop(name, None) or Session()
            self._kept[name] = session
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)[1].stop.set()
            return session

    def drop(self, name: str | None) -> None:
        """Forget a visitor who left, and stop what still runs."""
        with self._lock:
            session = self._kept.pop(name or "", None)
        if session is not None:
            session.stop.set()


class Engine:
    """The models that visitors may choose. Each is loaded at its first question; the last ``MODELS_KEPT`` used stay in memory.

    Args:
        names: the models.
        pair: a base and a trained model, which are offered side by side, and then alone, before the others.

    Attributes:
        names: the label that visitors see -> the model. A label shows neither a folder's path nor a server's address.
        pair: the labels of base and trained model, if there is such a pair.
        offered: what visitors may choose; the first is chosen at the start.
    """

    def __init__(
        self, names: Sequence[str], api_key_env: str | None = None, pair: tuple[str, str] | None = None
    ) -> None:
        names = [*(pair or ()), *names]
        check_key_has_one_server(names, api_key_env)
        for name in names:  # checked at start: the message is for whoever runs the demo, not for a visitor
            check_key(name, api_key_env)
        self.names = _labels(names)
        self.pair: tuple[str, str] | None = None
        if pair is not None:
            base, trained = (label for label, name in self.names.items() if name in pair)
            self.names = {
                {base: f"{base} (base)", trained: f"{trained} (trained)"}.get(label, label): name
                for label, name in self.names.items()
            }
            self.pair = f"{base} (base)", f"{trained} (trained)"
        self.offered = [*([BOTH] if self.pair else []), *self.names]
        self._api_key_env = api_key_env
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._lock = threading.Lock()

    def model(self, name: object) -> Model:
        """Raises UserError for a name that was not offered, or a model that does not load."""
        name = self._offered_name(name)
        with self._lock:
            model = self._loaded.pop(name, None) or load_for_asking(self.names[name], self._api_key_env)
            self._loaded[name] = model
            while len(self._loaded) > MODELS_KEPT:
                self._loaded.popitem(last=False)
            return model

    def models_of(self, choice: object) -> list[str]:
        """The labels of the models that a visitor has chosen: one, or base and trained."""
        if self.pair is not None and choice == BOTH:
            return list(self.pair)
        return [self._offered_name(choice)]

    def _offered_name(self, name: object) -> str:
        if not isinstance(name, str) or name not in self.names:
            raise ConfigError("This model is not offered here: choose one from the list.")
        return name

    def ask(
        self,
        name: str,
        image: Image.Image,
        question: str,
        effort: str,
        votes: int,
        stop: threading.Event,
        expected: str | None = None,
    ) -> Iterator[Run]:
        """Yield the same ``Run`` repeatedly while it grows; the last time it is complete, with attention. Raises UserError."""
        run = Run(name, image, question, effort, expected=expected)
        yield from self._write(run, find_effort(effort), votes, stop)

    def test(
        self,
        kind: str,
        before: Run,
        other: Image.Image | None,
        stop: threading.Event,
        expected: str | None = None,
    ) -> Iterator[Run]:
        """Let the model continue from within its own response: after a re-look cue, with another image, or with a blank one."""
        if kind == "again":
            end = reasoning_end(before.text)
            kept, image = before.text[: len(before.text) if end is None else end].rstrip(), before.image
            given = f"{kept} {CUE}"
        else:
            given = _cut_response(before.text)
            if kind == "blank":
                image = blank(before.image)
            elif other is None:
                raise UserError("Choose the other image first: the one to swap in.")
            else:
                # The same size gives the same number of image tokens, so that only the content changes.
                image = other.resize(before.image.size)
        run = Run(
            before.model, image, before.question, before.effort, TESTS[kind], given, len(given), expected=expected
        )
        # No forced re-looks: the test shows what the model does by itself.
        effort = replace(find_effort(before.effort), looks=0)
        yield from self._write(run, effort, 1, stop)

    def _write(self, run: Run, effort: Effort, votes: int, stop: threading.Event) -> Iterator[Run]:
        messages = question_messages(run.question, 1, effort.style)
        seeds = vote_seeds(0, votes)
        model, started = self.model(run.model), time.monotonic()
        run.reads = what_it_reads(self.names[run.model])
        deadline = started + RUN_SECONDS
        if is_local(model):
            steps = self._local(model, messages, run, effort, seeds, stop, deadline)
        else:
            steps = self._served(model, messages, run, effort, seeds, stop, deadline)
        for responses in steps:
            run.seconds = time.monotonic() - started
            if responses:
                self._finish(run, responses, is_local(model))
            yield run
        if run.state == "thinking":
            run.state = "done"
        if is_local(model) and run.text.strip():
            from vlm.sentence_attention import attention_by_sentence

            run.attention = attention_by_sentence(model, messages, [run.image], run.text, breaks=[run.given])
        elif not is_local(model):
            run.note = f"{run.note} A server does not show where its model looks.".strip()
        yield run

    def _local(
        self,
        model: "VLM",
        messages: list[dict],
        run: Run,
        effort: Effort,
        seeds: list[int],
        stop: threading.Event,
        deadline: float,
    ) -> Iterator[list[BudgetedResponse]]:
        temperature = vote_temperature(len(seeds), None)
        given = run.text
        stream = think_stream(
            model,
            messages,
            [run.image],
            effort,
            temperature=temperature,
            seed=seeds[0],
            prefix=given,
            stop_repeats=True,
        )
        try:
            for piece in stream:
                run.text += piece
                run.tokens += 1
                yield []
                if self._over(run, stop, deadline):
                    return
        finally:
            stream.close()
        assert stream.result is not None
        responses = [stream.result]
        for seed in seeds[1:]:
            if self._over(run, stop, deadline):
                break
            responses += think_batch(
                model, [messages], [[run.image]], effort, temperature=temperature, seeds=[seed], stop_repeats=True
            )
            run.note = f"{len(responses)} of {len(seeds)} votes"
            yield []
        run.note = ""
        yield responses

    def _served(
        self,
        model: "Backend",
        messages: list[dict],
        run: Run,
        effort: Effort,
        seeds: list[int],
        stop: threading.Event,
        deadline: float,
    ) -> Iterator[list[BudgetedResponse]]:
        if run.given:
            raise UserError(
                "A served model cannot continue from a prefix: choose a model of this process for this test."
            )
        outcome: list[list[BudgetedResponse] | BaseException] = []
        temperature = vote_temperature(len(seeds), None)

        async def call() -> list[BudgetedResponse]:
            try:
                asked = [
                    think_served(model, messages, [run.image], effort, temperature=temperature, seed=seed)
                    for seed in seeds
                ]
                return list(await asyncio.gather(*asked))
            finally:
                await model.aclose()

        def work() -> None:
            try:
                outcome.append(asyncio.run(call()))
            except BaseException as error:  # raised again by the reader
                outcome.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while not outcome:
            if self._over(run, stop, deadline):
                return  # a reply that still arrives is dropped
            thread.join(0.1)
            yield []
        if isinstance(
            outcome[0], BackendError
        ):  # its message begins with the server's address, which visitors must not see
            raise BackendError(str(outcome[0]).replace(model.name, run.model), outcome[0].name) from None
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        yield outcome[0]

    @staticmethod
    def _over(run: Run, stop: threading.Event, deadline: float) -> bool:
        if stop.is_set():
            run.state = "stopped"
        elif time.monotonic() > deadline:
            run.state, run.note = "late", f"Stopped at the limit of {RUN_SECONDS:.0f} seconds."
        return run.state != "thinking"

    @staticmethod
    def _finish(run: Run, responses: list[BudgetedResponse], local: bool) -> None:
        """Fill the run from its finished responses. Those of a test start after the given text."""
        given = run.text[: run.given]
        whole = summarize([replace(response, text=given + response.text) for response in responses])
        run.text, run.answer, run.tokens, run.looks = whole["text"], whole["answer"], whole["tokens"], whole["looks"]
        run.votes, run.agreement = whole["votes"]["counts"], whole["votes"]["agreement"]
        run.repeats = whole["repeats"]
        if run.repeats:
            run.note = "The response repeats itself" + (", so the model was stopped." if local else ".")
        elif whole["closed"]:
            run.note = "The reasoning reached its token budget and was closed."
        elif not whole["finished"]:
            run.note = "The answer reached its token budget."


def _cut_response(text: str) -> str:
    """The response up to the cut of a test: as the swap test cuts, or at half if there is no sentence or space to cut at."""
    if cut := cut_reasoning(text):
        return cut[0]
    start, end = reasoning_span(text)
    half = start + (end - start) // 2
    if not text[start:half].strip():
        raise UserError("The response has no reasoning to interrupt: ask again with more effort.")
    return text[:half]


def _labels(names: Sequence[str]) -> dict[str, str]:
    """Label -> model; models with the same last part of their names get a number."""
    labels: dict[str, str] = {}
    for name in dict.fromkeys(names):
        short = (
            name.removeprefix("openai:").partition("@")[0] if name.startswith("openai:") else Path(name).name or name
        )
        label, number = short, 2
        while label in labels:
            label, number = f"{short} ({number})", number + 1
        labels[label] = name
    return labels
