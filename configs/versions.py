"""The tested releases of this project's dependencies, and the commands that install missing ones.

Only setup.py states the ranges. They are read here from the metadata of the installed project, so that there is one list. A
checkout that is not installed has no metadata: commands then print no versions, and ``doctor`` explains why.
"""

import functools
import importlib.util
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import Specifier, SpecifierSet

PROJECT = "reflection-v"
CORE = ""
"""Used in place of an extra's name for the packages that every installation has."""
TOOLS = "dev"
"""The extra for development: no stage uses its packages."""
APART = "vllm"
"""The extra that needs its own environment, because it requires another release of torch."""
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
"""Import names that do not follow from the package's name."""


@dataclass(frozen=True)
class Declared:
    """A package that the project asks for.

    Attributes:
        package: its name in setup.py.
        specifier: the tested range; empty if none is stated.
        extras: the extras that require it; ``CORE`` if every installation does.
        inner: extras of the package itself, such as ``serving`` in ``transformers[serving]``.
    """

    package: str
    specifier: "SpecifierSet"
    extras: tuple[str, ...]
    inner: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The name that it is imported under."""
        return IMPORTED_AS.get(self.package.lower(), self.package.replace("-", "_"))

    @property
    def bounded(self) -> bool:
        """Whether the range has an upper bound, so that a release can be newer than what was tested."""
        return any(one.operator in ("<", "<=", "==", "~=") for one in self.specifier)


@dataclass(frozen=True)
class VersionFinding:
    """An installed release outside the tested range."""

    package: str
    installed: str
    side: Literal["newer", "older", "excluded"]
    tested: str
    extra: str = CORE

    def __str__(self) -> str:
        """One line; an older release names the command that replaces it."""
        if self.side == "excluded":
            return f"{self.package} {self.installed} is known not to work: {install_command(self.extra)} replaces it"
        told = f"{self.package} {self.installed} is {self.side} than what was tested, {self.tested}"
        return told if self.side == "newer" else f"{told}: {install_command(self.extra)} brings it up"


@functools.cache
def declared() -> tuple[Declared, ...]:
    """The packages that the installed project requires; none if it is not installed."""
    from packaging.requirements import Requirement

    try:
        lines = requires(PROJECT) or []
        extras = metadata(PROJECT).get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return ()
    found: dict[str, Declared] = {}
    for requirement in map(Requirement, lines):
        asked = _asked_by(requirement, extras)
        if not asked:
            continue  # a marker that excludes this Python or this system
        key = requirement.name.lower().replace("_", "-")
        old = found.get(key, Declared(requirement.name, requirement.specifier, ()))
        found[key] = Declared(
            old.package,
            old.specifier & requirement.specifier,
            tuple(dict.fromkeys((*old.extras, *asked))),
            tuple(dict.fromkeys((*old.inner, *sorted(requirement.extras)))),
        )
    return tuple(found.values())


def _asked_by(requirement: "Requirement", extras: list[str]) -> list[str]:
    """The extras that require a package, or ``[CORE]``."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": CORE}):
        return [CORE]
    return [extra for extra in extras if requirement.marker.evaluate({"extra": extra})]


def outside_range(every: bool = False) -> list[VersionFinding]:
    """The installed packages whose release is outside the tested range.

    Args:
        every: also packages without an upper bound, and those of the extra ``TOOLS``. By default only packages that a stage
            uses and whose range is bounded, because this runs at every start and reads one metadata file per package.
    """
    chosen = [one for one in declared() if every or (one.bounded and one.extras != (TOOLS,))]
    return [finding for one in chosen if (finding := _compare(one)) is not None]


def _compare(one: Declared) -> VersionFinding | None:
    from packaging.version import InvalidVersion, Version

    try:
        installed = version(one.package)
        Version(installed)
    except (PackageNotFoundError, InvalidVersion):
        return None
    for specifier in one.specifier:
        if not specifier.contains(installed, prereleases=True):
            side, tested = _side(specifier, installed)
            return VersionFinding(one.package, installed, side, tested, one.extras[0])
    return None


