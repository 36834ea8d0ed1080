"""Finds DICOM files one at a time and recognizes them by their first bytes.

No list of the files is kept, so that memory does not grow with their number.
"""

from __future__ import annotations

import glob
import json
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import IO, Final, NamedTuple

from oxidicom.constants import (
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from oxidicom.scu.association import DataSet

_HEAD_BYTES: Final = 4096
"""Bytes at the start of a file that are read to recognize it; nearly all file meta information is
shorter."""

_MAX_HEAD_BYTES: Final = 1024 * 1024
"""Greatest number of further bytes that are read to find the end of the file meta information, or
the UIDs in a data set."""

_META_OFFSET: Final = 132
"""Offset of the file meta information: the size of the preamble and the prefix (PS3.10 7.1)."""
_LONG_VRS: Final = frozenset((b"OB", b"OW", b"UN", b"SQ", b"UT", b"OD", b"OF", b"OL", b"OV"))
_MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR, which is not an instance."""

_explicit = Struct("<HH2sH")
_u32 = Struct("<I")


class Candidate(NamedTuple):
    """A file that may be a DICOM file."""

    path: Path
    named: bool
    """Whether the user named this file itself, not a folder or pattern. Then it must be a DICOM
    file; otherwise one that is not is skipped."""


class NotDicomError(Exception):
    """A file is not a DICOM file that can be sent. The text says why."""


# ---- find ------------------------------------------------------------------------------------


def candidates(paths: Iterable[str]) -> Iterator[Candidate]:
    """Yield the files that `paths` names; each is a file, a folder or a pattern (`**` is allowed).

    A folder yields every file below it, in no particular order; symbolic links to folders below it
    are not followed. A path that does not exist and a pattern without a match are
    yielded, too, so that opening them gives the error.
    """
    for text in paths:
        if not glob.has_magic(text) or os.path.lexists(text):
            yield from _below(text, named=True)
            continue
        matched = False
        for match in glob.iglob(text, recursive=True):
            matched = True
            yield from _below(match, named=False)
        if not matched:
            yield Candidate(Path(text), True)


def _below(text: str, *, named: bool) -> Iterator[Candidate]:
    if not os.path.isdir(text):
        yield Candidate(Path(text), named)
        return
    folders = [text]
    while folders:
        folder = folders.pop()
        try:
            entries = os.scandir(folder)
        except OSError:
            yield Candidate(Path(folder), True)  # opening it raises the error again
            continue
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_dir():
                    yield Candidate(Path(entry.path), False)


# ---- lists of files ----------------------------------------------------------------------------


def write_listed(file: IO[str], path: Path) -> None:
    """Write a path as one line; quote it as in JSON if `read_listed` could not read it unquoted."""
    text = str(path)
    plain = text.isprintable() and text == text.strip() and text[0] not in '#"'
    file.write((text if plain else json.dumps(text)) + "\n")


def read_listed(file: Iterable[str]) -> Iterator[Path]:
    """Yield the path in each line of a list; skip blank lines and lines that begin with #."""
    for line in file:
        text = line.strip("\r\n")
        if not text.strip() or text.startswith("#"):
            continue
        if text.startswith('"'):
            # A list that oxidicom did not write may hold an unquoted name that begins with a quote.
            with suppress(ValueError):
                text = json.loads(text)
        yield Path(text)


# ---- recognize ---------------------------------------------------------------------------------


def recognize(path: Path) -> tuple[DataSet, int]:
    """Return the data set of a DICOM file, and the size of the data set in bytes.

    Raises OSError or NotDicomError.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        os.listdir(path)  # raises the error that `candidates` met
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        raise NotDicomError("not a regular file")
    with open(path, "rb", buffering=0) as file:
        head = file.read(_HEAD_BYTES)
        if head[_META_OFFSET - 4 : _META_OFFSET] == b"DICM":
            start = _META_OFFSET
        elif head[:2] == b"\2\0":  # PS3.10 requires the preamble; old senders omit it
            start = 0
        elif head[:2] in (b"\x08\0", b"\0\x08"):
            return _bare(path, head + file.read(_MAX_HEAD_BYTES)), status.st_size
        else:
            raise NotDicomError("not a DICOM file")
        meta = _Meta(head, start)
        if meta.end is None:
            head += file.read(_MAX_HEAD_BYTES)
            meta = _Meta(head, start)
        end = meta.end
        if end is None or not meta.transfer_syntax:
            raise NotDicomError("its file meta information cannot be read")
        sop_class, sop_instance = meta.sop_class, meta.sop_instance
        if not sop_class or not sop_instance:
            in_data_set = _uids(
                head[end:] + file.read(_MAX_HEAD_BYTES),
                implicit=meta.transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN,
                little=meta.transfer_syntax != EXPLICIT_VR_BIG_ENDIAN,
            )
            sop_class, sop_instance = sop_class or in_data_set[0], sop_instance or in_data_set[1]
    if sop_class == _MEDIA_STORAGE_DIRECTORY:
        raise NotDicomError("a DICOMDIR is not an instance")
    data_set = DataSet(path, end, sop_class, sop_instance, meta.transfer_syntax)
    return data_set, status.st_size - end


class _Meta:
    """The file meta information in `head`, from `start` on (PS3.10 7.1).

    The UIDs are empty texts if their elements are missing. The group length is not used.
    """

    def __init__(self, head: bytes, start: int) -> None:
        self.sop_class = self.sop_instance = self.transfer_syntax = ""
        self.end: int | None = None
        """Offset of the data set in the file; None if `head` ends before it."""
        position = start
        size = len(head)
        while position + 8 <= size:
            group, element, vr, length = _explicit.unpack_from(head, position)
            if group != 2:
                self.end = position
                return
            position += 8
            if vr in _LONG_VRS:
                if position + 4 > size:
                    return
                (length,) = _u32.unpack_from(head, position)
                position += 4
            following = position + length
            if following > size:
                return
            if element in (0x0002, 0x0003, 0x0010):
                value = head[position:following].strip(b"\0 ").decode("latin-1")
                if element == 0x0002:
                    self.sop_class = value
                elif element == 0x0003:
                    self.sop_instance = value
                else:
                    self.transfer_syntax = value
            position = following


def _bare(path: Path, head: bytes) -> DataSet:
    """Return the data set of a file without file meta information. Raises NotDicomError.

    The bytes of its first element, which `head` begins with, show the transfer syntax.
    """
    little = head[0] == 8
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if not little and not explicit:
        raise NotDicomError("not a DICOM file")  # no transfer syntax is big endian with implicit VR
    syntax = IMPLICIT_VR_LITTLE_ENDIAN
    if explicit:
        syntax = EXPLICIT_VR_LITTLE_ENDIAN if little else EXPLICIT_VR_BIG_ENDIAN
    sop_class, sop_instance = _uids(head, implicit=not explicit, little=little)
    return DataSet(path, 0, sop_class, sop_instance, syntax)


def _uids(head: bytes, *, implicit: bool, little: bool) -> tuple[str, str]:
    """Return the SOP Class UID and the SOP Instance UID in the beginning of a data set.

    Raises NotDicomError if either is missing or empty.
    """
    from pydicom.filereader import read_dataset  # imported late, because few files need it

    def beyond(tag: int, vr: str | None, length: int) -> bool:
        return tag > 0x00080018

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read_dataset(BytesIO(head), implicit, little, stop_when=beyond)
            sop_class, sop_instance = str(found.SOPClassUID), str(found.SOPInstanceUID)
        except Exception as error:  # pydicom raises many types of errors for other data
            raise NotDicomError("not a DICOM file") from error
    if not sop_class or not sop_instance:
        raise NotDicomError("it has no SOP class or no SOP instance UID")
    return sop_class, sop_instance
