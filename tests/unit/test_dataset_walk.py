"""The data set walker, compared with pydicom and with data sets made by hand."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pydicom
import pydicom.data
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.filereader import (
    _read_command_set_elements,
    _read_file_meta_info,
    data_element_generator,
    read_preamble,
)

from oxidicom._dataset import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, WANTED_TAGS, Walker
from oxidicom.constants import Encoding
from oxidicom.store.readers import MAX_INFLATED_BYTES, Inflater, Reader, reader_for

LONG_FORM = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT"}
LONG_FORM.add(b"UV")
UNDEFINED = 0xFFFFFFFF


# ---- a second, naive encoder of PS3.5 7.1 --------------------------------------------------


def header(encoding: int, tag: int, vr: bytes, length: int) -> bytes:
    order = ">" if encoding == EXPLICIT_BE else "<"
    start = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if encoding == IMPLICIT_LE or tag >> 16 == 0xFFFE:
        return start + struct.pack(order + "I", length)
    if vr in LONG_FORM:
        return start + vr + b"\0\0" + struct.pack(order + "I", length)
    return start + vr + struct.pack(order + "H", length)


def element(encoding: int, tag: int, vr: bytes, value: bytes) -> bytes:
    return header(encoding, tag, vr, len(value)) + value


def item(encoding: int, content: bytes, *, undefined: bool) -> bytes:
    if not undefined:
        return header(encoding, 0xFFFEE000, b"", len(content)) + content
    end = header(encoding, 0xFFFEE00D, b"", 0)
    return header(encoding, 0xFFFEE000, b"", UNDEFINED) + content + end


def sequence(
    encoding: int, tag: int, items: Iterable[bytes], *, undefined: bool, vr: bytes = b"SQ"
) -> bytes:
    content = b"".join(items)
    if not undefined:
        return element(encoding, tag, vr, content)
    end = header(encoding, 0xFFFEE0DD, b"", 0)
    return header(encoding, tag, vr, UNDEFINED) + content + end


VALUES = {
    0x00080005: (b"CS", b"ISO_IR 100"),
    0x00080016: (b"UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
    0x00080018: (b"UI", b"1.2.3.4\0"),
    0x00080020: (b"DA", b"20240131"),
    0x00080050: (b"SH", b""),
    0x00080060: (b"CS", b"CT"),
    0x00081030: (b"LO", b"Head "),
    0x0008103E: (b"LO", b"Axial"),
    0x00100010: (b"PN", b"Doe^J"),
    0x00100020: (b"LO", b"P1"),
    0x00100030: (b"DA", b"19800102"),
    0x00100040: (b"CS", b"O "),
    0x00101010: (b"AS", b"044Y"),
    0x00181030: (b"LO", b"Spiral"),
    0x0020000D: (b"UI", b"1.2.3\0"),
    0x0020000E: (b"UI", b"1.2.3.5\0"),
    0x00200011: (b"IS", b"3 "),
    0x00200013: (b"IS", b"12"),
}


def wanted(encoding: int, *without: int) -> list[bytes]:
    return [element(encoding, tag, *VALUES[tag]) for tag in WANTED_TAGS if tag not in without]


def pixels(encoding: int) -> bytes:
    return element(encoding, 0x7FE00010, b"OW", bytes(100))


class Outcome(NamedTuple):
    values: tuple[bytes | None, ...]
    vrs: bytes
    failed: bool
    error: str | None
    offending: int


def outcome_of(reader: Reader) -> Outcome:
    series = reader.series_values()
    return Outcome(
        (*series[:2], reader.sop_instance_uid, *series[2:], reader.instance_number),
        reader.vrs,
        reader.failed,
        reader.error,
        reader.offending,
    )


def read(data: bytes, encoding: int, cuts: Iterable[int] = ()) -> Outcome:
    reader = reader_for(Encoding(encoding))
    start = 0
    for cut in (*cuts, len(data)):
        reader.feed(data, start, cut)
        start = cut
    reader.finish()
    assert reader.asleep
    assert reader.feed(b"more", 0, 4)
    return outcome_of(reader)


def read_bytewise(data: bytes, encoding: int) -> Outcome:
    reader = reader_for(Encoding(encoding))
    for position in range(len(data)):
        if reader.feed(data, position, position + 1):
            break
    reader.finish()
    return outcome_of(reader)


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


ALL = tuple(VALUES[tag][1] for tag in WANTED_TAGS)
WALKED = (IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE)


# ---- grammar -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", WALKED)
def test_the_walk_sleeps_at_the_first_tag_beyond_the_wanted_ones(encoding: int) -> None:
    data = b"".join(wanted(encoding))
    walker = Walker(encoding)
    assert not walker.feed(data, 0, len(data))
    beyond = pixels(encoding)
    assert walker.feed(beyond, 0, len(beyond))
    walker.finish()
    outcome = outcome_of(walker)
    assert outcome.values == ALL
    assert not outcome.failed
    assert walker.error is None
    sent = [b"\0\0" if encoding == IMPLICIT_LE else VALUES[tag][0] for tag in WANTED_TAGS]
    assert outcome.vrs == b"".join(sent)


@pytest.mark.parametrize("encoding", WALKED)
def test_series_values_are_without_those_of_the_instance(encoding: int) -> None:
    walker = Walker(encoding)
    data = b"".join(wanted(encoding))
    walker.feed(data, 0, len(data))
    walker.finish()
    assert walker.series_values() == ALL[:2] + ALL[3:17]
    assert walker.sop_instance_uid == b"1.2.3.4\0"
    assert walker.instance_number == b"12"


def nested(encoding: int) -> bytes:
    """Sequences of all shapes, with elements of wanted tags that must not be taken."""
    decoys = b"".join(element(encoding, tag, vr, b"decoy!") for tag, (vr, _) in VALUES.items())
    inner = sequence(encoding, 0x00081140, [item(encoding, decoys, undefined=True)], undefined=True)
    return b"".join(
        [
            sequence(encoding, 0x00081100, [], undefined=False),
            sequence(encoding, 0x00081101, [], undefined=True),
            *(
                sequence(
                    encoding,
                    0x00081110 + 2 * a + b,
                    [item(encoding, decoys + inner, undefined=bool(b))] * 2,
                    undefined=bool(a),
                )
                for a in (0, 1)
                for b in (0, 1)
            ),
        ]
    )


@pytest.mark.parametrize("encoding", WALKED)
def test_sequences_of_defined_and_undefined_length_are_skipped(encoding: int) -> None:
    parts = wanted(encoding)
    data = b"".join([*parts[:7], nested(encoding), *parts[7:], pixels(encoding)])
    outcome = read(data, encoding)
    assert outcome.values == ALL
    assert not outcome.failed
    for cut in range(len(data)):
        assert read(data, encoding, [cut]) == outcome
    assert read_bytewise(data, encoding) == outcome


def test_un_of_undefined_length_is_implicit_inside_and_only_there() -> None:
    """PS3.5 6.2.2; the item's first value has a length that no explicit header could have."""
    for encoding in (EXPLICIT_LE, EXPLICIT_BE):
        inside = element(IMPLICIT_LE, 0x00090010, b"", b"ACME") + sequence(
            IMPLICIT_LE,
            0x00091001,
            [
                item(
                    IMPLICIT_LE,
                    element(IMPLICIT_LE, 0x00091002, b"", bytes(0x4242)),
                    undefined=True,
                )
            ],
            undefined=True,
        )
        un = sequence(
            IMPLICIT_LE,
            0x00091000,
            [item(IMPLICIT_LE, inside, undefined=u) for u in (True, False, True)],
            undefined=True,
        )
        un = header(encoding, 0x00091000, b"UN", UNDEFINED) + un[8:]
        parts = wanted(encoding)
        data = b"".join([*parts[:8], un, *parts[8:], pixels(encoding)])
        outcome = read(data, encoding)
        assert outcome.values == ALL
        assert not outcome.failed
        # The encoding switched back: a short-form VR was seen after it.
        assert outcome.vrs[16:18] == b"PN"
        assert read_bytewise(data, encoding) == outcome


