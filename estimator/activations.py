"""The micro batch that is priced, and the attention kernel that it will meet."""

from __future__ import annotations

from dataclasses import dataclass

from ftadvise.estimator.estimate_types import Stack
from ftadvise.estimator.recipe import Recipe
from ftadvise.profiles.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Batch:
    """The shape of one micro batch. `masked`: sequences of different length, so that attention gets a mask."""

    sequences: int
    seq_len: int
    masked: bool

    @property
    def tokens(self) -> int:
        """Padded tokens."""
        return self.sequences * self.seq_len


def batch_of(recipe: Recipe, stack: Stack) -> Batch:
    """The largest micro batch that a recipe may meet in this training code.

    Sequences of different length get a mask, where the code makes masks at all, and so do packed ones that must not see each other: only
    FlashAttention is told where they begin without one. Code that does not tell them apart packs without a mask.
    """
    if not recipe.packing:
        seq_len = -(-recipe.seq_len // stack.pads_to_multiple) * stack.pads_to_multiple
        return Batch(recipe.micro_batch, seq_len, masked=stack.masks_padding and recipe.micro_batch > 1)
    if stack.packs_into_one_row:
        return Batch(1, recipe.micro_batch * recipe.seq_len, masked=recipe.attention != "flash_attention_2")
    return Batch(recipe.micro_batch, recipe.seq_len, masked=False)


def attention_kernel(spec: ModelSpec, recipe: Recipe, batch: Batch, *, device: str, compute_capability: tuple[int, int] | None) -> str:
    """Which attention kernel PyTorch will choose: "flash", "efficient", "math", "eager" or "cpu".

    Source: transformers 5.23 integrations/sdpa_attention.py (grouped heads go to the kernel only without a mask), PyTorch's
    sdp_utils: flash needs fp16/bf16 from compute capability 8.0, no mask, head width <= 256; the memory-efficient kernel takes fp32
    and masks but no grouped heads.
    """
    if recipe.attention == "eager":
        return "eager"
    if recipe.attention == "flash_attention_2":
        return "flash"
    if device == "cpu":
        return "cpu"
    half = recipe.compute_dtype != "fp32"
    modern = compute_capability is None or compute_capability >= (8, 0)
    if half and modern and not batch.masked and spec.head_dim <= 256:
        return "flash"
    grouped_heads_in_kernel = spec.num_kv_heads != spec.num_attention_heads and not batch.masked
    return "math" if grouped_heads_in_kernel else "efficient"
