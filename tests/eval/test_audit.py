"""The audit names models whose grounding is known, says when it cannot tell, and takes every measure of a real model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig, Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3VLConfig

from configs.errors import ConfigError, UserError
from data_construction.sources import write_set
from eval.audit import AuditConfig, quick, run_audit, summary
from eval.known import EXPECTED, known_subject
from vlm.problem import Problem, read_problems

FAMILIES = ["count", "compare", "place", "digit_sum", "claims"]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    folder = tmp_path_factory.mktemp("audit-set")
    write_set("scenes,digits", 100, 3, "heldout", folder, family_names=FAMILIES, counterfactual=True)
    return read_problems(folder)


@pytest.mark.parametrize("name", EXPECTED)
def test_known_models_are_named_at_100_and_not_at_5(name: str, problems: list[Problem], tmp_path: Path) -> None:
    config = AuditConfig(cutoff=0, hint=0, samples=50, shown=5)
    assert (
        run_audit(f"scripted:{name}", problems, tmp_path / "n100", config=config)["profile"]["name"] == EXPECTED[name]
    )
    few = run_audit(f"scripted:{name}", problems[:5], tmp_path / "n5", config=config)
    assert few["profile"]["name"] == "insufficient data"
    assert {one["verdict"] for one in few["measures"].values() if "verdict" in one} == {"insufficient data"}


@pytest.mark.parametrize("name", EXPECTED)
def test_known_models_are_named_as_black_boxes_too(name: str, problems: list[Problem], tmp_path: Path) -> None:
    subject = known_subject(name, problems)
    subject.continues = False
    report = run_audit(name, problems, tmp_path, config=AuditConfig(hint=0, samples=50, shown=5), subject=subject)
    assert report["box"] == "black" and report["profile"]["name"] == EXPECTED[name]
    assert "swap_by_turn" in report["measures"] and not {"swap", "cutoff", "vdm"} & set(report["measures"])


def test_an_audit_given_again_asks_nothing_and_says_the_same(problems: list[Problem], tmp_path: Path) -> None:
    config = AuditConfig(main=30, controls=30, swap=30, hint=30, cutoff=10, samples=10)
    first = run_audit("scripted:always_looks", problems, tmp_path, config=config)
    subject = known_subject("always_looks", problems)
    subject.function = lambda turn: pytest.fail("everything was answered already")
    second = run_audit("scripted:always_looks", problems, tmp_path, config=config, subject=subject)
    for report in (first, second):
        del report["seconds"], report["load_average"]
    assert first == second and json.loads((tmp_path / "audit.json").read_text())["profile"] == first["profile"]
    assert summary(first)[0].startswith("scripted:always_looks: looks again.")


def test_a_broken_image_is_counted_apart_in_every_measure(problems: list[Problem], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG and no more")
    mixed = [p.model_copy(update={"images": [str(broken)]}) if n < 10 else p for n, p in enumerate(problems)]
    report = run_audit("scripted:always_looks", mixed, tmp_path / "out", config=AuditConfig(cutoff=0))
    assert report["errors"]["n"] == 10 and report["accuracy"]["n"] == 90 and report["accuracy"]["value"] == 1
    assert report["measures"]["blank"]["n"] == report["measures"]["hint"]["n"] == report["measures"]["swap"]["n"] == 90
    assert report["profile"]["name"] == "looks again"
    assert "broken.png" in next(iter(report["errors"]["why"]))


def test_mistakes_are_sentences(problems: list[Problem], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="problem set is empty"):
        run_audit("scripted:random", [], tmp_path)
    with pytest.raises(ConfigError, match="no scripted model 'rnadom'"):
        run_audit("scripted:rnadom", problems, tmp_path)
    with pytest.raises(UserError, match="no connection"):
        run_audit("openai:m@http://127.0.0.1:9/v1", problems, tmp_path)


def test_quick_is_smaller_and_leaves_given_keys() -> None:
    config = quick(AuditConfig(main=7, seed=3), {"main": 7})
    assert config.main == 7 and config.seed == 3 and config.swap < AuditConfig().swap
    assert replace(config, main=AuditConfig().main) == replace(quick(AuditConfig()), seed=3, main=AuditConfig().main)


def test_every_measure_of_a_random_model_through_the_real_path(
    problems: list[Problem], tmp_path: Path, tiny_vlm_dir: Path
) -> None:
    """At chance: pixels, cutting, forwards, heat maps, page. A random model is never called grounded."""
    config = AuditConfig(
        main=24, cutoff=4, cutoff_at=(0.0, 0.5), samples=4, k=2, max_new_tokens=16, per_shift=4, shown=4
    )
    report = run_audit(str(tiny_vlm_dir), problems, tmp_path, config=config, shifts={"noise": problems[:8]})
    measures: dict[str, Any] = report["measures"]
    assert {"blank", "noise", "wrong_picture", "hint", "swap", "cutoff", "vdm", "attention", "overthinking"} <= set(
        measures
    )
    assert "knockout" not in measures  # all its layers have attention maps
    assert report["box"] == "white" and report["profile"]["name"] in ("insufficient data", "ignores the picture")
    assert measures["shift"]["noise"]["accuracy"]["n"] == 4 and measures["self_consistency"]["k"] == 2
    assert measures["attention"]["coverage"]["of"] == 4 and measures["attention"]["coverage"]["measurable"] == 4
    page = (tmp_path / "audit.html").read_text()
    assert "Attention of 1 of 4 layers." in page
    assert "<script" not in page and "http" not in page.replace("http-equiv", "").replace(
        "http://www.w3.org/2000/svg", ""
    )
    assert "by knockout" not in page


def test_a_hybrid_model_has_its_contribution_by_knockout(
    problems: list[Problem], tmp_path: Path, tiny_vlm_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model's processor before a Qwen3.5 of two layers: one Gated DeltaNet, one attention."""
    # With random weights no response ends, and those that were cut off are not scored.
    monkeypatch.setattr("eval.forward.can_be_scored", lambda problem, answer: answer.status == "ok")
    folder = Path(shutil.copytree(tiny_vlm_dir, tmp_path / "hybrid"))
    tiny = Qwen3VLConfig.from_pretrained(tiny_vlm_dir)
    text, vision = tiny.text_config, tiny.vision_config
    config = Qwen3_5Config(
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 1, 0],
                "mrope_interleaved": True,
                "partial_rotary_factor": 0.25,
            },
            **{f"linear_{name}_head_dim": 8 for name in ("key", "value")},
            **{f"linear_num_{name}_heads": 2 for name in ("key", "value")},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": vision.patch_size,
            "spatial_merge_size": vision.spatial_merge_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "num_position_embeddings": vision.num_position_embeddings,
        },
        **{f"{name}_token_id": getattr(tiny, f"{name}_token_id") for name in ("image", "video")},
        **{f"vision_{name}_token_id": getattr(tiny, f"vision_{name}_token_id") for name in ("start", "end")},
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen3_5ForConditionalGeneration(config)
    # A state that forgets slowly: at first it forgets the image within the question.
    model.get_decoder().layers[0].linear_attn.A_log.data.fill_(-5)
    model.generation_config = GenerationConfig.from_pretrained(tiny_vlm_dir)
    model.save_pretrained(folder)
    audit = AuditConfig(main=6, controls=0, hint=0, swap=0, cutoff=0, samples=0, max_new_tokens=16, shown=1)
    out = tmp_path / "out"
    found = run_audit(str(folder), problems, out, config=audit)["measures"]["knockout"]
    assert found["coverage"] == {"layers": [0], "without_map": 1, "of": 2, "kinds": {"linear": 1}}
    assert found["first_half"]["n"] == found["second_half"]["n"] == found["ratio"]["n"] > 3
    assert found["first_half"]["value"] > 1e-3 and found["first_half"]["ci95"] and found["curve"]["n"][0] > 3
    assert not {"verdict", "p"} & set(found)
    saved = json.loads((out / "audit.json").read_text())["measures"]["knockout"]
    assert saved["second_half"] == found["second_half"]
    page = (out / "audit.html").read_text()
    assert page.count("Image contribution by knockout") == 6 and "mean over 1 of 1 such layers of the model’s 2" in page


def test_the_page_escapes_what_a_model_wrote(problems: list[Problem], tmp_path: Path) -> None:
    subject = known_subject("always_looks", problems)
    said = subject.function
    subject.function = lambda turn: said(turn) + "<script>alert(1)</script>"
    run_audit("scripted:<b>", problems[:20], tmp_path, subject=subject, config=AuditConfig(shown=20))
    page = (tmp_path / "audit.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "scripted:<b>" not in page
    assert page.count("<article") == 20 and 'id="status-correct"' in page
    assert Image.open(problems[0].images[0]).size == (192, 192)
