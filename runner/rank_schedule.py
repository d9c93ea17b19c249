"""AdaLoRA while it trains: the penalty that TRL's loss leaves out, and the ranks that are pruned after each step. Imports torch: late.

PEFT leaves both to the training loop (peft 0.21 tuners/adalora/model.py, update_and_allocate).
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from ftadvise.estimator.peft_settings import adalora_schedule, orthogonality_penalty

_STATE = {"adalora_sensitivity": "exp_avg_ipt", "adalora_uncertainty": "exp_avg_unc"}
"""What the optimizer's state calls the allocator's two averages: there they are saved and resumed with the rest."""


def with_penalty(trainer_class: type[Any]) -> type[Any]:
    """The trainer with the gradient of AdaLoRA's orthogonality penalty in its loss; the loss's value stays that of the data."""

    class AdaLoraTrainer(trainer_class):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            """As the trainer's own."""
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            if not model.training:
                return result
            penalty = orthogonality_penalty(self.accelerator.unwrap_model(self.model))
            if num_items_in_batch is not None:  # else the trainer divides the whole loss
                penalty = penalty / self.current_gradient_accumulation_steps
            penalty = penalty - penalty.detach()
            return (result[0] + penalty, result[1]) if return_outputs else result + penalty

    return AdaLoraTrainer


class RankSchedule(TrainerCallback):  # type: ignore[misc]
    """Prunes ranks after each optimizer step, over the steps that the trainer really takes.

    While it trains, the adapter is saved with all its ranks, the pruned ones zero, so that a checkpoint fits the optimizer's state; when
    the training is over they are left out.
    """

    def __init__(self) -> None:
        self._pattern: dict[str, list[bool]] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any) -> None:
        """Set the schedule; take up the averages of a resumed run."""
        tuner = _tuner(model)
        for name, value in adalora_schedule(state.max_steps).items():
            setattr(_config(tuner), name, value)
        allocator = tuner.rankallocator
        for name, parameter in _adapter_parameters(tuner):
            saved = optimizer.state.get(parameter, {})
            if _STATE.keys() <= saved.keys():
                allocator.ipt[name] = None
                for key, attribute in _STATE.items():
                    getattr(allocator, attribute)[name] = saved[key]
        if state.global_step >= state.max_steps - _config(tuner).tfinal:
            self._pattern = {n: (p != 0).view(-1).tolist() for n, p in tuner.model.named_parameters() if ".lora_E." in n}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any) -> None:
        """After the update, while the gradients are still there."""
        if getattr(optimizer, "step_was_skipped", False):  # fp16: the gradients overflowed
            return
        tuner = _tuner(model)
        config, allocator, step = _config(tuner), tuner.rankallocator, state.global_step + 1
        config.rank_pattern = self._pattern
        if not allocator.ipt and step == config.total_step - config.tfinal:  # a run of one step: nothing has been weighed yet
            allocator.update_ipt(tuner.model)
        tuner.update_and_allocate(step)
        self._pattern, config.rank_pattern = config.rank_pattern, None
        for name, parameter in _adapter_parameters(tuner):
            for key, attribute in _STATE.items():
                average = getattr(allocator, attribute).get(name)
                if average is None:
                    optimizer.state[parameter].pop(key, None)
                else:
                    optimizer.state[parameter][key] = average
        allocator.ipt = dict.fromkeys(allocator.ipt)  # only the averages are needed from step to step

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """What is saved from now on has only the ranks that are left."""
        _config(_tuner(model)).rank_pattern = self._pattern


def _tuner(model: Any) -> Any:
    while not hasattr(model, "peft_config"):  # inside DistributedDataParallel
        model = model.module
    return model.base_model


def _config(tuner: Any) -> Any:
    return tuner.peft_config[tuner.trainable_adapter_name]


def _adapter_parameters(tuner: Any) -> list[tuple[str, Any]]:
    return [(name, parameter) for name, parameter in tuner.model.named_parameters() if "lora_" in name]
