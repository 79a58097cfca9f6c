"""The architecture and the tokenizer of the bundled tiny models, with random weights.

They use the same classes as their large relatives (Qwen3-VL, Qwen3) and are saved as standard Hugging Face folders, so that
every other part of the project loads them like any other model. ``train.tiny.pretrain`` gives them their weights.
"""

import random
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from data_construction.sources import LEARNED, draw_problems, families, wording
from data_construction.sources.digits import draw_digits
from data_construction.sources.render import COLOURS, PLACES, SHAPES, SIZE
from vlm.chat import INSTRUCTIONS

PAD, END = "<|endoftext|>", "<|im_end|>"
CONTROL = (PAD, "<|im_start|>", END, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MARKS = ("<think>", "</think>", "\\boxed{")  # ordinary text to a reader, one token each
PIECES = r" ?[A-Za-z]+\d*| ?\d{1,2}| ?[^\sA-Za-z\d]|\s+"
PATCH, MERGE = 16, 2
WIDTH = 192
"""Of the language model's hidden states."""
ROPE = {"rope_type": "default", "rope_theta": 500_000.0}

CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}"
    "{%- if part.type in ('image', 'image_url') %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part.type == 'text' %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


@cache
def tiny_vocabulary() -> tuple[str, ...]:
    """Every word of the sources, of their wording and of the short prompts, in a fixed order."""
    rng, found = random.Random(0), []
    for source, family in families("scenes,digits"):
        for _ in range(100):
            if source == "digits":
                scene = draw_digits(rng, "pretrain")
                params = family.ask(scene, rng) or {}
                answer = family.answer(scene, params) or ""
            else:
                scene, params, answer = draw_problems(family, rng)
            found += [family.question(params), answer, *family.facts(scene).values()]
            if family.name in LEARNED:
                facts, look = family.facts(scene), wording.look_at(family.name, params)
                found += [wording.conclude(family.name, params, facts)[0], wording.glance(family.name, params, facts)]
                found += [wording.request(look, rng, again) for again in (False, True)] + [wording.cue(look, rng)]
    found += [*INSTRUCTIONS.values(), *COLOURS, *SHAPES, *PLACES, *map(str, range(100))]
    found += [
        path.read_text() for path in sorted((Path(__file__).parents[2] / "data_construction/prompts/short").glob("*"))
    ]
    found += ["user assistant system yes no true false none"]
    pieces = {piece.strip() for text in found for piece in re.findall(PIECES, text)}
    return tuple(sorted(piece for piece in pieces if piece))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for every word of the sources (with and without the space before it), bytes for any other text."""
    byte_letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = dict.fromkeys([*CONTROL, *MARKS, *byte_letters])
    for word in tiny_vocabulary():
        for form in (word, " " + word):
            vocabulary[spelled.pre_tokenize_str(form)[0][0]] = None
    ids = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), behavior="isolated"), spelled]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL))
    tokenizer.add_tokens([AddedToken(mark, normalized=False, lstrip=mark != MARKS[0]) for mark in MARKS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[token for token in CONTROL if token not in (PAD, END)],
        padding_side="left",
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_tiny_vlm(folder: str | Path, seed: int = 0, half: bool = False) -> Path:
    """Write a Qwen3-VL of 3.7 M parameters with random weights: 192 x 192 pixels are 36 image tokens.

    ``half``: half as wide, with half as many heads, 1.0 M parameters.
    """
    share = 2 if half else 1
    tokenizer = build_tokenizer()
    id_of = tokenizer.get_vocab().__getitem__
    image_processor = Qwen2VLImageProcessor(
        min_pixels=SIZE * SIZE,
        max_pixels=SIZE * SIZE,
        patch_size=PATCH,
        merge_size=MERGE,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    processor = Qwen3VLProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    config = Qwen3VLConfig(
        text_config=text_config(tokenizer, half)
        | {"rope_scaling": {**ROPE, "mrope_section": [8, 8, 8], "mrope_interleaved": True}},
        vision_config={
            "depth": 4,
            "hidden_size": 128 // share,
            "intermediate_size": 384 // share,
            "num_heads": 4 // share,
            "out_hidden_size": WIDTH // share,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "num_position_embeddings": (SIZE // PATCH) ** 2,
            "deepstack_visual_indexes": [1, 2],
        },
        image_token_id=id_of("<|image_pad|>"),
        video_token_id=id_of("<|video_pad|>"),
        vision_start_token_id=id_of("<|vision_start|>"),
        vision_end_token_id=id_of("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return _save_model(Qwen3VLForConditionalGeneration(config), processor, id_of, folder)


def build_tiny_reasoner(folder: str | Path, seed: int = 0, start: str | Path | None = None) -> Path:
    """Write a Qwen3 text model of the tiny VLM's language-model shape, with its tokenizer.

    Weights are random, or, with ``start`` (a tiny VLM's folder), those of its language model: on text the two then agree.
    """
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(Qwen3Config(**text_config(tokenizer), rope_parameters=ROPE))
    if start is not None:
        vlm = Qwen3VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
        model.model.load_state_dict(vlm.model.language_model.state_dict())
    return _save_model(model, tokenizer, tokenizer.get_vocab().__getitem__, folder)


def text_config(tokenizer: PreTrainedTokenizerFast, half: bool = False) -> dict[str, Any]:
    """The language model's shape, the same for both."""
    share = 2 if half else 1
    id_of = tokenizer.get_vocab().__getitem__
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH // share,
        "intermediate_size": 512 // share,
        "num_hidden_layers": 4,
        "num_attention_heads": 4 // share,
        "num_key_value_heads": 2 // share,
        "head_dim": 48,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": id_of(PAD),
        "eos_token_id": id_of(END),
        "pad_token_id": id_of(PAD),
    }


def _save_model(model, processor, id_of, folder: str | Path) -> Path:  # type: ignore[no-untyped-def]
    model.generation_config.update(bos_token_id=id_of(PAD), eos_token_id=id_of(END), pad_token_id=id_of(PAD))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)
