"""Arguments of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cli import ask, root_folder
from benchmarks.rows import FULL, GIB, QUICK, chosen, rows
from benchmarks.tables import TABLES


def keys(*arguments: str) -> list[str]:
    return [row.key for row in ask(arguments).matrix]


def test_without_arguments_all_rows_are_run() -> None:
    asked = ask([])
    assert (asked.command, asked.effort) == ("run", FULL)
    assert {row.key for row in asked.matrix} == {key for table in TABLES for key in table.rows}
    assert next(row for row in asked.matrix if row.key == "one-large").size == GIB
    assert asked.settings == {}
    assert asked.out == Path("build/benchmark")


def test_a_quick_run_has_the_main_rows_only() -> None:
    asked = ask(["--quick"])
    assert asked.effort == QUICK
    assert set(keys("--quick")) < set(keys())
    assert ask(["--quick", "--rounds", "7"]).effort.rounds == 7


def test_named_rows_are_run_in_a_quick_run_too() -> None:
    assert keys("--rows", "pdu-*,1x1k") == ["1x1k", "pdu-16k", "pdu-unlimited"]
    assert keys("--quick", "--rows", "1x1k") == ["1x1k"]


def test_a_row_adds_the_rows_that_it_is_compared_with() -> None:
    assert keys("--rows", "open-75") == ["4x20k", "open-75"]
    assert keys("--rows", "idle*") == ["1x20k", "idle-200"]


def test_an_open_loop_runs_after_its_closed_loop() -> None:
    matrix = rows(FULL, quick=False)
    order = [row.key for row in matrix]
    shares = [row for row in matrix if row.share_of]
    assert [row.share for row in shares] == [0.25, 0.5, 0.75]
    assert all(order.index(row.share_of) < order.index(row.key) for row in shares)


def test_broker_nats_and_env_are_settings_of_oxidicom() -> None:
    asked = ask(
        ["--broker", "amqp://b", "--nats", "n:1", "-e", "OXIDICOM_WORKERS=2", "-e", "A=b=c"]
    )
    assert asked.settings == {
        "OXIDICOM_CELERY_BROKER": "amqp://b",
        "OXIDICOM_NATS_ADDRESS": "n:1",
        "OXIDICOM_WORKERS": "2",
        "A": "b=c",
    }


def test_a_sweep_has_every_combination_of_values() -> None:
    asked = ask(["sweep", "A=1,2", "B=x,y", "--rows", "1x20k", "-e", "C=3"])
    assert asked.command == "sweep"
    assert asked.variants == [
        {"A": "1", "B": "x"},
        {"A": "1", "B": "y"},
        {"A": "2", "B": "x"},
        {"A": "2", "B": "y"},
    ]
    assert asked.settings == {"C": "3"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "1x21k"], "no row is called 1x21k; there are 1x512k"),
        (["--rounds", "0"], "at least 1"),
        (["-e", "NAME"], "not NAME=VALUE"),
        (["sweep"], "NAME=VALUE"),
        (["micro", "--quick"], "unrecognized"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        ask(arguments)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_micro_is_selected_by_its_name(tmp_path: Path) -> None:
    asked = ask(["micro", "--out", str(tmp_path)])
    assert (asked.command, asked.out) == ("micro", tmp_path)


def test_without_a_pattern_every_row_is_chosen() -> None:
    assert chosen(rows(QUICK, quick=True), "") == rows(QUICK, quick=True)


def test_the_root_is_a_new_folder_below_the_one_given(tmp_path: Path) -> None:
    first, second = root_folder(tmp_path), root_folder(tmp_path)
    assert first.is_dir()
    assert first.parent == second.parent == tmp_path
    assert first != second