def test_un_of_undefined_length_with_explicit_content_is_read_as_pydicom_reads_it() -> None:
    content = element(EXPLICIT_LE, 0x00091002, b"LO", b"x")
    un = sequence(
        EXPLICIT_LE,
        0x00091000,
        [item(EXPLICIT_LE, content, undefined=True)],
        undefined=True,
        vr=b"UN",
    )
    parts = wanted(EXPLICIT_LE)
    data = b"".join([*parts[:8], un, *parts[8:], pixels(EXPLICIT_LE)])
    assert read(data, EXPLICIT_LE).values == ALL


def test_implicit_item_in_an_explicit_data_set() -> None:
    content = element(IMPLICIT_LE, 0x00081150, b"", b"1.2.3.") + sequence(
        IMPLICIT_LE, 0x00081199, [], undefined=True
    )
    other = element(EXPLICIT_LE, 0x00081150, b"UI", b"1.2.3.")
    mixed = sequence(
        EXPLICIT_LE,
        0x00081115,
        [
            item(EXPLICIT_LE, content, undefined=True),
            item(EXPLICIT_LE, other, undefined=True),
        ],
        undefined=True,
    )
    parts = wanted(EXPLICIT_LE)
    data = b"".join([*parts[:8], mixed, *parts[8:], pixels(EXPLICIT_LE)])
    assert read(data, EXPLICIT_LE).values == ALL


