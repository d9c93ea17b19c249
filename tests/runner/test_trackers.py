"""Experiment trackers: off unless asked for, checked before anything is loaded, their logs in the run folder."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from ftadvise.profiles.errors import InputError
from ftadvise.runner import trackers
from ftadvise.runner.trackers import TRACKERS, check_trackers, tracking_arguments

VARIABLES = (
    "DISABLE_KUBEFLOW_INTEGRATION",
    "TENSORBOARD_LOGGING_DIR",
    "TRACKIO_DIR",
    "WANDB_DIR",
    "WANDB_PROJECT",
    "WANDB_MODE",
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "NETRC",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting and no account of whoever runs the tests; what a test sets is undone."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored whatever the code does to it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: ModuleSpec(name, None))


def test_nothing_is_reported_unless_asked_for(tmp_path: Path) -> None:
    check_trackers(())
    assert tracking_arguments((), tmp_path / "run") == {"report_to": "none"}
    assert os.environ["DISABLE_KUBEFLOW_INTEGRATION"] == "TRUE"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_with_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=f"the package {name} is not installed") as caught:
        check_trackers((name,))
    assert caught.value.hint == f"pip install {name}"


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(InputError, match="unknown tracker 'tensorbord'") as caught:
        check_trackers(("tensorbord",))
    assert caught.value.hint == "did you mean tensorboard?"


@pytest.mark.usefixtures("installed")
def test_wandb_without_an_account_is_refused_before_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_trackers(("tensorboard", "trackio"))
    with pytest.raises(InputError, match="not logged in"):
        check_trackers(("wandb",))
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n login user\n password x\n")
    (tmp_path / ".netrc").chmod(0o600)
    check_trackers(("wandb",))
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(InputError, match="not logged in"):
        check_trackers(("wandb",))
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(("wandb",))


def test_logs_go_into_the_run_folder_unless_the_user_said_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    run = tmp_path / "run-1"
    arguments = tracking_arguments(("tensorboard", "trackio", "wandb", "wandb"), run)
    assert arguments["report_to"] == ["tensorboard", "trackio", "wandb"]
    assert arguments["run_name"] == "run-1"
    for name in ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR", "WANDB_DIR"):
        assert Path(os.environ[name]).is_relative_to(run)
    assert os.environ["WANDB_PROJECT"] == "mine"
    assert (run / "logs").is_dir()


@pytest.mark.parametrize("track", [(), ("trackio",), ("tensorboard", "wandb")])
def test_the_trainer_knows_the_arguments(track: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from transformers import TrainingArguments

    arguments: dict[str, Any] = tracking_arguments(track, tmp_path)
    config = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **arguments)
    assert config.report_to == list(track)


def test_the_check_is_light() -> None:
    script = "import sys; from ftadvise.runner.trackers import check_trackers; check_trackers(()); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
