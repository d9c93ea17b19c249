"""The libraries are quiet while we work, and as they were afterwards."""

from __future__ import annotations

import logging
import os
import warnings

import pytest

from ftadvise.runner.quiet import ignoring, no_telemetry, quiet_libraries


def _fail_quietly(logger: logging.Logger) -> None:
    import datasets

    with quiet_libraries():
        assert logger.level == logging.ERROR
        assert datasets.are_progress_bars_disabled()
        raise ZeroDivisionError


def test_levels_and_bars_are_restored_even_after_an_error() -> None:
    datasets = pytest.importorskip("datasets")
    logger = logging.getLogger("transformers")
    before, bars = logger.level, datasets.are_progress_bars_disabled()
    with pytest.raises(ZeroDivisionError):
        _fail_quietly(logger)
    assert logger.level == before
    assert datasets.are_progress_bars_disabled() == bars


def test_only_the_named_warning_is_ignored() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with ignoring("old name"):
            warnings.warn("old name of something", FutureWarning, stacklevel=1)
            warnings.warn("your data is broken", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["your data is broken"]


def test_telemetry_is_off_even_when_the_hub_library_was_imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    no_telemetry()
    assert constants.HF_HUB_DISABLE_TELEMETRY is True
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
