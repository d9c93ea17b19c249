"""Changes: what would make a recipe fit that does not. Each is priced; they are ranked by how little they give up.

gradient_checkpointing  a quarter of the speed
micro_batch             some speed; accumulation keeps the batch that the optimizer sees
optimizer               nothing that was measured: 8-bit moments, paged to host memory
rank                    capacity that most tasks do not use
quantization            a little accuracy, a little speed
seq_len                 the ends of long examples
method                  full fine-tuning becomes LoRA
offload                 much speed, which is not priced, and host memory
gpus                    money: more of the same, the model divided
gpu                     money: another one
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

from ftadvise.advisor.candidates import adapter_dtype, compute_dtype, defaults
from ftadvise.advisor.plan_types import Change, ChangeKind, PlanRequest
from ftadvise.advisor.search import Price, host_has_room
from ftadvise.advisor.texts import Text, gib, message
from ftadvise.estimator.cost import with_cost
from ftadvise.estimator.estimate_types import Estimate
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.errors import FtadviseError
from ftadvise.profiles.gpu_cards import GpuCard, all_gpu_cards, card_to_gpu
from ftadvise.profiles.hardware import Gpu, Hardware

Elsewhere = Callable[[Hardware], Price]
_COUNTS = (2, 4, 8, 16)
_FORMS = ("consumer", "datacenter", "workstation")
_OTHER_GPUS = 2


class Machines:
    """Prices on other machines than the plan's."""

    def __init__(self, elsewhere: Elsewhere, hardware: Hardware, request: PlanRequest) -> None:
        self._elsewhere, self._hardware, self._request = elsewhere, hardware, request

    def estimate(self, gpus: tuple[Gpu, ...], recipe: Recipe) -> Estimate | None:
        """The recipe on so many GPUs, at their number format; None where it cannot run."""
        same = gpus == self._hardware.gpus
        hardware = self._hardware if same else dataclasses.replace(self._hardware, gpus=gpus, source="named")
        if "compute_dtype" not in self._request.fixed:
            dtype = compute_dtype(hardware)
            recipe = recipe.replace(compute_dtype=dtype, adapter_dtype=adapter_dtype(recipe.quantization, dtype))
        try:
            return with_cost(self._elsewhere(hardware)(recipe), self._request.job)
        except FtadviseError:
            return None


def changes(base: Estimate, request: PlanRequest, price: Price, machines: Machines | None) -> tuple[Change, ...]:
    """What would make `base` fit: single changes of the recipe, or else the fewest together; then other machines, and if even they do
    not do, other machines for a recipe that gives up everything."""
    found = list(_single(base, price)) or list(_together(base, price))
    if machines is None:
        return tuple(found)
    found += _on_other_machines(base, machines)
    least = None if found else _try(_least(base), price)
    if least is not None:
        words = flags(_difference(base.recipe, least.recipe))
        found = [
            dataclasses.replace(each, text=message("change_also", change=each.text, flags=words))
            for each in _on_other_machines(least, machines)
        ]
    return tuple(found)


def _on_other_machines(base: Estimate, machines: Machines) -> list[Change]:
    return [*_offloaded(base, machines), *_more_gpus(base, machines), *_other_gpus(base, machines)]


def _least(base: Estimate) -> Recipe:
    """The recipe with everything given up that can be."""
    recipe = base.recipe
    for ladder in _LEVERS.values():
        recipe = (ladder(recipe, base) or [recipe])[-1]
    return recipe


def _single(base: Estimate, price: Price) -> Iterator[Change]:
    for kind, ladder in _LEVERS.items():
        for recipe in ladder(base.recipe, base):
            estimate = _try(recipe, price)
            if _good(estimate):
                yield _of_recipe(kind, base, estimate)
                break


def _together(base: Estimate, price: Price) -> Iterator[Change]:
    """All levers at once, in order, until it fits; then those that were not needed are taken back, the dearest first."""
    taken: list[tuple[ChangeKind, Mapping[str, Any]]] = []
    recipe = base.recipe
    for kind, ladder in _LEVERS.items():
        rungs = ladder(recipe, base)
        if not rungs:
            continue
        taken.append((kind, _difference(recipe, rungs[-1])))
        recipe = rungs[-1]
        estimate = _try(recipe, price)
        if not _good(estimate):
            continue
        for each in reversed(taken[:-1]):
            fewer = [other for other in taken if other is not each]
            without = _try(base.recipe.replace(**{k: v for _, values in fewer for k, v in values.items()}), price)
            if _good(without):
                taken, estimate = fewer, without
        yield _of_recipe(taken[-1][0], base, estimate)
        return


