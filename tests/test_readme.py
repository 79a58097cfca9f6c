"""What the README and the other pages name exists: commands and their options, links, configs, modules, exit codes."""

import ast
import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

import configs.stopping as stopping
from configs import bundled_config
from configs.overrides import parse_arguments
from configs.run_config import load_run_config
from configs.schema import check_keys, parse_config
from data_construction.sources import problems
from reflection_v.cli import app
from train.config import GrpoOptions, SftOptions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKE_TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line in a fenced bash block; a backslash continues a line."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = line.split(" #")[0].strip()
                if words and not words.startswith("#"):
                    found.append((page.name, words))
    return found


COMMANDS = commands()


def parse(arguments: list[str]) -> None:
    """Let typer parse a command line without running it; it raises where the shell would get exit code 2."""
    name, *rest = arguments
    command = typer.main.get_command(app).commands[name]
    with command.make_context(name, rest) as context:
        if context.args:
            check_config_keys(name, context.args)


def check_config_keys(stage: str, arguments: list[str]) -> None:
    """Options that stand for keys of a stage's config must be keys of it."""
    config, keys = parse_arguments(["CONFIG", *arguments] if arguments[0] != "--config" else arguments, stage)
    if stage == "build":
        from data_construction.build import BuildConfig

        parse_config(BuildConfig, keys, config)
    elif stage == "eval":
        from eval.harness import EvalConfig

        check_keys(keys, EvalConfig)
    elif stage == "audit":
        from eval.audit import AuditConfig

        check_keys(keys, AuditConfig)
    else:
        from trl import GRPOConfig, SFTConfig

        check_keys(keys, *{"sft": (SftOptions, SFTConfig), "grpo": (GrpoOptions, GRPOConfig)}[stage])


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_exists(page: str, command: str) -> None:
    words = shlex.split(command)
    if re.fullmatch(r"[A-Z_]+=\$\(scontrol .*\)", command):
        return
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables before the command
        words = words[1:]
    if words[0] == "srun":
        words = words[next(i for i, word in enumerate(words) if i and not word.startswith("--")) :]
    match words:
        case ["reflection-v", *names, "--help"]:
            assert set(names) <= set(typer.main.get_command(app).commands)
        case ["reflection-v", *arguments]:
            parse(arguments)
        case ["make", *targets]:
            assert set(targets) <= MAKE_TARGETS
        case ["python", "-m", module, *_] if module not in ("pip", "venv", "build"):
            assert importlib.util.find_spec(module) is not None
        case ["python", script, *_] if script.endswith(".py"):
            assert (ROOT / script).is_file()
        case [script, *_] if script.endswith(".sh"):
            assert (ROOT / script).is_file()
        case ["deepspeed" | "accelerate" | "torchrun", *rest] if "reflection_v.cli" in rest:
            parse(rest[rest.index("reflection_v.cli") + 1 :])
        case ["deepspeed" | "accelerate" | "torchrun", *rest]:
            (script,) = [word for word in rest if word.endswith(".py")]
            assert (ROOT / script).is_file()
            check_config_keys(Path(script).stem, rest[rest.index(script) + 1 :])
        case ["transformers" | "vllm", "serve", _, "--host" | "--port" | "--served-model-name", *_]:
            pass
        case ["apt-get" | "pip" | "git" | "cd" | "cp" | "python" | "python3" | "source" | "." | "export" | "kill", *_]:
            pass
        case _:
            pytest.fail(f"{page} shows a command that this test does not know: {command}")


def test_the_batch_scripts_are_shell_scripts() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    scripts = re.findall(r"^```bash\n(#!/bin/bash\n.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
        options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script, flags=re.MULTILINE))
        assert len(options) == script.count("#SBATCH")
        a_node = int(options["ntasks-per-node"]) if "torchrun" not in script else int(options["gpus-per-node"])
        (processes,) = set(re.findall(r"--gpus (\d+)", script))
        assert int(processes) == int(options["nodes"]) * a_node == int(options["nodes"]) * int(options["gpus-per-node"])


def test_the_readme_shows_commands() -> None:
    shown = [command for page, command in COMMANDS if page == "README.md"]
    assert "make run" in shown
    assert any(command.startswith("reflection-v ask") for command in shown)


