"""Optimizers and gradient clipping for a traced step on `meta`, taking and releasing what they would on CUDA or on the CPU.

The real classes wherever they work on `meta`, made as the transformers Trainer makes them; a stand-in for the rest: fused AdamW refuses
the device, and paged state is made by a CUDA call. Imports torch: import this module late.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch

from ftadvise.estimator.optimizers import NORM_CHUNK, PAGED_FROM, TrainedTensor
from ftadvise.estimator.recipe import Optimizer

# transformers 5.23 Trainer.get_decay_parameter_names
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")


def make_optimizer(name: Optimizer, model: torch.nn.Module, *, like_cuda: bool) -> torch.optim.Optimizer:
    """The optimizer `name` over the trainable parameters of a model on `meta`.

    Args:
        name: as in Recipe.optimizer.
        model: its parameter names give the two groups, its nn.Embedding modules what 8-bit optimizers keep in fp32.
        like_cuda: AdamW updates all tensors of a dtype together, and paged state is managed memory: not on `meta`, so that no recorder
            counts it, and marked `is_paged`. False: as on the CPU. bitsandbytes kernels take nothing in either case.
    """
    groups = [{"params": [p for _, p in named]} for named in _groups(model)]
    options: dict[str, Any] = {"lr": 1e-4, "weight_decay": 0.0}
    if name == "adamw_torch":
        return torch.optim.AdamW(groups, **options, foreach=like_cuda)
    if name == "adamw_torch_fused":
        return _FusedAdamW(groups, options)
    if name == "sgd":
        return torch.optim.SGD(groups, **options, foreach=like_cuda)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, **options, scale_parameter=False, relative_step=False)
    options |= {"optim_bits": 8 if name.endswith("8bit") else 32, "is_paged": name.startswith("paged") and like_cuda}
    return _bitsandbytes(name, {id(p) for p in _embedding_weights(model)}, groups, options)


def clip_grad_norm_(parameters: Iterable[torch.nn.Parameter], max_norm: float, *, like_cuda: bool) -> torch.Tensor:
    """torch.nn.utils.clip_grad_norm_ as it runs on CUDA and the CPU, all gradients of a dtype together (it refuses that on `meta`).

    The CUDA kernel's workspace is one fp32 per tensor and chunk of the largest tensor.
    """
    trained = [p for p in parameters if p.grad is not None]
    norms: list[torch.Tensor] = []
    with torch.no_grad():
        for dtype in dict.fromkeys(p.grad.dtype for p in trained):
            grads = [p.grad for p in trained if p.grad.dtype == dtype]
            chunks = -(-max(grad.numel() for grad in grads) // NORM_CHUNK)
            workspace = grads[0].new_empty(len(grads) * chunks, dtype=torch.float32) if like_cuda else None
            norms.extend(torch._foreach_norm(grads, 2.0))
            del workspace
        total = torch.linalg.vector_norm(torch.stack(norms), 2.0)
        del norms
    torch.nn.utils.clip_grads_with_norm_(trained, max_norm, total)
    return total


def trained_tensors(model: torch.nn.Module) -> list[TrainedTensor]:
    """The trainable parameters of a model, in the order of their update, as `optimizer_memory` takes them."""
    embeddings = {id(p) for p in _embedding_weights(model)}
    return [
        TrainedTensor.of_shape(p.shape, p.element_size(), decays=decays, embedding=id(p) in embeddings)
        for named, decays in zip(_groups(model), (True, False), strict=True)
        for _, p in named
    ]


def _groups(model: torch.nn.Module) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """(names and parameters that decay, the others): the Trainer's two parameter groups."""
    exempt = {f"{name}." for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    decayed: list[tuple[str, Any]] = []
    others: list[tuple[str, Any]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_exempt = _NO_DECAY.search(name.lower()) or name[: name.rfind(".") + 1] in exempt
            (others if is_exempt else decayed).append((name, parameter))
    return decayed, others


def _embedding_weights(model: torch.nn.Module) -> Iterable[torch.nn.Parameter]:
    return (module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding))


class _FusedAdamW(torch.optim.Optimizer):  # type: ignore[misc]
    """AdamW(fused=True): state as torch makes it, counters on the device, and an update without temporaries."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and not self.state[p]:
                    self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                    self.state[p]["exp_avg_sq"] = torch.zeros_like(p)


def _bitsandbytes(name: str, embeddings: set[int], groups: list[dict[str, Any]], options: dict[str, Any]) -> torch.optim.Optimizer:
    from bitsandbytes import optim

    paged = options.pop("is_paged")
    base: Any = optim.Lion if name.startswith("lion") else optim.AdamW

    class OnMeta(base):  # type: ignore[misc]
        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            # the Trainer overrides the bits of embeddings in a process-wide registry, by id, which outlives models
            config: dict[str, Any] = super().get_config(gindex, pindex, group)
            return config | {"optim_bits": 32 if id(group["params"][pindex]) in embeddings else self.args.optim_bits}

        def get_state_buffer(self, p: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            if not paged or p.numel() < PAGED_FROM:
                return torch.zeros_like(p, dtype=dtype)
            buffer = torch.zeros((), dtype=dtype, device="cpu").expand(p.shape)  # managed memory: no storage of the traced device's
            buffer.is_paged = True
            return buffer

        def prefetch_state(self, p: torch.Tensor) -> None:
            pass

    return OnMeta(groups, **options)
