"""Two hosts on one machine for ``benchmarks/two_hosts.py``: network namespaces joined by a cable, with an sshd in each.

A host has namespaces of its own for network, processes, mounts and its name, so it sees neither the other's processes nor any
address but its own and, through the cable, the other's. Its first process is an sshd: to kill that one kills all processes of
the host, as a power cut does. The disk is shared. Keys, configs and logs lie in a temporary folder; ``~/.ssh`` and ``/etc/ssh``
are not read. Left behind is nothing: the namespaces are deleted on leaving the block, and those of a killed run by the next one.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError

PROGRAMS = {
    **{"sshd": "openssh-server", "ssh": "openssh-client", "ssh-keygen": "openssh-client", "pdsh": "pdsh"},
    **{"ip": "iproute2", "unshare": "util-linux", "setpriv": "util-linux", "mount": "mount"},
}
"""Programs that the hosts need, and the Debian package of each."""
PREFIX = "two-hosts-"
INTERFACE = "cable"
NETWORK = "198.18.77"
"""Addresses of the block that is reserved for benchmarks (RFC 2544). They exist in the two namespaces only."""
ANSWERS_WITHIN = 30.0  # seconds, on a loaded machine
STALE = re.compile(rf"^{PREFIX}(\d+)-\w+$")


@dataclass(frozen=True)
class Host:
    """A host's name, its address on the cable and the port of its sshd."""

    name: str
    address: str
    port: int

    @property
    def namespace(self) -> str:
        return f"{PREFIX}{os.getpid()}-{self.name}"


def two(port: int) -> tuple[Host, Host]:
    """The hosts ``one`` and ``two``, whose sshds listen on ``port`` and on the next one."""
    return Host("one", f"{NETWORK}.1", port), Host("two", f"{NETWORK}.2", port + 1)


def hostfile(hosts: Sequence[Host], slots: int = 1) -> str:
    """DeepSpeed's hostfile."""
    return "".join(f"{host.name} slots={slots}\n" for host in hosts)


def ssh_config(hosts: Sequence[Host], folder: Path) -> str:
    """The client's config: where each host is, the key, and how soon a host that is gone is noticed."""
    lines = [
        "Host *",
        f"  IdentityFile {folder / 'key'}",
        f"  UserKnownHostsFile {folder / 'known_hosts'}",
        *("  GlobalKnownHostsFile /dev/null", "  StrictHostKeyChecking yes", "  IdentitiesOnly yes", "  BatchMode yes"),
        *("  ConnectTimeout 30", "  ServerAliveInterval 15", "  ServerAliveCountMax 20", "  LogLevel ERROR"),
    ]
    for host in hosts:
        lines += [f"Host {host.name}", f"  HostName {host.address}", f"  Port {host.port}", "  User root"]
    return "\n".join(lines) + "\n"


def sshd_config(host: Host, folder: Path) -> str:
    """The server's config: the throw-away key alone opens it, on the cable alone."""
    return (
        "\n".join(
            [
                f"ListenAddress {host.address}",
                f"Port {host.port}",
                f"HostKey {folder / 'host_key'}",
                f"AuthorizedKeysFile {folder / 'key.pub'}",
                *("PidFile none", "UsePAM no", "StrictModes no", "PasswordAuthentication no", "PermitRootLogin yes"),
                *("KbdInteractiveAuthentication no", "AllowUsers root", "LogLevel INFO"),
            ]
        )
        + "\n"
    )


def known_hosts(hosts: Sequence[Host], public_key: str) -> str:
    """The hosts' key, under their addresses."""
    kind, key = public_key.split()[:2]
    return "".join(f"[{host.address}]:{host.port} {kind} {key}\n" for host in hosts)


def boot_script(host: Host, folder: Path, private: Path | None) -> str:
    """The shell script of a host's first process, which becomes its sshd.

    Args:
        private: a folder that is to be this host's own and empty, in place of the shared one.
    """
    lines = [
        "set -e",
        # sshd wants a folder under /run, and refuses root where /etc/shadow says that its password is locked.
        *("mount -t tmpfs tmpfs /run", "mkdir -m 755 /run/sshd", "mount -t tmpfs tmpfs /dev/shm"),
        *(f"mount --bind {shlex.quote(str(folder / name))} /etc/{name}" for name in ("shadow", "hosts")),
        *([f"mount -t tmpfs tmpfs {shlex.quote(str(private))}"] if private else []),
        f"hostname {host.name}",
        f"exec {shutil.which('sshd') or '/usr/sbin/sshd'} -D -e -f {shlex.quote(str(folder / f'sshd_config.{host.name}'))}",
    ]
    return "\n".join(lines)


def missing_programs() -> list[str]:
    """The Debian packages of the programs that are not installed."""
    places = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return sorted({package for name, package in PROGRAMS.items() if shutil.which(name, path=places) is None})


def require_hosts() -> None:
    """Check that hosts can be made here.

    Raises:
        UserError: not Linux, not root, or a program is missing.
    """
    if not hasattr(os, "geteuid") or not Path("/proc/self/ns/net").exists():
        raise UserError("Two hosts on one machine need Linux: it alone has network namespaces.")
    if os.geteuid() != 0:
        raise UserError("Network namespaces need root: give the same command with sudo, or in a container as root.")
    if packages := missing_programs():
        raise UserError(f"{', '.join(packages)} is missing: apt-get install -y {' '.join(packages)}")


