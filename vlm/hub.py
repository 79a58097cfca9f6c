"""The hub that models and data sets come from: whether it can be reached, and what to say where it cannot.

The hub's own client asks for each file again for half a minute before it turns to what is cached. So it is asked once, here.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""A hub that has not answered after so long counts as out of reach."""


def why_unreachable() -> str | None:
    """Why the hub cannot be reached; None where it answers, whatever it says."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(
            constants.ENDPOINT, timeout=SECONDS
        )  # by the client that would download: it knows the proxies
    except Exception as error:  # the clients of different releases raise their own types
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return None


@contextmanager
def cache_alone(unreachable: str | None) -> Iterator[None]:
    """Inside, the libraries use what is cached and do not ask a hub that is ``unreachable``; None changes nothing."""
    from huggingface_hub import constants

    places: list[Any] = [constants, sys.modules.get("datasets.config")] if unreachable is not None else []
    changed = [(place, place.HF_HUB_OFFLINE) for place in places if hasattr(place, "HF_HUB_OFFLINE")]
    for place, _ in changed:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, before in changed:
            place.HF_HUB_OFFLINE = before


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
    """Why nothing can be written under a folder, which need not exist yet; None where it can. Leaves nothing behind."""
    folder = Path(folder).absolute()
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryDirectory(dir=existing):
            return None
    except OSError as error:
        return error.strerror or str(error)
