"""Messages between workers and the control process: what is encoded is decoded."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oxidicom.app import worker_messages
from oxidicom.app.worker_messages import (
    BeginAccepting,
    ClaimReleased,
    Decoder,
    Drain,
    Encoder,
    FrameSplitter,
    Message,
    RegistrationQueued,
    StartFailed,
    WorkerAlive,
    WorkerReady,
    framed,
)
from oxidicom.ports import (
    AssociationBegan,
    AssociationEnded,
    InstanceRefused,
    InstanceStored,
    SeriesInfo,
)

text = st.text(st.characters(codec="utf-8"), max_size=20)
maybe_text = st.none() | text
number = st.integers(0, 2**63 - 1)
seconds = st.floats(0, 1e9)

series = st.builds(
    SeriesInfo,
    calling_ae_title=text,
    pacs_name=text,
    path=text,
    patient_id=text,
    study_date=text,
    study_instance_uid=text,
    series_instance_uid=text,
    patient_name=maybe_text,
    patient_age=st.none() | st.integers(-(2**31), 2**31),
    series_description=maybe_text,
)
few_series = st.shared(st.lists(series, min_size=1, max_size=4), key="series")
known_series = few_series.flatmap(st.sampled_from)

message: st.SearchStrategy[Message] = st.one_of(
    st.builds(InstanceStored, text, known_series, text, number, seconds, seconds),
    st.builds(InstanceRefused, text, text, text, maybe_text, number, text, seconds),
    st.builds(
        AssociationBegan, text, text, number, text, text, seconds, number, st.none() | number
    ),
    st.builds(AssociationEnded, text, maybe_text, number, seconds, number),
    st.builds(StartFailed, st.lists(text, max_size=3)),
    st.builds(ClaimReleased, text, text),
    st.builds(RegistrationQueued, text, text, st.lists(text, max_size=3)),
    st.sampled_from([WorkerReady(), WorkerAlive(), BeginAccepting(), Drain()]),
)


# Generating the messages takes long on a machine that is busy otherwise.
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(message, max_size=6), max_size=6))
def test_messages_are_decoded_as_they_were_encoded(batches: list[list[Message]]) -> None:
    encoder, decoder = Encoder(), Decoder()
    for batch in batches:
        decoded = decoder.decode(encoder.encode(batch))
        assert decoded == batch
        assert [type(each) for each in decoded] == [type(each) for each in batch]


def info(uid: str, text: str = "") -> SeriesInfo:
    return SeriesInfo(
        calling_ae_title="PACS",
        pacs_name="PACS",
        path="SERVICES/PACS/PACS/p/s/d",
        patient_id="P",
        study_date="2024-01-31",
        study_instance_uid="1.2",
        series_instance_uid=uid,
        series_description=text,
    )


def stored(series: SeriesInfo, uid: str = "1.1") -> InstanceStored:
    return InstanceStored("A", series, uid, 100, 0.001, 1.0)


def test_the_description_of_a_series_is_sent_once() -> None:
    encoder, decoder = Encoder(), Decoder()
    long = info("1.2", "x" * 10_000)
    first = encoder.encode([stored(long), stored(long)])
    second = encoder.encode([stored(long, "1.2")])
    assert len(first) > 10_000
    assert first.count(b"x" * 10_000) == 1
    assert len(second) < 200
    (decoded,) = {id(each.series) for each in decoded_stored(decoder, first)}
    assert id(decoded_stored(decoder, second)[0].series) == decoded


def decoded_stored(decoder: Decoder, frame: bytes) -> list[InstanceStored]:
    decoded = decoder.decode(frame)
    return [each for each in decoded if isinstance(each, InstanceStored)]


def test_numbers_start_again_when_too_many_series_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_messages, "MAX_NUMBERED_SERIES", 3)
    encoder, decoder = Encoder(), Decoder()
    for turn in range(20):
        batch = [stored(info(f"1.{turn}.{n}")) for n in (1, 2, 3, 4)]
        assert decoder.decode(encoder.encode(batch)) == batch
    assert len(encoder._series) <= 3
    assert len(decoder._series) <= 3


def test_text_that_cannot_be_encoded_is_refused_and_later_frames_are_whole() -> None:
    """A lone surrogate: numbers given in the frame that failed are not used later."""
    encoder, decoder = Encoder(), Decoder()
    good = info("1.2")
    with pytest.raises(ValueError, match="surrogates"):
        encoder.encode([stored(good), stored(info("1.3", "\ud800"))])
    assert decoder.decode(encoder.encode([stored(good)])) == [stored(good)]


def test_a_record_of_an_unknown_type_is_an_error() -> None:
    with pytest.raises(IndexError):
        Decoder().decode(msgspec.msgpack.encode([[99]]))


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(1, 9))
def test_frames_are_found_however_the_stream_is_cut(parts: list[bytes], size: int) -> None:
    stream = b"".join(map(framed, parts))
    frames, decoded = FrameSplitter(), []
    for start in range(0, len(stream), size):
        decoded += frames.feed(stream[start : start + size])
    assert decoded == parts
    assert FrameSplitter().feed(stream) == parts
