"""Why a served model answers otherwise than its weights.

A cause is *recomputed* where the weights, given the prompt as a faulty server would give it (without its images, with
positions in sequence, ...), score the server's replies as the server does. Otherwise the pattern of what differs names the likely one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from eval.served_compare import Comparison, Tolerance
from eval.served_probes import Probe
from eval.served_reference import Reference, Scored, show_images
from vlm.images import fit_image, open_image
from vlm.scoring import numbers_images

OTHER_WEIGHTS = 0.5
"""Nats per token. Rounded and quantized weights stay below, other weights do not."""


@dataclass(frozen=True)
class Cause:
    """``name``: one word for programs; ``sentence``: cause, evidence and remedy; ``recomputed``: see the module."""

    name: str
    sentence: str
    recomputed: bool = False
    gap: float | None = None


def find_causes(
    held: Reference, probes: Sequence[Probe], compared: Sequence[Comparison], tolerance: Tolerance
) -> list[Cause]:
    """What the differences come from, the most fundamental first; empty where nothing differs."""
    pairs = list(zip(probes, compared, strict=True))
    causes = [_refusals([pair for pair in pairs if pair[1].refused], len(pairs))]
    answered = [pair for pair in pairs if not pair[1].refused]
    sampled = [one for _, one in answered if _is_sampled(one)]
    texts = [one for _, one in answered if one.kind == "text"]
    template, added = _other_template(texts)
    causes += [
        template,
        _other_choice(sampled),
        None if template else _other_weights([one for one in texts if one not in sampled]),
    ]

    # Other weights change the replies to images as well: only what goes beyond text alone is the images' own.
    noise = max((one.log_p_gap for one in texts if one.log_p_gap is not None and one.differs), default=0.0)
    for_images = Tolerance(max(tolerance.log_p, 3 * noise))
    text_is_equal = not any(one.differs for one in texts if one not in sampled)
    suspects = [
        (probe, one)
        for probe, one in answered
        if one.kind != "text"
        and one not in sampled
        and one.differs
        and (text_is_equal or _count_gap(one, added) or (template is None and (one.log_p_gap or 0) > for_images.log_p))
    ]
    if suspects:
        found = None if template else _recompute(held, suspects, for_images)
        causes.append(found or _by_pattern(held, suspects, [one for _, one in answered], added))
    return [cause for cause in causes if cause is not None]


def _refusals(refused: Sequence[tuple[Probe, Comparison]], n: int) -> Cause | None:
    if not refused:
        return None
    several = all(probe.kind == "several" for probe, _ in refused)
    remedy = (
        "All of them have several images: raise the server's limit of images per prompt (vLLM: --limit-mm-per-prompt)."
        if several
        else "The weights here read them: check the server's limits of length and images."
    )
    return Cause("refused", f"The server refuses {len(refused)} of {n} prompts. {remedy}")


def _is_sampled(one: Comparison) -> bool:
    """The server scores its tokens as the weights do, and takes others than the likeliest ones."""
    agrees = one.log_p_gap is not None and "log_probabilities" not in one.differs
    return "tokens" in one.differs and agrees and "prompt_tokens" not in one.differs


def _other_choice(sampled: Sequence[Comparison]) -> Cause | None:
    if not sampled:
        return None
    sentence = (
        f"The server does not take the likeliest token on {len(sampled)} prompts, or ends early, although its log-probabilities are "
        "those of the weights: look for a repetition penalty, do_sample or further end tokens in the model's generation_config.json "
        "and among the server's options (vLLM: --generation-config vllm)."
    )
    return Cause("sampling", sentence)


def _other_template(texts: Sequence[Comparison]) -> tuple[Cause | None, int]:
    """(the cause, tokens that the server adds to a prompt), from prompts of text alone."""
    more = {one.name: one.served_prompt - one.own_prompt for one in texts if one.served_prompt is not None}
    if not any("prompt_tokens" in one.differs for one in texts):
        return None, 0
    (added, times), *others = Counter(more.values()).most_common()
    count = f"{abs(added)} tokens {'more' if added > 0 else 'fewer'}"
    if not others:
        what = f"every text prompt has {count} than here"
    elif added and times > 1 and {value for value, _ in others} == {0}:
        same = ", ".join(name for name, value in more.items() if value == 0)
        what = f"text prompts have {count} than here, except {same}; perhaps the server adds a system prompt where there is none"
    else:
        what = "text prompts have " + ", ".join(f"{value:+d}" for value in more.values()) + " tokens than here"
    sentence = (
        f"The server uses another chat template or tokenizer: {what}. Give it the chat_template.jinja of the reference "
        "(vLLM: --chat-template FILE)."
    )
    return Cause("template", sentence), added


def _other_weights(texts: Sequence[Comparison]) -> Cause | None:
    differing = [one for one in texts if one.differs]
    if not differing:
        return None
    gaps = [one.log_p_gap for one in texts if one.log_p_gap is not None]
    if not gaps:
        sentence = (
            f"The greedy tokens of {len(differing)} of {len(texts)} text prompts differ at equal length: the server has other or "
            "quantized weights, or a template of the same length. It gives no log-probabilities, which would tell them apart."
        )
        return Cause("weights", sentence)
    gap = fmean(gaps)
    if gap > OTHER_WEIGHTS:
        sentence = (
            f"The server has other weights, or a template of the same length: on text alone the log-probabilities differ by "
            f"{gap:.2g} nats per token. Check that it was started with the folder of the reference."
        )
        return Cause("weights", sentence, gap=gap)
    sentence = (
        f"The server's weights are quantized or rounded: on text alone the log-probabilities differ by {gap:.2g} nats per token. "
        "Check its --dtype and --quantization, and give --dtype of this command the type that the server uses."
    )
    return Cause("quantized", sentence, gap=gap)


@dataclass(frozen=True)
class Fault:
    """What a faulty server makes of a prompt with images.

    Attributes:
        change: the probe as the faulty server reads it.
        in_sequence: the positions of its image tokens are in sequence.
    """

    name: str
    what: str
    remedy: str
    change: Callable[[Reference, Probe], Probe] = lambda held, probe: probe
    in_sequence: bool = False


def _resized_twice(held: Reference, probe: Probe) -> Probe:
    processor = held.vlm.processor
    return replace(probe, images=[fit_image(open_image(image), processor) for image in probe.images])


def _reversed_images(held: Reference, probe: Probe) -> Probe:
    return replace(probe, images=list(reversed(probe.images)))


FAULTS = (
    Fault(
        "dropped image",
        "The server does not show the images to the model",
        "Check that it serves the vision-language class of the model, and that its log names no ignored image_url part.",
        lambda held, probe: show_images(probe, ()),
    ),
    Fault(
        "first image only",
        "The server shows only the first of several images",
        "Raise its limit of images per prompt.",
        lambda held, probe: show_images(probe, (0,)),
    ),
    Fault(
        "last image only",
        "The server shows only the last of several images",
        "Raise its limit of images per prompt.",
        lambda held, probe: show_images(probe, (len(probe.images) - 1,)),
    ),
    Fault(
        "order of images",
        "The server shows the images in the reverse order",
        "Update it, or send one image per prompt.",
        _reversed_images,
    ),
    Fault(
        "resized twice",
        "The server resizes the images twice",
        "Let one side resize: switch off the client's or proxy's resize, or give the server the pixel limits of the reference "
        "(vLLM: --mm-processor-kwargs).",
        _resized_twice,
    ),
    Fault(
        "dropped mRoPE",
        "The server numbers the positions of image tokens in sequence (mRoPE is dropped)",
        "Use a release of the server that has mRoPE for this family, and check rope_parameters in the config.json that it reads.",
        in_sequence=True,
    ),
)
"""Faults that the weights can recompute. Each is held against what the server sent."""


def _recompute(held: Reference, suspects: Sequence[tuple[Probe, Comparison]], tolerance: Tolerance) -> Cause | None:
    """The fault under which the weights score the server's replies as the server does, on all prompts that differ."""
    responses = [one.said.ids if one.said else [] for _, one in suspects]
    found: list[tuple[float, Fault]] = []
    for fault in FAULTS:
        if fault.in_sequence and not numbers_images(held.vlm.model):
            continue
        changed = [fault.change(held, probe) for probe, _ in suspects]
        distances = [
            _distance_under(held, probe, one, scores, tolerance)
            for probe, (_, one), scores in zip(
                changed, suspects, held.score(changed, responses, fault.in_sequence), strict=True
            )
        ]
        if all(distance is not None for distance in distances):
            found.append((max(distance for distance in distances if distance is not None), fault))
    if not found:
        return None
    gap, fault = min(found, key=lambda pair: pair[0])
    one = suspects[0][1]
    evidence = f"with this fault the weights here give the server's replies to all {len(suspects)} prompts that differ"
    if one.log_p_gap is not None:
        evidence += f", within {gap:.1g} nats per token (without it: {max(o.log_p_gap or 0 for _, o in suspects):.2g})"
    return Cause(fault.name, f"{fault.what}: {evidence}. {fault.remedy}", recomputed=True, gap=gap)


