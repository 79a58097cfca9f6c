"""Thinking tags as special tokens, as added tokens and as plain text: the same text, the same span, the same rewards."""

import queue
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reward.rewards import (
    Rollout,
    Score,
    attention_late_mass,
    attention_ratio,
    attention_ratio_clipped,
    grounding_penalty,
    repetition,
    response_format,
)
from vlm.chat import control_token, plain_text, prefix_ids
from vlm.generate import _Pieces
from vlm.response import TAGS, Tags, closing_tag, count_looks, find_reasoning, open_tag_at_end, tag_tokens
from vlm.thinking import Alignment, decode, family_tags, fit_completion, reasoning_token_span

KINDS = ["special", "added", "plain"]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PARTS = {
    "<|channel>thought\n": ["<|channel>", "<channel|>"],
    "<|channel|>analysis<|message|>": ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"],
}


def byte_level(kind: str, tags: Tags = TAGS[0]) -> Any:
    """A tokenizer with a token for each byte, whose thinking tags are of a kind."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return with_tags(tokenizer, kind, tags)


def byte_fallback(kind: str, tags: Tags = TAGS[0]) -> Any:
    """The same in the manner of SentencePiece: letters are tokens, and all else falls back to bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(33, 127)), "▁"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return with_tags(tokenizer, kind, tags)


def with_tags(tokenizer: Tokenizer, kind: str, tags: Tags) -> Any:
    tokenizer.add_special_tokens(CONTROL)
    if kind != "plain":
        names = PARTS.get(tags.opening, list(tags))
        tokenizer.add_tokens([AddedToken(name, special=kind == "special", normalized=False) for name in names])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    assert len(fast) == len(tokenizer.get_vocab())
    return fast


def encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


INSIDE = "row 1: 猫 is red 😀. Let me look again. row 2: 日 is red"
CASES: dict[str, Callable[[Tags], tuple[str, str | None]]] = {
    "closed": lambda tags: (f"{tags.opening}{INSIDE}{tags.closing} \\boxed{{red}}", INSIDE),
    "opened by the prompt": lambda tags: (f"{INSIDE}{tags.closing} \\boxed{{red}}", INSIDE),
    "never closed": lambda tags: (f"{tags.opening}{INSIDE} \\boxed{{red}}", None),
    "closed twice": lambda tags: (f"{tags.opening}{INSIDE}{tags.closing} so {tags.closing} \\boxed{{red}}", INSIDE),
    "opened twice": lambda tags: (
        f"{tags.opening}{INSIDE}{tags.closing} {tags.opening}x{tags.closing} \\boxed{{red}}",
        INSIDE,
    ),
    "beside the tags": lambda tags: (
        f"{tags.opening}猫 red{INSIDE}猫{tags.closing}猫 \\boxed{{red}}",
        f"猫 red{INSIDE}猫",
    ),
    "another family's": lambda tags: (
        (other := next(one for one in TAGS if one.opening[1:3] != tags.opening[1:3])).opening
        + f"{INSIDE}{other.closing} \\boxed{{red}}",
        INSIDE,
    ),
    "no tags": lambda tags: (f"{INSIDE} \\boxed{{red}}", None),
}
TERMS: list[Callable[[Rollout], Score]] = [attention_ratio_clipped, attention_late_mass, grounding_penalty]


def rollout_of(tokenizer: Any, ids: Sequence[int], inside: str | None) -> Rollout:
    """A response with a mass that falls over its thinking span, whatever number of tokens the tags are."""
    span = reasoning_token_span(tokenizer, ids)
    assert (span is None) == (inside is None)
    mass = torch.full((len(ids),), 0.5)
    if span is not None:
        mass[span[0] : span[1]] = torch.linspace(0.4, 0.1, span[1] - span[0])
    return Rollout(decode(tokenizer, ids), "text", "red", token_count=len(ids), mass=mass, lift=mass * 3, thought=span)


