"""The planner: from a model, a machine and a request to a plan."""

from __future__ import annotations

import functools

from ftadvise.advisor.alternatives import alternatives
from ftadvise.advisor.candidates import possible_approaches, sequence_lengths
from ftadvise.advisor.cautions import cautions
from ftadvise.advisor.duration import limit_duration
from ftadvise.advisor.plan_types import Plan, PlanRequest
from ftadvise.advisor.reasons import reasons
from ftadvise.advisor.rule_schema import Rule, load_rules
from ftadvise.advisor.search import Price, search
from ftadvise.advisor.shortfall import no_plan
from ftadvise.profiles.errors import InputError
from ftadvise.profiles.hardware import Hardware
from ftadvise.profiles.model_spec import ModelSpec

_OTHER_KINDS = {"seq2seq": "an encoder-decoder model", "encoder": "an encoder without a language-model head"}


def make_plan(model: ModelSpec, hardware: Hardware, request: PlanRequest, price: Price, *, rules: tuple[Rule, ...] | None = None) -> Plan:
    """Recommend a recipe.

    What fits decides first (the estimator's verdict on the upper end of its interval), then the sum of the weights of the rules that
    prefer an approach, then the tie-breaks of `search.approach_rank`. The same input always gives the same plan.

    Args:
        price: the estimate of a recipe for this model on this machine; called some dozens of times.
        rules: other rules than those that come with ftadvise.

    Raises:
        InputError: not a causal language model, or flags that contradict each other.
        NoPlanError: nothing fits; carries what would have to change.
    """
    if model.kind in _OTHER_KINDS:
        raise InputError(
            f"{model.id} is {_OTHER_KINDS[model.kind]}; this version plans causal language models only",
            hint="choose a decoder model: `ftadvise models` lists them",
        )
    rules = load_rules() if rules is None else rules
    price = functools.cache(price)
    approaches, impossible = possible_approaches(hardware, request.fixed)
    if set(approaches) <= set(impossible):
        why = impossible[approaches[0]].en if approaches else "they contradict each other"
        raise InputError(f"--method and --quantization leave nothing to choose: {why}", hint="leave one of them out")
    lengths = sequence_lengths(model, hardware, request.fixed, request.lengths)
    for seq_len in lengths:
        result = search(model, hardware, request, price, rules, approaches, impossible, seq_len)
        chosen = result.chosen
        if chosen is not None and chosen.best is not None:
            estimate, duration, limits = limit_duration(chosen.best, request, price)
            return Plan(
                request=request,
                approach=chosen.approach,
                estimate=estimate,
                score=chosen.score,
                reasons=reasons(result, chosen, estimate, request),
                alternatives=alternatives(result, chosen, price, request),
                warnings=cautions(result, chosen, estimate, request, wanted_seq_len=lengths[0]) + limits,
                duration=duration,
            )
    raise no_plan(result, request, price)
