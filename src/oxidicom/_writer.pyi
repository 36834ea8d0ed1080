from typing import final

from _typeshed import ReadableBuffer

from oxidicom._group_sync import FolderSync

def filesystem_type(fd: int) -> int:
    """Return the statfs(2) magic number of the file system of `fd`. Raises OSError."""

def use_openat2(yes: bool) -> None:
    """Open folders with openat2(2) if `yes`, otherwise step by step. Only tests call this."""

@final
class Gather:
    """Pieces of buffers, in order, for one writev(2). It holds the buffers until `clear`."""

    @property
    def size(self) -> int:
        """Number of bytes gathered."""

    def add(self, buffer: ReadableBuffer, start: int, stop: int) -> None:
        """Append bytes [start, stop) of `buffer`. Raises ValueError if it does not have them."""

    def detach(self) -> None:
        """Replace the pieces by a copy, so that the buffers can be reused at once."""

    def clear(self) -> None:
        """Drop all pieces and release the buffers."""

    def __len__(self) -> int: ...

@final
class PartFile:
    """A temporary file, which becomes a complete file or is removed.

    `folder_fd` is the folder of temporary files, `name` must be unique in it, and `header` has the
    bytes before the first gathered one. The first write creates the file. The name of a file that
    cannot be removed is appended to `unremoved`. Raises ValueError for an invalid name.
    """

    slowest_ns: int
    """Nanoseconds of the slowest call of `write` or `place`. The caller may reset it to 0."""

    @property
    def unsynced(self) -> bool:
        """Whether the file was placed, but the sync of its folder failed."""

    def __new__(
        cls, folder_fd: int, name: bytes, header: bytes, unremoved: list[bytes] | None = None
    ) -> PartFile: ...
    def write(self, gather: Gather) -> None:
        """Append the bytes of `gather`, and clear it.

        Raises OSError. After FileNotFoundError (the folder of temporary files was removed) the call
        may be repeated with the same gather. After any other failure the file is never placed.
        """

    def place(
        self,
        gather: Gather,
        root_fd: int,
        folder: bytes,
        file_name: bytes,
        sync: FolderSync | None = None,
    ) -> bool:
        """Append `gather`, then move the file into `folder` below `root_fd` as `file_name`.

        Replaces a file of that name. With `sync`, which the threads that place files into this
        folder share, file and folder are on the device when this returns. Returns False if the
        folder is missing; the caller may make it and call again. Raises OSError, with ELOOP or
        ENOTDIR if the path has a symbolic link. Then there is no new file under the final name,
        unless `unsynced` is True.
        """

    def discard(self) -> None:
        """Remove the file unless it was placed. Never raises."""