def test_an_element_without_vr_among_explicit_ones_is_read_as_implicit() -> None:
    parts = wanted(EXPLICIT_LE)
    parts[9] = element(IMPLICIT_LE, 0x00100020, b"", b"P1")
    outcome = read(b"".join([*parts, pixels(EXPLICIT_LE)]), EXPLICIT_LE)
    assert outcome.values == ALL
    assert outcome.vrs[18:20] == b"\0\0"


def test_an_unknown_vr_has_a_16_bit_length() -> None:
    parts = wanted(EXPLICIT_LE)
    parts.insert(8, element(EXPLICIT_LE, 0x00091001, b"ZZ", b"abcd"))
    assert read(b"".join([*parts, pixels(EXPLICIT_LE)]), EXPLICIT_LE).values == ALL


def test_odd_lengths_and_group_lengths_are_accepted() -> None:
    parts = wanted(EXPLICIT_LE)
    parts.insert(0, element(EXPLICIT_LE, 0x00080000, b"UL", struct.pack("<I", 1)))
    parts.insert(9, element(EXPLICIT_LE, 0x00091001, b"LT", b"odd"))
    assert read(b"".join([*parts, pixels(EXPLICIT_LE)]), EXPLICIT_LE).values == ALL


def test_a_delimiter_after_an_item_of_defined_length_is_accepted() -> None:
    one = item(EXPLICIT_LE, b"", undefined=False) + header(EXPLICIT_LE, 0xFFFEE00D, b"", 0)
    parts = wanted(EXPLICIT_LE)
    parts.insert(8, sequence(EXPLICIT_LE, 0x00091001, [one], undefined=True))
    assert read(b"".join([*parts, pixels(EXPLICIT_LE)]), EXPLICIT_LE).values == ALL


@pytest.mark.parametrize("encoding", WALKED)
def test_an_unsorted_data_set_is_read_to_its_end_and_the_last_of_a_tag_counts(
    encoding: int,
) -> None:
    parts = [pixels(encoding), *reversed(wanted(encoding))]
    parts.append(element(encoding, 0x00100020, b"LO", b"P2"))
    outcome = read(b"".join(parts), encoding)
    assert outcome.values == (*ALL[:9], b"P2", *ALL[10:])
    assert not outcome.failed


def test_encapsulated_pixel_data_before_needed_elements_are_skipped() -> None:
    fragments = [item(EXPLICIT_LE, bytes(n), undefined=False) for n in (0, 10, 3000)]
    pixel_data = sequence(EXPLICIT_LE, 0x7FE00010, fragments, undefined=True, vr=b"OB")
    outcome = read(b"".join([pixel_data, *wanted(EXPLICIT_LE)]), EXPLICIT_LE)
    assert outcome.values == ALL


def test_a_wanted_element_of_undefined_length_is_absent() -> None:
    parts = wanted(EXPLICIT_LE)
    content = [item(EXPLICIT_LE, b"", undefined=True)]
    parts[6] = sequence(EXPLICIT_LE, 0x00081030, content, undefined=True)
    outcome = read(b"".join([*parts, pixels(EXPLICIT_LE)]), EXPLICIT_LE)
    assert outcome.values == (*ALL[:6], None, *ALL[7:])
    assert outcome.vrs[12:14] == b"SQ"


