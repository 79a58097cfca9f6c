"""``reflection-v eval --via lmms-eval``: the tasks of that package, if the extra ``bench`` is installed."""

import subprocess
import sys
from pathlib import Path

from configs.errors import ConfigError, UserError
from configs.versions import install_command, is_installed
from vlm.backends import served_model


def lmms_command(model: str, tasks: str, out: str | Path, limit: int | None = None) -> list[str]:
    """The command line of lmms-eval for a model of Hugging Face (its backends are named after families) or a server.

    Raises:
        ConfigError: lmms-eval has no backend for the model, as for the bundled one.
    """
    if (served := served_model(model)) is not None:
        name, url = served
        backend, arguments = "openai_compatible", f"model_version={name},base_url={url}"
    else:
        families = {
            "qwen2.5-vl": "qwen2_5_vl",
            "qwen2_5_vl": "qwen2_5_vl",
            "qwen3-vl": "qwen3_vl",
            "qwen3_vl": "qwen3_vl",
        }
        family = next((value for key, value in families.items() if key in model.lower()), None)
        if family is None:
            raise ConfigError(
                f"lmms-eval has no backend for {model}: give a Qwen2.5-VL or Qwen3-VL whose name contains the family, or serve it "
                "and give openai:NAME@URL."
            )
        backend, arguments = family, f"pretrained={model}"
    command = [sys.executable, "-m", "lmms_eval", "--model", backend, "--model_args", arguments, "--tasks", tasks]
    command += ["--batch_size", "1", "--log_samples", "--output_path", str(out)]
    return command + (["--limit", str(limit)] if limit else [])


def run_lmms(model: str, tasks: str, out: str | Path, limit: int | None = None) -> None:
    """Run lmms-eval; it writes its own results into ``out``.

    Raises:
        UserError: lmms-eval is not installed, or it failed.
    """
    command = lmms_command(model, tasks, out, limit)
    if not is_installed("lmms_eval"):
        raise UserError(f"lmms-eval is not installed: {install_command('bench')}")
    if code := subprocess.run(command, check=False).returncode:
        raise UserError(f"lmms-eval ended with exit code {code}: see its messages above.")
