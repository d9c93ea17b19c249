"""Load a model of any size with random weights through transformers' own loader, without a checkpoint on the disk.

The loader is given a state dict whose tensors are drawn only when it asks for them, so memory on the way (a shard's tensor on its way
to the device, quantisation tensor by tensor) is that of a real load. A 32B model needs the RAM of its largest tensor.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ftadvise.estimator.recipe import Recipe

_INITIALIZER_RANGE = 0.02


class _Drawn:
    """One tensor of the checkpoint, as safetensors' slices are: `[...]` makes it. All weights share one pool of random numbers."""

    def __init__(self, pool: Any, shape: tuple[int, ...], constant: float | None) -> None:
        self._pool, self._shape, self._constant = pool, shape, constant

    def __getitem__(self, _: Any) -> Any:
        if self._constant is not None:
            return self._pool.new_full(self._shape, self._constant)
        return self._pool[: math.prod(self._shape)].view(self._shape).clone()


def load_random_model(folder: Path, recipe: Recipe, device: str) -> Any:
    """The model of `folder`'s config.json as `runner.load_model.load_model` would load it, with random weights.

    Raises:
        InputError: transformers cannot build the model, or the attention implementation is not available here.
    """
    import torch
    from transformers import BitsAndBytesConfig

    from ftadvise.runner.load_model import _check_attention, head_name, model_arguments, torch_dtype
    from ftadvise.runner.quiet import quiet_libraries
    from ftadvise.runner.rehearse import skeleton

    _check_attention(recipe, device)
    shape_only = skeleton(folder)
    dtype = torch_dtype(recipe.compute_dtype)
    shapes = {name: tuple(parameter.shape) for name, parameter in shape_only.named_parameters()}  # tied ones appear once
    generator = torch.Generator().manual_seed(recipe.seed)
    largest = max(math.prod(shape) for shape in shapes.values())
    pool = torch.empty(largest, dtype=dtype).normal_(0.0, _INITIALIZER_RANGE, generator=generator)
    arguments = model_arguments(recipe, device, head=head_name(folder, False))
    if arguments["quantization_config"] is not None:
        arguments["quantization_config"] = BitsAndBytesConfig(**arguments["quantization_config"])
    for name in ("trust_remote_code", "local_files_only", "use_safetensors"):  # there are no files
        del arguments[name]
    with quiet_libraries():
        model = type(shape_only).from_pretrained(
            None,
            config=shape_only.config,
            state_dict={name: _Drawn(pool, shape, _constant(name, shape)) for name, shape in shapes.items()},
            **{**arguments, "device_map": {"": 0 if device == "cuda" else "cpu"}},
        )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):  # as load_model does
            module.support_avx512bf16_for_cpu = False
    model.config.use_cache = False
    return model


def _constant(name: str, shape: tuple[int, ...]) -> float | None:
    """Norms scale by one, biases start at zero; everything else is drawn."""
    if len(shape) > 1:
        return None
    return 0.0 if name.endswith("bias") else 1.0
