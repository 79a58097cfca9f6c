"""Whether a vLLM server fits a GRPO run with ``vllm_mode: server``, found out before the model loads.

TRL's client asks most of this too, but later, and with a traceback. What it does not ask: whether the server is of the release of
this environment, since the two exchange weights by code that changes from release to release.
"""

import json
import socket
import time
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from accelerate import PartialState

from configs.errors import UserError

COMMAND = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out --logprobs-mode processed_logprobs "
    """--weight-transfer-config '{"backend": "nccl"}'"""
)
"""Starts a server that TRL's trainers can use."""
RETRY = 2.0  # seconds
PATIENCE = 30.0  # seconds for one answer


def check_vllm_server(args: Any) -> None:
    """Refuse a server that the run could not use; nothing if the run uses none. Only the main process asks.

    Raises:
        UserError: no answer within ``vllm_server_timeout``, another release of vLLM, a missing flag, no GPU to exchange the
            weights with, or ``vllm_group_port`` in use.
    """
    if not args.use_vllm or args.vllm_mode != "server":
        return
    state = PartialState()
    if not state.is_main_process:
        return
    url = (args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}").rstrip("/")
    if state.device.type != "cuda":
        raise UserError(
            "vllm_mode: server sends the weights to the server by NCCL after each step, which needs a GPU on this side, and this "
            "process has none: set vllm_mode: colocate."
        )
    release = _release(url, args.vllm_server_timeout)
    try:
        ours = version("vllm").partition("+")[0]
    except PackageNotFoundError:
        ours = release  # TRL says that vLLM is missing
    if release.partition("+")[0] != ours:
        raise UserError(
            f"The vLLM server at {url} is of release {release}, and this environment has {ours}: the two exchange weights by code "
            "of their release, so start the server from this environment."
        )
    _check_flags(url)
    _check_free(args.vllm_group_port)


def _release(url: str, seconds: float) -> str:
    """The release of the server. It may still be starting, so this waits for ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        try:
            _, body = _ask(f"{url}/version")
            return str(json.loads(body)["version"])
        except OSError as error:
            if time.monotonic() >= end:
                raise UserError(
                    f"No vLLM server answers at {url} ({error}), and {seconds:g} seconds (vllm_server_timeout) are over: start it "
                    f"with '{COMMAND}', or name its address in vllm_server_base_url."
                ) from None
            time.sleep(min(RETRY, max(0.0, end - time.monotonic())))
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"What answers at {url} is no vLLM server, because it states no release: name the server's address in "
                "vllm_server_base_url."
            ) from None


def _check_flags(url: str) -> None:
    status, body = _ask(f"{url}/server_info?config_format=json")
    config = json.loads(body).get("vllm_config", {}) if status == 200 else {}
    scale_out, _ = _ask(f"{url}/v1/chat/completions/render")  # by POST alone, so a server that has it answers 405
    missing = []
    if status == 404:
        missing.append("VLLM_SERVER_DEV_MODE=1")
    elif status == 200:  # not 500, as vLLM 0.30 answers where it finds no pip
        if not config.get("weight_transfer_config"):
            missing.append("""--weight-transfer-config '{"backend": "nccl"}'""")
        if (config.get("model_config") or {}).get("logprobs_mode") != "processed_logprobs":
            missing.append("--logprobs-mode processed_logprobs")
    if scale_out == 404:
        missing.append("--enable-scale-out")
    if missing:
        raise UserError(
            f"The vLLM server at {url} was started without {' and '.join(missing)}, which GRPO needs: start it with '{COMMAND}'."
        )


def _check_free(port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError as error:
            raise UserError(
                f"Port {port}, through which the weights go to the vLLM server, is not free ({error.strerror}): end what uses "
                "it, or set another vllm_group_port."
            ) from None


def _ask(url: str) -> tuple[int, bytes]:
    """Status and body of a GET. Raises OSError if nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
