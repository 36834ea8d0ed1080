"""Refused instances, kept for a person to look at (decision 22)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from oxidicom._writer import Gather, PartFile
from oxidicom.store.folders import make_folders
from oxidicom.ulid import new_ulid

_BESIDE_TEMPORARY: Final = b".oxidicom/quarantine"


class Quarantine:
    """Keeps Part 10 files in `state_dir`/quarantine, each under a fresh ULID."""

    def __init__(self, files_root: Path, state_dir: Path) -> None:
        self._files_root = files_root
        self._folder = state_dir / "quarantine"
        self._elsewhere = self._folder.resolve() != (files_root / ".oxidicom/quarantine").resolve()

    def keep(self, part: PartFile, gather: Gather) -> None:
        """Write what is left of the instance and move it into quarantine; raises OSError."""
        name = f"{new_ulid()}.dcm"
        root_fd = os.open(self._files_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while not part.place(gather, root_fd, _BESIDE_TEMPORARY, name.encode()):
                make_folders(root_fd, _BESIDE_TEMPORARY, sync=False)
        finally:
            os.close(root_fd)
        if self._elsewhere:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = self._files_root / ".oxidicom/quarantine" / name
            shutil.copyfile(beside, self._folder / f".{name}")
            os.replace(self._folder / f".{name}", self._folder / name)
            beside.unlink()
