"""The image of the Dockerfile without a daemon: its instructions are carried out in an overlay over
this machine, and its process is started in namespaces of its own, as a container's.

Only what needs a registry is replaced: Debian's packages are made again from those that are
installed here, our wheel is the given one, and its dependencies are taken from where the tests have
them. So this needs root, and Debian 13 or 12 with its own Python running the tests; elsewhere
the test is skipped. On Debian 12 the image is built with the build arguments for it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest

from tests.support.dockerfile import (
    Instruction,
    build_arguments,
    environment,
    of_image,
    stages,
)

SITE = sysconfig.get_path("purelib")
"""Folder of the packages of the tests' own Python, which ours depends on."""

LIFE = 120.0
"""Seconds after which a container ends in any case."""

TOOLS = "/usr/sbin:/usr/bin:/sbin:/bin"


BUILD_ARGUMENTS: dict[str, dict[str, str]] = {
    "12": {"DEBIAN": "bookworm", "PYTHON": "3.11", "LIBSSL": "libssl3"},
    "13": {},
}
"""Those that the Dockerfile is built with, by the release of Debian."""


def debian_release() -> str:
    """Return the number of this machine's release of Debian; empty where it is none."""
    with contextlib.suppress(OSError):
        told = platform.freedesktop_os_release()
        if told["ID"] == "debian":
            return told.get("VERSION_ID", "")
    return ""


def demand(folder: Path) -> None:
    """Skip the test where no image can be built; `folder` is empty, before and after."""
    release = debian_release()
    if release not in BUILD_ARGUMENTS:
        pytest.skip("the image is made of packages of Debian 13 or 12")
    version = (build_arguments() | BUILD_ARGUMENTS[release])["PYTHON"]
    if version != f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"the image has Python {version}, and other packages than these tests")
    if not Path(f"/usr/bin/python{version}").exists():
        pytest.skip(f"Debian's Python {version} is not installed")
    for program in ("ip", "setpriv", "strip"):
        if shutil.which(program, path=TOOLS) is None:
            pytest.skip(f"{program} is not installed")
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-ec", OVERLAY, "sh", folder],
        capture_output=True,
    )
    if tried.returncode:
        pytest.skip(f"no namespaces for us here: {tried.stderr.decode().strip()}")


OVERLAY = """\
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
"""
"""A copy of this machine's root in which everything may be changed; it ends with its namespace."""


# ---- building ------------------------------------------------------------------------------------


BUILD = """\
root=$1/root; image=$2; script=$3; shift 3
for folder; do  # what the root file system itself may not hold
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done
mkdir "$root/image-of-test"
mount --bind "$image" "$root/image-of-test"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
exec chroot "$root" sh -exc "$script"
"""


def build_image(wheel: Path, folder: Path) -> Path:
    """Build the root file system of the last stage in `folder`, which is empty."""
    image, packages, overlay = (folder / name for name in ("image", "packages", "overlay"))
    for made in (image, packages, overlay):
        made.mkdir()
    script = "\n".join(_script(wheel, packages))
    beside = (wheel.parent, packages, Path(sys.prefix), Path(sys.base_prefix))
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-ec", OVERLAY + BUILD, "sh"),
            *(overlay, image, script, *beside),
        ],
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
    """Return the stages as shell commands, one after another on one file system: they share no path
    but those that they copy."""
    parted = stages(**BUILD_ARGUMENTS[debian_release()])
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
        repack(shlex.split(text)[2:], packages)
        return [f"cp {packages}/*.deb ."]
    if " -m venv " in text:
        python = shlex.split(text)[0]
        pth = f"/opt/oxidicom/lib/{python}/site-packages/dependencies.pth"
        return [f"({text})", f"echo {SITE} >{pth}"]
    if text.startswith("chroot "):
        beside = f"/image{SITE}"
        bound = f"mkdir -p {beside}; mount --bind {SITE} {beside}"
        return [bound, f"({text})", f"umount {beside}"]
    return [f"({text})"]


def repack(names: list[str], folder: Path) -> None:
    """Make .deb files again of Debian's packages of these names, as they are installed here."""
    for name in names:
        fields = dpkg("--status", name)
        tree = folder / name
        for listed in dpkg("--listfiles", name).splitlines():
            source, copy = Path(listed), tree / listed.lstrip("/")
            # Since Debian 13 base-files owns the links from /lib to /usr/lib and their like, which
            # other packages of Debian 12 list as folders.
            is_link = source.is_symlink() and name == "base-files" and debian_release() != "12"
            if source.is_dir() and not is_link:
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
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root$SITE"  # it may well be below /tmp
mount --bind -o ro "$SITE" "$root$SITE"
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
    without capabilities, a read-only root, and a network of its own, so that the usual ports are
    free."""

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
        variables = " ".join(f"{name}={value}" for name, value in self._environment.items())
        namespaces = ("--mount", "--net", "--pid", "--ipc", "--uts", "--fork")
        arguments = [str(self._image), str(self._data), uid, gid, folder, *self._command]
        self._process = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-ec", ENTER, "sh", *arguments],
            env={"PATH": TOOLS, "SITE": SITE, "ENVIRONMENT": variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._limit = threading.Timer(LIFE, self._kill)
        self._limit.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process = self._running()
        self._limit.cancel()
        self._kill()
        process.wait()
        assert process.stdout is not None
        print(process.stdout.read(), file=sys.stderr)
        process.stdout.close()

    def _kill(self) -> None:
        """Kill process 1, with which everything in the container ends, and then `unshare`, which
        waits for it; its own --kill-child ends nothing that has changed its user."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._running().pid).children():
                child.kill()

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    def wait_for(self, words: str) -> str:
        """Return the first further line of its output that contains these words."""
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
        """Return its process 1 as this machine sees it."""
        if self._first is None:
            (self._first,) = psutil.Process(self._running().pid).children()
        return self._first

    def beside(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine on the container's network."""
        return self._entered({"PATH": os.environ["PATH"]}, "--net", "--", *command)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the image in the container, as HEALTHCHECK and `docker exec` do."""
        (owner,) = of_image("USER")
        uid, gid = owner.split(":")
        namespaces = ("--net", "--mount", "--pid", "--root", "--wd")
        user = ("--setgid", gid, "--setuid", uid)
        return self._entered(self._environment, *namespaces, *user, "--", *command)

    def _entered(
        self, variables: dict[str, str], *arguments: str | Path
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", "--target", str(self.first.pid), *arguments],
            env=variables,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def terminate(self, timeout: float) -> int:
        """Send SIGTERM to process 1, as `docker stop` does, and return the exit status."""
        self.first.send_signal(signal.SIGTERM)
        return self._running().wait(timeout)
