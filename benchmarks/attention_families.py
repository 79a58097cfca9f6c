"""Compares the attention probe with eager attention, family by family: ``python benchmarks/attention_families.py [NAME ...]``.

For each tiny model of ``benchmarks/families``: the largest difference of the mass of a head to eager attention
(``output_attentions=True``), over the image columns of the layers that the probe measures. Forwards with padding on either
side, with images of unequal sizes, with sequences without image, without mask, of one row alone; and a sampled generation whose
sequences end at different steps, against one eager forward over what it wrote. Logits and sampled tokens must be those without the
probe.

``--write`` puts the table into docs/attention.md. The last line is one JSON object. Exit code 1 if a figure that must hold does not.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from transformers import LogitsProcessor, PreTrainedModel  # noqa: E402

from benchmarks.families import EOS, FAMILIES, IMAGE, Family  # noqa: E402
from benchmarks.reporting import report, surroundings  # noqa: E402
from configs.errors import UserError  # noqa: E402
from vlm.attention import AttentionMass  # noqa: E402
from vlm.attention_traits import attention_traits  # noqa: E402

DOCS = ROOT / "docs" / "attention.md"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
BOUND = 1e-5

Layout = tuple[list[list[int]], list[int], str]
"""Images (their size codes), further words, and the side of the padding."""
FORWARDS: dict[str, Layout] = {
    "left padding": ([[0, 1, 2], [1], []], [3, 9, 5], "left"),
    "right padding": ([[2], [], [1, 0, 2]], [9, 3, 5], "right"),
    "no image": ([[], []], [3, 9], "left"),
    "no mask": ([[2, 0]], [9], "left"),
    "one row": ([[0, 1, 2], [2]], [1, 4], "left"),
}
GENERATED: Layout = ([[0, 1, 2], [2], []], [3, 9, 5], "left")
# For families that transformers computes otherwise where they are padded on the left.
GENERATED_WITHOUT_PADDING: Layout = ([[0, 1, 2], [2, 0, 1], [1, 2, 0]], [5, 5, 5], "right")
# Steps at which the sequences of the generation end; more than the windows of the sliding layers.
ENDS = (3, 7, 11)


@dataclass
class Measurement:
    """What the probe measures of one family, and how far it is from eager attention.

    Attributes:
        layers: the numbers of the measured layers.
        kinds: the kind of each layer of the model.
        forward_errors: the largest difference in each kind of forward.
        changed: what differed from the same run without the probe; empty if nothing did.
        refusal: the error of the probe, where it does not measure the family.
        pads_left: whether sequences were padded on the left, too.
    """

    name: str
    layers: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    forward_errors: dict[str, float] = field(default_factory=dict)
    generation_error: float | None = None
    changed: list[str] = field(default_factory=list)
    refusal: str | None = None
    pads_left: bool = True

    @property
    def forward_error(self) -> float | None:
        return max(self.forward_errors.values(), default=None)

    @property
    def holds(self) -> bool:
        """Whether the probe is exact here, or refuses the family."""
        if self.refusal is not None:
            return True
        errors = [*self.forward_errors.values(), self.generation_error]
        return not self.changed and all(error is not None and error <= BOUND for error in errors)


class EndAt(LogitsProcessor):
    """Ends each sequence at a step of its own, and never before it."""

    def __init__(self, prompt: int, steps: tuple[int, ...]) -> None:
        self.prompt, self.steps = prompt, steps

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        step = input_ids.shape[1] - self.prompt + 1
        scores = scores.clone()  # type: ignore[assignment]
        scores[:, EOS] = -torch.inf
        for row, last in enumerate(self.steps):
            if step == last:
                scores[row] = -torch.inf
                scores[row, EOS] = 0
        return scores


@torch.no_grad()
def measure(family: Family) -> Measurement:
    """Run every comparison on ``family``. A family that the probe refuses has only its ``refusal``."""
    result = Measurement(family.name, pads_left=family.pads_left)
    try:
        with AttentionMass(family.model, "all") as probe:  # entered once, so that a refusal comes before the work
            pass
        result.layers, result.kinds = probe.layers, [layer.kind for layer in probe.traits.layers]
        for name, layout in FORWARDS.items():
            result.forward_errors[name] = _forward_error(family, name, layout, result)
        result.generation_error = _generation_error(family, result)
    except UserError as error:
        result.refusal = str(error)
    return result


def eager_mass(model: PreTrainedModel, batch: dict[str, Any], layers: list[int]) -> torch.Tensor:
    """The mass by definition: eager maps of ``layers``, summed over the image columns; (layers, batch, heads, rows).

    Where the layers have unequal numbers of heads, it is the mean over the heads: (layers, batch, 1, rows).
    """
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    before = [config._attn_implementation for config in configs]
    model.set_attn_implementation("eager")
    try:
        maps = [one for one in model(**batch, output_attentions=True).attentions if one is not None]
    finally:
        # A part without sdpa, such as Gemma 2, was eager before. The whole comes first: setting it sets its parts.
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation = implementation
    traits = attention_traits(model)
    # Layers without a softmax have no map, and many families leave their places out.
    numbers = range(len(maps)) if len(maps) == len(traits.layers) else traits.measured
    by_layer = dict(zip(numbers, maps, strict=True))
    columns = (batch["input_ids"] == IMAGE)[:, None, None]
    masses = [(by_layer[layer].float() * columns).sum(-1) for layer in layers]
    if len({mass.shape[1] for mass in masses}) > 1:
        masses = [mass.mean(1, keepdim=True) for mass in masses]
    return torch.stack(masses)


def _probed(probe: AttentionMass) -> torch.Tensor:
    """What the probe recorded, shaped as ``eager_mass``."""
    return probe.mass[:, :, None] if probe.head_mass is None else probe.head_mass


def _forward_error(family: Family, name: str, layout: Layout, result: Measurement) -> float:
    images, lengths, side = layout
    model, batch = family.model, family.batch(images, lengths, side if family.pads_left else "right")
    rows = 1 if name == "one row" else None
    real = batch["attention_mask"].bool()
    if name == "no mask":
        del batch["attention_mask"]
    wanted = eager_mass(model, batch, result.layers)
    stock = model(**batch).logits
    with AttentionMass(model, "all", rows=rows, per_head=wanted.shape[2] > 1, per_token=True) as probe:
        logits = model(**batch).logits
    if not torch.equal(logits, stock):
        result.changed.append(f"logits ({name})")
    mass, tokens = _probed(probe), probe.token_mass
    assert tokens is not None
    wanted, real = wanted[..., -mass.shape[-1] :], real[:, -mass.shape[-1] :]
    if not torch.equal(mass.isnan().any(2).any(0), ~real):
        result.changed.append(f"padding rows ({name})")
    return max(
        _largest((mass - wanted).transpose(2, 3)[:, real]),
        _largest((probe.mass - wanted.mean(2))[:, real]),
        _largest((tokens.nan_to_num(0).sum(-1) - wanted.mean(2))[:, real]),
    )


def _generation_error(family: Family, result: Measurement) -> float:
    model, batch = family.model, family.batch(*(GENERATED if family.pads_left else GENERATED_WITHOUT_PADDING))
    prompt = batch["input_ids"].shape[1]
    settings = {
        "max_new_tokens": max(ENDS),
        "do_sample": True,
        "logits_processor": [EndAt(prompt, ENDS)],
        "eos_token_id": EOS,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    stock = model.generate(**batch, **settings)  # type: ignore[operator]
    # One forward over prompt and response. No image token is sampled, so the columns are the prompt's.
    wanted = eager_mass(model, family.more(batch, stock), result.layers)
    torch.manual_seed(0)
    with AttentionMass(model, "all", per_head=wanted.shape[2] > 1) as probe:
        written = model.generate(**batch, **settings)  # type: ignore[operator]
    if not torch.equal(written, stock):
        result.changed.append("sampled tokens")
    mass = _probed(probe)
    errors = [
        # Row 0 is the prompt's last, which predicts the first token; the last row predicts the end token.
        _largest(mass[:, row, :, :steps] - wanted[:, row, :, prompt - 1 : prompt - 1 + steps])
        for row, steps in enumerate(ENDS)
    ]
    return max(errors)


def _largest(difference: torch.Tensor) -> float:
    """The largest absolute value; infinite where a number is missing."""
    return float(difference.abs().nan_to_num(nan=torch.inf).max())


def table(results: list[Measurement]) -> str:
    """The measurements as a Markdown table."""
    lines = ["| family | measured layers | forward | generation |", "| --- | --- | --- | --- |"]
    for one in results:
        if one.refusal is not None:
            lines.append(f"| `{one.name}` | none: {one.refusal} | | |")
        else:
            errors = f"{one.forward_error:.0e} | {one.generation_error:.0e}"
            lines.append(f"| `{one.name}` | {covered(one)} | {errors} |")
    return "\n".join(lines)


def covered(one: Measurement) -> str:
    """Such as ``1 of 4 (full; the others: linear)``."""
    measured = sorted({one.kinds[layer] for layer in one.layers})
    others = sorted({kind for layer, kind in enumerate(one.kinds) if layer not in one.layers})
    return (
        f"{len(one.layers)} of {len(one.kinds)} ({', '.join(measured)}"
        f"{'; the others: ' + ', '.join(others) if others else ''})"
        f"{'' if one.pads_left else ', without padding on the left'}"
    )


def write_table(results: list[Measurement], path: Path = DOCS) -> None:
    """Replace what stands between the markers of ``path`` by the table."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="families (default: all)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/attention.md")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in FAMILIES]
    if unknown or (args.write and args.names):
        parser.error(
            f"no family {', '.join(unknown)}; there are: {', '.join(FAMILIES)}"
            if unknown
            else "--write needs all families"
        )
    torch.set_num_threads(args.threads)
    results = [measure(FAMILIES[name]()) for name in args.names or FAMILIES]
    if not args.json:
        print(table(results))
    if args.write:
        write_table(results)
    figures: dict[str, Any] = {
        "families": {
            one.name: {
                "layers": covered(one) if one.layers else None,
                "forward_errors": one.forward_errors,
                "generation_error": one.generation_error,
                "changed": one.changed,
                "refusal": one.refusal,
            }
            for one in results
        },
        "not_exact": [one.name for one in results if not one.holds],
        **surroundings(args.threads, "torch", "transformers"),
    }
    return report(figures, {"not_exact": lambda names: not names}, args.json)


if __name__ == "__main__":
    sys.exit(main())
