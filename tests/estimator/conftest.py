"""A store of calibrations for each test that asks for one."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibration_stand_ins import VERSIONS


@pytest.fixture
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A store of the test's own, versions that do not depend on what is installed, and calibration switched on."""
    monkeypatch.setenv("FTADVISE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("FTADVISE_NO_CALIBRATION")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("ftadvise.estimator.calibration.installed_version", VERSIONS.get)
    monkeypatch.setattr("ftadvise.estimator.speed_correction.installed_version", VERSIONS.get)
    return tmp_path / "data" / "calibration.json"
