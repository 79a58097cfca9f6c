"""Effort, budget forcing, votes: the same text streamed, alone and in a batch."""

import asyncio
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs.errors import UserError
from vlm.backends import Reply, ScriptedBackend
from vlm.chat import prefix_ids, question_messages
from vlm.generate import Generation
from vlm.load import VLM, load_vlm
from vlm.reasoning import (
    ANSWER_TOKENS,
    CUE,
    EFFORTS,
    BudgetedResponse,
    Effort,
    count_votes,
    find_effort,
    reasoning_end,
    think_batch,
    think_served,
    think_stream,
    vote_seeds,
    with_style,
)

MESSAGES = question_messages("How many stars?", 1)
IMAGE = Image.effect_noise((96, 96), 90).convert("RGB")


@pytest.fixture(scope="module")
def vlm_(tiny_vlm_dir: Path) -> VLM:
    return load_vlm(tiny_vlm_dir)


class Author:
    """Stands in for generation: writes set texts, one a round, and notes what it was asked to continue."""

    def __init__(self, vlm: VLM, *texts: str) -> None:
        self.vlm, self.texts, self.asked = vlm, list(texts), []

    def write(self, prefix: list[int], budget: int) -> Generation:
        tokenizer = self.vlm.tokenizer
        self.asked.append((tokenizer.decode(prefix, skip_special_tokens=True), budget))
        ids = prefix_ids(tokenizer, self.texts.pop(0))
        cut = ids[:budget]
        return Generation(tokenizer.decode(cut, skip_special_tokens=True), cut, len(ids) < budget, 50 + len(prefix))

    def stream(self, vlm: VLM, messages: Any, images: Any, *, prefix: Any, max_new_tokens: int, **_: Any) -> Any:
        written = self.write(prefix, max_new_tokens)

        class Written(list[str]):
            result = written

            def close(self) -> None: ...

        return Written(written.text[n : n + 3] for n in range(0, len(written.text), 3))

    def batch(self, vlm: VLM, conversations: Any, images: Any, *, prefixes: Any, max_new_tokens: Any, **_: Any) -> Any:
        return [self.write(prefix, budget) for prefix, budget in zip(prefixes, max_new_tokens, strict=True)]


def both_ways(vlm: VLM, monkeypatch: pytest.MonkeyPatch, effort: Effort, *texts: str, prefix: str = "") -> Any:
    """(reasoning, what was asked), after checking that stream and batch agree and that no piece was taken back."""
    streaming, batching = Author(vlm, *texts), Author(vlm, *texts)
    monkeypatch.setattr("vlm.generate.generate_stream", streaming.stream)
    monkeypatch.setattr("vlm.generate.generate", batching.batch)
    stream = think_stream(vlm, MESSAGES, [IMAGE], effort, prefix=prefix)
    pieces = list(stream)
    assert stream.result is not None and "".join(pieces) == stream.result.text
    if not prefix:  # only a stream continues a prefix
        assert think_batch(vlm, [MESSAGES], [[IMAGE]], effort) == [stream.result]
        assert streaming.asked == batching.asked
    return stream.result, streaming.asked


