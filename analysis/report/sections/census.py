"""Section: which ends of training are minima, how many distinct ones there are, and how many were not found."""

import jax
import numpy as np

from analysis.alignment import match_weights
from analysis.census import LABELS, Census, census
from analysis.curvature import Objective
from analysis.figures import census as figures
from analysis.figures import landscape
from analysis.figures.census import MOST_ROWS
from analysis.landscape import Surface, common_reach, evaluate, grid, plane_through
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.report.shared import converged_params, forward_flops, plane_points
from analysis.statistics import Estimate, binomial_share, median
from analysis.training import metric_unit
from wspace.run import Run
from wspace.symmetry import act
from wspace.tree import Params, pick

POLISH_FLOPS = 1e12  # what polishing may cost: a quarter of a minute
STEP_EVALUATIONS = 5  # of the objective and its gradient, that a step of L-BFGS takes, about
MOST_STEPS, FEWEST_STEPS, FEWEST_SEEDS = 2000, 20, 4
MOST_NEWTON, FEWEST_NEWTON = 100, 10
MOST_ANCHORS = 6  # minima marked on a plane
TABLE_ROWS = 8  # minima in the table, from the lowest up
LARGEST_COUNT = 15  # decimal digits of a number that is written out
GRADIENT = 1e-10  # length that polishing aims at, relative; certificates allow 100 times as much