@pytest.mark.parametrize("build", [byte_level, byte_fallback])
@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.opening.strip())
@pytest.mark.parametrize("case", CASES)
def test_text_span_and_rewards_are_those_of_plain_text(case: str, tags: Tags, build: Any) -> None:
    text, inside = CASES[case](tags)
    found = {}
    for kind in KINDS:
        tokenizer = build(kind, tags)
        ids = encoded(tokenizer, text)
        assert decode(tokenizer, ids) == text
        rollout = rollout_of(tokenizer, ids, inside)
        if rollout.thought is not None:
            assert decode(tokenizer, ids[slice(*rollout.thought)]).strip() == inside  # a line end after Gemma's tag
        assert (attention_ratio(rollout).value is None) == (inside is None)
        terms = [term(rollout).value for term in TERMS]
        assert (None in terms) == (inside is None)
        text_terms = [repetition(rollout).value, response_format(rollout).value, count_looks(rollout.text)]
        found[kind] = (terms, text_terms, rollout.thought and rollout.thought[1] - rollout.thought[0])
    assert found["special"] == found["added"] == found["plain"]
    assert found["plain"][1][2] == 1  # one re-look


@pytest.mark.parametrize("build", [byte_level, byte_fallback])
@pytest.mark.parametrize("kind", KINDS)
def test_characters_and_their_tokens(kind: str, build: Any) -> None:
    """Each character comes from the tokens of its bytes, and the bytes of a torn one belong to no other."""
    tokenizer = build(kind)
    text = "a猫<think>😀 b日</think>é!"
    ids = encoded(tokenizer, text)
    alignment = Alignment(tokenizer, ids)
    assert alignment.text == text
    for place in range(len(text)):
        first, last = alignment.tokens_of(place)
        assert len(encoded(tokenizer, text[:place])) >= first
        assert decode(tokenizer, ids[:first]) == text[: len(decode(tokenizer, ids[:first]))]
        assert decode(tokenizer, ids[first:last]).startswith(text[place]) or text[place] in "<think></think>"
        assert alignment.tokens_until(place + 1) == last
        assert "\ufffd" not in decode(tokenizer, ids[:first]) + decode(tokenizer, ids[last:])
    torn = encoded(tokenizer, "<think>ab</think>c😀")[:-2]  # two of the four bytes are there
    assert decode(tokenizer, torn).rstrip("\ufffd") == "<think>ab</think>c"
    span = reasoning_token_span(tokenizer, torn)
    assert span is not None and decode(tokenizer, torn[slice(*span)]) == "ab"
    inside = encoded(tokenizer, "<think>ab😀")[:-1] + encoded(tokenizer, "</think>c")
    span = reasoning_token_span(tokenizer, inside)
    assert span is not None and decode(tokenizer, inside[slice(*span)]).rstrip("\ufffd") == "ab"
    assert span[1] - span[0] == 5  # the three bytes that were written of the character count


@pytest.mark.parametrize("kind", KINDS)
def test_other_special_tokens_are_dropped(kind: str) -> None:
    tokenizer = byte_level(kind)
    start, pad = (tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|endoftext|>"))
    ids = [start, *encoded(tokenizer, "<think>a"), pad, *encoded(tokenizer, "b</think>c"), pad]
    assert decode(tokenizer, ids) == "<think>ab</think>c"
    span = reasoning_token_span(tokenizer, ids)
    assert span is not None and ids[slice(*span)] == [*encoded(tokenizer, "a"), pad, *encoded(tokenizer, "b")]


def test_which_tokens_make_tags() -> None:
    assert tag_tokens({"<think>", "</think>", "<|im_end|>", "\\boxed{", "<answer>", "[THINK]"}) == {
        *("<think>", "</think>", "<answer>", "[THINK]")
    }
    assert (
        tag_tokens({"<|end|>", "<|start|>", "<|user|>"}) == set()
    )  # tokens of a turn, in a tokenizer without channels
    assert "<|end|>" in tag_tokens({"<|end|>", "<|channel|>"})


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.opening.strip())
@pytest.mark.parametrize("kind", ["special", "added"])
def test_the_tags_of_a_tokenizer(kind: str, tags: Tags) -> None:
    assert family_tags(byte_level(kind, tags)) == tags
    assert family_tags(byte_level("plain", tags)) == TAGS[0]
    assert closing_tag(f"{tags.opening}x") == tags.closing
    assert open_tag_at_end(f"user\nx<|im_end|>\nassistant\n{tags.opening}\n").strip() == tags.opening.strip()
    assert open_tag_at_end(f"{tags.opening}\n\n{tags.closing}\n\n") == open_tag_at_end("assistant\n") == ""


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.opening.strip())
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_the_text(kind: str, tags: Tags) -> None:
    tokenizer, pieces = byte_level(kind, tags), queue.Queue[Any]()
    text = f"{tags.opening}猫 is red 😀.{tags.closing} \\boxed{{red}}"
    end = tokenizer.eos_token_id
    stream = _Pieces(tokenizer, [], {end}, pieces)
    stream.put(torch.tensor([[1, 2, 3]]))
    for token in [*encoded(tokenizer, text), end]:
        stream.put(torch.tensor([token]))
    stream.end()
    assert "".join(pieces.queue) == text


