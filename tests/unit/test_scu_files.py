"""Which files `send` recognizes as DICOM, and what it reads from them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from oxidicom.scu.association import DataSet
from oxidicom.scu.files import (
    Candidate,
    NotDicomError,
    candidates,
    read_listed,
    recognize,
    write_listed,
)
from tests.support.data import Instance, part_10
from tests.support.raw_peer import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT

PREAMBLE = 132


def written(folder: Path, data: bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED])
def test_a_file_with_preamble(tmp_path: Path, transfer_syntax: str) -> None:
    instance = Instance()
    data_set = instance.encode(transfer_syntax)
    path = written(tmp_path, part_10(instance, transfer_syntax))
    found, size = recognize(path)
    offset = path.stat().st_size - len(data_set)
    expected = DataSet(path, offset, instance.sop_class, instance.sop_instance, transfer_syntax)
    assert (found, size) == (expected, len(data_set))


def test_file_meta_information_without_preamble(tmp_path: Path) -> None:
    instance = Instance()
    path = written(tmp_path, part_10(instance, EXPLICIT)[PREAMBLE:])
    found, size = recognize(path)
    assert found.sop_instance == instance.sop_instance
    assert path.read_bytes()[found.offset :] == instance.encode(EXPLICIT)
    assert size == len(instance.encode(EXPLICIT))


@pytest.mark.parametrize("transfer_syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_a_bare_data_set(tmp_path: Path, transfer_syntax: str) -> None:
    instance = Instance()
    data = instance.encode(transfer_syntax)
    path = written(tmp_path, data)
    expected = DataSet(path, 0, instance.sop_class, instance.sop_instance, transfer_syntax)
    assert recognize(path) == (expected, len(data))


def without_element(data: bytes, element: int) -> bytes:
    """Return an element of the file meta information with a UID as its value."""
    start = data.index(bytes((2, 0, element, 0)) + b"UI")
    length = int.from_bytes(data[start + 6 : start + 8], "little")
    return data[:start] + data[start + 8 + length :]


def test_uids_missing_in_the_file_meta_information_come_from_the_data_set(tmp_path: Path) -> None:
    instance = Instance()
    data = without_element(without_element(part_10(instance, IMPLICIT), 2), 3)
    found, _ = recognize(written(tmp_path, data))
    assert (found.sop_class, found.sop_instance) == (instance.sop_class, instance.sop_instance)


def test_long_file_meta_information(tmp_path: Path) -> None:
    """Private information (0002,0102) can be longer than the first read."""
    instance = Instance()
    data = part_10(instance, EXPLICIT)
    end = len(data) - len(instance.encode(EXPLICIT))
    private = b"\2\0\x02\1OB\0\0" + (60_000).to_bytes(4, "little") + bytes(60_000)
    found, size = recognize(written(tmp_path, data[:end] + private + data[end:]))
    assert found.offset == end + len(private)
    assert size == len(instance.encode(EXPLICIT))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, world\n" * 20,
        bytes(1000),
        b"\x08\0" + bytes(100),
        b"\x08\0\x05\0CS\x0a\0ISO_IR 100",
        b"\0\x08\0\x05\0\0\0\x02ab",
        bytes(128) + b"DICM",
        part_10(Instance(), EXPLICIT)[:180],
        without_element(part_10(Instance(), EXPLICIT), 0x10),
        part_10(Instance(sop_class="1.2.840.10008.1.3.10"), EXPLICIT),
    ],
    ids=[
        *("empty", "text", "zeros", "zeros of group 8", "no UIDs", "implicit big endian"),
        *("preamble alone", "cut", "no transfer syntax", "DICOMDIR"),
    ],
)
def test_other_files_are_not_dicom(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(NotDicomError):
        recognize(written(tmp_path, data))


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotDicomError, match="regular"):
        recognize(tmp_path / "pipe")


def test_folders_are_entered_and_patterns_expanded(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("one", "a/two", "a/b/three"):
        written(tmp_path, b"", name)
    assert list(candidates([f"{tmp_path}/o*"])) == [Candidate(tmp_path / "one", False)]
    matched = {each.path for each in candidates([f"{tmp_path}/**/t*"])}
    assert matched == {tmp_path / "a/two", tmp_path / "a/b/three"}
    assert list(candidates([f"{tmp_path}/one", f"{tmp_path}/no*", "nowhere"])) == [
        Candidate(tmp_path / "one", True),
        Candidate(tmp_path / "no*", True),
        Candidate(Path("nowhere"), True),
    ]
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")  # never entered
    below = list(candidates([str(tmp_path)]))
    assert {each.path for each in below} == {tmp_path / "one", *matched}
    assert not any(each.named for each in below)


def test_files_are_searched_only_as_they_are_requested(tmp_path: Path) -> None:
    written(tmp_path, b"", "first")
    found = candidates([str(tmp_path), str(tmp_path / "later")])
    assert next(found).path == tmp_path / "first"
    (tmp_path / "later").mkdir()
    written(tmp_path / "later", b"", "second")
    assert tmp_path / "later" / "second" in {each.path for each in found}


def test_a_list_of_files_can_hold_any_name() -> None:
    names = ["a.dcm", "with space", " begins so", "#1", '"quoted"', "two\nlines", "\udcff", "ü"]
    file = io.StringIO()
    for name in names:
        write_listed(file, Path(name))
    assert file.getvalue().splitlines()[:2] == ["a.dcm", "with space"]
    listed = ["# a comment", "", *file.getvalue().splitlines(keepends=True), '"unbalanced\n']
    assert [str(path) for path in read_listed(listed)] == [*names, '"unbalanced']
