"""The run config: what is read, and the sentence for each thing that can be wrong with it."""

from pathlib import Path

import pytest

from configs import bundled_config
from configs.errors import ConfigError
from configs.run_config import load_run_config

GOOD = """
seed: 3
problems:
  train: {source: "scenes,digits", n: 20, split: train, families: [count], counterfactual: true}
  heldout: {path: mine}
build: build.yaml
sft: sft.yaml
grpo: grpo.yaml
eval: eval.yaml
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("build", "sft", "grpo", "eval"):
        (tmp_path / f"{name}.yaml").write_text("{}")
    (tmp_path / "mine").mkdir()
    return tmp_path


def load(folder: Path, text: str, **overrides: str | None):
    (folder / "run.yaml").write_text(text)
    return load_run_config(folder / "run.yaml", **overrides)


def test_paths_are_relative_to_the_config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    config = load(folder, GOOD)
    assert config.seed == 3 and config.model == "tiny"
    assert config.sft == str(folder / "sft.yaml")
    assert config.problems["heldout"].path == str(folder / "mine")
    assert config.problems["train"].knobs() == {"family_names": ["count"], "counterfactual": True}


def test_a_run_may_be_based_on_another(folder: Path) -> None:
    (folder / "other.yaml").write_text(GOOD)
    config = load(folder, "base: other.yaml\nmodel: my/folder\nproblems: {train: {n: 30}}\n", model=None)
    assert (config.seed, config.model, config.problems["train"].n) == (3, "my/folder", 30)
    assert config.problems["train"].source == "scenes,digits"


def test_the_command_line_wins(folder: Path) -> None:
    config = load(folder, GOOD, model="my/folder", reasoner=None)
    assert (config.model, config.reasoner) == ("my/folder", "tiny-reasoner")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seed: 3", "sede: 3", r"Unknown key 'sede' in .*run\.yaml; did you mean 'seed'\?"),
        ("seed: 3", "zzz: 3", r"Unknown key 'zzz' in .*; known are seed, model"),
        ("seed: 3", "seed: 3.5", r"'seed' in .* wanted a whole number, found 3\.5 \(a number\)"),
        ("seed: 3", "seed: '3'", r"'seed' in .* wanted a whole number, found '3' \(text\)"),
        ("seed: 3", "seed: yes", r"'seed' in .* wanted a whole number, found True \(true or false\)"),
        ("seed: 3", "model: [tiny]", r"'model' in .* wanted text, found \['tiny'\] \(a list\)"),
        ("seed: 3", "build: build.yaml", r"the key 'build'.*twice"),
        ("sft: sft.yaml", "", r"The key 'sft' is missing in"),
        ("sft: sft.yaml", "sft: sfd.yaml", r"'sft' names .*sfd\.yaml, which does not exist"),
        ("n: 20", "n: 0", r"'problems\.train\.n' in .* wanted a value greater than or equal to 1, found 0 \(a whole"),
        ("n: 20", "n: [1, 2]", r"'problems\.train\.n' in .* wanted a whole number or null, found \[1, 2\] \(a list\)"),
        ("n: 20, ", "", r"'problems\.train': give either 'path', or all of 'source', 'n' and 'split'"),
        ("n: 20", "n: 20, sede: 1", r"Unknown key 'problems\.train\.sede' in .*; did you mean 'seed'\?"),
        (
            "split: train",
            "split: test",
            r"'problems\.train\.split' in .* unknown value 'test'; known are pretrain, train, heldout",
        ),
        ("path: mine", "path: mine, n: 3", r"'problems\.heldout': 'path' takes a set as it is, so 'n' cannot"),
        ("path: mine", "path: yours", r"the problem set 'heldout' names .*yours, which does not exist"),
        ("heldout:", "held-out:", r"'problems' needs a set named 'heldout'"),
        ("heldout:", "../x: {path: mine}\n  heldout:", r"'\.\./x' is no name for a set"),
    ],
)
def test_a_mistake_is_named(folder: Path, old: str, new: str, sentence: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=sentence) as caught:
        load(folder, GOOD.replace(old, new, 1))
    assert "run.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_the_bundled_config_loads() -> None:
    config = load_run_config(bundled_config())
    assert set(config.problems) >= {"train", "heldout"}
