"""Section: what removing a weight or a unit changes, against its magnitude."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from analysis.figures import units as figures
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.report.shared import converged_params, forward_flops
from analysis.statistics import Estimate, median, spearman
from analysis.training import metric_unit
from analysis.units import Agreement, UnitEffects, WeightEffects, agreement, unit_effects, weight_effects
from wspace.models import as_matrix
from wspace.run import Run
from wspace.tree import Params

FLOPS = 1e12  # what trying all weights may cost: about a quarter of a minute
CHANGES = 3  # of each weight: removed, and shifted both ways
MOST_SEEDS, MOST_EXAMPLES, FEWEST_EXAMPLES = 16, 512, 64
CONTROLS = {"raw": "magnitude", "scaled": "magnitude × scale of its input", "within": "… among weights of one unit"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """Effects and their agreement with magnitude, a layer each; of units for hidden layers.

    Attributes:
        removed, shifted: agreement with the effect on the loss.
        own_unit: with the effect of removal on what the weight's own unit hands on.
    """

    weights: tuple[WeightEffects, ...]
    removed: tuple[Agreement, ...]
    shifted: tuple[Agreement, ...]
    own_unit: tuple[Agreement, ...]
    units: tuple[UnitEffects, ...]
    num_examples: int
    share: float


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Every weight and unit removed, one at a time, on some train examples."""
    _, params = converged_params(run)
    found = measure(run, params, rng, tell)
    findings = _findings(found, rng)
    unit, seeds = metric_unit("train_loss", run.loss_kind), len(found.weights[0].magnitude)
    return Content(
        findings=findings,
        headline="Across the weights of a layer, magnitude and the effect of removal on the loss have a rank correlation of "
        "{removed_raw}; magnitude and the effect of an equal shift one of {shifted_raw} "
        f"({{seeds:n}} {plural(seeds, 'seed', 'seeds')})."
        if {"removed_raw", "shifted_raw"} <= findings.keys()
        else "",
        says=tuple(_says(findings, found)),
        shows=("Every weight" if found.share == 1 else "Weights from {senders_share} of what each layer's units see")
        + f" of {{seeds}} {plural(seeds, 'restart', 'restarts')} is removed, or shifted, by itself, and the loss on "
        "{examples} train examples computed anew. "
        "A shift is the same for all weights of a layer and goes both ways. A unit is removed by making it hand on nothing.",
        reads="The correlation is one if influence ranks weights exactly as magnitude does, and zero if magnitude says "
        "nothing; magnitudes of shuffled units and inputs stay inside the shaded band. All else is hardly ever equal: a "
        "large weight on an input that hardly varies does little, and so does one into a unit that is seldom active. The "
        "rows below the first multiply by the scale of the input, and then compare the weights of one unit alone.",
        limits="One weight is changed at a time: weights that stand in for each other all look unimportant. The loss is "
        "that of train examples, without the weight penalty. Removal moves a large weight farther than a small one, so that "
        "an effect that grows with magnitude may speak of the distance alone. The equal shift does not have this flaw, but "
        "as it goes both ways the slope cancels: it tells how curved the loss is along a weight. Units can be rescaled "
        "without changing the function, which changes magnitudes and not effects.",
        pictures=tuple(_pictures(found, findings, unit, rng)),
        facts=tuple(_facts(findings)),
    )


