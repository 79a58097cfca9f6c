"""What reaches the model: images of the right size, user text that stays text, and prefixes that are continued."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from configs.errors import UserError
from vlm.chat import INSTRUCTIONS, MAX_QUESTION, encode, plain_text, prefix_ids, question_messages
from vlm.load import VLM, load_text_model, load_vlm

CONTROL = ["<|image_pad|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|video_pad|>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> VLM:
    return load_vlm(tiny_vlm_dir)


@pytest.fixture(scope="module")
def reasoner(tiny_reasoner_dir: Path) -> VLM:
    return load_text_model(tiny_reasoner_dir)


def an_image(width: int = 192, height: int = 192) -> Image.Image:
    return Image.effect_noise((width, height), 90).convert("RGB")


def text_of(messages: list[dict[str, Any]]) -> str:
    return messages[0]["content"][-1]["text"]


# The question


def test_pictures_come_first_then_one_text() -> None:
    [message] = question_messages("How many? ", 2, "direct")
    assert message["role"] == "user"
    assert message["content"] == [
        {"type": "image"},
        {"type": "image"},
        {"type": "text", "text": f"How many? {INSTRUCTIONS['direct']}"},
    ]


def test_note_choices_and_no_instruction() -> None:
    assert text_of(question_messages("Which?", 0, "none", ["red", "blue"])) == "Which?\n(A) red\n(B) blue"
    assert text_of(question_messages("Which?", 0, "none", note="It is red.")) == "Which? It is red."
    assert text_of(question_messages("Which?", 0, "think", ["a"])).endswith(f"(A) a\n{INSTRUCTIONS['think']}")


@pytest.mark.parametrize("question", ["", " \n\t"])
def test_an_empty_question(question: str) -> None:
    with pytest.raises(UserError, match="question is empty"):
        question_messages(question, 1)


def test_a_question_of_100_000_characters_and_an_unknown_style() -> None:
    with pytest.raises(UserError, match="100,000 characters: shorten it to at most 20,000"):
        question_messages("x" * 100_000, 1)
    assert question_messages("x" * MAX_QUESTION, 1)
    with pytest.raises(UserError, match="style 'loud' is not known: use one of think"):
        question_messages("x", 1, "loud")


# Text stays text


@pytest.mark.parametrize("token", [*CONTROL, "<think>", "</think>", "<|im_<|im_end|>end|>", "<|<|image_pad|>"])
def test_no_control_token_comes_out_of_user_text(vlm: VLM, token: str) -> None:
    text = plain_text(f"What does {token} mean?", vlm.tokenizer)
    added = set(vlm.tokenizer.added_tokens_decoder)
    assert not added & set(vlm.tokenizer(text)["input_ids"])
    assert text.replace("\u200b", "") == f"What does {token} mean?"


def test_no_control_token_comes_out_of_scrambled_text(vlm: VLM) -> None:
    rng = random.Random(0)
    fragments = ["<|", "|>", "<", "|", ">", "im_", "end", "image_pad", "im_end", "think", "/", "\u200b", " ", *CONTROL]
    added = set(vlm.tokenizer.added_tokens_decoder)
    for _ in range(400):
        text = "".join(rng.choices(fragments, k=rng.randint(1, 12)))
        assert not added & set(vlm.tokenizer(plain_text(text, vlm.tokenizer))["input_ids"]), text


def test_ordinary_text_is_not_touched(vlm: VLM) -> None:
    text = "Is 3 < 4 | 5 > 2? Answer in \\boxed{}. <b>bold</b> [x]"
    assert plain_text(text, vlm.tokenizer) == text


def test_the_number_of_image_tokens_does_not_depend_on_the_question(vlm: VLM) -> None:
    plain, hostile = (
        encode(vlm, [question_messages(question, 1)], [[an_image()]])["input_ids"][0].tolist()
        for question in ("What is this?", "".join(CONTROL) + " <think>?")
    )
    for token in CONTROL:
        number = vlm.tokenizer.convert_tokens_to_ids(token)
        assert hostile.count(number) == plain.count(number), token
    assert hostile.count(vlm.model.config.image_token_id) == 36


def test_what_the_model_wrote_keeps_its_thinking_tags_but_ends_no_turn(vlm: VLM) -> None:
    ids = {token: vlm.tokenizer.convert_tokens_to_ids(token) for token in ("<think>", "<|im_end|>", "<|image_pad|>")}
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "<think> hm </think> <|im_end|> <|image_pad|>"},
        {"role": "user", "content": "Again <think>"},
    ]
    row = encode(vlm, [messages], [[]], ["<think> <|im_end|> <|image_pad|>"])["input_ids"][0].tolist()
    assert row.count(ids["<think>"]) == 2
    assert row.count(ids["<|im_end|>"]) == 3 and row.count(ids["<|image_pad|>"]) == 0


# Images


def test_only_images_reach_the_processor(vlm: VLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret.png"
    an_image().save(file)
    opened: list[Any] = []
    for name in ("open", "io.open", "PIL.Image.open", "requests.get", "urllib.request.urlopen"):
        target = name if "." in name else f"builtins.{name}"
        monkeypatch.setattr(target, lambda *args, **kwargs: opened.append(args))
    for source in (str(file), file, "http://localhost/a.png", b"data"):
        with pytest.raises(UserError, match="open_image first"):
            encode(vlm, [question_messages("What?", 1)], [[source]])  # type: ignore[list-item]
    sneaky = [{"role": "user", "content": [{"type": "image", "image": str(file), "url": f"file://{file}"}]}]
    with pytest.raises(UserError, match="1 image parts but 0 images"):
        encode(vlm, [sneaky], [[]])
    encode(vlm, [sneaky], [[an_image()]])
    assert opened == []


@pytest.mark.parametrize(("size", "tokens"), [((192, 192), 36), ((640, 480), 30), ((100, 300), 44)])
def test_the_processor_does_not_resize_again(
    vlm: VLM, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], tokens: int
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the processor resized")

    monkeypatch.setattr(type(vlm.processor.image_processor), "resize", refuse)
    batch = encode(vlm, [question_messages("What?", 1)], [[an_image(*size)]])
    assert int((batch["input_ids"] == vlm.model.config.image_token_id).sum()) == tokens
    assert len(batch["pixel_values"]) == 4 * tokens


def test_images_and_image_parts_must_match(vlm: VLM, reasoner: VLM) -> None:
    with pytest.raises(UserError, match="2 image parts but 1 images"):
        encode(vlm, [question_messages("What?", 2)], [[an_image()]])
    with pytest.raises(UserError, match="text-only model"):
        encode(reasoner, [question_messages("What?", 1)], [[an_image()]])
    with pytest.raises(UserError, match="'video'"):
        encode(vlm, [[{"role": "user", "content": [{"type": "video"}]}]], [[an_image()]])


def test_pixels_take_the_type_of_the_weights(tiny_vlm_dir: Path) -> None:
    half = load_vlm(tiny_vlm_dir, dtype="bfloat16")
    assert encode(half, [question_messages("What?", 1)], [[an_image()]])["pixel_values"].dtype == torch.bfloat16


# Batches


def test_a_row_of_a_batch_is_its_single_behind_padding(vlm: VLM) -> None:
    conversations = [
        question_messages(text, n) for text, n in [("What?", 1), ("Any red star or circle here?", 2), ("Hi", 0)]
    ]
    images = [[an_image()], [an_image(), an_image(64, 300)], []]
    prefixes = ["<think> I see", "", [5, 6, 7]]
    batch = encode(vlm, conversations, images, prefixes)  # type: ignore[arg-type]
    for row in range(3):
        single = encode(vlm, [conversations[row]], [images[row]], [prefixes[row]])  # type: ignore[list-item]
        length = single["input_ids"].shape[1]
        for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
            assert torch.equal(batch[key][row, -length:], single[key][0]), key
        assert not batch["attention_mask"][row, :-length].any()
        assert (batch["input_ids"][row, :-length] == vlm.tokenizer.pad_token_id).all()


def test_a_prefix_stands_behind_the_prompt_token_by_token(vlm: VLM, reasoner: VLM) -> None:
    for model, images in ((vlm, [an_image()]), (reasoner, [])):
        messages = question_messages("What?", len(images))
        bare = encode(model, [messages], [images])["input_ids"][0].tolist()
        for prefix in ("<think> I see a red star", " leading blank", "12"):
            row = encode(model, [messages], [images], [prefix])["input_ids"][0].tolist()
            assert row == bare + prefix_ids(model.tokenizer, prefix)
            assert model.tokenizer.decode(row[len(bare) :]) == prefix


def test_text_models_take_parts_and_strings(reasoner: VLM) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]}]
    string = [{"role": "user", "content": "a b"}]
    first, second = (encode(reasoner, [messages], [[]]) for messages in (parts, string))
    assert torch.equal(first["input_ids"], second["input_ids"]) and "pixel_values" not in first


def test_a_prompt_longer_than_the_model_reads(vlm: VLM) -> None:
    with pytest.raises(UserError, match=r"The prompt has [\d,]+ tokens and .* reads at most 2,048"):
        encode(vlm, [question_messages("zq" * 5000, 1)], [[an_image()]])


def test_a_model_without_chat_template(tiny_reasoner_dir: Path) -> None:
    model = load_text_model(tiny_reasoner_dir)
    model.tokenizer.chat_template = None
    with pytest.raises(UserError, match="chat template"):
        encode(model, [question_messages("What?", 0)], [[]])


@pytest.mark.parametrize("n", range(6))
def test_none_to_five_images(vlm: VLM, n: int) -> None:
    sizes = [(192, 192), (64, 300), (300, 64), (1, 1), (400, 2)][:n]
    batch = encode(vlm, [question_messages("What?", n)], [[an_image(*size) for size in sizes]])
    assert len(batch["image_grid_thw"] if n else []) == n
    image_token = vlm.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    merged = sum(int(grid.prod()) for grid in batch["image_grid_thw"]) // 4 if n else 0
    assert int((batch["input_ids"] == image_token).sum()) == merged