class Hosts:
    """Two hosts with a cable between them, up within the block. Build with ``two_hosts``."""

    def __init__(self, folder: Path, hosts: tuple[Host, Host]) -> None:
        self.folder, self.hosts = folder, hosts
        self._first: dict[str, subprocess.Popen[bytes]] = {}

    def write_files(self) -> None:
        for name in ("key", "host_key"):
            _do(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "throw-away", "-f", str(self.folder / name)])
        texts = {
            "ssh_config": ssh_config(self.hosts, self.folder),
            "known_hosts": known_hosts(self.hosts, (self.folder / "host_key.pub").read_text()),
            "hostfile": hostfile(self.hosts),
            "hosts": "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in self.hosts),
            "shadow": "root:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\n",
            **{f"sshd_config.{host.name}": sshd_config(host, self.folder) for host in self.hosts},
        }
        for name, text in texts.items():
            (self.folder / name).write_text(text)

    def lay_cable(self) -> None:
        for host in self.hosts:
            _do(["ip", "netns", "add", host.namespace])
        ends = [f"rv{os.getpid()}{end}" for end in "ab"]
        _do(["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]])
        for host, end in zip(self.hosts, ends, strict=True):
            _do(["ip", "link", "set", end, "netns", host.namespace, "name", INTERFACE])
            _do(["ip", "-n", host.namespace, "address", "add", f"{host.address}/24", "dev", INTERFACE])
            for device in ("lo", INTERFACE):
                _do(["ip", "-n", host.namespace, "link", "set", device, "up"])

    def boot(self, host: Host, private: Path | None = None) -> None:
        """Start a host and wait until its sshd answers; see ``boot_script``.

        Raises:
            UserError: it does not.
        """
        log = self.folder / f"sshd.{host.name}.log"
        apart = ["unshare", "--fork", "--pid", "--mount-proc", "--uts", "--ipc", "--kill-child=SIGKILL"]
        command = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", host.namespace, *apart]
        with open(log, "wb") as output:
            self._first[host.name] = subprocess.Popen(
                [*command, "sh", "-c", boot_script(host, self.folder, private)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal reaches this script alone, which ends the hosts
            )
        deadline = time.monotonic() + ANSWERS_WITHIN
        while time.monotonic() < deadline and self._first[host.name].poll() is None:
            if self._answers(host):
                return
            time.sleep(0.3)
        raise UserError(no_answer(host, log.read_text(errors="replace")))

    def _answers(self, host: Host) -> bool:
        # From the host itself: the other one may still be off.
        try:
            asked = subprocess.run(self.inside(host, "true"), capture_output=True, timeout=ANSWERS_WITHIN, check=False)
        except subprocess.TimeoutExpired:
            return False
        return asked.returncode == 0

    def pid(self, host: Host) -> int:
        """The host's first process, as this machine numbers it.

        Raises:
            UserError: the host is off.
        """
        process = self._first.get(host.name)
        if process is not None and process.poll() is None:
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                if children:
                    return int(children[0])
        raise UserError(f"The host {host.name} is off.")

    def inside(self, host: Host, line: str) -> list[str]:
        """The command that runs a line of shell on a host, by ssh from the host's own network: it ends when the host does."""
        return ["ip", "netns", "exec", host.namespace, "ssh", "-F", str(self.folder / "ssh_config"), host.name, line]

    def kill(self, host: Host) -> None:
        """SIGKILL to all processes of a host: the kernel sends it to the others when the first one dies."""
        process = self._first.pop(host.name, None)
        if process is None:
            return
        self._first[host.name] = process
        with contextlib.suppress(UserError, ProcessLookupError):
            os.kill(self.pid(host), signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        del self._first[host.name]

    def cable(self, host: Host, state: str) -> None:
        """Pull out (``down``) or put back (``up``) the host's end of the cable: nothing tells the other host's programs."""
        _do(["ip", "-n", host.namespace, "link", "set", INTERFACE, state])

    def shut_down(self) -> None:
        for host in self.hosts:
            self.kill(host)
        for host in self.hosts:
            _delete(host.namespace)


def no_answer(host: Host, log: str) -> str:
    """The sentence about a host that did not come up, from the log of its sshd."""
    where = f"The host {host.name} ({host.address}, port {host.port}) does not answer"
    if "Address already in use" in log:
        return f"{where}: port {host.port} is in use there; choose another one with --port."
    words = [line.strip() for line in log.splitlines() if line.strip()]
    return f"{where}: {words[-1] if words else 'its sshd said nothing'} (start the command again, as root, with sshd allowed)."


@contextlib.contextmanager
def two_hosts(port: int) -> Iterator[Hosts]:
    """Two hosts that are up within the block.

    Raises:
        UserError: see ``require_hosts`` and ``Hosts.boot``.
    """
    require_hosts()
    for name in stale_namespaces(_do(["ip", "netns", "list"])):
        _delete(name)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        hosts = Hosts(Path(folder), two(port))
        try:
            hosts.write_files()
            hosts.lay_cable()
            for host in hosts.hosts:
                hosts.boot(host)
            yield hosts
        finally:
            hosts.shut_down()


def stale_namespaces(listed: str) -> list[str]:
    """The namespaces that killed runs left, from ``ip netns list``."""
    names = [line.split()[0] for line in listed.splitlines() if line.split()]
    found = [(name, match[1]) for name in names if (match := STALE.match(name))]
    return [name for name, pid in found if not Path(f"/proc/{pid}").exists()]


def _delete(namespace: str) -> None:
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False, env=_environment())


def _do(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"'{' '.join(command)}' failed ({reason}): network namespaces need root and CAP_SYS_ADMIN.")
    return done.stdout


def _environment() -> Mapping[str, str]:
    return {**os.environ, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"}
