"""Figures draw what they are given: exactly, with units, inside their edges, touching nothing global."""

import itertools
import re
import warnings
from typing import cast

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import NullLocator

from analysis import training
from analysis.alignment.nulls import Recovery
from analysis.alignment.study import Embedding
from analysis.connectivity import Barrier, Line
from analysis.connectivity.merge_tree import merge_tree
from analysis.figures import alignment as alignment_figures
from analysis.figures import census as census_figures
from analysis.figures import connectivity as connectivity_figures
from analysis.figures import curvature as curvature_figures
from analysis.figures import function as function_figures
from analysis.figures import interactive, style
from analysis.figures import landscape as landscape_figures
from analysis.figures import line as line_figures
from analysis.figures import representation as representation_figures
from analysis.figures import similarity as similarity_figures
from analysis.figures import strips as strips_figures
from analysis.figures import sweep as sweep_figures
from analysis.figures import training as training_figures
from analysis.figures import trajectory as trajectory_figures
from analysis.figures import units as units_figures
from analysis.landscape.planes import Plane
from analysis.landscape.shadows import Shadows
from analysis.landscape.surface import Surface
from analysis.projection import compare, grams, walk
from analysis.similarity import distances
from analysis.statistics import Estimate, pair_values

NUM, STEPS = 9, np.array([0, 1, 3, 10, 30, 100, 1000])


@pytest.fixture
def walks(rng):
    """Distances of nine seeds in fifty dimensions."""
    start = rng.standard_normal((NUM, 50))
    return distances(start, start + 0.5 * rng.standard_normal((NUM, 50)), rng=rng)


@pytest.fixture
def curve(rng):
    """Losses over three decades; one seed diverges, another is not finished."""
    values = np.exp(-np.linspace(0, 7, len(STEPS)) + 0.1 * rng.standard_normal((NUM, len(STEPS))))
    values[2, 3:] = np.nan
    values[5, 1:] = np.nan
    converged = ~np.isnan(values[:, -1])
    return training.curves("train_loss", STEPS, values, converged, unit="nats")


@pytest.fixture
def line():
    """A bump between two ends of different loss."""
    alphas = np.linspace(0, 1, 11)
    values = {name: 0.1 + 0.2 * alphas + np.sin(np.pi * alphas) for name in ("train_loss", "test_loss")}
    values |= {"train_accuracy": 1 - 0.5 * np.sin(np.pi * alphas), "test_accuracy": 0.9 - 0.4 * np.sin(np.pi * alphas)}
    barrier = Barrier(1.0, 0.5, 1.0, 0.5, excess=1.0, tolerance=1e-10, share_above=1.0)
    return Line(alphas, values, dict.fromkeys(("train_loss", "test_loss", "train_objective"), barrier), 3.0)


def finals(rng, unit="nats", num=NUM, low=0.1):
    return {
        split: training.final(f"{split}_loss", low + 0.01 * rng.random(num), rng=rng, unit=unit)
        for split in ("train", "test")
    }


def estimates(unit=""):
    return {
        label: [(x, Estimate(x + i + 1, (x + i + 0.5, x + i + 1.5), 5, unit)) for x in (0.01, 0.1, 1.0)]
        for i, label in enumerate(("l2 = 0", "l2 = 0.1"))
    }


def median_of(values) -> Estimate:
    return Estimate(float(np.median(values)), (float(values.min()), float(values.max())), NUM)


def strips(rng):
    values = {label: 10 + rng.random(36) for label in ("as trained", "relabelled\nat random", "aligned")}
    return {label: (v, median_of(v), style.END) for label, v in values.items()}


def barriers(rng):
    values = {label: rng.random((2, 36)) for label in ("as trained", "aligned by\nweights", "by weights,\nthen REPAIR")}
    return {
        label: {split: (v, median_of(v)) for split, v in zip(("train", "test"), both, strict=True)}
        for label, both in values.items()
    }


def unit_rows(rng):
    return {label: [rng.uniform(-1, 1, (36, num)) for num in (8, 5)] for label in ("matched", "at random")}


def points_in_plane(rng):
    return Embedding(rng.standard_normal((NUM, 2)), 3 + 0.1 * rng.standard_normal((NUM, 2)), (0.061, 0.012))


def recovered(rng):
    noise = np.array([0.0, 1.0, 3.0, 1.5])  # the observed one last, as the study gives it
    shares = np.clip(1.2 - 0.3 * noise[:, None] + 0.05 * rng.standard_normal((4, NUM)), 0, 1)
    return Recovery(noise, shares, shares, shares)


def surface(*, hole=False, rise=1.0):
    """A bowl between three networks, its loss e^(rise r^2) - 0.9; with a hole it overflows in a corner."""
    axes = tuple(np.arange(-4, 5) / 4 for _ in range(2))
    directions = {"w": np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])}
    networks = {name: {"w": np.array(w)} for name, w in (("seed 0", (-1.5, -1.0, 0.0)), ("seed 7", (1.5, 1.0, 0.1)))}
    plane = Plane({"w": np.zeros(3)}, directions, ("seed 0 to seed 7", "towards seed 9"), "by hand").marked(networks)
    values = np.exp(rise * (axes[0][:, None] ** 2 + axes[1] ** 2)) - 0.9
    if hole:
        values[0, 0], values[-1, -1] = np.inf, np.nan
    return Surface(
        plane,
        axes,
        {"train_loss": values},
        {"train_loss": np.array([0.2, 0.3])},
        {"train_loss": np.array([0.2, 0.31])},
        "float32",
    )


def contours(shown):
    scale = landscape_figures.shared_scale([shown], "train_loss")
    return landscape_figures.contours(shown, "train_loss", "train loss (nats)", scale, "Plane")


def heights():
    """Barriers between five restarts of which 1 and 4 are close."""
    rng = np.random.default_rng(3)
    matrix = 1 + rng.random((5, 5))
    matrix = (matrix + matrix.T) / 2
    matrix[1, 4] = matrix[4, 1] = 0.2
    np.fill_diagonal(matrix, 0)
    return matrix


def tree():
    return merge_tree(heights(), np.array([0.01, 0.02, 0.015, 0.01, 0.03]))


PATH = np.array([[[-0.8, 0.5], [0.1, 0.2], [0.7, -0.6]], [[0.9, 0.9], [0.0, 0.1], [-0.5, 0.4]]])


def on_plane(shown):
    scale = landscape_figures.shared_scale([shown], "train_loss")
    named = {"seed 3": PATH[0], "seed 8": PATH[1]}
    return trajectory_figures.on_plane(shown, "train_loss", "train loss (nats)", scale, "Two restarts", named)


def shadows():
    own, flat = np.geomspace(2, 0.01, 4), np.geomspace(1.5, 0.03, 4)
    far = np.array([1.0, 0.4, 0.2, 0.9])
    return Shadows(np.zeros((4, 2)), far / 2, far, {"train_loss": own}, {"train_loss": flat})


def null(rng):
    theta = walk(rng.uniform(0.5, 2, (5, 9)), 200, rng=rng)
    return compare(grams(theta), 200, 3, num_walks=20, rng=rng)


def layer_rows(rng):
    return {
        name: np.geomspace(1, 0.01, 6) * rng.uniform(0.9, 1.1, (5, 6)) for name in ("all weights", "layer 0", "layer 1")
    }


def sampled(rng) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    score = np.linspace(0.97, 0.6, 5) - 0.01 * rng.random((4, 1))
    return {"each weight by its own spread": (score, 0.98 - score), "in as many random directions": (score, 1 - score)}


CURVATURE = "nats per squared unit of weight"
TRAINED = np.array([0, 1, 4, 16, 64, 256, 1000, 3000])


def eigenvalues(rng, num=NUM):
    """Ten outliers, a bulk of four decades, and two negative ones, as those of a classifier of ten classes."""
    values = np.concatenate([[20, 12, 9, 7, 5.5, 4, 3, 2.2, 1.5, 1], np.geomspace(0.3, 1e-4, 18), [-0.001, -0.05]])
    return values * np.exp(0.2 * rng.standard_normal((num, 1)))


def density(rng):
    """Of the same: a bump at each eigenvalue, over asinh."""
    values, scale = eigenvalues(rng), 2e-3
    u = np.linspace(np.arcsinh(-0.1 / scale), np.arcsinh(40 / scale), 120)
    seeds = np.exp(-0.5 * ((u - np.arcsinh(values / scale)[:, :, None]) / 0.08) ** 2).sum(axis=1)
    return curvature_figures.density(
        scale * np.sinh(u), seeds.mean(axis=0), seeds, values[:, :10], CURVATURE, ylabel="density (share per unit of asinh)",
        linthresh=scale,
    )  # fmt: skip


def extremes(rng):
    """The largest eigenvalue rises and falls; the smallest goes from -1.5 to -0.01."""
    spread = np.exp(0.2 * rng.standard_normal((NUM, len(TRAINED))))
    return 3 * np.exp(2 * (1 - np.exp(-TRAINED / 100))) * spread, -(0.01 + 1.5 * np.exp(-TRAINED / 50)) * spread


