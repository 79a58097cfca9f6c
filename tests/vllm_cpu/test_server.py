"""``vllm serve`` on the bundled tiny model, as the tests of this folder share it."""

import json
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.vllm


def test_the_server_knows_the_model(vllm_server: Any, serve: Callable[..., Any]) -> None:
    with urllib.request.urlopen(f"{vllm_server.address}/v1/models", timeout=30) as response:
        (known,) = json.load(response)["data"]
    assert known["id"] == vllm_server.name == "tiny"
    assert known["max_model_len"] == 1024
    assert serve() is vllm_server
