"""Receive buffers: shared while no writer keeps them, never reused while one does."""

from __future__ import annotations

import pytest

from oxidicom.buffers import RECEIVE_BUFFER_BYTES, BufferPool


def test_the_buffer_is_the_same_until_it_is_kept() -> None:
    pool = BufferPool(1 << 20)
    buffer = pool.current
    assert pool.current is buffer
    assert len(buffer) == RECEIVE_BUFFER_BYTES
    pool.keep(1)
    assert pool.current is not buffer
    assert len(pool._holders) == 1


def test_a_kept_buffer_comes_back_when_its_last_holder_is_done() -> None:
    pool = BufferPool(1 << 20, 16)
    buffer = pool.current
    pool.keep(2)
    pool.release(buffer)
    assert len(pool._holders) == 1
    pool.keep(1)
    assert pool.current is not buffer
    pool.release(buffer)
    assert len(pool._holders) == 1
    pool.keep(1)
    assert pool.current is buffer, "used again before fresh memory is asked for"


def test_no_buffer_is_handed_out_twice() -> None:
    pool = BufferPool(1 << 20, 16)
    held = []
    for _ in range(50):
        held.append(pool.current)
        pool.keep(1)
    assert len({id(buffer) for buffer in held}) == 50
    for buffer in held:
        pool.release(buffer)
    assert len(pool._holders) == 0
    again = []
    for _ in range(50):
        again.append(pool.current)
        pool.keep(1)
    assert len({id(buffer) for buffer in again}) == 50


def test_the_memory_of_a_burst_is_freed() -> None:
    pool = BufferPool(1 << 20, 16)
    held = []
    for _ in range(50):
        held.append(pool.current)
        pool.keep(1)
    for buffer in held:
        pool.release(buffer)
    assert len(pool._free) == 16


@pytest.mark.parametrize(("limit", "most"), [(0, 1), (15, 1), (16, 1), (47, 2), (48, 3)])
def test_the_pool_is_exhausted_from_the_limit_on(limit: int, most: int) -> None:
    pool = BufferPool(limit, 16)
    held = []
    for _ in range(most):
        assert not pool.exhausted
        held.append(pool.current)
        pool.keep(1)
    assert pool.exhausted
    pool.release(held.pop())
    assert not pool.exhausted


def test_a_buffer_of_another_pool_cannot_be_released() -> None:
    with pytest.raises(KeyError):
        BufferPool(1 << 20, 16).release(bytearray(16))
