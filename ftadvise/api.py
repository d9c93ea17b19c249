"""The public Python API: `plan`, `estimate`, `run`. The commands are thin layers over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ftadvise.advisor.candidates import adapter_dtype, compute_dtype, sequence_lengths
from ftadvise.advisor.changes import Elsewhere
from ftadvise.advisor.frontier import Frontier
from ftadvise.advisor.frontier import fit_frontier as frontier
from ftadvise.advisor.plan_types import Plan, PlanRequest
from ftadvise.advisor.planner import make_plan
from ftadvise.advisor.rule_set import active_rules
from ftadvise.advisor.search import Prices
from ftadvise.estimator.cost import Job, with_cost
from ftadvise.estimator.data_settings import DataSettings
from ftadvise.estimator.estimate import estimate as price
from ftadvise.estimator.estimate_types import Estimate, Stack
from ftadvise.estimator.lengths import LengthStats, at_mean_length
from ftadvise.estimator.plan_file import MadeFor, PlanFile, read_plan_file
from ftadvise.estimator.recipe import Quantization, Recipe
from ftadvise.estimator.stack import DEFAULT_STACK, stack_of
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec
from ftadvise.profiles.probe import named_hardware, probe
from ftadvise.profiles.resolve_model import default_model_id, resolve_model

if TYPE_CHECKING:
    from ftadvise.advisor.offers import Offers
    from ftadvise.runner.report import RunReport


def plan(
    model: str | None = None,
    *,
    gpu: str | None = None,
    stack: str = DEFAULT_STACK,
    request: PlanRequest | None = None,
    rules: Sequence[str | Path] = (),
    **recipe_fields: Any,
) -> Plan:
    """The recommended recipe for a model on a machine, why, and what else was considered.

    Args:
        model: hub id, short name, folder or GGUF file; the embedded demo model by default.
        gpu: a GPU by name, with a count if wanted ("2x A100-80GB"); "cpu" for none; by default this machine is probed.
        request: task, team, priority and limits; its `lengths` (see `data_lengths`) choose the sequence length and decide the time.
        rules: files with rules of your own, over those of ftadvise and of your configuration folder.
        recipe_fields: recipe fields that stay as given, for example `seq_len=4096`.

    Raises:
        InputError: an unknown name, a contradiction or a broken rule.
        NoPlanError: nothing fits.
    """
    request = request or PlanRequest(fixed=recipe_fields)
    spec, hardware, training_stack = _model(model), _hardware(gpu), stack_of(stack)
    request = dataclasses.replace(request, fixed={**_fixed_by(training_stack, request.fixed, hardware), **request.fixed})
    lengths = request.lengths
    elsewhere = _elsewhere(spec, training_stack, lengths)

    def shown(estimate: Estimate) -> Estimate:
        return with_cost(at_mean_length(price(spec, hardware, estimate.recipe, training_stack), lengths), request.job)

    plan = make_plan(
        spec,
        hardware,
        request,
        elsewhere(hardware),
        rules=active_rules([Path(each).expanduser() for each in rules]),
        elsewhere=elsewhere,
    )
    alternatives = tuple(dataclasses.replace(each, estimate=shown(each.estimate)) for each in plan.alternatives)
    return dataclasses.replace(plan, estimate=shown(plan.estimate), alternatives=alternatives)


def offers(
    model: str | None = None,
    *,
    stack: str = DEFAULT_STACK,
    request: PlanRequest | None = None,
    rules: Sequence[str | Path] = (),
) -> Offers:
    """The reverse question: which single GPUs can do it, each with its plan, its time and its cost; arguments as for `plan`.

    Raises:
        InputError: an unknown name, a contradiction or a broken rule.
    """
    from ftadvise.advisor.offers import gpus_on_offer
    from ftadvise.advisor.offers import offers as find_offers

    request, training_stack, spec = request or PlanRequest(), stack_of(stack), _model(model)
    elsewhere = _elsewhere(spec, training_stack, request.lengths)
    own_rules = active_rules([Path(each).expanduser() for each in rules])
    return find_offers(spec, probe(), gpus_on_offer(), request, elsewhere, own_rules)


def _elsewhere(spec: ModelSpec, stack: Stack, lengths: LengthStats | None) -> Elsewhere:
    """Prices on any machine."""

    def prices(machine: Hardware) -> Prices:
        return Prices(
            lambda recipe: at_mean_length(price(spec, machine, recipe, stack, detail=False), lengths),
            lambda recipe: price(spec, machine, recipe, stack, detail=False, speed=False),
        )

    return prices


def fit_frontier(plan: Plan) -> Frontier:
    """What else fits of the recommended recipe: at other sequence lengths and micro batches, with the speed of each."""
    chosen, lengths = plan.estimate, plan.request.lengths
    return frontier(
        chosen, lambda recipe: at_mean_length(price(chosen.model, chosen.hardware, recipe, chosen.stack, detail=False), lengths)
    )


def estimate(
    model: str | None = None,
    *,
    gpu: str | None = None,
    stack: str = DEFAULT_STACK,
    trace: bool = False,
    expandable_segments: bool = False,
    timeline: str | Path | None = None,
    lengths: LengthStats | None = None,
    job: Job | None = None,
    **recipe_fields: Any,
) -> Estimate:
    """What exactly one recipe costs. Fields that are not given take the stack's and the hardware's defaults.

    `method="qlora"` means LoRA on an NF4 base with double quantisation. `trace=True` runs real steps on the meta device, which takes
    seconds and needs ftadvise[run]; `expandable_segments` is then an option of the simulated allocator, and `timeline` a CSV file for
    allocated memory over time. With `lengths` (see `data_lengths`) the sequence length, if it is not given, is that of the longest example
    up to the default of `plan`, and the time that of an average batch. `job` says what is paid, and how many examples there are where
    `lengths` does not.

    Raises:
        InputError: an unknown name, a contradiction, or a recipe that the device cannot run.
    """
    spec, hardware, training_stack = _model(model), _hardware(gpu), stack_of(stack)
    job = dataclasses.replace(job or Job(), lengths=lengths)
    if lengths is not None:
        recipe_fields.setdefault("seq_len", sequence_lengths(spec, hardware, {}, lengths)[0])
    recipe = complete_recipe(recipe_fields, hardware, training_stack)
    if trace:
        from ftadvise.estimator.traced_estimate import traced_estimate

        timeline_path = None if timeline is None else Path(timeline)
        traced = traced_estimate(
            spec, hardware, recipe, training_stack, expandable_segments=expandable_segments, timeline_path=timeline_path
        )
        return with_cost(at_mean_length(traced, lengths), job)
    if expandable_segments or timeline is not None:
        raise InputError("expandable segments and the timeline belong to the trace", hint="add --trace")
    return with_cost(at_mean_length(price(spec, hardware, recipe, training_stack), lengths), job)


def data_lengths(data: str | Path | DataSettings, model: str | None = None) -> LengthStats:
    """How long the examples of a data file are in tokens; see `ftadvise.runner.lengths.token_lengths`.

    Raises:
        InputError: an unknown model, or a file that `ftadvise.runner.data.load_rows` refuses.
    """
    from ftadvise.runner.data import load_rows
    from ftadvise.runner.lengths import token_lengths

    settings = data if isinstance(data, DataSettings) else DataSettings(str(data))
    return token_lengths(load_rows(settings).rows, _model(model), template=settings.template)


def run(plan_path: str | Path, *, out_dir: str | Path | None = None, **options: Any) -> RunReport:
    """Execute a plan file; see `ftadvise.runner.supervisor.run_plan` for the options.

    Raises:
        InputError, OutOfMemoryError, InterruptedRunError: as `run_plan`.
    """
    from ftadvise.runner.supervisor import run_plan

    path = Path(plan_path)
    plan_file = read_plan_file(path)
    return run_plan(plan_file, out_dir=Path(out_dir) if out_dir else default_run_folder(plan_file), hardware=probe(), **options)


def complete_recipe(fields: dict[str, Any], hardware: Hardware, stack: Stack) -> Recipe:
    """A whole recipe from the fields that were given: dtypes by hardware, alpha = 2 x rank, and what the stack sets by default.

    Raises:
        InputError: a value out of range or a contradiction.
    """
    values = dict(PlanRequest(fixed=fields).fixed)  # spells out what "qlora" stands for
    values.setdefault("compute_dtype", compute_dtype(hardware))
    quantized = values.get("quantization", "none") != "none"
    values = stack.recipe_defaults(quantized=quantized, compute_dtype=values["compute_dtype"]) | values
    if isinstance(values.get("rank"), int):
        values.setdefault("alpha", max(1, 2 * values["rank"]))
    return Recipe(**values)


def _fixed_by(stack: Stack, fixed: Mapping[str, Any], hardware: Hardware) -> dict[str, Any]:
    """What the stack sets whatever the planner may choose, and the planner would not choose by itself."""
    compute = fixed.get("compute_dtype", compute_dtype(hardware))
    by_itself = dataclasses.asdict(Recipe())
    choices: dict[Quantization, dict[str, Any]] = {
        quantization: stack.recipe_defaults(quantized=quantization != "none", compute_dtype=compute)
        for quantization in ([fixed["quantization"]] if "quantization" in fixed else get_args(Quantization))
    }
    return {
        field: value
        for field, value in next(iter(choices.values())).items()
        if all(values[field] == value for values in choices.values())
        and any(value != (adapter_dtype(q, compute) if field == "adapter_dtype" else by_itself[field]) for q in choices)
    }


def plan_file_of(plan: Plan) -> PlanFile:
    """What `ftadvise run` needs of a plan."""
    import ftadvise

    estimate = plan.estimate
    document = estimate.to_json()
    return PlanFile(
        model_id=estimate.model.id,
        parameters=estimate.model.total_params,
        local_path=estimate.model.local_path,
        made_for=MadeFor.of(estimate.hardware),
        stack=document["stack"],
        recipe=plan.recipe,
        data=plan.request.data,
        predicted={"memory": document["memory"], "throughput": document["throughput"]},
        ftadvise_version=ftadvise.__version__,
    )


def default_run_folder(plan_file: PlanFile) -> Path:
    """Where a run goes when no folder is named: ftadvise-runs/<model>-<recipe>."""
    label = plan_file.recipe.label.lower().replace(" ", "-")
    name = "".join(c if c.isalnum() or c in "-._" else "-" for c in f"{plan_file.model_id.split('/')[-1]}-{label}")
    return Path("ftadvise-runs") / name.strip(".")


def _model(name: str | None) -> ModelSpec:
    return resolve_model(default_model_id() if name is None else name)


def _hardware(gpu: str | None) -> Hardware:
    return probe() if gpu is None else named_hardware(gpu)
