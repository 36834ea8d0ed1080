"""The quarantine keeps refused instances for an operator to examine (decision 22)."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from oxidicom._writer import Gather, PartFile
from oxidicom.below_root import make_folders, open_root
from oxidicom.ulid import new_ulid

_BESIDE_TEMPORARY: Final = b".oxidicom/quarantine"
"""Folder below the files root into which a part file is renamed, before it is copied to the state
folder, which may be on another file system."""


class Quarantine:
    """The folder `state_dir`/quarantine of Part 10 files, each named by a new ULID."""

    def __init__(self, files_root: Path, state_dir: Path) -> None:
        self._files_root = files_root
        self._beside = files_root / os.fsdecode(_BESIDE_TEMPORARY)
        self._folder = state_dir / "quarantine"
        self._elsewhere = self._folder.resolve() != self._beside.resolve()

    def keep(self, part: PartFile, gather: Gather) -> None:
        """Write the rest of the instance, `gather`, and move its part file into quarantine.

        Raises OSError, and then leaves nothing in `state_dir`; a file that was complete by then
        stays in `.oxidicom/quarantine` in the files root.
        """
        name = f"{new_ulid()}.dcm"
        root_fd = open_root(self._files_root)
        try:
            while not part.place(gather, root_fd, _BESIDE_TEMPORARY, name.encode()):
                make_folders(root_fd, _BESIDE_TEMPORARY, sync=False)
        finally:
            os.close(root_fd)
        if self._elsewhere:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._move(self._beside / name, name)

    def _move(self, beside: Path, name: str) -> None:
        half = self._folder / f".{name}"
        try:
            shutil.copyfile(beside, half)
            half.replace(self._folder / name)
        except OSError:
            with suppress(OSError):
                half.unlink(missing_ok=True)
            raise
        beside.unlink()
