"""Ten thousand problems with images before and at the start of training: ``python benchmarks/data.py [--quick] [--json]``.

``check_seconds``: ``reflection-v grpo CONFIG --check`` from the shell, every image opened. ``first_batch_seconds``: from a
loaded model to the first batch of the trainer (problems read and filtered, trainer built, images of a step opened).
``memory_growth``: resident memory of this process after the last batch of an epoch, divided by that after the tenth, minus 1.
The set is drawn once, into --out. The last line is one JSON object; the exit code is 1 if a figure misses its limit.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402
import torch  # noqa: E402

from benchmarks.reporting import report, surroundings  # noqa: E402
from data_construction.sources import write_set  # noqa: E402
from train.grpo import load_grpo, usable  # noqa: E402
from train.grpo_trainer import VisualGRPOTrainer  # noqa: E402
from train.launch import load_for_training, quiet  # noqa: E402
from vlm.images import open_image  # noqa: E402
from vlm.problem import read_problems  # noqa: E402

CONFIG = ROOT / "configs" / "tiny" / "grpo.yaml"
MUST_HOLD = {
    "check_seconds": lambda seconds: seconds <= 60,
    "first_batch_seconds": lambda seconds: seconds <= 5,
    "memory_growth": lambda growth: growth <= 0.10,
}


def check_seconds(problems: Path, folder: Path) -> float:
    command = [sys.executable, "-m", "reflection_v.cli", "grpo", str(CONFIG), "--problems", str(problems), "--check"]
    began = time.perf_counter()
    done = subprocess.run([*command, "--model", "tiny", "--out", str(folder)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"--check found: {done.stdout}{done.stderr}")
    return time.perf_counter() - began


def batches(problems: Path, folder: Path) -> dict[str, float]:
    keys = {"model": "tiny", "problems": str(problems), "output_dir": str(folder), "seed": 0}
    stage = load_grpo(CONFIG, keys | {"prompt_selection": None, "save_strategy": "no"})
    vlm = load_for_training(stage.options, stage.args)
    process, sizes = psutil.Process(), []
    began = time.perf_counter()
    kept, _ = usable(read_problems(problems), vlm, stage.options)
    trainer: Any = VisualGRPOTrainer(vlm, kept, stage.options, stage.args)
    first = None
    for batch in trainer.get_train_dataloader():
        for index in {row["index"] for row in batch}:
            for image in kept[index].images:
                open_image(image)
        first = first or time.perf_counter() - began
        sizes.append(process.memory_info().rss)
    assert first is not None
    growth = sizes[-1] / sizes[min(9, len(sizes) - 1)] - 1
    return {"first_batch_seconds": round(first, 2), "memory_growth": round(growth, 4), "batches": len(sizes)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("runs/data10k"), help="where the set is drawn, once")
    parser.add_argument("--quick", action="store_true", help="2,000 problems")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    options = parser.parse_args()
    n = 2000 if options.quick else options.n
    folder = options.out if n == options.n else options.out.with_name(f"{options.out.name}-{n}")
    if not (folder / "problems.jsonl").exists():
        write_set("scenes,digits", n, 0, "train", folder)
    quiet()
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        figures: dict[str, Any] = {"check_seconds": round(check_seconds(folder.resolve(), Path(scratch) / "check"), 2)}
        figures |= batches(folder.resolve(), Path(scratch) / "run")
    figures |= {
        "n": len(read_problems(folder)),
        **surroundings(torch.get_num_threads(), "torch", "transformers", "trl"),
    }
    return report(figures, MUST_HOLD, options.json)


if __name__ == "__main__":
    sys.exit(main())
