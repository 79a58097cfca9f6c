"""The Gradio page: its layout and its event handlers. ``demo.serve`` serves it, ``demo.engine`` runs the models."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from configs.errors import UserError, memory_error
from demo import page
from demo.engine import TESTS, Engine, Run, Sessions
from demo.image_store import MAX_UPLOAD, ImageStore
from vlm.reasoning import EFFORTS

STATIC = Path(__file__).parent / "static"
VOTES = (1, 4, 8)
REDRAW = 0.05
"""Seconds between two drawings of a growing trace."""
QUEUE = 32
"""Visitors who may wait for the model at once."""

log = logging.getLogger("demo")


def build_app(engine: Engine, store: ImageStore, sessions: Sessions) -> gr.Blocks:
    """The Gradio page over an engine. Images come as tokens of the store, so no event can name a file of the host."""
    handlers = Handlers(engine, store, sessions)
    choose, slot = ((STATIC / name).read_text(encoding="utf-8") for name in ("choose.js", "slot.js"))
    with gr.Blocks(title="Reflection-V", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown("# Reflection-V\nWhere does a vision-language model look while it thinks? Ask, then test it.")
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                image = gr.HTML("", html_template=_slot("Image: choose, drop or paste a file", "slot"), js_on_load=slot)
                shown = gr.HTML(page.example_cards(store.examples), js_on_load=choose, elem_id="examples")
                question = gr.Textbox(label="Question", lines=2, max_lines=6, max_length=20_000)
                with gr.Row():
                    effort = gr.Dropdown(list(EFFORTS), value="medium", label="Effort", min_width=90, filterable=False)
                    votes = gr.Dropdown(list(VOTES), value=1, label="Votes", min_width=70, filterable=False)
                offered = list(engine.names)
                model = gr.Dropdown(offered, value=offered[0], label="Model", interactive=True, filterable=False)
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", elem_id="ask", min_width=100)
                    stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=100)
                status = gr.HTML(page.status("Choose an example, or an image of your own, and ask."), elem_id="status")
            with gr.Column(scale=3, min_width=300):
                with gr.Row(elem_id="tests"):
                    other = gr.HTML("", html_template=_slot("Other image, for the swap", "slot small"), js_on_load=slot)
                    with gr.Column(min_width=200):
                        gr.Markdown("**Test the re-look**: the model continues from the middle of its own response.")
                        with gr.Row():
                            tests = {
                                kind: gr.Button(name, elem_id=f"test-{kind}", size="md", min_width=110)
                                for kind, name in TESTS.items()
                            }
                verdict = gr.HTML("", elem_id="verdict")
                with gr.Row(elem_id="results"):
                    before = gr.HTML("", js_on_load=choose, elem_id="before")
                    after = gr.HTML("", js_on_load=choose, elem_id="after", visible=False)

        private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        quick = private | {"concurrency_limit": 8, "concurrency_id": "quick"}
        # One run at a time: two generations on one GPU would each take twice as long and need twice the memory.
        slow = private | {"concurrency_limit": 1, "concurrency_id": "model"}
        results = [status, verdict, before, after]
        shown.select(handlers.example, None, [image, other, question], **quick)
        gr.on([ask.click, question.submit], handlers.begin, None, status, **quick).then(
            handlers.ask, [image, question, model, effort, votes], results, **slow
        )
        for kind, button in tests.items():
            button.click(handlers.begin, None, status, **quick).then(handlers.test(kind), other, results, **slow)
        stop.click(handlers.stop, None, status, **quick)
        before.select(handlers.choose("before"), None, before, **quick)
        after.select(handlers.choose("after"), None, after, **quick)
        blocks.unload(handlers.leave)
    return blocks.queue(max_size=QUEUE)


def _slot(label: str, classes: str) -> str:
    """HTML of one image field; ``static/slot.js`` handles choosing, dropping and pasting a file."""
    return (
        f'<div class="{classes}" data-limit="{MAX_UPLOAD}"><label><img alt="The chosen image" hidden>'
        f'<span class="says">{label}</span><input type="file" accept="image/*" aria-label="{label}"></label>'
        '<div class="wrong" role="alert"></div></div>'
    )


class Handlers:
    """The event handlers. Values from the page are untrusted: anyone can post to it."""

    def __init__(self, engine: Engine, store: ImageStore, sessions: Sessions) -> None:
        self.engine, self.store, self.sessions = engine, store, sessions

    def example(self, event: gr.EventData) -> tuple[Any, Any, Any]:
        """Put an example's image, its counterpart and its question on the page."""
        number = _event_number(event)
        if number is None or number >= len(self.store.examples):
            return gr.skip(), gr.skip(), gr.skip()
        example = self.store.examples[number]
        return example.token, example.other, example.question

    def begin(self, request: gr.Request) -> str:
        """Start a new run of this visitor. It ends the previous run; the stop button then belongs to the new one."""
        self.sessions.of(request.session_hash).restart()
        return page.status("Waiting for the model …")

    def stop(self, request: gr.Request) -> str:
        self.sessions.of(request.session_hash).stop.set()
        return page.status("Stopped.")

    def leave(self, request: gr.Request) -> None:
        self.sessions.drop(request.session_hash)

    def ask(
        self, token: Any, question: Any, model: Any, effort: Any, votes: Any, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Stream a response: (status, verdict, before, after)."""
        session = self.sessions.of(request.session_hash)

        def runs() -> Iterator[Run]:
            session.before = session.after = None
            if not isinstance(question, str) or not question.strip():
                raise UserError("Type a question about the image first.")
            if not isinstance(effort, str) or type(votes) is not int or votes not in VOTES:
                raise UserError("Choose effort and votes from their lists.")
            if not token:
                raise UserError("Choose an image first, or an example.")
            image = self.store.get(token)
            for run in self.engine.ask(model, image, question, effort, votes, session.stop):
                session.before = run
                yield run

        def panels(run: Run) -> tuple[Any, ...]:
            return "", gr.update(value=page.run_panel(run), visible=True), gr.update(value="", visible=False)

        yield from self._show(runs, panels)

    def test(self, kind: str) -> Callable[..., Iterator[tuple[Any, ...]]]:
        """The handler of one of the three tests."""

        def handler(token: Any, request: gr.Request) -> Iterator[tuple[Any, ...]]:
            session = self.sessions.of(request.session_hash)

            def runs() -> Iterator[Run]:
                if session.before is None or not session.before.text.strip():
                    raise UserError("Ask first: a test needs a response.")
                session.after = None
                other = self.store.get(token) if kind == "swap" and token else None
                for run in self.engine.test(kind, session.before, other, session.stop):
                    session.after = run
                    yield run

            def panels(run: Run) -> tuple[Any, ...]:
                change = page.describe_change(session.before, run) if session.before is not None else ""
                return change, gr.skip(), gr.update(value=page.run_panel(run), visible=True)

            yield from self._show(runs, panels)

        return handler

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
        self, runs: Callable[[], Iterator[Run]], panels: Callable[[Run], tuple[Any, ...]]
    ) -> Iterator[tuple[Any, ...]]:
        """Redraw a growing run every ``REDRAW`` seconds and once at its end; an error becomes the status line."""
        drawn, run = 0.0, None
        try:
            for run in runs():
                if run.attention is not None or time.monotonic() - drawn > REDRAW:
                    drawn = time.monotonic()
                    yield page.run_status(run), *panels(run)
            if run is not None:
                yield page.run_status(run), *panels(run)
        except UserError as error:
            yield page.status(str(error), "error"), gr.skip(), gr.skip(), gr.skip()
        except Exception as error:
            full = memory_error(error)
            if full is None:
                log.exception("A run failed.")
            message = "The demo failed with an internal error: see the traceback in the terminal that runs it."
            yield page.status(str(full or message), "error"), gr.skip(), gr.skip(), gr.skip()


def _event_number(event: gr.EventData) -> int | None:
    """The ``n`` of an event from the page, if it is an integer of at least 0."""
    data = getattr(event, "_data", None)
    number = data.get("n") if isinstance(data, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None
