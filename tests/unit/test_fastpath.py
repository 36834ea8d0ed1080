"""The fast path and the general path give the same files, responses and reports."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxidicom._fastpath import StoreFastPath
from oxidicom.buffers import BufferPool
from oxidicom.errors import InstanceError
from oxidicom.net.connection_state import ConnectionState
from oxidicom.ports import HandOver, InstanceRefused, InstanceStored, Report
from oxidicom.store.write_policy import TOO_SLOW_CALL_NS, WritePolicy
from tests.support import raw_peer as peer
from tests.support.data import Instance
from tests.support.line import CT, Line
from tests.support.raw_peer import EXPLICIT, IMPLICIT

SERIES = ("1.2.826.7.1", "1.2.826.7.2")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


Make = Callable[..., Line]


@pytest.fixture
def make(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Make]:
    lines: list[Line] = []

    def make(**settings: Any) -> Line:
        lines.append(Line(tmp_path / str(len(lines)), loop, **settings))
        return lines[-1]

    yield make
    for line in lines:
        line.close()
        assert os.listdir(line.root / ".oxidicom/tmp") == []


def instance(number: int, series: str = SERIES[0], **values: Any) -> Instance:
    return Instance(series=series, sop_instance=f"{series}.{number}", number=number, **values)


def message(one: Instance, message_id: int = 1, context_id: int = 1, **options: Any) -> bytes:
    data_set = one.encode(IMPLICIT if context_id == 5 else EXPLICIT, options.pop("omit", ()))
    command = peer.c_store_rq(one.sop_class, options.pop("uid", one.sop_instance), message_id)
    return peer.store_message(context_id, command, data_set, **options)


def statuses(sent: bytes) -> list[int]:
    found = []
    while sent:
        assert sent[0] == peer.P_DATA_TF
        size = 6 + int.from_bytes(sent[2:6])
        elements = peer.parse_command_set(sent[12:size])
        found.append(int.from_bytes(elements[0x0900], "little"))
        sent = sent[size:]
    return found


# ---- instances that take it ------------------------------------------------------------------


def test_all_but_the_first_instance_of_a_series_take_the_fast_path(make: Make) -> None:
    line = make()
    line.associate()
    for n in range(1, 6):
        line.receive(message(instance(n), n))
        assert statuses(line.taken()) == [0]
    assert line.fast == 5
    assert line.transport.writes == 2, "the acceptance, and the first response"
    stored = [report for report in line.reports if isinstance(report, InstanceStored)]
    assert [report.sop_instance_uid for report in stored] == [
        f"{SERIES[0]}.{n}" for n in range(1, 6)
    ]
    assert len({id(report.series) for report in stored}) == 1
    assert all(0 <= report.seconds < 10 for report in stored)
    assert len(line.journal.entries) == 1


def test_instances_of_alternating_series_take_the_fast_path(make: Make) -> None:
    line = make()
    line.associate()
    for n in range(1, 7):
        line.receive(message(instance(n, SERIES[n % 2]), n))
    assert statuses(line.taken()) == [0] * 6
    assert line.transport.writes == 3


def test_a_peer_that_takes_no_whole_response_gets_no_fast_path(make: Make) -> None:
    line = make()
    line.receive(peer.associate_rq([peer.Context(1, CT, [EXPLICIT])], max_length=100))
    line.taken()
    for n in range(1, 4):
        line.receive(message(instance(n), n))
    assert line.transport.writes == 4
    assert line.fast == 0


# ---- failures on it --------------------------------------------------------------------------


def prepared(make: Make, **settings: Any) -> Line:
    """An instance of the series is stored, so that others take the fast path to its end."""
    line = make(**settings)
    line.associate()
    line.receive(message(instance(1)))
    assert statuses(line.taken()) == [0]
    return line


def refusal(line: Line) -> InstanceRefused:
    (report,) = [report for report in line.reports if isinstance(report, InstanceRefused)]
    return report


def pdus(whole: bytes, least: int) -> bytes:
    """The first PDUs, of so many bytes at least."""
    end = 0
    while end < least:
        end += 6 + int.from_bytes(whole[end + 2 : end + 6])
    return whole[:end]


def test_a_lost_series_folder_is_made_anew(make: Make) -> None:
    line = prepared(make)
    shutil.rmtree(line.root / "SERVICES")
    line.receive(message(instance(2)))
    assert statuses(line.taken()) == [0]
    (name,) = [name for name in line.files() if name.endswith(".dcm")]
    assert name.endswith(f"/0002-{SERIES[0]}.2.dcm")


@pytest.mark.parametrize("pixels", [512, 300_000])
def test_a_lost_folder_of_temporary_files_is_made_anew(make: Make, pixels: int) -> None:
    line = prepared(make)
    shutil.rmtree(line.root / ".oxidicom/tmp")
    one = instance(2, pixels=pixels)
    line.receive(message(one))
    assert statuses(line.taken()) == [0]
    (written,) = [data for name, data in line.files().items() if f"{SERIES[0]}.2.dcm" in name]
    assert written.endswith(one.encode(EXPLICIT))


def test_a_link_in_place_of_a_used_folder_is_not_followed(make: Make, tmp_path: Path) -> None:
    line = prepared(make)
    (folder,) = {(line.root / name).parent for name in line.files() if name.endswith(".dcm")}
    outside = tmp_path / "outside"
    outside.mkdir()
    folder.rename(tmp_path / "aside")
    folder.symlink_to(outside)
    line.receive(message(instance(2)))
    assert statuses(line.taken()) == [0x0110]
    assert os.listdir(outside) == []
    folder.unlink()


@pytest.mark.parametrize("pixels", [512, 300_000], ids=["at the end", "within the data"])
def test_without_free_space_an_instance_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch, pixels: int
) -> None:
    line = prepared(make, min_free_space=1)
    full = InstanceError(0xA700, "Too little free space")

    def check_space() -> None:
        raise full

    monkeypatch.setattr(line.storage, "check_space", check_space)
    line.receive(message(instance(2, pixels=pixels)))
    assert statuses(line.taken()) == [0xA700]
    monkeypatch.undo()
    line.receive(message(instance(3, pixels=pixels)))
    assert statuses(line.taken()) == [0]
    assert line.transport.writes == 3, "and back on the fast path"


def test_the_space_is_checked_once_for_an_instance_that_is_handed_over(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = make(min_free_space=1)
    line.associate()
    checks = []
    monkeypatch.setattr(line.storage, "check_space", lambda: checks.append(1))
    line.receive(message(instance(1, pixels=600_000)))
    assert statuses(line.taken()) == [0]
    assert (line.fast, checks) == (1, [1])


def test_names_that_break_the_code_refuse_one_instance_only(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = prepared(make)

    def broken(*arguments: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("oxidicom.store.storage.read_series", broken)
    monkeypatch.setattr("oxidicom.store.identity.read_series", broken)
    line.receive(message(instance(2, series=SERIES[1])))
    assert statuses(line.taken()) == [0x0110]
    monkeypatch.undo()
    line.receive(message(instance(3)))
    assert statuses(line.taken()) == [0]


def test_a_file_beyond_the_size_limit_is_refused(make: Make) -> None:
    line = prepared(make)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        line.receive(message(instance(2, pixels=600_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert statuses(line.taken()) == [0x0110]
    assert refusal(line).error.endswith(os.strerror(errno.EFBIG))
    line.receive(message(instance(3)))
    assert statuses(line.taken()) == [0]


def test_instances_take_the_general_path_while_storage_is_slow(make: Make) -> None:
    line = prepared(make)
    line.storage.executors.policy.writes_inline = False
    line.receive(message(instance(2)))
    assert (statuses(line.taken()), line.transport.writes, line.fast) == ([0], 3, 1)
    line.storage.executors.policy.writes_inline = True
    line.receive(message(instance(3)))
    assert (statuses(line.taken()), line.transport.writes, line.fast) == ([0], 3, 2)


def ignore_the_machine(policy: WritePolicy) -> None:
    """Keep the policy from what a busy machine does to our storage calls."""
    policy.observe = lambda slowest_ns, now: None  # type: ignore[method-assign]


def observe_a_slow_call(policy: WritePolicy) -> None:
    WritePolicy.observe(policy, TOO_SLOW_CALL_NS, time.monotonic())


def test_a_slow_write_hands_over_the_instance_under_way(make: Make) -> None:
    line = make(mode="auto")
    # So much at once takes any storage longer than a loop may wait.
    line.protocol.pool = BufferPool(1 << 30, 256 << 20)
    line.associate()
    line.receive(message(instance(1, pixels=250 << 20), max_length=0)[: 240 << 20])
    assert not line.storage.executors.policy.writes_inline
    assert line.fast == 1
    assert line.protocol._sink is not None


def test_the_instance_under_way_goes_to_threads_once_another_association_found_storage_slow(
    make: Make,
) -> None:
    line = prepared(make, mode="auto")
    ignore_the_machine(line.executors.policy)
    whole = message(instance(2, pixels=600_000))
    half = pdus(whole, 300_000)
    line.receive(half)
    assert line.protocol._sink is None
    observe_a_slow_call(line.storage.executors.policy)
    line.receive(whole[len(half) : len(half) + 1000])
    sink: Any = line.protocol._sink
    assert not sink._inline
    line.receive(peer.abort())


def test_an_instance_on_the_general_path_goes_to_threads_once_storage_is_slow(make: Make) -> None:
    line = make(mode="auto", fast_path=False)
    ignore_the_machine(line.executors.policy)
    line.associate()
    whole = message(instance(1, pixels=600_000))
    half = pdus(whole, 300_000)
    line.receive(half)
    sink: Any = line.protocol._sink
    assert sink._inline
    observe_a_slow_call(line.storage.executors.policy)
    line.receive(whole[len(half) : len(half) + 1000])
    assert not sink._inline
    line.receive(peer.abort())


def test_a_folder_with_remains_of_a_failure_is_listed_by_the_general_path(make: Make) -> None:
    line = prepared(make)
    (folder,) = line.storage.folders._folders.values()
    folder.listed = False
    line.receive(message(instance(2)))
    assert (statuses(line.taken()), line.transport.writes) == ([0], 3)
    assert folder.listed


def test_overlong_values_are_not_kept_while_the_association_lasts(make: Make) -> None:
    line = make()
    line.associate()
    for n in range(1, 4):
        line.receive(message(instance(n, StudyDescription="x" * 9000), n))
    assert statuses(line.taken()) == [0, 0, 0]
    assert line.transport.writes == 4, "all on the general path"


@pytest.mark.parametrize(
    "end", [peer.abort(), b"\xff" * 6, b""], ids=["A-ABORT", "no PDU", "end of the stream"]
)
def test_an_end_within_an_instance_leaves_nothing(make: Make, end: bytes) -> None:
    line = prepared(make)
    whole = message(instance(2, pixels=600_000))
    line.receive(pdus(whole, 300_000))  # beyond the first buffer
    assert line.protocol._acceptor.mid_message
    if end:
        line.receive(end)
    else:
        line.protocol.eof_received()
    assert line.protocol.state is ConnectionState.CLOSING
    assert not [name for name in line.files() if name.endswith(".part")]
    assert not [name for name in line.files() if f"{SERIES[0]}.2" in name]


def test_a_release_within_an_instance_is_unexpected(make: Make) -> None:
    line = prepared(make)
    line.receive(pdus(message(instance(2), max_length=200), 500))
    line.receive(peer.release_rq())
    assert line.taken() == bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, 2))


def test_a_command_within_an_instance_is_invalid(make: Make) -> None:
    line = prepared(make)
    command = peer.p_data(peer.pdv(1, peer.c_store_rq(CT, "1.2.3"), command=True, last=True))
    data = peer.p_data(peer.pdv(1, instance(2).encode(EXPLICIT), command=False, last=False))
    line.receive(command + data)
    assert line.protocol._acceptor.mid_message
    line.receive(command)
    assert line.taken() == bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, 6))


def test_draining_aborts_after_the_instance_in_flight(make: Make) -> None:
    line = prepared(make)
    whole = message(instance(2))
    line.receive(whole[:300])
    line.protocol.abort_when_at_rest("shutting down")
    assert line.taken() == b""
    line.receive(whole[300:])
    sent = line.taken()
    assert statuses(sent[:-10]) == [0]
    assert sent[-10:] == bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, 0))
    assert line.protocol.state is ConnectionState.CLOSING


def test_the_fast_path_outlives_a_call_that_ends_its_association(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = prepared(make)
    alive: list[bool] = []
    # Not a reference, which would keep it alive; other tests may have left fast paths of theirs.
    fast_path = id(line.protocol._fast_path)

    def end_association(hand_over: HandOver) -> None:
        line.protocol.abort("enough")
        found = [each for each in gc.get_objects() if type(each) is StoreFastPath]
        alive.append(fast_path in map(id, found))

    monkeypatch.setattr(line.protocol, "on_hand_over", end_association)
    line.receive(message(instance(2, InstanceNumber="-3")))
    assert alive == [True]
    assert line.protocol.state is ConnectionState.CLOSING


# ---- both paths are compared -----------------------------------------------------------------

INSTANCES = st.builds(
    lambda number, series, as_number, values: Instance(
        series=series,
        sop_instance=f"{series}.{number}",
        number=as_number,
        **values,
    ),
    st.integers(1, 4),
    st.sampled_from(SERIES),
    st.integers(0, 12000),
    st.sampled_from(
        [
            *({} for _ in range(6)),
            {"pixels": 40_000},
            {"PatientName": "Other^Name"},
            {"StudyDate": "20231301"},
            {"PatientID": None},
            {"InstanceNumber": "-3"},
            {"InstanceNumber": None},
            {"SOPInstanceUID": "1.2.9"},
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"},
            {"SOPInstanceUID": "not a UID"},
        ]
    ),
)
STORES = st.builds(
    lambda one, message_id, context, size, omit: message(
        one, message_id, context, max_length=size, omit=omit
    ),
    INSTANCES,
    st.integers(0, 0xFFFF),
    st.sampled_from([1, 1, 1, 5, 7, 3]),
    st.sampled_from([0, 16384, 1000, 120]),
    st.sampled_from([(), (), (), ("SeriesInstanceUID",), ("SOPClassUID",)]),
)
OTHERS = st.sampled_from(
    [
        peer.p_data(peer.pdv(3, peer.c_echo_rq(5), command=True, last=True)),
        peer.p_data(peer.pdv(1, b"", command=False, last=False)),
        peer.pdu(peer.P_DATA_TF, b""),
        peer.release_rq(),
        peer.abort(),
    ]
)
STREAMS = st.lists(st.one_of(*[STORES] * 12, OTHERS), min_size=1, max_size=8).map(b"".join)


def seen(line: Line) -> tuple[object, ...]:
    """Return all effects, without times and the ids of associations."""

    def plain(report: Report) -> tuple[object, ...]:
        left_out = {"association_id", "at", "seconds", "wall_ns"}
        fields = report._asdict()
        return type(report).__name__, *(v for k, v in fields.items() if k not in left_out)

    return (
        line.taken(),
        line.files(),
        [plain(report) for report in line.reports],
        len(line.journal.entries),
        line.protocol.state,
        line.transport.closing,
    )


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    STREAMS,
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=1),
    st.sampled_from([None, None, 1000, 37]),
)
def test_both_paths_have_the_same_outcome(
    stream: bytes, damage: list[tuple[int, int]], size: int | None
) -> None:
    damaged = bytearray(stream)
    for position, value in damage:
        damaged[position % len(damaged)] = value
    outcomes = []
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        for fast_path in (False, True):
            line = Line(Path(root) / str(fast_path), loop, fast_path=fast_path)
            line.associate()
            line.receive(bytes(damaged), size)
            line.transport.closing = True
            line.protocol.connection_lost(None)
            outcomes.append(seen(line))
            assert line.host.bugs == []
            line.executors.stop(5)
            line.storage.close()
            line.ours.close()
            line.theirs.close()
    loop.close()
    assert outcomes[0] == outcomes[1]


def test_a_series_of_which_nothing_is_stored_leaves_no_journal_entry(
    tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    """Otherwise the next start would register whatever lies in its folder, again and again."""
    for attempt in ("stored", "refused"):
        line = Line(tmp_path / "files", loop)
        line.associate()
        line.receive(message(instance(1)))
        expected = 0 if attempt == "stored" else 0x0110
        assert statuses(line.taken()) == [expected]
        line.close()
        entered = [association_id for association_id, _ in line.journal.entries]
        removed = [association_id for association_id, _ in line.journal.removed]
        assert len(entered) == 1
        assert removed == ([] if attempt == "stored" else entered)
        for name in line.files():
            if attempt == "stored":  # a folder in its place, where no file can go
                (line.root / name).unlink()
                (line.root / name).mkdir()


@pytest.mark.parametrize("fast_path", [True, False])
def test_slow_storage_is_not_waited_for_when_associations_end(make: Make, fast_path: bool) -> None:
    """A hundred of them that give up at once would hold up all others by a hundred removals."""
    line = make(mode="auto", fast_path=fast_path)
    ignore_the_machine(line.executors.policy)
    line.associate()
    line.receive(message(instance(1)))
    assert statuses(line.taken()) == [0]
    line.receive(pdus(message(instance(2, pixels=900_000)), 400_000))
    assert len(os.listdir(line.root / ".oxidicom/tmp")) == 1
    observe_a_slow_call(line.executors.policy)
    assert line.executors._threads == []
    line.receive(peer.abort())
    assert len(line.executors._threads) == 1
