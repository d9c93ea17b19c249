"""The names that a plan adapts are found and trained in every family of models; what a family cannot do is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_config import spec_from_config
from ftadvise.runner.adapters import wrap_with_adapter
from ftadvise.runner.model_probe import PACKS, check_packing

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)  # the benchmarks are scripts that import one another by their bare names
try:
    from matrix import TINY_CONFIGS
finally:
    sys.path.remove(BENCHMARKS)

FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi", "phi3", "glm", "bloom", "gpt2", "gpt_neox", "falcon", "opt"
)  # fmt: skip
EXPERTS = ("mixtral", "qwen3_moe")
RECIPE = Recipe(rank=4, dropout=0.0, compute_dtype="fp32", attention="eager", gradient_checkpointing=False)
IDS = [[5, 9, 2, 7, 1, 4, 8, 3]]


def config(family: str) -> dict[str, Any]:
    return {**TINY_CONFIGS[family], "n_layer" if "n_layer" in TINY_CONFIGS[family] else "num_hidden_layers": 2}


def model(family: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    fields = config(family)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields), attn_implementation="eager")
    made.config.use_cache = False
    return made


def adapted_names(wrapped: Any) -> set[str]:
    return {name.rpartition(".")[2] for name, module in wrapped.named_modules() if hasattr(module, "base_layer")}


def moved(wrapped: Any, steps: int = 2) -> tuple[float, float, list[str]]:
    """(first loss, last loss, adapter parameters that never changed) of a few steps on one row."""
    import torch

    trained = {name: parameter for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    ids, losses = torch.tensor(IDS), []
    wrapped.train()
    for _ in range(steps):
        loss = wrapped(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses[0], losses[-1], [name for name, parameter in trained.items() if torch.equal(parameter, before[name])]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_names_of_the_profile_are_all_linear_layers_and_each_is_trained(family: str) -> None:
    names = spec_from_config(config(family), source=family).linear_modules
    everything = wrap_with_adapter(model(family), RECIPE, "base")
    assert adapted_names(everything) == set(names)
    named = wrap_with_adapter(model(family), RECIPE.replace(target_modules=names), "base")
    assert sum(p.requires_grad for p in named.parameters()) == sum(p.requires_grad for p in everything.parameters())
    first, last, still = moved(named)
    assert last < first
    assert still == []


@pytest.mark.parametrize("family", EXPERTS)
def test_fused_experts_are_adapted_without_dropout_only(family: str) -> None:
    wrapped = wrap_with_adapter(model(family), RECIPE, "base")
    assert any("experts" in name and "lora_" in name for name, parameter in wrapped.named_parameters() if parameter.requires_grad)
    first, last, _ = moved(wrapped, steps=4)
    assert last < first
    for changes, hint in ({"dropout": 0.1}, "--dropout 0"), ({"method": "dora"}, "method lora"):
        with pytest.raises(InputError, match="fused experts") as caught:
            wrap_with_adapter(model(family), RECIPE.replace(**changes), "base")
        assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "glm", "bloom", "phi"])
@pytest.mark.parametrize("method", ["prefix", "prompt", "ia3", "adapter"])
def test_the_other_methods_train_every_family(family: str, method: str) -> None:
    first, last, still = moved(wrap_with_adapter(model(family), RECIPE.replace(method=method), "base"), steps=6)
    assert last < first
    assert still == []


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_a_prefix_that_does_not_fit_is_refused(family: str) -> None:
    with pytest.raises(InputError, match="prefix tuning does not fit"):
        wrap_with_adapter(model(family), RECIPE.replace(method="prefix"), "base")


@pytest.mark.parametrize("family", [*FAMILIES, *EXPERTS])
def test_packed_sequences_are_kept_apart_or_packing_is_refused(family: str) -> None:
    import torch

    made = model(family)
    try:
        check_packing(made, whole=True)
    except InputError:
        assert family in ("bloom", "falcon", "opt")
        return
    made.eval()
    with torch.no_grad():
        alone = made(input_ids=torch.tensor([[4, 5, 6]])).logits[0]
        packed = made(input_ids=torch.tensor([[9, 8, 4, 5, 6]]), position_ids=torch.tensor([[0, 1, 0, 1, 2]])).logits[0, 2:]
    assert torch.allclose(alone, packed, atol=1e-5)


def test_sharded_models_pack_where_the_family_is_known_to() -> None:
    apart = [family for family in (*FAMILIES, *EXPERTS) if model(family).config.model_type in PACKS]
    assert len(apart) == len({"gemma3_text" if family == "gemma3" else family for family in apart} & PACKS)
    for family in apart:
        check_packing(model(family), whole=True)  # what is listed holds
        check_packing(model(family), whole=False)
    with pytest.raises(InputError, match="keep packed sequences apart"):
        check_packing(model("opt"), whole=False)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Qwen/Qwen-7B", {"c_attn", "c_proj", "w1", "w2"}),
        ("baichuan-inc/Baichuan2-13B-Chat", {"W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("THUDM/chatglm2-6b", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    ],
)
def test_models_with_code_of_their_own_have_the_names_of_that_code(name: str, wanted: set[str]) -> None:
    """Their code is not at hand: the profile against the names in it, and against the layers that the analytic model walks."""
    from ftadvise.estimator.memory import price_memory
    from ftadvise.estimator.stack import stack_of
    from ftadvise.profiles.hardware import Cpu, Hardware
    from ftadvise.profiles.resolve_model import resolve_model

    spec = resolve_model(name)
    assert set(spec.linear_modules) == wanted
    cpu = Hardware((), Cpu("any", 2, 2, supports_bf16=True, supports_amx=False), 64 << 30, 64 << 30, "named")
    for targets in (("all-linear",), spec.linear_modules):
        linears = price_memory(spec, cpu, Recipe(target_modules=targets), stack_of("trl")).profile.linears
        assert {each.name.rpartition(".")[2] for each in linears if each.adapted} == wanted
