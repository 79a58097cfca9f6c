"""``reflection-v audit MODEL``: does this model use the image? Every measure with n, interval and verdict, and one profile.

A model in this process is a white box: its responses are cut, its attention is recorded, its distributions are compared. A
served model is a black box: it gets the measures that need only questions and answers, and a swap by a further user turn
instead of the swap in mid-response.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from configs.api_key import check_variable
from configs.errors import UserError
from configs.jsonl import write_json_atomic
from configs.provenance import versions
from eval.audit_report import write_audit
from eval.conditions import cutoff, hint_test, overthinking
from eval.figures import balanced_subset, estimate_accuracy, image_clusters
from eval.grounding import (
    attention_profile,
    behaviour,
    blank_images,
    has_counterfactual,
    mismatched_images,
    noise_images,
)
from eval.known_zoom import scripted_subject
from eval.runner import Answer, answers_dir, correct_by_id
from eval.session import ModelSession, count_errors
from eval.stats import difference_of_shares, majority_class_score
from eval.subjects import LocalSubject, Subject, covered_layers, load_subject, warn_about_reuse
from eval.tool_calls import Zoom
from eval.tool_looks import ask_with_tool, count_tool_looks, verdict_words
from eval.verdicts import PROFILES, Evidence, judge_measures, profile
from reward.grade import verifier_sha256
from reward.judge import JudgeKey, check_judge, judge_record, judging
from reward.usable import print_unjudged
from vlm.problem import Problem
from vlm.tools import ZoomSettings


@dataclass(frozen=True)
class AuditConfig:
    """How many problems each measure takes (0 leaves it out); subsets are spread over the families.

    Attributes:
        max_new_tokens: limit of a response; longer ones count as truncated.
        batch_size: responses generated at once.
        main: problems answered from scratch; the keys below are numbers of these.
        controls: problems asked again with a blank, a noise and a mismatched image.
        hint: problems asked again with an incorrect hint.
        swap: problems with a counterfactual image offered to the swap test.
        cutoff: problems finished without the image; ``cutoff_at``: after which shares (up to 1) or tokens of the response.
        samples: problems sampled ``k`` times at ``temperature``.
        forward: responses scored again for VDM and patch masking; ``masked_share`` of the patches is masked.
        per_shift: problems of each set of unseen images.
        zoom: offers the zoom tool within these limits and audits what the model does with it; None leaves that out.
        zoom_problems: problems answered with the tool, and again with each change of the returned crop.
        margin: a difference of accuracy below this does not matter; ``vdm_margin``, ``nats_margin`` likewise.
        zoom_margin: the same with the zoom tool.
        layers: whose attention is recorded (``last``, ``all``, a list).
        shown: cases on the page.
        dtype: of the weights.
        api_key_env: the environment variable that holds a served model's key.
        judge: see ``eval.harness.EvalConfig``.
        seed: of subsets, noise and hints.
    """

    max_new_tokens: int = 256
    batch_size: int = 64
    main: int | None = 300
    controls: int = 300
    hint: int = 300
    swap: int = 300
    cutoff: int = 150
    cutoff_at: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75)
    samples: int = 100
    k: int = 4
    temperature: float = 0.7
    forward: int = 150
    masked_share: float = 0.25
    per_shift: int = 100
    zoom: ZoomSettings | None = None
    zoom_problems: int = 300
    margin: float = 0.1
    vdm_margin: float = 0.05
    nats_margin: float = 0.01
    zoom_margin: float = 0.15
    layers: Literal["last", "all"] | list[int] = "last"
    shown: int = 60
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    api_key_env: str | None = None
    judge: JudgeKey = None
    seed: int = 0

    def __post_init__(self) -> None:
        # The report holds this name, so a key given here by mistake would be published.
        check_variable(self.api_key_env)
        check_judge(self.judge)


QUICK = {"main": 100, "controls": 80, "hint": 80, "swap": 80, "cutoff": 40, "samples": 40, "forward": 40}


def quick(config: AuditConfig, given: Mapping[str, Any] | None = None) -> AuditConfig:
    """The same measures on fewer problems, in about a quarter of the time. Keys in ``given`` keep their values."""
    few = {**QUICK, "per_shift": 30, "zoom_problems": 100, "shown": 30}
    return replace(config, **{key: value for key, value in few.items() if key not in (given or {})})  # type: ignore[arg-type]


def run_audit(
    model: str,
    problems: Sequence[Problem],
    out: str | Path,
    *,
    style: str = "think",
    config: AuditConfig | None = None,
    shifts: Mapping[str, Sequence[Problem]] | None = None,
    subject: Subject | None = None,
) -> dict[str, Any]:
    """Audit one model; writes ``audit.json``, ``audit.html`` and every answer below ``out``.

    Args:
        model: a folder, a hub name, ``tiny``, ``openai:NAME@URL``, or ``scripted:NAME`` (see ``eval.known``).
        problems: those with ``meta.counterfactual`` can be swapped; all of them serve the other measures.
        shifts: name -> problems with images unlike those of training.
        subject: used instead of loading ``model``.

    Returns:
        The content of audit.json; see docs/audit.md.

    Raises:
        UserError: no problems, no such model, or a model of which every question failed (with the first reason).
    """
    config, out = config or AuditConfig(), Path(out)
    if not problems:
        raise UserError("There are no problems to audit on: the problem set is empty.")
    with answers_dir(out, "audit").held(), judging(config.judge, model):
        started = time.monotonic()
        print_unjudged(problems)
        if subject is None:
            name = model.removeprefix("scripted:")
            subject = (
                scripted_subject(name, problems)
                if name != model
                else load_subject(model, config.dtype, config.api_key_env)
            )
        warn_about_reuse(subject, out / "answers", "*.jsonl")
        audit = _Audit(subject, balanced_subset(problems, config.main, config.seed), out / "answers", style, config)
        report = audit.report(model, shifts or {})
        report["seconds"] = {**audit.seconds, "all": round(time.monotonic() - started, 1)}
        report["load_average"] = round(os.getloadavg()[0], 2)
        write_json_atomic(out / "cases.json", audit.cases())
        write_audit(report, out)
        return report


class _Audit:
    """The state of one audit: the model's session and what has been measured so far."""

    def __init__(
        self, subject: Subject, problems: list[Problem], answers: Path, style: str, config: AuditConfig
    ) -> None:
        self.subject, self.problems, self.config = subject, problems, config
        clusters = image_clusters(problems)
        self.session = ModelSession(
            subject, answers, style, clusters, config.max_new_tokens, config.batch_size, config.seed
        )
        self.evidence: dict[str, Evidence] = {}
        self.measures: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        self.conditions: dict[str, dict[str, Answer]] = {}
        self.scratch: dict[str, Answer] = {}
        self.maps: dict[str, list[Any]] = {}
        self.zoom: dict[str, Any] | None = None
        self.zooms: dict[str, list[Zoom]] = {}

    def report(self, model: str, shifts: Mapping[str, Sequence[Problem]]) -> dict[str, Any]:
        """Take every measure, then judge all of them together, since p-values are corrected for their number."""
        white = isinstance(self.subject, LocalSubject)
        attention = {"layers": self.config.layers} if white else None
        main = self._timed("main", lambda: self.session.ask(self.problems, "main", attention=attention))
        self.scratch = {row.problem_id: row for row in main}
        errors = count_errors(main, model)
        if self.config.controls:
            self._timed("controls", self._controls)
        if self.config.hint:
            self._timed("hint", self._hint)
        if self.config.swap:
            self._timed("swap", self._swap)
        if (settings := self.config.zoom) is not None:
            self._timed("zoom", partial(self._zoom, settings))
        if self.config.cutoff and self.subject.continues:
            self._timed("cutoff", self._cutoff)
        samples: list[list[Answer]] = []
        sampled = self._some(self.config.samples)
        if sampled:
            samples, scores = self._timed(
                "samples", lambda: self.session.sample(sampled, self.config.k, self.config.temperature)
            )
            self.measures["self_consistency"] = scores
        if self.config.forward and isinstance(self.subject, LocalSubject):
            self._timed("forward", self._forward)
        if white:
            covered = covered_layers(self.subject, self.config.layers)
            self.measures["attention"] = attention_profile(main, self.session.clusters, self.config.layers, covered)
        self.measures["overthinking"] = overthinking(main, self.session.clusters, samples)
        if shifts and self.config.per_shift:
            self._timed("shift", lambda: self._shifts(shifts))
        for name, judged in judge_measures(self.evidence).items():
            self.measures[name] = {**self.measures.get(name, {}), **judged}
        named = profile(self.measures)
        families = [problem.family for problem in self.problems]

        return {
            "schema_version": 1,
            "model": model,
            "weights": self.subject.fingerprint,
            "box": "white" if self.subject.continues else "black",
            "style": self.session.style,
            "profile": {"name": named, "sentence": PROFILES[named]},
            **self.session.accuracies(main),
            "majority_class": majority_class_score([problem.answer for problem in self.problems], families),
            "errors": errors,
            **behaviour(main, self.session.clusters),
            "measures": self.measures,
            **({"zoom": self.zoom} if self.zoom is not None else {}),
            "problems": {"n": len(self.problems), "families": dict(sorted(Counter(families).items()))},
            "config": asdict(self.config) | {"zoom": self.config.zoom and self.config.zoom.model_dump()},
            "verifier_sha256": verifier_sha256(),
            **judge_record(),
            "prompt_sha256": main[0].prompt_sha256,
            "versions": versions(),
            "seed": self.config.seed,
        }

    def cases(self) -> list[dict[str, Any]]:
        """The cases of the page: question, image, and the answer under every condition."""
        shown = balanced_subset(self.problems, self.config.shown, self.config.seed)
        return [
            {
                **problem.model_dump(include={"id", "question", "choices", "answer", "images"}),
                "family": problem.family,
                "maps": self.maps.get(problem.id),
                "main": self.scratch[problem.id].model_dump(
                    include={"text", "answer", "status", "why", "truncated", "looks", "tokens"}
                )
                | {"right": self.scratch[problem.id].correct},
                "conditions": {
                    name: {"answer": rows[problem.id].answer, "right": rows[problem.id].correct}
                    for name, rows in self.conditions.items()
                    if problem.id in rows and rows[problem.id].status == "ok"
                },
                "zooms": [zoom.told for zoom in self.zooms.get(problem.id, ())],
            }
            for problem in shown
        ]

    def _some(self, n: int) -> list[Problem]:
        """``n`` of the problems that were answered; the others have no answer to compare with."""
        answered = [problem for problem in self.problems if self.scratch[problem.id].status == "ok"]
        return balanced_subset(answered, n, self.config.seed) if n else []

    def _timed(self, name: str, take: Callable[[], Any]) -> Any:
        started = time.monotonic()
        result = take()
        self.seconds[name] = round(time.monotonic() - started, 1)
        return result

    def _prove(self, name: str, values: Mapping[str, float], margin: float, good: bool = True) -> None:
        self.evidence[name] = Evidence(values, margin, good, self.session.clusters)

    def _controls(self) -> None:
        """Accuracy with a blank, a noise and a mismatched image, each compared with the own image on the same problems."""
        asked = [problem for problem in self._some(self.config.controls) if problem.images]
        mismatched = mismatched_images(asked, self.config.seed)
        correct = correct_by_id(self.scratch.values())
        for name, problems, options in (
            ("blank", asked, {"images": blank_images}),
            ("noise", asked, {"images": noise_images}),
            ("wrong_picture", mismatched, {}),
        ):
            rows = self.session.ask(problems, name.replace("_", " "), **options)
            self.conditions[name.replace("_", " ")] = {row.problem_id: row for row in rows}
            scores = correct_by_id(rows)
            self.measures[name] = {"accuracy": self.session.accuracy(rows)}
            self._prove(name, {id_: correct[id_] - score for id_, score in scores.items()}, self.config.margin)

    def _hint(self) -> None:
        asked, log = self._some(self.config.hint), self.session.log("hint")
        result = hint_test(self.subject, asked, self.scratch, log, seed=self.config.seed, **self.session.settings)
        self._prove("hint", result.pop("values"), self.config.margin, good=False)
        self.measures["hint"] = result

    def _swap(self) -> None:
        offered = [problem for problem in self._some(len(self.problems)) if has_counterfactual(problem)]
        offered = balanced_subset(offered, self.config.swap, self.config.seed)
        name, result = self.session.swap(offered, self.scratch)
        self._prove(name, result.pop("values"), self.config.margin)
        self.measures[name] = result

    def _zoom(self, settings: ZoomSettings) -> None:
        looks = ask_with_tool(self.session, self._some(self.config.zoom_problems), settings)
        self.zoom = count_tool_looks(looks, self.scratch, self.session.clusters, self.config.zoom_margin)
        self.zooms = {id_: row.zooms or [] for id_, row in looks.alone.items()}
        for name, rows in {"left alone": looks.alone, **looks.tampered}.items():
            self.conditions[f"with the zoom tool, {name.replace('_', ' ')}"] = rows

    def _cutoff(self) -> None:
        asked, log = self._some(self.config.cutoff), self.session.log("cutoff")
        result = cutoff(self.subject, asked, self.scratch, log, self.config.cutoff_at, **self.session.settings)
        self._prove("cutoff", result.pop("values"), self.config.margin)
        self.measures["cutoff"] = result

    def _forward(self) -> None:
        from eval.forward import forward_measures

        assert isinstance(self.subject, LocalSubject)
        result = forward_measures(
            self.subject.vlm,
            self._some(self.config.forward),
            self.scratch,
            self.session.log("forward"),
            style=self.session.style,
            layers=self.config.layers,
            share=self.config.masked_share,
        )
        self.maps = {row["problem_id"]: row["maps"] for row in result["rows"] if row.get("maps")}
        margin = self.config.vdm_margin
        vdm = Evidence(result["vdm"].pop("values"), margin, clusters=self.session.clusters, null=margin)
        self.evidence["vdm"] = vdm
        self.measures["vdm"] = {**result["vdm"], "not_measured": result["not_measured"]}
        values = result["patch_masking"].pop("values")
        self.measures["patch_masking"] = {"share": self.config.masked_share, **result["patch_masking"]}
        self._prove("patch_masking", values, self.config.nats_margin)
        if result["knockout"] is not None:
            self.measures["knockout"] = result["knockout"]

    def _shifts(self, shifts: Mapping[str, Sequence[Problem]]) -> None:
        """Accuracy on each set of unseen images, and the drop against the main problems of the same families."""
        found = {}
        for name, problems in shifts.items():
            asked = balanced_subset(problems, self.config.per_shift, self.config.seed)
            rows = self.session.ask(asked, f"shift {name}")
            families = {problem.family for problem in asked}
            seen = self.session.accuracy([row for row in self.scratch.values() if row.family in families])
            unseen = estimate_accuracy(rows, image_clusters(asked))
            found[name] = {"accuracy": unseen, "drop": difference_of_shares(seen, unseen)}
        self.measures["shift"] = found


