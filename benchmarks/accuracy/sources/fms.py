"""fms-acceleration: IBM's own sweep of Mistral-7B and Mixtral on A100-80GB, one and several GPUs (ids `fms-*`).

Settings, from scripts/benchmarks of foundation-model-stack/fms-acceleration (benchmark.py, defaults.yaml, scenarios*.yaml):

- `tuning.sft_trainer` (TRL's SFTTrainer 0.9 to 0.13 on the Trainer of transformers 4.44 to 4.48), checkpointing, FlashAttention-2, AdamW
  of torch, gradients clipped at 1, no evaluation, nothing saved.
- LoRA rank 16, alpha 16, dropout 0.1 on q, k, v, o. Adapters are fp32: `mem_allocated_steady_gib` is 13 bytes per adapter parameter
  above the weights (12, and 16 MiB of cuBLAS).
- Column `amp` is autocast (`bf16: True`). Under FSDP accelerate then holds trained parameters in fp32: the full fine-tuning rows of
  `a100_80gb_liger` on two GPUs keep 16 bytes per parameter over both, those of `a100_80gb`, without autocast, 8.
- `baseline-peft-bnb`: TRL's SFTTrainer calls `prepare_model_for_kbit_training` and then, under bf16, casts embeddings and head back
  (`peft_module_casting_to_bf16`): norms are fp32, embeddings and head bf16, and the residual stream is fp32 from the first MLP on.
- `a100_80gb`, `a100_80gb_liger`: packed to exactly 4,096 tokens. `a100_80gb_pf`, `a100_80gb_mp`: not packed; rows are padded to the
  longest of their batch, of which the limit (4,096) and the mean are published. They are priced at that mean, which the peak exceeds.
- Two readings of each run: the Trainer's peak of torch-allocated bytes, and nvidia-smi's (sampled once a second, what the idle card showed
  subtracted; it may miss a short peak, and it holds whatever the allocator has cached).
- Several GPUs: FSDP full shard, one process per GPU, figures per GPU.
- Speed: the Trainer's `train_tokens_per_second`, of one GPU and with padding. GPTQ rows are priced as NF4 in fp16, as *approximated*.
- `l40_40gb`: May 2024, no versions; everything in float16, LoRA without dropout (scenarios.yaml of that commit).
"""

from __future__ import annotations

import dataclasses

from benchmarks.accuracy.case import MIB, Case, Excluded, Measurement, Row, flag, peak, version_in
from benchmarks.accuracy.throughput.run import Run, run_of
from ftadvise.estimator.recipe import Recipe

SOURCE = "fms-acceleration"
# acceleration column without "-padding-free" and "-multipack": our stack. Plain rows run TRL's own preparation, the plugins theirs.
_STACKS = {
    "none": "transformers-4",
    "aadp": "transformers-4",
    "baseline-peft-bnb": "trl",
    "accelerated-peft-bnb": "transformers-4",
    "foak-fast-kernels": "transformers-4-foak",
    "accelerated-peft-bnb-foak": "transformers-4-foak",
    "foak-fast-kernels-liger": "transformers-4-foak-liger",
    "accelerated-peft-bnb-foak-liger": "transformers-4-foak-liger",
}
_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
_GPTQ_BASES = {
    "TheBloke/Mistral-7B-v0.1-GPTQ": "mistralai/Mistral-7B-v0.1",
    "TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "TheBloke/Nous-Hermes-Llama2-70B-GPTQ": "meta-llama/Llama-2-70b-hf",
}
_GPTQ = "GPTQ base (int4, fp16, AutoGPTQ kernels), priced as NF4"
_NO_VERSIONS = "the versions of the training code, taken from the date (May 2024)"
_SPEED_LENGTHS = "the lengths: rows are not packed, only the mean padded length (tokens per sample) is published"
_OPEN_LENGTH = "the longest batch: rows are not packed, and only a limit (4,096) and the mean length of a padded row are published"


