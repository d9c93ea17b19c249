"""Which layer functions describe a model: by transformers' model_type. One file per family, each with a `DECODERS` of its own."""

from __future__ import annotations

import functools

from ftadvise.estimator.tape import (
    bloom,
    chatglm,
    falcon,
    gemma,
    glm,
    gpt2,
    gpt_neox,
    gptj,
    lfm2,
    litgpt,
    llama,
    mla,
    moe,
    opt,
    parallel,
    phi,
    remote_code,
    variants,
)
from ftadvise.estimator.tape.step import Decoder
from ftadvise.profiles.model_spec import ModelSpec

_FALLBACK = llama.DECODERS["llama"]


@functools.cache
def _decoders() -> dict[str, Decoder]:
    families = (
        bloom.DECODERS,
        chatglm.DECODERS,
        falcon.DECODERS,
        gemma.DECODERS,
        glm.DECODERS,
        gpt2.DECODERS,
        gpt_neox.DECODERS,
        gptj.DECODERS,
        lfm2.DECODERS,
        llama.DECODERS,
        mla.DECODERS,
        moe.DECODERS,
        opt.DECODERS,
        parallel.DECODERS,
        phi.DECODERS,
        remote_code.DECODERS,
        variants.DECODERS,
    )
    return {model_type: decoder for family in families for model_type, decoder in family.items()}


def decoder_of(spec: ModelSpec, model_code: str = "transformers") -> Decoder:
    """The description of this model's layers; a Llama-like one where there is none (`is_described` tells).

    `model_code`: whose layers run, "transformers" or "litgpt"; models that the latter's description lacks are as in transformers.
    """
    if model_code == "litgpt" and spec.model_type in litgpt.DECODERS:
        return litgpt.DECODERS[spec.model_type]
    return _decoders().get(spec.model_type, _FALLBACK)


def is_described(spec: ModelSpec) -> bool:
    """Whether the layers are written down, and not only approximated by Llama's."""
    return spec.model_type in _decoders()
