"""The forward pass and the loss of one micro batch, in the shape of the training code's own. Imports torch: import late.

What lives how long follows from which function holds it, so the calls are nested as in the libraries that each comment names.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from ftadvise.estimator.trace.emulation import Emulation

LossOf = Callable[[Any, dict[str, Any]], torch.Tensor]


def fused(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """TRL >= 1.15, SFTTrainer.compute_loss; the head was added with `install_fused`."""
    outputs = model(**inputs, use_cache=False, fused_lm_head=True)
    per_token_loss = -outputs.log_probs
    loss = per_token_loss.sum() / inputs["labels"].shape[-1]
    outputs.entropy.detach().sum()
    outputs.is_top1.sum()
    return loss


def full(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """transformers >= 5, Trainer.compute_loss: the model computes its loss; the output is dropped when this returns."""
    return model(**inputs, use_cache=False).loss


def chunked(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """TRL 1.7 to 1.14; the forward was replaced with `install_chunked`."""
    return model(**inputs, use_cache=False).loss


def install_fused(base: Any) -> None:
    """TRL's own patch of the model, with the outputs that SFTTrainer asks for."""
    from trl.trainer.utils import add_fused_lm_head

    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))


def install_chunked(base: Any, emulation: Emulation, *, chunk_tokens: int, fp32_projection: bool) -> None:
    """As trl 1.14 sft_trainer.py, _patch_chunked_ce_lm_head: valid tokens first, `chunk_tokens` at a time, each chunk checkpointed.

    `fp32_projection`: up to trl 1.12 the chunk and the head are multiplied in fp32.
    """
    from transformers.modeling_outputs import CausalLMOutputWithPast

    def chunk(h: Any, w: Any, b: Any, labels: Any) -> Any:
        logits = h.float() @ w.float().t() if fp32_projection else (h @ w.to(h.dtype).t()).float()
        if b is not None:
            logits = logits + b.float()
        log_p = F.log_softmax(logits, dim=-1)
        loss = F.nll_loss(log_p, labels, ignore_index=-100, reduction="sum")
        valid = labels != -100
        correct = ((logits.argmax(dim=-1) == labels) & valid).sum().float()
        return loss, correct, (-(log_p.exp() * log_p).sum(dim=-1) * valid).sum()

    def forward(labels: Any, use_cache: bool = False, **inputs: Any) -> Any:
        hidden_states = base.base_model(use_cache=use_cache, **inputs).last_hidden_state
        head = base.get_output_embeddings()
        hidden = hidden_states[..., :-1, :].reshape(-1, hidden_states.size(-1))
        labels = labels[..., 1:].reshape(-1)
        order = (labels != -100).to(torch.int8).argsort(descending=True, stable=True)
        hidden, labels = hidden[order], labels[order]
        loss = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, labels.shape[0], chunk_tokens):
            stop = start + chunk_tokens
            loss = (
                loss
                + emulation.checkpoint(
                    chunk,
                    hidden[start:stop],
                    head.weight,
                    head.bias,
                    labels[start:stop],
                    use_reentrant=False,
                )[0]
            )
        return CausalLMOutputWithPast(loss=loss)

    base.forward = forward


def shifting_loss(logits: Any, labels: Any, vocab_size: int, **_: Any) -> torch.Tensor:
    """transformers up to 4.48 loss_utils.py, ForCausalLMLoss: shifting by one position copies the fp32 logits."""
    logits = logits.float()
    shift_logits = logits[..., :-1, :].contiguous()
    shift_labels = labels[..., 1:].contiguous()
    shift_logits = shift_logits.view(-1, vocab_size)
    return F.cross_entropy(shift_logits, shift_labels.view(-1), ignore_index=-100, reduction="mean")


def triton_patches() -> ExitStack:
    """Where CUDA is emulated, TRL's loss runs its Triton kernels: they read a tile of logits in place and take no memory."""
    stack = ExitStack()
    try:
        from trl.kernels import chunked_logprob
        from trl.trainer import utils
    except ImportError:  # an older TRL, whose loss this is not
        return stack

    class Launcher:
        def __getitem__(self, _grid: Any) -> Callable[..., None]:
            return lambda *_args, **_kwargs: None

    # plain functions: a Mock would remember the tensors it is called with, and keep them alive
    stack.enter_context(mock.patch.object(chunked_logprob, "_use_triton", lambda _device: True))  # noqa: PT008
    stack.enter_context(mock.patch.object(utils, "_use_triton", lambda _device: True))  # noqa: PT008
    for kernel in ("_forward_kernel", "_backward_kernel"):
        stack.enter_context(mock.patch.object(chunked_logprob, kernel, Launcher()))
    stack.enter_context(mock.patch.object(chunked_logprob, "_addmm_fp32", lambda *_: None))  # noqa: PT008
    stack.enter_context(mock.patch.object(chunked_logprob, "triton", SimpleNamespace(cdiv=lambda a, b: -(-a // b)), create=True))
    return stack
