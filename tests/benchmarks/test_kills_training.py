"""Three kills in every stage that trains, and the result of an uninterrupted run: `make test-slow`."""

import pytest

from benchmarks.kills import Benchmark

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return Benchmark(tmp_path_factory.mktemp("kills"), kills=3, seed=0)


@pytest.mark.parametrize("stage", ["sft", "grpo", "improve"])
def test_three_kills_change_nothing(stage: str, benchmark: Benchmark) -> None:
    row = benchmark.run(stage)
    assert row["differences"] == row["orphans"] == []
    assert row["sigkill"] + row["sigterm"] == 3
