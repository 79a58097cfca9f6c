"""This machine's cores, processor, and speed in bfloat16. Only this module asks for them.

Nothing here fails on an unknown platform: a measurement decides, or the safe choice (float32, one core). torch is imported
inside the functions that need it.
"""

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

BFLOAT16_ON_X86 = ("avx512_bf16", "amx_bf16")
"""Instruction sets that multiply bfloat16. With AVX-512 only, oneDNN converts to float32 first, which is slower than float32."""

# Names of the relevant instruction sets in Linux's /proc/cpuinfo, macOS's sysctl and torch.cpu, mapped to one name.
NAMES = {
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512_f": "avx512f",
    "avx512_bf16": "avx512_bf16",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "neon": "neon",
    "sve": "sve",
    "bf16": "bf16",
    "feat_bf16": "bf16",
}
ORDER = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon", "sve", "bf16")
X86_LEVELS = {"avx2": 1, "avx512f": 2, "avx512_bf16": 3, "amx_bf16": 4}
# Limits on oneDNN and ATen by environment variables, as the highest level of X86_LEVELS that is still allowed.
ONEDNN_LEVELS = {
    "SSE41": 0,
    "AVX": 0,
    "AVX2": 1,
    "AVX2_VNNI": 1,
    "AVX2_VNNI_2": 1,
    "AVX512_CORE": 2,
    "AVX512_CORE_VNNI": 2,
    "AVX512_CORE_BF16": 3,
    "AVX512_CORE_FP16": 3,
}
ATEN_LEVELS = {"default": 0, "avx2": 1}


@dataclass(frozen=True)
class Processor:
    """The processor as torch uses it.

    Attributes:
        name: the system's name for it.
        architecture: ``x86_64``, ``arm64``, ...
        instructions: those of ``ORDER`` that it has and that the environment allows; empty if unknown.
        limit: the environment variable that limits torch, as ``NAME=VALUE``; None if there is none.
    """

    name: str
    architecture: str
    instructions: tuple[str, ...]
    limit: str | None = None

    def __str__(self) -> str:
        sets = ", ".join(self.instructions) or "instruction sets unknown"
        return f"{self.name} ({sets}{f', held down by {self.limit}' if self.limit else ''})"


@dataclass(frozen=True)
class Ratio:
    """Seconds of one training step of a linear layer, in float32 and under bfloat16 autocast."""

    float32: float
    bfloat16: float

    @property
    def value(self) -> float:
        """The time of bfloat16 divided by that of float32; above 1, bfloat16 is slower."""
        return self.bfloat16 / self.float32


