"""VDM and patch masking over finished responses: resumed, batched, and counted by hand."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_subjects import colour_problems

from eval.forward import forward_figures, forward_measures
from eval.runner import Answer
from vlm.attention import AttentionMass
from vlm.load import VLM, load_vlm


@pytest.fixture(scope="module")
def vlm(tiny_vlm_dir: Path) -> Iterator[VLM]:
    yield load_vlm(tiny_vlm_dir)


def test_four_forwards_a_batch_a_resume_without_any_and_batches_like_singles(vlm: VLM, tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 4)
    fields = {"tag": "main", "style": "think", "domain": "text", "family": "f"}
    texts = ["I see red and then more red, so red.", "I see green, or I see blue, at last green."]
    answers = {
        p.id: Answer(problem_id=p.id, key=f"k{n}", text=texts[n % 2], tokens=12, **fields)  # type: ignore[arg-type]
        for n, p in enumerate(problems)
    }
    with AttentionMass(vlm.model):  # the comparison with and without the probe, once a model, has forwards of its own
        pass
    forwards = []
    hook = vlm.model.register_forward_hook(lambda *_: forwards.append(1))
    try:
        found = forward_measures(vlm, problems, answers, tmp_path / "f.jsonl", style="think", batch_size=4)
        assert len(forwards) == 4  # for the whole batch
        again = forward_measures(vlm, problems, answers, tmp_path / "f.jsonl", style="think", batch_size=4)
        assert len(forwards) == 4 and again == found
        alone = forward_measures(vlm, problems, answers, tmp_path / "g.jsonl", style="think", batch_size=1)
    finally:
        hook.remove()
    assert found["vdm"]["second_half"]["n"] == 4
    for one, other in zip(found["rows"], alone["rows"], strict=True):
        assert one["vdm"] == pytest.approx(other["vdm"], abs=1e-4)
        assert one["most_drop"] == pytest.approx(other["most_drop"], abs=1e-4)
    assert len(found["rows"][0]["maps"][0]) >= 1
    # Killed while the rows of the batch were written: those that are whole stay, and none is there twice.
    log = tmp_path / "f.jsonl"
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (b"".join(lines[:1]), b"".join(lines[:3]) + lines[3][:40]):
        log.write_bytes(kept)
        assert forward_measures(vlm, problems, answers, log, style="think", batch_size=4) == found
        assert log.read_bytes() == whole


def test_what_cannot_be_judged_is_passed_over(vlm: VLM, tmp_path: Path) -> None:
    problems = colour_problems(tmp_path, 4)
    fields = {"key": "k", "tag": "main", "style": "think", "domain": "text", "family": "f", "text": "a b c d e f g h i"}
    answers = {
        "p0": Answer(problem_id="p0", tokens=9, truncated=True, **fields),  # type: ignore[arg-type]
        "p1": Answer(problem_id="p1", tokens=3, **fields),  # type: ignore[arg-type]
        "p2": Answer(problem_id="p2", tokens=9, status="error", **fields),  # type: ignore[arg-type]
    }
    found = forward_measures(vlm, problems, answers, tmp_path / "f.jsonl", style="think")
    assert found["rows"] == [] and found["vdm"]["second_half"]["value"] is None


def test_figures_by_hand() -> None:
    rows = [
        {"problem_id": "a", "vdm": [0.2, 0.4], "vdm_halves": [0.2, 0.4], "most_drop": 0.9, "least_drop": 0.1},
        {
            "problem_id": "b",
            "vdm": [0.4, 0.2],
            "vdm_halves": [0.4, 0.2],
            "most_drop": None,
            "least_drop": None,
            "why": "tiles",
        },
        {"problem_id": "c", "why": "gone"},
    ]
    found = forward_figures(rows, {name: name for name in "abc"})
    assert found["vdm"]["second_half"]["value"] == pytest.approx(0.3) and found["vdm"]["ratio"]["value"] == 1.25
    assert found["knockout"] is None
    rows[0] |= {"knockout": [0.5, 0.5, 1.0, 1.0], "knockout_halves": [0.5, 1.0]}
    rows[1] |= {"knockout": [0.0, 0.0], "knockout_halves": [0.0, 0.0]}
    knockout = forward_figures(rows, {name: name for name in "abc"}, {"layers": [1]})["knockout"]
    assert knockout["first_half"]["value"] == 0.25 and knockout["second_half"]["value"] == 0.5
    assert knockout["ratio"]["value"] == 2 and knockout["ratio"]["n"] == 1 and knockout["coverage"] == {"layers": [1]}
    assert found["patch_masking"]["values"] == {"a": pytest.approx(0.8)} and found["not_measured"] == ["gone", "tiles"]
