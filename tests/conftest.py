"""What every test may rely on: nothing of the user's is read or written, nothing is downloaded, terminals have one width."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

_FOLDER = "FTADVISE_TEST_FOLDER"


def pytest_configure(config: pytest.Config) -> None:
    """Give the whole session its own user folders, before any library reads them.

    Parallel workers inherit the environment and so share them: the demo model is converted once per session.
    """
    # the same examples every time, so that a green run stays green; FTADVISE_EXPLORE=1 looks for new ones
    settings.register_profile("ftadvise", derandomize="FTADVISE_EXPLORE" not in os.environ, deadline=None)
    settings.load_profile("ftadvise")
    if _FOLDER in os.environ:
        return
    folder = Path(tempfile.mkdtemp(prefix="ftadvise-tests-"))
    os.environ[_FOLDER] = str(folder)
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "HF_HOME"):
        os.environ[name] = str(folder / name.lower())
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "COLUMNS": "100", "LC_ALL": "C.UTF-8"}
    os.environ["FTADVISE_DATA_DIR"] = str(folder / "ftadvise-data")
    os.environ["FTADVISE_NO_CALIBRATION"] = "1"  # what one test measured must not change what another expects
    # one core per process, and waiting threads sleep: spinning ones would starve each other when several workers train
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    for name in ("NO_COLOR", "FORCE_COLOR", "FTADVISE_LANG", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "CUDA_VISIBLE_DEVICES"):
        os.environ.pop(name, None)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