def test_a_thought_within_its_budget_is_left_alone(vlm_: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<think> row 1: star. </think> \\boxed{1}"
    response, asked = both_ways(vlm_, monkeypatch, Effort(64), text)
    assert asked == [("", 64)] and response.finished and (response.relooks, response.closed) == (0, False)
    assert response.text.endswith("\\boxed{1}")


@pytest.mark.parametrize("opening", ["<think> ", ""], ids=["tags", "no tags"])
def test_an_early_end_is_continued_with_a_look(vlm_: VLM, monkeypatch: pytest.MonkeyPatch, opening: str) -> None:
    closing = " </think> " if opening else " "
    first, second = f"{opening}row 1: star.{closing}\\boxed{{1}}", f" row 2: star, so 2.{closing}\\boxed{{2}}"
    response, asked = both_ways(vlm_, monkeypatch, Effort(64, looks=1), first, second)
    assert response.relooks == 1 and not response.closed and response.finished
    assert asked[1][0].endswith(f"row 1: star. {CUE}") and "boxed" not in asked[1][0]
    assert asked[1][1] < asked[0][1]  # one budget for all rounds
    assert response.text.count("\\boxed") == 1 and response.text.endswith("\\boxed{2}")


def test_a_look_of_its_own_counts(vlm_: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "<think> row 1: star. Let me look at the picture again. row 2: none. </think> \\boxed{1}"
    response, asked = both_ways(vlm_, monkeypatch, Effort(64, looks=1), text)
    assert len(asked) == 1 and response.relooks == 0


def test_further_looks_come_on_top_of_its_own(vlm_: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = (
        "<think> Two. Let me look again. Three. </think> \\boxed{3}",
        " Four. </think> \\boxed{4}",
        " Four. </think> \\boxed{4}",
    )
    for further in (0, 1, 2):
        response, asked = both_ways(vlm_, monkeypatch, Effort(256, further=further), *texts)
        assert (len(asked), response.relooks, response.text.count(CUE)) == (further + 1, further, further)
        assert response.finished and response.text.endswith("\\boxed{4}" if further else "\\boxed{3}")


@pytest.mark.parametrize("opening", ["<think> ", ""], ids=["tags", "no tags"])
def test_a_thought_over_budget_is_closed_and_answered(vlm_: VLM, monkeypatch: pytest.MonkeyPatch, opening: str) -> None:
    response, asked = both_ways(vlm_, monkeypatch, Effort(6), f"{opening}{'star ' * 40}", "3}")
    assert response.closed and response.finished and asked[1][1] == ANSWER_TOKENS
    assert asked[1][0].endswith("\\boxed{") and ("</think>" in asked[1][0]) == bool(opening)
    assert response.text.endswith("\\boxed{3}")


def test_reasoning_that_the_prompt_opened_is_closed_before_the_answer(
    vlm_: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = vlm_.processor.chat_template
    for opening, closing in (("<think>\n", "</think>"), ("[THINK]", "[/THINK]")):
        monkeypatch.setattr(
            vlm_.processor, "chat_template", template.replace("|>assistant\n", f"|>assistant\n{opening}")
        )
        response, asked = both_ways(vlm_, monkeypatch, Effort(6), "star " * 40, "3}")
        assert response.closed and asked[0][0] == "" and unspaced(asked[1][0]).endswith(f"star{closing}\\boxed{{")
        assert response.text.startswith("star") and response.text.endswith("\\boxed{3}")
        # A box inside of it is no end of the reasoning, and a look is asked for before the closing tag.
        first = f"star. \\boxed{{1}}? {closing} \\boxed{{1}}"
        response, asked = both_ways(vlm_, monkeypatch, Effort(64, looks=1), first, f" star. {closing} \\boxed{{2}}")
        assert response.relooks == 1 and unspaced(asked[1][0]) == unspaced("star. \\boxed{1}? " + CUE)
        assert unspaced(response.text).endswith(f"{closing}\\boxed{{2}}")


def unspaced(text: str) -> str:
    """Without blanks: some tokens of the tiny tokenizer take the one before them."""
    return "".join(text.split())


def test_an_answer_cut_short_is_finished_not_thought_over(vlm_: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    first = "<think> star. </think> \\boxed{red star"
    budget = len(prefix_ids(vlm_.tokenizer, first))
    response, asked = both_ways(vlm_, monkeypatch, Effort(budget), first, " and circle}")
    assert not response.closed and asked[1][1] == ANSWER_TOKENS and response.text.endswith("circle}")


def test_it_goes_on_from_a_prefix(vlm_: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = "<think> row 1: star. Let me look at the picture again."
    response, asked = both_ways(vlm_, monkeypatch, Effort(64, looks=1), " row 2. </think> \\boxed{2}", prefix=prefix)
    assert asked[0][0].startswith("<think>") and response.relooks == 0  # the prefix's look counts
    assert "row 1" not in response.text and response.text.endswith("\\boxed{2}")


@pytest.mark.parametrize(("looks", "temperature"), product((0, 2), (0.0, 1.0)))
def test_a_real_model_streams_what_a_batch_writes(vlm_: VLM, looks: int, temperature: float) -> None:
    effort = Effort(40, looks=looks)
    stream = think_stream(vlm_, MESSAGES, [IMAGE], effort, temperature=temperature, seed=7)
    assert "".join(stream) == (stream.result and stream.result.text)
    batch = think_batch(vlm_, [MESSAGES] * 3, [[IMAGE]] * 3, effort, temperature=temperature, seeds=[7, 8, 7])
    assert batch[0] == batch[2] == stream.result
    assert (batch[0] == batch[1]) == (temperature == 0)


def test_closing_a_stream_stops_the_model(vlm_: VLM) -> None:
    stream = think_stream(vlm_, MESSAGES, [IMAGE], Effort(2048))
    next(stream)
    stream.close()
    assert stream.result is None and vlm_.lock.acquire(timeout=5)
    vlm_.lock.release()


def test_a_thought_fits_into_the_models_positions(vlm_: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm.chat.position_limit", lambda _: 100)
    _, asked = both_ways(vlm_, monkeypatch, Effort(2048), "star " * 400)
    assert [budget for _, budget in asked] == [50]  # and no room for an answer, so it ends there


def test_a_server_gets_budget_and_instruction() -> None:
    backend = ScriptedBackend([Reply("\\boxed{2}", "length", 9, 5)])
    response = asyncio.run(think_served(backend, MESSAGES, [IMAGE], EFFORTS["low"], temperature=0.5, seed=3))
    assert response == BudgetedResponse("\\boxed{2}", 5, False)
    (request,) = backend.requests
    assert (request.max_tokens, request.temperature, request.seed) == (128 + ANSWER_TOKENS, 0.5, 3)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("<think> a </think> \\boxed{1}", "</think>"),
        ("<THINK> a </THINK> b", "</THINK>"),
        ("<think> \\boxed{1} and on", None),
        ("a, \\boxed{1}, b \\boxed{2}", "\\boxed{2}"),
        ("nothing yet", None),
    ],
)
def test_where_reasoning_ends(text: str, end: str | None) -> None:
    assert reasoning_end(text) == (None if end is None else text.index(end))


def test_votes() -> None:
    votes = count_votes(["3", None, "2.0", " 2", "3", "2"])
    assert (votes.winner, votes.agreement, votes.counts) == (2, 0.5, {"2.0": 3, "3": 2})
    assert count_votes([None, None]).counts == {} and count_votes([None]).agreement == 0
    tied = count_votes(["Yes.", "no", "NO", "yes"])
    assert tied.winner == 0 and tied.counts == {"Yes.": 2, "no": 2}
    assert len(set(vote_seeds(5, 8))) == 8
    for wrong in (0, -1, 1000):
        with pytest.raises(UserError, match="votes were asked for"):
            vote_seeds(0, wrong)


def test_efforts() -> None:
    assert [EFFORTS[name].tokens for name in ("low", "medium", "high")] == [128, 512, 2048]
    assert find_effort("off").style == "direct" and EFFORTS["high"].looks == 2
    assert with_style(EFFORTS["off"], "think") == EFFORTS["off"]
    assert with_style(EFFORTS["low"], "describe").style == "describe"
    with pytest.raises(UserError, match=r"'huge' is not known: use one of off, low, medium, high\."):
        find_effort("huge")