def _offloaded(base: Estimate, machines: Machines) -> Iterator[Change]:
    gpus = base.hardware.gpus
    if not gpus or base.recipe.offload != "none":
        return
    full = base.recipe.method == "full"
    for sharding, offload in ((("zero2", "optimizer"),) if full else ()) + (("zero3", "all"),):
        estimate = machines.estimate(gpus, _divisible(base.recipe).replace(sharding=sharding, offload=offload))
        if _good(estimate) and host_has_room(estimate):
            yield _of_recipe("offload", base, estimate)
            return


def _more_gpus(base: Estimate, machines: Machines) -> Iterator[Change]:
    gpus, recipe = base.hardware.gpus, _divisible(base.recipe)
    for count in _COUNTS:
        if not gpus or count <= len(gpus):
            continue
        accumulation = max(1, round(recipe.sequences_per_step * max(1, len(gpus)) / (recipe.micro_batch * count)))
        for sharding in ("zero2", "zero3") if recipe.method == "full" else ("zero3",):
            estimate = machines.estimate(gpus[:1] * count, recipe.replace(sharding=sharding, gradient_accumulation=accumulation))
            if _good(estimate):
                values = {"count": count, "name": gpus[0].name, "sharding": sharding, "high": gib(estimate.memory.high_bytes)}
                yield Change(message("change_gpus", price=_price(gpus[0], count), **values), estimate, "gpus")
                return


def _divisible(recipe: Recipe) -> Recipe:
    """With an optimizer that DeepSpeed has tested."""
    return recipe.replace(optimizer="adamw_torch") if recipe.optimizer.endswith("8bit") else recipe


def _other_gpus(base: Estimate, machines: Machines) -> Iterator[Change]:
    """The cheapest GPU by its list price that does, then the smallest."""
    own = base.hardware.gpu
    recipe = base.recipe.replace(sharding="none", offload="none")
    fitting: list[tuple[Gpu, Estimate]] = []
    for card in sorted(_catalogue(), key=_cheapest):
        if (card.memory_bytes or 0) < base.memory.low_bytes or (own and card.name == own.name):
            continue
        gpu = card_to_gpu(card)
        estimate = machines.estimate((gpu,), recipe)
        if _good(estimate):
            fitting.append((gpu, estimate))
            if gpu.price_usd_per_hour is None or len(fitting) == _OTHER_GPUS:
                break
    for gpu, estimate in fitting:
        values = {"name": gpu.name, "size": gib(gpu.memory_bytes), "high": gib(estimate.memory.high_bytes)}
        yield Change(message("change_other_gpu", price=_price(gpu, 1), **values), estimate, "gpu")


def _catalogue() -> list[GpuCard]:
    """Single GPUs that one can buy or rent and train on."""
    return [
        card
        for card in all_gpu_cards()
        if card.form in _FORMS and card.vendor == "NVIDIA" and card.memory_bytes and card.supports_bitsandbytes
    ]


def _cheapest(card: GpuCard) -> tuple[float, int, str]:
    """By list price of a device, then the smaller."""
    prices = card.price_usd_per_gpu_hour
    return (prices.median_all / card.devices_per_board if prices else float("inf"), card.memory_bytes or 0, card.name)


def _price(gpu: Gpu, count: int) -> Text:
    if gpu.price_usd_per_hour is None:
        return Text("", "")
    total = gpu.price_usd_per_hour * count
    return Text(f", ${total:.2f}/h", f"，每小时 ${total:.2f}")


def _of_recipe(kind: ChangeKind, base: Estimate, estimate: Estimate) -> Change:
    values = {"flag": flags(_difference(base.recipe, estimate.recipe)), "high": gib(estimate.memory.high_bytes)}
    if kind == "offload":
        host = gib(estimate.memory.host_bytes * len(estimate.hardware.gpus))
        return Change(message("change_offload", host=host, **values), estimate, kind)
    return Change(message("change_field", **values), estimate, kind)