def test_the_readme_asks_about_a_picture_that_make_run_draws() -> None:
    heldout = load_run_config(bundled_config()).problems["heldout"]
    assert heldout.source is not None and heldout.split is not None
    problem, _ = next(problems(heldout.source, 1, 0, heldout.split, **heldout.knobs()))
    (shown,) = [shlex.split(command) for page, command in COMMANDS if page == "README.md" and " ask " in command]
    assert shown[2:4] == [f"runs/tiny/problems/heldout/{problem.images[0]}", problem.question]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configs_that_are_named_exist(page: Path) -> None:
    for name in re.findall(r"\bconfigs/[\w./-]+\.(?:yaml|json)\b", page.read_text()):
        assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_the_table_of_commands_is_complete() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    rows = re.findall(r"^\| (`reflection-v .*?) \|", page, flags=re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`reflection-v (\w+)`", row)}
    assert listed == set(typer.main.get_command(app).commands)


def test_the_table_of_exit_codes_is_that_of_the_help() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)}
    assert listed == {0, 1, 2, stopping.TERMINATED, stopping.INTERRUPTED}
    (sentence,) = re.findall(r"Exit codes: (.*?130)", " ".join((typer.main.get_command(app).help or "").split()))
    assert {int(code) for code in re.findall(r"(?:^|, )(\d+) |(\d+)$", sentence) for code in code if code} == listed


FOLDERS = "configs|vlm|reward|data_construction|eval|train|demo|reflection_v|benchmarks"
NOW = [page for page in PAGES if page.name != "log.md"]  # the log tells what was


@pytest.mark.parametrize("page", NOW, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(rf"(?<![\w/.-])(?:{FOLDERS}|tests)/[\w./-]*\w\.(?:py|md|jinja)\b", page.read_text()):
        assert (ROOT / name).is_file(), f"{page.name} names {name}"


def names_of(module: Path) -> set[str]:
    """The names that a module defines or imports at its top level."""
    found: set[str] = set()
    for node in ast.parse(module.read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name for alias in names}
    return found


def exists(dotted: str) -> bool:
    """Whether ``vlm.attention`` or ``vlm.attention.AttentionMass`` is there, told from the files alone."""
    place, parts = ROOT, dotted.split(".")
    for i, part in enumerate(parts):
        if (place / f"{part}.py").is_file():
            return i + 1 == len(parts) or parts[i + 1] in names_of(place / f"{part}.py")
        if not (place / part).is_dir():
            return (place / "__init__.py").is_file() and part in names_of(place / "__init__.py")
        place /= part
    return True


@pytest.mark.parametrize("page", NOW, ids=lambda page: page.name)
def test_modules_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(rf"(?:`|python -m |from )((?:{FOLDERS})(?:\.\w+)+)", text)
    for module, names in re.findall(rf"^from ((?:{FOLDERS})[\w.]*) import (.*)$", text, flags=re.MULTILINE):
        named += [f"{module}.{name.strip()}" for name in names.split(",")]
    for dotted in named:
        if not dotted.endswith((".yaml", ".json", ".jsonl", ".html", ".png", ".log")):
            assert exists(dotted), f"{page.name} names {dotted}"


def test_names_that_the_docs_take_from_the_code_are_those_of_the_code() -> None:
    from demo.engine import TESTS
    from eval.verdicts import PROFILES, ZOOM_PROFILES
    from vlm.reasoning import CUE

    audit, demo = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("audit", "demo"))
    assert [name for name in PROFILES if f"| `{name}` |" not in audit] == []
    closer = (ROOT / "docs" / "look-closer.md").read_text()
    assert [name for name in ZOOM_PROFILES if f"| `{name}` |" not in closer] == []
    assert [name for name in [*TESTS.values(), CUE] if f"`{name}`" not in demo] == []


@pytest.mark.parametrize("name", ["tiny-vlm", "tiny-reasoner"])
def test_a_model_card_is_what_the_recipe_would_write(name: str) -> None:
    from train.tiny.model_card import REASONER_CARD, VLM_CARD

    written = (ROOT / "vlm" / "models" / name / "README.md").read_text()
    template = {"tiny-vlm": VLM_CARD, "tiny-reasoner": REASONER_CARD}[name]
    assert [text for text in re.split(r"\{[^}]*\}", template) if text not in written] == []
