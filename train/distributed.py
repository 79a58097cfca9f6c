"""Training with several processes: ZeRO-3, batches without images, equal weights on all ranks, shared errors."""

import contextlib
import inspect
import os
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import TrainerCallback
from transformers.integrations.deepspeed import (
    deepspeed_config,
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)

from configs.errors import UserError
from configs.processes import world_size
from train.data import reader_of
from vlm.chat import encode
from vlm.forward_arguments import cache_of
from vlm.load import VLM

BLANK_SIDE = 64
AT_ONCE = 1 << 24  # weights of a tensor that are summed together, in float64
SEEN_WITHIN = 15.0  # seconds
SHARED = ".shared-"
SILENT_FOR = 300  # seconds; a switch that restarts takes one or two minutes
NOT_PIXELS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def join_deepspeed() -> None:
    """Make DeepSpeed use the existing process group, and keep it from compiling an operator that training does not call.

    Under ZeRO-3 weights are sharded while they load, so DeepSpeed must know the group before. On CPUs the trainer's arguments
    open it without DeepSpeed, which would then count one process and refuse the batch size. Also on CPUs, DeepSpeed would
    compile an all-reduce for inference, whose buffers (66 MB per rank) stay in shared memory after every run.
    """
    if deepspeed_config() is None or not _distributed():
        return
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    if is_deepspeed_zero3_enabled():
        deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), verbose=False)


def keep_names(model: nn.Module) -> None:
    """Let a model that was loaded under ZeRO-3 be saved with the names of its own tensors.

    When it saves, transformers reverts the renamings of loading. Under ZeRO-3 it also reverts renamings that were never
    applied, and would write names that no loader finds.
    """
    if is_deepspeed_zero3_enabled():
        model._weight_conversions = None  # type: ignore[assignment]


@contextlib.contextmanager
def whole_weights(args: Any) -> Iterator[None]:
    """Within this context a model loads unsharded, also under ZeRO-3."""
    if not is_deepspeed_zero3_enabled():
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(args.hf_deepspeed_config)


def drop_empty_images(model: nn.Module) -> None:
    """Let ``model`` treat a batch with pixel tensors of length 0 as text only.

    TRL splits the images of a generation together with its rows: a split whose rows have no images gets tensors of length 0,
    on which vision towers fail.
    """
    model.register_forward_pre_hook(lambda _model, args, kwargs: (args, _without_empty(kwargs)), with_kwargs=True)


def _without_empty(kwargs: dict[str, Any]) -> dict[str, Any]:
    pixels = kwargs.get("pixel_values")
    if pixels is None or pixels.numel():
        return kwargs
    return {
        key: value
        for key, value in kwargs.items()
        if key in NOT_PIXELS or not (isinstance(value, Tensor) and value.numel() == 0)
    }


