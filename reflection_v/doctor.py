"""``reflection-v doctor``: this machine, its packages against the tested ones, what the stages would choose, and problems.

The choices are made by the same functions as in a run. No heavy library is imported before it is examined, and a failing
import is reported, so that the command also works in a broken environment: ``python -m reflection_v.doctor`` needs only the
standard library.
"""

import argparse
import contextlib
import importlib
import json
import os
import platform
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

from configs import bundled_config, machine, versions
from configs.errors import UserError, memory_error
from vlm.hub import why_not_writable

GB = 1e9
NEEDED_DISK_GB = 0.6
"""Size of the files that ``make run`` writes."""
NEEDED_MEMORY_GB = 5.0
"""Peak memory of ``make run``."""
CROWDED = 0.5
"""If a smaller share of a GPU's memory is free, another process uses it."""


class Examination:
    """The findings by part; ``errors`` prevent the main job, ``warnings`` do not."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.environment = dict(os.environ)  # as the user set it, since libraries add to it on import
        self.broken: set[str] = set()
        """Modules that cannot be imported. Parts that need them are skipped."""

    def add(self, name: str, examine_part: Callable[["Examination"], Any]) -> None:
        """Examine one part. An exception becomes an error of the report, since a crash would hide the other parts."""
        self.found[name] = None
        with self.noted(f"'{name}' could not be examined"):
            self.found[name] = examine_part(self)

    @contextlib.contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Report an exception as an error that begins with ``what``."""
        try:
            yield
        except UserError as error:
            self.errors.append(str(error))
        except Exception as error:
            full = memory_error(error, what)
            self.errors.append(str(full) if full is not None else f"{what} ({first_line(error)})")

    def as_json(self) -> dict[str, Any]:
        """One object: ``ok``, ``errors``, ``warnings``, and each part under its name."""
        return {"ok": not self.errors, "errors": self.errors, "warnings": self.warnings, **self.found}


