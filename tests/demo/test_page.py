"""The changing parts of the page: escaped, and with what a person needs to see."""

import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from demo import page
from demo.engine import TESTS, Run
from vlm.sentence_attention import ResponseAttention, Sentence

EVIL = "<img src=x onerror=alert(1)> <script>alert(2)</script> \"' ${alert(3)} {{4}} &amp;"


def run(**changes: object) -> Run:
    values = {"model": "tiny", "image": Image.new("RGB", (40, 30), "blue"), "question": EVIL, "effort": "low"}
    return Run(**(values | changes))


def watched(text: str = "One. Wait, let me look again. Two.", **changes: object) -> Run:
    heat = torch.tensor([[0.1, 0.2], [0.0, 0.1]])
    spans = [(0, 4), (5, 29), (30, 34)] if text.startswith("One.") else [(0, len(text))]
    sentences = [
        Sentence(start, end, text[start:end], (n, n + 1), 0.4 / (n + 1), 1.5, [heat / (n + 1)])
        for n, (start, end) in enumerate(spans)
    ]
    mass = [0.4 / (n + 1) for n in range(len(spans))]
    attention = ResponseAttention(mass, [1.5] * len(spans), sentences, [heat])
    return run(text=text, state="done", answer="Two", attention=attention, tokens=9, **changes)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


@pytest.mark.parametrize(
    "html",
    [
        page.run_panel(run(text=EVIL)),
        page.run_panel(run(text=EVIL, state="done", answer=EVIL, votes={EVIL: 3}, title=EVIL, note=EVIL)),
        page.run_panel(watched(EVIL, votes={EVIL: 2, "x": 1}), 0),
        page.status(EVIL, "error"),
        page.run_status(run(note=EVIL)),
        page.describe_change(run(answer=EVIL, state="done"), run(answer="x", state="done", title="Look again")),
    ],
)
def test_html_in_a_text_is_text(html: str) -> None:
    parser = Tags()
    parser.feed(html)
    assert "script" not in parser.tags and parser.handlers == []
    assert parser.tags.count("img") == html.count('class="heat"')
    assert "&lt;script&gt;" in html


def test_sentences_are_coloured_by_their_mass() -> None:
    html = page.run_panel(watched(), 1)
    heats = [float(value) for value in re.findall(r"--heat:([\d.]+)", html)]
    assert heats == pytest.approx([1.0, 0.5, 1 / 3], abs=1e-3)
    assert re.findall(r'aria-pressed="(\w+)"', html) == ["false", "true", "false"]
    assert "<small>40%</small>" in html and "1.50 times uniform attention" in html
    assert 'class="relook"' in html and 'rect class="chosen"' in html and "let me look again" in html


def test_another_sentence_is_another_heat_map() -> None:
    maps = {re.findall(r'src="(data:[^"]+)"', page.run_panel(watched(), n))[0] for n in (0, 1, 2)}
    assert len(maps) == 3


def test_a_run_that_is_under_way_shows_its_text_and_no_answer() -> None:
    html = page.run_panel(run(text="row 1", given=3))
    assert '<span class="given">row</span> 1' in html and "Answer" not in html and "caret" in html


def test_what_a_given_sentence_looks_like() -> None:
    html = page.run_panel(watched(given=29))
    assert re.findall(r'class="(sentence[^"]*)"', html) == ["sentence given", "sentence given", "sentence"]


def test_verdicts_claim_no_more_than_was_shown() -> None:
    for title in TESTS.values():
        same = page.describe_change(run(answer="1", state="done"), run(answer="1", state="done", title=title))
        other = page.describe_change(run(answer="1", state="done"), run(answer="2", state="done", title=title))
        assert same != other and "→" in same
    assert page.describe_change(run(answer="1"), run(state="stopped", title="Look again")) == ""
    assert "nothing can be compared" in page.describe_change(run(answer="1"), run(state="done", title="Look again"))


@pytest.mark.parametrize("number", [-1, 3, True, None, "0", 0.0, [0]])
def test_only_sentences_that_are_there(number: object) -> None:
    assert not page.has_sentence(watched(), number)
    assert page.has_sentence(watched(), 2) and not page.has_sentence(run(), 0) and not page.has_sentence(None, 0)
