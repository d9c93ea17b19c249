"""Several tenants, each with an adapter of its own on the same base: one base with all adapters, beside a merged copy for each. Bytes.

    merged     tenants x (weights + activations + context) + KV cache: each copy is a server of its own, the sequences are shared out
    peft       weights + tenants x adapter in fp32 (PEFT casts 16-bit adapters on loading) + activations + KV cache + context
    vllm       weights + slots x (A and B of every linear layer) + activations + KV cache + context, with a slot for each adapter that a
               batch can hold (no more than sequences at once); all adapters wait in pinned RAM, 16 bits

How many fit: the largest number for which the sum stays within the memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ftadvise.estimator.inference import InferenceMemory, Serving, inference_memory, kv_cache_bytes, slot_bytes
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.model_spec import ModelSpec

Way = Literal["merged", "peft", "vllm"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One tenant's adapter. `is_lora`: of the kind that vLLM serves; `rank` counts only then."""

    parameters: int
    rank: int
    is_lora: bool = True


@dataclass(frozen=True, slots=True)
class Tenancy:
    """One way of serving `tenants` tenants: bytes on the device and in RAM, and how many tenants and sequences would fit.

    `on_device`: how many of them are there at the same time. `most_tenants` and `most_sequences` are None where no card is known, the
    first also where RAM and not the card sets the limit; `most_sequences` are those of all tenants together.
    """

    way: Way
    tenants: int
    on_device: int
    device_bytes: int
    per_tenant_bytes: int
    ram_bytes: int
    most_tenants: int | None
    most_sequences: int | None

    def to_json(self) -> dict[str, Any]:
        """The document of one way."""
        return {
            "way": self.way,
            "tenants": self.tenants,
            "on_device": self.on_device,
            "device_bytes": self.device_bytes,
            "bytes_per_further_tenant": self.per_tenant_bytes,
            "ram_bytes": self.ram_bytes,
            "most_tenants": self.most_tenants,
            "most_sequences": self.most_sequences,
        }


def tenancies(
    spec: ModelSpec, adapter: Adapter, tenants: int, serving: Serving, *, form: str = "bf16", available_bytes: int | None = None
) -> tuple[Tenancy, ...]:
    """The ways of serving so many tenants, merged copies first. vLLM is left out where it cannot serve the adapter.

    Args:
        form: of the base under its adapters, and of the copies.
        available_bytes: of the card, if there is one.

    Raises:
        InputError: no tenant, or an unknown form.
    """
    if tenants < 1:
        raise InputError(f"tenants must be at least 1, not {tenants}")
    share = Serving(serving.context_tokens, -(-serving.concurrent // tenants), serving.kv_item_bytes)
    copy, base = (_without_cache(inference_memory(spec, form, each, runtime="transformers")) for each in (share, serving))
    ways = [
        _tenancy(spec, serving, "merged", tenants, 0, copy, 0, available_bytes),
        _tenancy(spec, serving, "peft", tenants, base, 4 * adapter.parameters, 0, available_bytes),
    ]
    if adapter.is_lora:
        base = _without_cache(inference_memory(spec, form, serving, runtime="vllm", gpu_bytes=available_bytes))
        slot = slot_bytes(spec, adapter.rank)
        ways.append(_tenancy(spec, serving, "vllm", tenants, base, slot, 2 * adapter.parameters, available_bytes, slots=serving.concurrent))
    return tuple(ways)


def sequences_that_fit(spec: ModelSpec, memory: InferenceMemory, serving: Serving, available_bytes: int) -> int:
    """How many sequences of the full context the memory holds beside everything else."""
    each = kv_cache_bytes(spec, Serving(serving.context_tokens, 1, serving.kv_item_bytes), runtime=memory.runtime)
    left = available_bytes - (memory.total_bytes - memory.part("kv_cache"))
    return max(0, left // each) if each else 0


def _without_cache(memory: InferenceMemory) -> int:
    return memory.total_bytes - memory.part("kv_cache")


def _tenancy(
    spec: ModelSpec,
    serving: Serving,
    way: Way,
    tenants: int,
    fixed: int,
    each: int,
    ram_each: int,
    available: int | None,
    *,
    slots: int | None = None,
) -> Tenancy:
    cache = kv_cache_bytes(spec, serving)
    one = kv_cache_bytes(spec, Serving(serving.context_tokens, 1, serving.kv_item_bytes))
    held = tenants if slots is None else min(tenants, slots)
    most_tenants = most_sequences = None
    if available is not None:
        room = max(0, (available - fixed - cache) // each) if each else None
        most_tenants = None if room is None or (slots is not None and room >= slots) else room
        most_sequences = max(0, (available - fixed - held * each) // one) if one else None
    further = each if slots is None or tenants < slots else 0
    return Tenancy(way, tenants, held, fixed + held * each + cache, further, tenants * ram_each, most_tenants, most_sequences)
