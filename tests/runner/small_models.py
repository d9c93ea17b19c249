"""Models of a few thousand parameters with byte-level tokenizers of their own: everything about their files is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SENTENCES = ("The quick brown fox jumps over 12 lazy dogs, it's true.", "def main():\n    return 1234", "床前明月光，疑是地上霜。")
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level_tokenizer(*, digits: bool = False, split: str | None = None, template: str | None = CHATML, begins: bool = False) -> Any:
    """A byte-level BPE tokenizer of about 330 tokens, with the special tokens of ChatML."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    parts += [pre_tokenizers.Split(Regex(split), behavior="isolated")] if split else []
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    roles = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)
    made.chat_template = template
    return made


def sentencepiece_like_tokenizer() -> Any:
    """A BPE tokenizer with byte fallback, as Llama 2's and Mistral's: pieces with ids in the order of their merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    pieces = ["▁t", "he", "▁the", "▁c", "at", "▁cat", "▁s", "▁sat"]
    letters = sorted(set("▁thecats"))
    # as SentencePiece numbers them: special, bytes, merged pieces, letters
    vocab = {token: number for number, token in enumerate([*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *letters])}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "c"), ("a", "t"), ("▁c", "at"), ("▁", "s"), ("▁s", "at")]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=special[0], byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True)))


def small_model(folder: Path, kind: str = "llama", tokenizer: Any = None, **config: Any) -> Path:
    """A model folder: two layers with random weights large enough that a wrong one is seen in the logits."""
    import torch
    import transformers

    from ftadvise.runner.quiet import quiet_libraries

    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma": "Gemma"}
    tokenizer = tokenizer or byte_level_tokenizer()
    settings = {**SIZES, "vocab_size": len(tokenizer) + 6, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 2, **config}
    torch.manual_seed(0)
    model = getattr(transformers, f"{names[kind]}ForCausalLM")(getattr(transformers, f"{names[kind]}Config")(**settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.5 if parameter.ndim == 1 else 0.0, std=0.2)
    with quiet_libraries():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
