"""A batch equals its singles, sampling draws from the model's distribution, and streams and masses fit the tokens."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from configs.errors import UserError
from vlm.attention import AttentionMass
from vlm.chat import encode, prefix_ids, question_messages
from vlm.generate import Generation, _Row, _Sampler, generate, generate_stream
from vlm.load import VLM, load_text_model, load_vlm

pytestmark = pytest.mark.seam


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> VLM:
    """The tiny model with its scores spread out (as initialised it would repeat one token, whatever it reads) and an
    end token that it cannot write, so that lengths are the tests' to choose."""
    vlm = load_vlm(tiny_vlm_dir)
    vlm.tokenizer.eos_token = "<|image_pad|>"
    with_end(vlm, None)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in vlm.model.named_parameters():
            if weight.ndim > 1 and "visual" not in name:
                weight.add_(torch.randn_like(weight) * 0.08)
    return vlm


@pytest.fixture(scope="module")
def reasoner(tiny_reasoner_dir: Path) -> VLM:
    return load_text_model(tiny_reasoner_dir)


def an_image(seed: int, width: int = 192, height: int = 192) -> Image.Image:
    noise = torch.randint(256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


def cases() -> tuple[list[Any], list[Any]]:
    questions = [
        "What is at A1?",
        "How many red stars are there in the whole picture?",
        "Hi",
        "Which row has 2 squares?",
    ]
    images = [[an_image(1)], [an_image(2), an_image(3, 300, 100)], [], [an_image(4, 64, 64)]]
    return [question_messages(q, len(own)) for q, own in zip(questions, images, strict=True)], images


def with_end(vlm: VLM, token: int | None) -> None:
    vlm.model.generation_config.eos_token_id = token if token is not None else vlm.tokenizer.eos_token_id


# Equivalences


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.8, 0.7)])
def test_a_batch_equals_its_singles_in_any_order(vlm: VLM, temperature: float, top_p: float) -> None:
    conversations, images = cases()
    prefixes = ["", "<think> I see", "12", ""]
    seeds = [3, 1, 4, 3]

    def write(rows: list[int], batch_size: int = 32) -> dict[int, list[int]]:
        written = generate(
            vlm,
            [conversations[row] for row in rows],
            [images[row] for row in rows],
            max_new_tokens=24,
            temperature=temperature,
            top_p=top_p,
            seeds=[seeds[row] for row in rows],
            prefixes=[prefixes[row] for row in rows],
            batch_size=batch_size,
        )
        return {row: one.token_ids for row, one in zip(rows, written, strict=True)}

    together = write([0, 1, 2, 3])
    assert len({tuple(tokens) for tokens in together.values()}) > 1 and all(len(set(t)) > 3 for t in together.values())
    assert {row: write([row])[row] for row in range(4)} == together
    assert write([3, 1, 0, 2]) == together
    assert write([0, 1, 2, 3], batch_size=2) == together
    assert write([2, 0]) == {row: together[row] for row in (2, 0)}


def test_greedy_equals_the_model_s_own(vlm: VLM) -> None:
    conversations, images = cases()
    batch = encode(vlm, conversations[:1], images[:1])
    own = vlm.model.generate(**batch, max_new_tokens=20, do_sample=False)[0, batch["input_ids"].shape[1] :].tolist()
    assert generate(vlm, conversations[:1], images[:1], max_new_tokens=20)[0].token_ids == own


def test_settings_of_a_row_are_its_own(vlm: VLM) -> None:
    conversations, images = cases()
    settings = {"max_new_tokens": [3, 9, 1, 6], "temperature": [0.0, 1.0, 0.0, 2.0], "top_p": [1.0, 0.5, 1.0, 1.0]}
    mixed = generate(vlm, conversations, images, seeds=[1, 2, 3, 4], **settings)  # type: ignore[arg-type]
    for row in range(4):
        single = generate(
            vlm,
            [conversations[row]],
            [images[row]],
            seeds=[row + 1],
            **{key: values[row] for key, values in settings.items()},  # type: ignore[arg-type]
        )
        assert mixed[row] == single[0]
        assert len(mixed[row].token_ids) == settings["max_new_tokens"][row]


def test_seeds(vlm: VLM) -> None:
    conversations, images = cases()

    def write(**settings: Any) -> list[int]:
        return generate(vlm, conversations[:1], images[:1], max_new_tokens=12, temperature=1.0, **settings)[0].token_ids

    assert write(seeds=[5]) == write(seeds=[5]) != write(seeds=[6])
    torch.manual_seed(0)
    drawn = write(), write()
    torch.manual_seed(0)
    assert (write(), write()) == drawn and drawn[0] != drawn[1]
    state = torch.get_rng_state()
    write(seeds=[5])
    assert torch.equal(torch.get_rng_state(), state)


