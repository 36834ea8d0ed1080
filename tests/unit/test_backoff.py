from __future__ import annotations

import pytest

from oxidicom.backoff import Backoff


def test_delays_double_up_to_the_greatest_and_begin_again_after_a_success() -> None:
    backoff = Backoff(0.5, 3.0)
    assert not backoff
    assert [backoff.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff
    backoff.reset()
    assert (bool(backoff), backoff.delay) == (False, 0.0)
    assert backoff.failed() == 0.5


@pytest.mark.parametrize(("first", "greatest"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_delays_that_cannot_be_are_refused(first: float, greatest: float) -> None:
    with pytest.raises(ValueError, match="first delay"):
        Backoff(first, greatest)