def usable_cores() -> int:
    """The number of cores that this process may use, by its affinity, a container's CPU quota, and the machine; at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no such call
        cores = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    quota = _cpu_quota()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cores_a_rank() -> int:
    """``usable_cores`` divided by the number of processes that a launcher started on this machine; at least 1."""
    # torchrun and accelerate set LOCAL_WORLD_SIZE, DeepSpeed's launcher sets LOCAL_SIZE.
    ranks = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
    return max(1, usable_cores() // max(1, int(ranks) if ranks.isdigit() else 1))


def limit_threads() -> int:
    """Limit torch's threads to the cores of this process; returns the number of threads.

    torch knows neither a container's quota nor the other ranks on this machine, and more threads than cores slow each other
    down. A number that the user set by ``OMP_NUM_THREADS`` stays, and so does a lower number that was set before.
    """
    import torch

    if not os.environ.get("OMP_NUM_THREADS") and torch.get_num_threads() > cores_a_rank():
        torch.set_num_threads(cores_a_rank())
    return torch.get_num_threads()


def processor() -> Processor:
    """The processor of this machine."""
    found = {NAMES[flag] for flag in _flags() if flag in NAMES}
    level, limit = _limit()
    allowed = tuple(name for name in ORDER if name in found and X86_LEVELS.get(name, 0) <= level)
    if not found & X86_LEVELS.keys():
        limit = None
    return Processor(_name(), platform.machine() or "unknown", allowed, limit)


def bfloat16_is_fast(device_type: str) -> bool:
    """Whether bfloat16 autocast is faster than float32 on a device of this type (``cpu``, ``cuda``, ...).

    CPU: if it multiplies bfloat16 and torch's kernels use that; if this is unknown, a measurement decides. CUDA: compute
    capability 8.0 or later, or ROCm. XPU: torch's answer. Others, such as MPS: no, since they were not measured for this
    project; set ``precision: bfloat16`` to use it there.
    """
    import torch

    if device_type == "cpu":
        return _fast_on_cpu()
    if device_type in ("cuda", "xpu"):
        backend = getattr(torch, device_type, None)
        try:
            return bool(backend.is_available() and backend.is_bf16_supported(including_emulation=False))  # type: ignore[union-attr]
        except (AttributeError, TypeError):  # this release of torch cannot tell
            return False
    return False


def _fast_on_cpu() -> bool:
    instructions = processor().instructions
    kernels = _onednn_takes_bfloat16()
    if not instructions or kernels is None:
        return measure_bfloat16().value < 1
    # oneDNN also reports support if it only converts (AVX-512 without bf16), so the processor must support it too.
    return kernels and ("bf16" in instructions or any(name in instructions for name in BFLOAT16_ON_X86))


def _onednn_takes_bfloat16() -> bool | None:
    """Whether torch reports bfloat16 kernels of oneDNN; None if this release of torch cannot tell."""
    import torch

    if (
        not torch.backends.mkldnn.is_available()
    ):  # as on macOS, where a plain loop competes with a tuned float32 library
        return False
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a private call, which may be removed
        return None


def measure_bfloat16(seconds: float = 0.4, device_type: str = "cpu") -> Ratio:
    """Time a training step of a linear layer in float32 and under bfloat16 autocast, alternating, for about ``seconds``.

    The number of threads and the random state do not change.
    """
    import torch

    device = torch.device(device_type)
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(512, 512, generator=source).to(device).requires_grad_()
    rows = torch.randn(256, 512, generator=source).to(device)

    def step(autocast: bool) -> float:
        began = time.perf_counter()
        with torch.autocast(device_type, torch.bfloat16, enabled=autocast):
            out = torch.nn.functional.linear(rows, weight)
        torch.autograd.grad(out.float().square().mean(), weight)
        if device_type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - began

    with torch.enable_grad():
        step(False), step(True)  # warm-up: the first steps also start threads and select kernels
        end, times = time.perf_counter() + seconds, [(step(False), step(True))]
        while len(times) < 3 or time.perf_counter() < end:
            times.append((step(False), step(True)))
    float32, bfloat16 = (statistics.median(column) for column in zip(*times, strict=True))
    return Ratio(float32, bfloat16)


def _limit() -> tuple[int, str | None]:
    """The highest level of ``X86_LEVELS`` that the environment allows, and the variable that sets it."""
    limits = [
        (ONEDNN_LEVELS.get(os.environ.get(name, "").upper(), 9), f"{name}={os.environ.get(name)}")
        for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    ]
    name = "ATEN_CPU_CAPABILITY"
    limits.append((ATEN_LEVELS.get(os.environ.get(name, "").lower(), 9), f"{name}={os.environ.get(name)}"))
    level, limit = min(limits)
    return level, limit if level < 9 else None


@cache
def _flags() -> frozenset[str]:
    """The system's names for the instruction sets of this processor; empty if unknown."""
    sources: tuple[Callable[[], set[str]], ...] = (_linux_flags, _mac_flags, _torch_flags)
    return next((frozenset(flags) for source in sources if (flags := source())), frozenset())


def _linux_flags() -> set[str]:
    return set(_cpuinfo("flags", "Features").lower().split())  # x86, ARM


def _mac_flags() -> set[str]:
    if sys.platform != "darwin":
        return set()
    flags = set(_sysctl("machdep.cpu.features", "machdep.cpu.leaf7_features").lower().split())
    arm = {"hw.optional.neon": "neon", "hw.optional.AdvSIMD": "neon", "hw.optional.arm.FEAT_BF16": "bf16"}
    return flags | {name for key, name in arm.items() if _sysctl(key) == "1"}


def _torch_flags() -> set[str]:
    import torch

    try:
        return {name for name, there in torch.cpu.get_capabilities().items() if there is True}
    except AttributeError:  # torch before 2.11
        asked: dict[str, Any] = {
            "avx2": getattr(torch.cpu, "_is_avx2_supported", None),
            "avx512f": getattr(torch.cpu, "_is_avx512_supported", None),
            "avx512_bf16": getattr(torch.cpu, "_is_avx512_bf16_supported", None),
            "amx_bf16": getattr(torch.cpu, "_is_amx_tile_supported", None),
        }
        return {name for name, ask in asked.items() if ask is not None and ask()}


def _name() -> str:
    return _cpuinfo("model name") or _sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown processor"


def _cpuinfo(*keys: str) -> str:
    """The value of the first line of /proc/cpuinfo with one of these keys; empty if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), "")


def _sysctl(*keys: str) -> str:
    """macOS: the values of these keys, in one text; empty elsewhere."""
    if sys.platform != "darwin":
        return ""
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", *keys], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return " ".join(done.stdout.split())


def _cpu_quota(groups: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The CPU time that a container may use, in cores (cgroup v2 or v1); None without a limit."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += [_quota_v2(folder) for folder in _upwards(mounted, path)]
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", "cpu,cpuacct"):
                found += [_quota_v1(folder) for folder in _upwards(mounted / mount, path)]
    return min((quota for quota in found if quota is not None), default=None)


def _upwards(mount: Path, path: str) -> list[Path]:
    """The folders of a control group and of its parents: the limit of each applies."""
    folder = mount / path.strip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to(mount))]


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="utf-8"))
        return quota / int((folder / "cpu.cfs_period_us").read_text(encoding="utf-8")) if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
