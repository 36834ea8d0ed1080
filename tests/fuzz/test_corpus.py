"""Every file that fuzzing has found is fed to its target again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_keeps_the_laws(target: str) -> None:
    files = sorted((CORPUS / target).iterdir())
    assert files
    for file in files:
        try:
            TARGETS[target](file.read_bytes())
        except BaseException as error:
            error.add_note(f"found with {file}")
            raise


def test_every_folder_of_the_corpus_has_its_target_and_is_small() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    for folder in CORPUS.iterdir():
        assert sum(file.stat().st_size for file in folder.iterdir()) < 300_000
