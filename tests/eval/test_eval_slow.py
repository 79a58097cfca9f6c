"""A real server: `make test-slow`. Kills: `tests/benchmarks/test_kills_answers.py`."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.errors import UserError
from data_construction.sources import write_set
from eval.audit import AuditConfig, run_audit
from vlm.load import bundled_model
from vlm.problem import read_problems

pytestmark = pytest.mark.slow

FAMILIES = ["count", "compare", "place", "digit_sum", "claims"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(folder, URL) of the bundled model behind `transformers serve`."""
    pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
    folder = str(shutil.copytree(bundled_model("tiny"), tmp_path_factory.mktemp("served") / "tiny"))
    # Without do_sample in the model's own generation_config this server is greedy at any temperature.
    settings = Path(folder) / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_sample": True}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(sys.executable).with_name("transformers")
    command = [str(script), "serve", folder, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    command += ["--dtype", "float32"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.5)
        yield folder, f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def test_a_served_model_agrees_with_the_white_box(server: tuple[str, str], tmp_path: Path) -> None:
    folder, url = server
    write_set("scenes,digits", 40, 5, "heldout", tmp_path / "set", family_names=FAMILIES, counterfactual=True)
    problems = read_problems(tmp_path / "set")
    config = AuditConfig(samples=20, forward=0, cutoff=0, max_new_tokens=96)
    white = run_audit(folder, problems, tmp_path / "white", config=config)
    try:
        black = run_audit(f"openai:{folder}@{url}", problems, tmp_path / "black", config=config)
    except UserError as error:
        pytest.fail(f"the server refused: {error}")
    assert black["box"] == "black" and "swap_by_turn" in black["measures"]

    def of(report: dict[str, Any], *path: str) -> float:
        found = report
        for key in path:
            found = found[key]
        return found["value"]  # type: ignore[return-value]

    shared = [("accuracy",), ("measures", "hint", "follow_rate")]
    shared += [("measures", name, "accuracy") for name in ("blank", "noise", "wrong_picture")]
    for path in shared:  # greedy on both sides: rounding may turn a single answer of 40
        assert of(black, *path) == pytest.approx(of(white, *path), abs=1.5 / 40), path
    # Sampled with other random numbers: within the noise of 20 problems.
    agreement = ("measures", "self_consistency", "agreement")
    assert of(black, *agreement) == pytest.approx(of(white, *agreement), abs=0.2)