def measure(run: Run, params: Params, rng: np.random.Generator, tell: Tell) -> Measured:
    """Effects in all layers, of as many seeds, examples and senders as FLOPS allow."""
    model, layers = run.model, range(run.model.num_layers)
    fan_in = [as_matrix(layer["weight"][0]).shape[0] for layer in params]
    num_weights = sum(rows * layer["weight"].shape[-1] for rows, layer in zip(fan_in, params, strict=True))
    each = forward_flops(run, 1) * CHANGES * num_weights
    available = len(run.data.x_train)
    num = min(available, int(np.clip(FLOPS // (4 * each), FEWEST_EXAMPLES, MOST_EXAMPLES)))
    seeds = min(len(params[0]["weight"]), int(np.clip(FLOPS // (each * num), 1, MOST_SEEDS)))
    share = min(1.0, FLOPS / (each * num * seeds))
    rows = np.sort(rng.permutation(available)[:num])
    x, y = run.data.x_train[rows], run.data.y_train[rows]
    some = tuple({name: np.asarray(leaf)[:seeds] for name, leaf in layer.items()} for layer in params)
    effects, units = [], []
    for layer in layers:
        tell(f"removing the weights of layer {layer + 1} of {len(layers)}")
        senders = None
        if share < 1:
            senders = np.sort(rng.permutation(fan_in[layer])[: max(2, round(share * fan_in[layer]))]).tolist()
        effects.append(weight_effects(model, run.loss_kind, some, x, y, layer=layer, senders=senders))
        if layer < len(layers) - 1:
            units.append(unit_effects(model, run.loss_kind, some, x, y, layer=layer))
    ways = ("on_loss", "on_loss_shifted", "on_unit")
    removed, shifted, own_unit = (tuple(agreement(one, getattr(one, way), rng=rng) for one in effects) for way in ways)
    return Measured(tuple(effects), removed, shifted, own_unit, tuple(units), num, share)


def _findings(found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    seeds = len(found.weights[0].magnitude)
    helps = _mean_over_layers([(one.on_loss < 0).mean((1, 2)) for one in found.weights])
    findings = {
        "seeds": finding(seeds, n=seeds),
        "examples": finding(found.num_examples),
        "weights": finding(int(sum(one.magnitude[0].size for one in found.weights))),
        "senders_share": finding(float(found.share), unit="share"),
        "helps": finding(median(helps, rng=rng, unit="share")),
    }
    for way, agreements in (("removed", found.removed), ("shifted", found.shifted), ("own_unit", found.own_unit)):
        if len(chances := [one.chance for one in agreements if np.isfinite(one.chance)]):
            findings[f"{way}_chance"] = finding(max(chances), n=seeds)
        for name in ("raw", "scaled", "within", "misled", "missed"):
            each = _mean_over_layers([getattr(one, name) for one in agreements])
            unit = "share" if name in ("misled", "missed") else ""
            if len(known := each[np.isfinite(each)]):
                findings[f"{way}_{name}"] = finding(median(known, rng=rng, unit=unit))
    if found.units and all(one.on_loss.shape[1] > 1 for one in found.units):
        spread = np.sqrt(sum(1 / (one.on_loss.shape[1] - 1) for one in found.units)) / len(found.units)
        findings["unit_chance"] = finding(float(spread), n=seeds)
    for name in ("incoming_norm", "outgoing_norm", "activity"):
        correlations = [spearman(getattr(one, name), np.abs(one.on_loss)) for one in found.units]
        if correlations and len(known := (each := _mean_over_layers(correlations))[np.isfinite(each)]):
            findings[f"unit_{name}"] = finding(median(known, rng=rng))
    return findings


def _mean_over_layers(values: Sequence[np.ndarray]) -> np.ndarray:
    """(seed,): over the layers that have a value."""
    table = np.stack(values)
    known = np.isfinite(table)
    total, num = np.where(known, table, 0).sum(axis=0), known.sum(axis=0)
    return np.divide(total, num, out=np.full(table.shape[1], np.nan), where=num > 0)


def _says(findings: dict[str, Finding], found: Measured):
    if "removed_raw" not in findings:
        yield "No layer has weights of different magnitudes and different effects, so there is nothing to rank."
        return
    yield (
        "Mean over layers of the rank correlation between magnitude and the effect of removal on the loss: {removed_raw}. "
        + ("Of magnitude times the scale of the input it is {removed_scaled}" if "removed_scaled" in findings else "")
        + (", among the weights of one unit {removed_within}." if "removed_within" in findings else ".")
        + (
            " With the units and the inputs shuffled, a restart's correlation in one layer has a standard deviation of "
            "{removed_chance:value} or less."
            if "removed_chance" in findings
            else ""
        )
    )
    if {"own_unit_raw", "own_unit_scaled"} <= findings.keys():
        yield (
            "On what the unit that receives it hands on, the effect of removing a weight has a rank correlation of "
            "{own_unit_raw} with its magnitude, and of {own_unit_scaled} with magnitude times the scale of the input."
        )
    if "shifted_raw" in findings:
        yield (
            "When every weight of a layer is shifted by the same amount, the correlation is {shifted_raw}: what the loss "
            "gains, on average of a shift up and one down."
        )
    yield (
        "Where magnitude misleads: of the largest tenth of the weights, {removed_misled} have less effect than the median "
        "weight; of the tenth with the largest effects, {removed_missed} are smaller than the median weight. Half of them "
        "would be if magnitude said nothing. Removing {helps} of the weights lowers the loss."
    )
    if {"unit_incoming_norm", "unit_outgoing_norm", "unit_activity", "unit_chance"} <= findings.keys():
        yield (
            "Of hidden units, the effect of silencing one has a rank correlation of {unit_incoming_norm} with the length of "
            "its incoming weights, {unit_outgoing_norm} with that of its outgoing ones, and {unit_activity} with how active "
            "it is; that of unrelated numbers has a standard deviation of {unit_chance:value} in a restart."
        )


def _facts(findings: dict[str, Finding]):
    yield "Weights tried in each restart", "{weights}"
    yield "Train examples", "{examples}"
    yield "Restarts", "{seeds}"


def _names(num: int) -> list[str]:
    return [*(f"layer {layer + 1}" for layer in range(num - 1)), "outputs"]


def _pictures(found: Measured, findings: dict[str, Finding], unit: str, rng: np.random.Generator):
    names = _names(len(found.weights))
    if "removed_raw" not in findings:
        return
    yield Picture(
        "influence",
        figures.influence(
            {n: (e.magnitude[0].ravel(), e.on_loss[0].ravel()) for n, e in zip(names, found.weights, strict=True)}, unit
        ),
        "One restart: each dot is a weight; both axes are logarithmic, and signs are left out. What is too "
        "small for an axis lies on its edge.",
        "Scatter of the magnitude of weights against the change of the loss without them; rank correlation "
        "{removed_raw:value}.",
    )
    rows = {}
    for name, agreement_ in zip(names, found.removed, strict=True):
        controls: dict[str, tuple[np.ndarray, Estimate]] = {}
        for control, label in CONTROLS.items():
            each = getattr(agreement_, control)
            if len(known := each[np.isfinite(each)]):
                controls[label] = (known, median(known, rng=rng))
        if len(controls) == len(CONTROLS):
            rows[name] = controls
    if rows:
        chance = max(one.chance for one in found.removed if np.isfinite(one.chance))
        yield Picture(
            "influence-correlations",
            figures.correlations(rows, chance),
            "Rank correlation with the effect of removal on the loss, in every layer: a dot a restart, the median and its "
            "interval. Shaded: two standard deviations with the units and the inputs of a layer shuffled, at their widest.",
            "Rows of dots: rank correlations of magnitude with influence in every layer; mean over layers "
            "{removed_raw:value}.",
        )


SECTION = Section(
    "influence",
    "Does a large weight mean a large influence?",
    "What changes when a weight or a unit is removed, against how large it is?",
    some_converged,
    write,
)
