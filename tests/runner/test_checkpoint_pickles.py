"""Resuming runs nothing that a stranger has put into the folder."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from ftadvise.profiles.errors import InputError
from ftadvise.runner.checkpoint_pickles import check_pickles


class _Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.fixture
def scaler(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A class where DeepSpeed has its own, in a module from which `os` can be reached."""
    modules = {name: types.ModuleType(name) for name in ("deepspeed", "deepspeed.runtime", "deepspeed.runtime.loss")}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    last: Any = modules["deepspeed.runtime.loss"]
    last.os, last.system = os, os.system
    last.Scaler = type("Scaler", (), {"__module__": "deepspeed.runtime.loss"})
    return last.Scaler


def test_tensors_and_classes_of_deepspeed_are_let_through(tmp_path: Path, scaler: Any) -> None:
    torch.save({"state": {0: torch.ones(3)}, "step": 3, "scaler": scaler()}, tmp_path / "mp_rank_00_model_states.pt")
    check_pickles(tmp_path)


@pytest.mark.parametrize("function", [os.system, eval, print])
def test_anything_else_is_refused_and_not_run(tmp_path: Path, function: Any) -> None:
    (tmp_path / "global_step3").mkdir()
    harm = tmp_path / "harm"
    torch.save({"weights": torch.ones(1), "x": _Calls(function, f"open({str(harm)!r}, 'w')")}, tmp_path / "global_step3" / "optim.pt")
    with pytest.raises(InputError, match=r"optim\.pt: loading it would run .*(system|eval|print)"):
        check_pickles(tmp_path)
    assert not harm.exists()


def test_what_is_only_reachable_from_deepspeed_is_refused(tmp_path: Path, scaler: Any) -> None:
    torch.save(_Calls(scaler), tmp_path / "a.pt")
    file = tmp_path / "a.pt"
    check_pickles(tmp_path)
    for name in ("system", "os.system"):
        harmful = types.FunctionType((lambda: None).__code__, {})
        harmful.__module__, harmful.__qualname__, harmful.__name__ = "deepspeed.runtime.loss", name, name
        sys.modules["deepspeed.runtime.loss"].system = harmful  # type: ignore[attr-defined]
        sys.modules["deepspeed.runtime.loss"].os = types.SimpleNamespace(system=harmful)  # type: ignore[attr-defined]
        torch.save(_Calls(harmful), file, pickle_protocol=4)
        with pytest.raises(InputError, match=r"loading it would run|cannot be read"):
            check_pickles(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 half of one"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        check_pickles(tmp_path)
