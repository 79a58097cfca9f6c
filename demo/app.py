"""The Gradio page: its layout. ``demo.handlers`` handles its events, ``demo.serve`` serves it, ``demo.engine`` runs the models."""

from pathlib import Path
from typing import Any

import gradio as gr

from demo import explanations, page
from demo.engine import TESTS, Engine, Sessions
from demo.handlers import VOTES, Handlers
from demo.image_store import MAX_UPLOAD, ImageStore
from demo.links import DEFAULT_EFFORT, DEFAULT_VOTES
from vlm.reasoning import EFFORTS

STATIC = Path(__file__).parent / "static"
QUEUE = 32
"""Visitors who may wait for the model at once."""


def build_app(engine: Engine, store: ImageStore, sessions: Sessions, with_rows: bool = False) -> gr.Blocks:
    """The Gradio page over an engine. Images come as tokens of the store, so no event can name a file of the host.

    Args:
        with_rows: whether there is a second tab, the viewer of a run's rows.
    """
    handlers = Handlers(engine, store, sessions)
    choose, slot, opened = (
        (STATIC / name).read_text(encoding="utf-8") for name in ("choose.js", "slot.js", "opened.js")
    )
    with gr.Blocks(title="Reflection-V", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        if with_rows:
            gr.HTML(explanations.tabs(), elem_id="tabs")
        gr.HTML(explanations.heading())
        shown = gr.HTML(page.example_cards(store.examples), js_on_load=choose, elem_id="examples")
        link = gr.HTML("", js_on_load=opened, elem_id="link")
        with gr.Row(elem_id="page"):
            with gr.Column(scale=2, min_width=280):
                slot_html = _slot("Your own image: choose, drop or paste a file", "slot", camera=True)
                image = gr.HTML("", html_template=slot_html, js_on_load=slot)
                question = gr.Textbox(label="Question", lines=2, max_lines=6, max_length=20_000)
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", elem_id="ask", min_width=100)
                    stop = gr.Button("Stop", elem_id="stop", min_width=100)
                status = gr.HTML(page.status("Choose an example: it is answered at once."), elem_id="status")
                model = gr.Dropdown(
                    engine.offered, value=engine.offered[0], label="Model", interactive=True, filterable=False
                )
                with gr.Row():
                    effort = gr.Dropdown(
                        list(EFFORTS), value=DEFAULT_EFFORT, label="Effort", min_width=90, filterable=False
                    )
                    votes = gr.Dropdown(list(VOTES), value=DEFAULT_VOTES, label="Votes", min_width=70, filterable=False)
            with gr.Column(scale=5, min_width=300):
                verdict = gr.HTML("", elem_id="verdict", visible=False)
                with gr.Row(elem_id="results"):
                    base = gr.HTML("", js_on_load=choose, elem_id="base", visible=False)
                    before = gr.HTML(explanations.introduction(), js_on_load=choose, elem_id="before")
                    after = gr.HTML("", js_on_load=choose, elem_id="after", visible=False)
                with gr.Column(elem_id="tests", visible=False) as testing:
                    gr.HTML(explanations.about_tests(engine.pair))
                    with gr.Row():
                        tests = {}
                        for kind, name in TESTS.items():
                            with gr.Column(min_width=180):
                                tests[kind] = gr.Button(name, elem_id=f"test-{kind}", size="md", min_width=110)
                                gr.HTML(explanations.about_test(kind))
                                if kind == "swap":
                                    slot_html = _slot("The other image", "slot small")
                                    other = gr.HTML("", html_template=slot_html, js_on_load=slot)

        private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        quick = private | {"concurrency_limit": 8, "concurrency_id": "quick"}
        # One run at a time: two generations on one GPU would each take twice as long and need twice the memory.
        slow = private | {"concurrency_limit": 1, "concurrency_id": "model"}
        asked = [image, question, model, effort, votes]
        results = [status, verdict, base, before, after, testing]
        for chosen, handler in ((shown, handlers.example), (link, handlers.link)):
            filled = chosen.select(handler, None, [status, image, other, question, model, effort, votes], **quick)
            filled.then(handlers.ask, asked, results, **slow)
        begun = gr.on([ask.click, question.submit], handlers.begin, None, status, **quick)
        begun.then(handlers.ask, asked, results, **slow)
        for kind, button in tests.items():
            button.click(handlers.begin, None, status, **quick).then(handlers.test(kind), other, results, **slow)
        stop.click(handlers.stop, None, status, **quick)
        for which, panel in (("base", base), ("before", before), ("after", after)):
            panel.select(handlers.choose(which), None, panel, **quick)
        blocks.unload(handlers.leave)
    return blocks.queue(max_size=QUEUE)


def _slot(label: str, classes: str, camera: bool = False) -> str:
    """HTML of one image field; ``static/slot.js`` handles choosing, dropping, pasting and, on a phone, photographing."""
    photograph = (
        '<label class="camera">Take a photo<input type="file" accept="image/*" capture="environment"></label>'
        if camera
        else ""
    )
    return (
        f'<div class="{classes}" data-limit="{MAX_UPLOAD}"><label class="file"><img alt="The chosen image" hidden>'
        f'<span class="says">{label}</span><input type="file" accept="image/*" aria-label="{label}"></label>{photograph}'
        '<div class="wrong" role="alert"></div></div>'
    )