def test_the_size_of_a_kept_value_is_limited() -> None:
    long = element(IMPLICIT_LE, 0x00081030, b"", bytes(range(256)) * 300)
    parts = wanted(IMPLICIT_LE)
    parts[6] = long
    data = b"".join([*parts, pixels(IMPLICIT_LE)])
    for outcome in (read(data, IMPLICIT_LE), read_bytewise(data, IMPLICIT_LE)):
        assert outcome.values[6] == long[8 : 8 + 65535]
        assert outcome.values[7:] == ALL[7:]


# ---- where a data set may end --------------------------------------------------------------


@pytest.mark.parametrize("encoding", WALKED)
def test_a_data_set_may_end_between_elements_only(encoding: int) -> None:
    parts = wanted(encoding)
    data = b"".join(parts)
    ends = {sum(map(len, parts[:n])) for n in range(len(parts) + 1)}
    for end in range(len(data)):
        outcome = read(data[:end], encoding)
        assert outcome.failed is (end not in ends), end
        if outcome.failed:
            assert outcome.error in ("ends within an element header", "ends within an element")


def test_a_data_set_may_end_within_pixels_after_the_needed_elements() -> None:
    parts = [element(EXPLICIT_LE, 0x00080000, b"UL", bytes(4)), *reversed(wanted(EXPLICIT_LE))]
    data = b"".join([*parts, pixels(EXPLICIT_LE)[:-50]])
    assert not read(data, EXPLICIT_LE).failed
    data = b"".join([*wanted(EXPLICIT_LE, 0x00100020), pixels(EXPLICIT_LE)[:-50]])
    outcome = read(data, EXPLICIT_LE)
    assert outcome.failed
    assert outcome.offending == 0x7FE00010


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (header(EXPLICIT_LE, 0x00081115, b"SQ", UNDEFINED), "ends within a sequence"),
        (header(EXPLICIT_LE, 0xFFFEE000, b"", 0), "item or delimiter among elements"),
        (
            header(EXPLICIT_LE, 0x00081115, b"SQ", UNDEFINED)
            + element(EXPLICIT_LE, 0x00081150, b"UI", b""),
            "neither item nor delimiter in a sequence",
        ),
        (
            header(EXPLICIT_LE, 0x00081115, b"SQ", UNDEFINED)
            + header(EXPLICIT_LE, 0xFFFEE000, b"", UNDEFINED)
            + header(EXPLICIT_LE, 0xFFFEE0DD, b"", 0),
            "item or delimiter among elements",
        ),
    ],
)
def test_a_grammar_error_fails(data: bytes, error: str) -> None:
    parts = wanted(EXPLICIT_LE)
    outcome = read(b"".join([*parts[:5], data]), EXPLICIT_LE)
    assert outcome.failed
    assert outcome.error == error
    assert len(error) <= 40


@pytest.mark.parametrize("bounds", [(-1, 2), (2, 1), (0, 5), (5, 5)])
@pytest.mark.parametrize("encoding", list(Encoding))
def test_a_range_outside_the_buffer_is_an_error(
    encoding: Encoding, bounds: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match="do not lie in the buffer"):
        reader_for(encoding).feed(b"1234", *bounds)


def test_buffers_are_not_kept() -> None:
    data = bytearray(b"".join([*wanted(EXPLICIT_LE), pixels(EXPLICIT_LE)]))
    walker = Walker(EXPLICIT_LE)
    walker.feed(data, 0, 100)
    data.append(0)  # BufferError if it were still held
    assert walker.feed(memoryview(data), 100, len(data))
    assert outcome_of(walker).values == ALL


def test_an_unknown_encoding_is_an_error() -> None:
    with pytest.raises(ValueError, match="encoding"):
        Walker(3)


def test_constants_agree_with_the_encodings_of_the_base_layer() -> None:
    assert list(Encoding)[:3] == [IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE]
    assert isinstance(reader_for(Encoding.DEFLATED), Inflater)
    assert list(WANTED_TAGS) == sorted(VALUES)


# ---- deflate -------------------------------------------------------------------------------


def test_a_deflated_data_set_is_inflated() -> None:
    parts = wanted(EXPLICIT_LE)
    plain = b"".join([*parts[:7], nested(EXPLICIT_LE), *parts[7:], pixels(EXPLICIT_LE)])
    data = deflate(plain)
    outcome = read(data, Encoding.DEFLATED)
    assert outcome == read(plain, EXPLICIT_LE)
    assert read_bytewise(data, Encoding.DEFLATED) == outcome
    for cut in range(len(data)):
        assert read(data, Encoding.DEFLATED, [cut]) == outcome


