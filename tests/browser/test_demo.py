"""The demo as a person meets it, in real headless Chromium (``make test-browser``)."""

import re
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.browser


def heat(page: Any, panel: str = "#before") -> str:
    return page.get_attribute(f"{panel} img.heat", "src")


def test_ask_stream_choose_a_sentence_and_the_heat_map_changes(visit: Any) -> None:
    visitor = visit()
    page = visitor.page
    visitor.example(0)  # one click: the example is asked at once
    page.wait_for_selector("#before section[data-state='thinking'] .trace")
    lengths = {len(page.inner_text("#before .trace"))}
    visitor.finished()
    lengths.add(len(page.inner_text("#before .trace")))
    assert len(lengths) == 2  # it was there before it was whole
    assert page.query_selector_all("#before .curve polyline")
    whole = heat(page)
    page.click("#before button.sentence >> nth=0")
    page.wait_for_selector("#before button.sentence[data-n='0'][aria-pressed='true']")
    assert heat(page) != whole
    # By keyboard alone: the focus is kept, and an arrow goes to the next sentence.
    if page.locator("#before button.sentence").count() > 1:
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#before button.sentence[data-n='1'][aria-pressed='true']")
        assert page.evaluate("document.activeElement.dataset.n") == "1"


def test_the_first_word_comes_soon(visit: Any) -> None:
    """benchmarks/demo.py measures it; here the seconds are only printed, for the clock of a busy machine decides nothing."""
    visitor = visit()
    visitor.choose_effort("low")
    started = time.monotonic()
    visitor.page.click("button.example >> nth=0")
    visitor.page.wait_for_selector("#before .trace")
    print(f"first text {time.monotonic() - started:.2f} s after the click")
    visitor.finished()


@pytest.mark.parametrize("kind", ["again", "swap", "blank"])
def test_a_test_shows_before_and_after_side_by_side(visit: Any, kind: str) -> None:
    visitor = visit()
    visitor.example(1)
    visitor.finished()
    visitor.page.click(f"#test-{kind}")
    visitor.finished("#after")
    # The page draws its parts one after the other: what lies above the panels would move them.
    visitor.page.wait_for_selector("#verdict .verdict")
    boxes = [visitor.page.locator(panel).bounding_box() for panel in ("#before", "#after")]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and abs(boxes[0]["y"] - boxes[1]["y"]) < 5
    assert visitor.page.query_selector("#after button.sentence.given")
    assert "→" in visitor.page.inner_text("#verdict")
    before = heat(visitor.page)
    visitor.page.click("#after button.sentence >> nth=0")
    visitor.page.wait_for_selector("#after button.sentence[data-n='0'][aria-pressed='true']")
    assert heat(visitor.page) == before


def test_what_can_be_tested_appears_with_the_answer(visit: Any) -> None:
    visitor = visit()
    page = visitor.page
    for there in ("What you will see", "attention mass", "A heat map for each sentence"):
        assert there in page.inner_text("#before")
    assert page.query_selector("#tests") is None
    visitor.example(0)
    page.wait_for_selector("#before section[data-state='thinking'] .trace")
    assert page.query_selector("#test-again") is None
    visitor.finished()
    page.wait_for_selector("#test-again")
    assert "Wait, let me look at the picture again." in page.inner_text("#tests")
    assert "example-" in page.get_attribute("#tests .slot img", "src")


def test_a_link_asks_its_question_again(visit: Any) -> None:
    visitor = visit()
    page = visitor.page
    visitor.example(3)
    visitor.finished()
    page.fill("textarea", "Is there a <b>7</b> & a 3?")
    visitor.ask("off")
    page.wait_for_selector("#status a[href*='question=']")
    answer = page.inner_text("#before .trace")
    page.click("#status a.same")
    page.wait_for_url("**/?example=digit_sum&question=*&effort=off")
    page.wait_for_selector("#before section[data-state='done'] button.sentence")
    assert page.input_value("textarea") == "Is there a <b>7</b> & a 3?"
    assert page.inner_text("#before .trace") == answer
    other = visit(query="?question=What+is+this%3F").page  # whose image is not part of the link
    other.wait_for_function("document.querySelector('#status').innerText.includes('choose the image')")
    assert other.input_value("textarea") == "What is this?" and other.query_selector("#before section.run") is None
    wrong = visit(query="?example=nothing").page
    wrong.wait_for_selector("#status .error")
    assert "does not have" in wrong.inner_text("#status")


def test_two_models_side_by_side(arrive: Any, browser: Any, addresses: Any) -> None:
    visitor = arrive(browser, addresses.pair)
    page = visitor.page
    visitor.example(0)
    page.wait_for_selector("#base section[data-state='thinking']")
    page.wait_for_selector("#before section[data-state='waiting']")
    visitor.finished("#base")
    visitor.finished()
    page.wait_for_selector("#verdict .verdict")
    boxes = [page.locator(panel).bounding_box() for panel in ("#base", "#before")]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and abs(boxes[0]["y"] - boxes[1]["y"]) < 5
    verdict = page.inner_text("#verdict")
    # The same weights: the page says what is the same, too.
    assert "Both answer" in verdict and "The correct answer is 1." in verdict and "mean attention mass" in verdict
    assert page.inner_text("#base .trace") == page.inner_text("#before .trace")
    assert "This model reads rows of <b>digits</b>" in page.inner_text("#before")
    assert "This model reads" not in page.inner_text("#base")
    page.click("#base button.sentence >> nth=0")
    page.wait_for_selector("#base button.sentence[data-n='0'][aria-pressed='true']")
    assert "grpo (trained)" in page.inner_text("#tests")
    page.click("#test-blank")
    visitor.finished("#after")
    assert page.query_selector("#base section")


