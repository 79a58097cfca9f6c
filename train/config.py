"""The config of a training stage: this project's keys beside TRL's, both built from one mapping.

TRL's own parser lets ``num_generations: [1, 2]`` and ``max_completion_length: 12.7`` pass, and on a machine without an
accelerator it fails on bf16 before it names an unknown key. So keys and types are checked (``configs.schema``) before TRL
sees them.
"""

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from reward.judge import JudgeKey, check_judge
from train.constructor import check_numbers, constructor_sentence
from train.precision import Choice, Precision, resolve
from train.resume import Resumption, course, resumption
from vlm.pixel_limits import check_pixel_limits
from vlm.tools import ZoomSettings

Style = Literal["think", "direct", "describe", "none"]

# Names, across model families, of the layers that map vision features to the language model, and of the vision towers.
MERGER_NAMES = ("merger", "multi_modal_projector", "connector", "aligner", "mlp1", "vision_projection", "embed_vision")
VISION_NAMES = ("visual", "vision_tower", "vision_model", "vision_encoder")
AUDIO_NAMES = ("audio_tower", "audio_model", "embed_audio")  # never trained: no row has sound


@dataclass
class Lora:
    """Train low-rank adapters (PEFT) instead of all weights.

    The adapters are merged at the end, so ``output_dir`` holds a standard model. Its ``adapter/`` holds the adapter alone.

    Attributes:
        r: the rank.
        alpha: the adapters' output is scaled by ``alpha / r``.
        dropout: on the adapters' input, in [0, 1).
        targets: names of the language model's linear layers to adapt. By default all linear layers of its blocks, as
            ``train.lora`` finds them.
        train_merger: train the merger in full beside the adapters.
        bits: load the weights that adapters are trained on in 4 bits (QLoRA) or 8, by bitsandbytes (``train.quantization``).
            They are merged into the unquantized model.
    """

    r: int = 64
    alpha: int = 128
    dropout: float = 0.0
    targets: list[str] | None = None
    train_merger: bool = False
    bits: Literal[4, 8] | None = None


