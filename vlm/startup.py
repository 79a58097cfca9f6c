"""A shorter start and exit for a command that loads one model, uses it and ends."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Keep Python's cyclic garbage collector off while libraries are imported and weights load.

    Importing torch and transformers makes some 700,000 objects, of which hardly any is garbage. The collector goes
    through all of them again and again: while they are imported, afterwards, and twice when the interpreter ends. In
    ``ask`` that was a quarter of the processor time. So it is off inside, what exists at the end of the block is never
    looked at again, and the end of the process frees no cycles.

    Only for a command line: cyclic garbage that exists at the end of the block is kept until the process ends.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
        atexit.unregister(gc.freeze)  # so that a second block does not register it twice
        atexit.register(gc.freeze)
