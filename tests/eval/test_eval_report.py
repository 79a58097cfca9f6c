"""The page: complete, self-contained, and inert whatever a question or a response contains."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from scripted_subjects import always_looks, colour_problems, scripted, think

from configs.jsonl import append_jsonl
from eval import charts
from eval.harness import evaluate
from eval.report import format_difference, format_estimate, highlight, write_report

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"><svg onload=alert(3)>'


class Page(HTMLParser):
    """Collects tags with attributes, and the text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path, **write: object) -> tuple[Page, str]:
    problems = colour_problems(folder)
    problems[0] = problems[0].model_copy(update={"question": HOSTILE, "meta": {"family": HOSTILE}})

    def echoes(turn):  # type: ignore[no-untyped-def]
        return f"<think>{HOSTILE} Let me look at it again.</think> \\boxed{{red}}"

    subjects = {"base": echoes, "rl": always_looks}
    models = {"base": {"path": "base"}, "rl": {"path": "rl"}}
    report = evaluate(models, problems, folder / "out", load=lambda path: scripted(subjects[path]))
    report |= {"data": {"problems": 700, "kept": 534}, "grpo": {"steps": 3}, "seconds": {"build": 1.5}}
    logs = {"grpo": folder / "grpo.jsonl", "sft": folder / "missing.jsonl"}
    rows = [{"step": step, "reward": step / 10, "entropy": None, "loss": float("nan")} for step in range(1, 60)]
    append_jsonl(logs["grpo"], rows)
    _, file = write_report(report, folder / "out", logs, folder / "out/samples.json")
    html = file.read_text()
    return Page(html), html


def test_page_is_inert_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    page, html = page_of(tmp_path)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "form", "base"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    sources = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert sources and all((value or "").startswith("data:image/jpeg;base64,") for value in sources)
    assert not re.search(r"url\(|@import", html)
    policy = next(attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert HOSTILE in page.text  # as text, braces and all


def test_page_shows_every_part(tmp_path: Path) -> None:
    page, html = page_of(tmp_path)
    for heading in (
        "In short",
        "Differences on the same problems",
        "Accuracy by family",
        "Learning curves",
        "Responses",
    ):
        assert heading in page.text
    assert "GRPO: reward" in html and "GRPO: entropy" not in html  # a curve without points is left out
    assert sum(tag == "mark" for tag, _ in page.tags) > 6 and sum(tag == "article" for tag, _ in page.tags) == 12
    assert "534" in page.text and "insufficient data" in page.text
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (
        report["data"]["kept"] == 534 and report["grpo"]["steps"] == 3 and report["models"]["rl"]["accuracy"]["n"] == 12
    )
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)


def test_page_of_a_run_that_knows_little(tmp_path: Path) -> None:
    _, file = write_report({"data": {"problems": 3}}, tmp_path, {}, [])
    assert "Responses" not in file.read_text()


def test_an_image_that_is_gone_leaves_a_sentence(tmp_path: Path) -> None:
    response = {"text": "x" * 7000, "answer": None, "right": False, "truncated": True, "looks": 0}
    sample = {
        "id": "a",
        "question": "q",
        "choices": ["one", "two"],
        "answer": "1",
        "family": "f",
        "responses": {"m": response},
    }
    _, file = write_report({}, tmp_path, {}, [{**sample, "images": [str(tmp_path / "gone.png")]}])
    page = Page(file.read_text())
    assert "can no longer be read" in page.text and "1000 more characters" in page.text
    assert "A. one" in page.text and "no answer" in page.text and "cut off" in page.text


def test_highlight_keeps_every_character_and_marks_relooks() -> None:
    text = think("red", "blue") + "\n  Let me check the picture once more. End"
    pieces = highlight(text)
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, marked in pieces if marked] == [
        "Let me look at it again.",
        "Let me check the picture once more.",
    ]
    assert highlight("") == []


def test_estimates_for_people() -> None:
    none = '<span class="none">insufficient data</span>'
    assert format_estimate(None) == format_difference({"value": None, "ci95": None, "n": 0}) == none
    assert "<b>0.712</b>" in format_estimate({"value": 0.7123, "ci95": [0.68, 0.74], "n": 1000})
    assert "[0.680, 0.740]" in format_estimate({"value": 0.7123, "ci95": [0.68, 0.74], "n": 1000})
    assert "<b>123.5</b>" in format_estimate({"value": 123.45678, "ci95": None, "n": 1})
    assert "<b>+0.100</b>" in format_difference({"value": 0.1, "ci95": [0.01, 0.2], "n": 10})
    assert "<b>" not in format_difference({"value": 0.1, "ci95": [-0.01, 0.2], "n": 10})


@pytest.mark.parametrize(
    "ys",
    [[1.0], [0.0, 0.0, 0.0], [-1.0, 2.0], [1e-9, 2e-9], [1e6, 3e6], [0.5] * 5000],
    ids=lambda ys: f"{ys[0]}x{len(ys)}",
)
def test_charts_draw_any_finite_numbers(ys: list[float]) -> None:
    svg = charts.lines("a < b & c", {"y": (list(range(len(ys))), ys)}, "step")
    ElementTree.fromstring(svg)
    assert "nan" not in svg and len(svg) < 40_000
    numbers = [float(value) for path in re.findall(r' d="M([^"]*)"', svg) for value in re.findall(r"-?[\d.]+", path)]
    assert all(-1 <= number <= charts.WIDTH for number in numbers)


def test_charts_without_points_are_empty() -> None:
    assert charts.lines("t", {"y": ([], [])}, "step") == ""
    ElementTree.fromstring(charts.bars({"f": {"m": None}}, ["m"], {}))
