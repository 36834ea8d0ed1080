"""The image of the Dockerfile without a daemon: its instructions carried out in an overlay over
this machine, and its process started in namespaces of its own, as a container's.

Only what needs a registry is replaced: Debian's packages are made again from those that are
installed here, our wheel is the one given, and what it depends on is found where the tests have it.
So this needs root, Debian 12 and its python3.11; elsewhere the test is skipped.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest

from tests.support.dockerfile import Instruction, environment, of_image, stages

SITE = sysconfig.get_path("purelib")
"""Where the tests' own Python finds packages: those that ours depends on."""

TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin"


def demand() -> None:
    """Skips the test where no image can be built so."""
    release = Path("/etc/os-release")
    if not release.exists() or 'VERSION_ID="12"' not in release.read_text():
        pytest.skip("the image is made of Debian 12's packages")
    if sys.version_info[:2] != (3, 11) or not Path("/usr/bin/python3.11").exists():
        pytest.skip("the image has Debian's Python 3.11")
    probe = (
        "mount -t tmpfs tmpfs /mnt && mkdir /mnt/a /mnt/b && mount -t overlay overlay -o "
        "lowerdir=/,upperdir=/mnt/a,workdir=/mnt/b /srv"
    )
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-ec", probe], capture_output=True
    )
    if tried.returncode:
        pytest.skip(f"no namespaces for us here: {tried.stderr.decode().strip()}")


# ---- building ------------------------------------------------------------------------------------


