"""Puts an observer between a model's attention modules and the attention functions that they call.

transformers' modules look their attention function up by the name in their config (``AttentionInterface.get_interface``). While an
observer is entered, what they get for its modules is a call of the observer. The *name* in the config stays what it was, because
some modelling code asks for it: Gemma 4 leaves out rows of its last layers only under known names, and models with an indexer hide
the keys that it did not choose only under "eager" and "sdpa".
"""

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import AttentionInterface

AttentionFunction = Callable[..., tuple[Any, Any]]
Observer = Callable[..., tuple[Any, Any]]
"""``observer(stock, module, query, key, value, mask, **kwargs)``, where ``stock`` is the function that the module asked for."""

_OBSERVERS: "weakref.WeakKeyDictionary[nn.Module, Observer]" = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()
_LOOK_UP = AttentionInterface.get_interface


def observed(module: nn.Module) -> bool:
    """Whether the module already has an observer."""
    return module in _OBSERVERS


def observe(modules: list[nn.Module], observer: Observer) -> None:
    """Hand the attention calls of ``modules`` to ``observer`` until :func:`forget`."""
    with _LOCK:
        AttentionInterface.get_interface = _look_up  # type: ignore[method-assign, assignment]
        for module in modules:
            _OBSERVERS[module] = observer


def forget(modules: list[nn.Module]) -> None:
    """Undo :func:`observe`. When no module is observed any more, transformers' own look-up is back in place."""
    with _LOCK:
        for module in modules:
            _OBSERVERS.pop(module, None)
        if not _OBSERVERS:
            AttentionInterface.get_interface = _LOOK_UP  # type: ignore[method-assign, assignment]


def _look_up(interface: AttentionInterface, attn_implementation: str, default: AttentionFunction) -> AttentionFunction:
    return functools.partial(_call, _LOOK_UP(interface, attn_implementation, default))


def _call(stock: AttentionFunction, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    observer = _OBSERVERS.get(module)
    return stock(module, *args, **kwargs) if observer is None else observer(stock, module, *args, **kwargs)
