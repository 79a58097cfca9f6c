"""Under which names and path the page answers: its own machine's, and those under which a proxy serves it.

A page of another site could reach this machine under that site's name (DNS rebinding), or send requests to it. The header
``Host`` tells the first, ``Origin`` the second. ``X-Forwarded-Host`` is never read, since every visitor can write it.
"""

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from configs.errors import ConfigError

LOCAL = ("127.0.0.1", "localhost", "::1")
STANDARD_PORTS = {"http": 80, "https": 443}
NAME = re.compile(r"(?:\[([0-9a-f:.]+)\]|([\w-]{1,63}(?:\.[\w-]{1,63})*)\.?)(?::(\d{1,5}))?", re.ASCII)
PATH = re.compile(r"(?:/[\w.~-]+)+", re.ASCII)
OWN = ("api", "assets", "config", "favicon.ico", "gradio_api", "image", "manifest.json", "rows", "static", "theme.css")
"""First parts of the page's own paths."""

HostName = tuple[str, int | None]
"""A host's name and its port; None where none is written."""


def read_name(text: str) -> HostName | None:
    """The name and port of ``NAME``, ``NAME:PORT`` or ``[IPV6]:PORT``, in one spelling; None for anything else."""
    found = NAME.fullmatch(text.lower())
    if found is None:
        return None
    address, name, port = found[1], found[2], None if found[3] is None else int(found[3])
    if port is not None and not 0 < port < 2**16:
        return None
    if address is None:
        return name, port
    try:
        return ipaddress.IPv6Address(address).compressed, port
    except ValueError:
        return None


def _given_name(text: str) -> HostName | None:
    try:
        return read_name(text.encode("idna").decode())  # as browsers send names in other alphabets
    except UnicodeError:  # an empty label, or one that is too long
        return None


@dataclass(frozen=True)
class Access:
    """Which requests are the page's own.

    Args:
        names: the names under which a proxy serves the page. A name without a port stands for the standard ports, and for
            the port that ``Host`` tells.
        every_name: whether ``Host`` may be any name: for a page that is open to the network and has no list of names.
        root_path: the path below which a proxy serves the page, such as ``/look``; empty at the root.
    """

    names: tuple[HostName, ...] = ()
    every_name: bool = False
    root_path: str = ""

    @classmethod
    def parse(cls, host: str, allowed_hosts: Sequence[str] = (), root_path: str = "/") -> Self:
        """The access of a page that listens on ``host``, from the values of the command line.

        Raises:
            ConfigError: a value that is not a host name, or not a path.
        """
        names = []
        for text in allowed_hosts:
            name = _given_name(text)
            if name is None:
                raise ConfigError(
                    f"--allowed_host {text!r} is not the name of a host: write it as NAME or NAME:PORT, without http:// and without a path."
                )
            names.append(name)
        # A proxy on another machine, which keeps its own Host, says the address on which this one listens.
        own = read_name(f"[{host}]" if ":" in host else host)
        if names and own is not None and own[0] not in LOCAL:
            names.append(own)
        path = root_path.removesuffix("/")
        parts = path.split("/")[1:]
        if not root_path.startswith("/") or (path and (not PATH.fullmatch(path) or {".", ".."} & set(parts))):
            raise ConfigError(
                f"--root_path {root_path!r} is not a path: write it as /NAME, in letters, digits and the signs . _ ~ -, without a host."
            )
        if parts and parts[0] in OWN:
            raise ConfigError(f"--root_path {root_path!r} begins like a path of the page itself: choose another.")
        return cls(tuple(names), host not in LOCAL and not names, path)

    def refusal(self, hosts: Sequence[str], origins: Sequence[str]) -> str | None:
        """Why a request with these headers ``Host`` and ``Origin`` is not answered; None if it is."""
        if len(hosts) != 1 or not self.answers_to(hosts[0]):
            # What a visitor wrote is repeated only if it is a name.
            name = hosts[0] if len(hosts) == 1 and read_name(hosts[0]) else "this name"
            return f"This page does not answer to {name}: if a proxy serves it so, name it with --allowed_host."
        if any(not self.is_page(origin, hosts[0]) for origin in origins):
            return "This request comes from another page: if it is this page behind a proxy, name its host with --allowed_host."
        return None

    def answers_to(self, host: str) -> bool:
        """Whether a request with this ``Host`` is answered."""
        name = read_name(host)
        return name is not None and (
            self.every_name or name[0] in LOCAL or any(known[0] == name[0] for known in self.names)
        )

    def is_page(self, origin: str, host: str) -> bool:
        """Whether a request with this ``Origin`` comes from the page itself; ``host`` is its ``Host``, which is answered."""
        scheme, _, rest = origin.partition("://")
        sender, receiver = read_name(rest), read_name(host)
        standard = STANDARD_PORTS.get(scheme)
        if sender is None or receiver is None or standard is None:
            return False
        name, port = sender[0], sender[1] or standard
        # A proxy may replace Host by its own name for this server, or leave out the port. Then only the list can tell.
        if (name, port) != (receiver[0], receiver[1] or standard):
            return any((known, wanted or standard) == (name, port) for known, wanted in self.names)
        return (
            self.every_name
            or name in LOCAL
            or any(known == (name, None) or known == (name, port) for known in self.names)
        )

    def below(self, path: str) -> str | None:
        """A request's path without ``root_path``; None for ``root_path`` itself without its last slash.

        Some proxies remove the path below which they serve the page, some do not: a path without it stays as it is.
        """
        if not self.root_path:
            return path
        if path == self.root_path:
            return None
        return path.removeprefix(self.root_path) if path.startswith(self.root_path + "/") else path


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0 takes a free one. Raises ConfigError if the port cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart may reuse the port at once
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"Port {port} of {host} cannot be used ({error.strerror}): give another with --port."
        ) from None
    return listening
