"""--check names every planted fault before a weight loads, and --plan counts bytes; both for every config that ships."""

import importlib.util
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from benchmarks.study.run import load_study
from configs import bundled_config
from configs.errors import UserError
from configs.overrides import read_config
from configs.run_config import load_run_config
from configs.schema import check_keys, parse_config
from configs.versions import install_command
from data_construction.build import BuildConfig
from eval.harness import EvalConfig
from reflection_v.stages import EvalKeys
from train.activations import Arithmetic, decoder_activations
from train.config import GrpoOptions, Lora, SftOptions
from train.data import Collator, read_rows
from train.filters import KEPT_ALL_THE_SAME, REMEDIES, filter_problems, prompt_tokens
from train.grpo import load_grpo
from train.grpo import main as grpo_main
from train.lora import lora_config
from train.memory import make_plan
from train.preflight import check, take_flags
from train.reader import SHIPPED, count_weights, load_reader, skeleton
from train.sft import load_sft
from train.sft import main as sft_main
from vlm.chat import encode, question_messages
from vlm.images import open_image
from vlm.load import load_vlm
from vlm.problem import Problem

CONFIGS = sorted(path for path in bundled_config("").rglob("*.yaml") if path.parent.name != "base")


def problem(number: int, **changes: Any) -> dict[str, Any]:
    row = {
        "id": f"p{number}",
        "source": "test",
        "domain": "text",
        "images": ["good.png"],
        "question": "What is at A1?",
        "answer": "red",
    }
    return {**row, **changes}