class BlankImages:
    """Runs the vision tower on a blank image for a batch without images, with an effect of exactly zero.

    If one process has images and another has none, only one of them exchanges gradients of the vision tower, and both wait
    for each other forever. So a blank image is read after the embedding, where images are read too, and its features are
    multiplied by 0. Generation is not changed: there the processes do not exchange anything.
    """

    def __init__(self, vlm: VLM) -> None:
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}]
        batch = encode(reader_of(vlm), [turns], [[Image.new("RGB", (BLANK_SIDE, BLANK_SIDE), "grey")]])
        self.model = vlm.model
        known = inspect.signature(self.model.get_image_features).parameters
        self.blank = {key: value for key, value in batch.items() if key in known and key not in NOT_PIXELS}
        self.wanted = False
        self.model.register_forward_pre_hook(self._begin, with_kwargs=True)
        self.model.get_input_embeddings().register_forward_hook(self._read)

    def _begin(self, _model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        kwargs = _without_empty(kwargs)
        self.wanted = kwargs.get("pixel_values") is None and cache_of(kwargs) is None
        return args, kwargs

    def _read(self, _embedding: nn.Module, _args: Any, embedded: Tensor) -> Tensor:
        if not self.wanted:
            return embedded
        self.wanted = False  # the embedding may be used again within a forward
        features = self.model.get_image_features(**{key: one.to(embedded.device) for key, one in self.blank.items()})
        return embedded + 0 * torch.stack([part.float().sum() for part in _tensors(features)]).sum().to(embedded.dtype)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def add_blank_images(vlm: VLM, image_counts: Sequence[int]) -> None:
    """Install ``BlankImages`` if several processes train on rows of which some have images and some have none.

    Args:
        image_counts: the number of images of each row of the data.

    Raises:
        UserError: under ZeRO-3, in which ranks that run modules in different orders exchange the wrong weights.
    """
    if mixed(image_counts, world_size(), is_deepspeed_zero3_enabled()):
        BlankImages(vlm)


def mixed(image_counts: Sequence[int], processes: int, zero3: bool) -> bool:
    """Whether several processes train on rows with and without images; errors as in ``add_blank_images``."""
    if processes == 1 or all(image_counts) or not any(image_counts):
        return False
    if zero3:
        raise UserError(
            f"{list(image_counts).count(0)} of {len(image_counts)} rows have no image, and several processes under ZeRO-3 cannot mix "
            "them with others: set deepspeed: configs/deepspeed/zero2.json, or use data in which all rows have images."
        )
    return True


def fillers(rows: int, rows_at_once: int) -> int:
    """The number of rows without labels that fill the last batch of an epoch, so that all processes have equally many batches.

    accelerate would repeat the first rows of the epoch instead. They would count twice, and the result would depend on the
    number of processes.
    """
    return -rows % rows_at_once if world_size() > 1 else 0


class FilledSampler(Sampler[int]):
    """The indices of ``sampler``, followed by those of ``further``."""

    def __init__(self, sampler: Any, further: range) -> None:
        self.sampler, self.further = sampler, further

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from self.further

    def __len__(self) -> int:
        return len(self.sampler) + len(self.further)


@contextlib.contextmanager
def refused_by_all() -> Iterator[None]:
    """Raise a ``UserError`` of one process in all of them: a process that continues would wait for the others forever.

    Raises:
        UserError: this process's own, else that of the first process that has one.
    """
    error: UserError | None = None
    try:
        yield
    except UserError as raised:
        error = raised
    errors: list[UserError | None] = [error]
    if world_size() > 1:
        errors = [None] * world_size()
        torch.distributed.all_gather_object(errors, error)
    if (first := next((one for one in errors if one is not None), None)) is not None:
        raise error or first


def bound_silence(seconds: int = SILENT_FOR) -> int:
    """Let the kernel end this process's network connections whose other machine does not answer for ``seconds``.

    A machine that loses power or network closes nothing. gloo asks for no sign of life, so the other processes would wait for
    the timeout of an exchange, which is a day for GRPO. The other machine's kernel answers for a process that is only busy.

    Returns:
        The number of connections; 0 where the system does not list them.
    """
    found = 0
    for path in Path("/proc/self/fd").glob("*"):
        try:
            connection = socket.socket(fileno=os.dup(int(path.name)))
        except OSError:  # not a socket, or closed meanwhile
            continue
        with connection, contextlib.suppress(OSError):  # the last: a socket that listens
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.getpeername():
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _silence(seconds):
                    connection.setsockopt(socket.IPPROTO_TCP, option, value)
                found += 1
    return found


def _silence(seconds: int) -> list[tuple[int, int]]:
    """TCP's options: the first probe after a fifth of the time, then four; and the same time for data on their way."""
    probe = max(1, seconds // 5)
    timeout = (socket.TCP_USER_TIMEOUT, 1000 * seconds)
    return [(socket.TCP_KEEPIDLE, probe), (socket.TCP_KEEPINTVL, probe), (socket.TCP_KEEPCNT, 4), timeout]


class BoundSilence(TrainerCallback):
    """``bound_silence`` when training begins, where DeepSpeed has opened connections, and after the first step, where NCCL has."""

    def __init__(self) -> None:
        self.wanted = True

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        bound_silence()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.wanted:
            self.wanted = False
            bound_silence()


def check_shared(folder: Path, within: float = SEEN_WITHIN) -> None:
    """Check that all processes see the same ``folder``: a process on a machine with one of its own would not find its checkpoint.

    Args:
        within: seconds until a file that the first process writes must be seen; network file systems delay it.

    Raises:
        UserError: a process sees another folder; all processes raise it.
    """
    if world_size() == 1:
        return
    first = torch.distributed.get_rank() == 0
    token: list[Any] = [(f"{SHARED}{uuid.uuid4().hex}", socket.gethostname())]
    torch.distributed.broadcast_object_list(token, src=0)
    name, host = token[0]
    mark = folder / name
    try:
        with refused_by_all():
            if first:
                for old in folder.glob(f"{SHARED}*"):  # of a run that was killed here
                    old.unlink(missing_ok=True)
                mark.touch()
        with refused_by_all():
            deadline = time.monotonic() + within
            while not mark.exists():
                if time.monotonic() > deadline:
                    raise UserError(
                        f"Process {torch.distributed.get_rank()} on {socket.gethostname()} does not see the output folder {folder} of "
                        f"the first process, which is on {host}: give an output_dir on a file system that all machines share, because "
                        "each process stores its part of a checkpoint there."
                    )
                time.sleep(0.1)
    finally:
        if first:
            mark.unlink(missing_ok=True)


def check_same_weights(model: nn.Module) -> None:
    """Compare the weights of all processes after training, by two sums of each tensor that must be equal exactly.

    Raises:
        UserError: they differ, so the saved model would be only one of several.
    """
    if world_size() == 1:
        return
    names = [name for name, _ in model.named_parameters()]
    sums = torch.stack([two for weight in model.parameters() for two in _sums(weight)]).cpu()
    everyone: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(everyone, sums)
    if apart := first_disagreement(names, everyone):
        raise UserError(
            f"After training the processes hold different weights ({apart}), so no saved model would be that of all: check that "
            "all nodes run the same versions on the same data, then train again."
        )


def first_disagreement(names: list[str], everyone: list[Tensor]) -> str | None:
    """The first tensor whose two sums differ between processes. ``everyone``: the sums of each process, (2 x tensors,)."""
    for sums in everyone[1:]:
        same = (sums == everyone[0]) | (sums.isnan() & everyone[0].isnan())
        if (apart := (~same).nonzero()).numel():
            return names[int(apart[0]) // 2]
    return None


def _sums(weight: Tensor) -> tuple[Tensor, Tensor]:
    with whole(weight):
        parts = weight.detach().flatten().split(AT_ONCE)  # all of a large embedding in float64 would take GB
        sums = [torch.stack([part.sum(), part.square().sum()]) for part in map(Tensor.double, parts)]
        both = torch.stack(sums).sum(0) if sums else weight.new_zeros(2, dtype=torch.float64)
        return both[0], both[1]


def whole(weight: Tensor) -> Any:
    """Under ZeRO-3 a process holds a shard of each tensor; within this context it is gathered, in all processes."""
    if not hasattr(weight, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([weight])
