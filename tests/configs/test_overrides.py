"""Where a config comes from: files, and the command line on top."""

from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.overrides import parse_arguments, read_config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2\n", "must hold keys"),
        ("", "must hold keys"),
        ("a: 1\na: 2\n", "'a' is twice"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_config(file)
    with pytest.raises(ConfigError, match="There is no config at"):
        read_config(tmp_path / "absent.yaml")


def test_command_lines() -> None:
    argv = [
        "--config",
        "c.yaml",
        "--learning_rate=1e-4",
        "--prompt_selection.samples",
        "4",
        "--local_rank=0",
        "--bf16",
        "true",
    ]
    config, overrides = parse_arguments(argv, "train/grpo.py")
    assert config == "c.yaml"
    assert overrides == {"learning_rate": "1e-4", "prompt_selection": {"samples": 4}, "bf16": True}
    assert parse_arguments(["c.yaml"], "x") == ("c.yaml", {})
    for bad in ([], ["--config"], ["a.yaml", "b.yaml"], ["--config", "c.yaml", "--x", "[1"]):
        with pytest.raises(ConfigError):
            parse_arguments(bad, "train/grpo.py")