def test_a_deflated_data_set_that_is_cut_or_invalid_fails() -> None:
    data = deflate(b"".join(wanted(EXPLICIT_LE)))
    assert read(data[: len(data) // 2], Encoding.DEFLATED).failed
    outcome = read(b"\xff" * 100, Encoding.DEFLATED)
    assert outcome.error == "not a raw deflate stream"


def test_a_deflate_bomb_fails_at_the_limit() -> None:
    bomb = deflate(header(EXPLICIT_LE, 0x00080001, b"UN", 2**30) + bytes(4 * MAX_INFLATED_BYTES))
    assert len(bomb) < 100_000
    outcome = read(bomb, Encoding.DEFLATED)
    assert outcome.failed
    assert outcome.error == "needed tags not within 16 MiB inflated"


# ---- compared with pydicom ------------------------------------------------------------------


class Shipped(NamedTuple):
    path: Path
    data: bytes
    encoding: Encoding
    expected: tuple[bytes | None, ...]


def shipped_files() -> Iterator[Path]:
    root = Path(pydicom.data.__file__).parent
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix in ("", ".dcm", ".DCM"):
            yield path


def open_shipped(path: Path) -> Shipped | None:
    """Return a data set and how pydicom reads it; None where it cannot."""
    content = path.read_bytes()
    stream = io.BytesIO(content)
    try:
        dataset = pydicom.dcmread(stream, force=True)
        read_preamble(stream := io.BytesIO(content), force=True)
        meta = _read_file_meta_info(stream)
        _read_command_set_elements(stream)
    except Exception:
        return None
    data = plain = content[stream.tell() :]
    implicit, little = dataset.original_encoding
    encoding = Encoding.EXPLICIT_LE if little else Encoding.EXPLICIT_BE
    if meta.get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99":
        encoding = Encoding.DEFLATED
        plain = zlib.decompress(data, -zlib.MAX_WBITS)
    elif implicit:
        encoding = Encoding.IMPLICIT_LE
    return Shipped(path, data, encoding, pydicom_values(plain, implicit, little))


def pydicom_values(data: bytes, implicit: bool, little: bool) -> tuple[bytes | None, ...]:
    """Return raw values as pydicom reads them; None for absent elements and sequences."""
    found: dict[int, bytes | None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read_element in data_element_generator(io.BytesIO(data), implicit, little):
            raw = read_element if isinstance(read_element, RawDataElement) else None
            found[read_element.tag] = raw and (raw.value or b"")
    return tuple(found.get(tag) for tag in WANTED_TAGS)


NO_DATA_SETS = {"README", "README.txt", "no_meta.dcm"}
"""Files that pydicom cannot read either: two texts, and a data set that lacks its first byte."""


@pytest.fixture(scope="module")
def shipped() -> list[Shipped]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = [open_shipped(path) for path in shipped_files() if path.name not in NO_DATA_SETS]
    return [one for one in opened if one is not None]


def test_every_file_of_pydicom_is_read_as_pydicom_reads_it(shipped: list[Shipped]) -> None:
    for one in shipped:
        outcome = read(one.data, one.encoding)
        assert not outcome.failed, one.path.name
        assert outcome.values == one.expected, one.path.name
    tally = Counter(one.encoding for one in shipped)
    assert tally[Encoding.EXPLICIT_LE] >= 150
    assert tally[Encoding.IMPLICIT_LE] >= 10
    assert tally[Encoding.EXPLICIT_BE] >= 5
    assert tally[Encoding.DEFLATED] >= 1
    assert sum(one.expected[14] is not None for one in shipped) >= 150


def test_the_result_does_not_depend_on_cuts(shipped: list[Shipped]) -> None:
    for one in shipped:
        outcome = read(one.data, one.encoding)
        assert read_bytewise(one.data, one.encoding) == outcome, one.path.name
        reader = reader_for(one.encoding)
        reach = next((n for n in range(len(one.data)) if reader.feed(one.data, n, n + 1)), 0)
        cuts = [*range(min(reach, 1500)), *range(1500, len(one.data), len(one.data) // 20 + 1)]
        for cut in cuts:
            assert read(one.data, one.encoding, [cut]) == outcome, (one.path.name, cut)
