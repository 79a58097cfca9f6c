"""What the machine is: cores under affinity and quota, the processor on systems that say little, and how fast bfloat16 is."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from configs import machine
from configs.machine import Processor, Ratio, bfloat16_is_fast, limit_threads, measure_bfloat16, processor, usable_cores

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_remembered() -> Any:
    machine._flags.cache_clear()
    yield
    machine._flags.cache_clear()


def test_cores_without_the_affinity_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.setattr(machine, "_cpu_quota", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "process_cpu_count", lambda: 6, raising=False)
    assert usable_cores() == 6
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(("quota", "cores"), [(None, 4), (0.5, 1), (2.5, 3), (64.0, 4)])
def test_a_quota_bounds_the_cores(quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr(machine, "_cpu_quota", lambda: quota)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3.0),
        ("0::/a/b\n", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "300000 100000"}, 2.0),
        ("0::/a\n", {"a/cpu.max": "max 100000"}, None),
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        ("3:cpu:/gone\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ("3:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("3:cpuset:/\n", {"cpuset/cpu.max": "100000 100000"}, None),
    ],
)
def test_quotas_of_both_kinds_of_control_groups(
    groups: str, files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert machine._cpu_quota(tmp_path / "groups", tmp_path) == quota
    assert machine._cpu_quota(tmp_path / "absent", tmp_path) is None


@pytest.mark.parametrize("name", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])  # of torchrun, of DeepSpeed's launcher
def test_ranks_of_one_machine_share_its_cores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    for other in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(other, raising=False)
    for ranks, cores in (("1", 8), ("3", 2), ("16", 1), ("", 8)):
        monkeypatch.setenv(name, ranks)
        assert machine.cores_a_rank() == cores


def test_torch_gets_no_more_threads_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores_a_rank", lambda: 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")  # the user's word stands
        assert limit_threads() == torch.get_num_threads() == 3
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert limit_threads() == torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert limit_threads() == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


X86, ZEN4, ARM, ARM_BF16 = ("avx2", "avx512f"), ("avx2", "avx512f", "avx512_bf16"), ("neon",), ("neon", "bf16")


@pytest.mark.parametrize(
    ("instructions", "kernels", "measured", "fast"),
    [
        (("avx2",), False, None, False),
        (X86, True, None, False),  # oneDNN takes bfloat16 there, and converts it
        (ZEN4, True, None, True),
        (ZEN4, False, None, False),
        (("avx2", "amx_bf16"), True, None, True),
        (ARM, False, None, False),
        (ARM_BF16, True, None, True),
        (ARM_BF16, False, None, False),  # macOS: no oneDNN
        ((), True, 0.5, True),  # the system does not say
        ((), True, 3.0, False),
        (ZEN4, None, 0.5, True),  # torch does not say
        (ZEN4, None, 1.5, False),
    ],
)
def test_where_bfloat16_is_fast(
    instructions: tuple[str, ...],
    kernels: bool | None,
    measured: float | None,
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure() -> Ratio:
        assert measured is not None, "measured without need"
        return Ratio(1.0, measured)

    monkeypatch.setattr(machine, "processor", lambda: Processor("one", "arm64", instructions))
    monkeypatch.setattr(machine, "_onednn_takes_bfloat16", lambda: kernels)
    monkeypatch.setattr(machine, "measure_bfloat16", measure)
    assert bfloat16_is_fast("cpu") is fast


def test_a_gpu_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True, native=native: native)
        assert bfloat16_is_fast("cuda") is native
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert not bfloat16_is_fast("cuda") and not bfloat16_is_fast("mps") and not bfloat16_is_fast("some_npu")


def test_a_torch_without_its_private_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: True)
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert machine._onednn_takes_bfloat16() is None
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    assert machine._onednn_takes_bfloat16() is False


ALL = "fpu avx2 avx512f avx512_bf16 amx_bf16"


@pytest.mark.parametrize(
    ("variable", "value", "instructions"),
    [
        (None, "", ("avx2", "avx512f", "avx512_bf16", "amx_bf16")),
        ("ONEDNN_MAX_CPU_ISA", "default", ("avx2", "avx512f", "avx512_bf16", "amx_bf16")),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", ("avx2", "avx512f", "avx512_bf16", "amx_bf16")),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_bf16", ("avx2", "avx512f", "avx512_bf16")),
        ("DNNL_MAX_CPU_ISA", "AVX512_CORE_VNNI", ("avx2", "avx512f")),
        ("ONEDNN_MAX_CPU_ISA", "AVX2", ("avx2",)),
        ("ATEN_CPU_CAPABILITY", "avx2", ("avx2",)),
        ("ATEN_CPU_CAPABILITY", "default", ()),
    ],
)
def test_the_environment_holds_a_processor_down(
    variable: str | None, value: str, instructions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(machine, "_linux_flags", lambda: set(ALL.split()))
    found = processor()
    assert found.instructions == instructions
    assert found.limit == (None if len(instructions) == 4 else f"{variable}={value}")


def test_a_processor_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"machdep.cpu.brand_string": "Apple M2", "hw.optional.AdvSIMD": "1", "hw.optional.arm.FEAT_BF16": "1"}
    monkeypatch.setattr(machine, "_cpuinfo", lambda *keys: "")
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine, "_sysctl", lambda *keys: " ".join(said[key] for key in keys if key in said))
    assert processor().name == "Apple M2" and processor().instructions == ("neon", "bf16")


def test_a_system_that_says_nothing_leaves_torch_to_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows; and where torch does not say it either, nothing fails."""
    monkeypatch.setattr(machine, "_cpuinfo", lambda *keys: "")
    monkeypatch.setattr(machine.sys, "platform", "win32")
    there = {"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False, "l1d_cache_size": 1}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: there, raising=False)
    monkeypatch.setattr(machine, "_limit", lambda: (9, None))
    assert processor().instructions == ("avx2", "avx512f")
    machine._flags.cache_clear()
    monkeypatch.delattr("torch.cpu.get_capabilities")
    for name in ("_is_avx2_supported", "_is_avx512_supported", "_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(f"torch.cpu.{name}", raising=False)
    assert processor().instructions == () and "unknown" in str(processor())


def test_a_measurement_leaves_threads_and_random_numbers_alone() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with torch.no_grad():
        ratio = measure_bfloat16(seconds=0.01)
    assert ratio.float32 > 0 and ratio.bfloat16 > 0 and math.isclose(ratio.value, ratio.bfloat16 / ratio.float32)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)


def test_this_machine_is_asked_without_torch() -> None:
    """The processor and the cores are known before torch is imported, so that a broken torch can be told of."""
    code = "import sys, configs.machine as m; print(m.processor(), m.usable_cores()); assert 'torch' not in sys.modules"
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("only Linux says it in a file")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_an_imitated_small_processor_is_slow_at_bfloat16() -> None:
    small = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": str(ROOT)}
    code = "import configs.machine as m; assert not m.bfloat16_is_fast('cpu'); print(m.processor())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **small}, check=True, capture_output=True, text=True
    )
    assert "avx512" not in done.stdout