def build_image(wheel: Path, folder: Path) -> Path:
    """Root file system of the last stage, in `folder`."""
    image, packages = folder / "image", folder / "packages"
    for made in (image, packages):
        made.mkdir()
    script = "\n".join(_script(wheel, packages))
    # Everything happens on a tmpfs that ends with the namespace; only the image is outside.
    prelude = (
        f"mount -t tmpfs tmpfs /mnt; mkdir /mnt/upper /mnt/work /mnt/root;"
        " mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root;"
        f" mkdir -p /mnt/root/image-of-test; mount --bind {image} /mnt/root/image-of-test;"
        " mount -t proc proc /mnt/root/proc; mount --rbind /dev /mnt/root/dev;"
        ' exec chroot /mnt/root sh -exc "$1"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", prelude, "sh", script],
        env={
            "PATH": f"{TOOLS}:{Path(sys.executable).parent}",  # Debian's Python, and a pip
            "PIP_NO_DEPS": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return image


def _script(wheel: Path, packages: Path) -> list[str]:
    """The stages as commands of a shell, one after the other on one file system: they share no
    path but those that they copy."""
    parted = stages()
    lines = []
    for number, stage in enumerate(parted):
        lines.append("cd /")
        target = "/image-of-test" if number == len(parted) - 1 else ""
        for instruction in stage:
            lines += _commands(instruction, target, wheel, packages)
    return lines


def _commands(one: Instruction, target: str, wheel: Path, packages: Path) -> list[str]:
    text = one.arguments
    if one.keyword == "WORKDIR":
        folder = shlex.quote(target + text)
        return [f"mkdir -p {folder}", f"cd {folder}"]
    if one.keyword == "COPY" and text.startswith("--from="):
        *options, source, to = text.split()
        owner = [one.removeprefix("--chown=") for one in options if one.startswith("--chown=")]
        copied = [f"mkdir -p {target}{to}", f"cp -a {source}/. {target}{to}"]
        return copied + [f"chown {who} {target}{to}" for who in owner]
    if one.keyword != "RUN" or text.startswith("apt-get update"):
        return []  # sources are in the wheel, tools are on the machine
    if text.startswith("pip wheel "):
        return ["mkdir /wheels", f"cp {wheel} /wheels"]
    if text.startswith("apt-get download "):
        repack(text.split()[2:], packages)
        return [f"cp {packages}/*.deb ."]
    if text.startswith("python3.11 -m venv"):
        pth = "/opt/oxidicom/lib/python3.11/site-packages/dependencies.pth"
        return [f"({text})", f"echo {SITE} >{pth}"]
    if text.startswith("chroot "):
        beside = f"/image{SITE}"
        return [
            f"mkdir -p {beside}; mount --bind {SITE} {beside}", f"({text})", f"umount {beside}"
        ]  # fmt: skip
    return [f"({text})"]


def repack(names: list[str], folder: Path) -> None:
    """Debian's packages of these names, as they are installed here, as .deb files again."""
    for name in names:
        fields = dpkg("--status", name)
        tree = folder / name
        for listed in dpkg("--listfiles", name).splitlines():
            source, copy = Path(listed), tree / listed.lstrip("/")
            if source.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
            elif os.path.lexists(source):  # not what a trimmed system leaves out
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, copy, follow_symlinks=False)
        (tree / "DEBIAN").mkdir()
        kept = [
            line
            for line in fields.splitlines()
            if not line.startswith(("Status:", "Conffiles:", " /"))
        ]
        (tree / "DEBIAN" / "control").write_text("\n".join(kept) + "\n")
        subprocess.run(
            ["dpkg-deb", "--build", "-Znone", "--root-owner-group", tree, f"{tree}_1_all.deb"],
            check=True,
            capture_output=True,
        )
        shutil.rmtree(tree)


def dpkg(question: str, name: str) -> str:
    told = subprocess.run(["dpkg-query", question, name], capture_output=True, text=True)
    if told.returncode:
        pytest.skip(f"{name} is not installed")
    return told.stdout


# ---- running -------------------------------------------------------------------------------------

ENTER = """\
root=$1; data=$2; user=$3; group=$4; folder=$5; shift 5
mount --bind "$root" "$root"
mount --bind "$data" "$root/data"
mount --bind -o ro "$SITE" "$root$SITE"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -o remount,ro,bind "$root"
ip link set lo up
exec env --ignore-environment $ENVIRONMENT setpriv --no-new-privs --clear-groups \
    unshare --root "$root" --wd "$folder" --setgid "$group" --setuid "$user" "$@"
"""


class Container:
    """ENTRYPOINT and CMD of the image as process 1 of namespaces of its own: an unprivileged user
    without capabilities, a read-only root, a network of its own (so the usual ports are free)."""

    def __init__(self, image: Path, data: Path, command: list[str], **settings: str) -> None:
        self._image, self._data, self._command = image, data, command
        self._environment = environment() | settings
        self._process: subprocess.Popen[str] | None = None
        self._first: psutil.Process | None = None

    def __enter__(self) -> Self:
        (owner,) = of_image("USER")
        (folder,) = of_image("WORKDIR")
        uid, gid = owner.split(":")
        os.chown(self._data, int(uid), int(gid))
        (self._image / SITE.lstrip("/")).mkdir(parents=True, exist_ok=True)
        variables = " ".join(f"{name}={value}" for name, value in self._environment.items())
        namespaces = ("--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child")
        arguments = [str(self._image), str(self._data), uid, gid, folder, *self._command]
        self._process = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-ec", ENTER, "sh", *arguments],
            env={"PATH": TOOLS, "SITE": SITE, "ENVIRONMENT": variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process = self._running()
        process.kill()  # and by --kill-child all that runs in it
        process.wait()
        assert process.stdout is not None
        print(process.stdout.read(), file=sys.stderr)
        process.stdout.close()

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    def wait_for(self, words: str) -> str:
        """The first line of its output from here on that has these words."""
        stream = self._running().stdout
        assert stream is not None
        seen = []
        for line in stream:
            seen.append(line)
            if words in line:
                return line
        raise AssertionError(f"no {words!r} in:\n{''.join(seen)}")

    @property
    def first(self) -> psutil.Process:
        """Process 1 of it, as this machine sees it."""
        if self._first is None:
            (self._first,) = psutil.Process(self._running().pid).children()
        return self._first

    def beside(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """A program of this machine on the container's network."""
        return self._entered("--net", "--", *command)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A program of the image in the container, as HEALTHCHECK and `docker exec` do."""
        (owner,) = of_image("USER")
        uid, gid = owner.split(":")
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        namespaces = ("--net", "--mount", "--pid", "--root", "--wd")
        return self._entered(
            *namespaces, "--setgid", gid, "--setuid", uid, "--", *command, environment=variables
        )

    def _entered(
        self, *arguments: str | Path, environment: list[str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "--target", str(self.first.pid), *arguments],
            env=dict(one.split("=", 1) for one in environment or [f"PATH={os.environ['PATH']}"]),
            capture_output=True,
            text=True,
            timeout=30,
        )

    def terminate(self, timeout: float) -> int:
        """Exit status after SIGTERM to process 1, as `docker stop` sends it."""
        self.first.send_signal(signal.SIGTERM)
        return self._running().wait(timeout)