# The distribution


def sample(scores: list[float], draws: int, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    """Share of each token over ``draws`` steps of one row."""
    sampler = _Sampler([_Row([], [], "", 1, temperature, top_p, 11)], torch.device("cpu"))
    row = torch.tensor([scores])
    tokens = torch.stack([sampler(None, row).argmax(-1) for _ in range(draws)])  # type: ignore[arg-type]
    return torch.bincount(tokens.flatten(), minlength=len(scores)) / draws


def test_draws_follow_the_softmax() -> None:
    scores = [2.0, 1.0, 0.0, -1.0, float("-inf")]
    for temperature in (0.5, 2.0):
        share = sample(scores, 8_000, temperature)
        want = (torch.tensor(scores) / temperature).softmax(-1)
        deviation = (share - want).abs() / (want * (1 - want) / 8_000).sqrt().clamp(min=1e-9)
        assert (deviation[:4] < 4.5).all() and share[4] == 0


def test_top_p_cuts_before_the_draw() -> None:
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    share = sample(scores, 4_000, top_p=0.6)
    assert torch.allclose(share, torch.tensor([0.625, 0.375, 0.0, 0.0]), atol=0.04)
    assert sample(scores, 200, top_p=1e-6)[0] == 1.0
    assert sample([0.0, 0.0, -9.0], 200, top_p=1.0)[:2].min() > 0.3


def test_rows_without_temperature_keep_their_scores() -> None:
    rows = [_Row([], [], "", 1, temperature, 1.0, 2) for temperature in (0.0, 1.0)]
    sampler = _Sampler(rows, torch.device("cpu"))
    scores = torch.randn(2, 50)
    drawn = sampler(None, scores)  # type: ignore[arg-type]
    assert torch.equal(drawn[0], scores[0]) and not torch.equal(drawn[1], scores[1])


@pytest.mark.parametrize(
    "settings", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.1}, {"max_new_tokens": 0}, {"seeds": [1, 2]}]
)
def test_settings_out_of_range(vlm: VLM, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        generate(vlm, *[[case[0]] for case in cases()], **{"max_new_tokens": 5, "temperature": 1.0, **settings})


# Ends and suppressed tokens


def test_the_end_token_ends_a_row_and_is_not_part_of_it(vlm: VLM) -> None:
    conversations, images = cases()
    whole = generate(vlm, conversations, images, max_new_tokens=12)
    end = whole[1].token_ids[5]
    try:
        with_end(vlm, end)
        cut = generate(vlm, conversations, images, max_new_tokens=12)
    finally:
        with_end(vlm, None)
    for before, after in zip(whole, cut, strict=True):
        ids = before.token_ids
        assert after.token_ids == (ids[: ids.index(end)] if end in ids else ids)
        assert after.finished == (end in ids)
    assert cut[1].finished and not whole[1].finished


def test_image_tokens_are_never_written(vlm: VLM) -> None:
    conversations, images = cases()
    config = vlm.model.config
    banned = [config.image_token_id, config.video_token_id, config.vision_start_token_id]
    weight = vlm.model.get_output_embeddings().weight
    kept = weight[banned].clone()
    try:
        with torch.no_grad():
            weight[banned] *= 30  # the model now wants nothing else
        written = generate(vlm, conversations, images, max_new_tokens=16, temperature=1.0, seeds=[1, 2, 3, 4])
    finally:
        with torch.no_grad():
            weight[banned] = kept
    assert not set(banned) & {token for one in written for token in one.token_ids}


def test_the_checkpoint_s_own_sampling_settings_do_not_leak_in(vlm: VLM) -> None:
    conversations, images = cases()
    plain = generate(vlm, conversations, images, max_new_tokens=12)
    own = vlm.model.generation_config
    try:
        own.update(do_sample=True, repetition_penalty=5.0, temperature=1e-6, top_k=1, no_repeat_ngram_size=None)
        assert generate(vlm, conversations, images, max_new_tokens=12) == plain
    finally:
        own.update(do_sample=False, repetition_penalty=None, temperature=None, top_k=None)


def test_nothing_to_do(vlm: VLM) -> None:
    assert generate(vlm, [], [], max_new_tokens=5) == []


def test_no_row_writes_past_the_model_s_positions(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    conversations, images = cases()
    whole = generate(vlm, conversations, images, max_new_tokens=30)
    longest = max(one.prompt_tokens for one in whole)
    monkeypatch.setattr(vlm.model.config.get_text_config(), "max_position_embeddings", longest + 5)
    for before, after in zip(whole, generate(vlm, conversations, images, max_new_tokens=30), strict=True):
        room = min(30, longest + 5 - before.prompt_tokens)
        assert after.token_ids == before.token_ids[:room] and not after.finished


# Continuing


def test_going_on_from_token_ids_is_going_on(vlm: VLM) -> None:
    conversations, images = cases()
    whole = generate(vlm, conversations, images, max_new_tokens=20)
    rest = generate(vlm, conversations, images, max_new_tokens=12, prefixes=[one.token_ids[:8] for one in whole])
    for before, after in zip(whole, rest, strict=True):
        assert after.token_ids == before.token_ids[8:]
        assert before.text.endswith(after.text)
        assert after.prompt_tokens == before.prompt_tokens + 8


def test_text_goes_on_without_a_seam(reasoner: VLM) -> None:
    messages = question_messages("What?", 0)
    prefix = "<think> I see a red"
    [written] = generate(reasoner, [messages], [[]], max_new_tokens=8, temperature=1.0, seeds=[4], prefixes=[prefix])
    tokens = prefix_ids(reasoner.tokenizer, prefix) + written.token_ids
    assert prefix + written.text == reasoner.tokenizer.decode(tokens, skip_special_tokens=True)


# Attention


@pytest.mark.parametrize("rows", ["token", "predicting"])
def test_masses_fit_the_tokens_and_change_none(vlm: VLM, rows: str) -> None:
    conversations, images = cases()
    plain = generate(vlm, conversations, images, max_new_tokens=10)
    end = plain[0].token_ids[6]
    try:
        with_end(vlm, end)
        plain = generate(vlm, conversations, images, max_new_tokens=10)
        probed = generate(vlm, conversations, images, max_new_tokens=10, attention={"layers": "all", "rows": rows})
        [single] = generate(
            vlm, conversations[:1], images[:1], max_new_tokens=10, attention={"layers": "all", "rows": rows}
        )
    finally:
        with_end(vlm, None)
    assert probed[0].finished
    assert [one.token_ids for one in probed] == [one.token_ids for one in plain]
    for row, one in enumerate(probed):
        assert one.mass is not None and one.lift is not None
        assert one.mass.shape == one.lift.shape == (4, len(one.token_ids))
        judged = one.mass if one.finished or rows == "predicting" else one.mass[:, :-1]
        assert torch.isfinite(judged).all() and (judged >= 0).all() and (judged <= 1).all()
        assert (judged > 0).all() == bool(images[row])
    assert single.mass is not None
    torch.testing.assert_close(single.mass, probed[0].mass, atol=1e-5, rtol=1e-4)


def test_the_mass_is_that_of_a_forward_over_the_whole_text(vlm: VLM) -> None:
    conversations, images = cases()
    [written] = generate(vlm, conversations[:1], images[:1], max_new_tokens=10, attention={})
    batch = encode(vlm, conversations[:1], images[:1], [written.token_ids])
    with AttentionMass(vlm.model) as probe, torch.no_grad():
        vlm.model(**batch)
    assert written.mass is not None
    torch.testing.assert_close(written.mass[:, :-1], probe.mass[:, 0, -10:-1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_first_token_has_the_mass_of_the_prompts_last_row(vlm: VLM, steps: int) -> None:
    conversations, images = cases()
    [written] = generate(
        vlm, conversations[:1], images[:1], max_new_tokens=steps, attention={"layers": "all", "rows": "predicting"}
    )
    with AttentionMass(vlm.model, "all") as probe, torch.no_grad():
        vlm.model(**encode(vlm, conversations[:1], images[:1]))
    assert written.mass is not None and written.mass[:, 0].min() > 0
    torch.testing.assert_close(written.mass[:, 0], probe.mass[:, 0, -1], atol=1e-6, rtol=1e-4)


# Streams


def test_pieces_are_the_text(vlm: VLM, reasoner: VLM) -> None:
    conversations, images = cases()
    for model, messages, shown, prefix in (
        (vlm, conversations[0], images[0], "<think> I"),
        (reasoner, conversations[2], [], ""),
    ):
        settings: dict[str, Any] = {"max_new_tokens": 40, "temperature": 1.5}
        stream = generate_stream(model, messages, shown, seed=7, prefix=prefix, **settings)
        assert stream.result is None
        pieces = list(stream)
        [written] = generate(model, [messages], [shown], seeds=[7], prefixes=[prefix], **settings)
        assert stream.result == written and "".join(pieces) == written.text
        assert len(pieces) > 10


def test_a_stream_ends_with_the_end_token(vlm: VLM) -> None:
    conversations, images = cases()
    whole = generate(vlm, conversations[:1], images[:1], max_new_tokens=12)[0]
    try:
        with_end(vlm, whole.token_ids[6])
        stream = generate_stream(vlm, conversations[0], images[0], max_new_tokens=12)
        text = "".join(stream)
    finally:
        with_end(vlm, None)
    assert isinstance(stream.result, Generation) and stream.result.finished
    assert text == stream.result.text and len(stream.result.token_ids) <= 6


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "generate_stream"]


@pytest.mark.parametrize("how", ["close", "drop", "break"])
def test_a_stream_stops_at_once_when_nobody_reads_on(vlm: VLM, how: str) -> None:
    conversations, images = cases()
    stream = generate_stream(vlm, conversations[0], images[0], max_new_tokens=1500)
    next(stream)
    assert stream_threads()
    started = time.perf_counter()
    if how == "close":
        stream.close()
    elif how == "break":
        for _ in stream:
            break
    del stream
    assert not stream_threads() and time.perf_counter() - started < 2


def test_a_stream_closed_before_it_began(vlm: VLM) -> None:
    conversations, images = cases()
    generate_stream(vlm, conversations[0], images[0], max_new_tokens=1500).close()
    assert not stream_threads()


def test_errors_reach_the_reader(vlm: VLM) -> None:
    with pytest.raises(UserError, match="1 image parts but 0 images"):
        list(generate_stream(vlm, question_messages("What?", 1), [], max_new_tokens=5))
    assert not stream_threads()


def test_streams_and_probes_at_once_do_not_mix(vlm: VLM) -> None:
    conversations, images = cases()
    alone = generate(vlm, conversations[:1], images[:1], max_new_tokens=15, attention={})[0]
    results: list[Generation] = []

    def ask() -> None:
        results.append(generate(vlm, conversations[:1], images[:1], max_new_tokens=15, attention={})[0])

    threads = [threading.Thread(target=ask) for _ in range(3)]
    stream = generate_stream(vlm, conversations[1], images[1], max_new_tokens=30)
    for thread in threads:
        thread.start()
    list(stream)
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for one in results:
        assert one.token_ids == alone.token_ids and one.mass is not None and alone.mass is not None
        torch.testing.assert_close(one.mass, alone.mass, equal_nan=True)


# Other architectures


def build_qwen2_5_vl(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3]},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    image_processor = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=168 * 168, patch_size=14, merge_size=2)
    processor = Qwen2_5_VLProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def build_llava(tokenizer: Any, ids: dict[str, int]) -> tuple[Any, Any]:
    """A processor with a sizing rule of its own: resize the short side, cut out the centre."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        image_token_id=ids["<|image_pad|>"],
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor


@pytest.mark.parametrize(
    ("build", "image_tokens"),
    [(build_qwen2_5_vl, [28, 37, 0]), (build_llava, [16, 32, 0])],
    ids=["qwen2_5_vl", "llava"],
)
def test_any_model_folder_will_do(tmp_path: Path, tiny_vlm_dir: Path, build: Any, image_tokens: list[int]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_vlm_dir)
    torch.manual_seed(0)
    model, processor = build(tokenizer, tokenizer.get_vocab())
    model.generation_config.update(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_vlm(tmp_path)
    images = [[an_image(1, 300, 200)], [an_image(2, 90, 200), an_image(3, 100, 100)], []]
    conversations = [question_messages("What is at A1?", len(own)) for own in images]
    batch = encode(loaded, conversations, images)
    assert (batch["input_ids"] == loaded.model.config.image_token_id).sum(dim=1).tolist() == image_tokens
    settings: dict[str, Any] = {"max_new_tokens": 10, "temperature": 1.0}
    together = generate(loaded, conversations, images, seeds=[1, 2, 3], attention={}, **settings)
    for row in range(3):
        assert generate(loaded, [conversations[row]], [images[row]], seeds=[row + 1], **settings) == [together[row]]
    assert together[0].mass is not None and (together[0].mass[:, :-1] > 0).all()
