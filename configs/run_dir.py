"""The output folder of a stage: who may write into it, the record of its run, and whether the run may be resumed.

Every stage and command with an output folder has a ``RunDir``:

    run = RunDir(Path(out), "build", WRITES, is_build, record="config.json", result="build.json")
    with run.held():
        run.refuse(run.changed(now))
        run.write(now)
        ...
        run.finish(counts)

The record of a run is a JSON object: the keys of its config, and for each model and data set, such as ``model``, the digest
of its content as ``model_sha256``. The content decides: a moved or copied model is the same, and one that was changed in place
is another. Training adds rules of its own (``train.run_folder``).
"""

import contextlib
import errno
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, UserError
from configs.jsonl import write_json_atomic
from configs.locks import lock

SHA256 = "_sha256"


@dataclass(frozen=True)
class RunDir:
    """The folder that one stage writes.

    Attributes:
        path: the folder.
        stage: the stage's name in messages.
        writes: patterns of the names that it writes. Other files, such as a job's log, may be in the folder.
        is_ours: whether this stage wrote the files in a folder.
        record: the file with the run's record; result: the file that is written last.
    """

    path: Path
    stage: str
    writes: Sequence[str] = ()
    is_ours: Callable[[Path], bool] = lambda folder: True
    record: str = "config.json"
    result: str = "report.json"

    def refuse_foreign(self) -> None:
        """Refuse a folder that holds files where the stage would write, unless the stage itself wrote them.

        Raises:
            UserError: names what was found.
        """
        found = sorted({path.name for pattern in self.writes for path in self.path.glob(pattern)})
        if not found or self.is_ours(self.path):
            return
        names = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        raise UserError(
            f"{self.path} holds {names}, which no {self.stage} wrote: choose an empty folder for the output."
        )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Create and lock the folder, and name it if the disk is full: a failed write often names no file.

        Raises:
            UserError: the folder holds files of others, cannot be written, is in use by another process, or the disk is full.
        """
        self.refuse_foreign()
        make_folder(self.path)
        try:
            with lock(self.path):
                yield
        except UserError:
            raise
        except Exception as error:
            if disk_full(error):
                sentence = (
                    f"The disk is full: {self.path} could not be written. Free some space, then give the same command."
                )
                raise UserError(sentence) from None
            raise

    def known(self) -> dict[str, Any] | None:
        """The record of the run that began here; None if there is none. Errors as ``finished``."""
        return _read_own(self.path / self.record)

    def finished(self) -> dict[str, Any] | None:
        """What ``finish`` wrote; None if the run here has not finished.

        Raises:
            UserError: the file is damaged.
        """
        return _read_own(self.path / self.result)

    def changed(self, now: Mapping[str, Any]) -> list[str]:
        """The keys in which ``now`` differs from the record of the run here; none if there is no record."""
        before = self.known()
        return [] if before is None else list(changes(before, now))

    def refuse(self, changed: Iterable[str]) -> None:
        """Refuse a run whose settings differ from those of the run here.

        Raises:
            ConfigError: ``changed`` is not empty; names the keys.
        """
        if names := ", ".join(changed):
            state = "a finished" if (self.path / self.result).exists() else "an interrupted"
            raise ConfigError(
                f"{self.path} holds {state} run with other settings ({names}): choose another output folder, or remove this one "
                "to begin again."
            )

    def write(self, known: Mapping[str, Any]) -> None:
        """Write the record."""
        write_json_atomic(self.path / self.record, known)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write the file that marks the run as finished; returns ``result``."""
        write_json_atomic(self.path / self.result, result)
        return result


def changes(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> dict[str, str]:
    """The differences between two records, by dotted key, as ``old, now new``. A missing key equals null.

    A model or a data set is compared by its digest if both records have one, else by its name: a served model has no digest,
    and earlier versions recorded fewer. If a digest was recorded and the thing of that name now has none, it is gone, which is
    a change: or the record would lose the digest, and something else of that name would be accepted next.
    """
    found: dict[str, str] = {}
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= changes(old, new, f"{where}{key}.")
        elif not _is_same(key, before, now):
            name = _content_name(key, now) if key.endswith(SHA256) else where + key
            found[name] = f"{shorten(old)}, now {shorten(new)}"
    return found


def _is_same(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two records agree in ``key``, by the rules of ``changes``."""
    old, new = before.get(key), now.get(key)
    if old == new or (before.get(key + SHA256) and now.get(key + SHA256)):
        return True
    if not key.endswith(SHA256):
        return False
    named = key.removesuffix(SHA256)
    # Another name is reported as such, and a thing of the same name without its digest is gone.
    return not old or (not new and before.get(named) != now.get(named))


def _content_name(key: str, now: Mapping[str, Any]) -> str:
    """The name, in messages, of the content of a digest."""
    thing = key.removesuffix(SHA256)
    return f"the files of {now[thing]}" if now.get(thing) else f"the file {thing}"


def shorten(value: Any) -> str:
    """A value in at most 40 characters."""
    text = "not given" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in a file, which may be a stage's record or anything else; {} if it holds none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _read_own(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise UserError(f"{path} is damaged: remove it, and the same command writes it again.") from None


def make_folder(folder: str | Path) -> None:
    """Create ``folder`` and check that it can be written.

    Raises:
        UserError: it cannot; names the reason.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be written: {error.strerror}. Choose another --out.") from None


def disk_full(error: BaseException) -> bool:
    """Whether an exception, or one of its causes, means that the disk or the quota is full.

    Writers of tensors are not written in Python: they raise their own types, with the system's message in the text.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = (
        set()
    )  # an exception that was raised out of its group has the group as its context, which is a circle
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(one).lower() for words in ("no space left on device", "disk quota exceeded")):
            return True
        waiting += [one.__cause__ or one.__context__, *getattr(one, "exceptions", ())]
    return False
