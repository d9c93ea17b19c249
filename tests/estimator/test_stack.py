"""Stacks by name and version, and what they set by default."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import ftadvise
from ftadvise.estimator import stack as stacks
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.stack import describe_stack, stack_names, stack_of, trl_loss
from ftadvise.profiles.errors import InputError


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stacks, "_installed", lambda package: None)
    stack_of.cache_clear()
    yield
    stack_of.cache_clear()


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


def test_trl_prepared_quantised_models_until_0_26() -> None:
    before, after = (stack_of(f"trl=={version}") for version in ("0.25.1", "0.26"))
    assert (before.kbit_upcast, after.kbit_upcast) == ("norms", "none")
    dtypes = [each.recipe_defaults(quantized=True, compute_dtype="bf16")["adapter_dtype"] for each in (before, after)]
    assert dtypes == ["fp32", "bf16"]
    assert after.recipe_defaults(quantized=True, compute_dtype="fp16")["adapter_dtype"] == "fp32"
    assert after.recipe_defaults(quantized=False, compute_dtype="bf16")["adapter_dtype"] == "fp32"


def test_the_loss_of_transformers_by_version() -> None:
    kernels = [stack_of(f"transformers=={version}").loss_kernel("full") for version in ("4.45.2", "4.48.3", "4.49.0", "5.23")]
    assert [kernel.copies_shifted for kernel in kernels] == [True, True, False, False]
    assert [kernel.keeps_narrow for kernel in kernels] == [False, True, True, True]


def test_companions_have_versions_of_their_own() -> None:
    old = stack_of("trl==0.13,transformers==4.45.2")
    assert old.versions["transformers"] == "4.45.2"
    assert not old.loss_kernel("full").keeps_narrow
    assert stack_of("trl==0.13").loss_kernel("full").keeps_narrow
    assert stack_of("transformers-4-foak-liger").loss_kernel("full").chunk_bytes == 8
    assert stack_of("transformers-liger").loss_kernel("fused").chunk_bytes == 2


@pytest.mark.usefixtures("nothing_installed")
def test_without_an_installation_the_tested_version_counts() -> None:
    assert stack_of("trl").versions["trl"] == "1.16.0"
    assert stack_of("trl").default_loss == "fused"
    assert stack_of("unsloth").versions["transformers"] == "5.17.0"


def test_the_installed_version_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "_installed", lambda package: {"trl": "1.10.0"}.get(package))
    stack_of.cache_clear()
    assert stack_of("trl").default_loss == "chunked"
    assert ftadvise.plan("Qwen-7B", gpu="RTX 4090").recipe.loss == "chunked"
    stack_of.cache_clear()


def test_a_stack_of_the_past_is_not_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "_installed", lambda package: "5.23.0")
    stack_of.cache_clear()
    assert stack_of("transformers").versions["transformers"] == "5.23.0"
    assert stack_of("transformers-4").versions["transformers"].startswith("4.")
    assert stack_of("transformers-4").reentrant_checkpoints
    stack_of.cache_clear()


@pytest.mark.parametrize("name", stack_names())
@pytest.mark.parametrize("quantized", [False, True])
def test_every_stack_makes_a_recipe_that_it_can_price(name: str, quantized: bool) -> None:
    stack = stack_of(name)
    defaults = stack.recipe_defaults(quantized=quantized, compute_dtype="bf16")
    recipe = Recipe(quantization="nf4" if quantized else "none", **defaults)
    assert recipe.loss == stack.default_loss
    assert set(stack.losses) == {"full", "chunked", "fused"}
    assert stack.kernels(quantized=quantized) <= {"norm", "rope", "mlp", "lora"}
    assert stack.loss_kernel(recipe.loss).tokens_per_chunk(4096, 4096, 32000, free_bytes=8 << 30) in range(4097)
    assert all(describe_stack(name))


def test_plain_transformers_keeps_full_logits_and_needs_more() -> None:
    assert stack_of("transformers").default_loss == "full"
    ours, plain = (ftadvise.estimate("Qwen-7B", gpu="RTX 4090", stack=name, micro_batch=2) for name in ("trl==1.16", "transformers"))
    assert plain.memory.peak_allocated_bytes > ours.memory.peak_allocated_bytes


def test_an_estimate_takes_what_the_stack_sets_and_a_flag_overrides_it() -> None:
    theirs = ftadvise.estimate("Qwen-7B", gpu="RTX 4090", stack="litgpt", method="qlora").recipe
    assert (theirs.loss, theirs.optimizer, theirs.adapter_dtype) == ("chunked", "paged_adamw_32bit", "bf16")
    assert not theirs.gradient_checkpointing
    flagged = ftadvise.estimate("Qwen-7B", gpu="RTX 4090", stack="litgpt", optimizer="adamw_8bit", adapter_dtype="fp32").recipe
    assert (flagged.loss, flagged.optimizer, flagged.adapter_dtype) == ("chunked", "adamw_8bit", "fp32")


def test_a_plan_keeps_what_its_stack_sets() -> None:
    recipe = ftadvise.plan("Qwen-7B", gpu="RTX 4090", stack="unsloth").recipe
    assert recipe.optimizer == "adamw_8bit"
    assert recipe.adapter_dtype == "fp32"
    assert ftadvise.plan("Qwen-7B", gpu="RTX 4090", stack="trl==1.16").request.fixed == {}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trk", "trl"),
        ("lama-factory", "llama-factory"),
        ("trl==new", "1.16"),
        ("==", "known"),
        ("trl==", "trl==1.16"),
        ("litgpt,transformers==4.48", None),
        ("trl,transformer==4.48", "transformers"),
        ("trl,transformers", None),
    ],
)
def test_unknown_stacks_packages_and_versions_are_refused(name: str, hint: str | None) -> None:
    with pytest.raises(InputError) as refused:
        stack_of(name)
    assert hint is None or hint in (refused.value.hint or "")
