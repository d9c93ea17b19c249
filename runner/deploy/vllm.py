"""vLLM: one base with LoRA adapters, or the merged model. Nothing is converted: vLLM reads what the run saved.

What vLLM's LoRA refuses (vllm/lora/peft_helper.py, _validate_features, validate_legal; v0.22): DoRA, modules_to_save, biases, ranks above
--max-lora-rank; methods other than LoRA it does not know. Those are merged.
"""

from __future__ import annotations

import json
from pathlib import Path

from ftadvise.estimator.gguf_layout import inference_data
from ftadvise.estimator.inference import vllm_rank
from ftadvise.profiles.errors import InputError
from ftadvise.runner.deploy.deployment import Command, Request, Work, merge_command, shell
from ftadvise.runner.deploy.merged import check_mergeable

_HEADS = frozenset({"lm_head", "embed_tokens"})


def plan(request: Request) -> Work:
    """The lines that serve the run with vLLM.

    Raises:
        InputError: a quantisation was asked for, or the adapter can neither be served nor merged.
    """
    if request.quantization not in (None, "bf16", "nf4"):
        raise InputError(
            f"--to vllm serves 16 bits, or nf4 (bitsandbytes) of the base; not {request.quantization!r}",
            hint="--to gptq makes 4 bits for vLLM" if request.quantization else None,
        )
    problems = refusals(request)
    notes = [f"vLLM does not serve this as an adapter ({'; '.join(problems)}): the merged model is served"] if problems else []
    if request.run.adapter is None or problems:
        check_mergeable(request.run)
        merged = (*merge_command(request), Command("serve the merged model", shell(*_serve(request, request.merged), *_form(request))))
        return Work(_form_name(request), merged, why="vLLM reads the saved files as they are", notes=tuple(notes))
    if request.run.recipe.quantization != "none" and request.quantization is None:
        notes.append("the adapter was trained on a quantised base; --quantization nf4 serves it on the same one")
    modules = [f"{request.name}={request.run.adapter}"]
    modules += [f"tenant-{number}=PATH_OF_ADAPTER_{number}" for number in range(2, request.tenants + 1)]
    lora = ["--enable-lora", "--lora-modules", *modules, "--max-lora-rank", vllm_rank(_rank(request))]
    # slots on the device for as many adapters as one batch can hold; the others wait in RAM
    lora += ["--max-loras", min(request.tenants, request.serving.concurrent), "--max-cpu-loras", request.tenants]
    commands = (
        Command("serve the base with the adapter of every tenant", shell(*_serve(request, request.base), *_form(request), *lora)),
        Command("ask it; a request names its adapter as the model", _request_line(request.name)),
        *merge_command(request),
        Command("or one merged copy for each tenant", shell(*_serve(request, request.merged), *_form(request))),
    )
    return Work(_form_name(request), commands, why="vLLM reads the saved files as they are", notes=tuple(notes))


def refusals(request: Request) -> list[str]:
    """Why vLLM would refuse the adapter, in words; empty when it would not, or there is none."""
    adapter = request.run.adapter
    if adapter is None:
        return []
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    found = []
    if config.get("peft_type") != "LORA":
        found.append(f"{request.run.recipe.label} is not LoRA")
    if config.get("use_dora"):
        found.append("DoRA")
    if config.get("modules_to_save"):
        found.append("modules_to_save")
    if config.get("bias", "none") != "none":
        found.append("trained biases")
    targets = config.get("target_modules") or []
    named = {str(name).rsplit(".", 1)[-1] for name in targets} if isinstance(targets, list) else set()
    if named & _HEADS and request.spec.model_type not in inference_data()["vllm"]["embedding_slots"]:
        found.append(f"an adapter of {' and '.join(sorted(named & _HEADS))}")
    if not found and _rank(request) > int(inference_data()["vllm"]["lora_ranks"][-1]):
        found.append(f"rank {_rank(request)}")
    return found


def _rank(request: Request) -> int:
    return request.adapter.rank if request.adapter is not None else request.run.recipe.rank


def _serve(request: Request, model: Path) -> list[object]:
    serving, data = request.serving, inference_data()["vllm"]
    words: list[object] = ["vllm", "serve", model, "--served-model-name", "base" if model == request.base else request.name]
    words += ["--max-model-len", serving.context_tokens, "--max-num-seqs", serving.concurrent]
    return [*words, "--gpu-memory-utilization", data["gpu_memory_utilization"]]


def _form(request: Request) -> list[object]:
    return ["--quantization", "bitsandbytes"] if request.quantization == "nf4" else ["--dtype", "bfloat16"]


def _form_name(request: Request) -> str:
    return "nf4" if request.quantization == "nf4" else "bf16"


def _request_line(name: str) -> str:
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello"}]})
    return shell("curl", "http://localhost:8000/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body)
