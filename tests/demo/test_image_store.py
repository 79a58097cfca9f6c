"""The store of visitors' images: limits, expiry, and examples that stay."""

import io
from pathlib import Path

import pytest
from PIL import Image

from configs.errors import ImageError
from demo.image_store import LIFETIME, SHOWN_PIXELS, ImageStore
from eval.grounding import counterfactual, has_counterfactual
from vlm.problem import read_problems


def png(size: tuple[int, int] = (8, 6)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, "red").save(data, "PNG")
    return data.getvalue()


def test_an_image_comes_back_by_its_token_alone() -> None:
    store = ImageStore()
    first, second = store.add(png()), store.add(png())
    assert first != second and len(first) >= 32  # the same file is two images: no name follows from the content
    assert store.get(first).size == (8, 6) and store.png(first).startswith(b"\x89PNG")
    for wrong in ("", "../x", None, 3, [first], {"path": "/etc/passwd"}, first[:-1]):
        with pytest.raises(ImageError, match="no longer here"):
            store.get(wrong)


def test_too_many_too_old_too_large() -> None:
    now = [0.0]
    store = ImageStore(capacity=2, clock=lambda: now[0])
    tokens = [store.add(png()) for _ in range(2)]
    store.get(tokens[0])
    third = store.add(png())
    with pytest.raises(ImageError):
        store.get(tokens[1])  # the least recently used one
    now[0] = LIFETIME + 1
    for token in (tokens[0], third):
        with pytest.raises(ImageError):
            store.get(token)
    large = store.get(store.add(png((3000, 2000))))
    assert large.width * large.height <= SHOWN_PIXELS and large.width / large.height == pytest.approx(1.5, abs=0.01)
    assert store.get(store.add(png((200_000, 12)))).height >= 1
    for data in (b"", b"<svg/>", png()[:40], b"GIF89a"):
        with pytest.raises(ImageError):
            store.add(data)


def test_every_example_is_a_problem_with_a_counterpart() -> None:
    store = ImageStore(capacity=1)
    store.add(png()), store.add(png())
    assert len(store.examples) >= 4
    for example in store.examples:
        assert store.get(example.token).size == store.get(example.other).size
        assert store.get(example.token).tobytes() != store.get(example.other).tobytes()
        assert example.answer != example.other_answer
    for problem in read_problems(Path("demo/examples").absolute()):
        assert has_counterfactual(problem) and Path(counterfactual(problem).images[0]).is_file()
