"""Reasons: what the planner found out, which rules spoke, and what became of each."""

from __future__ import annotations

from typing import Any, get_args

from ftadvise.advisor.limits import limit_words
from ftadvise.advisor.plan_types import APPROACH_LABELS, Approach, Group, Outcome, PlanRequest, Reason
from ftadvise.advisor.rule_engine import Match
from ftadvise.advisor.rule_schema import Rule
from ftadvise.advisor.search import Considered, SearchResult, approach_rank, comparable_speed, preference
from ftadvise.advisor.texts import MESSAGE_PREFIX, Text, duration_words, gib, message, rate
from ftadvise.estimator.estimate_types import Estimate

_SILENT_SIZES = ((8, 12.5, 7, 13), (15, 30, 13, 30))
"""Ranges of parameters (billions) about which D0 §3.4 says nothing, and the names of their ends."""


def reasons(result: SearchResult, chosen: Considered, estimate: Estimate, request: PlanRequest) -> tuple[Reason, ...]:
    """All reasons for the chosen recipe: must, should, choice; heavier rules first within a group."""
    found = _findings(result, chosen, estimate, request)
    found += [_rule_reason(match, result, chosen, estimate, request) for match in result.matches + chosen.settled]
    order = list(get_args(Group))
    planner_first = sorted(
        found, key=lambda reason: (order.index(reason.group), not reason.rule.startswith(MESSAGE_PREFIX), -reason.weight)
    )
    return tuple(planner_first)


def conflict(result: SearchResult, rule_id: str, preferred: tuple[Approach, ...]) -> Text:
    """Why none of the preferred approaches can be followed: the memory it needs, or what stands in its way."""
    names = _names(preferred)
    leanest = [each.leanest for approach in preferred if (each := result.of(approach))]
    if not leanest:
        why = next(result.impossible[approach] for approach in preferred if approach in result.impossible)
        return message("overridden_impossible", rule=rule_id, names=names, why=why)
    smallest = min(leanest, key=lambda estimate: estimate.memory.high_bytes)
    memory = smallest.memory
    need, available = gib(memory.high_bytes), gib(memory.available_bytes)
    return message("overridden", rule=rule_id, names=names, label=smallest.recipe.label, need=need, available=available)


def _findings(result: SearchResult, chosen: Considered, estimate: Estimate, request: PlanRequest) -> list[Reason]:
    """What the planner itself has to say: the fit, the choice, the number format, and where the documents are silent."""
    memory, facts, label = estimate.memory, result.facts, estimate.recipe.label
    numbers = {"used": gib(memory.device_used_bytes), "high": gib(memory.high_bytes), "available": gib(memory.available_bytes)}
    name = "fits" if memory.verdict == "fits" else "fits_tightly"
    found = [_finding(name, "must", f"keep {label}", label=label, **numbers), _choice(result, chosen, request)]
    found += _layout(estimate, request) + _conceded(chosen)
    if "compute_dtype" not in request.fixed:
        gpu = estimate.hardware.gpu
        dtype = estimate.recipe.compute_dtype
        found.append(_finding(f"compute_{dtype}", "must", f"set compute_dtype = {dtype}", device=gpu.name if gpu else "this CPU"))
    size = facts.model_parameters_billion
    for low, high, low_name, high_name in _SILENT_SIZES:
        if low <= size < high:
            found.append(_finding("size_silent", "should", "none", low=low_name, high=high_name, size=f"{size:.1f}"))
    if facts.gpu_tier == "middle":
        found.append(_finding("gpu_silent", "should", "none", memory=f"{facts.gpu_memory_gib:.0f} GiB"))
    return found


def _finding(message_id: str, group: Group, effect: str, **values: Any) -> Reason:
    return Reason(MESSAGE_PREFIX + message_id, group, message(message_id, **values), effect, "applied")


def _layout(estimate: Estimate, request: PlanRequest) -> list[Reason]:
    """How several GPUs share the work, and why."""
    recipe, gpus = estimate.recipe, len(estimate.hardware.gpus)
    if gpus < 2 or "sharding" in request.fixed:
        return []
    shares = estimate.throughput.shares if estimate.throughput else {}
    values: dict[str, Any] = {"gpus": gpus, "label": recipe.label, "used": gib(estimate.memory.device_used_bytes)}
    values |= {"percent": f"{100 * shares.get('communication', 0.0):.0f}"}
    name = {"ddp": "layout_ddp", "zero2": "layout_zero2"}.get(recipe.sharding, "layout_divided")
    found = [_finding(name, "must" if recipe.sharding != "ddp" else "choice", f"set sharding = {recipe.sharding}", **values)]
    if recipe.offload != "none":
        found.append(_finding("layout_offload", "must", f"set offload = {recipe.offload}", label=recipe.label))
    return found