def flags(difference: Mapping[str, Any]) -> str:
    """Changed fields as the command line says them."""
    shown = dict(difference)
    if shown.get("quantization") == "nf4":
        shown["method"] = "qlora"
    if "micro_batch" in shown:
        shown.pop("gradient_accumulation", None)
    for field in ("adapter_dtype", "alpha", *(("quantization", "double_quantization") if shown.get("method") == "qlora" else ())):
        shown.pop(field, None)
    names = [(field.name, shown[field.name]) for field in dataclasses.fields(Recipe) if field.name in shown]
    words = [(name.replace("_", "-"), value) for name, value in names]
    return " ".join(f"--{name}" if value is True else f"--no-{name}" if value is False else f"--{name} {value}" for name, value in words)


def _difference(base: Recipe, other: Recipe) -> dict[str, Any]:
    mine, theirs = base.to_dict(), other.to_dict()
    return {name: getattr(other, name) for name in theirs if theirs[name] != mine[name]}


def _good(estimate: Estimate | None) -> TypeGuard[Estimate]:
    """Whether it was priced and the upper end fits."""
    return estimate is not None and estimate.memory.verdict == "fits"


def _try(recipe: Recipe, price: Price) -> Estimate | None:
    try:
        return price(recipe)
    except FtadviseError:
        return None


def _checkpointing(recipe: Recipe, base: Estimate) -> list[Recipe]:
    return [] if recipe.gradient_checkpointing else [recipe.replace(gradient_checkpointing=True)]


def _micro_batch(recipe: Recipe, base: Estimate) -> list[Recipe]:
    found, size = [], recipe.micro_batch
    while size > 1:
        size //= 2
        found.append(recipe.replace(micro_batch=size, gradient_accumulation=max(1, recipe.sequences_per_step // size)))
    return found


def _optimizer(recipe: Recipe, base: Estimate) -> list[Recipe]:
    gpu = base.hardware.gpu
    paged = gpu is not None and gpu.supports_bitsandbytes and recipe.sharding in ("none", "ddp")
    return [recipe.replace(optimizer="paged_adamw_8bit")] if paged and recipe.optimizer.startswith("adamw_torch") else []


def _rank(recipe: Recipe, base: Estimate) -> list[Recipe]:
    found, rank = [], recipe.rank // 2
    while recipe.method != "full" and rank >= defaults()["low_rank"]:
        found.append(recipe.replace(rank=rank, alpha=max(1, recipe.alpha * rank // recipe.rank)))
        rank //= 2
    return found


def _quantization(recipe: Recipe, base: Estimate) -> list[Recipe]:
    gpu = base.hardware.gpu
    if recipe.method == "full" or recipe.quantization in ("nf4", "fp4") or (gpu is not None and not gpu.supports_bitsandbytes):
        return []
    return [_quantized(recipe)]


def _quantized(recipe: Recipe) -> Recipe:
    return recipe.replace(quantization="nf4", double_quantization=True, adapter_dtype=adapter_dtype("nf4", recipe.compute_dtype))


def _seq_len(recipe: Recipe, base: Estimate) -> list[Recipe]:
    found, length = [], recipe.seq_len // 2
    while length >= defaults()["seq_len"]["shortest"]:
        found.append(recipe.replace(seq_len=length))
        length //= 2
    return found


def _method(recipe: Recipe, base: Estimate) -> list[Recipe]:
    if recipe.method != "full":
        return []
    lora = recipe.replace(method="lora", adapter_dtype=adapter_dtype("none", recipe.compute_dtype))
    gpu = base.hardware.gpu
    return [lora, _quantized(lora)] if gpu is None or gpu.supports_bitsandbytes else [lora]


_LEVERS: dict[ChangeKind, Callable[[Recipe, Estimate], list[Recipe]]] = {
    "gradient_checkpointing": _checkpointing,
    "micro_batch": _micro_batch,
    "optimizer": _optimizer,
    "rank": _rank,
    "quantization": _quantization,
    "seq_len": _seq_len,
    "method": _method,
}
"""Each lever makes, of a recipe, ever smaller ones."""
