"""Training steps in the shape of transformers' Trainer, on meta tensors under a recorder. Imports torch: import late."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch.autograd.graph import _engine_run_backward

from ftadvise.estimator.activations import Batch
from ftadvise.estimator.device_memory import matmul_workspace_bytes
from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.peft_settings import orthogonality_penalty
from ftadvise.estimator.recipe import Recipe
from ftadvise.estimator.storage_recorder import StorageRecorder
from ftadvise.estimator.trace import losses
from ftadvise.estimator.trace.build_model import build_base, load, prepare, torch_dtype
from ftadvise.estimator.trace.emulation import Emulation
from ftadvise.estimator.trace.modules import ModuleTracker
from ftadvise.estimator.trace.optimizer_stand_ins import clip_grad_norm_, make_optimizer
from ftadvise.estimator.trace.replay import Replay
from ftadvise.estimator.trace.stand_ins import handlers, patches, scratch
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec

_MICRO_BATCHES = 2
"""Of an accumulated step: the first finds no gradients, the second holds them; further ones repeat the second."""


class TracedTraining:
    """One model in training. `step`, `evaluate` and `save` may be called inside `emulated()`."""

    def __init__(
        self, spec: ModelSpec, hardware: Hardware, recipe: Recipe, stack: Stack, batch: Batch, *, autocast: bool | None,
        trust_remote_code: bool,
    ) -> None:  # fmt: skip
        gpu = hardware.gpu
        self.device = "cuda" if gpu else "cpu"
        self.batch, self.recipe, self.stack = batch, recipe, stack
        self.notes: list[str] = []
        self.recorder = StorageRecorder("meta", scratch(self.device), Replay())
        half = recipe.compute_dtype != "fp32"
        self.autocast = half and (stack.autocast if autocast is None else autocast)
        self.padding_free = recipe.packing and stack.packs_into_one_row
        self._kernel = stack.loss_kernel(recipe.loss)
        self._emulation = Emulation(
            self.device,
            torch_dtype(recipe.compute_dtype) if self.autocast else None,
            handlers(self.device, gpu.compute_capability if gpu else None),
        )
        self._matmul_workspace_bytes = matmul_workspace_bytes(gpu) // 2  # one for each thread that multiplies
        self._has_workspace: set[str] = set()
        self._averages: list[torch.Tensor] = []
        base = build_base(spec, recipe, self.notes, trust_remote_code=trust_remote_code)
        self.vocab_size = base.get_input_embeddings().weight.shape[0]
        with self._emulation:
            load(base, recipe, self.recorder)
            self.model = prepare(base, recipe, stack, self.recorder, like_cuda=self.device == "cuda")
        self.base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else base
        self._set_up_checkpointing()
        self._set_up_loss()
        self._accelerate()
        self.optimizer = make_optimizer(recipe.optimizer, self.model, like_cuda=self.device == "cuda")
        self._tracker = ModuleTracker(self.model, self.recorder)

    @contextmanager
    def emulated(self) -> Iterator[None]:
        """Everything that a step needs to run on meta as on the emulated device."""
        packed = self.padding_free
        with (
            warnings.catch_warnings(),
            patches(self.device, masked=self.batch.masked, packed=packed),
            self._tracker,
            self._emulation,
            self.recorder,
        ):
            warnings.simplefilter("ignore")
            self._hook_decoder()
            yield

    def step(self) -> None:
        """One optimizer step: forward and backward passes, clipping, update."""
        recorder, recipe = self.recorder, self.recipe
        self.model.train()
        self._enter("forward")
        micro_batches = [self._inputs(self.batch.sequences) for _ in range(min(recipe.gradient_accumulation, _MICRO_BATCHES))]
        further = recipe.gradient_accumulation - len(micro_batches)
        waiting = recorder.take(further * sum(x.nbytes for x in micro_batches[0].values()), "workspace", "inputs") if further else None
        for inputs in micro_batches:
            self._enter("forward")
            loss = self._loss_of(self.model, inputs)
            self._enter("backward", keep_label=True)
            _run_backward(loss)
            del loss
            recorder.adopt(self._gradients(), "gradients")
        self._tracker.leave()
        self._enter("optimizer_step")
        if recipe.max_grad_norm:
            clip_grad_norm_(self.model.parameters(), recipe.max_grad_norm, like_cuda=self.device == "cuda")
        self.optimizer.step()
        recorder.adopt((v for state in self.optimizer.state.values() for v in state.values() if torch.is_tensor(v)), "optimizer_state")
        if recipe.method == "adalora":
            self._weigh_ranks()
        self.model.zero_grad()
        if waiting is not None:
            recorder.release(waiting)

    def evaluate(self, sequences: int) -> None:
        """One evaluation pass: no graph, the loss as in training."""
        self.model.eval()
        self._enter("evaluation")
        inputs = self._inputs(sequences)
        with torch.no_grad():
            self._loss_of(self.model, inputs)

    def save(self) -> None:
        """Saving copies tensors to the host one by one: nothing new on the device (transformers and peft save_pretrained)."""
        self._enter("save")
        self.recorder.release(self.recorder.take(512, "workspace", "save"))

    def parameter_counts(self) -> dict[str, int]:
        """Elements that are trained, and all of them; packed 4-bit weights count as what they stand for."""
        counts = [0, 0]
        for parameter in self.model.parameters():
            state = getattr(parameter, "quant_state", None)
            elements = state.shape.numel() if state is not None else parameter.numel()
            counts[0] += elements if parameter.requires_grad else 0
            counts[1] += elements
        return {"trainable_parameters": counts[0], "parameters": counts[1]}

    def _weigh_ranks(self) -> None:
        """AdaLoRA's running averages of every trained element."""
        if not self._averages:
            trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            self._averages = [torch.zeros_like(parameter) for parameter in trained for _ in range(2)]
            self.recorder.adopt(self._averages, "optimizer_state")

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]

    def _enter(self, phase: str, *, keep_label: bool = False) -> None:
        self.recorder.phase = phase
        if not keep_label:
            self.recorder.label = "workspace" if phase == "optimizer_step" else "activations"
        if phase in ("forward", "backward") and self._matmul_workspace_bytes and phase not in self._has_workspace:
            # one handle, and so one workspace, for each thread that multiplies
            self._has_workspace.add(phase)
            self.recorder.take(self._matmul_workspace_bytes, "workspace", "cublas")

    def _inputs(self, sequences: int) -> dict[str, torch.Tensor]:
        """What the collator makes and the data loader moves to the device: int64 all."""
        shape = (sequences, self.batch.seq_len)
        names = ["input_ids", "labels", "position_ids" if self.padding_free else "attention_mask"]
        tensors = {name: torch.empty(shape, dtype=torch.int64, device="meta") for name in names}
        self.recorder.adopt(tensors.values(), "workspace")
        return tensors

    def _loss_of(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if self.recipe.attention == "flash_attention_2" and not self.batch.masked:
            inputs = {name: tensor for name, tensor in inputs.items() if name != "attention_mask"}
        tiles = self._kernel.kind == "tiles"
        loss: torch.Tensor = (losses.fused if tiles else losses.full)(model, inputs)
        if tiles and self.recipe.method == "adalora" and model.training:  # elsewhere the model has added it to the loss it returned
            penalty = orthogonality_penalty(self.model)
            loss = loss + (penalty - penalty.detach())
        return loss

    def _set_up_checkpointing(self) -> None:
        if not self.recipe.gradient_checkpointing:
            return
        again = functools.partial(self._emulation.checkpoint, use_reentrant=self.stack.reentrant_checkpoints)
        self.base._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=again)
        if self.recipe.method != "full":
            self.model.enable_input_require_grads()

    def _set_up_loss(self) -> None:
        kernel = self._kernel
        if kernel.kind == "tiles":
            losses.install_fused(self.base)
        elif kernel.kind == "recomputed_chunks":
            losses.install_chunked(self.base, self._emulation, chunk_tokens=kernel.chunk_tokens, fp32_projection=kernel.fp32_projection)
        elif kernel.copies_shifted:
            self.base.loss_function = losses.shifting_loss

    def _accelerate(self) -> None:
        """accelerate's prepare_model: the forward pass under autocast, its half-precision outputs cast to fp32."""
        if not self.autocast:
            return
        from accelerate.utils.operations import convert_to_fp32

        forward, emulation = self.model.forward, self._emulation

        def under_autocast(_model: Any, *args: Any, **kwargs: Any) -> Any:
            with emulation.autocast():
                output = forward(*args, **kwargs)
            return convert_to_fp32(output)

        self.model.forward = MethodType(under_autocast, self.model)

    def _hook_decoder(self) -> None:
        """What is made after the decoder stack, until its output has its gradient, belongs to the loss."""
        recorder = self.recorder

        def loss_is_done(_gradient: Any) -> None:
            recorder.label = "activations"

        def decoder_ends(_module: Any, _args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
            recorder.label = "loss"
            if hidden.requires_grad:
                hidden.register_hook(loss_is_done)

        self.base.base_model.register_forward_hook(decoder_ends)


def _run_backward(loss: torch.Tensor) -> None:
    """`loss.backward()` without its function-mode dispatch, for which the mode would step aside during the whole pass."""
    _engine_run_backward((loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True)
