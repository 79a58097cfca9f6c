"""A handful of images with a problem set and cold-start rows, and what the training tests ask of a run."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoProcessor, Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from vlm.chat import question_messages
from vlm.load import load_vlm

COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (235, 210, 40)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Runs are compared bit by bit, and tests share the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 6 images of one colour each, ``problems.jsonl`` and ``rows.jsonl``."""
    folder = tmp_path_factory.mktemp("pictures")
    rng, rows, problems = random.Random(0), [], []
    for index in range(6):
        colour = list(COLOURS)[index % 4]
        Image.new("RGB", (96 + 32 * (index % 3), 96), COLOURS[colour]).save(folder / f"{index}.png")
        question = f"What is at A{index % 3 + 1}?"
        wrong = rng.choice([other for other in COLOURS if other != colour])
        trace = f"A1 is {wrong} . Let me look again . A1 is {colour} ."
        start = trace.index(wrong) + len("<think> ")
        rows.append(
            {
                "prompt": question_messages(question, 1, style="think" if index else "direct"),
                "completion": f"<think> {trace} </think> \\boxed{{{colour}}}" if index else f"\\boxed{{{colour}}}",
                "images": [f"{index}.png"],
                "masked": [[start, start + len(wrong)]] if index else [],
                "mode": "think" if index else "direct",
            }
        )
        problems.append(
            {
                "id": f"p{index}",
                "source": "test",
                "domain": "text",
                "images": [f"{index}.png"],
                "question": question,
                "answer": colour,
            }
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "problems.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return folder


@pytest.fixture(scope="session")
def taught(tiny_vlm_dir: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after a short cold start on the images: sometimes right, so that rewards differ. Read only."""
    from train.sft import run_sft

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("taught") / "model"
    keys = {"model": str(tiny_vlm_dir), "dataset": str(pictures / "rows.jsonl"), "output_dir": str(folder)}
    size = {"per_device_train_batch_size": 6, "max_steps": 18, "learning_rate": 2e-3, "save_strategy": "no"}
    run_sft({**Runs.BASE, **keys, **size})
    return folder


@pytest.fixture(scope="session")
def qwen3_5_dir(tiny_vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight Qwen3.5, three blocks of four with a gated delta rule, as a standard folder. Read only."""
    folder = tmp_path_factory.mktemp("models") / "qwen3-5"
    old = AutoConfig.from_pretrained(tiny_vlm_dir)
    vision = {
        key: value
        for key, value in old.vision_config.to_dict().items()
        if key not in ("model_type", "deepstack_visual_indexes")
    }
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim")
    same = (
        *same,
        "num_key_value_heads",
        "max_position_embeddings",
        "tie_word_embeddings",
        "eos_token_id",
        "pad_token_id",
    )
    text = {key: getattr(old.text_config, key) for key in same}
    text |= {
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    text |= {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [4, 4, 4],
        }
    }
    tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids = {name: getattr(old, name) for name in tokens}
    torch.manual_seed(0)
    model = Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    )
    ends = load_vlm(tiny_vlm_dir, device="cpu").model.generation_config
    model.generation_config.update(
        **{key: getattr(ends, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    )
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny_vlm_dir).save_pretrained(folder)
    return folder


TOOL_TEMPLATE = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}{%- for tool in tools %}{{- tool.function.name }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role != 'tool' %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- else %}{%- if loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}{{- '\n<tool_response>\n' }}{%- endif %}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- part.text }}{%- endif %}{%- endfor %}{%- endif %}"
    "{%- for call in message.tool_calls or [] %}{%- if message.content or not loop.first %}{{- '\n' }}{%- endif %}"
    '{{- \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' + (call.function.arguments | tojson) }}'
    "{{- '}\n</tool_call>' }}{%- endfor %}"
    "{%- if message.role == 'tool' %}{{- '\n</tool_response>' }}{%- endif %}"
    "{%- if message.role != 'tool' or loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""In the convention of Qwen3-VL's, but with the tools' names alone."""


@pytest.fixture(scope="session")
def tool_vlm_dir(tiny_vlm_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template that has tools, and tokens for their tags, as a standard folder. Read only."""
    folder = tmp_path_factory.mktemp("models") / "tool-vlm"
    vlm = load_vlm(tiny_vlm_dir, device="cpu")
    vlm.tokenizer.add_tokens(["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"])
    vlm.processor.chat_template = vlm.tokenizer.chat_template = TOOL_TEMPLATE
    torch.manual_seed(0)
    vlm.model.resize_token_embeddings(len(vlm.tokenizer))
    vlm.model.save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def no_deepspeed_left() -> Iterator[None]:
    """Reading a ZeRO-3 config switches on, for the whole process, the parting of every model that loads later."""
    yield
    unset_hf_deepspeed_config()


class Runs:
    """Looking at the folders of training runs."""

    BASE: ClassVar[dict[str, Any]] = {
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "save_steps": 1,
        "save_total_limit": 10,
    }

    @staticmethod
    def weights(folder: Path) -> dict[str, torch.Tensor]:
        """The tensors of a saved model."""
        return load_file(folder / "model.safetensors")

    @staticmethod
    def unmoved(before: Path, after: Path) -> list[str]:
        """Names of the tensors that are the same in two saved models."""
        old, new = Runs.weights(before), Runs.weights(after)
        for name in new.keys() - old.keys():  # DeepSpeed's state dict holds a tied head beside its embedding
            assert name == "lm_head.weight" and torch.equal(new[name], new["model.language_model.embed_tokens.weight"])
        assert old.keys() <= new.keys()
        return sorted(name for name in old if torch.equal(old[name], new[name]))

    @staticmethod
    def column(folder: Path, key: str = "loss") -> list[float]:
        """A column of a run's log."""
        return [json.loads(line)[key] for line in (folder / "log.jsonl").read_text().splitlines()]

    @staticmethod
    def poison(folder: Path, name: str | None = None, value: float = math.nan) -> int:
        """Put ``value`` into a saved tensor (every second one where no name is given); returns the number of tensors."""
        file = next(iter(folder.glob("*.safetensors")))
        tensors = load_file(file)
        for key in [name] if name else sorted(tensors)[::2]:
            tensors[key].view(-1)[0] = value
        save_file(tensors, file, {"format": "pt"})
        return len(tensors)

    @staticmethod
    def kill_after(folder: Path, step: int) -> None:
        """Leave in ``folder`` what a kill after the checkpoint of ``step`` leaves: no later checkpoint but a torn one."""
        for checkpoint in folder.glob("checkpoint-*"):
            number = int(checkpoint.name.rpartition("-")[2])
            if number > step:
                (checkpoint / "complete").unlink()
                (checkpoint / "model.safetensors").write_bytes(b"torn")
        for name in ("summary.json", "model.safetensors"):
            (folder / name).unlink()
        with open(folder / "log.jsonl", "a") as file:
            file.write('{"step": 9, "seconds"')


@pytest.fixture(scope="session")
def runs() -> type[Runs]:
    """``Runs``, for test modules that cannot import this file."""
    return Runs