def _conceded(chosen: Considered) -> list[Reason]:
    """What was given up so that it fits."""
    effects = {name: f"set {name} = {value}" for name, value in chosen.conceded.items()}
    label = APPROACH_LABELS[chosen.approach]
    return [_finding(f"conceded_{name}", "must", effect, label=label, value=chosen.conceded[name]) for name, effect in effects.items()]


def _choice(result: SearchResult, chosen: Considered, request: PlanRequest) -> Reason:
    """Why this approach and not another that fits."""
    label, effect = APPROACH_LABELS[chosen.approach], f"choose {chosen.approach}"
    others = [each for each in result.considered if each.best is not None and each is not chosen]
    if len(result.considered) + len(result.impossible) == 1 and request.fixed:
        return _finding("asked_for", "must", effect, chosen=label)
    if not others:
        return _finding("only_one_fits", "must", effect, chosen=label)
    over = [each for each in others if not each.within_limits]
    if chosen.within_limits and over and max(each.score for each in over) > chosen.score:
        names = ", ".join(f"{APPROACH_LABELS[each.approach]} {duration_words(_seconds(each))}" for each in over)
        time = duration_words(_seconds(chosen))
        return _finding("chosen_by_limit", "must", effect, chosen=label, time=time, limit=limit_words(request), others=names)
    tight = [each for each in others if not each.comfortable]
    if chosen.comfortable and tight and max(each.score for each in tight) > chosen.score:
        most = max(tight, key=lambda each: each.score)
        assert most.best is not None  # noqa: S101 - it is one of those that fit
        high, available = gib(most.best.memory.high_bytes), gib(most.best.memory.available_bytes)
        others_words = APPROACH_LABELS[most.approach]
        return _finding("chosen_by_room", "must", effect, chosen=label, other=others_words, high=high, available=available)
    if max(each.score for each in others) < chosen.score:
        against = ", ".join(f"{each.score} ({APPROACH_LABELS[each.approach]})" for each in others)
        return _finding("chosen_by_score", "should", effect, chosen=label, score=chosen.score, others=against)
    tied = [each for each in others if preference(each) == preference(chosen)]
    if not tied and chosen.comfortable and all(not each.comfortable for each in others if each.score == chosen.score):
        return _finding("chosen_comfortable", "should", effect, chosen=label, score=chosen.score)
    if not tied:
        return _finding("chosen_standard", "should", effect, chosen=label, score=chosen.score)
    second = max(tied, key=approach_rank)
    names = ", ".join(APPROACH_LABELS[each.approach] for each in [chosen, *tied])
    return _finding("chosen_by_speed", "should", effect, chosen=label, tied=names, why=_tie_break(chosen, second))


def _tie_break(chosen: Considered, other: Considered) -> Text:
    """What decided between two approaches of equal score: speed or room."""
    if comparable_speed(chosen.best) > comparable_speed(other.best):
        return message("why_speed", speed=_speed(chosen.best), other_speed=_speed(other.best))
    return message("why_room")


def _seconds(considered: Considered) -> float:
    """How long the whole training takes, where it is known."""
    best = considered.best
    return 3600 * best.cost.hours.value if best and best.cost else 0.0


def _speed(estimate: Estimate | None) -> str:
    return rate(estimate.throughput.tokens_per_second) if estimate and estimate.throughput else "?"


def _rule_reason(match: Match, result: SearchResult, chosen: Considered, estimate: Estimate, request: PlanRequest) -> Reason:
    """One rule and its outcome."""
    rule = match.rule
    kinds = {effect.kind for effect in rule.effects}
    group: Group = "must" if kinds & {"require", "forbid"} else "should" if kinds & {"prefer", "discourage", "warn"} else "choice"
    outcome, detail = _preference_outcome(match, result, chosen, request)
    if detail is None and match.premise_holds and kinds & {"set", "at_least", "at_most"}:
        outcome, detail = _settings_outcome(match, chosen.approach, estimate, request)
    note = next((effect.text for effect in match.effects("note", "warn")), None)
    return Reason(
        rule.id, group, rule.sentence, rule.effect_words, outcome, rule.weight, rule.source, detail, note, rule.comment, rule_origin(rule)
    )