def summary(report: Mapping[str, Any]) -> list[str]:
    """The audit in a few lines of plain text."""
    accuracy, named = report["accuracy"], report["profile"]
    lines = [f"{report['model']}: {named['name']}. {named['sentence']}"]
    if accuracy["ci95"]:
        low, high = accuracy["ci95"]
        lines.append(f"accuracy {accuracy['value']:.3f}, 95% {low:.3f} to {high:.3f}, n {accuracy['n']}")
    for name, one in report["measures"].items():
        if "verdict" in one:
            lines.append(f"{name.replace('_', ' '):<15} {one['verdict']:<18}{_signed_figure(one)}, n {one['n']}")
    if "zoom" in report:
        named = report["zoom"]["profile"]
        lines.append(f"with the zoom tool: {named['name']}. {named['sentence']} {named['why']}")
        lines.append(f"accuracy gained{_signed_figure(report['zoom']['gain'])}, n {report['zoom']['gain']['n']}")
        for name, one in report["zoom"]["measures"].items():
            words = verdict_words(name, one["verdict"])
            lines.append(f"{name.replace('_', ' '):<17} {words:<18}{_signed_figure(one)}, n {one['n']}")
    if report["errors"]["n"]:
        lines.append(f"{report['errors']['n']} problems could not be asked or graded; no figure counts them")
    return lines


def _signed_figure(one: Mapping[str, Any]) -> str:
    value, interval = one["value"], one["ci95"]
    figure = "" if value is None else f" {value:+.3f}"
    figure += f", 95% {interval[0]:+.3f} to {interval[1]:+.3f}" if interval else ""
    return figure + (f" (no interval: {one['why_no_interval']})" if "why_no_interval" in one else "")