def case(row: Row) -> Case | Excluded:
    """The run of one row, on one GPU or several."""
    if row["base_dtype"].startswith("int4"):
        return Excluded(row["id"], SOURCE, "GPTQ base (int4, AutoGPTQ kernels): not in the recipe vocabulary")
    packed = row["seq_len_kind"] == "packed"
    n_gpus = int(row.get("n_gpus") or 1)
    full = row["method"] == "full"
    autocast = row["amp"] != "none"
    flags: dict[str, object] = {"autocast": autocast}
    if full and autocast and n_gpus > 1:
        flags["full_dtype"] = "fp32"
    recipe = Recipe(
        method="full" if full else "lora",
        quantization="nf4" if row["base_dtype"] == "nf4" else "none",
        double_quantization=flag(row["double_quant"]),
        compute_dtype="bf16" if row["compute_dtype"] == "bfloat16" else "fp16",
        adapter_dtype="fp32",
        rank=16,
        alpha=16,
        dropout=float(row["lora_dropout"] or 0.1),
        target_modules=_TARGETS,
        micro_batch=int(row["micro_batch_size"]),
        gradient_accumulation=int(row["grad_accum"]),
        seq_len=4096 if packed else round(float(row["mean_tokens_per_sample"])),
        packing=packed,
        gradient_checkpointing=True,
        attention="flash_attention_2",
        loss="full",
        optimizer="adamw_torch",
        sharding="fsdp" if n_gpus > 1 else "none",
    )
    return Case(
        id=row["id"],
        source=SOURCE,
        model=row["model"],
        gpu="A100 SXM4 80GB",
        recipe=recipe,
        stack=_stack(row),
        stack_flags=flags,
        measured=_readings(row),
        unknown=() if packed else (_OPEN_LENGTH,),
        n_gpus=n_gpus,
    )


def _readings(row: Row) -> tuple[Measurement, ...]:
    allocated = peak(row, "allocated")
    return (*allocated, Measurement("device_used", float(row["peak_mem_nvidia_mib"]) * MIB)) if allocated else ()


def _stack(row: Row) -> str:
    name = _STACKS[row["acceleration"].removesuffix("-multipack").removesuffix("-padding-free")]
    package = "trl" if name == "trl" else "transformers"
    return f"{name}=={version_in(row['framework'], package)}"


def speed(row: Row) -> Run | Excluded:
    """The speed of one row, on one GPU or several."""
    if row["acceleration"].startswith("moe-"):
        return Excluded(row["id"], SOURCE, "ScatterMoE kernels and expert parallelism: not in the stack vocabulary")
    if row["model"].startswith("ibm-"):
        return Excluded(row["id"], SOURCE, f"{row['model']}: no model card")
    gptq = row["base_dtype"].startswith("int4")
    read = {**row}
    if gptq:
        read |= {"base_dtype": "nf4", "double_quant": "False", "model": _GPTQ_BASES[row["model"]]}
        read["acceleration"] = row["acceleration"].replace("autogptq", "bnb")
    unknown = [] if row["seq_len_kind"] == "packed" else [_SPEED_LENGTHS]
    if "torch " not in row["framework"]:
        read["framework"] = "transformers 4.40.2, trl 0.8.6"
        unknown.append(_NO_VERSIONS)
    if not row["compute_dtype"]:
        read["compute_dtype"] = "float16"
    found = case(read)
    if isinstance(found, Excluded):
        return found
    if row["gpu"].startswith("L40"):
        found = dataclasses.replace(found, gpu="L40")
        unknown.append("the GPU: an L40 of 48 GB, in a file that says 40 GB")
    recipe = found.recipe
    tokens = recipe.micro_batch * recipe.gradient_accumulation * recipe.seq_len
    alike = ",".join((row["source"].partition("@")[2].partition(" row")[0], _kernels(row["acceleration"]), row["compute_dtype"]))
    return run_of(found, row, tokens_per_step=tokens, unknown=unknown, approximated=_GPTQ if gptq else "", alike=alike)


def _kernels(acceleration: str) -> str:
    """Which fused kernels and which packing a label stands for; how a 4-bit base is prepared is no part of it."""
    words = acceleration.split("-")
    return "-".join(word for word in ("foak", "liger", "padding", "multipack") if word in words)
