"""docs/field-cases.md: each row names tests, and each of them exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "docs" / "field-cases.md").read_text(encoding="utf-8").splitlines()
ROWS = [line for line in LINES if line.startswith("|") and not line.startswith(("|---", "| situation"))]


def named_tests(row: str) -> list[str]:
    """What the last cell of a row names."""
    return re.findall(r"`([^`]+)`", row.rstrip(" |").rpartition(" | ")[2])


def is_there(name: str) -> bool:
    """Whether ``tests/folder/test_file.py::test_name`` is a test."""
    file, _, function = name.partition("::")
    if not function.startswith("test_") or not (ROOT / file).is_file():
        return False
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.walk(tree))


@pytest.mark.parametrize("row", ROWS)
def test_each_row_names_tests_that_exist(row: str) -> None:
    assert named_tests(row) and len(row.strip("| ").split(" | ")) == 3
    assert [name for name in named_tests(row) if not is_there(name)] == []


def test_a_test_that_does_not_exist_is_noticed() -> None:
    assert is_there("tests/test_field_cases.py::test_each_row_names_tests_that_exist") and len(ROWS) > 40
    for name in (
        "tests/test_field_cases.py::test_nothing",
        "tests/test_none.py::test_a",
        "tests/test_field_cases.py",
        "tests/test_field_cases.py::is_there",
    ):
        assert not is_there(name)
