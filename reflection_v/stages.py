"""The six stages of ``reflection-v run``, connected to the packages that do the work.

    problems -> build -> sft -> grpo -> eval -> report

Each stage writes into its own folder of the run (``OUT/problems``, ``OUT/build``, ...), the last one ``OUT/report.html``
and ``OUT/report.json``. All configs are read and checked before the first stage starts.
"""

import contextlib
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs import bundled_config
from configs.api_key import refuse_passwords
from configs.errors import ConfigError
from configs.identity import fingerprint
from configs.jsonl import write_json_atomic
from configs.machine import usable_cores
from configs.overrides import read_config
from configs.processes import refuse_several
from configs.provenance import git_revision
from configs.run_config import STAGE_FILES, ProblemSet, RunConfig, load_run_config
from configs.run_dir import changes
from configs.schema import check_keys, fields_of, parse_config
from reflection_v.run import Stage, run_stages, stage_record
from reflection_v.terminal import terminal
from reward.user import REWARD_FILES, reward_files, with_digests
from train.precision import comparable
from train.spawn import check_training, train_stage
from vlm.identity import SCHEME, model_folder, model_identity

if TYPE_CHECKING:
    from eval.harness import EvalConfig

PATHS = (
    "problems",
    "replay_problems",
    "dataset",
    "out",
    "output_dir",
    "reward_folder",
)  # keys of stage configs that hold locations
SECRETS = ("api_key_env", "hub_token")  # they decide no result, and no record may hold them


@dataclass
class SetUse:
    """The keys of ``eval.yaml`` for a further problem set of the run config (see ``eval.harness.EvalSet``)."""

    kind: Literal["shift", "skill", "first_look"]
    style: str | None = None


@dataclass
class EvalKeys:
    """The keys of ``eval.yaml`` besides those of ``eval.harness.EvalConfig``.

    Attributes:
        base_styles: the prompt styles for the base model; the better result counts.
        style: the prompt style for the sft and the rl model.
        sets: problem sets besides ``heldout``, by their name in the run config.
    """

    base_styles: list[str] = field(default_factory=lambda: ["direct", "describe"])
    style: str = "think"
    sets: dict[str, SetUse] = field(default_factory=dict)


def run_all(
    config_path: Path | None,
    out: Path | None,
    *,
    model: str | None = None,
    reasoner: str | None = None,
    judge: str | None = None,
    processes: int | None = None,
    problems: Path | None = None,
    heldout: Path | None = None,
    only: str | None = None,
    redo: str | None = None,
) -> None:
    """``reflection-v run``.

    Args:
        config_path: None means the bundled tiny config.
        out: None means ``runs/NAME``, named after the config.
        model, reasoner, judge, processes, problems, heldout: override the config.
        only, redo: see ``reflection_v.run.run_stages``, which also lists the exceptions.
    """
    refuse_several("run")
    path = config_path or bundled_config()
    config = load_run_config(path, model=model, reasoner=reasoner, judge=judge, processes=processes)
    if problems is not None:
        config.problems["train"] = own_set(problems)
        config.problems.pop("rl", None)  # GRPO then trains on the same set
    if heldout is not None:
        config.problems["heldout"] = own_set(heldout)
    out = out or Path("runs") / (path.parent.name if path.stem == "run" else path.stem)
    console = terminal()
    records = run_stages(Pipeline(config, out).stages(), out, console, only=only, redo=redo)
    if "report" in records:
        console.print(
            f"The report is {out / 'report.html'}, its figures {out / 'report.json'}", highlight=False, soft_wrap=True
        )


def own_set(path: Path) -> ProblemSet:
    """A problem set that the command line names."""
    if not path.exists():
        raise ConfigError(f"There is no problem set at {path}.")
    return ProblemSet(path=str(path.resolve()))


