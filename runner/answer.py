"""One answer of a model, to show what training changed."""

from __future__ import annotations

from typing import Any

from ftadvise.runner.tokens import has_chat_template, prompt_text


def answer(model: Any, tokenizer: Any, prompt: str, *, max_new_tokens: int = 60) -> str:
    """The model's greedy answer to `prompt` in its chat layout, at most `max_new_tokens` tokens."""
    import torch
    from transformers import GenerationConfig

    text = prompt_text(prompt, tokenizer)
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=not has_chat_template(tokenizer)).to(model.device)
    # a fresh configuration: the checkpoint's own may ask for sampling
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            tokens = model.generate(**inputs, generation_config=greedy)
    finally:
        model.train(was_training)
    return str(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()
