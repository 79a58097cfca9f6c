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

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from configs.errors import ConfigError
from train.config import read_config
from vlm.backends import check_model_name

STAGE_FILES = ("build", "sft", "grpo", "eval")


ModelName = Annotated[str, AfterValidator(check_model_name)]


class ProblemSet(BaseModel):
    """A set of problems: drawn from a bundled ``source``, or the user's own at ``path``."""

    model_config = ConfigDict(extra="forbid", strict=True)

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


class RunConfig(BaseModel):
    """What ``reflection-v run`` reads. After ``load_run_config`` all paths are absolute."""

    model_config = ConfigDict(extra="forbid", strict=True)

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
    settings = read_config(path) | {key: value for key, value in overrides.items() if value is not None}
    config = checked(RunConfig, settings, path)
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


def beside(file: Path, name: str) -> Path:
    """``name`` seen from the folder of ``file``."""
    return (file.parent / Path(name).expanduser()).resolve()


Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], settings: dict[str, Any], name: str | Path) -> Model:
    """``settings`` as a ``model``, or one sentence on the first thing that is wrong with them.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a missing one, or a value of the wrong type.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        # An unknown key first: it is usually why another one is missing.
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        raise ConfigError(_sentence(model, name, problems[0])) from None


def _sentence(model: type[BaseModel], name: str | Path, problem: Any) -> str:
    *parents, key = [str(part) for part in problem["loc"]] or [""]
    where = ".".join([*parents, key])
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, parents)
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return f"Unknown key '{where}' in {name}; " + (
            f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}."
        )
    if problem["type"] == "missing":
        return f"The key '{where}' is missing in {name}."
    if problem["type"] == "value_error":
        return f"{name}: " + (f"'{where}': " if where else "") + f"{problem['ctx']['error']}."
    wish = problem["msg"].removeprefix("Input should be ")
    return f"'{where}' in {name} should be {wish}, found {_kind(problem['input'])} {_short(problem['input'])}."


def _fields_at(model: type[BaseModel], parents: list[str]) -> list[str]:
    """The keys that are known at a place of a config, reached through fields, ``dict[str, X]`` and ``X | None``."""
    kind: Any = model
    for parent in parents:
        is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
        kind = kind.model_fields[parent].annotation if is_model else get_args(kind)[-1]
        if get_origin(kind) in (Union, UnionType):
            kind = next(part for part in get_args(kind) if part is not type(None))
    return list(kind.model_fields)


def _kind(value: Any) -> str:
    kinds = {bool: "yes/no", int: "an integer", float: "a number", str: "the text", list: "a list", dict: "a mapping"}
    return kinds.get(type(value), type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
