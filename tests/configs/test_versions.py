"""The tested ranges come from the metadata of the installed project; what lies outside of them is said in one line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs import versions


@pytest.mark.parametrize(
    ("specifier", "release", "line"),
    [
        ("<5.25,>=5.23", "5.23", None),
        ("<5.25,>=5.23", "5.24.3", None),
        ("<5.25,>=5.23", "5.24.0.dev0", None),
        ("<5.25,>=5.23", "5.25.0", "alpha 5.25.0 is newer than what was tested, 5.24"),
        ("<5.25,>=5.23", "5.25.0.dev0", "alpha 5.25.0.dev0 is newer than what was tested, 5.24"),
        ("<5.25,>=5.23", "6.0", "alpha 6.0 is newer than what was tested, 5.24"),
        ("<5.25,>=5.23", "5.20.0", "alpha 5.20.0 is older than what was tested, 5.23: REMEDY brings it up"),
        ("<5.25,>=5.23", "5.23rc1", "alpha 5.23rc1 is older than what was tested, 5.23: REMEDY brings it up"),
        ("<6,>=5.2", "6.1", "alpha 6.1 is newer than what was tested, 5.x"),
        ("<6.0,>=5.2", "6.1", "alpha 6.1 is newer than what was tested, 5.x"),
        ("<=0.31.0,>=0.22", "0.31.0", None),
        ("<=0.31.0,>=0.22", "0.32.0", "alpha 0.32.0 is newer than what was tested, 0.31.0"),
        ("<2.15,>=2.8", "2.14.1+cu130", None),
        ("<=2.14.1,>=2.8", "2.14.1+cu130", None),
        ("==1.4.*", "1.5", "alpha 1.5 is newer than what was tested, 1.4"),
        ("~=1.4.2", "1.4.0", "alpha 1.4.0 is older than what was tested, 1.4.2: REMEDY brings it up"),
        ("!=1.4.2,<2,>=1", "1.4.2", "alpha 1.4.2 is known not to work: REMEDY replaces it"),
        (">=1.0", "99", None),
        ("<2,>=1", "not a release", None),
    ],
)
def test_one_line_for_a_release_outside_the_range(
    specifier: str, release: str, line: str | None, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "install_command", lambda extra="": "REMEDY")
    site.project(f"alpha{specifier}")
    site.package("alpha", release)
    assert [str(found) for found in versions.outside_range()] == ([] if line is None else [line])


def test_a_stage_asks_only_for_packages_that_it_may_use(site: Any) -> None:
    bounds = {"core": "<2,>=1", "loose": ">=5", "tool": '<2,>=1; extra == "dev"', "more": '<2,>=1; extra == "gpu"'}
    absent = ["absent<2,>=1", 'elsewhere<2,>=1; sys_platform == "nowhere"']
    site.project(*(f"{name}{rest}" for name, rest in bounds.items()), *absent, extras=("gpu", "dev"))
    for name in (*bounds, "elsewhere"):
        site.package(name, "3.0")
    assert [(found.package, found.extra) for found in versions.outside_range()] == [("core", ""), ("more", "gpu")]
    everything = [found.package for found in versions.outside_range(every=True)]
    assert everything == ["core", "loose", "tool", "more"]


def test_a_package_that_several_extras_ask_for_is_one(site: Any) -> None:
    site.project(
        "core-thing<3,>=1",
        'core_thing[web]>=2; extra == "serve"',
        'deep<2; extra == "dev"',
        'deep<2; extra == "gpu"',
        extras=("gpu", "serve", "dev"),
    )
    site.package(
        "core-thing", "1.5", "Provides-Extra: web", 'Requires-Dist: asgi; extra == "web"', "Requires-Dist: base"
    )
    site.package("deep", "5")
    found = {one.package: one for one in versions.declared()}
    assert found["core-thing"].extras == ("", "serve") and found["core-thing"].inner == ("web",)
    assert found["deep"].extras == ("dev", "gpu")  # a stage uses it, though the tools name it first
    assert [one.package for one in versions.outside_range()] == ["core-thing", "deep"]
    assert versions.missing("serve") == ["asgi"] and versions.missing("gpu") == []


def test_the_lines_are_printed_once(site: Any, capsys: pytest.CaptureFixture[str]) -> None:
    site.project("alpha<2,>=1", "beta<2,>=1")
    site.package("alpha", "2.1")
    site.package("beta", "1.1")
    versions.warn_outside_range()
    versions.warn_outside_range()
    printed = capsys.readouterr()
    assert printed.err == "alpha 2.1 is newer than what was tested, 1.x\n" and printed.out == ""


def test_a_checkout_that_is_not_installed_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(versions, "PROJECT", "no-such-project")
    versions.declared.cache_clear()
    versions.warn_outside_range()
    assert versions.declared() == () and versions.outside_range(every=True) == []
    assert capsys.readouterr().err == ""
    versions.declared.cache_clear()


def test_the_ranges_are_those_of_setup_py() -> None:
    """The environment that runs the tests is an installed one, so every core package is declared and within its range."""
    named = {one.package for one in versions.declared() if "" in one.extras}
    text = (Path(versions.__file__).parent.parent / "setup.py").read_text()
    assert {"torch", "transformers", "trl"} <= named
    assert all(f'"{package}' in text for package in named)
    assert versions.missing("") == [] and versions.outside_range() == []


@pytest.mark.parametrize(
    "module", ["PIL", "yaml", "sklearn", "math_verify", "qwen_vl_utils.vision_process", "torch.nn"]
)
def test_core_modules_are_known_by_their_import_names(module: str) -> None:
    assert versions.extra_of(module) == ""
    assert versions.is_installed(module.partition(".")[0])


def test_modules_of_extras_are_known() -> None:
    assert versions.extra_of("gradio.routes") == "demo" and versions.extra_of("deepspeed") == "gpu"
    assert versions.extra_of("lmms_eval") == "bench" and versions.extra_of("ruff") == "dev"
    assert versions.extra_of("no_such_module") is None


def test_every_import_name_that_is_derived_is_right() -> None:
    for one in versions.declared():
        if "" in one.extras:
            assert versions.is_installed(one.module), one


def test_a_folder_of_the_same_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tracker_of_runs" / "run-1").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not versions.is_installed("tracker_of_runs") and not versions.is_installed("no_such_module")


def test_the_command_holds_to_the_lists_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "with space" / "configs" / "versions.py"))
    root = tmp_path / "with space"
    (root / "requirements").mkdir(parents=True)
    assert versions.install_command() == "pip install 'reflection-v'"  # no setup.py: from a wheel
    assert versions.install_command("gpu") == "pip install 'reflection-v[gpu]'"
    (root / "setup.py").touch()
    monkeypatch.chdir(root)
    assert versions.install_command() == "pip install -e ."
    (root / "requirements" / "install.txt").touch()
    (root / "requirements" / "gpu.txt").touch()
    assert versions.install_command() == "pip install -e . -c requirements/install.txt"
    assert versions.install_command("demo") == "pip install -e '.[demo]' -c requirements/install.txt"
    assert versions.install_command("gpu") == "pip install -e '.[gpu]' -c requirements/gpu.txt"
    assert versions.install_command("vllm") == (
        "python -m venv .venv-vllm && .venv-vllm/bin/pip install -e '.[gpu,vllm]' -c requirements/install.txt"
    )
    monkeypatch.chdir(tmp_path)
    assert versions.install_command("gpu") == f"pip install -e '{root}[gpu]' -c '{root}/requirements/gpu.txt'"


def test_what_is_read_at_each_start_is_little() -> None:
    """No library of the stages is imported, and only the files of bounded packages are opened."""
    code = (
        "import sys; from configs import versions; versions.warn_outside_range();"
        "print([name for name in ('torch', 'numpy', 'transformers', 'pydantic', 'rich') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("specifier", "words"),
    [
        ("<5.25,>=5.23", "5.23 to 5.24"),
        ("<1.17,>=1.16", "1.16"),
        (">=2.8", "2.8 or newer"),
        ("<6,>=5.2", "5.2 to 5.x"),
        ("<=0.31.0,>=0.22.0", "0.22.0 to 0.31.0"),
        ("", ""),
    ],
)
def test_a_range_in_words(specifier: str, words: str) -> None:
    from packaging.specifiers import SpecifierSet

    assert versions.tested_range(versions.Declared("alpha", SpecifierSet(specifier), ("",))) == words
