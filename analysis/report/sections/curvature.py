"""Section: how the objective is curved at the ends of training, and along it."""

import dataclasses

import jax
import numpy as np

from analysis.curvature import (
    Blocks,
    Extremes,
    GradientShares,
    Objective,
    Outliers,
    Spectra,
    Traces,
    extremes,
    gradient_shares,
    layer_blocks,
    outliers,
    spectra,
    traces,
)
from analysis.curvature.spectrum import RANKS
from analysis.figures import curvature as figures
from analysis.landscape import Surface, custom_plane, evaluate, grid
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.report.shared import converged_params, forward_flops
from analysis.statistics import Estimate, binomial_share, median
from analysis.training import metric_unit
from wspace.run import Run
from wspace.tree import Params, pick

# What the ends, the way there, and the layers may cost, each: about ten seconds; products with the Hessian that one network
# takes there, about; what a product takes: forward passes, and flops for each param beside that, for memory.
PART_FLOPS = 4e11
END_PRODUCTS, PATH_PRODUCTS, LAYER_PRODUCTS = 600, 120, 800
FORWARD_PASSES, PARAM_FLOPS = 6.0, 4000.0
MOST_STEPS = 512  # of Lanczos
MOST_SEEDS, MOST_PATH_SEEDS, MOST_PATH_CHECKPOINTS = 32, 8, 9
NUM_PROBES, NUM_STEPS, NUM_SAMPLES = 2, 80, 32
NUM_POINTS = 41  # of a slice
RISE = 3.0  # it ends where the steepest parabola has risen to so many times the objective
CHANCE = 0.05  # p, of the typical seed, below which outliers are told from chance
NEGATIVE = 1e-7  # of the largest |eigenvalue|: what curves down by less counts as flat