FAULTS = [  # (the reason under which it is named, the row)
    ("unreadable_picture", {"images": ["broken.png"]}),
    ("missing_picture", {"images": ["absent.png"]}),
    ("over_long", {"question": "why " * 600}),
    ("unparsable_answer", {"domain": "number", "answer": "many"}),
    ("duplicate_id", {"id": "p0"}),
    ("image_in_text", {"question": "What is in <|image_pad|> ?"}),
    ("malformed", {"domain": "colour"}),
    ("answer_not_a_choice", {"domain": "choice", "choices": ["red", "blue"], "answer": "green"}),
    ("unusable_picture", {"images": ["thin.png"]}),
    ("no_question", {"question": "  "}),
    ("control_token", {"question": "Say <|im_end|> now."}),
    ("unreadable_picture", {"images": ["short.png"]}),
    ("long_question", {"question": "why " * 6000}),
    ("unparsable_answer", {"answer": ""}),
    ("missing_picture", {"images": ["x" * 5000]}),
    ("broken_text", {"answer": "red \ud800"}),
]


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A problem set with four good rows and one of each fault."""
    Image.new("RGB", (96, 96), "red").save(tmp_path / "good.png")
    Image.new("RGB", (2, 900), "red").save(tmp_path / "thin.png")
    Image.effect_noise((96, 96), 90).save(tmp_path / "short.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "short.png").read_bytes()[:2000])  # a good header
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    rows = [problem(number) for number in range(4)]
    rows += [problem(number, **change) for number, (_, change) in enumerate(FAULTS, start=4)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def keys(tiny_vlm_dir: Path, planted: Path, tmp_path: Path) -> dict[str, Any]:
    batch = {"per_device_train_batch_size": 4, "num_generations": 4, "max_prompt_tokens": 200}
    return {"model": str(tiny_vlm_dir), "problems": str(planted), "output_dir": str(tmp_path / "out"), **batch}


def test_every_planted_fault_is_named_with_its_remedy(keys: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    report = check(load_grpo(keys))
    named = {finding.check: finding for finding in report.findings}
    for number, (reason, _) in enumerate(FAULTS, start=4):
        said = named[reason].said
        assert REMEDIES[reason] in said
        assert f"p{number}" in said or f"row {number + 1}" in said
        assert named[reason].level == ("note" if reason in KEPT_ALL_THE_SAME else "dropped")
    assert set(named) == {reason for reason, _ in FAULTS}
    assert report.counts["problems"] == 6 and report.counts["dropped"] == len(FAULTS) - 2
    assert report.passed  # what is left can be trained on
    file = Path(keys["problems"]) / "grpo.json"
    file.write_text(json.dumps(keys))
    assert grpo_main(["--config", str(file), "--check", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])["check"]
    assert printed["passed"] and printed["problems"] == 6


def test_a_question_that_cannot_be_asked_is_dropped_without_a_limit_of_tokens(
    planted: Path, tiny_vlm_dir: Path
) -> None:
    rows = [Problem.model_validate(problem(number)) for number in range(2)]
    rows += [
        Problem.model_validate(problem(2, question="why " * 6000)),
        Problem.model_validate(problem(3, question=" ")),
    ]
    for row in rows:
        row.images = [str(planted / "good.png")]
    found = filter_problems(rows, load_reader(GrpoOptions(model=str(tiny_vlm_dir))).vlm, "think", None)
    assert found.kept == rows[:2] and found.dropped == {"long_question": 1, "no_question": 1}


def test_a_malformed_last_problem_is_named(keys: dict[str, Any]) -> None:
    file = Path(keys["problems"]) / "problems.jsonl"
    file.write_text(file.read_text() + '{"id": "p99", "answer": "red",}')
    report = check(load_grpo(keys))
    assert not report.passed and any("problems.jsonl, line" in finding.said for finding in report.findings)


@pytest.mark.parametrize(
    ("changes", "named", "said"),
    [
        ({"gpus": 8}, "batch", "fewer than the 8 of one step"),
        ({"problems": "absent"}, "problems", "No problem set at absent"),
        ({"model": "absent/model"}, "model", "cannot be read"),
    ],
)
def test_what_would_end_a_run_is_an_error(keys: dict[str, Any], changes: dict[str, Any], named: str, said: str) -> None:
    report = check(load_grpo({**keys, **changes}))
    assert not report.passed
    assert any(f.level == "error" and f.check == named and said in f.said for f in report.findings)


def test_what_ends_a_run_after_its_rows_are_read_is_an_error(keys: dict[str, Any]) -> None:
    named = {
        "attention_layers": ({"attention_layers": [9]}, "its layers are 0 to 3"),
        "domain_weights": ({"domain_weights": {"text": 1, "count": 1}}, "'count'"),
        "curriculum": ({"curriculum": "easy_first", "prompt_selection": None}, "needs a pass rate of every problem"),
    }
    for name, (changes, said) in named.items():
        errors = {f.check: f.said for f in check(load_grpo({**keys, **changes})).findings if f.level == "error"}
        assert set(errors) == {name} and said in errors[name]
    assert check(load_grpo({**keys, "curriculum": "easy_first"})).passed  # the selection will measure them


def test_text_beside_pictures_under_zero3_is_an_error(
    keys: dict[str, Any], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mixed").mkdir()
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    rows = [problem(number, images=[str(pictures / "0.png")] if number % 2 else []) for number in range(8)]
    (tmp_path / "mixed" / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sft = [json.loads(line) for line in (pictures / "rows.jsonl").read_text().splitlines()]
    sft[0] |= {"images": [], "prompt": question_messages("What is at A1?", 0)}
    (pictures / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sft))
    keys = {**keys, "problems": str(tmp_path / "mixed"), "gpus": 2}
    cold = {"model": keys["model"], "dataset": str(pictures / "mixed.jsonl"), "output_dir": keys["output_dir"]}
    cold |= {"per_device_train_batch_size": 2, "gpus": 2}
    for zero, found in ((2, []), (3, ["pictures"])):
        deepspeed = {"deepspeed": f"configs/deepspeed/zero{zero}.json"}
        for stage in (load_grpo({**keys, **deepspeed}), load_sft({**cold, **deepspeed})):
            assert [f.check for f in check(stage).findings if f.level == "error"] == found
    assert check(load_sft({**cold, "gpus": 1, "deepspeed": "configs/deepspeed/zero3.json"})).passed


def test_a_checkpoint_of_lora_is_its_adapters(keys: dict[str, Any]) -> None:
    big = {**keys, "model": "Qwen/Qwen2.5-VL-7B-Instruct", "dtype": "bfloat16", "save_total_limit": 2}
    whole, lora = (check(load_grpo({**big, **more})).counts["disk_wanted_gb"] for more in ({}, {"lora": {"r": 16}}))
    assert whole > 3 * 14 * 8.29
    assert 2 * 8.29 < lora < 2 * 8.29 + 3  # the merged model, once


def test_batches_are_checked_for_all_processes_by_one(keys: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(keys["problems"]) / "grpo.json"
    file.write_text(json.dumps({**keys, "per_device_train_batch_size": 1, "num_generations": 8}))
    assert grpo_main(["--config", str(file), "--check", "--gpus", "8"]) == 0
    assert grpo_main(["--config", str(file), "--check", "--gpus", "3"]) == 2
    assert "num_generations" in capsys.readouterr().err


def test_missing_packages_and_a_small_disk_are_named(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10**6))
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "vllm" else find(name, *rest))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    report = check(load_grpo({**keys, "use_vllm": True}))
    errors = {finding.check: finding.said for finding in report.findings if finding.level == "error"}
    assert errors["packages"] == f"'use_vllm' needs the package vllm, which is not installed: {install_command('vllm')}"
    assert "save_total_limit" in errors["disk"]
    monkeypatch.delenv("DS_ACCELERATOR")  # a machine that only checks
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert check(load_grpo({**keys, "use_vllm": True})).passed


def test_prompt_tokens_are_those_of_training(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    """Counted from sizes alone, on the tiny model and on a Qwen2.5-VL processor, as the encoder counts them from pixels."""
    Image.new("RGB", (300, 170), "red").save(tmp_path / "a.png")
    Image.new("RGB", (40, 500), "blue").save(tmp_path / "b.png")
    one = Problem(**problem(0, images=[str(tmp_path / "a.png"), str(tmp_path / "b.png")]))
    for name in (str(tiny_vlm_dir), "Qwen/Qwen2.5-VL-3B-Instruct"):
        reader = load_reader(GrpoOptions(model=name, max_pixels=200_000)).vlm
        pictures = [open_image(path) for path in one.images]
        batch = encode(reader, [question_messages(one.question, 2)], [pictures])
        counted = prompt_tokens(one, [picture.size for picture in pictures], "think", reader)
        assert counted == batch["input_ids"].shape[1]


def test_the_main_process_keeps_no_pixels(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    """The main process keeps names and sizes, no pixels; a batch reads its own images only. Seconds are in docs/training.md."""
    for number in range(4):
        Image.effect_noise((400, 400), 60).convert("RGB").save(tmp_path / f"{number}.png")
    (tmp_path / "problems.jsonl").write_text(
        "".join(json.dumps(problem(n, images=[f"{n % 4}.png"])) + "\n" for n in range(500))
    )
    stage = load_grpo({"model": str(tiny_vlm_dir), "problems": str(tmp_path), "output_dir": str(tmp_path / "out")})
    check(stage)  # modules that are imported on first use are no pixels
    tracemalloc.start()
    report = check(stage)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.passed and report.counts["problems"] == 500
    assert peak < 500 * 400 * 400 * 3 / 4  # far less than the images would take


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_loads_and_passes_check_and_plan(
    path: Path, pictures: Path, tiny_vlm_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    keys = read_config(path)
    out = {"output_dir": str(tmp_path / "out"), "use_cpu": True}
    out |= {"model": str(tiny_vlm_dir)} if path.parent.name == "tiny" else {}
    kind = path.stem.split("_")[0]
    if "build" in (kind, path.parent.name):
        parse_config(BuildConfig, keys, path)
    elif kind == "eval":
        check_keys(keys, EvalKeys, EvalConfig)
    elif kind == "study":
        load_study(path, {"run": str(tmp_path), "out": str(tmp_path / "out")})
    elif kind in ("run", "improve"):
        assert yaml.safe_load(path.read_text())
        if kind == "run":
            load_run_config(path)
    else:
        many = tmp_path / "many"
        many.mkdir()
        for picture in pictures.glob("*.png"):
            shutil.copy(picture, many)
        source = "rows.jsonl" if kind == "sft" else "problems.jsonl"
        rows = [json.loads(line) for line in (pictures / source).read_text().splitlines()] * 20
        rows = [{**row, "id": str(n)} for n, row in enumerate(rows)] if kind == "grpo" else rows
        (many / source).write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"dataset": str(many / source)} if kind == "sft" else {"problems": str(many)}
        stage = (load_sft if kind == "sft" else load_grpo)(path, {**out, **data})
        report = check(stage)
        assert report.passed, report.findings
        plan = make_plan(stage.args, stage.options)
        assert plan.fits and plan.facts["gpus"] == (stage.options.gpus or 1)
        assert plan.peak > sum(plan.parts[name] for name in ("weights", "gradients", "optimizer"))


def test_shipped_model_configs_have_the_published_sizes() -> None:
    billions = {
        "Qwen/Qwen2.5-VL-3B-Instruct": 3.75,
        "Qwen/Qwen2.5-VL-7B-Instruct": 8.29,
        "Qwen/Qwen3-VL-8B-Instruct": 8.77,
        "Qwen/Qwen3.5-4B": 4.54,
        "Qwen/Qwen3.5-9B": 9.41,
        "google/gemma-4-E4B-it": 7.94,
    }
    assert set(billions) == set(SHIPPED)
    for name, wanted in billions.items():
        every, _ = count_weights(skeleton(load_reader(SftOptions(model=name)).config.to_json_string()))
        assert sum(every.values()) / 1e9 == pytest.approx(wanted, abs=0.01)
        assert every["vision"] > every["merger"] > 0


def plan_of(tmp_path: Path, gpus: int = 1, **changes: Any) -> Any:
    keys = {"output_dir": str(tmp_path), "dataset": "rows.jsonl", "use_cpu": True, "per_device_train_batch_size": 1}
    stage = load_sft({**keys, "model": "Qwen/Qwen2.5-VL-7B-Instruct", "dtype": "bfloat16", "bf16": True, **changes})
    return make_plan(stage.args, stage.options, gpus)


def test_the_plan_parts_what_zero_parts(tmp_path: Path) -> None:
    n = 8.292166656
    zero2 = plan_of(tmp_path, 4, deepspeed="configs/deepspeed/zero2.json")
    zero3 = plan_of(tmp_path, 4, deepspeed="configs/deepspeed/zero3.json")
    offload = plan_of(tmp_path, 4, deepspeed="configs/deepspeed/zero3_offload.json")
    lora = plan_of(tmp_path, 1, lora={"r": 16})
    assert zero2.parts["weights"] == pytest.approx(2 * n, abs=0.01)
    assert zero2.parts["optimizer"] == zero3.parts["optimizer"] == pytest.approx(12 * n / 4, abs=0.01)
    assert zero3.parts["weights"] == pytest.approx(2 * n / 4, abs=0.01)
    assert offload.parts["optimizer"] == offload.parts["weights"] == 0 and offload.cpu > 25
    assert lora.parts["optimizer"] < 1 and lora.fits and not plan_of(tmp_path, 1).fits
    assert any("lora" in line for line in plan_of(tmp_path, 1).advice)
    assert any("zero3" in line for line in plan_of(tmp_path, 2, deepspeed="configs/deepspeed/zero2.json").advice)


def test_the_step_of_zero2_needs_a_float32_copy_of_the_gradients(tmp_path: Path) -> None:
    n = 8.292166656
    one = plan_of(tmp_path, 1, deepspeed="configs/deepspeed/zero2.json")
    held = sum(one.parts[name] for name in ("weights", "gradients", "optimizer", "context"))
    assert one.parts["optimizer's step"] == pytest.approx(6 * n, abs=0.01)
    assert one.peak == pytest.approx(held + 6 * n, abs=0.1) and one.parts["context"] == 5
    many = plan_of(tmp_path, 64, deepspeed="configs/deepspeed/zero2.json")  # the activations are more than the copy
    assert many.peak > sum(
        many.parts[name] for name in ("weights", "gradients", "optimizer", "context", "optimizer's step")
    )
    offload = plan_of(tmp_path, 4, deepspeed="configs/deepspeed/zero2_offload.json")
    assert "optimizer's step" not in offload.parts


def test_the_step_of_zero3_copies_one_sub_group(tmp_path: Path) -> None:
    """In a real step of a tiny model the plan without this copy was a third below the peak (benchmarks/estimators.py)."""
    few, many = (plan_of(tmp_path, gpus, deepspeed="configs/deepspeed/zero3.json") for gpus in (1, 64))
    assert few.parts["optimizer's step"] == 6.0  # 1e9 of 8.3e9 weights at a time
    assert many.parts["optimizer's step"] == pytest.approx(6 * 8.292166656 / 64, abs=0.01)
    assert few.sizes["optimizer's step"] == 6e9
    offload = plan_of(tmp_path, 4, deepspeed="configs/deepspeed/zero3_offload.json")
    assert "optimizer's step" not in offload.parts


def test_adapters_are_planned_in_the_type_that_peft_gives_them(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    from peft import get_peft_model

    vlm = load_vlm(tiny_vlm_dir, dtype="bfloat16", device="cpu")
    wrapped = get_peft_model(vlm.model, lora_config(Lora(r=4), vlm.model))
    assert {weight.dtype for weight in wrapped.parameters() if weight.requires_grad} == {torch.float32}
    plan = plan_of(tmp_path, 1, lora={"r": 64})
    adapters, rest = plan.facts["trainable"], plan.facts["weights"] - plan.facts["trainable"]
    assert plan.parts["weights"] == pytest.approx((2 * rest + 4 * adapters) / 1e9, abs=0.01)
    assert plan.parts["gradients"] == pytest.approx(4 * adapters / 1e9, abs=0.01)
    assert plan.parts["optimizer"] == pytest.approx(8 * adapters / 1e9, abs=0.01)


def table_rows() -> list[str]:
    """The rows of the table in docs/training.md: GB on each of 1, 2, 4, 8 GPUs."""
    rows = []
    for folder, size in (("qwen2_5_vl_3b", "3B"), ("qwen2_5_vl_7b", "7B")):
        settings: list[tuple[str, str, dict[str, Any]]] = [
            ("SFT, ZeRO-2", "sft", {}),
            ("SFT, ZeRO-3", "sft", {"deepspeed": "configs/deepspeed/zero3.json"}),
            ("SFT, ZeRO-3, offload", "sft", {"deepspeed": "configs/deepspeed/zero3_offload.json"}),
            ("SFT, LoRA", "sft_lora", {}),
            ("GRPO, ZeRO-2, vLLM colocated", "grpo", {}),
            ("GRPO, ZeRO-3, vLLM server", "grpo_server", {}),
            ("GRPO, LoRA, transformers", "grpo_lora", {}),
        ]
        for name, file, changes in settings:
            load, data = (load_sft, "dataset") if file.startswith("sft") else (load_grpo, "problems")
            stage = load(
                bundled_config(f"{folder}/{file}.yaml"), {data: "x", "output_dir": "x", "use_cpu": True, **changes}
            )
            peaks = [make_plan(stage.args, stage.options, gpus).peak for gpus in (1, 2, 4, 8)]
            rows.append(
                f"| {size} | {name} | " + " | ".join(f"{p:.0f}" if p <= 80 else f"({p:.0f})" for p in peaks) + " |"
            )
    return rows


def test_the_table_in_the_docs_is_the_plan() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    shown = [line for line in page.splitlines() if line.startswith(("| 3B |", "| 7B |"))]
    assert shown == table_rows()


@pytest.mark.parametrize("adapters", [False, True])
def test_planned_activations_are_those_that_torch_saves(tiny_vlm_dir: Path, pictures: Path, adapters: bool) -> None:
    """The layers that ran without storage against the tensors that a real forward keeps for its backward, float32."""
    from peft import get_peft_model

    lora = Lora(r=4) if adapters else None
    vlm = load_vlm(tiny_vlm_dir, device="cpu")
    rows, _ = read_rows(pictures / "rows.jsonl", vlm)
    batch = Collator(rows, vlm)([{"index": 0}])
    planned = decoder_activations(vlm.model.config, batch["input_ids"].numel(), Arithmetic(True, False, False, lora))
    if lora is not None:
        get_peft_model(vlm.model, lora_config(lora, vlm.model))
    decoder, weights = vlm.model.get_decoder(), {weight.data_ptr() for weight in vlm.model.parameters()}
    held: list[torch.Tensor] = []
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)  # or its address would be used again
        return tensor

    states = torch.zeros(*batch["input_ids"].shape, decoder.config.hidden_size, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder(inputs_embeds=states, use_cache=False)
    assert planned.measured and planned.layer > 0
    assert planned.kept == pytest.approx(sum(saved.values()), rel=0.05)  # the last norm is in no layer


def test_the_plan_is_for_a_dtype_and_a_device(tmp_path: Path) -> None:
    lora = {"r": 64}
    half, wide = (
        plan_of(tmp_path, lora=lora, dtype=dtype, bf16=dtype == "bfloat16") for dtype in ("bfloat16", "float32")
    )
    adapters = half.facts["trainable"]
    frozen = half.facts["weights"] - adapters
    assert wide.parts["weights"] - half.parts["weights"] == pytest.approx(2 * frozen / 1e9, abs=0.02)
    assert wide.parts["gradients"] == half.parts["gradients"] == pytest.approx(4 * adapters / 1e9, abs=0.01)
    assert 1.3 < wide.parts["activations"] / half.parts["activations"] < 2.1
    keys = {"output_dir": str(tmp_path), "dataset": "rows.jsonl", "use_cpu": True, "lora": lora, "bf16": True}
    stage = load_sft({**keys, "model": "Qwen/Qwen2.5-VL-7B-Instruct", "dtype": "bfloat16"})
    on_gpu, on_cpu = (make_plan(stage.args, stage.options, device=device) for device in ("cuda", "cpu"))
    assert on_cpu.parts["context"] == 0 < on_gpu.parts["context"]
    assert on_cpu.parts["logits"] > on_gpu.parts["logits"]  # no Triton kernel works inside the tile
    assert on_cpu.parts["weights"] == on_gpu.parts["weights"]
    assert on_gpu.facts["gpu_memory_gb"] == 80 != on_cpu.facts["gpu_memory_gb"]


def test_a_model_of_reduced_depth_is_planned(tmp_path: Path) -> None:
    planned = {}
    for depth in (2, 4):
        folder = tmp_path / str(depth)
        shutil.copytree(str(bundled_config("qwen2_5_vl_3b/model")), folder)
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= {"num_hidden_layers": depth, "layer_types": ["full_attention"] * depth}
        (folder / "config.json").write_text(json.dumps(config))
        planned[depth] = decoder_activations(load_reader_config(folder), 1024, Arithmetic(False, True, False, None))
    assert planned[2].measured
    assert planned[4].kept == 2 * planned[2].kept and planned[4].layer == planned[2].layer


def load_reader_config(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def test_a_layer_that_cannot_run_without_values_is_planned_by_the_formula() -> None:
    config = load_reader(SftOptions(model="google/gemma-4-E4B-it")).config  # its layers share keys
    planned = decoder_activations(config, 1024, Arithmetic(False, True, True, None))
    assert not planned.measured and planned.kept > 0 and planned.layer > 0


def test_the_device_of_a_plan_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert sft_main(["--config", "configs/tiny/sft.yaml", "--plan", "--device", "tpu"]) == 2
    assert "--device cpu" in capsys.readouterr().err
    rest, wanted = take_flags(["--plan", "--device", "cpu", "--dtype", "float32"])
    assert wanted["device"] == "cpu" and rest == ["--dtype", "float32"]


# LoRA


def test_lora_trains_its_adapters_and_leaves_a_merged_model(
    tiny_vlm_dir: Path, pictures: Path, tmp_path: Path, runs: Any
) -> None:
    config = {**runs.BASE, "model": str(tiny_vlm_dir), "dataset": str(pictures / "rows.jsonl"), "max_steps": 2}
    file = tmp_path / "sft.json"
    file.write_text(json.dumps({**config, "lora": {"r": 4, "alpha": 8}, "per_device_train_batch_size": 2}))
    out = tmp_path / "out"
    assert sft_main(["--config", str(file), "--output_dir", str(out)]) == 0
    moved = set(runs.weights(tiny_vlm_dir)) - set(runs.unmoved(tiny_vlm_dir, out))
    wanted = {
        name for name in runs.weights(tiny_vlm_dir) if "language_model.layers" in name and name.endswith("proj.weight")
    }
    assert moved == wanted
    assert (out / "adapter" / "adapter_model.safetensors").exists()
    load_vlm(out, device="cpu")
    # A kill between the last checkpoint and the merge: the same command only merges.
    for name in ("summary.json", "model.safetensors", "config.json"):
        (out / name).unlink()
    shutil.rmtree(out / "adapter")
    assert sft_main(["--config", str(file), "--output_dir", str(out)]) == 0
    assert set(runs.weights(tiny_vlm_dir)) - set(runs.unmoved(tiny_vlm_dir, out)) == wanted


def test_planned_adapters_are_those_that_peft_makes(tiny_vlm_dir: Path, tmp_path: Path) -> None:
    from peft import get_peft_model

    for merger in (False, True):
        lora = {"r": 4, "train_merger": merger}
        keys = {"model": str(tiny_vlm_dir), "dataset": "x", "output_dir": str(tmp_path), "lora": lora}
        stage = load_sft(keys)
        vlm = load_vlm(tiny_vlm_dir, device="cpu")
        wrapped = get_peft_model(vlm.model, lora_config(stage.options.lora, vlm.model))
        made = sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)
        assert make_plan(stage.args, stage.options).facts["trainable"] == made


def test_lora_names_that_are_not_there_are_refused(tiny_vlm_dir: Path) -> None:
    model = load_vlm(tiny_vlm_dir, device="cpu").model
    with pytest.raises(UserError, match="no linear layer named z_proj"):
        lora_config(Lora(targets=["q_proj", "z_proj"]), model)
    with pytest.raises(UserError, match="r and alpha"):
        lora_config(Lora(r=0), model)
    assert lora_config(None, model) is None


if __name__ == "__main__":  # PYTHONPATH=. python tests/train/test_preflight.py: the rows for docs/training.md
    print("\n".join(table_rows()))
