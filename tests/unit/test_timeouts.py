"""Time limits of one connection (decisions 8, 10, 16)."""

from __future__ import annotations

from oxidicom.net.timeouts import MIN_WINDOW_BYTES, ConnectionTimeouts, TimeLimits

LIMITS = TimeLimits(artim=30, idle=300)


def test_artim_runs_from_connecting_and_again_from_our_last_pdu() -> None:
    timeouts = ConnectionTimeouts(LIMITS, 100)
    assert not timeouts.artim_expired(129.9)
    assert timeouts.artim_expired(130)
    timeouts.closing(500)
    assert not timeouts.artim_expired(529.9)
    assert timeouts.artim_expired(530)


def test_silence_counts_from_the_last_byte() -> None:
    timeouts = ConnectionTimeouts(LIMITS, 0)
    assert timeouts.silence(10, 0) == 10
    assert timeouts.silence(11, 5) == 0
    assert timeouts.silence(15, 5) == 4


def test_an_idle_association_is_aborted_after_the_time_limit() -> None:
    timeouts = ConnectionTimeouts(LIMITS, 0)
    assert timeouts.observe(10, 100, None, False) is None
    assert timeouts.observe(309, 100, None, False) is None
    assert timeouts.observe(310, 100, None, False) == "idle for too long"


def test_bytes_between_messages_restart_the_idle_time_limit() -> None:
    timeouts = ConnectionTimeouts(LIMITS, 0)
    for now in range(0, 3000, 200):
        assert timeouts.observe(now, now, None, False) is None


def test_a_silent_peer_within_a_message_is_too_slow() -> None:
    timeouts = ConnectionTimeouts(LIMITS, 0)
    assert timeouts.observe(10, 100, 1, False) is None
    assert timeouts.observe(69, 100, 1, False) is None
    assert timeouts.observe(70, 100, 1, False) == "too slow within a message"


def test_a_peer_below_the_least_rate_is_too_slow() -> None:
    timeouts = ConnectionTimeouts(LIMITS, 0)
    verdicts = [timeouts.observe(now, now, 1, False) for now in range(62)]
    assert verdicts[:60] == [None] * 60
    assert verdicts[60] == "too slow within a message"


def test_a_peer_at_the_least_rate_may_take_any_time() -> None:
    timeouts = ConnectionTimeouts(LIMITS, 0)
    for now in range(0, 86400, 60):
        assert timeouts.observe(now, now * MIN_WINDOW_BYTES // 60, 1, False) is None


def test_finishing_messages_is_fast_enough_however_small_they_are() -> None:
    timeouts = ConnectionTimeouts(LIMITS, 0)
    for now in range(0, 3600, 30):
        assert timeouts.observe(now, now, now // 30, False) is None


def test_a_pause_between_messages_begins_a_new_window() -> None:
    timeouts = ConnectionTimeouts(LIMITS, 0)
    assert timeouts.observe(0, 0, 1, False) is None
    assert timeouts.observe(50, 10, None, False) is None
    assert timeouts.observe(55, 20, 1, False) is None
    assert timeouts.observe(114, 30, 1, False) is None
    assert timeouts.observe(115, 40, 1, False) == "too slow within a message"


def test_no_time_limit_runs_while_the_peer_waits_for_us() -> None:
    timeouts = ConnectionTimeouts(LIMITS, 0)
    for now in range(0, 5000, 10):
        assert timeouts.observe(now, 100, 1, True) is None
    assert timeouts.observe(5000, 100, 1, False) is None
    assert timeouts.observe(5059, 100, 1, False) is None
    assert timeouts.observe(5060, 100, 1, False) == "too slow within a message"

    timeouts = ConnectionTimeouts(LIMITS, 0)
    assert timeouts.observe(1000, 0, None, True) is None
    assert timeouts.observe(1299, 0, None, False) is None
    assert timeouts.observe(1300, 0, None, False) == "idle for too long"
