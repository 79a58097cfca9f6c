"""What a study's config may hold: its arms, and the contrasts that are registered before it runs."""

from typing import Any, Literal

from pydantic import Field

from benchmarks.study.start import Start
from configs.schema import StrictModel


class Arm(StrictModel):
    """One arm.

    Attributes:
        rewards: of its GRPO run (docs/rewards.md).
        seeds: how many.
        start: what it is trained from: the study's cold start (``cold``), or its ``base`` (no cold start).
        train: False evaluates the start checkpoint as it is.
        keys: further keys of the GRPO config, such as ``drop_in_constant_groups`` or ``blank_pictures``.
    """

    rewards: dict[str, Any] = Field(default_factory=dict)
    seeds: int = Field(default=3, ge=1, le=100)
    start: Literal["cold", "base"] = "cold"
    train: bool = True
    keys: dict[str, Any] = Field(default_factory=dict)


class Contrast(StrictModel):
    """``first`` minus ``second`` on one figure of a unit (a column of ``units.csv``)."""

    first: str
    second: str
    figure: str


class StudyConfig(StrictModel):
    """The keys of a study.

    Attributes:
        base: the model before any training.
        run: a finished ``reflection-v run``: its traces, and its sets train, rl and heldout.
        start: see ``benchmarks.study.start.Start``.
        grpo: a GRPO config beside this file; model, problems, output_dir, seed, rewards and precision are set here.
        precision: of every training of the study, its start's too (``train.precision``). No ``auto``: units are compared with
            each other, and may come from several machines.
        audit: keys of ``eval.audit.AuditConfig``.
        cross: held-out problems whose responses are crossed; 0 leaves the crosses out.
        arms: by name.
        reference: the arm that must have learned for the study to say anything.
        contrasts: pre-registered; their p-values are corrected together (Holm).
        entropy_floor: nats a token; below it the reference has nothing left to choose from.
    """

    base: str = "tiny"
    run: str = ""
    out: str = ""
    start: Start = Start()
    grpo: str = "grpo.yaml"
    precision: Literal["float32", "bfloat16"] = "float32"
    audit: dict[str, Any] = Field(default_factory=dict)
    cross: int = Field(default=100, ge=0)
    arms: dict[str, Arm]
    reference: str = "accuracy"
    contrasts: list[Contrast] = Field(default_factory=list)
    entropy_floor: float = Field(default=0.05, ge=0)
