"""Section: barriers between all pairs, the trees that they make, and curves around them."""

import dataclasses
import itertools

import jax
import numpy as np

from analysis.alignment.study import NUM_ALPHAS
from analysis.connectivity import Line, PairBarriers, straight_line
from analysis.connectivity.curves import Shape, curve_lines, fit_curves
from analysis.connectivity.merge_tree import MergeTree, components, merge_tree, minimax_gain, through_others
from analysis.figures import connectivity as figures
from analysis.figures import style
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, two_converged
from analysis.report.shared import (
    EQUAL,
    alignment_study,
    all_equal,
    converged_params,
    forward_flops,
    population_barriers,
)
from analysis.statistics import Estimate, interval_seeds, median_over_pairs, pair_values
from analysis.threads import in_threads
from analysis.training import metric_unit
from wspace.run import Run
from wspace.symmetry import act
from wspace.tree import Params, pick

WAYS = {"raw": "as trained", "weights": "aligned", "random": "relabelled at random"}
COLORS = {"raw": style.INIT, "weights": style.END, "random": style.TRAVELLED}
CURVE_FLOPS = 4e12  # what fitting the curves of one shape may cost: half a minute
MOST_CURVE_SEEDS, FEWEST_CURVE_SEEDS = 5, 2
CURVE_ALPHAS = 31
SHAPES: tuple[Shape, ...] = ("bezier", "polygon")
CURVE_STEPS, CURVE_BATCH, CURVE_POINTS = 2000, 128, 2  # of fitting
TENTH = 0.1  # barriers up to this share of the median one, as trained, count as none


