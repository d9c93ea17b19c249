"""Random recipes on small models in the proportions of the real ones, drawn with a fixed seed: what agreement.py compares."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from ftadvise.estimator.recipe import Recipe

_HIDDEN = (256, 384, 512)
_HEAD = 64


def _sizes(rng: random.Random) -> dict[str, Any]:
    hidden = rng.choice(_HIDDEN)
    return {
        "hidden_size": hidden,
        "intermediate_size": rng.choice((64 * (hidden * 8 // 3 // 64), 3 * hidden, 4 * hidden)),
        "num_hidden_layers": rng.choice((3, 4, 7)),
        "num_attention_heads": hidden // _HEAD,
        "vocab_size": rng.choice((1000, 2048, 4096)),
        "max_position_embeddings": 2048,
        "tie_word_embeddings": rng.random() < 0.5,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def _grouped(heads: int, rng: random.Random) -> int:
    return rng.choice([kv for kv in (1, 2, heads // 2, heads) if heads % kv == 0])


def _window(rng: random.Random) -> int:
    return int(rng.choice((128, 384, 4096)))


def _llama_like(rng: random.Random, model_type: str, **more: Any) -> dict[str, Any]:
    sizes = _sizes(rng)
    heads = _grouped(sizes["num_attention_heads"], rng)
    return {"model_type": model_type, **sizes, "num_key_value_heads": heads, "head_dim": _HEAD, **more}


def _experts(rng: random.Random, **more: Any) -> dict[str, Any]:
    count = rng.choice((4, 8))
    names = dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), count)
    return {**names, "num_experts_per_tok": 2, "moe_intermediate_size": rng.choice((128, 256)), "norm_topk_prob": False, **more}


def _gpt(rng: random.Random, model_type: str, **more: Any) -> dict[str, Any]:
    sizes = _sizes(rng)
    names = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    kept = {key: sizes[key] for key in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
    return {"model_type": model_type, **{own: sizes[name] for own, name in names.items()}, **kept, "n_positions": 2048, **more}


def _without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in names}


def _latent(rng: random.Random, model_type: str, **more: Any) -> dict[str, Any]:
    widths = {"kv_lora_rank": 96, "q_lora_rank": rng.choice((None, 128)), "qk_rope_head_dim": 32, "qk_nope_head_dim": 64, "v_head_dim": 64}
    config = _llama_like(rng, model_type, **_experts(rng), **widths, n_shared_experts=1, first_k_dense_replace=1)
    return {**config, "num_key_value_heads": config["num_attention_heads"], "head_dim": 32, "n_group": 2, "topk_group": 1, **more}


def _falcon(rng: random.Random) -> dict[str, Any]:
    config = _without(_sizes(rng), "intermediate_size", "max_position_embeddings") | {"model_type": "falcon", "tie_word_embeddings": True}
    if rng.random() < 0.5:
        return {**config, "multi_query": True, "new_decoder_architecture": False, "parallel_attn": True, "bias": False}
    return {**config, "num_kv_heads": 2, "new_decoder_architecture": True, "parallel_attn": True, "bias": False}


def _opt(rng: random.Random) -> dict[str, Any]:
    sizes = _without(_sizes(rng), "intermediate_size")
    return {**sizes, "model_type": "opt", "ffn_dim": 4 * sizes["hidden_size"], "word_embed_proj_dim": sizes["hidden_size"]}


def _gptj(rng: random.Random) -> dict[str, Any]:
    config = _gpt(rng, "gptj", rotary_dim=64, tie_word_embeddings=False)
    return {**config, "n_head": config["n_head"] // 2}


def _bloom(rng: random.Random) -> dict[str, Any]:
    sizes = _sizes(rng)
    kept = {key: sizes[key] for key in ("hidden_size", "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
    return {"model_type": "bloom", **kept, "n_layer": sizes["num_hidden_layers"], "n_head": sizes["num_attention_heads"]}


def _many_heads(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "num_key_value_heads": config["num_attention_heads"]}


ARCHITECTURES: dict[str, Any] = {
    "llama": lambda rng: _llama_like(rng, "llama"),
    "mistral": lambda rng: _llama_like(rng, "mistral", sliding_window=rng.choice((None, 128, 4096))),
    "qwen2": lambda rng: _llama_like(rng, "qwen2"),
    "qwen3": lambda rng: _llama_like(rng, "qwen3"),
    "gemma": lambda rng: _llama_like(rng, "gemma", tie_word_embeddings=True),
    "gemma2": lambda rng: _llama_like(rng, "gemma2", tie_word_embeddings=True, sliding_window=_window(rng)),
    "gemma3": lambda rng: _llama_like(rng, "gemma3_text", tie_word_embeddings=True, sliding_window=_window(rng)),
    "phi": lambda rng: _many_heads(_llama_like(rng, "phi", partial_rotary_factor=0.5)),
    "phi3": lambda rng: _llama_like(rng, "phi3"),
    "gpt2": lambda rng: _gpt(rng, "gpt2"),
    "gptj": _gptj,
    "gpt_neox": lambda rng: _many_heads(_llama_like(rng, "gpt_neox", rotary_pct=0.25)),
    "gpt_bigcode": lambda rng: _gpt(rng, "gpt_bigcode", multi_query=True),
    "falcon": _falcon,
    "bloom": _bloom,
    "opt": _opt,
    "stablelm": lambda rng: _llama_like(rng, "stablelm", use_qkv_bias=rng.random() < 0.5),
    "starcoder2": lambda rng: _llama_like(rng, "starcoder2", use_bias=True, sliding_window=None),
    "olmo2": lambda rng: _llama_like(rng, "olmo2"),
    "cohere": lambda rng: _llama_like(rng, "cohere", tie_word_embeddings=True, logit_scale=0.1),
    "glm": lambda rng: _llama_like(rng, "glm", attention_bias=True, partial_rotary_factor=0.5),
    "granite": lambda rng: _llama_like(rng, "granite", embedding_multiplier=12.0, residual_multiplier=0.2, logits_scaling=8.0),
    "mixtral": lambda rng: _without(_llama_like(rng, "mixtral", **_experts(rng), intermediate_size=256), "moe_intermediate_size"),
    "qwen2_moe": lambda rng: _llama_like(rng, "qwen2_moe", **_experts(rng), shared_expert_intermediate_size=384),
    "qwen3_moe": lambda rng: _llama_like(rng, "qwen3_moe", **_experts(rng)),
    "olmoe": lambda rng: _without(_llama_like(rng, "olmoe", **_experts(rng), intermediate_size=192), "moe_intermediate_size"),
    "deepseek_v2": lambda rng: _latent(rng, "deepseek_v2", topk_method="greedy", n_group=1),
    "deepseek_v3": lambda rng: _latent(rng, "deepseek_v3"),
}
"""A random config.json of each architecture, by name."""

FUSED_EXPERTS = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3")
_LATENT = ("deepseek_v2", "deepseek_v3")
EAGER_ONLY = ("gemma2", "gptj", "bloom")
"""transformers 5.23 has no SDPA for these; and of GPT-J and BLOOM no interface for other kernels."""

_OWN_FLASH = ("falcon", *_LATENT)
"""What these do around the package flash-attn the trace has no stand-in for."""

_QUANTIZATIONS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"quantization": "nf4"},
    {"quantization": "nf4", "double_quantization": True},
    {"quantization": "fp4"},
    {"quantization": "int8"},
)
_TARGETS: tuple[tuple[str, ...], ...] = (("all-linear",), ("all-linear",), ("attention",), ("two",))
_BATCHES = ((1, 512), (1, 1024), (2, 256), (2, 512), (2, 777), (4, 128), (4, 384), (1, 2048), (8, 100))
_ON_CUDA = ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "adafactor", "sgd", "lion_32bit")
_ON_CPU = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd")
# transformers 4 with today's 4-bit kernels: what bitsandbytes kept before, the trace, which runs today's, does not know
_LOSSES = {"trl": ("fused", "fused", "full"), "trl==1.14": ("chunked", "full"), "trl==1.10": ("chunked",)}
_STACKS = (
    "trl",
    "trl",
    "trl==1.14",
    "trl==1.10",
    "transformers",
    "transformers",
    "transformers-kbit",
    "transformers==4.48.1,bitsandbytes==0.50.0",
)


@dataclass(frozen=True)
class Draw:
    """One comparison: `config` is a config.json, `recipe` on `device` ("cuda": an A100, or "cpu") under `stack`."""

    number: int
    architecture: str
    config: dict[str, Any] = field(hash=False)
    recipe: Recipe
    stack: str
    device: str

    @property
    def base(self) -> str:
        """The quantisation in a word."""
        return f"{self.recipe.quantization}-double" if self.recipe.double_quantization else self.recipe.quantization


def draw(number: int, seed: int) -> Draw:
    """Draw `number` of a series; architectures take turns, everything else is chance within what can be trained at all."""
    rng = random.Random(f"{seed} {number}")  # noqa: S311 - repeatable, not secret
    architecture = list(ARCHITECTURES)[number % len(ARCHITECTURES)]
    config = ARCHITECTURES[architecture](rng)
    device = "cpu" if rng.random() < 0.2 else "cuda"
    stack = _stack(rng, architecture)
    recipe = _recipe(rng, architecture, config, device).replace(loss=rng.choice(_LOSSES.get(stack, ("full",))))
    return Draw(number, architecture, config, recipe, stack, device)


def _stack(rng: random.Random, architecture: str) -> str:
    stack = rng.choice(_STACKS)
    # transformers 4 wrote experts as modules, and quantised Falcon, which the installed one does not; fp32 experts cannot run on meta
    elsewhere = ("4.48", "kbit") if architecture in FUSED_EXPERTS else ("4.48", "kbit") if architecture == "falcon" else ()
    return "transformers" if any(word in stack for word in elsewhere) else stack


def _recipe(rng: random.Random, architecture: str, config: dict[str, Any], device: str) -> Recipe:
    method = rng.choice(("lora", "lora", "lora", "dora", "adalora", "ia3", "prompt", "prefix", "full", "full"))
    base = {} if method == "full" else dict(rng.choice(_QUANTIZATIONS))
    compute = rng.choice(("bf16", "bf16", "fp32", "fp16") if device == "cuda" else ("bf16", "fp32"))
    if architecture in FUSED_EXPERTS:
        compute = "bf16"  # the only dtype that the meta device has grouped products of
    if method == "prefix" and (architecture in _LATENT or (config.get("multi_query") and architecture == "falcon")):
        method = "prompt"  # PEFT's prefixes have one width for keys and values, and do not know Falcon's single head
    if device == "cpu" and base.get("quantization") == "int8" and method in ("dora", "adalora"):
        base = {}  # cannot be trained: matrix.py, UNTRAINABLE_ON_CPU
    micro_batch, seq_len = rng.choice(_BATCHES)
    recipe = Recipe(
        method=method,
        **base,
        compute_dtype=compute,
        adapter_dtype=rng.choice(("fp32", compute)),
        rank=rng.choice((4, 8, 16, 64)),
        dropout=rng.choice((0.0, 0.05)),
        target_modules=rng.choice(_TARGETS),
        micro_batch=micro_batch,
        seq_len=seq_len,
        gradient_accumulation=rng.choice((1, 1, 2)),
        packing=rng.random() < 0.25 and architecture != "opt",  # OPT does not tell packed sequences apart
        gradient_checkpointing=method != "prefix" and rng.random() < 0.5,  # PEFT refuses both together
        attention=_attention(rng, architecture, device, compute),
        optimizer=rng.choice(_ON_CUDA if device == "cuda" else _ON_CPU),
        max_steps=2,
    )
    return _with_targets(rng, recipe, architecture, config)


def _attention(rng: random.Random, architecture: str, device: str, compute: str) -> str:
    if architecture in EAGER_ONLY:
        return "eager"
    kernels = ["sdpa", "sdpa", "eager"]
    if architecture in _OWN_FLASH:
        return rng.choice(kernels)
    return rng.choice([*kernels, "flash_attention_2"] if device == "cuda" and compute != "fp32" else kernels)


def _with_targets(rng: random.Random, recipe: Recipe, architecture: str, config: dict[str, Any]) -> Recipe:
    """ "attention" and "two" become names of this architecture."""
    from ftadvise.profiles.model_config import spec_from_config

    spec = spec_from_config(config, source=architecture)
    names = {"attention": spec.attention_modules, "two": tuple(rng.sample(spec.attention_modules, min(2, len(spec.attention_modules))))}
    targets = names.get(recipe.target_modules[0], recipe.target_modules)
    if architecture in FUSED_EXPERTS and recipe.method != "full":
        if recipe.method in ("lora", "dora"):  # PEFT refuses dropout, and DoRA, on the fused parameters of experts
            return recipe.replace(target_modules=targets, dropout=0.0, method="lora")
        targets = spec.attention_modules
    return recipe.replace(target_modules=targets)
