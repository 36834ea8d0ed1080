"""Access to the folders of series for registration over HTTP."""

from __future__ import annotations

import os

from oxidicom import below_root


class LocalSeriesFiles:
    """Files in the folders of series below the open files root (ports.SeriesFiles).

    With `sync`, the file that `put_empty` creates is on the device when it returns. The methods
    block; they may be called from any thread.
    """

    def __init__(self, root_fd: int, *, sync: bool) -> None:
        self._root_fd = root_fd
        self._sync = sync

    def names(self, path: str) -> list[str]:
        """Return the names of the regular files in the folder `path`, sorted.

        Names that are not printable text are left out, because they cannot be sent to CUBE. The
        list is empty if the folder does not exist. Raises OSError if it cannot be read.
        """
        names = below_root.list_files(self._root_fd, path.encode(), missing_ok=True)
        return sorted(name for name in names if name.isprintable())

    def put_empty(self, path: str, name: str) -> None:
        """Create the empty file `name` in the folder `path`, and the folder where it is missing.

        A regular file that exists is kept. No temporary file is needed: an empty file is never half
        written. Raises OSError as `below_root.create_empty_file` does.
        """
        file_name = os.fsencode(name)
        below_root.create_empty_file(self._root_fd, path.encode(), file_name, sync=self._sync)
