"""What evaluation costs: ``python benchmarks/eval.py [--quick] [--json] [--model M]``.

``generation_share``: responses a second of the harness (images read, answers graded, a row of each on disk) over those of
plain batched ``generate`` on the same prompts and images, in batches of the same size; interleaved batch by batch in one
process, median of the paired ratios (``generation_share_cpu``: the same in processor time, for a machine that is shared).
``audit_seconds``: wall time of an audit with its default measures on ``audit_n`` problems and the sizes of all measures scaled
alike, projected to 300 problems; without drawing the images. ``audit_rss_gb``: peak memory of this process.
``forwards_a_batch``: forwards that the forward-only measures (attention maps, VDM, patch masking) took.

The last line is one JSON object (benchmarks/README.md names its figures). Exit code 1 if a figure that must hold does not.
"""

import argparse
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.reporting import report, surroundings  # noqa: E402
from data_construction.sources import LEARNED, write_set  # noqa: E402
from data_construction.sources.audit_sets import AUDIT_SIZE, SHIFT_SIZE  # noqa: E402
from eval.audit import AuditConfig, run_audit  # noqa: E402
from eval.forward import forward_measures  # noqa: E402
from eval.runner import answer_problems, open_images  # noqa: E402
from eval.subjects import LocalSubject  # noqa: E402
from vlm.attention import AttentionMass  # noqa: E402
from vlm.chat import question_messages  # noqa: E402
from vlm.generate import generate  # noqa: E402
from vlm.load import load_vlm  # noqa: E402
from vlm.problem import Problem, read_problems  # noqa: E402

BATCH, TOKENS = 64, 256
MUST_HOLD = {
    "generation_share": lambda share: share >= 0.90,
    "audit_seconds": lambda seconds: seconds <= 480,
    "audit_n": lambda n: n >= 40,
    "audit_rss_gb": lambda memory: memory <= 3,
    "forwards_a_batch": lambda count: count <= 4,
}


def generation_share(subject: LocalSubject, problems: list[Problem], runs: int, folder: Path) -> dict[str, float]:
    """See the module's docstring. A pair is one batch under both; the order alternates."""
    # The harness batches problems of like length; plain generate gets the same batches, so only the harness differs.
    order = sorted(problems, key=lambda problem: (problem.family, len(problem.question), problem.id))
    batches = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]

    def plain(batch: list[Problem], _: Path) -> None:
        messages = [question_messages(problem.question, 1, "think", problem.choices) for problem in batch]
        images = [open_images(problem) for problem in batch]
        generate(subject.vlm, messages, images, max_new_tokens=TOKENS, batch_size=BATCH)

    def harness(batch: list[Problem], log: Path) -> None:
        settings: dict[str, Any] = {"max_new_tokens": TOKENS, "batch_size": BATCH}
        answer_problems(subject, batch, style="think", log_path=log, tag="main", **settings)

    wall, cpu = [], []
    for run in range(runs + 1):
        for number, batch in enumerate(batches):
            spent: dict[str, tuple[float, float]] = {}
            pair = [plain, harness] if (run + number) % 2 else [harness, plain]
            for work in pair:
                started = time.perf_counter(), time.process_time()
                work(batch, folder / f"run-{run}-{number}.jsonl")
                spent[work.__name__] = time.perf_counter() - started[0], time.process_time() - started[1]
            if run:  # the first round warms up
                wall.append(spent["plain"][0] / spent["harness"][0])
                cpu.append(spent["plain"][1] / spent["harness"][1])
    return {
        "generation_share": round(statistics.median(wall), 4),
        "generation_share_cpu": round(statistics.median(cpu), 4),
    }


def forwards_a_batch(subject: LocalSubject, problems: list[Problem], folder: Path) -> int:
    """Forwards of the model that the forward-only measures take for one batch of responses."""
    asked = problems[:8]
    rows = answer_problems(
        subject, asked, style="think", log_path=folder / "f.jsonl", tag="main", max_new_tokens=TOKENS
    )
    # Truncated or short responses would be skipped, so all are marked as complete.
    answers = {row.problem_id: row.model_copy(update={"truncated": False, "tokens": 8}) for row in rows}
    # The comparison with and without the probe runs once per model, so it must not count for this batch.
    with AttentionMass(subject.vlm.model):
        pass
    counted = []
    hook = subject.vlm.model.register_forward_hook(lambda *_: counted.append(1))
    try:
        found = forward_measures(subject.vlm, asked, answers, folder / "forward.jsonl", style="think", batch_size=8)
    finally:
        hook.remove()
    if not found["rows"]:
        raise SystemExit("no response could be read again")
    return len(counted)


def scaled(n: int) -> AuditConfig:
    """The default audit with all sizes times n / 300."""
    default, part = AuditConfig(), n / AUDIT_SIZE
    sizes = ("controls", "hint", "swap", "cutoff", "samples", "forward", "per_shift")
    return AuditConfig(main=n, **{name: round(getattr(default, name) * part) for name in sizes})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs and problems, the same keys")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--model", default="tiny")
    arguments = parser.parse_args()
    audit_n, runs, n = (80, 5, 64) if arguments.quick else (AUDIT_SIZE, 5, 256)
    subject = LocalSubject(load_vlm(arguments.model))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        knobs: dict[str, Any] = {"family_names": list(LEARNED)}
        write_set("scenes,digits", max(audit_n, n), 0, "heldout", folder / "main", counterfactual=True, **knobs)
        shifts = {}
        for change in ("noise", "size", "palette"):
            size = round(SHIFT_SIZE * audit_n / AUDIT_SIZE)
            write_set("scenes,digits", size, 0, "heldout", folder / change, difficulty=f"unseen_{change}", **knobs)
            shifts[change] = read_problems(folder / change)
        problems = read_problems(folder / "main")
        figures |= generation_share(subject, problems[:n], runs, folder)
        figures["forwards_a_batch"] = forwards_a_batch(subject, problems, folder)
        started = time.perf_counter()
        run_audit(
            arguments.model,
            problems[:audit_n],
            folder / "audit",
            config=scaled(audit_n),
            shifts=shifts,
            subject=subject,
        )
        figures["audit_seconds"] = round((time.perf_counter() - started) * AUDIT_SIZE / audit_n, 1)
    figures |= {
        "audit_n": audit_n,
        "audit_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "model": arguments.model,
        "n": n,
        "runs": runs,
        **surroundings(torch.get_num_threads(), "torch", "transformers"),
    }
    return report(figures, MUST_HOLD, arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
