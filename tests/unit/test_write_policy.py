"""The write policy: when instances are written inline, and when on writer threads."""

from __future__ import annotations

import pytest

from oxidicom.store.write_policy import INLINE_AGAIN_S, WritePolicy

MS = 1_000_000


def test_auto_writes_inline_where_storage_is_local_and_not_synced() -> None:
    assert WritePolicy("auto", local=True, fsync=False).decide(0)
    assert not WritePolicy("auto", local=False, fsync=False).decide(0)
    assert not WritePolicy("auto", local=True, fsync=True).decide(0)


@pytest.mark.parametrize("slowest", [0, 4 * MS, 30 * MS, 1000 * MS])
def test_the_modes_inline_and_threads_do_not_depend_on_the_storage(slowest: int) -> None:
    for local in (True, False):
        inline = WritePolicy("inline", local=local, fsync=True)
        threads = WritePolicy("threads", local=local, fsync=False)
        for policy in (inline, threads):
            for at in range(5):
                policy.observe(slowest, at / 10)
        assert inline.decide(1)
        assert not threads.decide(1000)


def test_one_call_that_is_too_slow_ends_inline_writing_for_a_time() -> None:
    policy = WritePolicy("auto", local=True, fsync=False)
    policy.observe(25 * MS, 100.0)
    assert not policy.decide(100.0)
    assert not policy.decide(99.9 + INLINE_AGAIN_S)
    policy.observe(25 * MS, 129.9)
    assert not policy.decide(129.8 + INLINE_AGAIN_S)
    assert policy.decide(160.0)


def test_three_slow_calls_within_a_second_end_inline_writing() -> None:
    policy = WritePolicy("auto", local=True, fsync=False)
    for at in (0.0, 0.6, 1.2, 1.8):
        policy.observe(6 * MS, at)
        policy.observe(4 * MS, at)
        assert policy.decide(at)
    policy.observe(6 * MS, 1.9)
    policy.observe(6 * MS, 2.0)
    assert not policy.decide(2.0)
    assert policy.decide(32.1)


def test_a_slow_call_ends_inline_writing_at_once_and_only_a_decision_begins_it() -> None:
    policy = WritePolicy("auto", local=True, fsync=False)
    assert policy.writes_inline
    policy.observe(25 * MS, 0.0)
    assert not policy.writes_inline
    assert policy.decide(1000.0)
    assert policy.writes_inline