def along_eigenvectors():
    """The loss grows slower than its parabola; along the smallest one it falls first."""
    x = np.linspace(-1, 1, 21)
    curved = {"largest: 20": 20.0, "tenth: 1": 1.0, "smallest: −0.05": -0.05}
    parabolas = {name: 0.012 + value * x**2 / 2 for name, value in curved.items()}
    return (
        x,
        {name: p + 0.04 * x**4 * (1 if p[0] < 0 else -1) for name, p in parabolas.items()},
        parabolas,
        list(curved),
    )


def traces(rng):
    return np.array([60.0, 25.0, 9.0]) * np.exp(0.2 * rng.standard_normal((NUM, 3)))


def found_in_xor():
    """Shares of twelve minima, and how many of them n restarts find in expectation."""
    shares = np.array([0.6, 0.15, 0.08, 0.05, 0.04, 0.03, 0.02, 0.01, 0.008, 0.006, 0.004, 0.002])
    restarts = np.arange(1, 2001, 37)
    return shares, restarts, (1 - (1 - shares) ** restarts[:, None]).sum(axis=1)


def discovery():
    _, restarts, found = found_in_xor()
    order = np.minimum(1 + np.arange(1000) // 40, 12)
    return census_figures.discovery(restarts, found, found - 1, found + 1, restarts > 1000, order, (12.6, (12.0, 19.0)))


def ladder():
    shares, *_ = found_in_xor()
    losses = np.append(3.2e-13, np.linspace(0.17, 0.6931, 11))
    names = [f"minimum {i + 1}" for i in range(12)]
    return census_figures.ladder(losses, shares, 0.9 * shares, 1.1 * shares + 0.004, names, "nats", (5, 0.01))


def draw(walks, curve, line):
    """One of each figure, by name."""
    rng = np.random.default_rng(1)
    wide = training.final("train_loss", 10.0 ** np.arange(-4, 5), rng=rng, unit="squared error")
    share = training.curves("test_accuracy", STEPS, 1 / (1 + curve.values), curve.converged, unit="share")
    return {
        "curves": training_figures.curves("Loss", "loss (nats)", {"train": curve, "test": curve}),
        "shares": training_figures.curves("Accuracy", "accuracy", {"train": share, "test": share}),
        "gradient": training_figures.curves("Norm", "squared error per unit of weight", {"norm": curve}),
        "finals": training_figures.finals("Loss at the end", "loss (nats)", finals(rng)),
        "accuracies": training_figures.finals("Accuracy at the end", "accuracy", finals(rng, "share", low=0.9)),
        "wide": training_figures.finals("Loss at the end", "loss (squared error)", {"train": wide, "test": wide}),
        "distances": similarity_figures.distances(walks),
        "cosines": similarity_figures.cosines(walks),
        "losses": line_figures.losses(line, "loss (nats)"),
        "scores": line_figures.scores(line),
        "strips": strips_figures.strips("Distance", "distance in weight space", strips(rng)),
        "barriers": alignment_figures.barriers("nats", barriers(rng)),
        "units": alignment_figures.units(unit_rows(rng), {"matched": style.END, "at random": style.TRAVELLED}),
        "embedding": alignment_figures.embedding(points_in_plane(rng), 3),
        "recovery": alignment_figures.recovery(recovered(rng), 1.5),
        "contours": contours(surface()),
        "hole": contours(surface(hole=True, rise=3.0)),
        "relief": landscape_figures.relief(
            surface(),
            "train_loss",
            "train loss (nats)",
            landscape_figures.shared_scale([surface()], "train_loss"),
            "Relief",
        ),
        "bands": landscape_figures.bands(
            np.linspace(-1, 1, 5),
            {s: np.sort(10 ** rng.random((5, 5)), axis=0) for s in ("train", "test")},
            "loss (nats)",
        ),
        "matrix": connectivity_figures.matrix(heights(), tree().order, range(5), "Barriers", "barrier (nats)", 2.0),
        "tree": connectivity_figures.tree(tree(), range(5), "Tree", "train loss (nats)", (0.005, 3), True, style.END),
        "components": connectivity_figures.components(
            np.geomspace(0.01, 3, 9), {"as trained": (np.array([5, 5, 5, 5, 5, 4, 4, 1, 1]), style.INIT)}, "nats"
        ),
        "paths": connectivity_figures.paths(
            np.linspace(0, 1, 5), {"straight": (1 + rng.random((3, 5)), style.INIT)}, "train loss (nats)"
        ),
        "on plane": on_plane(surface()),
        "shadow": trajectory_figures.shadow(np.array([0, 1, 10, 100]), shadows(), "train loss (nats)"),
        "hidden": trajectory_figures.hidden({"as trained": shadows(), "aligned": shadows()}, "train loss (nats)"),
        "scree": trajectory_figures.scree(null(rng), 0.05, 0.95, "5 to 95 %"),
        "curves of components": trajectory_figures.components(null(rng).curves, null(rng).expected_curves),
        "in plane": trajectory_figures.in_plane(
            PATH, ["seed 3", "seed 8"], "From one start", "component 1", "component 2"
        ),
        "over steps": trajectory_figures.over_steps(
            "How fast?",
            "distance per training step",
            np.geomspace(0.5, 3000, 6),
            layer_rows(rng),
            [style.INK, style.TRAIN, style.TEST],
            log=True,
            null=("independent directions", np.full(6, 0.5)),
        ),
        "layers": function_figures.layers(
            np.array([[0.9, 0.4], [np.nan, 0.8]]), ["1", "outputs"], "Layers", "alignment (CKA), median over pairs"
        ),
        "against": function_figures.against(
            {"as trained": (10 + rng.random(30), 0.03 * rng.random(30))},
            "distance in weight space",
            "share that differ",
            [style.INIT],
        ),
        "samples": function_figures.samples(
            (np.linspace(0.96, 0.97, 4), np.linspace(0.04, 0.05, 4)),
            sampled(rng),
            "test accuracy",
            "share that differ",
            True,
        ),
        "spectra": curvature_figures.spectra(eigenvalues(rng), 10, CURVATURE),
        "spectral density": density(rng),
        "gradient shares": curvature_figures.gradient_shares(TRAINED, rng.random((NUM, len(TRAINED))), 0.003, 10),
        "extreme eigenvalues": curvature_figures.extreme_along_training(TRAINED, *extremes(rng), CURVATURE),
        "slices": curvature_figures.slices(*along_eigenvectors(), "nats"),
        "layer shares": curvature_figures.layer_shares(
            ["layer 0", "layer 1", "layer 2"], traces(rng), 0.1 * traces(rng)
        ),
        "class counts": curvature_figures.class_counts(
            np.array([2, 3, 5, 10]), np.array([2, 3, 5, 10])[:, None] - rng.integers(0, 3, (4, NUM)), np.arange(1, 5)
        ),
        "discovery": discovery(),
        "tolerances": census_figures.tolerances(
            np.geomspace(1e-8, 1, 9),
            {"by weights": np.array([1000, 990, 500, 40, 12, 12, 12, 9, 1]), "by function": np.array([9] * 8 + [1])},
            1e-3,
        ),
        "ladder": ladder(),
        "certificates": census_figures.certificates(
            {"strict minimum": 612, "degenerate minimum": 301, "saddle": 58, "not converged": 29}
        ),
        "stationarity": census_figures.stationarity(
            10 ** rng.normal(-3, 0.6, 300), 10 ** rng.normal(-12, 0.8, 300), 1e-9, "nats per unit of weight"
        ),
        "influence": units_figures.influence(weights_and_changes(rng), "nats"),
        "influence correlations": units_figures.correlations(rank_correlations(rng), 0.05),
        "weights": units_figures.weights({"layer 1": (np.linspace(-2, 2, 9), np.full(8, 0.125))}),
        "reliability": units_figures.reliability(*bins(rng)),
        "gabor scores": units_figures.gabor_scores(scores(rng)),
        "matching": matching(rng),
        "recurrence": units_figures.recurrence(
            rng.uniform(0.2, 0.9, 90),
            {"untrained": rng.uniform(-0.3, 0.5, 90), "surrogates": rng.uniform(0, 0.6, 90)},
            0.45,
        ),
        "examples by class": by_class(),
        "examples by target": representation_figures.by_target(
            *layers_in_plane(), np.linspace(-1.5, 300, 40), "target", "Principal components"
        ),
        "over layers": over_layers(rng),
        "restarts": representation_figures.restarts(
            rng.standard_normal((8, 2)), np.arange(8) < 4, np.array([0.31, 0.08]), 0.42, "last hidden layer", True
        ),
        "sweep": sweep_figures.summary("Test loss", "learning rate", "median test loss", estimates("nats")),
    }


def weights_and_changes(rng):
    """Of two layers; some weights are zero, and some change nothing."""
    found = {
        name: (np.exp(rng.standard_normal(n)), rng.standard_normal(n) ** 3)
        for name, n in (("layer 1", 80), ("outputs", 9))
    }
    found["layer 1"][0][:3] = 0
    found["outputs"][1][:2] = 0
    return found


def rank_correlations(rng):
    """Two layers, three controls."""
    each = lambda: 0.5 + 0.1 * rng.random(NUM)  # noqa: E731
    controls = ("magnitude", "magnitude × scale of its input", "… among weights of one unit")
    return {
        layer: {
            control: (values := each(), Estimate(float(np.median(values)), (0.5, 0.6), NUM)) for control in controls
        }
        for layer in ("layer 1", "outputs")
    }


def bins(rng):
    """Confidence, accuracy and counts; one bin is empty for a seed."""
    confidence = np.tile(np.linspace(0.45, 0.95, 6), (NUM, 1))
    accuracy, counts = rng.random((NUM, 6)), np.tile(np.arange(6), (NUM, 1))
    confidence[:, 0] = accuracy[:, 0] = np.nan
    return confidence, accuracy, counts


def matching(rng):
    cosine, length = rng.uniform(-0.9, 0.9, 60), rng.gamma(3, 2, 60)
    return units_figures.matching(cosine, cosine * length, length)


def scores(rng):
    """R^2 of six kinds of filters; some below 0, some unknown."""
    kinds = {f"kind of filter {k}": rng.uniform(-0.1, 0.9, 30) for k in range(6)}
    kinds["kind of filter 1"][:5] = np.nan
    return kinds


def layers_in_plane():
    """Five layers of forty examples, one of them far from all others in the first; in the fourth all are at one place."""
    planes = np.random.default_rng(4).standard_normal((5, 40, 2))
    planes[0, 7], planes[3] = (200, 0), np.nan
    notes = ["36 % + 23 % of the variance"] * 5
    return planes, ["inputs", "layer 1", "layer 2", "layer 3", "outputs"], notes


def by_class(num=12):
    names = ["setosa", "$x_", "a class with a very long name", *map(str, range(3, num))]
    return representation_figures.by_class(*layers_in_plane(), np.arange(40) % num, names, "t-SNE, perplexity 13")


def over_layers(rng, shares=True):
    """Three layers, of which the last has no values for one kind."""
    rows = {}
    for label, color in (("trained", style.END), ("untrained", style.INIT), ("labels shuffled", style.TRAVELLED)):
        values = rng.uniform(0.2, 0.9, (3, NUM))
        rows[label] = (values, [median_of(layer) for layer in values], color)
    values, medians, color = rows["untrained"]
    values[2] = np.nan
    rows["untrained"] = (values, [*medians[:2], None], color)
    names = ["inputs", "1", "outputs"]
    return representation_figures.over_layers(rows, names, "Readouts", "test accuracy", ("chance", 0.1), shares)


@pytest.fixture
def every(walks, curve, line):
    return draw(walks, curve, line)


def only(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def points(line: Line2D) -> np.ndarray:
    return np.column_stack(cast("list[np.ndarray]", line.get_data()))


def drawn(axes: Axes) -> list[np.ndarray]:
    return [points(line) for line in axes.lines]


def holds(arrays, x, y) -> bool:
    """Whether one of the lines has exactly these points, NaN where NaN."""
    return any(a.shape == (len(x), 2) and np.array_equal(a, np.column_stack([x, y]), equal_nan=True) for a in arrays)


def test_curves_are_those_of_every_seed_and_nothing_is_filled_in(curve):
    axes = only(training_figures.curves("Loss", "loss (nats)", {"train": curve}))
    lines = drawn(axes)
    assert len(lines) == NUM + 1
    for values in curve.values:
        assert holds(lines, STEPS, values)
    assert holds(lines, STEPS, curve.bands[2])
    assert sum(np.isnan(line).sum() for line in lines) == np.isnan(curve.values).sum() == 4 + 6


def test_bands_are_those_given(curve):
    axes = only(training_figures.curves("Loss", "loss (nats)", {"train": curve}))
    bands = [c for c in axes.collections if isinstance(c, PolyCollection)]
    assert len(bands) == 2
    for band, (low, high) in zip(bands, ((0, 4), (1, 3)), strict=True):
        corners = {tuple(corner) for corner in np.asarray(band.get_paths()[0].vertices)}
        assert {(s, v) for level in (low, high) for s, v in zip(STEPS, curve.bands[level], strict=True)} <= corners


def test_without_a_seed_at_the_end_there_is_no_band(curve):
    values = np.where(STEPS > 10, np.nan, curve.values)
    lost = training.curves("train_loss", STEPS, values, np.zeros(NUM, bool), unit="nats")
    axes = only(training_figures.curves("Loss", "loss (nats)", {"train": lost}))
    assert list(axes.collections) == []
    assert np.isnan(drawn(axes)[-1][:, 1]).all()
    assert np.isfinite(axes.get_ylim()).all()


def test_many_seeds_become_pixels_but_the_median_does_not(rng):
    values = rng.random((style.MANY_POINTS // len(STEPS) + 1, len(STEPS)))
    many = training.curves("train_loss", STEPS, values, np.ones(len(values), bool), unit="nats")
    axes = only(training_figures.curves("Loss", "loss (nats)", {"train": many}))
    assert [line.get_rasterized() for line in axes.lines] == [True] * len(values) + [False]


@pytest.mark.parametrize("num", [1, 2, 60])
def test_every_seed_is_a_dot_at_its_value_on_its_own_axis(rng, num):
    rows = finals(rng, num=num)
    figure = training_figures.finals("Loss at the end", "loss (nats)", rows)
    for axes, final in zip(figure.axes, rows.values(), strict=True):
        (dots,) = [c for c in axes.collections if isinstance(c, PathCollection)]
        offsets = np.asarray(dots.get_offsets())
        np.testing.assert_array_equal(offsets[:, 0], final.values)
        assert len({tuple(offset) for offset in offsets}) == num
        low, high = axes.get_xlim()
        assert np.all((low < offsets[:, 0]) & (offsets[:, 0] < high))
        bottom, top = axes.get_ylim()
        assert np.all((top < offsets[:, 1]) & (offsets[:, 1] < bottom))
        lines = drawn(axes)
        assert len(lines) == (0 if num == 1 else 2)
        if num > 1:
            assert np.all(lines[0][:, 0] == final.median.value)
            assert tuple(lines[1][:, 0]) == final.median.ci


def test_equal_ends_have_one_tick_at_their_value(rng):
    rows = {"train": training.final("train_accuracy", np.ones(NUM), rng=rng, unit="share")}
    (axes,) = training_figures.finals("Accuracy at the end", "accuracy", rows).axes
    assert list(axes.get_xticks()) == [1.0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["100%"]


def test_histograms_count_every_pair(walks):
    axes = only(similarity_figures.distances(walks))
    high = axes.get_xlim()[1]
    rows = (walks.travelled, pair_values(walks.init), pair_values(walks.end))
    bars = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert len(bars) == 3 * similarity_figures.FINE_BINS
    for i, values in enumerate(rows):
        row = bars[i * similarity_figures.FINE_BINS : (i + 1) * similarity_figures.FINE_BINS]
        counts = np.histogram(values, similarity_figures.FINE_BINS, (0, high))[0]
        heights = np.array([-bar.get_height() for bar in row])
        np.testing.assert_allclose(heights / heights.max(), counts / counts.max())
    marks = [line for line in axes.lines if line.get_marker() == "^"]
    assert [points(mark)[0, 0] for mark in marks] == [np.median(values) for values in rows]
    upright = {points(line)[0, 0] for line in axes.lines if line.get_linestyle() in ("--", ":") and len(points(line))}
    assert upright == {
        np.median(pair_values(walks.orthogonal_ends)), np.median(pair_values(walks.orthogonal_moves))
    }  # fmt: skip


def test_one_far_seed_does_not_squeeze_the_others(rng):
    start = rng.standard_normal((NUM, 50))
    moves = 0.5 * rng.standard_normal((NUM, 50))
    moves[0] *= 1e6
    axes = only(similarity_figures.distances(distances(start, start + moves, rng=rng)))
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel().endswith("(log scale)")


def test_cosines_are_counted_and_lie_within_their_range(rng, walks):
    values = pair_values(walks.cosine)
    axes = only(similarity_figures.cosines(walks))
    bars = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert sum(bar.get_height() for bar in bars[1:]) == len(values)
    start = rng.standard_normal((4, 2))  # so few dimensions that two standard deviations exceed a cosine's range
    axes = only(similarity_figures.cosines(distances(start, start + rng.standard_normal((4, 2)), rng=rng)))
    edges = [corner for bar in axes.patches for corner in cast("Rectangle", bar).get_bbox().intervalx]
    assert min(edges) >= -1
    assert max(edges) <= 1


def test_a_seed_that_did_not_move_has_no_cosine(rng):
    start = rng.standard_normal((5, 20))
    moves = rng.standard_normal((5, 20))
    moves[1] = 0
    axes = only(similarity_figures.cosines(distances(start, start + moves, rng=rng)))
    assert sum(cast("Rectangle", bar).get_height() for bar in axes.patches[1:]) == 4 * 3 / 2


def test_losses_and_chords_on_the_line_are_those_given(line):
    axes = only(line_figures.losses(line, "loss (nats)"))
    lines = drawn(axes)
    for name in ("train_loss", "test_loss"):
        assert holds(lines, line.alphas, line.values[name])
        assert holds(lines, line.alphas, line.chord(name))
    (arrow,) = [text for text in axes.texts if getattr(text, "arrow_patch", None)]
    assert axes.get_yscale() == "linear"
    ends = [arrow.xy[1], arrow.get_position()[1]]  # type: ignore[attr-defined]
    np.testing.assert_allclose(sorted(ends), [0.2, 1.2])


def test_without_a_violation_there_is_no_arrow(line):
    flat = Barrier(0.0, 0.0, 0.0, 0.0, excess=-1.0, tolerance=1e-10, share_above=0.0)
    calm = Line(line.alphas, line.values, dict.fromkeys(line.barriers, flat), line.length)
    assert list(only(line_figures.losses(calm, "loss (nats)")).texts) == []


@pytest.mark.parametrize("score", ["accuracy", "r2"])
def test_scores_on_the_line_are_those_given(line, score):
    values = {f"{split}_{score}": line.values[f"{split}_accuracy"] for split in ("train", "test")}
    figure = line_figures.scores(Line(line.alphas, values, {}, 3.0))
    for name in values:
        assert holds(drawn(only(figure)), line.alphas, values[name])
    assert only(figure).get_ylabel() == ("accuracy" if score == "accuracy" else "R²")


def test_sweeps_draw_estimates_and_intervals_at_their_values():
    groups = estimates("nats")
    axes = only(sweep_figures.summary("Test loss", "learning rate", "median test loss", groups))
    lines = drawn(axes)
    for group in groups.values():
        assert holds(lines, [x for x, _ in group], [e.value for _, e in group])
        for x, estimate in group:
            assert holds(lines, [x, x], estimate.ci)
    assert len(lines) == 2 * (1 + 3)
    assert axes.get_xscale() == "log"
    low, high = axes.get_ylim()
    assert low < 0.51
    assert high > 3.5


def test_an_estimate_without_interval_has_no_bar():
    groups = {"": [(x, Estimate(x, None, 1)) for x in (1.0, 2.0)]}
    figure = sweep_figures.summary("Ratio", "width", "ratio of medians", groups)
    assert len(only(figure).lines) == 1
    assert figure.legends == []
    assert only(figure).get_ylabel() == "ratio of medians"


def test_labels_have_units(every):
    labelled = {name: next(axes for axes in f.axes if axes.get_xlabel()) for name, f in every.items()}
    labels = {name: (axes.get_xlabel(), axes.get_ylabel()) for name, axes in labelled.items()}
    position = "position between restart a and restart b"
    assert labels == {
        "curves": ("training step (log scale)", "loss (nats)"),
        "shares": ("training step (log scale)", "accuracy"),
        "gradient": ("training step (log scale)", "squared error per unit of weight"),
        "finals": ("loss (nats)", ""),
        "accuracies": ("accuracy", ""),
        "wide": ("loss (squared error)", ""),
        "distances": ("Euclidean distance in weight space", ""),
        "cosines": ("cosine between two restarts' displacements", "number of pairs"),
        "losses": (position, "loss (nats)"),
        "scores": (position, "accuracy"),
        "strips": ("distance in weight space", ""),
        "barriers": ("barrier above the chord (nats)", ""),
        "units": ("hidden layer", "cosine of what two units receive"),
        "embedding": tuple(f"principal component {i} ({share}% of the variance)" for i, share in ((1, 6.1), (2, 1.2))),
        "recovery": ("noise added to a relabelled copy, |noise| / |weights|", "units found again"),
        "contours": ("distance, seed 0 to seed 7", "distance, towards seed 9"),
        "hole": ("distance, seed 0 to seed 7", "distance, towards seed 9"),
        "relief": ("distance", "distance"),
        "bands": ("relative distance from the restart", "loss (nats)"),
        "matrix": ("seed", "seed"),
        "tree": ("seed", "train loss (nats)"),
        "components": ("barriers up to this are no obstacle (nats)", "number of components"),
        "paths": ("share of the path's length", "train loss (nats)"),
        "on plane": ("distance, seed 0 to seed 7", "distance, towards seed 9"),
        "shadow": ("training step (log scale)", "distance of the network"),
        "hidden": ("train loss (nats), of the network", "train loss (nats), of its shadow"),
        "scree": ("principal component", "share of the variance"),
        "curves of components": ("checkpoint", "component 3"),
        "in plane": ("component 1", "component 2"),
        "over steps": ("training step (log scale)", "distance per training step"),
        "layers": ("layer of the other restart", "layer of a restart"),
        "against": ("distance in weight space", "share that differ"),
        "samples": ("test accuracy", "share that differ"),
        "spectra": ("rank of the eigenvalue", f"eigenvalue ({CURVATURE})"),
        "spectral density": (f"eigenvalue ({CURVATURE})", "density (share per unit of asinh)"),
        "gradient shares": ("training step (log scale)", "share of the squared gradient"),
        "extreme eigenvalues": ("training step (log scale)", "smallest"),
        "slices": ("distance from the restart in weight space", "train objective (nats)"),
        "layer shares": ("share of the trace", ""),
        "class counts": ("number of classes", "number of outliers"),
        "discovery": ("restarts", "distinct minima"),
        "tolerances": ("tolerance (relative distance)", "number of distinct minima"),
        "ladder": ("share of restarts", ""),
        "certificates": ("number of endpoints", ""),
        "stationarity": ("gradient norm (nats per unit of weight)", ""),
        "influence": ("magnitude of the weight", "|change of train loss| without it (nats)"),
        "influence correlations": ("Spearman's rank correlation", ""),
        "weights": ("weight", "share of the layer's weights in a bin"),
        "reliability": ("probability given to the predicted class", "share of right predictions"),
        "gabor scores": ("R² of the fit", "share of filters at most there"),
        "matching": ("cosine of input and template", "dot product / |template|"),
        "recurrence": ("cosine with the other restarts' matched units", "share of units in a bin"),
        "examples by class": ("36 % + 23 % of the variance", ""),
        "examples by target": ("36 % + 23 % of the variance", ""),
        "over layers": ("layer", "test accuracy"),
        "restarts": (
            "coordinate 1, radians (31 % of squared distances)",
            "coordinate 2, radians (8 % of squared distances;\nstress of the plane 0.42)",
        ),
        "sweep": ("learning rate", "median test loss (nats)"),
    }


def words(figure: Figure) -> list[Text]:
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]  # type: ignore[union-attr]


def test_no_word_leaves_the_figure_and_no_ticks_collide(every):
    for name, figure in every.items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer, box = canvas.get_renderer(), figure.bbox
        shown = []
        for axes in figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                ticks = [
                    t
                    for t in axis.get_major_ticks()
                    if low <= t.get_loc() <= high and t.label1.get_text() and t.label1.get_visible()
                ]
                boxes = [tick.label1.get_window_extent(renderer) for tick in ticks]
                shared = axis is axes.xaxis and len(axes.get_shared_x_axes().get_siblings(axes)) > 1
                bare = isinstance(axis.get_major_locator(), NullLocator)  # a plane whose coordinates mean nothing
                assert boxes or shared or bare or hasattr(axes, "_colorbar"), name  # a colour bar has one axis
                for one, other in itertools.combinations(boxes, 2):
                    assert not one.overlaps(other), f"{name}: tick labels overlap"
                shown += boxes
            shown += [t.get_window_extent(renderer) for t in (axes.xaxis.label, axes.yaxis.label) if t.get_text()]
            shown += [axes.title.get_window_extent(renderer)] + [t.get_window_extent(renderer) for t in axes.texts]
            shown += [axes._left_title.get_window_extent(renderer)]  # type: ignore[attr-defined]
        shown += [legend.get_window_extent(renderer) for legend in figure.legends]
        for extent in shown:
            if extent.width:
                assert extent.x0 >= box.x0 - 0.5, name
                assert extent.x1 <= box.x1 + 0.5, name
                assert extent.y0 >= box.y0 - 0.5, name
                assert extent.y1 <= box.y1 + 0.5, name


def test_words_can_be_read_on_a_phone(every):
    """A figure is 340 pixels wide on a phone of 390: no letter is below 9 pixels there."""
    for name, figure in every.items():
        scale = 340 / (72 * figure.get_figwidth())
        sizes = {text.get_text(): text.get_fontsize() * scale for text in words(figure)}
        assert min(sizes.values()) >= 9, name


def test_a_log_axis_has_plain_numbers_where_they_are_short():
    for low, high, expected in (
        (0.15, 3.0, ["0.2", "0.5", "1", "2"]),
        (0.0012, 4.0, ["0.01", "0.1", "1"]),
        (1e-7, 1e8, ["$10^{-5}$", "$10^{0}$"]),
    ):
        figure, axes = style.panel("Title", "x", "y")
        axes.set_ylim(low, high)
        style.log(axes, "y")
        FigureCanvasAgg(figure).draw()
        labels = [t.label1.get_text() for t in axes.yaxis.get_major_ticks() if low <= t.get_loc() <= high]
        assert set(expected[:1]) <= set(labels) or len(labels) >= 3
        assert all(not label.startswith("$") for label in labels) == (low > 1e-4)
        if low > 1e-4:
            assert labels == expected


def test_svg_is_the_same_bytes_every_time_and_stands_alone(walks, curve, line):
    outside = re.compile(rb'(?:href|src)="(?!#|data:image/png;base64)|url\((?!#)|@import|<script|<dc:date>')
    for one, other in zip(draw(walks, curve, line).values(), draw(walks, curve, line).values(), strict=True):
        first = style.svg(one)
        assert style.svg(other) == first
        assert not outside.search(first)


def test_no_figure_changes_anything_global(rng, walks, curve, line):
    before, backend, state = dict(mpl.rcParams), mpl.get_backend(), str(np.random.get_state())  # noqa: NPY002
    given = [curve.values.copy(), walks.end.copy(), line.values["train_loss"].copy()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (
            training_figures.curves("Loss", "loss (nats)", {"train": curve}),
            training_figures.finals("Loss at the end", "loss (nats)", finals(rng)),
            similarity_figures.distances(walks),
            similarity_figures.cosines(walks),
            line_figures.losses(line, "loss (nats)"),
            line_figures.scores(line),
            sweep_figures.summary("Loss", "rate", "median", estimates()),
        ):
            style.svg(figure)
    assert dict(mpl.rcParams) == before
    assert mpl.get_backend() == backend
    assert str(np.random.get_state()) == state  # noqa: NPY002
    for now, then in zip((curve.values, walks.end, line.values["train_loss"]), given, strict=True):
        np.testing.assert_array_equal(now, then)


def test_every_pair_is_a_dot_at_its_value_beside_its_median_and_interval(rng):
    rows = strips(rng)
    axes = only(strips_figures.strips("Distance", "distance", rows))
    dots = [np.asarray(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)]
    for y, ((values, median, _), drawn_dots) in enumerate(zip(rows.values(), dots, strict=True)):
        np.testing.assert_array_equal(drawn_dots[:, 0], values)
        assert np.all(np.abs(drawn_dots[:, 1] - y) < 0.5)
        assert holds(drawn(axes), [median.value] * 2, [y - 0.3, y + 0.3])
        assert holds(drawn(axes), median.ci, [y + 0.3] * 2)


def test_barriers_stand_in_the_colours_of_train_and_test(rng):
    rows = barriers(rng)
    axes = only(alignment_figures.barriers("nats", rows))
    dots = [c for c in axes.collections if isinstance(c, PathCollection)]
    every = [values for splits in rows.values() for values, _ in splits.values()]
    for values, drawn_dots in zip(every, dots, strict=True):
        np.testing.assert_array_equal(np.asarray(drawn_dots.get_offsets())[:, 0], values)
    colors = [to_hex(tuple(np.asarray(c.get_facecolor())[0])).upper() for c in dots]
    assert colors == [style.TRAIN, style.TEST] * len(rows)
    assert axes.get_xlim()[0] <= 0


def test_unit_bars_are_quantiles_of_all_pairs_and_units(rng):
    rows = unit_rows(rng)
    axes = only(alignment_figures.units(rows, {"matched": style.END, "at random": style.TRAVELLED}))
    for place, layers in enumerate(rows.values()):
        for layer, values in enumerate(layers):
            x = layer + 1 + (place - 0.5) * 0.4
            for low, high in ((0.05, 0.95), (0.25, 0.75)):
                assert holds(drawn(axes), [x, x], np.quantile(values, [low, high]))
            assert holds(drawn(axes), [x], [np.median(values)])


def test_the_embedding_draws_both_places_of_every_seed_and_rings_the_reference(rng):
    result = points_in_plane(rng)
    axes = only(alignment_figures.embedding(result, 3))
    raw, aligned, ring = (np.asarray(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection))
    np.testing.assert_array_equal(raw, result.raw)
    np.testing.assert_array_equal(aligned, result.aligned)
    np.testing.assert_array_equal(ring[0], result.aligned[3])
    assert axes.get_aspect() == 1
    assert "6.1%" in axes.get_xlabel()


def test_recovery_is_drawn_in_the_order_of_the_noise(rng):
    result = recovered(rng)
    axes = only(alignment_figures.recovery(result, 1.5))
    order = [0, 1, 3, 2]
    assert holds(drawn(axes), result.noise[order], np.median(result.recovered[order], axis=1))
    assert any(np.all(line[:, 0] == 1.5) for line in drawn(axes) if len(line) == 2)


def test_surfaces_share_a_scale_that_ends_below_the_highest_values():
    one, two = surface(rise=1.0), surface(rise=2.0)
    scale = landscape_figures.shared_scale([one, two], "train_loss")
    values = np.concatenate([s.values["train_loss"].ravel() for s in (one, two)])
    np.testing.assert_allclose(scale.edges[[0, -1]], [values.min(), np.quantile(values, landscape_figures.CLIP)])
    assert scale.log
    np.testing.assert_allclose(np.diff(np.log(scale.edges)), np.diff(np.log(scale.edges))[0])
    np.testing.assert_allclose(scale.colors(scale.norm(values.max())), scale.colors.get_over())


def test_a_scale_without_finite_or_without_positive_values_is_linear():
    empty = surface()
    nothing = Surface(
        empty.plane, empty.axes, {"train_loss": np.full((9, 9), np.nan)}, empty.anchors, empty.projected, "float32"
    )
    assert not landscape_figures.shared_scale([nothing], "train_loss").log
    signed = Surface(
        empty.plane,
        empty.axes,
        {"train_loss": empty.values["train_loss"] - 0.5},
        empty.anchors,
        empty.projected,
        "float32",
    )
    assert not landscape_figures.shared_scale([signed], "train_loss").log
    contours(nothing)


def test_anchors_are_drawn_at_their_distances_and_non_finite_points_are_named():
    shown = surface(hole=True)
    figure = contours(shown)
    axes = figure.axes[0]
    marked = [points(line)[0] for line in axes.lines]
    np.testing.assert_allclose(marked, [a.coordinates * shown.plane.lengths for a in shown.plane.anchors])
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["not finite"]
    assert contours(surface()).axes[0].get_legend() is None
    np.testing.assert_allclose(axes.get_xlim(), [-3, 3])
    np.testing.assert_allclose(axes.get_ylim(), [-2, 2])


def test_a_matrix_is_drawn_in_the_order_of_the_tree_without_its_diagonal():
    figure = connectivity_figures.matrix(heights(), tree().order, [10, 11, 12, 13, 14], "Barriers", "nats", 2.0)
    (image,) = figure.axes[0].images
    shown = np.ma.masked_array(image.get_array())
    order = tree().order
    np.testing.assert_array_equal(shown.mask, np.eye(5, dtype=bool))
    np.testing.assert_allclose(shown[0, 1], heights()[order[0], order[1]])
    assert image.get_clim() == (0, 2)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [str(10 + i) for i in order]


def test_branches_of_a_tree_end_at_its_merges():
    result = tree()
    axes = only(connectivity_figures.tree(result, range(5), "Tree", "loss", (0.005, 3), True, style.END))
    forks = [points(line) for line in axes.lines[:-1]]
    np.testing.assert_allclose([fork[1, 1] for fork in forks], result.height)
    leaves = points(axes.lines[-1])
    np.testing.assert_allclose(leaves[:, 1], result.leaves)
    np.testing.assert_array_equal(np.argsort(leaves[:, 0]), result.order)


def test_paths_show_every_pair_and_the_median():
    values = np.array([[1.0, 3.0, 1.0], [1.0, 5.0, 1.0], [2.0, 4.0, 1.0]])
    axes = only(connectivity_figures.paths(np.linspace(0, 1, 3), {"straight": (values, style.INIT)}, "loss"))
    lines = drawn(axes)
    assert len(lines) == 4
    np.testing.assert_allclose(lines[-1][:, 1], [1, 4, 1])


def test_trajectories_lie_at_their_shadows_distances():
    shown = surface()
    axes = on_plane(shown).axes[0]
    lines = drawn(axes)
    for path in PATH * shown.plane.lengths:
        assert any(line.shape == path.shape and np.allclose(line, path) for line in lines)
        for end in (path[0], path[-1]):
            assert any(line.shape == (1, 2) and np.allclose(line[0], end) for line in lines)


def test_a_network_and_its_shadow_are_drawn_as_measured():
    steps, result = np.array([0, 1, 10, 100]), shadows()
    top, bottom = trajectory_figures.shadow(steps, result, "train loss (nats)").axes
    assert holds(drawn(top), steps, result.values["train_loss"])
    assert holds(drawn(top), steps, result.shadow["train_loss"])
    assert holds(drawn(bottom), steps, result.residual)
    assert holds(drawn(bottom), steps, result.away)


def test_every_point_of_a_pooled_plane_stands_beside_its_shadow():
    result = shadows()
    axes = trajectory_figures.hidden({"as trained": result, "aligned": result}, "train loss (nats)").axes[0]
    clouds = [c for c in axes.collections if isinstance(c, PathCollection)]
    assert len(clouds) == 2
    for cloud in clouds:
        np.testing.assert_allclose(
            np.asarray(cloud.get_offsets()).T, [result.values["train_loss"], result.shadow["train_loss"]]
        )
        np.testing.assert_allclose(np.asarray(cloud.get_array()), result.residual)


def test_a_scree_shows_every_restart_and_the_range_of_walks(rng):
    result = null(rng)
    result.shares[1] = np.nan  # did not move
    axes = only(trajectory_figures.scree(result, 0.05, 0.95, "5 to 95 %"))
    dots = [points(line)[:, 1] for line in axes.lines if line.get_marker() == "." and len(points(line))]
    assert len(dots) == 3
    for k, values in enumerate(dots):
        np.testing.assert_allclose(values, np.delete(result.shares[:, k], 1))
    bands = [c for c in axes.collections if isinstance(c, PolyCollection) and len(c.get_paths())]
    ends = np.quantile(result.walks.reshape(-1, 3), [0.05, 0.95], axis=0)
    for band, low, high in zip(bands, *ends, strict=False):
        heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [low, high])


def test_a_scree_leaves_out_what_is_rounding(rng):
    result = null(rng)
    result.shares[:, 2] = 1e-16  # trajectories in one plane
    axes = only(trajectory_figures.scree(result, 0.05, 0.95, "5 to 95 %"))
    assert axes.get_ylim()[0] > 1e-12


def test_components_and_steps_show_medians_of_the_seeds_given(rng):
    result = null(rng)
    panels = trajectory_figures.components(result.curves, result.expected_curves).axes
    for k, axes in enumerate(panels):
        assert holds(drawn(axes), np.arange(10), result.expected_curves[0, :, k])
        assert all(holds(drawn(axes), np.arange(10), curve) for curve in result.curves[:, :, k])
    values = rng.random((4, 3))
    values[0] = np.nan
    values[1, 0] = np.nan
    steps = np.array([1.0, 2.0, 3.0])
    axes = only(trajectory_figures.over_steps("T", "y", steps, {"a": values}, [style.INK]))
    assert holds(drawn(axes), steps, np.nanmedian(values[1:], axis=0))


def test_layers_are_written_out_and_missing_ones_stay_blank():
    values = np.array([[0.9, 0.4], [np.nan, 0.8]])
    axes = function_figures.layers(values, ["1", "outputs"], "Layers", "CKA").axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.90", "0.40", "0.80"]
    np.testing.assert_array_equal(np.ma.getmaskarray(np.ma.masked_array(axes.images[0].get_array())), np.isnan(values))


def test_samples_are_drawn_beside_the_restarts(rng):
    ways, restarts = sampled(rng), (np.linspace(0.96, 0.97, 4), np.linspace(0.04, 0.05, 4))
    axes = only(function_figures.samples(restarts, ways, "test accuracy", "differ", True))
    for score, distance in ways.values():
        assert holds(drawn(axes), np.median(score, axis=0), np.median(distance, axis=0))
    (stars,) = [c for c in axes.collections if isinstance(c, PathCollection)]
    np.testing.assert_allclose(np.asarray(stars.get_offsets()).T, restarts)
    assert axes.get_xlim()[0] >= 0.9


def test_bands_hide_what_is_not_finite():
    levels = np.sort(np.random.default_rng(0).random((5, 7)), axis=0)
    levels[:, 0] = np.inf
    axes = only(landscape_figures.bands(np.linspace(-1, 1, 7), {"train": levels}, "loss"))
    np.testing.assert_allclose(points(axes.lines[0])[1:, 1], levels[2, 1:])
    assert np.isnan(points(axes.lines[0])[0, 1])


def test_an_interactive_surface_stands_alone_with_its_script_once():
    text = interactive.surface_page(
        {"as trained": surface(), "aligned": surface(hole=True)}, "train_loss", "loss", "A < b"
    )
    assert text.count("plotly.js v") == 1
    assert "<title>A &lt; b</title>" in text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)
    with pytest.raises(ValueError, match="at least one"):
        interactive.surface_page({}, "train_loss", "loss", "title")


def test_spectra_show_what_is_positive_of_every_restart_and_mark_the_classes(rng):
    values = eigenvalues(rng)
    axes = only(curvature_figures.spectra(values, 10, CURVATURE))
    ranks, lines = np.arange(1, values.shape[1] + 1), drawn(axes)
    shown = np.where(values > 0, values, np.nan)
    assert all(holds(lines, ranks, row) for row in shown)
    assert holds(lines, ranks, np.median(shown, axis=0))
    assert [line[0, 0] for line in lines if len(line) == 2] == [9, 10]
    assert axes.get_yscale() == "log"
    assert not [line for line in drawn(only(curvature_figures.spectra(values, None, "nats"))) if len(line) == 2]
    few = only(curvature_figures.spectra(values[:, :9], 10, "nats"))
    assert [line[0, 0] for line in drawn(few) if len(line) == 2] == [9]


def test_the_longest_unit_stays_inside(rng):
    unit = "squared error per squared unit of weight"
    grid, seeds, one = np.linspace(-1, 5, 20), np.ones((2, 20)), np.ones(1)
    for figure in (
        curvature_figures.spectra(eigenvalues(rng), None, unit),
        curvature_figures.density(grid, seeds[0], seeds, np.ones((2, 3)), unit, ylabel="density", linthresh=0.1),
        curvature_figures.extreme_along_training(TRAINED, *extremes(rng), unit),
        census_figures.stationarity(np.ones(2), np.ones(2), 1e-9, "squared error per unit of weight"),
        census_figures.ladder(one, one, one, one, ["a"], "squared error"),
    ):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for text in words(figure):
            if "squared" in text.get_text():
                extent = text.get_window_extent(canvas.get_renderer())
                assert extent.x0 >= -0.5
                assert extent.y0 >= -0.5
                assert extent.x1 <= figure.bbox.x1 + 0.5, text.get_text()
                assert extent.y1 <= figure.bbox.y1 + 0.5, text.get_text()


@pytest.mark.parametrize("values", [-np.ones((3, 4)), np.zeros((1, 4)), np.full((3, 4), np.nan)])
def test_a_spectrum_without_positive_eigenvalues_says_so(values):
    figure = curvature_figures.spectra(values, 2, "nats")
    FigureCanvasAgg(figure).draw()
    assert [text.get_text() for text in only(figure).texts] == ["no positive value"]


@pytest.mark.parametrize("values", [np.full((3, 4), 3.3), np.full((1, 1), 2e-9)])
def test_equal_eigenvalues_have_ticks_around_them(values):
    figure = curvature_figures.spectra(values, None, "nats")
    FigureCanvasAgg(figure).draw()
    low, high = only(figure).get_ylim()
    assert low < values[0, 0] < high
    ticks = only(figure).yaxis.get_major_ticks()
    assert [t for t in ticks if low <= t.get_loc() <= high and t.label1.get_text()]


def test_a_density_has_the_mean_on_a_signed_axis_and_a_tick_for_every_outlier(rng):
    figure = density(rng)
    axes = only(figure)
    values = eigenvalues(np.random.default_rng(1))
    assert axes.get_xscale() == "asinh"
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert {"−0.01", "0", "0.01", "1"} <= set(labels)
    (rug,) = [points(line) for line in axes.lines if line.get_marker() == "|" and len(points(line))]
    assert len(rug) == values[:, :10].size
    low, high = axes.get_xlim()
    assert np.all((low < rug[:, 0]) & (rug[:, 0] < high))


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-3.0, -1.0), (-0.5, 2.0), (-1e-9, 3e-7)])
def test_a_density_of_nothing_is_empty_on_any_axis(low, high):
    grid, nothing = np.linspace(low, high, 20), np.zeros((1, 20))
    figure = curvature_figures.density(
        grid, nothing[0], nothing, np.full((1, 2), np.nan), "nats", ylabel="density", linthresh=1e-8
    )
    FigureCanvasAgg(figure).draw()
    assert only(figure).get_yscale() == "linear"