class Pipeline:
    """The stages of one run.

    Raises:
        ConfigError: a wrong key or value in the config of any stage.
        UserError: a bundled model is missing.
    """

    def __init__(self, config: RunConfig, out: Path) -> None:
        from data_construction.build import BuildConfig

        self.config, self.out = config, out
        self.sets = {
            name: Path(one.path) if one.path else out / "problems" / name for name, one in config.problems.items()
        }
        self.own_keys: dict[str, dict[str, Any]] = {  # the run sets these keys and overrides the stages' files
            "build": {
                "problems": str(self.sets["train"]),
                "out": str(out / "build"),
                "model": config.model,
                "reasoner": config.reasoner,
            },
            "sft": {
                "dataset": str(out / "build" / "sft.jsonl"),
                "model": config.model,
                "output_dir": str(out / "sft"),
            },
            "grpo": {
                "problems": str(self.sets.get("rl", self.sets["train"])),
                "model": str(out / "sft"),
                "output_dir": str(out / "grpo"),
            },
            "eval": {},
        }
        if "replay" in self.sets:
            self.own_keys["build"]["replay_problems"] = str(self.sets["replay"])
        for keys in self.own_keys.values():
            keys["seed"] = config.seed
        if config.judge is not None:
            for name in ("build", "grpo", "eval"):
                self.own_keys[name]["judge"] = config.judge
        # Read all files now: an edit while an earlier stage runs must not change a later stage.
        self.keys = {name: read_config(getattr(config, name), keys) for name, keys in self.own_keys.items()}
        for (
            name,
            keys,
        ) in self.keys.items():  # records would store them, and messages about changed keys would show them
            refuse_passwords(keys, getattr(config, name))
        self.build_config = parse_config(BuildConfig, self.keys["build"], config.build)

    def stages(self) -> list[Stage]:
        """The stages in order. A stage's config holds everything that decides its result, but no paths: a run may be moved."""
        config = self.config
        vlm = {"model": config.model, "model_sha256": model_identity(config.model)}
        reasoner = {"reasoner_sha256": model_identity(config.reasoner)}
        keys = {name: placeless(keys) for name, keys in self.keys.items()}
        sft, grpo = keys["sft"] | vlm, keys["grpo"] | {"model": "sft"} | self._reward_files()
        differ = {name: partial(self.differs, name) for name in STAGE_FILES}
        sets = {name: self._set_keys(one) for name, one in config.problems.items()}
        return [
            Stage("problems", self.problems, {"seed": config.seed, "sets": sets}, (), ("problems",)),
            Stage(
                "build",
                self.build,
                keys["build"] | vlm | reasoner,
                ("problems",),
                ("build",),
                self.check_build,
                differ["build"],
            ),
            Stage("sft", self.sft, sft, ("build",), ("sft",), self.check_sft, differ["sft"]),
            Stage("grpo", self.grpo, grpo, ("sft",), ("grpo",), self.check_grpo, differ["grpo"]),
            Stage(
                "eval", self.evaluate, keys["eval"] | vlm, ("sft", "grpo"), ("eval",), self.check_eval, differ["eval"]
            ),
            Stage("report", self.report, {}, ("eval",), ("report.html", "report.json")),
        ]

    def differs(self, name: str, before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
        """What differs between the recorded config of a stage and this one. Records of earlier versions are converted first.

        A training stage keeps the recorded precision, even if ``auto`` would choose another one on this machine.
        """
        before, now = placeless(self._with_identities(before)), placeless(now)
        if name in ("sft", "grpo"):
            before, now = comparable(before, now, self.out / name)
        return changes(with_digests(before), with_digests(now))

    def _with_identities(self, before: dict[str, Any]) -> dict[str, Any]:
        """A recorded config with model identities of earlier versions replaced by today's, if the model is the same."""
        for key, model in (("model_sha256", self.config.model), ("reasoner_sha256", self.config.reasoner)):
            folder, known = model_folder(model), before.get(key)
            if folder is not None and known and not known.startswith(SCHEME) and known == fingerprint(folder):
                before = {**before, key: model_identity(model)}
        return before

    def _reward_files(self) -> dict[str, Any]:
        """The checksums of the user's own reward files. If one is missing there are none, and ``check_grpo`` reports it."""
        rewards = self.keys["grpo"].get("rewards")
        names = [str(name) for name in rewards if ".py:" in str(name)] if isinstance(rewards, dict) else []
        if not names:
            return {}
        from reward.aggregate import source_of

        folder = self.keys["grpo"].get("reward_folder") or self.keys["grpo"].folder
        with contextlib.suppress(ConfigError, OSError):
            return {REWARD_FILES: reward_files(map(source_of, names), Path(str(folder)))}
        return {}

    def problems(self) -> dict[str, Any]:
        """Draw the problem sets of bundled sources, and read the user's own ones."""
        from data_construction.sources import write_set
        from vlm.problem import read_problems

        (self.out / "problems").mkdir(exist_ok=True)
        for name, one in self.config.problems.items():
            folder = self.sets[name]
            if (
                one.path is None and not (folder / "problems.jsonl").exists()
            ):  # this file is written last, so it marks a complete set
                assert one.source is not None and one.n is not None and one.split is not None
                seed = self.config.seed if one.seed is None else one.seed
                write_set(one.source, one.n, seed, one.split, folder, **one.knobs())
        return {name: len(read_problems(folder)) for name, folder in self.sets.items()}

    def build(self) -> dict[str, Any]:
        from data_construction.build import run_build

        return run_build(self.build_config)  # one that keeps nothing may still give direct rows for the cold start

    def check_build(self) -> None:
        """Check the prompts and the servers' keys now, since the build would need them only after the problems are drawn."""
        from data_construction.difficulty import check_servers
        from data_construction.prompts import load_prompts
        from data_construction.roles import check_role_keys

        build = self.build_config
        load_prompts(build.prompts)
        check_role_keys(build.model, build.reasoner, build.roles)
        if build.difficulty is not None:
            check_servers(build.difficulty)

    def sft(self) -> dict[str, Any]:
        from train.sft import load_sft, run_sft

        return train_stage("train/sft.py", load_sft, run_sft, self.keys["sft"], self.config.processes)

    def check_sft(self) -> None:
        from train.sft import load_sft

        check_training(load_sft, self.keys["sft"], self.config.processes)

    def grpo(self) -> dict[str, Any]:
        from train.grpo import load_grpo, run_grpo

        return train_stage("train/grpo.py", load_grpo, run_grpo, self.keys["grpo"], self.config.processes)

    def check_grpo(self) -> None:
        from train.grpo import load_grpo

        check_training(load_grpo, self.keys["grpo"], self.config.processes)

    def evaluate(self) -> dict[str, Any]:
        """Evaluate all three models on the held-out problems. Returns the accuracies; ``eval/eval.json`` has the rest."""
        from eval import harness
        from vlm.problem import read_problems

        own, measured = self.check_eval()
        models: dict[str, dict[str, Any]] = {
            "base": {"path": self.config.model, "styles": own.base_styles},
            "sft": {"path": str(self.out / "sft"), "style": own.style},
            "rl": {"path": str(self.out / "grpo"), "style": own.style},
        }
        sets = {
            name: harness.EvalSet(use.kind, read_problems(self.sets[name]), use.style) for name, use in own.sets.items()
        }
        heldout = read_problems(self.sets["heldout"])
        report = harness.evaluate(models, heldout, self.out / "eval", measured, sets)
        write_json_atomic(self.out / "eval" / "eval.json", report)
        return {f"accuracy of {name}": one["accuracy"]["value"] for name, one in report["models"].items()}

    def check_eval(self) -> tuple[EvalKeys, "EvalConfig"]:
        """The checked keys of ``eval.yaml``: those for the run, and those for the evaluation."""
        from eval.harness import EvalConfig

        where = self.config.eval
        keys = check_keys(self.keys["eval"], EvalKeys, EvalConfig, where=where)
        own, measured = (
            parse_config(cls, {key: value for key, value in keys.items() if key in fields_of(cls)}, where)
            for cls in (EvalKeys, EvalConfig)
        )
        for name in own.sets:
            if name not in self.sets:
                raise ConfigError(f"{where}: 'sets' names '{name}', which is no problem set of the run config.")
        return own, measured

    def report(self) -> dict[str, Any]:
        """``report.json`` (docs/evaluation.md lists its keys) and ``report.html``."""
        from eval.report import write_report

        records = {stage: stage_record(self.out, stage) or {} for stage in ("problems", "build", "sft", "grpo", "eval")}
        report = json.loads((self.out / "eval" / "eval.json").read_text(encoding="utf-8"))
        report |= {
            "data": records["build"]["result"],
            "sft": records["sft"]["result"],
            "grpo": records["grpo"]["result"],
            "seconds": {stage: record["seconds"] for stage, record in records.items()},
            "attempts": {stage: record["attempts"] for stage, record in records.items()},
            "load_average": {stage: record["load_average"] for stage, record in records.items()},
            "peak_memory_gb": max(record["peak_memory_gb"] for record in records.values()),
            "versions": report["versions"] | {"git": git_revision()},
            "cpus": usable_cores(),
            "seed": self.config.seed,
        }
        logs = {stage: self.out / stage / "log.jsonl" for stage in ("sft", "grpo")}
        write_report(report, self.out, logs=logs, samples=self.out / "eval" / "samples.json")
        return {}

    def _set_keys(self, one: ProblemSet) -> dict[str, Any]:
        if one.path is None:
            return one.model_dump(exclude_none=True)
        path = Path(one.path)
        return {"sha256": fingerprint(path / "problems.jsonl" if path.is_dir() else path)}


def placeless(keys: dict[str, Any]) -> dict[str, Any]:
    """The keys without ``PATHS``, and without ``SECRETS`` at any depth."""
    return {key: _without_secrets(value) for key, value in keys.items() if key not in (*PATHS, *SECRETS)}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(inner) for key, inner in value.items() if key not in SECRETS}
    return value
