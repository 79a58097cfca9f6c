"""The config of a training stage: the keys of this project beside TRL's, and how both are made of one mapping.

TRL's own parser lets ``num_generations: [1, 2]`` and ``max_completion_length: 12.7`` pass, and on a machine without an
accelerator it fails on bf16 before it names an unknown key. So keys and types are checked (``configs.schema``) before TRL
sees them.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from configs import bundled_config
from configs.api_key import refuse_passwords
from configs.errors import ConfigError, UserError
from configs.overrides import read_config
from configs.packages import needs
from configs.processes import joining, settle_processes
from configs.schema import check_keys, fields_of, parse_config
from configs.versions import is_installed
from reward.aggregate import Term
from train.precision import Choice, Precision, resolve
from train.resume import Resumption, course, resumption

Style = Literal["think", "direct", "describe", "none"]

# How the layers are called, across families, that map vision features to the language model, and the vision towers.
MERGER_NAMES = ("merger", "multi_modal_projector", "connector", "aligner", "mlp1", "vision_projection")
VISION_NAMES = ("visual", "vision_tower", "vision_model", "vision_encoder")


@dataclass
class Lora:
    """Low-rank adapters in place of full training (PEFT): the model itself stays frozen.

    At the end they are merged, so that ``output_dir`` holds a standard model; the adapter alone is in its ``adapter/``.

    Attributes:
        r: the rank.
        alpha: the adapters' output is scaled by ``alpha / r``.
        dropout: on their input, in [0, 1).
        targets: names of the linear layers of the language model to adapt; all of its blocks' where not given, found from
            the model (``train.lora``).
        train_merger: train the merger in full beside the adapters.
    """

    r: int = 64
    alpha: int = 128
    dropout: float = 0.0
    targets: list[str] | None = None
    train_merger: bool = False


@dataclass
class ModelOptions:
    """What both training stages say about the model.

    Attributes:
        model: ``tiny`` (the bundled one), a folder or a hub name.
        dtype: the dtype of the weights. Training wants float32 where memory allows: AdamW's small updates round away in
            bfloat16 weights.
        precision: of the arithmetic (``train.precision``): ``bfloat16`` autocast, ``float32``, or ``auto``, the faster one of
            them on this machine. TRL's ``bf16`` and ``fp16`` decide where not given.
        freeze_vision: keep the vision tower as it is (its merger is named apart, below).
        freeze_merger: keep the layers that map vision features to the language model.
        min_pixels, max_pixels: limits of an image's area after resizing; the processor's own where not given.
        lora: see ``Lora``; all weights that are not frozen are trained where not given.
        gpus: the number of processes that the batch sizes are meant for; ``--check`` and ``--plan`` count with it, and a
            run with another number says so.
    """

    model: str = "tiny"
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    precision: Literal["auto", "bfloat16", "float32"] | None = None
    freeze_vision: bool = False
    freeze_merger: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None
    lora: Lora | None = None
    gpus: int | None = None


@dataclass
class SftOptions(ModelOptions):
    """The cold start's own keys, beside those of TRL's ``SFTConfig``.

    Attributes:
        dataset: JSON Lines of rows ``{"prompt", "completion", "images", "masked", "mode"}`` (docs/your-own-data.md).
        max_row_tokens: rows whose prompt and completion are longer are dropped before training and counted.
    """

    dataset: str = ""
    max_row_tokens: int | None = None


@dataclass
class PromptSelection:
    """Which prompts GRPO trains on: those that the start checkpoint solves sometimes.

    A group in which all answers are right, or all wrong, carries no signal; so ``samples`` responses are drawn for each
    candidate and those right in ``min_right`` to ``max_right`` of them are kept.

    Attributes:
        candidates: look at the first so many problems of the (seeded) shuffled set; all where not given.
        prompts: stop as soon as so many are found; no limit where not given.
        at_least: fill up to so many with candidates out of range where fewer are found (they carry no signal until the
            model changes); 0 refuses to train when none is in range.
        batch_size: responses generated at once.
        temperature: of these samples; training's own where not given.
        max_new_tokens: training's ``max_completion_length`` where not given.
    """

    samples: int = 8
    min_right: int = 1
    max_right: int = 7
    candidates: int | None = None
    prompts: int | None = None
    at_least: int = 0
    batch_size: int = 64
    temperature: float | None = None
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= 1024:
            raise ConfigError(f"'prompt_selection.samples' must be 1 to 1024, found {self.samples}.")
        if not 0 <= self.min_right <= self.max_right <= self.samples:
            raise ConfigError(
                f"'prompt_selection' must have 0 <= min_right <= max_right <= samples, found {self.min_right}, "
                f"{self.max_right} and {self.samples}."
            )
        for name in ("candidates", "prompts", "batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"'prompt_selection.{name}' must be at least 1, found {value}.")


@dataclass
class GrpoOptions(ModelOptions):
    """GRPO's own keys, beside those of TRL's ``GRPOConfig``.

    Attributes:
        problems: a problem set (folder or JSON Lines).
        rewards: by name a weight, or weight, gate and std (``reward.aggregate.Term``). Names are those of
            ``reward.aggregate.KNOWN``, ``shuffled(NAME)`` for the control of one, and ``FILE.py:FUNCTION`` for a reward of
            one's own.
        reward_folder: where such files are looked for first; the config's folder where not given.
        reward_seconds: what such a reward may take for one response before it counts as a timeout.
        responder: the model that ``process_claims`` asks about claims which the problem's facts do not cover: a folder, a
            hub name or ``openai:NAME@URL``; they are skipped where not given.
        attention_layers: whose attention counts: ``last``, ``all``, or a list of layer numbers.
        attention_rows: the row of the token itself (``token``, the published form) or the one that predicts it.
        lift_floor: share of the first-half lift below which ``grounding_penalty`` charges.
        drop_in_constant_groups: set all terms but accuracy and format to 0 in groups whose accuracy is constant.
        blank_pictures: train with every image painted grey: the control that says what is learned without looking.
        probe_prompts: of ``--probe``.
        style: the instruction after each question (``vlm.chat.INSTRUCTIONS``).
        max_prompt_tokens: problems with a longer prompt are dropped before training and counted.
        max_logprob_gap: with vLLM, end the run when the mean difference between the log-probabilities of sampling and of
            training is larger (nats a token); ``null`` only logs it.
        domain_weights: share of the prompts by domain (they are divided by their sum); a domain with too few problems gives
            them several times an epoch, one that is not named gives none. Every problem once where not given.
        curriculum: ``easy_first`` takes the prompts in the order of their pass rates, the easiest first, in every epoch.
        prompt_selection: see ``PromptSelection``; ``null`` trains on every problem.
    """

    problems: str = ""
    rewards: dict[str, float | Term] = field(default_factory=lambda: {"accuracy": 1.0, "format": 0.2})
    attention_layers: Literal["last", "all"] | list[int] = "last"
    attention_rows: Literal["token", "predicting"] = "token"
    lift_floor: float = 0.8
    drop_in_constant_groups: bool = False
    reward_folder: str | None = None
    reward_seconds: float = 10.0
    responder: str | None = None
    blank_pictures: bool = False
    probe_prompts: int = 32
    style: Style = "think"
    max_prompt_tokens: int | None = None
    max_logprob_gap: float | None = 0.1
    domain_weights: dict[str, float] | None = None
    curriculum: Literal["none", "easy_first"] = "none"
    prompt_selection: PromptSelection | None = field(default_factory=PromptSelection)

    def __post_init__(self) -> None:
        if self.reward_seconds <= 0:
            raise ConfigError(f"'reward_seconds' must be above 0, found {self.reward_seconds}.")
        if not 0 < self.lift_floor < math.inf:
            raise ConfigError(f"'lift_floor' must be a number above 0, found {self.lift_floor}.")
        if self.probe_prompts < 2:
            raise ConfigError(f"'probe_prompts' must be at least 2, found {self.probe_prompts}.")


_PROCESSES: ContextVar[int | None] = ContextVar("processes", default=None)


@contextlib.contextmanager
def as_if(processes: int | None) -> Iterator[None]:
    """Inside this, configs are checked as by one of so many processes, though there is only this one."""
    token = _PROCESSES.set(processes)
    try:
        yield
    finally:
        _PROCESSES.reset(token)


def _for_processes(trl_class: type) -> type:
    processes = _PROCESSES.get()
    if processes is None:
        return trl_class
    return type(trl_class.__name__, (trl_class,), {"world_size": property(lambda self: processes)})


@dataclass
class StageConfig:
    """A checked config: TRL's arguments, our options, and the plain settings they came from (for the run's record).

    In ``settings`` the precision is the resolved one. ``course`` (``train.resume.course``) is that of ``args``, in which
    ``resumption`` has changed what keeps the rows of a step.
    """

    args: Any
    options: Any
    settings: dict[str, Any]
    precision: Precision
    course: dict[str, Any]
    resumption: Resumption


def load_stage(
    source: str | Path | Mapping[str, Any],
    options_class: type,
    trl_class: type,
    required: Sequence[str],
    defaults: Mapping[str, Any],
    refused: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
) -> StageConfig:
    """Read, check and build the config of a training stage.

    Args:
        required: keys without which the stage cannot start.
        defaults: values that this project sets in place of TRL's own, for keys that the config leaves out.
        refused: keys of TRL that another key of this project stands for, with the reason.

    Raises:
        ConfigError: anything wrong with a key, a type or a value, in one sentence; or see ``configs.processes``.
        UserError: the other processes do not come.
    """
    given = read_config(source, overrides)
    where = given.where
    for key, reason in refused.items():
        if given.get(key) not in (None, False, defaults.get(key)):
            raise ConfigError(f"'{key}' in {where}: {reason}")
    checked = check_keys(given, options_class, trl_class, where=where)
    refuse_passwords(checked, where)  # all of them are kept in the run's folder
    for key in required:
        if not checked.get(key):
            raise ConfigError(f"{where} must say '{key}'.")
    if isinstance(checked.get("deepspeed"), str):
        checked["deepspeed"] = _deepspeed_file(checked["deepspeed"], where)
    if checked.get("deepspeed") and not is_installed("deepspeed"):  # TRL's arguments cannot even be built
        raise UserError(needs("deepspeed", "deepspeed"))
    settings = {**defaults, **checked}
    ours = {key: value for key, value in settings.items() if key in fields_of(options_class)}
    theirs = {key: value for key, value in settings.items() if key not in ours}
    precision = resolve(settings, where)
    # Before TRL's arguments are built: they and DeepSpeed's config take it from here.
    theirs |= {"bf16": precision.name == "bfloat16", "fp16": precision.name == "float16"}
    if precision.name in get_args(Choice):
        settings["precision"] = precision.name
    options = parse_config(options_class, ours, where)
    processes = settle_processes()  # TRL's arguments open the process group
    count = _PROCESSES.get() or processes.count
    resumed = resumption(settings, count)
    theirs |= resumed.keys
    try:
        with warnings.catch_warnings(), joining(processes):
            # TRL itself sets the key under its former name
            warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)
            args = _for_processes(trl_class)(**{**_device_defaults(checked), **theirs})
    except (ValueError, TypeError, ImportError) as error:
        if resumed.refusal is not None:  # the likelier reason
            raise resumed.refusal from None
        raise ConfigError(f"{where}: {' '.join(str(error).split())}") from None
    return StageConfig(args, options, settings, precision, course(vars(args), count), resumed)


def _deepspeed_file(name: str, where: str) -> str:
    """The DeepSpeed config of that name: as given, or the one of this project that stands under ``configs/``."""
    bundled = bundled_config(name.removeprefix("configs/"))
    for path in (Path(name), bundled):
        if path.is_file():
            return str(path)
    raise ConfigError(f"'deepspeed' in {where}: there is no file {name}; this project's are under configs/deepspeed/.")


def _device_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without an accelerator: the CPU, no pinned memory."""
    import torch

    if torch.accelerator.is_available() and not given.get("use_cpu"):
        return {}
    return {"use_cpu": True, "dataloader_pin_memory": False}