def test_shares_of_the_gradient_are_medians_beside_a_random_direction(rng):
    shares = rng.random((NUM, len(TRAINED)))
    shares[0] = np.nan
    shares[:, 3] = np.nan
    axes = only(curvature_figures.gradient_shares(TRAINED, shares, 0.25, 1))
    middle = np.full(len(TRAINED), np.nan)
    kept = np.delete(np.arange(len(TRAINED)), 3)
    middle[kept] = np.median(shares[1:, kept], axis=0)
    lines = [line for line in drawn(axes) if len(line) == len(TRAINED)]
    np.testing.assert_allclose(lines[0], np.column_stack([TRAINED, middle]))
    assert any(np.all(line[:, 1] == 0.25) for line in drawn(axes) if len(line) == 2)
    assert axes.get_ylim() == (-0.03, 1.03)


@pytest.mark.parametrize("num", [1, 5])
@pytest.mark.parametrize("level", [0.0, -2.0, 3.0])
def test_extremes_have_a_zero_line_whatever_their_values(num, level):
    flat = np.full((num, 2), level)
    figure = curvature_figures.extreme_along_training(np.array([0, 100]), flat, flat, "nats")
    FigureCanvasAgg(figure).draw()
    top, bottom = figure.axes
    for axes in (top, bottom):
        assert holds(drawn(axes), [0, 100], flat[0])
    low, high = bottom.get_ylim()
    assert low <= min(level, 0)
    assert high >= max(level, 0)


