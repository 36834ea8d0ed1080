"""Trials: kills, brokers that go, bad peers, and long days.

Each is random, and the same again for the same seed, which is told at the end of the run:
`OXIDICOM_TEST_SEED=… python -m pytest tests/adversity`. Short forms run with all tests; `--long`
(make soak) runs them in full and tells the figures.
"""