def _distance_under(
    held: Reference, changed: Probe, one: Comparison, scores: Scored, tolerance: Tolerance
) -> float | None:
    """How far a reply is from one to the changed probe, which ``scores`` judges; None if it is too far."""
    if one.said is None or not one.said.ids:
        return None
    gaps = scores.gaps(one.said.log_p)
    if gaps:
        gap = fmean(gaps)
        # Beside quantized weights the tolerance is wide: a fault must also bring the reply much nearer.
        return gap if gap <= tolerance.log_p and gap <= (one.log_p_gap or 0) / 2 else None
    if one.served_prompt not in (None, held.prompt_tokens(changed)):
        return None
    return scores.shortfall if scores.shortfall <= tolerance.tie else None


def _count_gap(one: Comparison, added: int) -> int:
    """Tokens that the server has more for the images of a prompt; 0 where it does not count."""
    return 0 if one.served_prompt is None else one.served_prompt - one.own_prompt - added


def _by_pattern(
    held: Reference, suspects: Sequence[tuple[Probe, Comparison]], answered: Sequence[Comparison], added: int
) -> Cause:
    """The likely cause, by which prompts differ in what."""
    counts = [(probe, one, _count_gap(one, added)) for probe, one in suspects]
    off = [(probe, one, gap) for probe, one, gap in counts if gap]
    if off and all(one.own_prompt + gap == one.text_tokens for _, one, gap in off) and len(off) == len(suspects):
        return _likely(FAULTS[0], "the prompts have the length of the text alone")
    if off:
        probe, one, gap = off[0]
        images = one.own_prompt - one.text_tokens
        what = f"on '{probe.name}' the images take {images + gap} tokens there and {images} here"
        return Cause(
            "image size",
            f"The server reads the images at another size: {what}. It has other pixel limits or resizes twice: compare its "
            "preprocessor's min_pixels and max_pixels (vLLM: --mm-processor-kwargs) with those of the reference.",
        )
    kinds = {one.kind for _, one in suspects}
    equal = {one.kind for one in answered if not one.differs}
    if kinds <= {"resized", "several"} and "fitted" in equal:
        return Cause(
            "resize",
            "The server resizes images in another way: images of the model's own size agree, others do not, at equal numbers of "
            "tokens. An image is resized twice, or by another filter: resize in one place, or send images of the model's own size.",
        )
    if kinds == {"several"}:
        return Cause(
            "several images",
            "Only prompts with several images differ: the server changes their order, or their positions.",
        )
    return Cause(
        "image content or positions",
        "The server reads images otherwise at equal numbers of tokens, also those that need no resize: it drops the positions "
        "by row and column (mRoPE), normalizes pixels otherwise, or runs another vision tower. No fault that can be recomputed here "
        "gives its replies.",
    )


def _likely(fault: Fault, evidence: str) -> Cause:
    return Cause(fault.name, f"{fault.what}: {evidence}. {fault.remedy}")