def test_a_smallest_eigenvalue_that_nears_zero_keeps_its_sign_in_sight(rng):
    _, bottom = curvature_figures.extreme_along_training(TRAINED, *extremes(rng), "nats").axes
    assert bottom.get_yscale() == "asinh"
    low, high = bottom.get_ylim()
    assert low < -1
    assert 0 < high < 0.1


def test_slices_end_where_the_objective_ends(rng):
    x, values, parabolas, names = along_eigenvectors()
    axes = only(curvature_figures.slices(x, values, parabolas, names, "nats"))
    for name in names:
        assert holds(drawn(axes), x, values[name])
        assert holds(drawn(axes), x, parabolas[name])
    colors = [line.get_color() for line in axes.lines[:-1]]
    assert colors[::2] == colors[1::2]
    assert colors[0] == curvature_figures.LARGEST
    assert colors[-1] == curvature_figures.SMALLEST
    flat, steep = np.full(21, 0.2), 0.2 + 100 * x**2
    axes = only(curvature_figures.slices(x, {"a": flat}, {"a": steep}, ["a"], "nats"))
    low, high = axes.get_ylim()
    assert 0.1 < low < 0.2 < high < 0.3


def test_shares_of_layers_are_scaled_by_each_restarts_trace(rng):
    values, errors = traces(rng), 0.1 * traces(rng)
    values[3] = 0  # no curvature at all
    axes = only(curvature_figures.layer_shares(["a", "b", "c"], values, errors))
    shares = np.delete(values / np.where(values, values.sum(axis=1, keepdims=True), 1), 3, axis=0)
    dots = [np.asarray(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)]
    for layer, place in enumerate(dots):
        np.testing.assert_allclose(place[:, 0], shares[:, layer])
        assert np.all(np.abs(place[:, 1] - layer) < 0.35)
    bars = [cast("Rectangle", bar).get_width() for bar in axes.patches]
    np.testing.assert_allclose(bars, np.median(shares, axis=0))


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_without_a_positive_trace_there_are_no_shares(level):
    figure = curvature_figures.layer_shares(["a"], np.full((1, 1), level), np.zeros((1, 1)))
    FigureCanvasAgg(figure).draw()
    assert not [c for c in only(figure).collections if isinstance(c, PathCollection)]
    assert only(figure).get_xlim() == (0, 1)