REASONS = {
    "gradient": "{gradient_count} because the gradient is not zero yet",
    "no second derivative": "{kink_count} because second derivatives do not agree with differences of the gradient, as on "
    "the kinks of a ReLU",
    "Newton step": "{newton_count} because the nearest stationary point is far away, or at infinity",
    "flat without reason": "{flat_count} because the objective is flat in a direction that nothing explains, as towards a "
    "minimum at infinity",
    "spectrum": "{spectrum_count} because too little of the spectrum is known",
}
NAMES = {
    "gradient": "gradient",
    "no second derivative": "kink",
    "Newton step": "newton",
    "flat without reason": "flat",
    "spectrum": "spectrum",
}


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Certificates, distinct minima, what was not found, and the lowest minima in a plane."""
    ids, params = converged_params(run)
    unit = metric_unit("train_loss", run.loss_kind)
    objective = Objective(run.model, run.loss_kind, run.data, l2=run.spec.objective.l2)
    num, steps, newton_steps = affordable(run, len(ids))
    some = jax.tree.map(lambda leaf: np.asarray(leaf)[:num], params)
    found = census(
        objective,
        some,
        symmetry=run.model.symmetry,
        rng=rng,
        gradient_tolerance=GRADIENT,
        max_steps=steps,
        newton_steps=newton_steps,
        progress=tell,
    )
    surface = _surface(run, objective, found, tell)
    findings = _findings(run, objective, found, unit, steps, rng)
    several = found.num_minima > 0
    return Content(
        findings=findings,
        headline=_headline(findings, found),
        says=tuple(_says(findings, found)),
        shows=("The first {seeds} restarts" if num > 1 else "The first restart")
        + ", polished in double precision by L-BFGS (at most {most_steps} steps) and, where "
        "all entries of the Hessian fit, by Newton's method, on the training objective, the {objective}; and what each of "
        "them is by its gradient and its Hessian."
        + (
            " Certified minima are told apart by their weights"
            + (", modulo permutations, signs and scales of hidden units," if run.model.symmetry.layers else "")
            + " and by what they compute on the train examples."
            if several
            else ""
        ),
        reads="A strict minimum has a zero gradient and curves up in every direction; a degenerate one is flat in some, "
        "each of them explained and none of them falling; a saddle curves down somewhere. What is not converged is not "
        "called a minimum, whatever its loss."
        + (
            " Where the curve of discovery still rises, other restarts would find other minima. The estimate of all "
            "minima, by Chao, is a lower bound that assumes nothing about the sizes of basins."
            if several
            else ""
        ),
        limits="Certificates hold for this objective, these train examples and the tolerances that are shown; they rest on "
        "double precision, not on a proof. Polishing may leave the basin in which training ended: restarts moved by "
        "{moved:value}. Shares of basins are those of this distribution of starting points and this training. "
        + ("Functions are compared on train examples alone. " if several else "")
        + ("Minima whose basins no restart hit are unknown to this count." if several else ""),
        pictures=tuple(_pictures(found, findings, surface, unit, several)),
        facts=tuple(_facts(findings)),
    )


def affordable(run: Run, num: int) -> tuple[int, int, int]:
    """How many restarts are polished, and by how many steps of L-BFGS and of Newton at most, for POLISH_FLOPS each."""
    each = 3 * forward_flops(run, len(run.data.x_train)) * STEP_EVALUATIONS  # forward and backward
    seeds = int(np.clip(POLISH_FLOPS // (each * MOST_STEPS), min(num, FEWEST_SEEDS), num))
    hessian = 2 * each / STEP_EVALUATIONS * run.layout.size  # a product for every param
    return (
        seeds,
        int(np.clip(POLISH_FLOPS // (each * seeds), FEWEST_STEPS, MOST_STEPS)),
        int(np.clip(POLISH_FLOPS // (hessian * seeds), FEWEST_NEWTON, MOST_NEWTON)),
    )


def lowest(found: Census, symmetry, most: int = MOST_ANCHORS) -> dict[str, Params]:
    """The distinct minima of lowest objective, the others aligned to the first; rank -> params."""
    rows = found.representatives[:most]
    first = pick(found.polished.params, int(rows[0]))
    rest = jax.tree.map(lambda leaf: leaf[rows[1:]], found.polished.params)
    if len(rows) > 1 and symmetry.layers:
        rest = act(symmetry, match_weights(symmetry, first, rest, rng=np.random.default_rng(0)).element, rest)
    return {"1": first} | {str(k + 2): pick(rest, k) for k in range(len(rows) - 1)}


def _surface(run: Run, objective: Objective, found: Census, tell: Tell) -> Surface | None:
    """The objective on the plane through the three lowest distinct minima; None with fewer, or where they are on a line."""
    if found.num_minima < 3:
        return None
    networks = lowest(found, run.model.symmetry)
    names = list(networks)
    try:
        plane = plane_through(*(networks[name] for name in names[:3]), names=names[:3])
    except ValueError:  # on one line
        return None
    plane = plane.marked({name: networks[name] for name in names[3:]})
    reach = common_reach([plane]) / plane.lengths
    return evaluate(
        run.model, run.loss_kind, plane, grid(plane, plane_points(run), reach), run.data, metrics=("train_objective",),
        l2=objective.l2, dtype="float64", path=run.path / "census",
        progress=lambda text: tell(f"plane through three minima: {text}"),
    )  # fmt: skip


def _findings(
    run: Run, objective: Objective, found: Census, unit: str, steps: int, rng: np.random.Generator
) -> dict[str, Finding]:
    symmetric = bool(run.model.symmetry.layers)
    certificates, polished, num = found.certificates, found.polished, len(found.certificates.labels)
    findings = {
        "objective": finding(objective.name),
        "seeds": finding(num, n=num),
        "most_steps": finding(steps),
        "certified": finding(binomial_share(len(found.certified), num)),
        "moved": finding(median(polished.moved, rng=rng)),
        "before": finding(median(polished.before, rng=rng, unit=unit)),
        "after": finding(median(polished.after, rng=rng, unit=unit)),
        "gradient_before": finding(median(polished.gradient_before, rng=rng)),
        "gradient_after": finding(median(polished.gradient_after, rng=rng)),
        "gradient_level": finding(100 * GRADIENT * objective.scale),
    }
    for label, count in certificates.counts().items():
        findings[label.replace(" ", "_")] = finding(count, n=num)
    for reason, name in NAMES.items():
        if count := certificates.reasons.count(reason):
            findings[f"{name}_count"] = finding(count, n=num)
    at = found.certified
    if len(at) == 0:
        return findings
    assert found.unseen is not None
    assert found.coverage is not None
    assert found.shares is not None
    assert found.distinct is not None
    num = len(at)
    findings |= {
        "minima": finding(found.num_minima, n=num),
        "by_weights": finding(int(found.distinct.by_weights.max()) + 1, n=num),
        "by_function": finding(int(found.distinct.by_function.max()) + 1, n=num),
        "tolerance": finding(found.distinct.tolerance),
        "unseen": finding(found.unseen),
        "lowest": finding(Estimate(float(found.objectives[0]), None, num, unit)),
        "highest": finding(Estimate(float(found.objectives[-1]), None, num, unit)),
        "largest_basin": finding(binomial_share(int(found.shares.count[0]), num)),
        "largest_basin_objective": finding(Estimate(float(found.objectives[found.shares.label[0]]), None, num, unit)),
        "smallest_eigenvalue": finding(median(certificates.smallest[at], rng=rng, unit=f"{unit} per weight²")),
        "newton_step": finding(float(certificates.steps[at].max()), n=num),
    }  # fmt: skip
    if num > 1:
        findings["coverage"] = finding(found.coverage)
    if len(found.log10_copies) and symmetric:
        low, high = float(found.log10_copies.min()), float(found.log10_copies.max())
        findings["copies_least"] = finding(round(10**low) if low < LARGEST_COUNT else 10 ** min(low, 300.0))
        if high > low and high < LARGEST_COUNT:
            findings["copies_most"] = finding(round(10**high))
    findings |= _table(found, unit, num, symmetric)
    flats = {
        "flat_scale": certificates.flat_scale,
        "flat_shift": certificates.flat_shift,
        "flat_inert": certificates.flat_inert,
    }
    if certificates.num_flat[at].max() > 0:
        findings |= {name: finding(float(np.median(values[at])), n=num) for name, values in flats.items()}
        findings["flat"] = finding(float(np.median(certificates.num_flat[at])), n=num)
    return findings


def _table(found: Census, unit: str, num: int, symmetric: bool) -> dict[str, Finding]:
    """The first TABLE_ROWS minima by their objective."""
    assert found.shares is not None
    counts, findings = dict(zip(found.shares.label.tolist(), found.shares.count.tolist(), strict=True)), {}
    for k in range(min(found.num_minima, TABLE_ROWS)):
        at, name = int(found.representatives[k]), f"minimum_{k + 1}"
        findings |= {
            f"{name}_rank": finding(k + 1),
            f"{name}_objective": finding(Estimate(float(found.objectives[k]), None, num, unit)),
            f"{name}_share": finding(binomial_share(counts[k], num)),
            f"{name}_smallest": finding(float(found.certificates.smallest[at])),
            f"{name}_largest": finding(float(found.certificates.largest[at]), unit=f"{unit} per weight²"),
        }
        if symmetric and found.log10_copies[k] < LARGEST_COUNT:
            findings[f"{name}_copies"] = finding(round(10 ** float(found.log10_copies[k])))
    return findings


def _facts(findings: dict[str, Finding]):
    for k in range(1, TABLE_ROWS + 1):
        name = f"minimum_{k}"
        if f"{name}_rank" in findings:
            text = (
                f"objective {{{name}_objective}}; {{{name}_share}} of the restarts; eigenvalues {{{name}_smallest}} to "
            )
            copies = f"; copies by symmetry: {{{name}_copies}}" if f"{name}_copies" in findings else ""
            yield f"Minimum {{{name}_rank}}", text + f"{{{name}_largest}}" + copies


def _headline(findings: dict[str, Finding], found: Census) -> str:
    if len(found.certificates.labels) == 1:
        what = "a certified minimum" if found.num_minima else "not certified to be a minimum"
        return f"The only restart, polished, is {what}."
    if found.num_minima == 0:
        return "None of {seeds} ends of training, polished, could be certified to be a minimum."
    return (
        "Of {seeds} polished restarts {certified} are certified minima; "
        + (
            "all of them are one and the same"
            if found.num_minima == 1
            else "{minima} of them are distinct, of at least {unseen} in all by Chao's estimate"
        )
        + "."
    )


def _says(findings: dict[str, Finding], found: Census):
    yield (
        "Polishing took the objective from {before} to {after} and the length of its gradient from {gradient_before} to "
        "{gradient_after}, a distance of {moved}" + (" (medians)." if len(found.polished.before) > 1 else ".")
    )
    names = {label: (label, label.replace("minimum", "minima")) for label in LABELS[:2]} | {
        "saddle": ("saddle", "saddles")
    }
    parts = [
        f"{{{label.replace(' ', '_')}}} {plural(found.certificates.labels.count(label), *names[label])}"
        for label in names
    ]
    reasons = [text for reason, text in REASONS.items() if f"{NAMES[reason]}_count" in findings]
    yield (
        f"Certificates: {', '.join(parts)}, {{not_converged}} not converged"
        + (f" ({'; '.join(reasons)})." if reasons else ".")
    )
    if found.num_minima == 0:
        yield "So nothing is counted here: how many minima there are remains open."
        return
    one, hidden = found.num_minima == 1, found.distinct is not None and "copies_least" in findings
    yield (
        ("Modulo the symmetry of hidden units, and up" if hidden else "Up")
        + " to a relative distance of {tolerance}, the number of certified minima is {by_weights} by weights and "
        "{by_function} by function. "
        + ("They form continua of weights, so functions are counted. " if found.by_function else "")
        + (
            "Its objective is {lowest}. "
            if one
            else "Their objectives lie between {lowest} and {highest}; the largest basin takes {largest_basin} of the "
            "restarts and has {largest_basin_objective}. "
        )
        + (
            ""
            if not hidden
            else "Permutations and signs alone make {copies_least} to {copies_most} copies of each."
            if "copies_most" in findings
            else "Permutations and signs alone make {copies_least} copies of each."
            if found.log10_copies.max() < LARGEST_COUNT
            else "Permutations and signs alone make {copies_least} copies of each, or more."
        )
    )
    if "coverage" in findings:
        yield (
            "Another restart would end in one of the minima found with a probability of {coverage} (Good and Turing); all "
            "in all there are at least {unseen} minima by Chao's estimate."
        )
    if "flat" in findings:
        yield (
            "A median of {flat} directions are flat at the certified minima: {flat_scale} rescale units, {flat_shift} "
            "shift all logits alike, {flat_inert} move no output on the train examples."
            + (
                " Along the last of these second derivatives prove nothing; the objective was probed there and does not "
                "fall."
                if findings["flat_inert"]["value"] > 0
                else ""
            )
        )


def _pictures(found: Census, findings: dict[str, Finding], surface: Surface | None, unit: str, several: bool):
    yield Picture(
        "certificates",
        figures.certificates(found.certificates.counts()),
        "What the ends of training are, once polished ({seeds} in all).",
        "Stacked bar: {strict_minimum} strict minima, {degenerate_minimum} degenerate minima, {saddle} saddles, "
        "{not_converged} not converged.",
    )
    yield Picture(
        "stationarity",
        figures.stationarity(
            found.polished.gradient_before,
            found.polished.gradient_after,
            findings["gradient_level"]["value"],
            f"{unit} per weight",
        ),
        "Length of the objective's gradient of every restart, as trained and polished; the line: up to there a point counts "
        "as stationary.",
        "Rows of dots: the gradient's length, median {gradient_before:value} as trained, {gradient_after:value} polished.",
    )
    if not several:
        return
    assert found.discovery is not None
    assert found.unseen is not None
    assert found.shares is not None
    assert found.distinct is not None
    curve, labels = found.discovery, found.labels
    order = np.array([len(np.unique(labels[: k + 1])) for k in range(len(labels))])
    yield Picture(
        "discovery",
        figures.discovery(
            curve.restarts, curve.found, curve.low, curve.high, curve.extrapolated, order,
            (found.unseen.value, found.unseen.ci),
        ),
        "Distinct minima among so many certified restarts: expected, and as they came. Dashed: extrapolated. Right: the "
        "estimate of all minima with its interval.",
        "Line chart of distinct minima against restarts: {minima} among those certified, at least {unseen:value} in all by "
        "estimate.",
    )  # fmt: skip
    counts = {"by weights": found.distinct.num_by_weights, "by function": found.distinct.num_by_function}
    yield Picture(
        "tolerances",
        figures.tolerances(found.distinct.tolerances, counts, found.distinct.tolerance),
        "Distinct minima against the relative distance up to which two count as one; upright: the one that is used. A "
        "plateau says that the count does not hang on it.",
        "Line chart of the number of distinct minima against the tolerance: {by_weights} by weights and {by_function} by "
        "function at {tolerance}.",
    )
    place = {int(label): k for k, label in enumerate(found.shares.label)}
    rows = [place[label] for label in range(min(found.num_minima, MOST_ROWS))]
    left = [place[label] for label in range(len(rows), found.num_minima)]
    others = (len(left), float(found.shares.share[left].sum())) if left else None
    yield Picture(
        "ladder",
        figures.ladder(
            found.objectives[: len(rows)], found.shares.share[rows], found.shares.low[rows], found.shares.high[rows],
            [f"minimum {k + 1}" for k in range(len(rows))], unit, others,
        ),
        "The distinct minima from the lowest objective up, with the share of certified restarts that ended in each and its "
        "exact binomial interval.",
        "Bars: the largest basin takes {largest_basin:value} of the restarts.",
    )  # fmt: skip
    if surface is not None:
        scale = landscape.shared_scale([surface], "train_objective")
        yield Picture(
            "plane-minima",
            landscape.contours(surface, "train_objective", f"train objective ({unit})", scale, "Through three minima"),
            "The objective on the plane through the three lowest distinct minima, the others aligned to the first. White: "
            "on the plane; grey: minima off it, at their nearest point, with their distance.",
            "Contour map of the objective on the plane through three minima; the lowest has {lowest:value}.",
        )


SECTION = Section(
    "census",
    "How many minima are there?",
    "Which ends of training are minima, how many distinct ones were found, and how many were not?",
    some_converged,
    write,
)
