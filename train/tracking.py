"""Trackers: whether they can begin, a run's provenance for them; and the stop if sampling and training disagree."""

import configparser
import contextlib
import json
import netrc
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from transformers import TrainerCallback

from configs.errors import UserError

GAP = "sampling/sampling_logp_difference/mean"


class Tracked(TrainerCallback):
    """Send a run's provenance to wandb, tensorboard and trackio, whose own callbacks send TRL's arguments only.

    One folder is one run of wandb: a resumed run continues it, and the next stage of the same process opens a run of its own,
    because its steps begin at 1 again.

    Args:
        known: the result of ``provenance``, which is also in ``settings.json``.
        handler: the trainer's callback handler, which holds the callbacks of the trackers.
        folder: of the run; its ``wandb_run.txt`` keeps the id of wandb's run.
    """

    def __init__(self, known: Mapping[str, Any], handler: Any, folder: Path) -> None:
        self.known, self.handler, self.file = dict(known), handler, folder / "wandb_run.txt"
        # A run of wandb that is open already is the caller's, and stays open.
        self.mine = getattr(sys.modules.get("wandb"), "run", None) is None
        self.set = {"WANDB_RUN_ID", "WANDB_RESUME"} - set(os.environ)
        if self.mine and len(self.set) == 2 and self.file.exists():
            os.environ |= {"WANDB_RUN_ID": self.file.read_text(encoding="utf-8").strip(), "WANDB_RESUME": "allow"}
        else:
            self.set = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        if "wandb" in args.report_to:
            import wandb

            if wandb.run is not None:
                wandb.run.config.update({"reflection_v": self.known}, allow_val_change=True)
                self.file.write_text(wandb.run.id + "\n", encoding="utf-8")
        for callback in self.handler.callbacks:
            if (writer := getattr(callback, "tb_writer", None)) is not None:
                writer.add_text("reflection_v", f"```\n{json.dumps(self.known, indent=2)}\n```")
            if (trackio := getattr(callback, "_trackio", None)) is not None:
                trackio.config.update({"reflection_v": self.known}, allow_val_change=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for name in self.set:
            os.environ.pop(name, None)
        if "wandb" in args.report_to and self.mine and state.is_world_process_zero:
            import wandb

            wandb.finish()


def tracker_refusals(args: Any) -> Iterator[tuple[str, str]]:
    """(name of the check, sentence) for each tracker that would refuse to begin a run on this machine."""
    if "wandb" in (args.report_to or []) and not _wandb_can_begin():
        yield (
            "report_to",
            "'report_to' has wandb, which finds no key on this machine, so the run would end at its first step: run 'wandb login', "
            "export WANDB_API_KEY or WANDB_MODE=offline, or name other trackers (report_to: all is every one that is installed).",
        )


def _wandb_can_begin() -> bool:
    """Whether wandb needs no key (offline, or a run is open already) or finds one where it looks for it.

    Its own settings files are read here, not by wandb, which would start a service.
    """
    if getattr(sys.modules.get("wandb"), "run", None) is not None:
        return True
    settings = configparser.ConfigParser(interpolation=None)
    home = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    here = Path(os.environ.get("WANDB_DIR") or ".")
    with contextlib.suppress(configparser.Error, OSError, UnicodeError):
        settings.read([home / "settings", here / "wandb" / "settings"], encoding="utf-8")
    known = dict(settings["default"]) if settings.has_section("default") else {}
    mode = os.environ.get("WANDB_MODE") or known.get("mode", "online")
    disabled = os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on")
    if mode.lower() in ("offline", "disabled", "dryrun") or disabled:
        return True
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")) or known.get("api_key"):
        return True
    url = os.environ.get("WANDB_BASE_URL") or known.get("base_url") or "https://api.wandb.ai"
    files = (
        [Path(os.environ["NETRC"])]
        if os.environ.get("NETRC")
        else [Path.home() / name for name in (".netrc", "_netrc")]
    )
    for file in files:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            entry = netrc.netrc(str(file)).hosts.get(urlsplit(url).hostname or "")
            if entry is not None and entry[2]:
                return True
    return False


class StopAtGap(TrainerCallback):
    """End a run in which sampling and training compute different probabilities for the same tokens.

    vLLM computes them with other kernels and types. Importance sampling corrects a small difference. A large one means other
    weights, another template or a broken kernel, so the model would learn noise.
    """

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        gap = (logs or {}).get(GAP)
        if gap is not None and gap > self.bound:
            raise UserError(
                f"At step {state.global_step} the log-probabilities of sampling and of training differ by {gap:.3g} a token on "
                f"average, more than max_logprob_gap {self.bound:g}: check that vLLM serves the same model (revision, dtype, "
                "vllm_model_impl), and raise max_logprob_gap only if the gap does not grow."
            )