def test_numbers_of_outliers_are_dots_beside_their_number_of_classes(rng):
    classes, outliers = np.array([2, 3, 10]), rng.integers(1, 10, (3, NUM)).astype(float)
    outliers[0, 0] = np.nan
    axes = only(curvature_figures.class_counts(classes, outliers, np.nanmedian(outliers, axis=1)))
    dots = [np.asarray(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection)]
    for k, values, place in zip(classes, outliers, dots, strict=False):
        np.testing.assert_array_equal(place[:, 1], values[np.isfinite(values)])
        assert np.all(np.abs(place[:, 0] - k) < 0.5)
    upper, lower = drawn(axes)[3:5]
    np.testing.assert_allclose(upper[:, 1], upper[:, 0])
    np.testing.assert_allclose(lower[:, 1], lower[:, 0] - 1)
    FigureCanvasAgg(curvature_figures.class_counts(np.array([10]), np.zeros((1, 1)), np.zeros(1))).draw()


def test_a_discovery_curve_is_dashed_from_the_last_observed_number_on():
    axes = only(discovery())
    _, restarts, found = found_in_xor()
    beyond = restarts > 1000
    lines = drawn(axes)
    assert holds(lines, restarts, np.where(beyond, np.nan, found))
    first = int(np.argmax(beyond)) - 1
    assert holds(lines, restarts[first:], found[first:])
    assert any(np.all(line[:, 1] == 12.6) for line in lines if len(line) == 2)
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[1] > 19


