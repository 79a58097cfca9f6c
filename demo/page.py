"""The changing parts of the page as HTML. This is the only place that escapes what a visitor or a model wrote."""

import base64
import io
from collections.abc import Sequence

import torch
from markupsafe import Markup
from PIL import Image

from demo.engine import Run
from demo.image_store import Example
from vlm.heatmap import overlay
from vlm.labels import coverage_text
from vlm.model_card import reads_sentence
from vlm.response import first_relook

SHOWN_SIDE = 640
"""Largest side of a heat map in pixels; larger images are scaled down to it."""
CURVE = 600, 120
MAX_POINTS = 400
STATES = {"thinking": "Thinking", "done": "Done", "stopped": "Stopped", "late": "Stopped"}


def status(text: str, kind: str = "info") -> str:
    """The status line, which screen readers announce. ``kind``: ``info`` or ``error``."""
    role = "alert" if kind == "error" else "status"
    return Markup('<p class="status {}" role="{}">{}</p>').format(kind, role, text)


def run_status(run: Run, link: str = "") -> str:
    """The status line of a run.

    Args:
        link: the address that asks its question again, if there is one.
    """
    text = f"{STATES[run.state]}: {run.tokens} tokens, {run.seconds:.1f} s. {run.note}".strip()
    if link:
        what = "Link to this question" if "example=" in link else "Link to this question, without its image"
        text = Markup('{} <a class="same" href="{}">{}</a>').format(text, link, what)
    return status(text)


def example_cards(found: Sequence[Example]) -> str:
    """Buttons with the example images."""
    buttons = [
        Markup(
            '<button type="button" class="example" data-n="{n}"><img src="image/{token}" alt="">'
            "<span>{question}</span></button>"
        ).format(n=n, token=example.token, question=example.question.rpartition(". ")[2])
        for n, example in enumerate(found)
    ]
    return Markup('<div class="example-row" role="group" aria-label="Examples">{}</div>').format(
        Markup("").join(buttons)
    )


def run_panel(run: Run, chosen: int | None = None) -> str:
    """One response: its answer, its sentences coloured by image mass, and heat map and curve of the chosen sentence."""
    title = Markup("<h2>{} <small>{}</small></h2>").format(run.title, run.model)
    parts = [title, _answer_block(run), _trace(run, chosen)]
    if run.attention is not None:
        seen = _figure(run, chosen), _mass_curve(run, chosen)
        parts.append(Markup('<div class="seen">{}{}</div>').format(*seen))
    if run.state != "thinking" and run.note and (run.attention is None or run.repeats):
        parts.append(Markup('<p class="note">{}</p>').format(run.note))
    return Markup('<section class="run" data-state="{}">{}</section>').format(run.state, Markup("").join(parts))


def waiting_panel(model: str) -> str:
    """Where the response of the second model will stand."""
    return Markup(
        '<section class="run" data-state="waiting"><h2>Response <small>{}</small></h2>'
        '<p class="hint">Answers the same question next.</p></section>'
    ).format(model)


def describe_difference(base: Run, trained: Run) -> str:
    """What differs between the responses of two models. One question shows no more than one question."""
    if "thinking" in (base.state, trained.state):
        return ""
    was, now = ("none" if run.answer is None else run.answer for run in (base, trained))
    if was == now:
        answers = Markup("Both answer <strong>{}</strong>.").format(now)
    else:
        answers = Markup("{} answers <strong>{}</strong>, {} answers <strong>{}</strong>.").format(
            base.model, was, trained.model, now
        )
    facts = [f"{base.looks} and {trained.looks} re-looks", f"{base.tokens} and {trained.tokens} tokens"]
    if base.attention is not None and trained.attention is not None:
        means = [sum(mass) / max(1, len(mass)) for mass in (base.attention.mass, trained.attention.mass)]
        facts.append(f"{means[0]:.0%} and {means[1]:.0%} mean attention mass")
    correct = Markup(" The correct answer is <strong>{}</strong>.").format(trained.expected) if trained.expected else ""
    return Markup('<p class="verdict" role="status">{}{} Base and trained: {}.</p>').format(
        answers, correct, ", ".join(facts)
    )


def describe_change(before: Run, after: Run) -> str:
    """The result of a test in words. One run is one observation, so no wording claims a property of the model."""
    if after.state != "done":
        return ""
    was, now = (run.answer if run.answer is not None else "none" for run in (before, after))
    if before.answer is None or after.answer is None:
        change = "One of the two responses has no answer, so nothing can be compared."
    elif was == now:
        change = {
            "Look again": "The re-look did not change the answer.",
            "Swap image": "The image changed in the middle of the reasoning and the answer did not: the model may have read its "
            "own text instead of the image, or both images have this answer.",
            "Blank image": "The answer stayed without the image: after the cut the model did not need it.",
        }[after.title]
    else:
        change = {
            "Look again": "The re-look changed the answer.",
            "Swap image": "The answer changed when the image changed in the middle of the reasoning.",
            "Blank image": "The answer changed without the image: after the cut the model still needed it.",
        }[after.title]
    return Markup('<p class="verdict" role="status"><strong>{}</strong> → <strong>{}</strong>. {}</p>').format(
        was, now, change
    )


