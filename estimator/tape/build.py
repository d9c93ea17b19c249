"""From a model, a recipe and a stack to the profile of its training step. Cached by structure: what changes the order of events.

Tokens, rank, learning rates and the like are not structure: thousands of recipes share a few profiles.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.tape.context import Context, LinearLayer, TrainedParameter
from ftadvise.estimator.tape.core import Event, Tape
from ftadvise.estimator.tape.decoders import decoder_of
from ftadvise.estimator.tape.experts import converted_names
from ftadvise.estimator.tape.gather import Gather, Gathered
from ftadvise.estimator.tape.linear import Int4Kernel
from ftadvise.estimator.tape.methods import adapter_of
from ftadvise.estimator.tape.profile import Profile, profile_of
from ftadvise.estimator.tape.step import evaluation_step, layer_times, training_step
from ftadvise.estimator.tape.work import StepWork, work_of
from ftadvise.profiles.model_spec import ModelSpec

_CACHE_SIZE = 512
_cache: OrderedDict[tuple[object, ...], StepProfile] = OrderedDict()


@dataclass(frozen=True)
class StepProfile:
    """One structure: the training step, the evaluation pass, and the parameters that were met on the way."""

    training: Profile
    _record_evaluation: Callable[[], Profile]
    _count_work: Callable[[], StepWork]
    linears: tuple[LinearLayer, ...]
    """`count` over all layers."""
    trained: tuple[tuple[TrainedParameter, int], ...]
    """Each with how many layers have it."""
    static: dict[tuple[object, ...], Any] = field(default_factory=dict)
    """Static terms that were summed already, by what they depend on."""

    @functools.cached_property
    def evaluation(self) -> Profile:
        """A forward pass without gradients; recorded when it is asked for."""
        return self._record_evaluation()

    @functools.cached_property
    def work(self) -> StepWork:
        """Products, traffic and operations of the training step; added up when it is asked for."""
        return self._count_work()

    @functools.cached_property
    def trained_tensors(self) -> int:
        """How many parameters are trained."""
        return sum(count for _, count in self.trained)

    @functools.cached_property
    def trained_widths(self) -> dict[tuple[str, int], int]:
        """Of all trained parameters: elements per unit of a quantity, by quantity and bytes per element."""
        widths: dict[tuple[str, int], int] = {}
        for parameter, count in self.trained:
            key = (parameter.rows, parameter.item)
            widths[key] = widths.get(key, 0) + parameter.width * count
        return widths


@dataclass(frozen=True, slots=True)
class Setting:
    """What the device and the batch decide. `kernel`: the attention kernel; `masked`: lengths differ; `single`: one sequence;
    `windowed`: the sequence reaches the model's sliding window.
    """

    kernel: str
    masked: bool
    single: bool
    like_cuda: bool
    windowed: bool = False
    gather: Gather | None = None
    """What is gathered, when the parameters are sharded."""


class _BySpec:
    """A model as a cache key: hashed by its id, because hashing forty fields costs more than an estimate, and compared as a whole."""

    __slots__ = ("spec",)

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return hash(self.spec.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BySpec) and (self.spec is other.spec or self.spec == other.spec)


def step_profile(spec: ModelSpec, recipe: Recipe, stack: Stack, setting: Setting) -> StepProfile:
    """The profile of this structure; built once."""
    # flags besides the name: a stack may be asked for with some of them changed
    flags: tuple[object, ...] = (stack.autocast, stack.full_dtype, stack.kbit_upcast, stack.keeps_logits, stack.reentrant_checkpoints)
    flags += (stack.quantizes_head, stack.keeps_4bit_inputs, stack.expands_4bit_to_fp16, stack.keeps_last_step)
    key = (_BySpec(spec), _structure(recipe), stack.name, tuple(stack.versions.items()), flags, setting)
    found = _cache.get(key)
    if found is None:
        collects = gc.isenabled()
        gc.disable()  # a tape has no cycles: looking for them costs a tenth
        try:
            found = _cache[key] = _build(spec, recipe, stack, setting)
        finally:
            if collects:
                gc.enable()
        if len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    return found


def _structure(recipe: Recipe) -> tuple[object, ...]:
    return (
        recipe.method,
        recipe.quantization,
        recipe.compute_dtype,
        recipe.adapter_dtype,
        recipe.dropout > 0,
        recipe.target_modules,
        recipe.high_precision_modules,
        recipe.gradient_accumulation > 1,
        recipe.gradient_checkpointing,
        recipe.loss,
    )


def context(spec: ModelSpec, recipe: Recipe, stack: Stack, setting: Setting) -> Context:
    """What the layer functions of this structure are called with."""
    product = DTYPE_BYTES[recipe.compute_dtype]
    quantized, full = recipe.quantization != "none", recipe.method == "full"
    upcast = stack.kbit_upcast if quantized else "none"
    parameter = 4 if full and stack.full_dtype == "fp32" else product
    hidden = 4 if upcast == "all" else parameter
    return Context(
        t=Tape(reentrant=stack.reentrant_checkpoints, offloads=stack.offloads_checkpoints),
        spec=spec,
        recipe=recipe,
        hidden=hidden,
        product=product,
        parameter=parameter,
        norm=4 if upcast != "none" else hidden,
        head=hidden,
        autocast=product if stack.autocast and recipe.compute_dtype != "fp32" else 0,
        kernel=setting.kernel,
        masked=setting.masked or (recipe.method == "prefix" and recipe.attention != "flash_attention_2"),
        like_cuda=setting.like_cuda,
        fused=stack.kernels(quantized=quantized),
        expert_modules=stack.expert_modules,
        quantizes_head=stack.quantizes_head,
        constant_ranks=stack.constant_ranks,
        unquantizable=decoder_of(spec, stack.model_code).own_linears and not stack.quantizes_subclasses,
        int4=Int4Kernel(stack.keeps_4bit_inputs, stack.expands_4bit_to_fp16 and recipe.compute_dtype != "fp16"),
        single_sequence=setting.single,
        windowed=setting.windowed,
        on_parameters=converted_names(spec, recipe),
        adapt=adapter_of(recipe, stack.model_code),
        gathered=Gathered(setting.gather) if setting.gather else None,
    )


def record_step(spec: ModelSpec, recipe: Recipe, stack: Stack, setting: Setting) -> tuple[tuple[Event, ...], tuple[tuple[int, str], ...]]:
    """(events, phases) of a training step with every layer written out. Gradients are still held at the end."""
    ctx = context(spec, recipe, stack, setting)
    before = context(spec, recipe, stack, setting) if stack.keeps_last_step else None
    decoder, kernel = decoder_of(spec, stack.model_code), stack.loss_kernel(recipe.loss)
    training_step(ctx, decoder, kernel, keeps_logits=stack.keeps_logits, compress=False, before=before)
    return tuple(ctx.t.events), tuple(ctx.t.phases)


def _build(spec: ModelSpec, recipe: Recipe, stack: Stack, setting: Setting) -> StepProfile:
    decoder = decoder_of(spec, stack.model_code)
    ctx, kernel = context(spec, recipe, stack, setting), stack.loss_kernel(recipe.loss)
    before = context(spec, recipe, stack, setting) if stack.keeps_last_step else None
    training_step(ctx, decoder, kernel, keeps_logits=stack.keeps_logits, before=before)
    times = layer_times(decoder, spec)
    linears = tuple(dataclasses.replace(each, count=each.count * times.get(each.layer, 1)) for each in ctx.linears.values())
    trained = tuple((each, times.get(each.layer, 1)) for each in ctx.trained.values())

    def record_evaluation() -> Profile:
        quiet = context(spec, recipe, stack, setting)
        quiet.single_sequence = stack.eval_micro_batch == 1 if stack.eval_micro_batch else setting.single
        evaluation_step(quiet, decoder, kernel)
        return profile_of(quiet.t)

    return StepProfile(profile_of(ctx.t), record_evaluation, functools.partial(work_of, ctx.t), linears, trained)