def test_an_estimate_far_above_the_curve_does_not_flatten_it():
    restarts = np.arange(1, 65)
    new = restarts.astype(float)
    none = np.zeros(64, bool)
    figure = census_figures.discovery(restarts, new, new, new, none, restarts, (2081.0, None))
    FigureCanvasAgg(figure).draw()
    assert only(figure).get_yscale() == "log"
    assert only(figure).get_ylim()[1] > 2081
    nan = np.full(1, np.nan)
    for estimate in (None, (np.inf, None), (9.0, (1.0, np.inf))):
        single = census_figures.discovery(restarts[:1], new[:1], nan, nan, none[:1], chao=estimate)
        FigureCanvasAgg(single).draw()
        assert 1 < only(single).get_ylim()[1] < 20


def test_counts_of_minima_are_steps_beside_the_chosen_tolerance():
    sizes = np.geomspace(1e-6, 1, 7)
    counts = {"by weights": np.array([1000, 500, 40, 12, 12, 9, 1]), "by function": np.array([9] * 6 + [1])}
    axes = only(census_figures.tolerances(sizes, counts, 1e-3))
    assert all(holds(drawn(axes), sizes, values) for values in counts.values())
    assert any(np.all(line[:, 0] == 1e-3) for line in drawn(axes) if len(line) == 2)
    assert axes.get_yscale() == "log"
    for level in (0, 3):
        figure = census_figures.tolerances(sizes, {"by weights": np.full(7, level)}, None)
        FigureCanvasAgg(figure).draw()
        assert only(figure).get_yscale() == "linear"


