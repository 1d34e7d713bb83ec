"""What is measured of templates and top inputs: matches with inputs, recurrence and types of units; and its findings."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from analysis.alignment import align_universe
from analysis.report.findings import Finding, finding
from analysis.report.section import Tell
from analysis.report.shared import alignment_study, all_equal
from analysis.similarity import representations
from analysis.statistics import median
from analysis.units import (
    Matches,
    Recurrence,
    TopInputs,
    Types,
    matches,
    recurrence,
    surrogates,
    templates,
    top_inputs,
    types,
)
from wspace.models import ConvNet
from wspace.run import Run
from wspace.symmetry import act
from wspace.tree import Params, pick

MOST_SEEDS = 32  # whose templates are matched with inputs, and grouped into types
MOST_EXAMPLES = 1000
MOST_INPUTS = 20_000  # patches count
FEWEST_RESTARTS = 3  # for units to come back
DEPTH = 2  # inputs shown for each unit of the last hidden layer


@dataclasses.dataclass(frozen=True)
class Measured:
    """How inputs match (name -> one number a restart), what comes back (None where it cannot be asked), top inputs.

    Attributes:
        of_first: the matches of the first restart.
        recurrence: beside surrogates, which have the trained units' mean and covariance and nothing else in common.
        untrained: beside the same networks before training.
        ids: seeds of `aligned`, templates that are aligned where `recurrence` is not None.
        layer: whose top inputs of the first restart are `top`.
        varies: which of its units do not hand on the same for all examples.
    """

    matches: dict[str, np.ndarray]
    of_first: Matches
    num_examples: int
    recurrence: Recurrence | None
    untrained: Recurrence | None
    types: Types | None
    ids: list[int]
    aligned: np.ndarray
    layer: int
    top: TopInputs
    varies: np.ndarray


def measure(run: Run, ids: list[int], params: Params, rng: np.random.Generator, tell: Tell) -> Measured:
    """Everything; recurrence for restarts that differ, of networks with hidden units."""
    num = min(len(ids), MOST_SEEDS)
    some = jax.tree.map(lambda leaf: np.asarray(leaf)[:num], params)
    x = run.data.x_train[np.sort(rng.permutation(len(run.data.x_train))[: _num_examples(run)])]
    tell("matching inputs with templates")
    of_first = matches(run.model, pick(some, 0), x)
    each = [_summary(of_first), *(_summary(matches(run.model, pick(some, seed), x)) for seed in range(1, num))]
    matched = {name: np.array([values[name] for values in each]) for name in each[0]}
    layer = max(0, run.model.num_layers - 2)
    handed_on = representations(run.model, jax.tree.map(lambda leaf: leaf[:1], some), run.data.x_train)[layer]
    best = top_inputs(handed_on, min(DEPTH, len(run.data.x_train)))
    varies = np.ptp(np.asarray(handed_on[0]).reshape(-1, handed_on.shape[-1]), axis=0) > 0
    returned = _recurring(run, ids, params, rng, tell)
    return Measured(matched, of_first, len(x), *returned, layer, best, varies)


class _Returned(NamedTuple):
    """Recurrence and types where they can be asked, and the templates, aligned where restarts can be, with their seeds."""

    recurrence: Recurrence | None
    untrained: Recurrence | None
    types: Types | None
    ids: list[int]
    aligned: np.ndarray


def _recurring(run: Run, ids: list[int], params: Params, rng: np.random.Generator, tell: Tell) -> _Returned:
    """Templates of aligned restarts beside two nulls, each aligned in the same way."""
    asked = run.model.symmetry.layers and len(ids) >= FEWEST_RESTARTS and not all_equal(params)
    rows = alignment_study(run, tell).rows if asked else []
    if len(rows) < FEWEST_RESTARTS:
        return _Returned(None, None, None, ids, templates(params, run.data.input_shape))
    tell("aligning untrained networks and surrogates")
    symmetry, ids = run.model.symmetry, [ids[row] for row in rows]
    trained = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], params)
    element = alignment_study(run, tell).universe.element
    aligned = templates(act(symmetry, element, trained), run.data.input_shape)
    units, *nulls = (_flat(aligned), *(_aligned(run, some, rng) for some in (run.params(ids, 0), _drawn(trained, rng))))
    if np.all(nulls[0] == nulls[0][:1]):  # one init for all: units may be alike by that alone
        return _Returned(None, None, None, ids, aligned)
    untrained, strict = (recurrence(units, null, rng=rng) for null in nulls)
    return _Returned(strict, untrained, types(units[:MOST_SEEDS], nulls[1][:MOST_SEEDS]), ids, aligned)


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(*images.shape[:2], -1)


def _aligned(run: Run, params: Params, rng: np.random.Generator) -> np.ndarray:
    """Templates (seed, unit, feature) of networks that are aligned with each other."""
    element = align_universe(run.model.symmetry, params, rng=rng).element
    return _flat(templates(act(run.model.symmetry, element, params), run.data.input_shape))


def _drawn(params: Params, rng: np.random.Generator) -> Params:
    """Networks whose units are surrogates in every layer: weights and bias together, (seed, unit, fan_in + 1)."""
    networks = []
    for layer in params:
        weight = np.moveaxis(np.asarray(layer["weight"], np.float64), -1, 1)
        parts = [_flat(weight), *([np.asarray(layer["bias"], np.float64)[..., None]] if "bias" in layer else [])]
        units = surrogates(np.concatenate(parts, axis=-1), rng=rng).astype(np.float32)
        fan_in = parts[0].shape[-1]
        made = {"weight": np.moveaxis(units[..., :fan_in].reshape(weight.shape), 1, -1)}
        networks.append(made | ({"bias": units[..., fan_in]} if "bias" in layer else {}))
    return tuple(networks)


def _summary(found: Matches) -> dict[str, float]:
    """Of one restart, medians over its units."""
    middle = lambda values: float(np.median(known)) if len(known := values[np.isfinite(values)]) else np.nan  # noqa: E731
    return {
        "same_top": found.same_top,
        "length_of_top": middle(found.length_of_top(found.dot)),
        "length_of_best_match": middle(found.length_of_top(found.cosine)),
        "told_by_dot": middle(found.told_by_dot),
        "told_by_cosine": middle(found.told_by_cosine),
        "share_of_norm": middle(found.share_of_norm),
    }


def _num_examples(run: Run) -> int:
    positions = np.prod(run.model.shape[:2]) if isinstance(run.model, ConvNet) else 1
    return min(len(run.data.x_train), MOST_EXAMPLES, max(10, int(MOST_INPUTS // positions)))


def find(found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    """All numbers of the section."""
    num = len(found.matches["same_top"])
    findings = {"seeds": finding(num, n=num), "examples": finding(found.num_examples)}
    for name, each in found.matches.items():
        if len(known := each[np.isfinite(each)]):
            findings[name] = finding(median(known, rng=rng, unit="" if name.startswith("told") else "share"))
    if found.recurrence is not None and found.untrained is not None:
        findings |= _returned(found.recurrence, found.untrained, rng)
    if (kinds := found.types) is not None:
        common = (kinds.sizes > 1) & (kinds.spread > 1 / len(kinds.labels))
        findings |= {
            "types": finding(len(kinds.sizes), n=len(kinds.labels)),
            "common_types": finding(int(common.sum()), n=len(kinds.labels)),
            "grouped": finding(median(kinds.shared, rng=rng, unit="share")),
            "grouped_drawn": finding(median(kinds.null_shared, rng=rng, unit="share")),
            "largest_spread": finding(float(kinds.spread.max()), n=len(kinds.labels), unit="share"),
        }
    return findings


def _returned(strict: Recurrence, untrained: Recurrence, rng: np.random.Generator) -> dict[str, Finding]:
    findings = {
        "agreement": finding(median(np.median(strict.agreement, axis=1), rng=rng)),
        "always": finding(int(np.sum(strict.rates == 1)), n=len(strict.agreement)),
        "units": finding(strict.agreement.shape[1]),
    }
    for suffix, one in (("", strict), ("_untrained", untrained)):
        findings |= {
            f"rate{suffix}": finding(one.rate),
            f"expected{suffix}": finding(one.expected, n=len(one.null), unit="share"),
            f"threshold{suffix}": finding(one.threshold, n=len(one.null)),
            f"agreement{suffix or '_drawn'}": finding(median(np.median(one.null, axis=1), rng=rng)),
        }
    return findings
