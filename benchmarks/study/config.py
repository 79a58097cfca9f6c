"""The config of a study: its arms, and the contrasts that are registered before it runs."""

from typing import Any, Literal

from pydantic import Field

from benchmarks.study.start import Start
from configs.schema import StrictModel


class Arm(StrictModel):
    """One arm.

    Attributes:
        rewards: of its GRPO run (docs/rewards.md).
        seeds: the number of seeds.
        start: the checkpoint that training begins with: the study's cold start (``cold``) or its ``base`` model.
        train: False evaluates the start checkpoint without training.
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
        run: a finished ``reflection-v run``. The study uses its traces and its problem sets train, rl and heldout.
        start: see ``benchmarks.study.start.Start``.
        grpo: a GRPO config beside this file. The study sets model, problems, output_dir, seed, rewards and precision.
        precision: of all training in the study, the cold start included (``train.precision``). ``auto`` is not allowed,
            because units are compared with each other and may come from several machines.
        audit: keys of ``eval.audit.AuditConfig``.
        cross: how many held-out problems are used for the crosses; 0 skips them.
        arms: by name.
        reference: the arm that must have learned, or the study has no result.
        contrasts: pre-registered; their p-values are corrected together (Holm).
        entropy_floor: nats per token; below it the reference samples nearly the same response each time.
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
