"""The rules of the layout: imports in one direction, no circle, no name twice, files that can be read in one go."""

from pathlib import Path

import pytest

from benchmarks.layout import (
    COUNTED,
    PACKAGES,
    Module,
    import_circles,
    long_files,
    read_modules,
    shared_names,
    upward_imports,
)
from configs.versions import declared

MODULES = read_modules(*COUNTED)


def test_packages_import_only_those_before_them() -> None:
    assert upward_imports(MODULES) == []


def test_no_module_imports_itself_through_others() -> None:
    assert import_circles(MODULES) == []


def test_no_function_or_class_has_the_name_of_another() -> None:
    assert shared_names(MODULES) == []


def test_files_stay_readable() -> None:
    assert long_files(MODULES) == []


def test_no_folder_of_tests_is_taken_for_a_library() -> None:
    """pytest puts ``tests/`` on the import path, where a folder without ``__init__.py`` is a package to whoever looks for one."""
    folders = {folder.name for folder in Path(__file__).parent.iterdir() if folder.is_dir()}
    assert folders & {one.module for one in declared()} == set()


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Module]:
    """Modules that break every rule but the length."""
    files = {
        "configs/__init__.py": "",
        "configs/low.py": "def one():\n    from vlm.high import two\n",
        "vlm/__init__.py": '"""Nothing."""\n',
        "vlm/high.py": "import configs.low\nclass Two:\n    pass\n",
        "vlm/other.py": "from vlm import high\ndef one(): ...\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return read_modules("configs", "vlm", root=tmp_path)


def test_what_breaks_a_rule_is_found(made: dict[str, Module]) -> None:
    assert upward_imports(made) == ["configs.low -> vlm.high"]
    (circle,) = import_circles(made)
    assert {"configs.low", "vlm.high"} == set(circle.split(" -> "))
    assert shared_names(made) == ["one: configs.low, vlm.other"]


def test_lines_of_code_are_those_that_hold_code(tmp_path: Path) -> None:
    source = '"""Title.\n\nText.\n"""\n\n# why\nVALUE = (\n    1,  # one\n    2,\n)\n\n\ndef f():\n    """Doc."""\n    return """a\nb"""\n'
    module = Module("m", tmp_path / "m.py", source)
    assert module.count() == (4 + 1 + 2, 2)
    assert PACKAGES[0] == "configs"