@dataclasses.dataclass(frozen=True)
class Measured:
    """All that the section computes.

    Attributes:
        seeds, path_seeds: how many networks at the end, and along training.
        classes: classes, or outputs of a regression.
        ends: extreme eigenpairs at the end.
        spectra, traces, blocks: at the end, of the same networks or the first of them.
        steps: of the checkpoints along training.
        path: the same, and the gradient, along training; None where it would take too long.
    """

    seeds: int
    path_seeds: int
    classes: int
    ends: Extremes
    outliers: Outliers
    spectra: Spectra
    traces: Traces
    blocks: Blocks
    steps: np.ndarray
    path: GradientShares | None


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Spectra, densities, gradients and slices."""
    ids, params = converged_params(run)
    loss = metric_unit("train_loss", run.loss_kind)
    unit = f"{loss} per weight²"
    objective = Objective(run.model, run.loss_kind, run.data, l2=run.spec.objective.l2)
    found = measure(run, objective, params, rng, tell)
    surfaces = _slices(run, objective, pick(params, 0), found, tell)
    findings = _findings(run, objective, found, unit, loss, rng)
    classification, whole = run.data.task == "classification", bool(found.ends.exact.all())
    return Content(
        findings=findings,
        headline="At the ends of training the objective's largest eigenvalue is {largest} and its smallest {smallest} "
        + ("(medians, {seeds:n} seeds)." if found.seeds > 1 else "(one restart)."),
        says=tuple(_says(findings, found, classification)),
        shows="Eigenvalues of the Hessian of the training objective, the {objective}: at the ends of {seeds} "
        f"{plural(found.seeds, 'restart', 'restarts')}"
        + (" and at {path_checkpoints} checkpoints of {path_seeds}" if found.path else "")
        + "; their distribution, its share by layer, and the objective along the eigenvectors of the largest and the "
        "smallest eigenvalue of the first restart. Double precision, exact on all train examples, "
        + ("from all entries." if whole else "by Lanczos with full reorthogonalisation."),
        reads="An eigenvalue is the curvature along its eigenvector: from a stationary point the objective rises by half of "
        "it times the squared distance. Negative ones prove that the objective is not convex; only where the gradient is "
        "zero as well do they make a saddle."
        + (
            " Upright lines mark the number of classes and one less: published spectra have about so many outliers. An "
            "outlier is counted by the widest gap between neighbouring eigenvalues, compared with the gaps behind it; the "
            "number of classes does not go in."
            if classification
            else ""
        )
        + (
            " A random direction would hold {null} of the squared gradient on average, and between {null_low} and "
            "{null_high} in nineteen cases of twenty."
            if found.path
            else ""
        ),
        limits="The smallest and the largest eigenvalue depend on the scale of the weights: networks that compute the same "
        "may have others, so sharpness alone does not compare functions. "
        + ("" if whole else "From one starting vector Lanczos sees repeated eigenvalues once. ")
        + "Ends of training are not stationary points, so that eigenvalues there say nothing yet about "
        "minima: the next section polishes them first. The density is smoothed"
        + (
            ", a mean over few probes ({share_negative_error} is the median standard error of its negative share), and "
            "Lanczos does not resolve the many eigenvalues next to zero: bumps there are of the method. "
            if not found.spectra.exact
            else ". "
        )
        + (
            ""
            if found.path
            else "Along training nothing is computed: there is one checkpoint only, or too few weights, or it would take "
            "too long. "
        )
        + ("Fewer restarts than were trained are measured, to save time. " if found.seeds < len(ids) else "")
        + ("{not_converged} eigenvalues have not converged." if findings["not_converged"]["value"] else ""),
        pictures=tuple(_pictures(found, surfaces, findings, unit, loss, classification)),
    )


def measure(run: Run, objective: Objective, params: Params, rng: np.random.Generator, tell: Tell) -> Measured:
    """Everything, for as many networks as PART_FLOPS allow, at least one."""
    num, size = jax.tree.leaves(params)[0].shape[0], run.layout.size
    each = FORWARD_PASSES * forward_flops(run, len(run.data.x_train)) + PARAM_FLOPS * size
    first = lambda k: jax.tree.map(lambda leaf: np.asarray(leaf)[:k], params)  # noqa: E731
    say = lambda what: lambda done, of: tell(f"{what}: {done} of {of} networks")  # noqa: E731
    seeds = int(np.clip(PART_FLOPS // (each * END_PRODUCTS), 1, min(num, MOST_SEEDS)))
    classes = run.data.num_outputs
    smallest = min(2, size - 1)
    largest = max(1, min(max(RANKS, classes), size - smallest))
    ends = extremes(
        objective, first(seeds), largest, smallest, rng=rng, tolerance=1e-5, max_steps=MOST_STEPS,
        tell=say("eigenvalues at the end"),
    )  # fmt: skip
    dense = spectra(
        objective, first(seeds), rng=rng, num_probes=NUM_PROBES, num_steps=NUM_STEPS, tell=say("spectral density")
    )
    sums = traces(objective, first(seeds), rng=rng, num_samples=NUM_SAMPLES, tell=say("traces"))
    few = int(np.clip(PART_FLOPS // (each * LAYER_PRODUCTS), 1, seeds))
    blocks = layer_blocks(
        objective, first(few), rng=rng, num_samples=NUM_SAMPLES, num_steps=NUM_STEPS, tell=say("layers")
    )
    rows = np.flatnonzero(run.converged())
    checkpoints = int(PART_FLOPS // (each * PATH_PRODUCTS))
    at = np.linspace(0, len(run.checkpoint_steps) - 1, min(len(run.checkpoint_steps), MOST_PATH_CHECKPOINTS))
    at = np.unique(at.round().astype(int))
    path_seeds = min(num, checkpoints // len(at), MOST_PATH_SEEDS)
    path = None
    if path_seeds and len(at) > 1 and classes < size - 1:
        theta = np.asarray(run.theta.oindex[rows[:path_seeds], at])
        path = gradient_shares(
            objective, run.layout.unravel(theta), classes, more=max(0, min(RANKS, size - 1) - classes), smallest=1,
            rng=rng, batch_ndim=2, tolerance=1e-4, max_steps=MOST_STEPS, tell=say("eigenvalues along training"),
        )  # fmt: skip
    return Measured(
        seeds, path_seeds if path else 0, classes, ends, outliers(ends.largest), dense, sums, blocks,
        run.checkpoint_steps[at], path,
    )  # fmt: skip


def _slices(run: Run, objective: Objective, centre: Params, found: Measured, tell: Tell) -> list[Surface]:
    """The objective of the first restart along its extreme eigenvectors, as far as the steepest one serves."""
    value, top = float(run.metrics["train_objective"][np.flatnonzero(run.converged())[0], -1]), found.ends.values[0, 0]
    norm = np.sqrt(sum(np.sum(np.square(np.float64(leaf))) for leaf in jax.tree.leaves(centre)))
    reach = np.sqrt(2 * RISE * max(value, 1e-12) / top) if top > 0 else 0.1 * norm
    reach = float(min(reach, norm)) or 1.0
    surfaces = []
    for k, name in ((0, "largest"), (-1, "smallest")):
        vector = run.layout.unravel(found.ends.vectors[0, k])
        line = custom_plane(
            centre, jax.tree.map(lambda leaf: leaf[None], vector), names=(f"{name} eigenvalue",), how="eigenvector"
        )
        surfaces.append(
            evaluate(
                run.model, run.loss_kind, line, grid(line, NUM_POINTS, reach), run.data, metrics=("train_objective",),
                l2=objective.l2, dtype="float64", path=run.path / "curvature",
                progress=lambda text, name=name: tell(f"along the {name} eigenvector: {text}"),
            )
        )  # fmt: skip
    return surfaces


def _findings(
    run: Run, objective: Objective, found: Measured, unit: str, loss: str, rng: np.random.Generator
) -> dict[str, Finding]:
    ends, num = found.ends, found.seeds
    scale = np.nanmax(np.abs(ends.values), axis=1)
    below = np.maximum(-ends.values[:, -1], 0)
    below[below <= np.maximum(ends.residuals[:, -1], NEGATIVE * scale)] = 0.0
    level = -NEGATIVE * np.abs(found.spectra.nodes).max(axis=(1, 2), keepdims=True)
    share, error = found.spectra.mean_of(lambda nodes: nodes < level)
    findings = {
        "objective": finding(objective.name),
        "seeds": finding(num, n=num),
        "largest": finding(median(ends.values[:, 0], rng=rng, unit=unit)),
        "smallest": finding(median(ends.values[:, -1], rng=rng, unit=unit)),
        "negative_ratio": finding(median(below / np.where(scale > 0, scale, 1), rng=rng)),
        "negative": finding(binomial_share(int(np.sum(below > 0)), num)),
        "share_negative": finding(median(share, rng=rng, unit="share")),
        "share_negative_error": finding(Estimate(float(np.median(np.nan_to_num(error))), None, num, "share")),
        "trace": finding(median(found.traces.values, rng=rng, unit=unit)),
        "trace_error": finding(Estimate(float(np.median(found.traces.errors)), None, num, unit)),
        "not_converged": finding(int(np.sum(~ends.converged)), n=num),
        "residual": finding(Estimate(float(np.median(ends.residuals[:, -1])), None, num, unit)),
        "layers": finding(list(found.blocks.names)),
        "layer_seeds": finding(len(found.blocks.traces), n=len(found.blocks.traces)),
    }  # fmt: skip
    if np.all(found.blocks.traces.sum(axis=1) > 0):
        for name, values in zip(found.blocks.names, found.blocks.shares.T, strict=True):
            findings[f"layer_{name}"] = finding(median(values, rng=rng, unit="share"))
    if run.data.task == "classification":
        findings["classes"] = finding(found.classes)
        findings |= _outlier_findings(found, rng)
    if found.path is not None:
        path, seeds, middle = found.path, found.path_seeds, len(found.steps) // 2
        findings |= {
            "path_seeds": finding(seeds, n=seeds),
            "path_checkpoints": finding(len(found.steps)),
            "null": finding(path.null, unit="share"),
            "null_low": finding(path.null_ci[0], unit="share"),
            "null_high": finding(path.null_ci[1], unit="share"),
            "top": finding(path.num),
        }
        for name, k in (("start", 0), ("middle", middle), ("last", -1)):
            if np.all(np.isfinite(path.shares[:, k])):
                findings[f"share_{name}"] = finding(median(path.shares[:, k], rng=rng, unit="share"))
        at = int(np.argmax(np.median(path.extremes.values[:, :, 0], axis=0)))
        findings |= {
            "middle_step": finding(int(found.steps[middle])),
            "peak": finding(median(path.extremes.values[:, at, 0], rng=rng, unit=unit)),
            "peak_step": finding(int(found.steps[at])),
            "start_smallest": finding(median(path.extremes.values[:, 0, -1], rng=rng, unit=unit)),
        }
        along = outliers(path.extremes.largest)
        if run.data.task == "classification" and np.all(along.count > 0):
            likely = np.array([_typical(p) for p in along.p.T])
            best = int(np.argmin(likely))
            findings |= {
                "path_steps": finding([str(step) for step in found.steps]),
                "path_outliers": finding([f"{k:g}" for k in np.median(along.count, axis=0)], n=seeds),
                "widest_step": finding(int(found.steps[best])),
                "widest_outliers": finding(median(along.count[:, best].astype(float), rng=rng)),
                "widest_gap": finding(median(along.gap[:, best], rng=rng)),
                "widest_p": finding(Estimate(min(1.0, len(likely) * likely[best]), None, seeds, "")),
            }
    return findings


def _outlier_findings(found: Measured, rng: np.random.Generator) -> dict[str, Finding]:
    parted, num = found.outliers, found.seeds
    if np.any(parted.count == 0):
        return {}
    return {
        "end_outliers": finding(median(parted.count.astype(float), rng=rng)),
        "end_gap": finding(median(parted.gap, rng=rng)),
        "end_p": finding(Estimate(_typical(parted.p), None, num, "")),
    }


def _typical(p: np.ndarray) -> float:
    """Twice the median p of the seeds, a p of the typical one however much they depend on each other (Rüger 1978)."""
    return min(1.0, 2 * float(np.median(p)))


def _says(findings: dict[str, Finding], found: Measured, classification: bool):
    restarts = plural(found.seeds, "restart", "restarts")
    yield (
        f"At the ends of {{seeds}} {restarts} the largest eigenvalue is {{largest}}, the smallest {{smallest}}"
        + (" (medians)" if found.seeds > 1 else "")
        + (
            "; the most negative curvature is {negative_ratio} of the largest in size, and {share_negative} of all "
            "directions curve down"
            if findings["negative_ratio"]["value"] > 0
            else ""
        )
        + ". The trace, the sum of all eigenvalues, is {trace}"
        + (" (standard error of one: {trace_error:value})." if findings["trace_error"]["value"] > 0 else ".")
    )
    yield (
        ("On {negative} of the restarts the" if found.seeds > 1 else "The")
        + " smallest eigenvalue is clearly negative (residual {residual:value}): the objective is not convex there. That "
        "alone makes no saddle: the gradient would have to be zero."
        if findings["negative"]["value"] > 0
        else "No smallest eigenvalue is clearly negative (residual {residual:value}): the objective curves down in no "
        "direction there."
    )
    if "end_outliers" in findings:
        yield (
            "There are {classes} classes. The number of eigenvalues that stand apart at the end is {end_outliers}; the gap "
            "behind them is {end_gap} times the mean of the next ones "
            + (
                "(p = {end_p:value} among eigenvalues without any order)."
                if findings["end_p"]["value"] < CHANCE
                else "(p = {end_p:value}: among eigenvalues without any order so wide a gap is no surprise)."
            )
        )
    if "widest_step" in findings:
        yield (
            "Along training, at the steps {path_steps}, the median numbers of eigenvalues that stand apart are "
            "{path_outliers}. The gap is clearest at step {widest_step}: {widest_outliers} stand apart by {widest_gap} "
            "times the mean of the next gaps (p = {widest_p:value}, counting that it is the best of {path_checkpoints})."
        )
    if found.path is not None and {"share_start", "share_last"} <= findings.keys():
        yield (
            "The {top}-dimensional eigenspace of the largest eigenvalues holds {share_start} of the squared gradient at "
            "the start"
            + (", {share_middle} at step {middle_step}," if len(found.steps) > 2 and "share_middle" in findings else "")
            + " and {share_last} at the end; a random direction has {null}. The largest eigenvalue peaks at "
            "{peak} at step {peak_step}; the smallest one starts at {start_smallest}."
        )
    names = [name for name in found.blocks.names if f"layer_{name}" in findings]
    if len(names) > 1:
        parts = ", ".join(f"{{layer_{name}}}" for name in names)
        yield f"Layer by layer, from the inputs on, the shares of the trace are {parts}."


def _pictures(
    found: Measured, surfaces: list[Surface], findings: dict[str, Finding], unit: str, loss: str, classification: bool
):
    marks = found.classes if classification else None
    ends, path = (plural(num, "restart", "restarts") for num in (found.seeds, found.path_seeds))
    yield Picture(
        "spectra",
        figures.spectra(found.ends.largest, marks, unit, "Largest eigenvalues at the end"),
        "Largest eigenvalues of the Hessian at the ends of {seeds} "
        + ends
        + ", by rank; thick: the median."
        + (" Upright: the number of classes K, and one less." if classification else ""),
        "Line chart of the largest eigenvalues by rank, from {largest:value} down.",
    )
    if found.path is not None and "widest_step" in findings:
        at = int(np.flatnonzero(found.steps == findings["widest_step"]["value"])[0])
        yield Picture(
            "spectra-path",
            figures.spectra(found.path.extremes.largest[:, at], marks, unit, "Where the gap is clearest"),
            "The same at step {widest_step}: of {path_checkpoints} checkpoints the one with the clearest gap, chosen for "
            "it, of {path_seeds} " + path + ".",
            "Line chart of the largest eigenvalues by rank at step {widest_step}; {widest_outliers:value} stand apart.",
        )
    density = found.spectra.density()
    yield Picture(
        "density",
        figures.density(
            density.grid, density.values.mean(axis=0), density.values, found.ends.largest[:, : found.classes], unit,
            ylabel="density per unit of asinh", linthresh=density.scale,
        ),
        "Distribution of all eigenvalues, over an axis that is linear near zero and logarithmic beyond; mean and band over "
        "{seeds} " + ends + ". Ticks: the largest eigenvalues of every restart.",
        "Density of the eigenvalues: {share_negative:value} of the directions lie below zero.",
    )  # fmt: skip
    if found.path is not None:
        values = found.path.extremes.values
        yield Picture(
            "eigenvalues",
            figures.extreme_along_training(found.steps, values[:, :, 0], values[:, :, -1], unit),
            "Largest and smallest eigenvalue along training of {path_seeds} " + path + ": median and bands over seeds.",
            "Line charts of the largest eigenvalue, which peaks at {peak:value}, and of the smallest, which starts at "
            "{start_smallest:value}.",
        )
        if "share_last" in findings:
            yield Picture(
                "gradient-share",
                figures.gradient_shares(found.steps, found.path.shares, found.path.null, found.path.num),
                "Share of the squared gradient in the {top}-dimensional eigenspace of the largest eigenvalues, of "
                "{path_seeds} " + path + ": median and bands; dashed: the mean of a random direction.",
                "Line chart of the share: {share_start:value} at the start, {share_last:value} at the end.",
            )
    curves = {surface.plane.names[0]: surface for surface in surfaces}
    distances = next(iter(curves.values())).distances[0]
    values = {name: np.asarray(surface.values["train_objective"]) for name, surface in curves.items()}
    if all(np.all(np.isfinite(curve)) for curve in values.values()):
        middle = len(distances) // 2
        parabola = {
            name: curve[middle]
            + _slope(curve, distances) * distances
            + 0.5 * found.ends.values[0, 0 if name.startswith("largest") else -1] * np.square(distances)
            for name, curve in values.items()
        }
        yield Picture(
            "eigenvector-slices",
            figures.slices(distances, values, parabola, list(values), loss),
            "The training objective of the first restart along the eigenvectors of its largest and its smallest eigenvalue; "
            "dashed: the parabola that slope and eigenvalue give.",
            "Line chart of the objective along two eigenvectors, with their parabolas.",
        )
    if np.all(found.blocks.traces.sum(axis=1) > 0) and len(found.blocks.names) > 1:
        yield Picture(
            "layers",
            figures.layer_shares(
                [f"layer {name}" for name in found.blocks.names], found.blocks.traces, found.blocks.errors
            ),
            "Share of every layer's block in the trace of the Hessian, {layer_seeds} "
            + plural(len(found.blocks.traces), "restart", "restarts")
            + ", layers from the inputs on.",
            "Chart of the layers' shares of the trace.",
        )


def _slope(values: np.ndarray, distances: np.ndarray) -> float:
    """Central difference at the centre."""
    middle = len(distances) // 2
    return float((values[middle + 1] - values[middle - 1]) / (distances[middle + 1] - distances[middle - 1]))


SECTION = Section(
    "curvature",
    "How curved is the loss?",
    "How sharp are the ends of training, in how many directions, and does the objective curve down anywhere?",
    some_converged,
    write,
)