@dataclasses.dataclass(frozen=True)
class Paths:
    """Lines and curves between the same pairs.

    Attributes:
        members: positions of the seeds of each pair.
        lines: name -> a line for each pair, None where a curve diverged.
        lengths: name of a curve -> its length / the distance of its ends, per pair.
    """

    members: np.ndarray
    lines: dict[str, list[Line | None]]
    lengths: dict[str, np.ndarray]

    @property
    def kept(self) -> list[int]:
        """Positions of the pairs of which no curve diverged: all kinds of paths are compared on these."""
        return [k for k in range(len(self.members)) if all(lines[k] is not None for lines in self.lines.values())]


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Barrier matrices, merge trees and curves."""
    ids, params = converged_params(run)
    if all_equal(params):
        return Content(
            findings={"seeds": finding(len(ids), n=len(ids))},
            says=("All {seeds} restarts have equal weights: nothing lies between them.",),
        )
    unit = metric_unit("train_loss", run.loss_kind)
    ids, params, every = population_barriers(run, tell)
    barriers = {way: every[way]["train_loss"] for way in WAYS if way in every}
    trees = {way: merge_tree(found.top, np.diag(found.top)) for way, found in barriers.items()}
    paths = _paths(run, params, rng, tell)
    findings = _findings(barriers, every, unit, rng, ids) | _path_findings(paths, unit, rng)
    findings["population"] = finding(int(run.converged().sum()), n=int(run.converged().sum()))
    hidden = bool(run.model.symmetry.layers)
    return Content(
        findings=findings,
        headline=_headline(findings),
        says=tuple(_says(findings, hidden)),
        shows="Barriers of the train loss on the straight lines between any two of the first {seeds} of {population} "
        "restarts ({pairs} in all)"
        + (
            ", as trained, aligned pair by pair by weight matching, and relabelled at random (the null)"
            if hidden
            else ""
        )
        + ". The trees say at which level of the loss restarts come into one component, when every step may be a straight "
        "line to any other restart. Curves with one free bend are trained between any two of {curve_seeds} restarts "
        "({curve_pairs} in all), their ends fixed.",
        reads="A barrier is the height above the chord, unless said otherwise. Restarts that are joined low in a tree are "
        "connected by a chain of low lines. "
        + (
            "A random relabelling leaves every function as it is: where it draws the same tree, the tree shows labels, not "
            "functions. "
            if hidden
            else ""
        )
        + "Where the straight line passes high and the curve low, the barrier is one of the line, "
        "not of the landscape. Losses along curves are by arc length.",
        limits="Only lines between these restarts, and curves with one bend, were tried: other paths may be lower, so every "
        "barrier and every merge is an upper bound, but for peaks narrower than the spacing of the points. Two components "
        "are not two basins, and nothing here is certified to be a minimum. The number of components grows with the number "
        "of restarts. Curves are fitted to the train loss for a fixed number of steps: a barrier that remains may be one "
        "of fitting, and on the test loss there is none that they avoid on purpose. Lines have {alphas} points and finer "
        "ones around each maximum. Pairs share restarts, so intervals resample restarts."
        + (
            " With so few restarts, take the intervals of curves as too narrow."
            if findings["curve_seeds"]["value"] < interval_seeds()
            else ""
        )
        + " Numbers that come from the whole graph (through others, joined, groups) have no interval.",
        pictures=tuple(_pictures(barriers, trees, paths, ids, unit, findings)),
    )


def _paths(run: Run, params: Params, rng: np.random.Generator, tell: Tell) -> Paths:
    """Straight lines, raw and aligned, and fitted curves between all pairs of the first few seeds."""
    num_seeds, key = jax.tree.leaves(params)[0].shape[0], jax.random.key(int(rng.integers(2**31)))
    each = fit_flops(run)
    allowed = (1 + np.sqrt(1 + 8 * CURVE_FLOPS / each)) // 2
    num = min(num_seeds, int(np.clip(allowed, FEWEST_CURVE_SEEDS, MOST_CURVE_SEEDS)))
    members = np.array(list(itertools.combinations(range(num), 2)))
    a, b = (jax.tree.map(lambda leaf, k=k: np.asarray(leaf)[members[:, k]], params) for k in (0, 1))
    ends = {"straight": b}
    if run.model.symmetry.layers:
        matches = alignment_study(run, tell).matches
        moved = [act(run.model.symmetry, matches.element[i, j], pick(params, j)) for i, j in members.tolist()]
        ends["aligned"] = jax.tree.map(lambda *leaves: np.stack(leaves), *moved)
    l2, norms = run.spec.objective.l2, _norms(a) + _norms(b)
    lines: dict[str, list[Line | None]] = {}
    for name, others in ends.items():
        tell(f"lines, {name}")
        lines[name] = in_threads(
            lambda k, others=others: straight_line(
                run.model, run.loss_kind, pick(a, k), pick(others, k), run.data, l2=l2, num_alphas=CURVE_ALPHAS
            ),
            range(len(members)),
        )
    lengths = {}
    for shape in SHAPES:
        curves = fit_curves(
            run.model, run.loss_kind, a, b, run.data, key=key, shape=shape, l2=l2,
            num_steps=CURVE_STEPS, batch_size=min(CURVE_BATCH, len(run.data.x_train)), num_points=CURVE_POINTS,
            progress=lambda text, shape=shape: tell(f"curves, {shape}: {text}"),
        )  # fmt: skip
        lines[shape] = curve_lines(run.model, run.loss_kind, a, b, run.data, curves, l2=l2, num_alphas=CURVE_ALPHAS)
        lengths[shape] = np.where(curves.distance > EQUAL * norms, curves.detour, np.nan)  # not of equal ends
    return Paths(members, lines, lengths)


def _norms(params: Params) -> np.ndarray:
    """|theta| of stacked networks."""
    return np.sqrt(sum(np.square(np.float64(x)).reshape(len(x), -1).sum(axis=1) for x in jax.tree.leaves(params)))


def fit_flops(run: Run) -> float:
    """What fitting one curve takes, forward and backward, which is as much as three times forward."""
    return 3 * forward_flops(run, CURVE_STEPS * CURVE_BATCH * CURVE_POINTS)


def _square(paths: Paths, values: np.ndarray) -> np.ndarray:
    """(seed, seed) from one number a pair; NaN where there is none."""
    num = int(paths.members.max()) + 1
    matrix = np.full((num, num), np.nan)
    first, second = paths.members.T
    matrix[first, second] = matrix[second, first] = values
    np.fill_diagonal(matrix, 0)
    return matrix


def _findings(
    barriers: dict[str, PairBarriers], every: dict[str, dict[str, PairBarriers]], unit: str,
    rng: np.random.Generator, ids: list[int],
) -> dict[str, Finding]:  # fmt: skip
    num = len(ids)
    findings = {
        "seeds": finding(num, n=num),
        "pairs": finding(num * (num - 1) // 2, n=num),
        "alphas": finding(NUM_ALPHAS),
    }
    threshold = TENTH * float(np.median(pair_values(barriers["raw"].chord)))
    findings["threshold"] = finding(Estimate(threshold, None, num, unit))
    for way, found in barriers.items():
        findings |= {
            f"{way}_train": finding(median_over_pairs(found.chord, rng=rng, unit=unit)),
            f"{way}_train_mean": finding(median_over_pairs(found.mean, rng=rng, unit=unit)),
            f"{way}_test": finding(median_over_pairs(every[way]["test_loss"].chord, rng=rng, unit=unit)),
            f"{way}_through_others": finding(median_over_pairs(through_others(found.chord), rng=rng, unit=unit))
            | {"ci": None},
            f"{way}_joined": finding(Estimate(float(through_others(found.chord).max()), None, num, unit)),
            f"{way}_components": finding(int(_components(found, np.array([threshold]))[0]), n=num),
        }
        if num >= 3 and (gain := minimax_gain(found.chord, rng=rng)) is not None:
            findings[f"{way}_detour_ratio"] = finding(gain)
    return findings


def _components(found: PairBarriers, levels: np.ndarray) -> np.ndarray:
    return components(found.chord, np.zeros(len(found.chord)), levels)


def _path_findings(paths: Paths, unit: str, rng: np.random.Generator) -> dict[str, Finding]:
    num = int(paths.members.max()) + 1
    findings = {
        "curve_pairs": finding(len(paths.members), n=num),
        "curve_seeds": finding(num, n=num),
        "curves_diverged": finding(sum(line is None for lines in paths.lines.values() for line in lines), n=num),
    }
    for name, every in paths.lines.items():
        lines = [line if k in paths.kept else None for k, line in enumerate(every)]
        for split in ("train", "test"):
            heights = np.array([np.nan if x is None else x.barriers[f"{split}_loss"].chord for x in lines])
            if np.isfinite(heights).any():
                estimate = median_over_pairs(_square(paths, heights), rng=rng, unit=unit)
                findings[f"path_{name}_{split}"] = finding(estimate)
        if name in paths.lengths and np.isfinite(paths.lengths[name]).any():
            findings[f"path_{name}_length"] = finding(median_over_pairs(_square(paths, paths.lengths[name]), rng=rng))
    return findings


def _headline(findings: dict[str, Finding]) -> str:
    start = "The straight lines between {seeds} restarts have a median barrier of {raw_train}"
    if "weights_train" in findings:
        start += ", aligned ones of {weights_train}"
    if "path_bezier_train" in findings:
        return start + "; curves with one free bend, as trained, of {path_bezier_train} ({curve_seeds} seeds)."
    return start + "."


def _says(findings: dict[str, Finding], hidden: bool):
    groups = lambda way: plural(findings[f"{way}_components"]["value"], "group", "groups")  # noqa: E731
    yield (
        "On the straight lines between {seeds} restarts the median barrier of the train loss is {raw_train} as trained"
        + (
            ", {weights_train} aligned pair by pair, and {random_train} relabelled at random. On the test loss it is "
            "{raw_test}, {weights_test} and {random_test}."
            if hidden
            else ", and {raw_test} on the test loss."
        )
        + " Above the mean of the ends instead of the chord, it is {raw_train_mean} on the train loss"
        + (", {weights_train_mean} aligned and {random_train_mean} relabelled at random." if hidden else ".")
    )
    through = (
        "Going through other restarts, line by line, the median is {raw_through_others} as trained"
        + (" and {weights_through_others} aligned. " if hidden else ". ")
        if findings["seeds"]["value"] > 2
        else ""
    )
    yield (
        through
        + "All restarts hang together once barriers of {raw_joined} are no obstacle"
        + (", aligned of {weights_joined}" if hidden else "")
        + ". At a tenth of the median barrier as trained, {threshold}, they fall into {raw_components} "
        + groups("raw")
        + (", aligned into {weights_components}, relabelled at random into {random_components}." if hidden else ".")
    )
    if "path_bezier_train" in findings:
        polygon = "path_polygon_train" in findings
        yield (
            "Between any two of {curve_seeds} restarts, as trained, a Bézier curve with one free bend has a "
            "median barrier of {path_bezier_train} on the train and {path_bezier_test} on the test loss"
            + (", a chain of two segments of {path_polygon_train} and {path_polygon_test}" if polygon else "")
            + "; the straight lines between the same restarts have {path_straight_train} and {path_straight_test}"
            + (", aligned {path_aligned_train} and {path_aligned_test}" if "path_aligned_train" in findings else "")
            + "."
            + (
                " The curves are {path_bezier_length} times as long as the straight lines"
                + (" (the chains {path_polygon_length} times)." if "path_polygon_length" in findings else ".")
                if "path_bezier_length" in findings
                else ""
            )
        )
    if findings["curves_diverged"]["value"]:
        yield "Fitting did not succeed for {curves_diverged} curves, whose loss was not finite; they are left out."


def _pictures(
    barriers: dict[str, PairBarriers], trees: dict[str, MergeTree], paths: Paths, ids: list[int], unit: str,
    findings: dict[str, Finding],
):  # fmt: skip
    shown = [way for way in ("raw", "weights") if way in barriers]
    top = max(float(np.nanmax(barriers[way].chord)) for way in shown)
    for way in shown:
        name = "raw" if way == "raw" else "aligned"
        yield Picture(
            f"barriers-{name}",
            figures.matrix(
                barriers[way].chord, trees[way].order, ids, f"Barriers, {WAYS[way]}", f"barrier of the train loss ({unit})",
                top,
            ),
            f"Height of the train loss above the chord, {WAYS[way]}, seeds in the order of the tree below. "
            + ("Both matrices share the scale." if len(shown) > 1 else ""),
            f"Matrix of barriers between {{seeds}} restarts, {WAYS[way]}; the median is {{{way}_train:value}}.",
        )  # fmt: skip
    levels = np.concatenate([values for tree in trees.values() for values in (tree.leaves, tree.height)])
    low, high = float(levels.min()), float(levels.max())
    log = low > 0 and high >= 10 * low
    limits = (low / 1.5, high * 1.5) if log else (low - 0.05 * (high - low), high + 0.05 * (high - low) + 1e-12)
    for way in trees:
        yield Picture(
            f"tree-{'aligned' if way == 'weights' else way}",
            figures.tree(
                trees[way], ids, f"Merging components, {WAYS[way]}", f"train loss ({unit})", limits, log, COLORS[way]
            ),
            f"Tree of the restarts, {WAYS[way]}: dots are their own losses; two branches join at the lowest level at which "
            "a chain of straight lines connects them.",
            f"Tree of {{seeds}} restarts, {WAYS[way]}, joined by chains of lines; a barrier of {{{way}_joined:value}} at "
            "most has to be passed.",
        )
    values = np.concatenate([pair_values(found.chord) for found in barriers.values()])
    if np.any(values > 0):
        positive = values[values > 0]
        steps = np.geomspace(max(positive.min(), positive.max() * 1e-4) / 2, positive.max() * 1.3, 400)
        counts = {WAYS[way]: (_components(found, steps), COLORS[way]) for way, found in barriers.items()}
        yield Picture(
            "components",
            figures.components(steps, counts, unit),
            "Number of components of {seeds} restarts when barriers of at most this height are no obstacle; chains through "
            "other restarts count.",
            "Step chart of the number of components against the threshold: at {threshold:value} there are {raw_components} "
            "as trained" + (" and {weights_components} aligned." if "weights" in barriers else "."),
        )
    labels = {
        "straight": ("straight, as trained", style.INIT),
        "aligned": ("straight, aligned", style.END),
        "bezier": ("Bézier curve, as trained", style.CYCLE[6]),
        "polygon": ("two segments, as trained", style.CYCLE[4]),
    }
    kept = {name: [line for k in paths.kept if (line := lines[k]) is not None] for name, lines in paths.lines.items()}
    if all(kept.values()):
        alphas = next(iter(kept.values()))[0].alphas
        drawn = {labels[n][0]: (np.stack([x.values["train_loss"] for x in kept[n]]), labels[n][1]) for n in kept}
        yield Picture(
            "curves",
            figures.paths(alphas, drawn, f"train loss ({unit})"),
            "Train loss on straight lines and on fitted curves between any two of {curve_seeds} restarts. Thin: every pair; "
            "thick: the median over pairs at each place.",
            "Line chart of the train loss along paths between restarts: median barriers {path_straight_train:value} on "
            "straight lines, {path_bezier_train:value} on Bézier curves.",
        )


SECTION = Section(
    "connectivity",
    "How restarts hang together",
    "Are the ends of training connected by paths of low loss?",
    two_converged,
    write,
)
