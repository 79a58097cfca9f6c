"""Prints what the project needs without upper bounds, for ``make test-newest``: python requirements/unbounded.py EXTRA..."""

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

UPPER = ("<", "<=", "==", "~=")


def unbounded(extras: list[str]) -> list[str]:
    """The requirements of the installed project and of ``extras``, as setup.py states them, each without its upper bounds."""
    lines = []
    for line in requires("reflection-v") or []:
        requirement = Requirement(line)
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ["", *extras]):
            continue
        requirement.specifier = SpecifierSet(
            ",".join(str(one) for one in requirement.specifier if one.operator not in UPPER)
        )
        requirement.marker = None
        lines.append(str(requirement))
    return lines


if __name__ == "__main__":
    print("\n".join(unbounded(sys.argv[1:])))