def _side(specifier: "Specifier", installed: str) -> tuple[Literal["newer", "older", "excluded"], str]:
    """On which side of a bound a release is, and the nearest tested release."""
    from packaging.version import Version

    if specifier.operator == "!=":
        return "excluded", ""
    bound = specifier.version.removesuffix(".*")
    if Version(installed) < Version(bound) and specifier.operator != "<":
        return "older", bound
    return "newer", last_below(bound) if specifier.operator == "<" else bound


def last_below(bound: str) -> str:
    """The last release line below an exclusive upper bound: ``5.24`` for ``5.25``, ``5.x`` for ``6``."""
    from packaging.version import Version

    parts = list(Version(bound).release)
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    parts[-1] = max(0, parts[-1] - 1)
    return ".".join(map(str, parts)) + (".x" if len(parts) == 1 else "")


def tested_range(one: Declared) -> str:
    """``5.23 to 5.24``, or ``2.8 or newer`` where no upper bound is stated; empty if nothing is stated."""
    low = [item.version for item in one.specifier if item.operator in (">=", ">", "==", "~=")]
    high = [last_below(item.version) for item in one.specifier if item.operator == "<"]
    high += [item.version for item in one.specifier if item.operator in ("<=", "==")]
    if not low and not high:
        return ""
    if not high:
        return f"{low[0]} or newer"
    return high[0] if not low or low[0] == high[0] else f"{low[0]} to {high[0]}"


_warned: set[str] = set()


def warn_outside_range() -> None:
    """Print one line on standard error for each package outside the tested range, once a process."""
    with suppress(ImportError):  # without the package 'packaging', which doctor reports
        for finding in outside_range():
            if finding.package not in _warned:
                _warned.add(finding.package)
                print(finding, file=sys.stderr, flush=True)


def is_installed(module: str) -> bool:
    """Whether a top-level module can be imported; it is not imported here."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    # A folder of the same name in the working directory, such as wandb's, is a namespace package and has no origin.
    return spec is not None and spec.origin is not None


def missing(extra: str) -> list[str]:
    """The packages of an extra (or of ``CORE``) that are not installed, those of inner extras included."""
    absent = []
    for one in declared():
        if extra in one.extras:
            absent += [package for package in (one.package, *_inner(one)) if not _has(package)]
    return list(dict.fromkeys(absent))


def _inner(one: Declared) -> Iterator[str]:
    """The packages that the inner extras of a package require: ``fastapi`` and more for ``transformers[serving]``."""
    from packaging.requirements import Requirement

    if one.inner and _has(one.package):
        for requirement in map(Requirement, requires(one.package) or []):
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": CORE}):
                continue  # required without an extra too
            if any(marker.evaluate({"extra": extra}) for extra in one.inner):
                yield requirement.name


def _has(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def extra_of(module: str) -> str | None:
    """The extra that installs a module (``CORE`` if every installation has it); None if the project does not require it."""
    with suppress(ImportError):
        for one in declared():
            if one.module == module.partition(".")[0]:
                return next((extra for extra in one.extras if extra != TOOLS), TOOLS)
    return None


def install_command(extra: str = CORE) -> str:
    """The command that installs the project with an extra, in the tested releases if the checkout lists them."""
    root, names, pip = Path(__file__).resolve().parent.parent, extra, "pip"
    if extra == APART:
        names, pip = f"gpu,{extra}", f"python -m venv .venv-{extra} && .venv-{extra}/bin/pip"
    named = f"[{names}]" if names else ""
    if not (root / "setup.py").is_file():  # installed from a wheel
        return f"{pip} install '{PROJECT}{named}'"
    here = root == Path.cwd()
    target = shlex.quote(f"{'.' if here else root}{named}")
    locks = [root / "requirements" / f"{name}.txt" for name in (extra or "install", "install")]
    lock = next((file for file in locks if file.is_file()), None)
    held = f" -c {shlex.quote(str(lock.relative_to(root) if here else lock))}" if lock else ""
    return f"{pip} install -e {target}{held}"
