"""Several GPUs: what one of them holds under DDP, DeepSpeed ZeRO 1-3 and FSDP, with or without offload to host memory. Bytes.

T trained elements, n GPUs; activations are each GPU's own (data parallel).

    ddp      everything on each GPU, and the reducer's buckets, as large as the gradients (gradient_as_bucket_view is off by default).
    fsdp     parameters, gradients and optimizer state / n. Under autocast accelerate holds trained parameters in fp32 and gathers 16-bit
             ones, so gradients and moments are fp32. Quantisation constants are no parameters: whole on each GPU. What is gathered and
             when is on the tape (tape/gather.py). Gradients accumulate whole, in 16 bit, over micro batches (no_sync).
    zero1    16-bit parameters and gradients whole; fp32 master copy and optimizer state of T / n; two reduce buckets (overlap_comm, as in
             transformers' examples) of hidden_size squared elements ("auto"). The step turns this GPU's gradients into fp32.
    zero2    gradients / n as well.
    zero3    parameters / n as well; one bucket; up to stage3_max_live_parameters are gathered; the step goes by groups of 1e9 elements.
    offload  DeepSpeed: master copy, state and the gradients' partition ("optimizer"), the parameters' partition ("parameters", zero3), or
             both. FSDP has one switch: parameters, gradients and optimizer together.

DeepSpeed holds the whole model, adapters included, in the compute dtype and runs without autocast.

Sources: torch 2.13 nn/parallel/distributed.py, distributed/fsdp/_runtime_utils.py; accelerate accelerator.py (FSDP upcast, no_sync); TRL
0.13 to 0.26 trainer/sft_trainer.py (is_sharded_qlora: no preparation); deepspeed 0.17.0 runtime/zero/stage_1_and_2.py (backward_prologue,
step), stage3.py (grad_partitions_flat_buffer, _prepare_sub_group), config.py, engine.py (module.bfloat16); transformers 5.23
integrations/deepspeed.py. Published two- and four-GPU runs: tests/estimator/test_sharding.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.optimizers import OptimizerMemory, TrainedTensor, optimizer_memory
from ftadvise.estimator.recipe import DTYPE_BYTES, Recipe
from ftadvise.estimator.static_memory import StaticMemory, static_memory
from ftadvise.estimator.tape.build import Setting, StepProfile, step_profile
from ftadvise.estimator.tape.decoders import decoder_of
from ftadvise.estimator.tape.gather import Gather
from ftadvise.estimator.tape.profile import Vector
from ftadvise.estimator.tape.step import layer_times
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import GIB, Hardware
from ftadvise.profiles.model_spec import ModelSpec

MAX_LIVE_PARAMETERS = SUB_GROUP = 1_000_000_000
"""DeepSpeed's stage3_max_live_parameters and sub_group_size (elements), defaults and transformers' examples. That many parameters are
gathered at most; all of them counts as gathered: an upper moment."""
_FSDP2_SINCE = (5, 12)
"""The Trainer's default `fsdp_config["version"]`: 1 in transformers 5.6.0, 2 in 5.12.0 and 5.18.0 (training_args.py)."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one GPU holds, in bytes.

    Attributes:
        profile: the step, with what is gathered on its way.
        static: weights, adapters, gradients (at the optimizer's step) and optimizer, this GPU's part.
        run: what the tape was recorded from, where that is not the recipe, stack and setting as they were given.
        held_gradients: beside the tape's, through forward and backward.
        buffers: copies of gradients on their way to the other GPUs, all the time.
        gathered: whole parameters, outside the optimizer's step, where the tape does not have them.
        host_bytes: in pinned host memory, per GPU.
    """

    profile: StepProfile
    static: StaticMemory
    held_gradients: int
    run: tuple[Recipe, Stack, Setting] | None = None
    buffers: int = 0
    gathered: int = 0
    host_bytes: int = 0
    notes: tuple[str, ...] = ()


def check_sharding(hardware: Hardware, recipe: Recipe) -> None:
    """Raise InputError where sharding, offload, quantisation and the number of GPUs contradict each other."""
    sharding, offload = recipe.sharding, recipe.offload
    if sharding == "none":
        if offload != "none":
            raise InputError(
                f"offload {offload} is done by DeepSpeed or FSDP, not without sharding", hint="use --sharding zero2, zero3 or fsdp"
            )
        return
    if not hardware.gpus and (hardware.devices == 1 or sharding not in ("ddp", "fsdp")):
        raise InputError(f"sharding {sharding} needs CUDA GPUs", hint="use --sharding none")
    if hardware.devices == 1 and sharding in ("ddp", "fsdp"):
        raise InputError(
            f"sharding {sharding} needs several GPUs, and there is one",
            hint=f"name several: --gpu '2x {hardware.gpus[0].name}', or --sharding none",
        )
    if sharding == "ddp" and offload != "none":
        raise InputError("DDP offloads nothing", hint="use --sharding zero2, zero3 or fsdp")
    if sharding in ("zero1", "zero2") and offload in ("parameters", "all"):
        raise InputError(
            f"{sharding} holds all parameters on each GPU: it cannot offload them", hint="use --sharding zero3, or --offload optimizer"
        )
    if sharding in ("zero3", "fsdp") and recipe.quantization == "int8":
        raise InputError(f"LLM.int8 weights cannot be sharded by {sharding}", hint="use --quantization nf4, or --sharding zero2")


def share(
    spec: ModelSpec,
    hardware: Hardware,
    recipe: Recipe,
    stack: Stack,
    setting: Setting,
    profile: StepProfile,
    static: StaticMemory,
    values: Vector,
) -> Share:
    """What one of the GPUs holds; `profile` and `static` are those of one GPU alone."""
    gpus, device = hardware.devices, "cuda" if hardware.gpus else "cpu"
    if recipe.sharding == "ddp":
        return Share(profile, static, static.gradients if recipe.gradient_accumulation > 1 else 0, buffers=static.gradients)
    if recipe.sharding == "fsdp":
        return _fsdp(spec, recipe, stack, setting, values, gpus, device)
    return _zero(spec, recipe, stack, setting, values, gpus)


def fsdp_version(stack: Stack) -> int:
    """1 or 2: what the Trainer of this stack's transformers uses unless it is told."""
    version = stack.versions.get("transformers", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    return 2 if not numbers or numbers >= _FSDP2_SINCE else 1


def _fsdp(spec: ModelSpec, recipe: Recipe, stack: Stack, setting: Setting, values: Vector, gpus: int, device: str) -> Share:
    full, product = recipe.method == "full", DTYPE_BYTES[recipe.compute_dtype]
    mixed = stack.autocast and recipe.compute_dtype != "fp32"
    version = fsdp_version(stack)
    # a layer's parameters share one dtype: TRL does not prepare such a model; accelerate casts what is trained, in the shards only
    held_stack = dataclasses.replace(stack, kbit_upcast="none", full_dtype="fp32" if mixed else "compute")
    held_recipe = recipe.replace(adapter_dtype="fp32") if mixed and not full else recipe
    run_stack = dataclasses.replace(held_stack, full_dtype="compute")
    run_recipe = recipe.replace(adapter_dtype=recipe.compute_dtype) if mixed and not full else recipe
    root, layers = _gathered_bytes(spec, step_profile(spec, run_recipe, run_stack, setting), product)
    reentrant = stack.reentrant_checkpoints and recipe.gradient_checkpointing
    gather = Gather(
        gpus,
        root,
        layers,
        forward_copies=version,
        ahead=version == 2 or not reentrant,
        keeps_inputs=version == 1 and reentrant and not full,
        gradient_item=4 if mixed else 0,
        keeps_gradients=version == 1 or recipe.offload == "none",
    )
    profile = step_profile(spec, run_recipe, run_stack, dataclasses.replace(setting, gather=gather))
    held_profile = step_profile(spec, held_recipe, held_stack, setting)
    held = static_memory(spec, held_recipe, held_stack, held_profile, values, device=device)
    tensors = tuple(_slice(tensor, gpus, by_rows=version == 2) for tensor in held.trained)
    offloads = recipe.offload != "none"
    trained = sum(tensor.elements * tensor.count for tensor in held.trained)
    optimizer = optimizer_memory(recipe.optimizer, () if offloads else tensors, device=device)
    weights, adapters, gradients = (_part(size, gpus) for size in (held.weights, held.adapters, held.gradients))
    on_host = weights + adapters + gradients + optimizer_memory(recipe.optimizer, tensors, device="cpu").state_bytes
    # over micro batches gradients are not reduced: they accumulate whole, in the dtype that backward makes
    item = product if mixed or full else DTYPE_BYTES[recipe.adapter_dtype]
    part = dataclasses.replace(held, weights=weights, adapters=adapters, gradients=gradients, trained=tensors, optimizer=optimizer)
    if offloads:
        part = dataclasses.replace(part, weights=0, adapters=0, gradients=0)
    together = ("FSDP offloads parameters, gradients and optimizer together",) if recipe.offload in ("optimizer", "parameters") else ()
    return Share(
        profile,
        part,
        held_gradients=trained * item if recipe.gradient_accumulation > 1 else 0,
        run=(run_recipe, run_stack, dataclasses.replace(setting, gather=gather)),
        host_bytes=on_host if offloads else 0,
        notes=together + (_host_note(on_host) if offloads else ()),
    )


def _zero(spec: ModelSpec, recipe: Recipe, stack: Stack, setting: Setting, values: Vector, gpus: int) -> Share:
    stage, item = int(recipe.sharding[-1]), DTYPE_BYTES[recipe.compute_dtype]
    plain = dataclasses.replace(stack, autocast=False, full_dtype="compute", kbit_upcast="none")
    narrow = recipe.replace(adapter_dtype=recipe.compute_dtype)
    whole = static_memory(spec, narrow, plain, step_profile(spec, narrow, plain, setting), values, device="cuda")
    partition = _part(whole.trainable_parameters, gpus)
    parameters = whole.weights + whole.adapters
    flat = (TrainedTensor.of_shape((partition,), 4),)
    at_once = min(partition, SUB_GROUP) if stage == 3 else partition
    optimizer = optimizer_memory(recipe.optimizer, flat, device="cuda")
    temporaries = optimizer_memory(recipe.optimizer, (TrainedTensor.of_shape((at_once,), 4),), device="cuda").step_peak_bytes
    gradients = partition * item if stage >= 2 else whole.gradients
    offloads_optimizer, offloads_parameters = recipe.offload in ("optimizer", "all"), recipe.offload in ("parameters", "all")
    host = 0
    if offloads_optimizer:
        host = 4 * partition + partition * item + optimizer.state_bytes + optimizer.state_paged_bytes
        optimizer = OptimizerMemory(0, 0, 0, 0, 0)
        gradients, step_gradients = (0 if stage >= 2 else gradients), 0
    else:
        # the gradients of what is updated, joined, then in fp32; the narrow ones go before the update, but for stage 3's buffer
        step_gradients = 4 * at_once + (gradients if stage == 3 else 0)
        optimizer = dataclasses.replace(
            optimizer,
            state_bytes=optimizer.state_bytes + 4 * partition,
            step_peak_bytes=max(temporaries, 2 * at_once * item),
            clip_peak_bytes=0,
        )
    weights, adapters = whole.weights, whole.adapters
    if stage == 3:
        weights, adapters = (0, 0) if offloads_parameters else (_part(weights, gpus), _part(adapters, gpus))
        host += _part(parameters, gpus) if offloads_parameters else 0
    accumulates = stage >= 2 or recipe.gradient_accumulation > 1
    # partitioned gradients leave the tape as they arrive; stage 1 holds them as one GPU alone does
    running = narrow.replace(gradient_accumulation=max(2, recipe.gradient_accumulation)) if accumulates else narrow
    return Share(
        step_profile(spec, running, plain, setting),
        dataclasses.replace(whole, weights=weights, adapters=adapters, gradients=step_gradients, trained=flat, optimizer=optimizer),
        held_gradients=gradients if accumulates else 0,
        run=(running, plain, setting),
        buffers=(1 if stage == 3 else 2) * spec.hidden_size**2 * item,
        gathered=min(MAX_LIVE_PARAMETERS * item, parameters) if stage == 3 else 0,
        host_bytes=host,
        notes=_host_note(host) if host else (),
    )


def _gathered_bytes(spec: ModelSpec, profile: StepProfile, item: int) -> tuple[int, tuple[int, ...]]:
    """(outside the layers, of each layer): linear layers as the tape met them; norms, biases and the like spread evenly."""
    decoder = decoder_of(spec)
    times = layer_times(decoder, spec)
    by_kind: dict[str, dict[int, int]] = {}
    elements = 0
    for linear in profile.linears:
        if linear.layer < 0:
            continue
        count = linear.count // times.get(linear.layer, 1)
        size = linear.weight_elements * (1 if linear.quantized else 2 * item)  # in half bytes
        found = by_kind.setdefault(decoder.kind(spec, linear.layer), {})
        found[linear.layer] = found.get(linear.layer, 0) + count * size // 2
        elements += linear.count * linear.weight_elements
    outside = min(spec.total_params - elements, spec.vocab_size * spec.hidden_size * (1 if spec.tie_word_embeddings else 2))
    rest = max(0, spec.total_params - elements - outside) * item // spec.num_layers
    layers = tuple(rest + max(by_kind.get(decoder.kind(spec, index), {0: 0}).values()) for index in range(spec.num_layers))
    return max(0, outside) * item, layers


def _host_note(size: int) -> tuple[str, ...]:
    return (f"offload holds {size / GIB:.1f} GiB of host memory for each GPU",)


def _slice(tensor: TrainedTensor, gpus: int, *, by_rows: bool) -> TrainedTensor:
    """One GPU's part: rows of a matrix (FSDP2), or a stretch of the flat parameter (FSDP1)."""
    if by_rows and tensor.columns:
        rows = _part(tensor.elements // tensor.columns, gpus)
        return dataclasses.replace(tensor, elements=rows * tensor.columns, rows=rows)
    return dataclasses.replace(tensor, elements=_part(tensor.elements, gpus), rows=0, columns=0)


def _part(size: int, gpus: int) -> int:
    return -(-size // gpus)