def _answer_block(run: Run) -> Markup:
    if run.state == "thinking" and run.answer is None:
        return Markup("")
    known = run.expected is not None and run.state != "thinking"
    correct = Markup(" <small>The correct answer is {}.</small>").format(run.expected) if known else ""
    answer = Markup('<p class="answer">Answer: <strong>{}</strong>{}</p>').format(
        "none" if run.answer is None else run.answer, correct
    )
    looks = f"{run.looks} re-look{'' if run.looks == 1 else 's'}"
    facts = [f"{run.tokens} tokens", f"{run.seconds:.1f} s", looks]
    if sum(run.votes.values()) > 1:
        given = ", ".join(f"{name} × {count}" for name, count in run.votes.items())
        facts.append(f"{run.agreement:.0%} of the votes agree ({given})")
    answer += Markup('<p class="facts">{}</p>').format(" · ".join(facts))
    if run.reads is not None and run.state != "thinking":
        answer += Markup('<p class="facts reads">{}</p>').format(reads_sentence(run.reads))
    return answer


def _trace(run: Run, chosen: int | None) -> Markup:
    if run.attention is None:
        text = Markup('<span class="given">{}</span>{}').format(run.text[: run.given], run.text[run.given :])
        caret = Markup('<span class="caret" aria-hidden="true"></span>') if run.state == "thinking" else ""
        return Markup('<div class="trace">{}{}</div>').format(text, caret)
    most = max((sentence.mass for sentence in run.attention.sentences), default=0.0) or 1.0
    buttons = [
        Markup(
            '<button type="button" class="sentence{given}" data-n="{n}" aria-pressed="{pressed}" style="--heat:{heat:.3f}" '
            'title="{mass:.1%} of the attention is on the image, {lift:.2f} times uniform attention">{text}'
            "<small>{mass:.0%}</small></button>"
        ).format(
            given=" given" if sentence.end <= run.given else "",
            n=n,
            pressed="true" if n == chosen else "false",
            heat=sentence.mass / most,
            mass=sentence.mass,
            lift=sentence.lift,
            text=sentence.text,
        )
        for n, sentence in enumerate(run.attention.sentences)
    ]
    covered = f", in {coverage_text(run.attention.coverage)}" if run.attention.coverage else ""
    hint = Markup(
        '<p class="hint">Colour and percentage: attention mass, the share that is on the image while the model writes{covered}. '
        "Choose a sentence to see where.</p>"
    ).format(covered=covered)
    return Markup('<div class="trace" role="group" aria-label="Sentences of the response">{}</div>{}').format(
        Markup(" ").join(buttons), hint
    )


def _figure(run: Run, chosen: int | None) -> Markup:
    assert run.attention is not None
    if not run.attention.maps:
        return Markup('<p class="note">{}</p>').format(run.attention.note)
    every = [sentence.maps[0] for sentence in run.attention.sentences if sentence.maps]
    most = max((float(heat.max()) for heat in every), default=0.0)
    if chosen is None:
        heat, span = run.attention.maps[0], "the whole response"
    else:
        heat, span = run.attention.sentences[chosen].maps[0], f"“{run.attention.sentences[chosen].text[:120]}”"
    return Markup(
        '<figure><img class="heat" src="{}" alt="Heat map over the image"><figcaption>Attention on the image while the model writes {}. '
        '<span class="scale" aria-hidden="true"></span></figcaption></figure>'
    ).format(_heat_uri(run.image, heat, most), span)


def _heat_uri(image: Image.Image, heat: torch.Tensor, most: float) -> str:
    scale = SHOWN_SIDE / max(image.size)
    if scale < 1:
        image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    data = io.BytesIO()
    overlay(image, heat, most).save(data, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()


def _mass_curve(run: Run, chosen: int | None) -> Markup:
    """Mass by token, with the chosen sentence, the first re-look, and the mass of uniform attention."""
    assert run.attention is not None
    mass, lift = run.attention.mass, run.attention.lift
    width, height = CURVE
    even = [value / ratio if ratio > 0 else 0.0 for value, ratio in zip(mass, lift, strict=True)]
    top = max([*mass, *even, 1e-6]) * 1.05
    step = max(1, len(mass) // MAX_POINTS)

    def line(values: Sequence[float]) -> str:
        shown = [(n, sum(values[n : n + step]) / len(values[n : n + step])) for n in range(0, len(values), step)]
        return " ".join(f"{(n + 0.5) * width / len(values):.1f},{height * (1 - value / top):.1f}" for n, value in shown)

    marks = Markup("")
    if chosen is not None:
        first, last = (token * width / len(mass) for token in run.attention.sentences[chosen].tokens)
        marks += Markup('<rect class="chosen" x="{:.1f}" y="0" width="{:.1f}" height="{}"/>').format(
            first, last - first, height
        )
    relook = first_relook(run.text)
    if relook is not None:
        at = next((s.tokens[0] for s in run.attention.sentences if s.end > relook), 0) * width / len(mass)
        marks += Markup('<line class="relook" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}"/>').format(at, height)
    return Markup(
        '<figure class="curve"><div class="axis"><span>{top:.0%}</span><span>0%</span></div>'
        '<svg viewBox="0 0 {w} {h}" preserveAspectRatio="none" role="img" '
        'aria-label="Attention to the image by token, from {first:.0%} to {last:.0%}">'
        '{marks}<polyline class="even" points="{even}"/><polyline class="mass" points="{line}"/></svg>'
        '<figcaption><span class="key mass">attention on the image</span> <span class="key even">uniform attention over all '
        "tokens</span>{relook} <span>token 1 to {count}</span></figcaption></figure>"
    ).format(
        top=top,
        w=width,
        h=height,
        first=mass[0],
        last=mass[-1],
        marks=marks,
        even=line(even),
        line=line(mass),
        relook=Markup(' <span class="key relook">first re-look</span>') if relook is not None else "",
        count=len(mass),
    )


def has_sentence(run: Run | None, number: object) -> bool:
    """Whether a number from the page, which is untrusted, is the index of a sentence of the run."""
    return (
        run is not None
        and run.attention is not None
        and isinstance(number, int)
        and not isinstance(number, bool)
        and 0 <= number < len(run.attention.sentences)
    )
