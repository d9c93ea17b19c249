"""Optimizers and clipping as they run: real ones on the CPU, traced ones on `meta`, metered against `optimizer_memory`."""

from __future__ import annotations

from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("transformers")

from ftadvise.estimator.optimizers import GRAD_SCALER_BYTES, optimizer_memory, step_timeline  # noqa: E402 - needs torch
from ftadvise.estimator.recipe import Optimizer  # noqa: E402
from ftadvise.estimator.storage_recorder import StorageRecorder, recording  # noqa: E402
from ftadvise.estimator.trace.optimizer_stand_ins import clip_grad_norm_, make_optimizer, trained_tensors  # noqa: E402

pytestmark = pytest.mark.train

OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
# of every other parameter each
DTYPES = {"fp32": (torch.float32, torch.float32), "bf16": (torch.bfloat16, torch.bfloat16), "mixed": (torch.float32, torch.bfloat16)}


class Layer(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.input_norm = torch.nn.RMSNorm(96)
        self.down = torch.nn.Linear(1100, 96)
        self.up = torch.nn.Linear(96, 1100, bias=False)
        self.experts = torch.nn.Parameter(torch.zeros(3, 40, 50))
        self.post = torch.nn.LayerNorm(96)


class Model(torch.nn.Module):  # type: ignore[misc]
    """Small matrices and vectors beside large ones, a stack of experts, an embedding, and something frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(500, 96)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(3))
        self.frozen = torch.nn.Linear(96, 96)
        self.head = torch.nn.Linear(96, 500, bias=False)
        self.frozen.requires_grad_(False)


def model_on(device: str, dtype: str) -> torch.nn.Module:
    with torch.device(device):
        model = Model()
    first, other = DTYPES[dtype]
    for index, parameter in enumerate(model.parameters()):
        parameter.data = parameter.data.to(other if index % 2 else first)
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return model


def metered(device: str, model: torch.nn.Module, *steps: Any) -> list[tuple[int, int]]:
    """(bytes left after, most bytes at once) of each step, beyond the model and its gradients."""
    recorder = StorageRecorder(device)
    recorder.adopt((t for p in model.parameters() for t in (p, p.grad) if t is not None), "model")
    before = recorder.current_bytes
    found = []
    with recording(recorder):
        for index, step in enumerate(steps):
            recorder.phase, start = str(index), recorder.current_bytes
            step()
            phase = recorder.peaks().get(str(index))
            found.append((recorder.current_bytes - before, max(start, phase.total_bytes if phase else 0) - before))
    return found


def real_optimizer(name: str, model: torch.nn.Module, **options: Any) -> Any:
    """With the groups and the class of the Trainer; `options` are added."""
    from bitsandbytes import optim
    from transformers.optimization import Adafactor

    groups = [{"params": group["params"]} for group in make_optimizer("sgd", model, like_cuda=False).param_groups]
    if name.startswith("adamw_torch"):
        return torch.optim.AdamW(groups, weight_decay=0.0, fused=name.endswith("fused") or None, **options)
    if name == "adafactor":
        return Adafactor(groups, lr=1e-4, scale_parameter=False, relative_step=False)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=1e-4, **options)
    return (optim.Lion if "lion" in name else optim.AdamW)(groups, optim_bits=8 if "8bit" in name else 32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "lion_32bit"])
def test_real_steps_on_the_cpu(name: Optimizer, dtype: str) -> None:
    model = model_on("cpu", dtype)
    optimizer = real_optimizer(name, model)
    first, second = metered("cpu", model, optimizer.step, optimizer.step)
    expected = optimizer_memory(name, trained_tensors(model), device="cpu")
    assert first[0] == second[0] == expected.state_bytes
    assert first[1] == expected.state_bytes + expected.first_step_peak_bytes
    assert second[1] == expected.state_bytes + expected.step_peak_bytes


@pytest.mark.parametrize("name", ["adamw_8bit", "lion_8bit"])
def test_real_8bit_state_on_the_cpu(name: Optimizer, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.optim import GlobalOptimManager

    monkeypatch.setattr(GlobalOptimManager, "_instance", None)  # the registry outlives models
    model = model_on("cpu", "bf16")
    GlobalOptimManager.get_instance().register_module_override(model.embed, "weight", {"optim_bits": 32})
    made: list[Any] = []
    state, _ = metered("cpu", model, lambda: made.append(real_optimizer(name, model)) or made[0].step(), lambda: made[0].step())
    assert state[0] == optimizer_memory(name, trained_tensors(model), device="cpu").state_bytes


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_foreach_adamw_runs_the_cuda_code_on_the_cpu(dtype: str) -> None:
    model = model_on("cpu", dtype)
    optimizer = real_optimizer("adamw_torch", model, foreach=True)
    first, second = metered("cpu", model, optimizer.step, optimizer.step)
    tensors = trained_tensors(model)
    expected = optimizer_memory("adamw_torch", tensors, device="cuda")
    counters = 4 * len(tensors)  # beside the parameters here, on the CPU of a CUDA run
    assert second[0] == expected.state_bytes + counters
    assert second[1] == expected.state_bytes + expected.step_peak_bytes + counters
    assert first[1] - expected.state_bytes - expected.first_step_peak_bytes in (counters, 4 * sum(t.decays for t in tensors))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_traced_steps_as_on_cuda(name: Optimizer, dtype: str) -> None:
    model = model_on("meta", dtype)
    optimizer = make_optimizer(name, model, like_cuda=True)
    first, second = metered("meta", model, optimizer.step, optimizer.step)
    expected = optimizer_memory(name, trained_tensors(model), device="cuda")
    assert first == (expected.state_bytes, expected.state_bytes + expected.first_step_peak_bytes)
    assert second == (expected.state_bytes, expected.state_bytes + expected.step_peak_bytes)
    paged = {id(t): t.nbytes for s in optimizer.state.values() for t in s.values() if getattr(t, "is_paged", False)}
    assert sum(paged.values()) == expected.state_paged_bytes
    assert bool(paged) == name.startswith("paged")
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["adamw_torch", "adafactor", "sgd"])
def test_traced_steps_as_on_the_cpu(name: Optimizer) -> None:
    model = model_on("meta", "bf16")
    optimizer = make_optimizer(name, model, like_cuda=False)
    tensors = trained_tensors(model)
    first, second = metered("meta", model, optimizer.step, optimizer.step)
    expected = optimizer_memory(name, tensors, device="cpu")
    counters = 4 * len(tensors) if name == "adamw_torch" else 0  # on the CPU, so not on meta
    assert first[0] == expected.state_bytes - counters
    assert second[1] == expected.state_bytes - counters + expected.step_peak_bytes


@pytest.mark.parametrize("dtype", DTYPES)
def test_clipping_really_and_traced(dtype: str) -> None:
    model = model_on("cpu", dtype)
    expected = optimizer_memory("sgd", trained_tensors(model), device="cpu").clip_peak_bytes
    norms: list[torch.Tensor] = []
    for clip, device in (
        (lambda model: torch.nn.utils.clip_grad_norm_(list(model.parameters()), 1.0), "cpu"),
        (lambda model: clip_grad_norm_(model.parameters(), 1.0, like_cuda=False), "cpu"),
        (lambda model: clip_grad_norm_(model.parameters(), 1.0, like_cuda=False), "meta"),
    ):
        model = model_on(device, dtype)
        assert metered(device, model, lambda clip=clip, model=model: norms.append(clip(model)))[0][1] == expected
    assert norms[0] == norms[1]
    model = model_on("meta", dtype)
    tensors = trained_tensors(model)
    metered_bytes = metered("meta", model, lambda: clip_grad_norm_(model.parameters(), 1.0, like_cuda=True))[0][1]
    assert metered_bytes == optimizer_memory("sgd", tensors, device="cuda").clip_peak_bytes


def test_the_grad_scaler_keeps_three_scalars() -> None:
    model = model_on("cpu", "fp32")
    optimizer, scaler = real_optimizer("sgd", model), torch.amp.GradScaler("cpu")
    loss = torch.ones(())
    scaled, unscaled = metered("cpu", model, lambda: scaler.scale(loss), lambda: scaler.unscale_(optimizer))
    assert scaled[0] == 8
    assert unscaled[0] == GRAD_SCALER_BYTES


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_traced_events_come_in_the_predicted_order(name: Optimizer) -> None:
    model = model_on("meta", "bf16")
    optimizer = make_optimizer(name, model, like_cuda=True)
    recorder = StorageRecorder("meta")
    recorder.adopt((t for p in model.parameters() for t in (p, p.grad) if t is not None), "model")
    start = len(recorder.timeline())
    with recording(recorder):
        clip_grad_norm_(model.parameters(), 1.0, like_cuda=True)
        optimizer.step()
    large = 4096  # scalars, code books and the like come and go between
    traced = [size for size in recorder.timeline().sizes[start:] if abs(size) > large]
    predicted = step_timeline(name, trained_tensors(model), device="cuda", first_step=True)
    assert [size for size in predicted.sizes if abs(size) > large] == traced


def test_classes_options_and_groups_are_the_trainers(tmp_path: Any) -> None:
    from transformers import Trainer, TrainingArguments

    model = model_on("meta", "bf16")
    for name in OPTIMIZERS:
        cls, options = Trainer.get_optimizer_cls_and_kwargs(TrainingArguments(output_dir=str(tmp_path), optim=name, use_cpu=True))
        ours = make_optimizer(name, model, like_cuda=True)
        if name == "adamw_torch_fused":
            assert (cls, options["fused"]) == (torch.optim.AdamW, True)
            continue
        assert isinstance(ours, cls)
        assert ours.defaults["weight_decay"] == TrainingArguments(output_dir=str(tmp_path), use_cpu=True).weight_decay
        for key in ("scale_parameter", "relative_step", "momentum"):
            assert ours.defaults.get(key, 0) == options.get(key, 0)
        if "optim_bits" in options:
            assert ours.args.optim_bits == options["optim_bits"]
            assert options["is_paged"] == name.startswith("paged")
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    by_id = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [{by_id[id(p)] for p in group["params"]} for group in make_optimizer("sgd", model, like_cuda=True).param_groups]
    assert groups == [set(by_id.values()) & decayed, set(by_id.values()) - decayed]
