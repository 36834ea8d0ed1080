"""DICOM files: found one after the other, and recognised by their first bytes.

Nothing is kept, so a million of them take no more memory than one.
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

_HEAD: Final = 4096
"""Bytes read of a file to know it; nearly every file meta information fits."""

_MOST: Final = 1024 * 1024
"""Bytes read at most: of file meta information, or up to the UIDs of a data set."""

_PREAMBLE: Final = 132
_LONG_VRS: Final = frozenset((b"OB", b"OW", b"UN", b"SQ", b"UT", b"OD", b"OF", b"OL", b"OV"))
_MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"
"""A DICOMDIR: it speaks of instances and is none."""

_explicit = Struct("<HH2sH")
_u32 = Struct("<I")


class Candidate(NamedTuple):
    path: Path
    named: bool
    """By the user, rather than found in a folder: it is a fault if it is no DICOM file."""


class NotDicomError(Exception):
    pass


# ---- find ------------------------------------------------------------------------------------


def candidates(paths: Iterable[str]) -> Iterator[Candidate]:
    """Files, those of folders (recursive), and those that match a pattern (`**` too), in the order
    in which the file system has them.

    What does not exist comes out as itself, so that whoever opens it says so.
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
            yield Candidate(Path(folder), True)  # whoever opens it says why not
            continue
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif not entry.is_dir():
                    yield Candidate(Path(entry.path), False)


# ---- lists of files ----------------------------------------------------------------------------


def write_listed(file: IO[str], path: Path) -> None:
    """A line of a list; a path that would not survive as one is quoted as JSON does."""
    text = str(path)
    plain = text.isprintable() and text == text.strip() and text[0] not in '#"'
    file.write((text if plain else json.dumps(text)) + "\n")


def read_listed(file: Iterable[str]) -> Iterator[Path]:
    """Of a list, one path a line; blank lines and those that begin with # are not paths."""
    for line in file:
        text = line.strip("\r\n")
        if not text.strip() or text.startswith("#"):
            continue
        if text.startswith('"'):
            with suppress(ValueError):  # a name that begins so, from somebody else's list
                text = json.loads(text)
        yield Path(text)


# ---- recognise ---------------------------------------------------------------------------------


def recognise(path: Path) -> tuple[DataSet, int]:
    """The data set of a DICOM file, and its bytes. Raises OSError, or NotDicomError."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        os.listdir(path)  # one that `candidates` could not read: says why
    if not stat.S_ISREG(status.st_mode):  # a pipe would have us wait
        raise NotDicomError("not a regular file")
    with open(path, "rb", buffering=0) as file:
        head = file.read(_HEAD)
        if head[_PREAMBLE - 4 : _PREAMBLE] == b"DICM":
            start = _PREAMBLE
        elif head[:2] == b"\2\0":  # PS3.10 demands the preamble, old senders do not write it
            start = 0
        elif head[:2] in (b"\x08\0", b"\0\x08"):
            return _bare(path, head + file.read(_MOST)), status.st_size
        else:
            raise NotDicomError("not a DICOM file")
        meta = _Meta(head, start)
        if meta.end is None:
            head += file.read(_MOST)
            meta = _Meta(head, start)
        end = meta.end
        if end is None or not meta.transfer_syntax:
            raise NotDicomError("its file meta information cannot be read")
        sop_class, sop_instance = meta.sop_class, meta.sop_instance
        if not sop_class or not sop_instance:
            in_data_set = _uids(
                head[end:] + file.read(_MOST),
                implicit=meta.transfer_syntax == IMPLICIT_VR_LITTLE_ENDIAN,
                little=meta.transfer_syntax != EXPLICIT_VR_BIG_ENDIAN,
            )
            sop_class, sop_instance = sop_class or in_data_set[0], sop_instance or in_data_set[1]
    if sop_class == _MEDIA_STORAGE_DIRECTORY:
        raise NotDicomError("a DICOMDIR is no instance")
    data_set = DataSet(path, end, sop_class, sop_instance, meta.transfer_syntax)
    return data_set, status.st_size - end


class _Meta:
    """File meta information, Explicit VR Little Endian (PS3.10 7.1), of which group length is not
    relied upon."""

    def __init__(self, head: bytes, start: int) -> None:
        self.sop_class = self.sop_instance = self.transfer_syntax = ""
        self.end: int | None = None
        """Where the data set begins; None if `head` ends before it."""
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
    """A data set without file meta information, whose encoding is seen from its first element."""
    little = head[0] == 8
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if not little and not explicit:
        raise NotDicomError("not a DICOM file")  # there is no such transfer syntax
    syntax = IMPLICIT_VR_LITTLE_ENDIAN
    if explicit:
        syntax = EXPLICIT_VR_LITTLE_ENDIAN if little else EXPLICIT_VR_BIG_ENDIAN
    sop_class, sop_instance = _uids(head, implicit=not explicit, little=little)
    return DataSet(path, 0, sop_class, sop_instance, syntax)


def _uids(head: bytes, *, implicit: bool, little: bool) -> tuple[str, str]:
    """SOP Class and SOP Instance UID of a data set's beginning."""
    from pydicom.filereader import read_dataset  # late: few files come to this

    def beyond(tag: int, vr: str | None, length: int) -> bool:
        return tag > 0x00080018

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read_dataset(BytesIO(head), implicit, little, stop_when=beyond)
            sop_class, sop_instance = str(found.SOPClassUID), str(found.SOPInstanceUID)
        except Exception as error:  # pydicom has many, of whatever else begins like a data set
            raise NotDicomError("not a DICOM file") from error
    if not sop_class or not sop_instance:
        raise NotDicomError("neither SOP class nor SOP instance")
    return sop_class, sop_instance
