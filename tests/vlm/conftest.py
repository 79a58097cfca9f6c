"""Fixtures of the tests of ``vlm``."""

from collections.abc import Iterator

import pytest
from scripted_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