def first_line(error: object) -> str:
    """The type and the first line of an exception or a warning."""
    line = (str(error).strip().splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def look_at_python(exam: Examination) -> dict[str, Any]:
    try:
        needed = str(metadata(versions.PROJECT)["Requires-Python"])
        installed: str | None = version(versions.PROJECT)
    except PackageNotFoundError:
        needed, installed = ">=3.11", None
        exam.warnings.append(
            f"The project is not installed here, so its tested ranges are not known: {versions.install_command()}"
        )
    fits = True
    with contextlib.suppress(ImportError):
        from packaging.specifiers import SpecifierSet

        fits = SpecifierSet(needed).contains(platform.python_version(), prereleases=True)
    if not fits:
        exam.errors.append(
            f"Python {platform.python_version()} is not {needed}: create the environment again with another version, for example "
            "PYTHON=python3.11 make install"
        )
    return {"version": platform.python_version(), "needed": needed, "executable": sys.executable, "project": installed}


def look_at_machine(exam: Examination) -> dict[str, Any]:
    processor = machine.processor()
    free = None
    with contextlib.suppress(ImportError):
        import psutil  # comes with accelerate

        free = round(psutil.virtual_memory().available / GB, 1)
        if free < NEEDED_MEMORY_GB:
            exam.warnings.append(
                f"{free} GB of memory are free, and make run needs up to {NEEDED_MEMORY_GB:g}: close other programs."
            )
    return {
        "system": platform.platform(terse=True),
        "processor": processor.name,
        "architecture": processor.architecture,
        "instructions": list(processor.instructions),
        "limit": processor.limit,
        "cores": machine.usable_cores(),
        "free_memory_gb": free,
    }


def look_at_packages(exam: Examination) -> list[dict[str, Any]]:
    """Every core package is imported; of installed packages of extras only the version is compared."""
    outside = {finding.package: finding for finding in versions.outside_range(every=True)}
    rows = []
    for one in versions.declared():
        core = versions.CORE in one.extras
        try:
            installed: str | None = version(one.package)
        except PackageNotFoundError:
            installed = None
        if installed is None and not core:
            continue  # listed by ``look_at_extras``
        finding = outside.get(one.package)
        state: str = "missing" if installed is None else finding.side if finding is not None else "tested"
        if finding is not None:
            exam.warnings.append(f"{finding}.")
        if installed is None:
            exam.broken.add(one.module)
            exam.errors.append(f"The package {one.package} is not installed: {versions.install_command()}")
        elif core and not exam.broken & {"torch"} and (reason := why_not_imported(one.module)) is not None:
            # Without torch most others fail, too; one error is enough.
            state = "broken"
            exam.broken.add(one.module)
            exam.errors.append(f"{one.package} {installed} cannot be imported ({reason}): {versions.install_command()}")
        rows.append(
            {
                "package": one.package,
                "installed": installed,
                "tested": versions.tested_range(one),
                "state": state,
                "extras": [extra for extra in one.extras if extra != versions.CORE],
            }
        )
    if not rows:  # the project is not installed: check the two packages that all others need
        for module in ("torch", "transformers"):
            if (reason := why_not_imported(module)) is not None:
                exam.broken.add(module)
                exam.errors.append(f"{module} cannot be imported ({reason}): {versions.install_command()}")
    return rows


def why_not_imported(module: str) -> str | None:
    """Import a module; returns the reason if this fails with any exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:
        return first_line(error)
    return None


def look_at_extras(exam: Examination) -> dict[str, Any]:
    with contextlib.suppress(PackageNotFoundError):
        names = metadata(versions.PROJECT).get_all("Provides-Extra") or []
        return {
            name: {"missing": versions.missing(name), "install": versions.install_command(name)}
            for name in sorted(names)
        }
    return {}


def look_at_gpus(exam: Examination) -> list[dict[str, Any]]:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if caught:
            exam.warnings.append(
                f"torch {torch.__version__} cannot use the GPU ({first_line(caught[0].message)}): update the driver, or "
                "install a torch build that fits it."
            )
        elif shutil.which("nvidia-smi") is not None and hidden is None:
            exam.warnings.append(
                f"nvidia-smi is installed, but torch {torch.__version__} finds no GPU: install a torch build for CUDA."
            )
        return []
    rows = []
    for index in range(torch.cuda.device_count()):
        row: dict[str, Any] = {"index": index, "name": torch.cuda.get_device_name(index), "free_gb": None}
        row["total_gb"] = round(torch.cuda.get_device_properties(index).total_memory / GB, 1)
        rows.append(row)
        try:
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:  # the GPU has no memory for a context, or is in exclusive use
            exam.warnings.append(
                f"GPU {index} cannot be used ({first_line(error)}): choose another with CUDA_VISIBLE_DEVICES."
            )
            continue
        row["free_gb"] = round(free / GB, 1)
        if free < CROWDED * total:
            exam.warnings.append(
                f"GPU {index} has {free / GB:.1f} of {total / GB:.0f} GB free: another process uses it; choose another with "
                "CUDA_VISIBLE_DEVICES, or end that process."
            )
    return rows


def look_at_choices(exam: Examination) -> dict[str, Any]:
    """What the stages of the main job would choose here, decided by the same functions as in a run."""
    import torch

    found: dict[str, Any] = {}
    from vlm.asking import load_for_asking

    with exam.noted("The bundled model cannot be used"):
        from vlm.attention_trial import try_attention

        model: Any = load_for_asking("tiny")
        found["device"] = str(model.device)
        found |= {"threads": torch.get_num_threads(), "data_workers_at_most": machine.cores_a_rank()}
        found["attention"] = try_attention(model)
        found["precision"] = {"ask": str(model.model.dtype).removeprefix("torch.") + " weights"}
    with exam.noted("The workers that read answers cannot be counted"):
        from reward.worker import cores

        found["answer_workers"] = cores()
    from configs.processes import as_one_process, refuse_several

    with exam.noted("The variables of a launcher cannot be read"):
        refuse_several("reflection-v run")
    with exam.noted("The stages of the main job cannot be prepared"), as_one_process():
        from configs.run_config import load_run_config
        from reflection_v.stages import Pipeline
        from train.grpo import load_grpo
        from train.sft import load_sft

        # In a folder that does not exist, since an existing run would keep its recorded precision.
        pipeline = Pipeline(load_run_config(bundled_config()), Path(tempfile.gettempdir()) / "no-run-of-doctor")
        precision = found.setdefault("precision", {})
        precision["build"] = f"{pipeline.build_config.dtype} weights"
        for name, load in (("sft", load_sft), ("grpo", load_grpo)):
            stage = load(getattr(pipeline.config, name), pipeline.own_keys[name])
            precision[name] = f"{stage.options.dtype} weights, {str(stage.precision).removeprefix('precision: ')}"
        _, measured = pipeline.check_eval()
        precision["eval"] = f"{measured.dtype} weights"
    return found


def look_at_speed(exam: Examination) -> dict[str, Any]:
    """Time the same training step in float32 and in bfloat16, for one second, on the device of the stages."""
    import torch

    device = torch.device((exam.found.get("choices") or {}).get("device", "cpu")).type
    ratio = machine.measure_bfloat16(seconds=1.0, device_type=device)
    return {
        "device": device,
        "float32_ms": round(ratio.float32 * 1000, 3),
        "bfloat16_ms": round(ratio.bfloat16 * 1000, 3),
        "ratio": round(ratio.value, 2),
        "bfloat16_is_fast": machine.bfloat16_is_fast(device),
    }


def look_at_torch(exam: Examination) -> dict[str, Any]:
    """Whether torch can multiply matrices. The entries are integers, so that the product is exact."""
    import torch

    devices: dict[str, bool] = {}
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        rows = torch.arange(64, dtype=torch.float32).reshape(8, 8)
        wanted = [
            [sum(a * b for a, b in zip(one, other, strict=True)) for other in rows.tolist()] for one in rows.tolist()
        ]
        remedy = versions.install_command() if device == "cpu" else "set CUDA_VISIBLE_DEVICES= to use the CPU"
        devices[device] = False
        try:
            devices[device] = (rows.to(device) @ rows.to(device).T).tolist() == wanted
            reason = "an incorrect product"
        except Exception as error:
            reason = first_line(error)
        if not devices[device]:
            exam.errors.append(f"torch cannot multiply on {device} ({reason}): {remedy}")
    return {"version": torch.__version__, "works_on": devices}


def look_at_disk(exam: Examination) -> dict[str, Any]:
    folder = Path("runs").absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / GB
    if (why := why_not_writable(folder)) is not None:
        exam.errors.append(
            f"{folder} cannot be written ({why}): change to a writable folder, or give reflection-v run another --out."
        )
    if free < NEEDED_DISK_GB:
        exam.errors.append(
            f"The disk of {existing} has {free:.2f} GB free, and make run needs {NEEDED_DISK_GB}: free some space, or give "
            "reflection-v run an --out on another disk."
        )
    return {"folder": str(folder), "free_gb": round(free, 2), "needed_gb": NEEDED_DISK_GB, "writable": why is None}


def look_at_caches(exam: Examination) -> dict[str, Any]:
    """The folders that libraries write to. The main job only needs the temporary one; for the others there is a warning."""
    try:
        temporary = tempfile.gettempdir()
    except OSError as error:
        exam.errors.append(
            f"No folder for temporary files is writable ({first_line(error)}): set TMPDIR to a writable folder."
        )
        temporary = ""
    home = os.path.expanduser("~")
    base = exam.environment.get("XDG_CONFIG_HOME", f"{home}/.config")
    places = {"matplotlib": ("MPLCONFIGDIR", exam.environment.get("MPLCONFIGDIR", f"{base}/matplotlib"))}
    with contextlib.suppress(ImportError):
        from huggingface_hub.constants import HF_HOME

        places["models and data sets"] = ("HF_HOME", HF_HOME)
    if exam.found.get("gpus"):
        places["triton"] = ("TRITON_CACHE_DIR", exam.environment.get("TRITON_CACHE_DIR", f"{home}/.triton/cache"))
    found = {"temporary": {"folder": temporary, "writable": bool(temporary)}}
    for name, (variable, folder) in places.items():
        why = why_not_writable(folder)
        found[name] = {"folder": folder, "writable": why is None}
        if why is not None:
            exam.warnings.append(f"The cache {folder} cannot be written ({why}): set {variable} to a writable folder.")
    return found


PARTS: dict[str, tuple[Callable[[Examination], Any], tuple[str, ...]]] = {
    "python": (look_at_python, ()),
    "machine": (look_at_machine, ()),
    "packages": (look_at_packages, ()),
    "extras": (look_at_extras, ()),
    "gpus": (look_at_gpus, ("torch",)),
    "torch": (look_at_torch, ("torch",)),
    "choices": (look_at_choices, ("torch", "transformers")),
    "speed": (look_at_speed, ("torch",)),
    "disk": (look_at_disk, ()),
    "caches": (look_at_caches, ()),
}
"""The parts in order, each with the modules that it needs."""


def examine() -> Examination:
    """Examine all parts. Most of the time goes into importing the libraries and loading the bundled model."""
    exam = Examination()
    for name, (examine_part, needed) in PARTS.items():
        if exam.broken & set(needed):
            exam.found[name] = None  # the errors already name the failed import
        else:
            exam.add(name, examine_part)
    return exam


def run_doctor(as_json: bool = False) -> int:
    """Examine and print; returns the exit code, 1 if the main job, ``reflection-v run``, cannot run."""
    with contextlib.redirect_stdout(sys.stderr):  # libraries print while they are imported
        exam = examine()
    if as_json:
        print(json.dumps(exam.as_json(), ensure_ascii=False))
    else:
        from reflection_v.doctor_report import show

        show(exam.as_json())
    return 1 if exam.errors else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m reflection_v.doctor", description="Examine this machine.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return run_doctor(parser.parse_args(argv).json)


if __name__ == "__main__":
    sys.exit(main())
