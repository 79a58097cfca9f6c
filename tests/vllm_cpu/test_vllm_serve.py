"""The commands that take a served model, against a real ``vllm serve``: ask, eval, audit, build, and the audit of a server against its
weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.jsonl import read_jsonl
from data_construction.reading import FAULTS
from data_construction.sources import write_set
from eval.audit import AuditConfig, run_audit
from reflection_v.cli import app
from vlm.load import bundled_model
from vlm.problem import read_problems

pytestmark = pytest.mark.vllm

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write_set("scenes,digits", 24, 3, "heldout", folder, counterfactual=True)
    return folder


def run(*arguments: str, code: int = 0) -> str:
    """The standard output of a command that ends with ``code``; for a failure the last line of its standard error."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.stderr.strip().split("\n")[-1] if code else result.stdout


@pytest.mark.smoke
def test_the_server_answers_as_its_weights(vllm_server: Any, tmp_path: Path) -> None:
    options = ["--reference", "tiny", "--out", str(tmp_path), "--json"]
    report = json.loads(run("audit", vllm_server.model, *options))
    assert report["verdict"] == "equal" and not report["causes"] and not report["notes"]
    assert report["given"] == {"prompt_tokens": True, "log_probabilities": True}
    for one in report["probes"]:
        assert one["served_prompt"] == one["own_prompt"] and one["common"] == one["own_tokens"] == one["compared"]
        # vLLM resizes tensors, the reference PIL images: pixels differ in the last bit where there is a resize.
        assert one["log_p_gap"] < (1e-5 if one["kind"] in ("text", "fitted") else 5e-4)


def test_weights_in_another_type_are_named(serve: Callable[..., Any], tmp_path: Path) -> None:
    server = serve(bundled_model("tiny"), "--dtype", "bfloat16", name="tiny-bf16")
    result = CliRunner().invoke(app, ["audit", server.model, "--reference", "tiny", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "quantized (likely)" in result.stdout
    report = json.loads((tmp_path / "served.json").read_text())
    assert [cause["name"] for cause in report["causes"]] == ["quantized"]
    options = ["--reference", "tiny", "--out", str(tmp_path), "--dtype", "bfloat16", "--json"]
    assert json.loads(run("audit", server.model, *options))["verdict"] == "equal"


def test_ask_with_votes(vllm_server: Any) -> None:
    image = str(REPO / "demo" / "examples" / "count.png")
    question = "Grid of columns A to C, rows 1 to 3. How many blue shapes are there?"
    ask = ["ask", image, question, "--json", "--model"]
    greedy, own = json.loads(run(*ask, vllm_server.model)), json.loads(run(*ask, "tiny"))
    assert greedy["text"] == own["text"] and greedy["answer"] == own["answer"]
    voted = json.loads(run(*ask, vllm_server.model, "--votes", "4"))["votes"]
    assert voted["k"] == 4 and 1 <= sum(voted["counts"].values()) <= 4 and 0 < voted["agreement"] <= 1


def test_eval_gives_the_figures_of_the_weights(vllm_server: Any, problems: Path, tmp_path: Path) -> None:
    keys = ["--problems", str(problems), "--blank", "12", "--max_new_tokens", "64", "--json"]
    served = json.loads(run("eval", vllm_server.model, *keys, "--out", str(tmp_path / "served")))
    own = json.loads(run("eval", "tiny", *keys, "--out", str(tmp_path / "own")))
    (theirs,), (ours,) = served["models"].values(), own["models"].values()
    assert theirs["accuracy"] == ours["accuracy"] and theirs["blank_accuracy"] == ours["blank_accuracy"]
    assert theirs["errors"]["n"] == 0 and theirs["accuracy"]["n"] == 24 and theirs["blank_accuracy"]["n"] == 12


def test_the_black_box_has_the_figures_of_the_white_box(vllm_server: Any, problems: Path, tmp_path: Path) -> None:
    """Greedy and paired: what both measure the same is the same."""
    config = AuditConfig(cutoff=0, swap=0, forward=0, samples=0, max_new_tokens=64, shown=4)
    asked = read_problems(problems)
    black = run_audit(vllm_server.model, asked, tmp_path / "black", config=config)
    white = run_audit("tiny", asked, tmp_path / "white", config=config)
    assert black["box"] == "black" and white["box"] == "white"
    assert black["accuracy"] == white["accuracy"] and black["looks_mean"] == white["looks_mean"]
    for name in ("blank", "noise", "wrong_picture", "hint"):
        ours, theirs = white["measures"][name], black["measures"][name]
        assert ours["n"] == theirs["n"] > 0 and ours["value"] == theirs["value"] and ours["p"] == theirs["p"], name
    texts = [
        {row["problem_id"]: row["text"] for row in read_jsonl(tmp_path / box / "answers" / "main.jsonl")}
        for box in ("black", "white")
    ]
    assert texts[0] == texts[1]


def test_build_with_both_roles_served(
    vllm_server: Any, serve: Callable[..., Any], problems: Path, tmp_path: Path
) -> None:
    reasoner = serve(bundled_model("tiny-reasoner"), name="tiny-reasoner")
    config = str(REPO / "configs" / "tiny" / "build.yaml")
    roles = ["--model", vllm_server.model, "--reasoner", reasoner.model]
    said = run("build", config, "--problems", str(problems), "--out", str(tmp_path / "out"), *roles)
    traces = read_jsonl(tmp_path / "out" / "traces.jsonl")
    assert len(traces) == 24 and "kept: " in said
    # The tiny reasoner's replies may be unusable; the servers' never fail.
    assert {trace["error"] for trace in traces if trace["status"] == "error"} <= set(FAULTS)
    assert any(trace["status"] == "kept" for trace in traces)
    replies = read_jsonl(tmp_path / "out" / "replies.jsonl")
    assert {"requester", "responder"} <= {row["role"] for row in replies}
    assert (
        min(row["reply"]["prompt_tokens"] for row in replies if row["role"] == "responder") > 36
    )  # the image came through


def test_mistakes_are_sentences_and_lose_nothing(vllm_server: Any, tmp_path: Path) -> None:
    options = ["--reference", "tiny", "--out", str(tmp_path)]
    other = vllm_server.model.replace("openai:tiny@", "openai:large@")
    assert "`large` does not exist" in run("audit", other, *options, code=1)
    assert not (tmp_path / "served.json").exists()
    # Nothing is left behind that would stop the command with the right name.
    assert json.loads(run("audit", vllm_server.model, *options, "--json"))["verdict"] == "equal"
