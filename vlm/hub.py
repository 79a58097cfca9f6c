"""The hub that models and data sets come from: whether it can be reached, and what to say where it cannot.

The hub's own client retries each file for half a minute before it falls back to the cache. So the hub is asked once, here.
"""

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.api_key import redact_tokens

SECONDS = 5.0
"""A hub that has not answered after so long counts as out of reach."""


def why_unreachable() -> str | None:
    """Why the hub cannot be reached; None where it answers, whatever it says."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        # With the client that would download, because it knows the proxies.
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # the clients of different releases raise their own types
        return (redact_tokens(str(error)).strip().splitlines() or [type(error).__name__])[0][:200]
    return None


_OFFLINE = threading.Lock()
_before: list[tuple[Any, Any]] = []  # (module, its flag) as they were before the first of the callers inside
_inside = 0


@contextmanager
def cache_alone(unreachable: str | None) -> Iterator[None]:
    """Inside, the libraries use only the cache if the hub is ``unreachable``; None changes nothing.

    The flag is global to the process, so the last of several threads to leave restores it.
    """
    global _inside
    if unreachable is None:
        yield
        return
    from huggingface_hub import constants

    # Both libraries read their flag when they are imported, so the environment variable comes too late.
    with _OFFLINE:
        _inside += 1
        known = [place for place, _ in _before]
        places: list[Any] = [constants, sys.modules.get("datasets.config")]
        for place in places:
            if place not in known and hasattr(place, "HF_HUB_OFFLINE"):
                _before.append((place, place.HF_HUB_OFFLINE))
                place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        with _OFFLINE:
            _inside -= 1
            while not _inside and _before:
                place, flag = _before.pop()
                place.HF_HUB_OFFLINE = flag


def hub_remedy(unreachable: str | None) -> str:
    """What to do when something does not come from the hub, as the end of a sentence."""
    from huggingface_hub import constants

    if (why := why_not_writable(constants.HF_HOME)) is not None:
        return f"the cache {constants.HF_HOME} cannot be written ({why}), so set HF_HOME to a folder that can be"
    if unreachable is None:
        return "check the name and your access"
    first = "unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "connect this machine to the network"
    return f"the hub cannot be reached ({unreachable}): {first}, set HF_HOME to a cache that holds it, or give a local folder"


def why_not_writable(folder: str | Path) -> str | None:
    """Why nothing can be written under a folder, which need not exist yet; None where it can. Leaves nothing after."""
    folder = Path(folder).absolute()
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryDirectory(dir=existing):
            return None
    except OSError as error:
        return error.strerror or str(error)
