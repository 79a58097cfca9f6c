"""The event handlers of the page. Values from the page are untrusted: anyone can post to it."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from configs.errors import UserError, memory_error
from demo import page
from demo.engine import Engine, Run, Sessions
from demo.image_store import ImageStore
from demo.links import Linked, make_link, read_link

VOTES = (1, 4, 8)
REDRAW = 0.05
"""Seconds between two drawings of a growing trace."""

log = logging.getLogger("demo")

Shown = tuple[Any, ...]
"""What an answer changes: status, verdict, the panels of base, before and after, and whether the tests are there."""
UNCHANGED = (gr.skip(),) * 5
HIDDEN: dict[str, Any] = {"value": "", "visible": False}


class Handlers:
    """One method for each event of the page."""

    def __init__(self, engine: Engine, store: ImageStore, sessions: Sessions) -> None:
        self.engine, self.store, self.sessions = engine, store, sessions

    # What is to be asked

    def example(self, event: gr.EventData, request: gr.Request) -> Shown:
        """Put an example on the page: (status, image, other image, question, model, effort, votes). It is asked at once."""
        session, number = self.sessions.of(request.session_hash), _event_number(event)
        if number is None or number >= len(self.store.examples):
            session.asks = False
            return (gr.skip(),) * 7
        session.restart()
        example = self.store.examples[number]
        waiting = page.status("Waiting for the model …")
        return waiting, example.token, example.other, example.question, gr.skip(), gr.skip(), gr.skip()

    def link(self, event: gr.EventData, request: gr.Request) -> Shown:
        """The same for the link that the page was opened by. Without an image, there is nothing to ask yet."""
        session, data = self.sessions.of(request.session_hash), getattr(event, "_data", None)
        session.restart(asks=False)
        try:
            linked = read_link(data.get("query") if isinstance(data, dict) else None, self.store, self.engine.offered)
            if linked.votes not in VOTES:
                raise UserError(f"The link asks for {linked.votes} votes: this page has {', '.join(map(str, VOTES))}.")
        except UserError as error:
            return page.status(str(error), "error"), *(gr.skip(),) * 6
        settings = linked.question, linked.model, linked.effort, linked.votes
        if linked.example is None:
            note = "The link brings a question without its image: choose the image, then ask."
            return page.status(note), gr.skip(), gr.skip(), *settings
        session.asks = True
        return page.status("Waiting for the model …"), linked.example.token, linked.example.other, *settings

    def begin(self, request: gr.Request) -> str:
        """Start a new run of this visitor. It ends the previous run; the stop button then belongs to the new one."""
        self.sessions.of(request.session_hash).restart()
        return page.status("Waiting for the model …")

    def stop(self, request: gr.Request) -> str:
        self.sessions.of(request.session_hash).stop.set()
        return page.status("Stopped.")

    def leave(self, request: gr.Request) -> None:
        self.sessions.drop(request.session_hash)

    # Answers

    def ask(
        self, token: Any, question: Any, model: Any, effort: Any, votes: Any, request: gr.Request
    ) -> Iterator[Shown]:
        """Stream the response of one model, or of two, one after the other."""
        session = self.sessions.of(request.session_hash)
        if not session.asks:
            yield gr.skip(), *UNCHANGED
            return
        stop, link = session.stop, ""

        def runs() -> Iterator[Run]:
            nonlocal link
            session.base = session.before = session.after = None
            if not isinstance(question, str) or not question.strip():
                raise UserError("Type a question about the image first.")
            if not isinstance(effort, str) or type(votes) is not int or votes not in VOTES:
                raise UserError("Choose effort and votes from their lists.")
            if not token:
                raise UserError("Choose an image first, or an example.")
            image, example, names = self.store.get(token), self.store.example(token), self.engine.models_of(model)
            link = make_link(Linked(example, question, model, effort, votes), self.engine.offered[0]) or ""
            known = example is not None and question == example.question
            for place, name in zip(("base", "before")[-len(names) :], names, strict=True):
                if stop.is_set():
                    return
                expected = example.answer if example is not None and known else None
                for run in self.engine.ask(name, image, question, effort, votes, stop, expected):
                    setattr(session, place, run)
                    yield run

        def panels(run: Run) -> Shown:
            if run is session.base:
                assert self.engine.pair is not None
                follows = not stop.is_set()
                waiting = gr.update(value=page.waiting_panel(self.engine.pair[1]) if follows else "", visible=follows)
                return gr.update(**HIDDEN), _panel(run), waiting, gr.update(**HIDDEN), gr.update(visible=False)
            base, testable = gr.skip() if session.base is not None else gr.update(**HIDDEN), run.attention is not None
            difference = page.describe_difference(session.base, run) if session.base is not None else ""
            return _verdict_line(difference), base, _panel(run), gr.update(**HIDDEN), gr.update(visible=testable)

        yield from self._show(runs, panels, lambda: link)

    def test(self, kind: str) -> Callable[..., Iterator[Shown]]:
        """The handler of one of the three tests."""

        def handler(token: Any, request: gr.Request) -> Iterator[Shown]:
            session = self.sessions.of(request.session_hash)

            def runs() -> Iterator[Run]:
                before = session.before
                if before is None or not before.text.strip():
                    raise UserError("Ask first: a test needs a response.")
                session.after = None
                other = self.store.get(token) if kind == "swap" and token else None
                expected = self._expected(kind, before, token)
                for run in self.engine.test(kind, before, other, session.stop, expected):
                    session.after = run
                    yield run

            def panels(run: Run) -> Shown:
                change = page.describe_change(session.before, run) if session.before is not None else ""
                return _verdict_line(change), gr.skip(), gr.skip(), _panel(run), gr.skip()

            yield from self._show(runs, panels)

        return handler

    def _expected(self, kind: str, before: Run, token: Any) -> str | None:
        """The correct answer after a test of an example; None where it is not known, and without an image."""
        if before.expected is None or kind == "blank":
            return None
        if kind == "again":
            return before.expected
        found = (one for one in self.store.examples if one.other == token and one.question == before.question)
        return next((one.other_answer for one in found), None)

    def choose(self, which: str) -> Callable[..., Any]:
        """The handler that shows the heat map of a sentence."""

        def handler(event: gr.EventData, request: gr.Request) -> Any:
            run: Run | None = getattr(self.sessions.of(request.session_hash), which)
            number = _event_number(event)
            if run is None or not page.has_sentence(run, number):
                return gr.skip()
            return page.run_panel(run, number)

        return handler

    def _show(
        self, runs: Callable[[], Iterator[Run]], panels: Callable[[Run], Shown], link: Callable[[], str] = lambda: ""
    ) -> Iterator[Shown]:
        """Redraw a growing run every ``REDRAW`` seconds and once at its end; an error becomes the status line."""
        drawn, run = 0.0, None
        try:
            for now in runs():
                if run is not None and now is not run:  # the next model begins: draw the end of this one
                    yield page.run_status(run), *panels(run)
                run = now
                if run.attention is not None or time.monotonic() - drawn > REDRAW:
                    drawn = time.monotonic()
                    yield page.run_status(run), *panels(run)
            if run is not None:
                yield page.run_status(run, link()), *panels(run)
        except UserError as error:
            yield page.status(str(error), "error"), *UNCHANGED
        except Exception as error:
            full = memory_error(error)
            if full is None:
                log.exception("A run failed.")
            message = "The demo failed with an internal error: see the traceback in the terminal that runs it."
            yield page.status(str(full or message), "error"), *UNCHANGED


def _verdict_line(text: str) -> Any:
    return gr.update(value=text, visible=bool(text))


def _panel(run: Run) -> Any:
    return gr.update(value=page.run_panel(run), visible=True)


def _event_number(event: gr.EventData) -> int | None:
    """The ``n`` of an event from the page, if it is an integer of at least 0."""
    data = getattr(event, "_data", None)
    number = data.get("n") if isinstance(data, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None
