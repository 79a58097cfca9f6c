"""Commands that take a served model, against a real ``vllm serve``: ask, and the audit of a server against its weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reflection_v.cli import app

pytestmark = pytest.mark.vllm

REPO = Path(__file__).parents[2]


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


def test_ask_with_votes(vllm_server: Any) -> None:
    image = str(REPO / "demo" / "examples" / "count.png")
    question = "Grid of columns A to C, rows 1 to 3. How many blue shapes are there?"
    ask = ["ask", image, question, "--json", "--model"]
    greedy, own = json.loads(run(*ask, vllm_server.model)), json.loads(run(*ask, "tiny"))
    assert greedy["text"] == own["text"] and greedy["answer"] == own["answer"]
    voted = json.loads(run(*ask, vllm_server.model, "--votes", "4"))["votes"]
    assert voted["k"] == 4 and 1 <= sum(voted["counts"].values()) <= 4 and 0 < voted["agreement"] <= 1
