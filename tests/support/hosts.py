"""Two hosts of one machine: network namespaces with a wire between them, each under a name of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Host:
    """A namespace that reaches the other one alone, through `interface`, at `address`."""

    name: str
    interface: str
    address: str

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Run a program there, which also sees the host's name; gloo is told which wire to take."""
        inside = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": self.interface, **options.pop("env", {})}
        return subprocess.Popen([*inside, *command], env=environment, start_new_session=True, text=True, **options)


def why_not() -> str:
    """Why this machine has no namespaces for us, or nothing."""
    missing = [program for program in ("ip", "unshare", "hostname") if shutil.which(program) is None]
    if missing:
        return f"no program {', '.join(missing)}"
    name = f"glm-{os.getpid()}-try"
    made = _ip("netns", "add", name)
    _ip("netns", "del", name)
    return "" if made.returncode == 0 else f"no right to make network namespaces: {made.stderr.strip()}"


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two namespaces and their wire, gone at the end with whatever still runs in them."""
    prefix = f"g{os.getpid()}"
    hosts = Host(f"{prefix}-a", f"{prefix}a", "10.77.0.1"), Host(f"{prefix}-b", f"{prefix}b", "10.77.0.2")
    try:
        for host in hosts:
            _must("netns", "add", host.name)
        _must("link", "add", hosts[0].interface, "type", "veth", "peer", "name", hosts[1].interface)
        for host in hosts:
            _must("link", "set", host.interface, "netns", host.name)
            _must("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.interface)
            for link in ("lo", host.interface):
                _must("-n", host.name, "link", "set", link, "up")
        yield hosts
    finally:
        for host in hosts:
            for process in _ip("netns", "pids", host.name).stdout.split():
                if Path(f"/proc/{process}").exists():
                    os.kill(int(process), 9)
            _ip("netns", "del", host.name)


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


def _must(*arguments: str) -> None:
    done = _ip(*arguments)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr}")
