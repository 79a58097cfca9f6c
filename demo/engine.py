"""What the page does with models: ask and stream, stop, and the three tests of a look. No Gradio and no HTML here."""

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
TESTS = {"again": "Look again", "swap": "Swap picture", "blank": "Blank picture"}


@dataclass
class Run:
    """One response, under way or done.

    Attributes:
        text: from the first character of the response; ``given`` characters of it were put there by a test.
        state: ``thinking``, ``done``, ``stopped`` (by the visitor) or ``late`` (by the time limit).
        attention: where it looked; None while it writes, and for a server.
    """

    model: str
    picture: Image.Image = field(repr=False)
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


@dataclass
class Session:
    """What one visitor has on the page. ``stop`` is set by the stop button."""

    before: Run | None = None
    after: Run | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def restart(self) -> None:
        """End the run under way, if any; the stop button is for the next one from now on."""
        self.stop.set()
        self.stop = threading.Event()


class Sessions:
    """Session hash -> session; the one longest unused goes where there are too many."""

    def __init__(self, capacity: int = SESSIONS) -> None:
        self._kept: OrderedDict[str, Session] = OrderedDict()
        self._capacity, self._lock = capacity, threading.Lock()

    def of(self, name: str | None) -> Session:
        if not name:
            raise UserError("The page has lost its session: load it again.")
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
    """The models that visitors may pick from; loaded when first asked, the latest ``MODELS_KEPT`` kept.

    Attributes:
        names: what visitors read -> the model. Neither a folder's path nor a server's address is theirs to see.
    """

    def __init__(self, names: Sequence[str], api_key_env: str | None = None) -> None:
        check_key_has_one_server(names, api_key_env)
        for name in names:  # now, and not when a visitor asks: the message is for whoever started the page
            check_key(name, api_key_env)
        self.names = _labels(names)
        self._api_key_env = api_key_env
        self._loaded: OrderedDict[str, Model] = OrderedDict()
        self._lock = threading.Lock()

    def model(self, name: object) -> Model:
        """Raises UserError for a name that was not offered, or a model that does not load."""
        if not isinstance(name, str) or name not in self.names:
            raise ConfigError("This model is not offered here: pick one of the list.")
        with self._lock:
            model = self._loaded.pop(name, None) or load_for_asking(self.names[name], self._api_key_env)
            self._loaded[name] = model
            while len(self._loaded) > MODELS_KEPT:
                self._loaded.popitem(last=False)
            return model

    def ask(
        self, name: str, picture: Image.Image, question: str, effort: str, votes: int, stop: threading.Event
    ) -> Iterator[Run]:
        """The same ``Run`` again and again while it grows; the last one is done and watched. Errors as UserError."""
        run = Run(name, picture, question, effort)
        yield from self._write(run, find_effort(effort), votes, stop)

    def test(self, kind: str, before: Run, other: Image.Image | None, stop: threading.Event) -> Iterator[Run]:
        """Let the model resume from within its own response: with a cue to look again, another image, or a blank one."""
        if kind == "again":
            end = reasoning_end(before.text)
            kept, picture = before.text[: len(before.text) if end is None else end].rstrip(), before.picture
            given = f"{kept} {CUE}"
        else:
            given = _interrupted(before.text)
            if kind == "blank":
                picture = blank(before.picture)
            elif other is None:
                raise UserError("Choose the other picture first: the one to swap in.")
            else:
                picture = other.resize(before.picture.size)  # of equal size: nothing else changes for the model
        run = Run(before.model, picture, before.question, before.effort, TESTS[kind], given, len(given))
        # A forced look of our own would blur what the test shows.
        effort = replace(find_effort(before.effort), looks=0)
        yield from self._write(run, effort, 1, stop)

    def _write(self, run: Run, effort: Effort, votes: int, stop: threading.Event) -> Iterator[Run]:
        messages = question_messages(run.question, 1, effort.style)
        seeds = vote_seeds(0, votes)
        model, started = self.model(run.model), time.monotonic()
        deadline = started + RUN_SECONDS
        if is_local(model):
            steps = self._local(model, messages, run, effort, seeds, stop, deadline)
        else:
            steps = self._served(model, messages, run, effort, seeds, stop, deadline)
        for responses in steps:
            run.seconds = time.monotonic() - started
            if responses:
                self._finish(run, responses)
            yield run
        if run.state == "thinking":
            run.state = "done"
        if is_local(model) and run.text.strip():
            from vlm.sentence_attention import attention_by_sentence

            run.attention = attention_by_sentence(model, messages, [run.picture], run.text, breaks=[run.given])
        elif not is_local(model):
            run.note = "A server does not show where its model looks."
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
            model, messages, [run.picture], effort, temperature=temperature, seed=seeds[0], prefix=given
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
            responses += think_batch(model, [messages], [[run.picture]], effort, temperature=temperature, seeds=[seed])
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
            raise UserError("A server cannot be interrupted in its thought: pick a model that runs here for this test.")
        outcome: list[list[BudgetedResponse] | BaseException] = []
        temperature = vote_temperature(len(seeds), None)

        async def call() -> list[BudgetedResponse]:
            try:
                asked = [
                    think_served(model, messages, [run.picture], effort, temperature=temperature, seed=seed)
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
                return  # the reply, should it come, is dropped
            thread.join(0.1)
            yield []
        if isinstance(outcome[0], BackendError):  # its sentence begins with the server's address
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
    def _finish(run: Run, responses: list[BudgetedResponse]) -> None:
        """Read the outcome off the responses; those of a test read on after what was given."""
        given = run.text[: run.given]
        whole = summarize([replace(thought, text=given + thought.text) for thought in responses])
        run.text, run.answer, run.tokens, run.looks = whole["text"], whole["answer"], whole["tokens"], whole["looks"]
        run.votes, run.agreement = whole["votes"]["counts"], whole["votes"]["agreement"]
        if whole["closed"]:
            run.note = "The thought ran out of its budget and was closed."
        elif not whole["finished"]:
            run.note = "The answer ran out of its budget."


def _interrupted(text: str) -> str:
    """The response up to where a test cuts it: as evaluation does, else (no sentence, no blank to cut at) at half."""
    if cut := cut_reasoning(text):
        return cut[0]
    start, end = reasoning_span(text)
    half = start + (end - start) // 2
    if not text[start:half].strip():
        raise UserError("The response has no reasoning to interrupt: ask again with more effort.")
    return text[:half]


def _labels(names: Sequence[str]) -> dict[str, str]:
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