def rule_origin(rule: Rule) -> Text | None:
    """Where a rule of the user's own comes from, and which rule it replaces; None for those that come with ftadvise."""
    if not rule.own:
        return None
    return message("own_rule_replaces", file=rule.file, replaces=rule.replaces) if rule.replaces else message("own_rule", file=rule.file)


def _preference_outcome(match: Match, result: SearchResult, chosen: Considered, request: PlanRequest) -> tuple[Outcome, Text | None]:
    """Whether the rule's preference was followed, and if not, why."""
    rule = match.rule
    preferred: tuple[Approach, ...] = sum((effect.approaches for effect in match.effects("prefer", "require")), ())
    avoided: tuple[Approach, ...] = sum((effect.approaches for effect in match.effects("discourage", "forbid")), ())
    if not preferred:
        preferred = tuple(each.approach for each in result.considered if each.approach not in avoided) if avoided else ()
    if not preferred:
        return ("applied" if match.premise_holds else "moot"), None
    if not match.premise_holds:
        lora = result.reference.get("lora")
        if lora is None:
            return "moot", None
        return "moot", message("moot", need=gib(lora.memory.high_bytes), available=gib(lora.memory.available_bytes))
    if chosen.approach in preferred:
        return "applied", None
    known = [each for each in result.considered if each.approach in preferred]
    if not known and not any(approach in result.impossible for approach in preferred):
        return "fixed", message("rule_fixed", rule=rule.id, effect=rule.effect_words, chosen=APPROACH_LABELS[chosen.approach])
    fitting = [each for each in known if each.best is not None]
    if not fitting:
        return "overridden", conflict(result, rule.id, preferred)
    if not result.facts.has_gpu:
        return "elsewhere", message("elsewhere")
    best = max(fitting, key=approach_rank)
    if chosen.within_limits and not best.within_limits:
        return "overridden", message("over_limit", rule=rule.id, names=_names(preferred), limit=limit_words(request))
    values: dict[str, Any] = {"rule": rule.id, "names": _names(preferred), "chosen": APPROACH_LABELS[chosen.approach]}
    if chosen.comfortable and not best.comfortable and best.best is not None:
        memory = best.best.memory
        return "overridden", message("only_tight", high=gib(memory.high_bytes), available=gib(memory.available_bytes), **values)
    if best.score == chosen.score:
        return "outweighed", message("tied", score=chosen.score, why=_tie_break(chosen, best), **values)
    supporters = ", ".join(_supporters(result, chosen.approach))
    return "outweighed", message("outweighed", lower=best.score, higher=chosen.score, rules=supporters, **values)


def _supporters(result: SearchResult, approach: Approach) -> list[str]:
    """The rules that prefer an approach, heaviest first."""
    matches = [
        m for m in result.matches if m.premise_holds and any(approach in effect.approaches for effect in m.effects("prefer", "require"))
    ]
    return [match.rule.id for match in sorted(matches, key=lambda match: (-match.rule.weight, match.rule.id))]


def _settings_outcome(match: Match, approach: Approach, estimate: Estimate, request: PlanRequest) -> tuple[Outcome, Text | None]:
    """Whether the recipe has what the rule sets, and if not, whether the user or another rule decided."""
    rule = match.rule
    for field, value, kind in settings_for(match, approach):
        name = "alpha" if field == "alpha_per_rank" else field
        final: Any = getattr(estimate.recipe, name, value)
        wanted = value * estimate.recipe.rank if field == "alpha_per_rank" else value
        agrees = final == wanted if kind == "set" else final >= wanted if kind == "at_least" else final <= wanted
        if agrees:
            continue
        if name in request.fixed:
            return "fixed", message("rule_fixed", rule=rule.id, effect=rule.effect_words, chosen=f"{name} = {_number(final)}")
        return "outweighed", message("replaced", rule=rule.id, field=name, value=_number(wanted), final=_number(final))
    return "applied", None


def settings_for(match: Match, approach: Approach) -> list[tuple[str, Any, str]]:
    """The rule's settings that concern an approach: field, value, and set, at_least or at_most."""
    effects = [effect for effect in match.effects("set", "at_least", "at_most") if not effect.approaches or approach in effect.approaches]
    return [(field, value, effect.kind) for effect in effects for field, value in effect.settings]


def _names(approaches: tuple[Approach, ...]) -> str:
    return ", ".join(APPROACH_LABELS[approach] for approach in approaches)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