def test_a_ladder_descends_by_loss_and_sums_up_the_rest(rng):
    losses, shares = np.array([0.5, 0.0, 2e-9]), np.array([0.2, 0.6, 0.1])
    figure = census_figures.ladder(losses, shares, shares / 2, 2 * shares, ["a", "b", "c"], "nats", (7, 0.1))
    axes = only(figure)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["b", "c", "a", "7 others"]
    assert [cast("Rectangle", bar).get_width() for bar in axes.patches] == [0.6, 0.1, 0.2, 0.1]
    (right,) = axes.child_axes
    assert [text.get_text() for text in right.get_yticklabels()] == ["0", "2·$10^{-9}$", "0.500", ""]
    assert right.get_ylabel() == "loss (nats)"
    many = np.ones(census_figures.MOST_ROWS + 1)
    with pytest.raises(ValueError, match="at most 15 rows; got 16"):
        census_figures.ladder(many, many, many, many, ["m"] * len(many), "nats")


def test_a_ladder_of_one_minimum_needs_no_interval():
    nan = np.full(1, np.nan)
    figure = census_figures.ladder(np.zeros(1), np.ones(1), nan, nan, ["only"], "squared error")
    FigureCanvasAgg(figure).draw()
    assert only(figure).get_xlim()[1] > 1


def test_certificates_divide_one_bar_in_colours_of_their_own():
    counts = {"saddle": 5, "strict minimum": 20}
    axes = only(census_figures.certificates(counts))
    bars = [cast("Rectangle", bar) for bar in axes.patches]
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 20), (20, 5)]
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars] == [
        census_figures.CERTIFICATES[kind] for kind in ("strict minimum", "saddle")
    ]
    assert len(set(census_figures.CERTIFICATES.values())) == 4
    FigureCanvasAgg(census_figures.certificates({"saddle": 0})).draw()
    with pytest.raises(ValueError, match="got maximum"):
        census_figures.certificates({"maximum": 1})


def test_gradient_norms_stand_beside_their_threshold_and_zeros_at_the_edge(rng):
    before, after = 10 ** rng.normal(-3, 0.5, 30), 10 ** rng.normal(-12, 0.5, 30)
    after[:4] = 0
    after[4] = np.nan
    figure = census_figures.stationarity(before, after, 1e-9, "nats")
    axes = only(figure)
    dots = [np.asarray(c.get_offsets())[:, 0] for c in axes.collections if isinstance(c, PathCollection)]
    for shown, values in zip(dots, (before, after[5:]), strict=True):
        np.testing.assert_array_equal(shown, values)
    assert any(np.all(line[:, 0] == 1e-9) for line in drawn(axes) if len(line) == 2)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["4 at 0, polished", "threshold: $10^{-9}$"]


@pytest.mark.parametrize("value", [0.0, 3e-3, 1e-9])
def test_equal_gradient_norms_have_ticks_around_them(value):
    figure = census_figures.stationarity(np.full(3, value), np.full(3, value), 1e-9, "nats")
    FigureCanvasAgg(figure).draw()
    axes = only(figure)
    low, high = axes.get_xlim()
    assert [t for t in axes.xaxis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_text()]


def test_every_weight_is_a_dot_and_what_is_too_small_lies_on_the_edge(rng):
    layers = weights_and_changes(rng)
    axes = only(units_figures.influence(layers, "nats"))
    for (magnitude, change), dots in zip(layers.values(), axes.collections, strict=True):
        found = np.asarray(dots.get_offsets())
        kept = (magnitude > 0) & (np.abs(change) > 0)
        np.testing.assert_allclose(found[kept], np.column_stack([magnitude, np.abs(change)])[kept])
        assert len(found) == len(magnitude)
        assert found.min() > 0