def test_a_phone_takes_a_photo(visit: Any, tmp_path: Path) -> None:
    phone = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    assert phone.page.is_visible("label.camera") and not visit().page.is_visible("label.camera")
    camera = phone.page.locator("label.camera input")
    assert (camera.get_attribute("capture"), camera.get_attribute("accept")) == ("environment", "image/*")
    Image.effect_noise((300, 200), 90).convert("RGB").save(tmp_path / "photo.jpg")
    camera.set_input_files(tmp_path / "photo.jpg")
    phone.page.wait_for_selector(".slot img[src^='image/']")
    phone.page.fill("textarea", "What is this?")
    phone.ask("off")
    phone.page.wait_for_selector("#status a.same")
    assert "without its image" in phone.page.inner_text("#status")
    # An example stands at the top, and its answer below the question: the page goes there.
    phone.page.evaluate("window.scrollTo(0, 0)")
    phone.page.click("button.example >> nth=0")
    phone.page.wait_for_function("document.querySelector('#before').getBoundingClientRect().top < 200")
    phone.finished()


def test_stop_works_at_once(visit: Any) -> None:
    visitor = visit()
    visitor.example(0, "high")
    visitor.page.wait_for_selector("#before section[data-state='thinking'] .trace")
    visitor.page.click("#stop")
    visitor.page.wait_for_selector("#before section[data-state='stopped']")
    # The page draws the line of status after the panel.
    visitor.page.wait_for_function("document.querySelector('#status').innerText.startsWith('Stopped')")
    tokens = re.search(r"(\d+) tokens", visitor.page.inner_text("#status"))
    assert tokens is None or int(tokens[1]) < 1000
    visitor.ask("off")  # and the next question is answered
    visitor.page.wait_for_selector("#before section[data-state='done']")


def test_two_visitors_at_once_see_their_own(visit: Any, tmp_path: Path) -> None:
    visitors = [visit(), visit()]
    sources = []
    for number, visitor in enumerate(visitors):
        file = tmp_path / f"{number}.png"
        Image.effect_noise((64 + 32 * number, 64), 90).convert("RGB").save(file)
        visitor.page.set_input_files("input[type=file] >> nth=0", file)
        visitor.page.wait_for_selector(".slot img[src^='image/']")
        sources.append(visitor.page.get_attribute(".slot img", "src"))
        visitor.page.fill("textarea", f"Question number {number}?")
        visitor.choose_effort("low")
    for visitor in visitors:
        visitor.page.click("#ask")
    for visitor in visitors:
        visitor.finished()
    sizes = [
        visitor.page.evaluate("[...document.querySelectorAll('#before img.heat')].map(i => i.naturalWidth)")
        for visitor in visitors
    ]
    assert sources[0] != sources[1] and sizes == [[64], [96]]
    # A stranger who does not know the token sees nothing of it.
    stranger = visit()
    assert stranger.page.query_selector("#before section.run") is None
    assert stranger.page.query_selector(".slot img[src]") is None


def test_html_in_the_question_is_inert(visit: Any) -> None:
    visitor = visit()
    visitor.example(0, "off")
    visitor.finished()
    visitor.page.fill("textarea", "<img src=x onerror=alert(1)><script>alert(2)</script>${alert(3)}{{alert(4)}} what?")
    visitor.ask("off")
    visitor.page.wait_for_selector("#status a[href*='onerror']")
    assert visitor.page.query_selector("#before section[data-state='done'] button.sentence")
    assert visitor.page.query_selector("#before img[src='x'], #status img") is None


def test_a_60_mb_upload_is_refused_in_words(visit: Any, tmp_path: Path) -> None:
    visitor = visit()
    file = tmp_path / "large.png"
    with open(file, "wb") as large:
        large.truncate(60 * 2**20)
    visitor.page.set_input_files("input[type=file] >> nth=0", file)
    visitor.page.wait_for_function("document.querySelector('.wrong').textContent !== ''")
    assert visitor.page.inner_text(".wrong >> nth=0") == "The image is larger than 20 MB: save a smaller version of it."
    visitor.page.click("#ask")
    visitor.page.wait_for_selector("#status .error")


def test_a_file_that_is_no_image_is_refused_in_words(visit: Any, tmp_path: Path) -> None:
    visitor = visit()
    (tmp_path / "notes.png").write_text("no picture")
    visitor.page.set_input_files("input[type=file] >> nth=0", tmp_path / "notes.png")
    visitor.page.wait_for_function("document.querySelector('.wrong').textContent !== ''")
    assert "cannot be read as an image" in visitor.page.inner_text(".wrong >> nth=0")


def test_mistakes_are_answered_in_words(visit: Any) -> None:
    visitor = visit()
    visitor.page.click("#ask")
    visitor.page.wait_for_selector("#status .error")
    assert "Type a question" in visitor.page.inner_text("#status")
    visitor.page.fill("textarea", "What is here?")
    visitor.page.click("#ask")
    visitor.page.wait_for_function("document.querySelector('#status').innerText.includes('Choose an image')")


@pytest.mark.parametrize(
    "options", [{"viewport": {"width": 390, "height": 844}}, {"color_scheme": "dark"}], ids=["narrow", "dark"]
)
def test_narrow_and_dark(visit: Any, options: dict[str, Any]) -> None:
    visitor = visit(**options)
    page = visitor.page
    visitor.example(2)
    visitor.finished()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    if "color_scheme" in options:
        assert page.evaluate("document.body.classList.contains('dark')")