# Text of others stays text


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.opening.strip())
@pytest.mark.parametrize("kind", KINDS)
def test_tags_in_user_text_are_no_tokens(kind: str, tags: Tags) -> None:
    tokenizer = byte_level(kind, tags)
    added = set(tokenizer.added_tokens_decoder)
    text = f"Say {tags.opening}x{tags.closing} and <|im_end|>."
    assert not added & set(encoded(tokenizer, plain_text(text, tokenizer)))
    ids = prefix_ids(tokenizer, text)  # what the model wrote keeps its tags, and ends no turn
    assert tokenizer.eos_token_id not in ids
    whole = encoded(tokenizer, f"Say {tags.opening}x{tags.closing} and ")
    assert ids[: len(whole)] == whole
    assert control_token(tokenizer, text) == "<|im_end|>"
    assert control_token(tokenizer, text.replace("<|im_end|>", "")) is None


def test_a_token_of_a_turn_is_no_tag_by_itself() -> None:
    """The closing tag of a harmony response holds tokens that end turns: they are read as tokens only inside of it."""
    tags = TAGS[-1]
    tokenizer = byte_level("special", tags)
    turn = tokenizer.convert_tokens_to_ids("<|start|>")
    assert prefix_ids(tokenizer, f"x{tags.closing}y").count(turn) == 1
    assert turn not in prefix_ids(tokenizer, "x<|end|><|start|>user<|message|>y")


# Completions of the cold start

TRACE = "<think> It is red . </think> \\boxed{red}"
GEMMA, QWEN = TAGS[1], TAGS[0]


@pytest.mark.parametrize(
    ("text", "tags", "opened", "fitted"),
    [
        (TRACE, QWEN, "", TRACE),
        (TRACE, QWEN, "<think>\n", "It is red .\n</think>\n\n\\boxed{red}"),
        (TRACE, QWEN, "<think>", "It is red .</think>\\boxed{red}"),
        (TRACE, GEMMA, "", "<|channel>thought\nIt is red .\n<channel|>\\boxed{red}"),
        ("\\boxed{red}", QWEN, "", "\\boxed{red}"),
        ("\\boxed{red}", QWEN, "<think>\n", "\n</think>\n\n\\boxed{red}"),
        ("It is red .</think>\\boxed{red}", QWEN, "<think>\n", "It is red .\n</think>\n\n\\boxed{red}"),
        ("[THINK] It is red . [/THINK] x", QWEN, "", "<think>It is red .</think>x"),
    ],
)
def test_a_completion_goes_on_where_the_prompt_ends(text: str, tags: Tags, opened: str, fitted: str) -> None:
    spans = [(text.index(word), text.index(word) + len(word)) for word in ("red", "is") if word in text]
    found, moved = fit_completion(text, spans, tags, opened)
    assert found == fitted
    assert [found[start:end] for start, end in moved] == [text[start:end] for start, end in spans]
    whole = opened + found
    if "It" in text:
        span = find_reasoning(whole)
        assert span.opened and span.closed and whole[span.start : span.end].strip() == "It is red ."
    elif opened:
        assert find_reasoning(whole).closed and whole.endswith("</think>\n\n\\boxed{red}")