def test_reliability_counts_seeds_by_their_examples(rng):
    confidence, accuracy, counts = bins(rng)
    axes = only(units_figures.reliability(confidence, accuracy, counts))
    known = counts > 0
    np.testing.assert_array_equal(
        axes.collections[0].get_offsets(), np.column_stack([confidence[known], accuracy[known]])
    )
    (line,) = (points(one) for one in axes.lines if one.get_label() == "all together")
    np.testing.assert_allclose(line, np.column_stack([confidence[0, 1:], accuracy[:, 1:].mean(axis=0)]))


def test_images_are_those_given_each_on_a_symmetric_scale(rng):
    values = rng.standard_normal((2, 3, 4, 5)) * np.array([1, 10, 100])[:, None, None]
    values[1, 2] = np.nan
    figure = units_figures.images(values, ["a", "b"], ["1", "2", "3"], "Sheet")
    for (row, column), axes in zip(np.ndindex(2, 3), figure.axes, strict=True):
        if (row, column) == (1, 2):
            assert not axes.get_visible()
            continue
        (image,) = axes.images
        np.testing.assert_array_equal(image.get_array(), values[row, column])
        low, high = image.get_clim()
        assert high == -low == np.abs(values[row, column]).max()


def test_inputs_stand_at_their_cosine_and_the_best_are_marked():
    axes, bar = matching(np.random.default_rng(2)).axes
    places = np.asarray(axes.collections[0].get_offsets())
    top, closest = (points(line)[0] for line in axes.lines if line.get_marker() in ("^", "s"))
    np.testing.assert_array_equal(top, places[np.argmax(places[:, 1])])
    np.testing.assert_array_equal(closest, places[np.argmax(places[:, 0])])
    lengths = np.asarray(axes.collections[0].get_array())
    np.testing.assert_allclose(lengths, places[:, 1] / places[:, 0])
    assert bar.get_ylabel() == "length of the input"


def test_filters_stand_above_their_fits_from_the_best_to_the_worst(rng):
    filters, fits, r2 = rng.standard_normal((9, 4, 5)), rng.standard_normal((9, 4, 5)), rng.permutation(9) / 10
    r2[3] = np.nan
    figure = units_figures.gabor_fits(filters, fits, r2, "Fits")
    order = [k for k in np.argsort(-r2) if k != 3]
    columns = [order[round(place)] for place in np.linspace(0, 7, 6)]
    for k, above, below in zip(columns, figure.axes[:6], figure.axes[6:], strict=True):
        for image, values in ((above.images[0], filters), (below.images[0], fits)):
            np.testing.assert_array_equal(image.get_array(), values[k])
            assert image.get_clim()[1] == max(np.abs(filters[k]).max(), np.abs(fits[k]).max())
        assert above.get_title() == f"R² {r2[k]:.2f}"


def test_scores_are_cumulative_shares(rng):
    kinds = scores(rng) | {"none": np.full(4, np.nan)}
    axes = only(units_figures.gabor_scores(dict(list(kinds.items())[1:])))
    assert len(axes.lines) == 5
    x, y = axes.lines[0].get_data()
    known = np.sort(kinds["kind of filter 1"][5:])
    np.testing.assert_allclose(np.asarray(x)[1:], np.maximum(known, 0))
    np.testing.assert_allclose(np.asarray(y)[1:], np.arange(1, 26) / 25)


def test_bars_are_the_weights(rng):
    values = rng.standard_normal((2, 4))
    figure = units_figures.bars(values, list("wxyz"), ["unit 1", "unit 2"], "Weights")
    for axes, weights in zip(figure.axes, values, strict=True):
        np.testing.assert_allclose([cast(Rectangle, bar).get_width() for bar in axes.patches], weights)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list("wxyz")


def test_restarts_are_dots_beside_bars_and_long_names_are_shortened(rng):
    values, each = rng.standard_normal((2, 3)), rng.standard_normal((4, 2, 3))
    names = ["price in $ (US$)", "$\\alph$", 85 * "n"]
    figure = units_figures.bars(values, names, ["unit 1", "unit 2"], "Weights", "direction", each)
    FigureCanvasAgg(figure).draw()
    for number, axes in enumerate(figure.axes):
        dots = [points(line) for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dots, np.stack([each[:, number], np.tile(np.arange(3), (4, 1))], axis=-1))
        assert np.abs(axes.get_xlim()).max() >= max(np.abs(values).max(), np.abs(each).max())
    shown = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert shown == ["price in \\$ (US\\$)", "\\$\\alph\\$", 23 * "n" + "…"]


def test_images_of_three_channels_are_drawn_in_colour_with_zero_grey(rng):
    values = rng.standard_normal((1, 2, 3, 4, 3))
    for axes, image in zip(units_figures.images(values, ["a"], ["1", "2"], "Sheet").axes, values[0], strict=True):
        shown = np.asarray(axes.images[0].get_array())
        np.testing.assert_allclose((shown - 0.5) * 2 * np.abs(image).max(), image)


def test_shares_have_the_digits_that_they_need(rng):
    axes = only(units_figures.gabor_scores(scores(rng)))
    label = axes.yaxis.get_major_formatter()
    assert [label(share, 0) for share in (0, 0.025, 0.05, 1)] == ["0 %", "2.5 %", "5 %", "100 %"]


def test_words_of_sheets_can_be_read_on_a_phone(rng):
    images = units_figures.images(
        rng.standard_normal((5, 6, 3, 3)), [f"seed {i}" for i in range(5)], list("abcdef"), "T"
    )
    bars = units_figures.bars(rng.standard_normal((3, 30)), [f"mean texture {i}" for i in range(30)], list("abc"), "T")
    fits = units_figures.gabor_fits(rng.random((8, 5, 5)), rng.random((8, 5, 5)), rng.random(8), "T")
    for figure in (images, bars, fits, units_figures.gabor_scores(scores(rng))):
        scale = 340 / (72 * figure.get_figwidth())
        assert min(float(text.get_fontsize()) * scale for text in words(figure)) >= 9


def test_examples_stand_where_they_are_and_far_ones_on_the_edge():
    planes, *_ = layers_in_plane()
    for axes, plane in zip(by_class().axes, planes, strict=True):
        found = np.concatenate([np.asarray(dots.get_offsets()) for dots in axes.collections])
        assert len(found) == 40
        order = np.concatenate([np.flatnonzero(np.arange(40) % 12 >= 10), *(np.arange(k, 40, 12) for k in range(10))])
        if np.isnan(plane).all():
            assert [text.get_text() for text in axes.texts] == ["all examples\nat one place"]
            continue
        far = np.abs(plane[order]).max(axis=1) > 100
        np.testing.assert_allclose(found[~far], plane[order][~far], rtol=1e-12)
        assert np.all((axes.get_xlim()[0] < found[:, 0]) & (found[:, 0] < axes.get_xlim()[1]))


def test_ten_classes_are_told_apart_by_colour_and_by_marker_and_the_others_are_grey():
    (legend,) = by_class().legends
    handles = {text.get_text(): handle for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)}
    assert set(handles) == {"setosa", r"\$x_", "a class with …", *map(str, range(3, 10)), "other classes"}
    lines = [cast(Line2D, handle) for handle in handles.values()]
    looks = {(line.get_marker(), str(line.get_markeredgecolor()), str(line.get_markerfacecolor())) for line in lines}
    assert len(looks) == 11
    assert len({(line.get_marker(), str(line.get_markerfacecolor()) == "none") for line in lines}) == 10


def test_every_seed_is_a_dot_over_its_layer_and_missing_layers_stay_out(rng):
    axes = only(over_layers(rng))
    for dots, num in zip(axes.collections, (3 * NUM, 2 * NUM, 3 * NUM), strict=True):
        places = np.asarray(dots.get_offsets())
        known = places[np.isfinite(places).all(axis=1)]
        assert len(known) == num
        assert np.abs(known[:, 0] - known[:, 0].round()).max() < 0.4
    lengths = [len(points(line)) for line in axes.lines if line.get_marker() not in ("None", "")]
    assert lengths == [3, 2, 3]
    assert only(over_layers(rng, shares=False)).get_ylim()[0] >= representation_figures.LOWEST


def test_every_restart_is_joined_to_its_own_start(rng):
    plane, trained = rng.standard_normal((10, 2)), np.arange(10) < 5
    draw = lambda *more: only(  # noqa: E731
        representation_figures.restarts(plane, trained, np.array([0.5, 0.2]), 0.1, "outputs", *more)
    )
    (lines,) = (c for c in draw(True).collections if isinstance(c, LineCollection))
    segments = np.stack([np.asarray(segment) for segment in lines.get_segments()])
    np.testing.assert_array_equal(segments, np.stack([plane[5:], plane[:5]], axis=1))
    assert not any(isinstance(c, LineCollection) for c in draw().collections)
