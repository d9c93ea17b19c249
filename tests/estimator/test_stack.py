"""Stacks by name and version: which loss they compute."""

from __future__ import annotations

import pytest

import ftadvise
from ftadvise.estimator import stack as stacks
from ftadvise.estimator.stack import stack_of, trl_loss
from ftadvise.profiles.errors import InputError


@pytest.mark.parametrize(
    ("version", "loss"),
    [
        ("0.29.1", "full"),
        ("1.6.3", "full"),
        ("1.7", "chunked"),
        ("1.14.2", "chunked"),
        ("1.15.0rc1", "fused"),
        ("1.16.0", "fused"),
        ("2", "fused"),
    ],
)
def test_trl_changed_its_loss_twice(version: str, loss: str) -> None:
    assert trl_loss(version) == loss
    assert stack_of(f"trl=={version}").default_loss == loss


def test_without_an_installation_the_tested_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "_installed", lambda package: None)
    stack_of.cache_clear()
    assert stack_of("trl").versions["trl"] == "1.16.0"
    assert stack_of("trl").default_loss == "fused"
    stack_of.cache_clear()


def test_the_installed_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "_installed", lambda package: "1.10.0")
    stack_of.cache_clear()
    assert stack_of("trl").default_loss == "chunked"
    assert ftadvise.plan("Qwen-7B", gpu="RTX 4090").recipe.loss == "chunked"
    stack_of.cache_clear()


def test_plain_transformers_keeps_full_logits_and_needs_more() -> None:
    assert stack_of("transformers").default_loss == "full"
    ours, plain = (ftadvise.estimate("Qwen-7B", gpu="RTX 4090", stack=name, micro_batch=2) for name in ("trl==1.16", "transformers"))
    assert plain.memory.peak_allocated_bytes > ours.memory.peak_allocated_bytes


@pytest.mark.parametrize("name", ["trk", "trl==new", "==", "transformers==5.0"])
def test_unknown_stacks_and_versions_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        stack_of(name)
