"""The config of a build, its folder, and what identifies the build in a folder."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from configs.identity import data_sha256
from configs.run_dir import RunDir, changes, read_record
from configs.schema import ModelName, StrictModel
from data_construction.agent import LoopConfig
from data_construction.dataset import MixConfig
from data_construction.difficulty import DifficultyConfig
from data_construction.quality import QualityConfig
from data_construction.records import ROLES
from data_construction.replay import REPLIES, ROWS, ReplayConfig
from data_construction.roles import RolesConfig
from data_construction.zooming import CROPS
from reward.judge import JudgeKey, prompt_sha256, read_judge
from vlm.identity import model_identity
from vlm.stored_problems import StoredProblems

BUILD_WRITES = (
    *("replies.jsonl", "traces.jsonl", "difficulty.jsonl", "difficulty_replies.jsonl", ROWS, REPLIES),
    *("sft.jsonl", "filtered.jsonl", CROPS),
    *("config.json", "build.json", "stats.json", "stats.png", "hf"),
)


class BuildConfig(StrictModel):
    """The keys of ``build.yaml``.

    Attributes:
        problems: the problem set (folder or JSON Lines file).
        out: the folder of ``replies.jsonl``, ``traces.jsonl``, ``sft.jsonl`` and ``build.json``.
        model: the visual responder: ``tiny``, a model folder or hub name, or ``openai:NAME@URL``.
        reasoner: the text reasoner that requests, concludes and rewrites; named in the same ways.
        roles: see ``RolesConfig``.
        prompts: ``short``, ``full``, ``few_shot`` (for small models and base models) or a folder of templates.
        concurrency: episodes at the same time.
        batch_size: requests per batch of an in-process model; dtype: of its weights.
        stop_after: the build ends if the model of a role gives no reply this many times in a row; after five where the server says
            that no later request will succeed (the key, the model's name, the account's quota, no vision).
        difficulty: see ``DifficultyConfig``; None skips the measurement.
        replay_problems: a second problem set, of a skill that the cold start must not lose (folder or JSON Lines file); the
            responder's own correct responses to it join the cold-start set (``data_construction.replay``). Empty for none.
        replay: see ``ReplayConfig``.
        loop: see ``LoopConfig``; quality: see ``QualityConfig``; mix: see ``MixConfig``.
        judge: the model that grades answers of domain ``open``: ``openai:NAME@URL``, or keys of ``reward.judge.JudgeConfig``. By
            default such problems are dropped.
        seed: of all sampling.
    """

    problems: str = ""
    out: str = ""
    model: ModelName = "tiny"
    reasoner: ModelName = "tiny-reasoner"
    roles: RolesConfig = RolesConfig()
    prompts: str = "full"
    concurrency: int = Field(default=256, ge=1)
    batch_size: int = Field(default=64, ge=1)
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    stop_after: int = Field(default=50, ge=1)
    loop: LoopConfig = LoopConfig()
    difficulty: DifficultyConfig | None = None
    quality: QualityConfig = QualityConfig()
    mix: MixConfig = MixConfig()
    replay_problems: str = ""
    replay: ReplayConfig = ReplayConfig()
    judge: JudgeKey = None
    seed: int = 0


def build_dir(out: str | Path) -> RunDir:
    """The folder of a build."""
    return RunDir(Path(out), "build", BUILD_WRITES, _is_build, result="build.json")


def _is_build(folder: Path) -> bool:
    config = folder / "config.json"
    if config.exists():  # a model's folder has a config.json, too
        return {"reasoner", "prompts"} <= read_record(config).keys()
    return (folder / "replies.jsonl").exists()  # a build of an earlier version


def record_of(config: BuildConfig) -> dict[str, Any]:
    """What identifies a build, for its folder's record: models, prompts, seed, loop, judge and difficulty.

    Of a server only the model's name counts, since its address may change; of a local model, the content of its files.
    Filters, mix and limits may change, because all that depends on them is made again.
    """
    now = {key: getattr(config, key).split("@http")[0] for key in ("model", "reasoner", "prompts")}
    models = {role: config.roles.of(role).model for role in ROLES}
    now |= {f"roles.{role}.model": model and model.split("@http")[0] for role, model in models.items()}
    now |= {"seed": config.seed, "loop": config.loop.model_dump()}
    if config.difficulty is not None:
        measured = config.difficulty.model_dump(include={"weak", "strong", "samples", "temperature", "max_tokens"})
        measured |= {key: measured[key].split("@http")[0] for key in ("weak", "strong")}
        now |= {f"difficulty.{key}": value for key, value in measured.items()}
        now |= {
            f"difficulty.{key}_sha256": model_identity(getattr(config.difficulty, key)) for key in ("weak", "strong")
        }
    named = {"model": config.model, "reasoner": config.reasoner} | {f"roles.{r}.model": m for r, m in models.items()}
    now |= {f"{key}_sha256": model_identity(model) for key, model in named.items() if model}
    if config.replay_problems:
        now |= {f"replay.{key}": value for key, value in config.replay.model_dump(exclude={"share"}).items()}
        now["replay.problems_sha256"] = data_sha256(StoredProblems(config.replay_problems).path)
    if (asked := read_judge(config.judge)) is not None:
        now |= {"judge": asked.model.split("@http")[0], "judge_prompt": prompt_sha256()}
    return now


def changed_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys in which two records of builds differ, among those that both have.

    No episode depends on a key that only one of them has (recorded by an earlier version, or difficulty added later).
    """
    shared = before.keys() & now.keys()
    return sorted(changes({key: before[key] for key in shared}, {key: now[key] for key in shared}))


def same_build(config: BuildConfig, run: RunDir, further: dict[str, Any] | None = None) -> None:
    """Refuse a folder with traces of other models, prompts or seeds, since a finished episode is found by its problem alone.

    Args:
        further: keys of the record beside those of ``record_of``.
    """
    now = record_of(config) | (further or {})
    before = run.known() or {}
    changed = changed_keys(before, now)
    if any(key.startswith("loop.") for key in changed):
        print(
            f"'loop' has changed since the first episodes in {run.path}; finished episodes stay as they are.",
            flush=True,
        )
    if any(key.startswith("replay.") for key in changed):  # they are few, and no episode depends on them
        (run.path / ROWS).unlink(missing_ok=True)
    run.refuse(key for key in changed if not key.startswith(("loop.", "replay.")))
    run.write(before | now)


def finished_runs(run: RunDir) -> int:
    """How many complete builds this folder has seen."""
    counts = run.finished()
    return 0 if counts is None else int(counts.get("runs", 1))
