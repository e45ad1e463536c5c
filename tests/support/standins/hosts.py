"""Machines of our own on this one: Linux namespaces with an address, a home and an ssh server each."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.workers import REPOSITORY

NEEDED = {
    "ip": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "unshare": "util-linux",
}
_SYSTEM = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


def missing() -> str:
    """What keeps this machine from having namespaces as hosts; empty if nothing does."""
    if os.geteuid() != 0:
        return "namespaces with addresses of their own need root"
    lacking = [package for program, package in NEEDED.items() if shutil.which(program, path=_SYSTEM) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (make cluster-test installs them)"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


@dataclass(frozen=True)
class Host:
    """One machine."""

    name: str
    address: str
    home: Path
    init: int
    """Its first process, as seen from outside."""

    def command(self, *words: str, **environment: str) -> list[str]:
        """The words as a command that runs inside, with the host's home and nothing else of our environment.

        Programs are looked for in this project's environment too, and the command runs in the repository.
        """
        settings = {"HOME": str(self.home), "PATH": f"{sys.prefix}/bin:{_SYSTEM}", "LANG": "C.UTF-8", "COLUMNS": "200"}
        named = [f"{name}={value}" for name, value in (settings | environment).items()]
        inside = [
            "nsenter",
            "--target",
            str(self.init),
            "--all",
            "env",
            f"--chdir={REPOSITORY}",
            "--ignore-environment",
        ]
        return [*inside, *named, *words]

    def run(self, *words: str, timeout: float = 600, **environment: str) -> str:
        """What a command inside prints."""
        words_inside = self.command(*words, **environment)
        done = subprocess.run(words_inside, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{self.name}: {' '.join(words)}\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
        return done.stdout

    def processes(self) -> dict[int, str]:
        """Command lines of the host's processes by their number inside, but for its first and this question."""
        lines = self.run("ps", "-e", "-o", "pid=,stat=,args=").splitlines()
        found = [line.split(maxsplit=2) for line in lines]
        return {
            int(pid): words
            for pid, state, words in found
            if int(pid) != 1 and state[0] != "Z" and words[:6] != "ps -e "
        }


@dataclass(frozen=True)
class Hosts:
    """Machines on one network, what they share, and how to get in."""

    machines: tuple[Host, ...]
    """Those of the cluster."""
    user: Host
    """Where the user sits."""
    folder: Path
    key: Path
    shared: Path
    """A folder that all of them see, as NFS would give them."""


@contextmanager
def hosts(count: int) -> Iterator[Hosts]:
    """So many machines and the user's, joined by a bridge; at the end all their processes are gone."""
    # Not below /tmp: every host has a /tmp of its own in that place.
    folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/var/tmp"))
    bridge, network = f"mmpo{os.getpid() % 100000}", f"10.231.{os.getpid() % 250}"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "delete", bridge)
        _ip("address", "add", f"{network}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        key, shared = folder / "key", folder / "shared"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        shared.mkdir()
        names = [f"node{number}" for number in range(1, count + 2)]
        addresses = [f"{network}.{number + 10}" for number in range(1, count + 2)]
        (folder / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in zip(names, addresses))
        )
        machines = tuple(
            stack.enter_context(_host(name, address, folder, bridge, f"{network}.1"))
            for name, address in zip(names, addresses)
        )
        yield Hosts(machines[:-1], machines[-1], folder, key, shared)


@contextmanager
def _host(name: str, address: str, folder: Path, bridge: str, gateway: str) -> Iterator[Host]:
    own = folder / name
    for part in ("home/mmpo-sweeps/.venv", "tmp", "run", "venv/upper", "venv/work"):
        (own / part).mkdir(parents=True)
    (own / "tmp").chmod(0o1777)
    (own / "passwd").write_text(
        re.sub(
            r"^(root:[^:]*:0:0:[^:]*):.*$", rf"\1:{own / 'home'}:/bin/bash", Path("/etc/passwd").read_text(), flags=re.M
        )
    )
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(own / "host_key")], check=True)
    (own / "sshd_config").write_text(
        f"Port 22\nListenAddress 0.0.0.0\nHostKey {own / 'host_key'}\nPidFile none\nUsePAM no\nUseDNS no\n"
        f"AuthorizedKeysFile {folder / 'key.pub'}\nStrictModes no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nMaxStartups 100\nMaxSessions 100\n"
    )
    script = f"""
        set -e
        hostname {name}
        mount --make-rprivate /
        mount -t overlay overlay -o lowerdir={sys.prefix},upperdir={own}/venv/upper,workdir={own}/venv/work \
            {own}/home/mmpo-sweeps/.venv
        mount --bind {own}/tmp /tmp
        mount --bind {own}/run /run
        mkdir /run/sshd
        mount -t tmpfs -o size=8g tmpfs /dev/shm
        mount --bind {own}/passwd /etc/passwd
        mount --bind {folder}/hosts /etc/hosts
        exec {shutil.which("sshd", path=_SYSTEM)} -D -e -f {own}/sshd_config
    """
    namespaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    with (own / "sshd.log").open("w") as log:
        # Dies with these tests, however they end.
        alone = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces]
        outer = subprocess.Popen([*alone, "bash", "-c", script], stdout=log, stderr=log)
    try:
        init = _child(outer.pid)
        link = f"{bridge}{name[-1]}"
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(init))
        _ip("link", "set", link, "master", bridge, "up")
        inside = ["nsenter", "--target", str(init), "--net", "ip"]
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "via", gateway],
        ):
            subprocess.run([*inside, *words], check=True)
        host = Host(name, address, own / "home", init)
        _move_venv(host)
        yield host
    finally:
        # Every process inside ends with the first one.
        for pid in Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        outer.wait()


def _move_venv(host: Host) -> None:
    """Make this project's environment the host's own: `make .venv/.ready` finds it ready, in the host's own folder."""
    venv = host.home / "mmpo-sweeps" / ".venv"
    for _ in range(100):
        if (Path(f"/proc/{host.init}/root") / venv.relative_to("/") / "bin").exists():
            break
        time.sleep(0.1)
    host.run("bash", "-c", f"grep -lIs '^#!{sys.prefix}/' {venv}/bin/* | xargs sed -i '1s#{sys.prefix}/#{venv}/#'")
    packages = f"{venv}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    host.run("bash", "-c", f"rm -f {packages}/__editable__* && echo {venv.parent} > {packages}/mmpo-sweeps.pth")
    host.run("touch", f"{venv}/.ready")
    # Each of them would take all of this machine's memory for its own, and end workers because of what others use.
    (host.home / ".bashrc").write_text("export RAY_memory_monitor_refresh_ms=0\n")


def _child(pid: int) -> int:
    for _ in range(100):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.05)
    raise AssertionError("unshare started nothing")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, env=os.environ | {"PATH": _SYSTEM})


def within(seconds: float, what: str, holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(1)
