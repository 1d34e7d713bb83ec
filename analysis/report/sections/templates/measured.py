"""What is measured of templates and top inputs: matches with inputs, recurrence and types of units; and its findings."""

import dataclasses

import jax
import numpy as np

from analysis.alignment import align_universe
from analysis.report.findings import Finding, finding
from analysis.report.section import Tell
from analysis.report.shared import alignment_study, all_equal
from analysis.similarity import representations
from analysis.statistics import median
from analysis.units import Matches, Recurrence, TopInputs, Types, matches, recurrence, templates, top_inputs, types
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
        ids: seeds of `aligned`, templates that are aligned where `recurrence` is not None.
        layer: whose top inputs of the first restart are `top`.
    """

    matches: dict[str, np.ndarray]
    num_examples: int
    recurrence: Recurrence | None
    types: Types | None
    ids: list[int]
    aligned: np.ndarray
    layer: int
    top: TopInputs


def measure(run: Run, ids: list[int], params: Params, rng: np.random.Generator, tell: Tell) -> Measured:
    """Everything; recurrence for restarts that differ, of networks with hidden units."""
    num = min(len(ids), MOST_SEEDS)
    some = jax.tree.map(lambda leaf: np.asarray(leaf)[:num], params)
    x = run.data.x_train[np.sort(rng.permutation(len(run.data.x_train))[: _num_examples(run)])]
    tell("matching inputs with templates")
    each = [_matching(matches(run.model, pick(some, seed), x)) for seed in range(num)]
    matched = {name: np.array([values[name] for values in each]) for name in each[0]}
    returned, kinds, of, aligned = _recurring(run, ids, params, rng, tell)
    layer = max(0, run.model.num_layers - 2)
    handed_on = representations(run.model, jax.tree.map(lambda leaf: leaf[:1], some), run.data.x_train)[layer]
    best = top_inputs(handed_on, min(DEPTH, len(run.data.x_train)))
    return Measured(matched, len(x), returned, kinds, of, aligned, layer, best)


def _recurring(
    run: Run, ids: list[int], params: Params, rng: np.random.Generator, tell: Tell
) -> tuple[Recurrence | None, Types | None, list[int], np.ndarray]:
    """Recurrence and types where they can be asked, and the templates, aligned where restarts can be, with their seeds."""
    asked = run.model.symmetry.layers and len(ids) >= FEWEST_RESTARTS and not all_equal(params)
    rows = alignment_study(run, tell).rows if asked else []
    if len(rows) < FEWEST_RESTARTS:
        return None, None, ids, templates(params, run.data.input_shape)
    tell("aligning untrained networks")
    symmetry, ids = run.model.symmetry, [ids[row] for row in rows]
    untrained = run.params(ids, 0)
    nothing = act(symmetry, align_universe(symmetry, untrained, rng=rng).element, untrained)
    trained = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], params)
    element = alignment_study(run, tell).universe.element
    aligned, null = (templates(some, run.data.input_shape) for some in (act(symmetry, element, trained), nothing))
    if np.all(null == null[:1]):  # one init for all: nothing that could differ by chance
        return None, None, ids, aligned
    units, chance = (images.reshape(*images.shape[:2], -1) for images in (aligned, null))
    return recurrence(units, chance, rng=rng), types(units[:MOST_SEEDS], chance[:MOST_SEEDS]), ids, aligned


def _matching(found: Matches) -> dict[str, float]:
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
    if (returned := found.recurrence) is not None:
        findings |= {
            "rate": finding(returned.rate),
            "expected": finding(returned.expected, n=len(returned.null), unit="share"),
            "agreement": finding(median(np.median(returned.agreement, axis=1), rng=rng)),
            "agreement_untrained": finding(median(np.median(returned.null, axis=1), rng=rng)),
            "threshold": finding(returned.threshold, n=len(returned.null)),
            "always": finding(int(np.sum(returned.rates == 1)), n=len(returned.agreement)),
            "units": finding(returned.agreement.shape[1]),
        }
    if (kinds := found.types) is not None:
        common = (kinds.sizes > 1) & (kinds.spread > 1 / len(kinds.labels))
        findings |= {
            "types": finding(len(kinds.sizes), n=len(kinds.labels)),
            "common_types": finding(int(common.sum()), n=len(kinds.labels)),
            "grouped": finding(float(kinds.sizes[common].sum() / kinds.sizes.sum()), n=len(kinds.labels), unit="share"),
            "grouped_untrained": finding(
                float(kinds.null_sizes[kinds.null_sizes > 1].sum() / kinds.null_sizes.sum()),
                n=len(kinds.labels),
                unit="share",
            ),
            "largest_spread": finding(float(kinds.spread[0]), n=len(kinds.labels), unit="share"),
        }
    return findings
