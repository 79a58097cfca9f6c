"""The run config: one YAML that names the models, the problem sets and the file of each stage.

    seed: 0
    model: tiny                  # a bundled name, a model folder, or a hub name
    reasoner: tiny-reasoner
    problems:                    # any number of named sets; ``train`` and ``heldout`` must be there
      train:   {source: "scenes,digits", n: 1200, split: train}
      heldout: {path: my/problems}
    build: build.yaml            # stage files and problem paths are relative to this file
    sft: sft.yaml
    grpo: grpo.yaml
    eval: eval.yaml

Keys and types are checked here, before anything runs: an unknown key is answered with the nearest name.
"""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from configs.errors import ConfigError
from configs.overrides import beside, read_config
from configs.schema import ModelName, StrictModel, parse_config

STAGE_FILES = ("build", "sft", "grpo", "eval")


class ProblemSet(StrictModel):
    """A set of problems: drawn from a bundled ``source``, or the user's own at ``path``."""

    model_config = ConfigDict(frozen=False)

    path: str | None = None
    source: str | None = None
    n: int | None = Field(default=None, ge=1)
    split: Literal["pretrain", "train", "heldout"] | None = None
    seed: int | None = None  # the run's seed where none is given
    families: list[str] | None = None
    difficulty: str | None = None
    counterfactual: bool | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        given = sorted(self.model_fields_set - {"path"})
        if self.path is not None and given:
            raise ValueError(f"'path' takes a set as it is, so '{given[0]}' cannot be given with it")
        if self.path is None and (self.source is None or self.n is None or self.split is None):
            raise ValueError("give either 'path', or all of 'source', 'n' and 'split'")
        return self

    def knobs(self) -> dict[str, Any]:
        """The optional arguments of ``data_construction.sources.write_set``, only those that were given."""
        knobs = {"family_names": self.families, "difficulty": self.difficulty, "counterfactual": self.counterfactual}
        return {name: value for name, value in knobs.items() if value is not None}


class RunConfig(StrictModel):
    """What ``reflection-v run`` reads. After ``load_run_config`` all paths are absolute."""

    model_config = ConfigDict(frozen=False)

    seed: int = 0
    model: ModelName = "tiny"
    reasoner: ModelName = "tiny-reasoner"
    problems: dict[str, ProblemSet]
    build: str
    sft: str
    grpo: str
    eval: str

    @model_validator(mode="after")
    def _needed_sets(self) -> Self:
        for name in ("train", "heldout"):
            if name not in self.problems:
                raise ValueError(f"'problems' needs a set named '{name}'")
        for name in self.problems:  # a set's name becomes a folder
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
                raise ValueError(f"'problems': '{name}' is no name for a set, use letters, digits, - and _")
        return self


def load_run_config(path: Path, **overrides: str | None) -> RunConfig:
    """Read and check a run config; ``overrides`` that are not None replace its top-level keys.

    Raises:
        ConfigError: the file, a key, a value or a file that it names is wrong; the sentence names which.
    """
    settings = read_config(path, {key: value for key, value in overrides.items() if value is not None})
    config = parse_config(RunConfig, settings, path)
    for key in STAGE_FILES:
        file = beside(path, getattr(config, key))
        if not file.is_file():
            raise ConfigError(f"{path}: '{key}' names {file}, which does not exist.")
        setattr(config, key, str(file))
    for name, problem_set in config.problems.items():
        if problem_set.path is not None:
            problem_set.path = str(beside(path, problem_set.path))
            if not Path(problem_set.path).exists():
                raise ConfigError(f"{path}: the problem set '{name}' names {problem_set.path}, which does not exist.")
    return config