@dataclass
class ModelOptions:
    """The keys about the model, the same in both training stages.

    Attributes:
        model: ``tiny`` (the bundled one), a folder or a hub name.
        dtype: the dtype of the weights. Use float32 if memory allows: in bfloat16 weights AdamW's small updates round to 0.
        precision: of the arithmetic (``train.precision``): ``bfloat16`` autocast, ``float32``, or ``auto``, the faster of the
            two on this machine. By default TRL's ``bf16`` and ``fp16`` decide.
        freeze_vision: freeze the vision tower, without its merger.
        freeze_merger: freeze the layers that map vision features to the language model.
        min_pixels, max_pixels: limits of an image's area after resizing. By default the processor's.
        lora: see ``Lora``. By default all weights are trained that are not frozen.
        gpus: the number of processes that the batch sizes are meant for. ``--check`` and ``--plan`` calculate with it, and a
            run with another number prints a line.
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

    def __post_init__(self) -> None:
        check_pixel_limits(self.min_pixels, self.max_pixels)


@dataclass
class SftOptions(ModelOptions):
    """The cold start's own keys, beside those of TRL's ``SFTConfig``.

    Attributes:
        dataset: JSON Lines of rows ``{"prompt", "completion", "images", "masked", "mode"}`` (docs/your-own-data.md).
        max_row_tokens: rows whose prompt and completion are longer are dropped before training and counted.
        held_out: the share of the rows that are not trained on, and whose loss (``eval_loss`` in the log) is measured at each
            checkpoint (``train.held_out``). 0 holds none out.
    """

    dataset: str = ""
    max_row_tokens: int | None = None
    held_out: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.held_out < 1:
            raise ConfigError(
                f"'held_out' must be at least 0 and below 1, found {self.held_out}: set the share of the rows that are not trained "
                "on, such as 0.05, or 0 to train on all of them."
            )


@dataclass
class PromptSelection:
    """Which prompts GRPO trains on: those that the start checkpoint solves sometimes.

    A group whose answers are all correct, or all incorrect, carries no signal. So ``samples`` responses are drawn for each
    candidate, and the candidates with ``min_right`` to ``max_right`` correct ones are kept.

    Attributes:
        candidates: the number of problems to sample, from the start of the (seeded) shuffled set. By default all.
        prompts: stop when this number of prompts is found. By default no limit.
        at_least: if fewer are found, add candidates out of range up to this number (they carry no signal until the model
            changes). With 0, a run without any prompt in range is refused.
        batch_size: responses generated at once.
        temperature: of these samples. By default training's.
        max_new_tokens: of these samples. By default training's ``max_completion_length``.
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
            raise ConfigError(
                f"'prompt_selection.samples' must be 1 to 1024, found {self.samples}: set the number of responses per problem "
                "from which its pass rate is estimated, usually 8."
            )
        if not 0 <= self.min_right <= self.max_right <= self.samples:
            raise ConfigError(
                f"'prompt_selection' keeps prompts with min_right to max_right correct responses of 'samples', found "
                f"{self.min_right}, {self.max_right} and {self.samples}: set 0 <= min_right <= max_right <= samples."
            )
        for name in ("candidates", "prompts", "batch_size", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(
                    f"'prompt_selection.{name}' must be at least 1, found {value}: raise it, or remove it for the default."
                )


@dataclass
class GrpoOptions(ModelOptions):
    """GRPO's own keys, beside those of TRL's ``GRPOConfig``.

    Attributes:
        problems: a problem set (folder or JSON Lines).
        rewards: by name a weight, or weight, gate and std (``reward.aggregate.Term``). Names are those of
            ``reward.aggregate.KNOWN``, ``shuffled(NAME)`` for the control of one, and ``FILE.py:FUNCTION`` for a user's own.
        reward_folder: the folder that such files are relative to. By default the config's folder.
        reward_seconds: the time limit of such a reward for one response; after it the response counts as a timeout.
        responder: the model that ``process_claims`` asks about claims which the problem's facts do not cover: a folder, a
            hub name or ``openai:NAME@URL``. By default such claims are skipped.
        claim_extractor: the language model that finds claims in sentences in which the grammar finds none, named like ``responder``. By
            default such sentences are left.
        judge: the model that grades answers of domain ``open``, ``openai:NAME@URL``, or keys of ``reward.judge.JudgeConfig``. By
            default such problems are dropped.
        attention_layers: whose attention is measured: ``last``, ``all``, or a list of layer numbers.
        attention_rows: the query row of the token itself (``token``, the published form) or the one that predicts it.
        lift_floor: the share of the first-half lift below which ``grounding_penalty`` applies.
        drop_in_constant_groups: set all terms but accuracy and format to 0 in groups whose accuracy is constant.
        blank_pictures: a control: every image is replaced by a grey one, to measure what is learned without images.
        probe_prompts: the number of prompts of ``--probe``.
        style: the instruction after each question (``vlm.chat.INSTRUCTIONS``).
        max_prompt_tokens: problems with a longer prompt are dropped before training and counted.
        max_logprob_gap: with vLLM, end the run if the mean difference between the log-probabilities of sampling and of
            training is larger (nats per token). ``null`` only logs it.
        domain_weights: share of the prompts by domain (normalized by their sum). The problems of a small domain are repeated
            within an epoch, and those of a domain that is not named are left out. By default every problem comes once.
        curriculum: ``easy_first`` orders the prompts by pass rate in every epoch, the easiest first.
        prompt_selection: see ``PromptSelection``; ``null`` trains on every problem.
        zoom: let the model call the zoom tool; see ``vlm.tools.ZoomSettings`` (``zoom: {max_looks: 4}``). By default it has no tool.
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
    claim_extractor: str | None = None
    judge: JudgeKey = None
    blank_pictures: bool = False
    probe_prompts: int = 32
    style: Style = "think"
    max_prompt_tokens: int | None = None
    max_logprob_gap: float | None = 0.1
    domain_weights: dict[str, float] | None = None
    curriculum: Literal["none", "easy_first"] = "none"
    prompt_selection: PromptSelection | None = field(default_factory=PromptSelection)
    zoom: ZoomSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_judge(self.judge)
        if self.zoom is not None and any("image_information" in name for name in self.rewards):
            raise ConfigError(
                "'image_information' cannot be computed for responses with crops, which have no counterpart in another image: remove it "
                "from 'rewards', or remove 'zoom'."
            )
        if self.zoom is not None and self.prompt_selection is not None:
            raise ConfigError(
                "'prompt_selection' samples answers without the tool, so with 'zoom' it would leave out the problems that need it: set "
                "prompt_selection: null."
            )
        if self.reward_seconds <= 0:
            raise ConfigError(
                f"'reward_seconds' must be above 0, found {self.reward_seconds}: set the seconds that a reward of your own may "
                "take for one response."
            )
        if not 0 < self.lift_floor < math.inf:
            raise ConfigError(
                f"'lift_floor' must be a number above 0, found {self.lift_floor}: the penalty is relative to it. To switch the "
                "penalty off, remove 'grounding_penalty' from 'rewards'."
            )
        if self.probe_prompts < 2:
            raise ConfigError(
                f"'probe_prompts' must be at least 2, found {self.probe_prompts}: a correlation needs two prompts, and 32 or "
                "more are useful."
            )


_PROCESSES: ContextVar[int | None] = ContextVar("processes", default=None)


@contextlib.contextmanager
def as_if(processes: int | None) -> Iterator[None]:
    """Within this context, configs are checked as if this were one of that many processes."""
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
    """A checked config: TRL's arguments, our options, and the plain settings that both came from (for the run's record).

    ``settings`` hold the resolved precision. ``course`` (``train.resume.course``) is that of ``args``, after ``resumption``
    has adapted them so that a step keeps its rows.
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
    derived: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> StageConfig:
    """Read, check and build the config of a training stage.

    Args:
        required: keys without which the stage cannot start.
        defaults: this project's defaults, which replace TRL's.
        derived: returns further defaults, which depend on the checked keys.
        refused: keys of TRL that this project sets itself or replaces by a key of its own, each with the reason and remedy.

    Raises:
        ConfigError: a key, a type or a value is wrong; or see ``configs.processes``.
        UserError: the other processes cannot be reached, or DeepSpeed is not installed.
    """
    given = read_config(source, overrides)
    where = given.where
    for key, reason in refused.items():
        if given.get(key) not in (None, False, defaults.get(key)):
            raise ConfigError(f"'{key}' in {where}: {reason}")
    checked = check_keys(given, options_class, trl_class, where=where)
    refuse_passwords(checked, where)  # the run's folder keeps all settings in a file
    for key in required:
        if not checked.get(key):
            raise ConfigError(f"'{key}' is missing in {where}: set it there, or give --{key}.")
    if isinstance(checked.get("deepspeed"), str):
        checked["deepspeed"] = _deepspeed_file(checked["deepspeed"], where)
    if checked.get("deepspeed") and not is_installed("deepspeed"):  # without it TRL's arguments cannot be built
        raise UserError(needs("deepspeed", "deepspeed"))
    settings = {**defaults, **(derived(checked) if derived else {}), **checked}
    check_numbers(settings, where)
    ours = {key: value for key, value in settings.items() if key in fields_of(options_class)}
    theirs = {key: value for key, value in settings.items() if key not in ours}
    precision = resolve(settings, where)
    # Resolved before TRL's arguments are built, because they and DeepSpeed's config take their dtype from it.
    theirs |= {"bf16": precision.name == "bfloat16", "fp16": precision.name == "float16"}
    if precision.name in get_args(Choice):
        settings["precision"] = precision.name
    options = parse_config(options_class, ours, where)
    # Before TRL's arguments, because building them opens the process group.
    processes = settle_processes()
    count = _PROCESSES.get() or processes.count
    resumed = resumption(settings, count)
    theirs |= resumed.keys
    try:
        with warnings.catch_warnings(), joining(processes):
            # TRL itself still sets this key
            warnings.filterwarnings("ignore", "`gradient_checkpointing` is deprecated", FutureWarning)
            args = _for_processes(trl_class)(**{**_device_defaults(checked), **theirs})
    except (ValueError, TypeError, ImportError) as error:
        if resumed.refusal is not None:  # batch sizes that do not fit the number of processes: the better explanation
            raise resumed.refusal from None
        raise ConfigError(f"{where}: {constructor_sentence(str(error))}") from None
    return StageConfig(args, options, settings, precision, course(vars(args), count), resumed)


def _deepspeed_file(name: str, where: str) -> str:
    """The DeepSpeed config with this name: a file as given, or one that ships under ``configs/``."""
    bundled = bundled_config(name.removeprefix("configs/"))
    for path in (Path(name), bundled):
        if path.is_file():
            _check_json(path, where)
            return str(path)
    raise ConfigError(
        f"'deepspeed' in {where}: there is no file {name}; give the path of a DeepSpeed config, or one of configs/deepspeed/."
    )


def _check_json(path: Path, where: str) -> None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"'deepspeed' in {where}: {path} is not valid JSON ({error}): fix it.") from None
    if not isinstance(data, dict) or not isinstance(data.get("zero_optimization", {}), dict):
        raise ConfigError(
            f"'deepspeed' in {where}: {path} is no DeepSpeed config: it must be one JSON object, in which zero_optimization is "
            "an object too."
        )


def _device_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """TRL's arguments for a machine without accelerator: train on the CPU, without pinned memory."""
    import torch

    if torch.accelerator.is_available() and not given.get("use_cpu"):
        return {}
    return {"use_cpu": True, "dataloader_pin_memory": False}
