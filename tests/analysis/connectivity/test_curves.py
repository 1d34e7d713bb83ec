import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Bowl, Ring, population, zero_targets
from scipy.optimize import minimize

from analysis.connectivity import (
    Curve,
    along,
    arc_length,
    curve_at,
    curve_lines,
    curve_points,
    curves,
    fit_curves,
    straight_line,
)
from wspace import MLP, objective
from wspace.data import load
from wspace.spec import DataSpec

SHAPES = ("bezier", "polygon")
CONVEX = Bowl(((2.0, 0.5), (0.0, 1.0)))


def arc(*angles):
    """Points of the unit circle, (point, 2)."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def fit(model, ends_a, ends_b, **options) -> tuple[curves.Curves, Any]:
    """Curves between points of the plane; t is all that is drawn."""
    data = zero_targets(len(model.apply({"theta": jnp.zeros(2)}, jnp.ones((1, 1)))[0]))
    params_a, params_b = population(ends_a), population(ends_b)
    options = {"num_steps": 100, "batch_size": 4, "learning_rate": 1e-2, "key": jax.random.key(0)} | options
    found = fit_curves(model, "squared_error", params_a, params_b, data, **options)
    return found, (model, "squared_error", params_a, params_b, data)


def lines_of(problem, found, **options) -> list[Any]:
    model, kind, params_a, params_b, data = problem
    return curve_lines(model, kind, params_a, params_b, data, found, **options)


def small_networks(rng, num_pairs=3, sizes=(4, 5, 3)):
    layers = itertools.pairwise(sizes)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    return tuple({"weight": normal(num_pairs, m, n), "bias": normal(num_pairs, n)} for m, n in layers)


def control_points(rng, num_bends, num_params=3) -> Any:
    """(a, bends, b) of a curve: float64, in two leaves."""
    points = rng.standard_normal((num_bends + 2, 2, num_params))
    leaves = {"u": points[:, 0], "v": points[:, 1]}
    return tuple({name: leaf[part] for name, leaf in leaves.items()} for part in (0, slice(1, -1), -1))


def matrix(points):
    """Control points, or a stack of params, as rows."""
    a, bends, b = points
    join = lambda u, v, w: np.concatenate([u[None], v, w[None]])  # noqa: E731
    return np.concatenate(jax.tree.leaves(jax.tree.map(join, a, bends, b)), axis=-1)


def row(params):
    return np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(params)])


def casteljau(rows, t):
    while len(rows) > 1:
        rows = (1 - t) * rows[:-1] + t * rows[1:]
    return rows[0]


@pytest.mark.parametrize("num_bends", [1, 2, 5])
def test_a_bezier_curve_is_that_of_de_casteljau(rng, x64, num_bends):
    a, bends, b = points = control_points(rng, num_bends)
    for t in np.linspace(0, 1, 11):
        expected = casteljau(matrix(points), t)
        np.testing.assert_allclose(row(curve_at("bezier", a, bends, b, t)), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("num_bends", [1, 2, 5])
def test_a_polygon_passes_through_its_points_and_is_straight_between(rng, x64, num_bends):
    a, bends, b = points = control_points(rng, num_bends)
    rows, num = matrix(points), num_bends + 1
    for k in range(num + 1):
        np.testing.assert_allclose(row(curve_at("polygon", a, bends, b, k / num)), rows[k], rtol=1e-13, atol=1e-14)
    for k in range(num):
        middle = row(curve_at("polygon", a, bends, b, (k + 0.25) / num))
        np.testing.assert_allclose(middle, 0.75 * rows[k] + 0.25 * rows[k + 1], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("num_bends", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_are_exact(rng, shape, num_bends, dtype):
    a, bends, b = jax.tree.map(lambda leaf: leaf.astype(dtype), control_points(rng, num_bends))
    flat = {name: np.concatenate([np.stack([a[name]]), leaf, np.stack([b[name]])]) for name, leaf in bends.items()}
    at = jax.jit(Curve(shape))
    with jax.enable_x64(dtype == np.float64):
        for control in (bends, flat):  # the second stays at both ends for a while
            points = (a, (control, arc_length(shape, a, control, b)[1]), b)
            for alpha, end in ((0.0, a), (1.0, b)):
                found = at(points, jnp.asarray(alpha), None)
                jax.tree.map(np.testing.assert_array_equal, found, end)


@pytest.mark.parametrize("num_bends", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_length_of_a_straight_curve_is_the_distance(rng, shape, num_bends):
    a, _, b = control_points(rng, num_bends)
    t = np.arange(1, num_bends + 1)[:, None] / (num_bends + 1)
    bends = jax.tree.map(lambda u, v: u + t * (v - u), a, b)
    length, table = arc_length(shape, a, bends, b)
    np.testing.assert_allclose(length, np.linalg.norm(row(a) - row(b)), rtol=1e-13)
    np.testing.assert_allclose(table[0], table[1], atol=1e-13)


def test_the_length_of_a_quadratic_curve_is_its_closed_form():
    """|phi'|^2 = A t^2 + B t + C, whose root has an antiderivative."""
    p = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, -1.0]])
    u, v = p[0] - 2 * p[1] + p[2], p[1] - p[0]
    a, b, c = 4 * u @ u, 8 * u @ v, 4 * v @ v

    def antiderivative(t):
        root = math.sqrt(a * t * t + b * t + c)
        logarithm = math.log(2 * math.sqrt(a) * root + 2 * a * t + b)
        return (2 * a * t + b) / (4 * a) * root + (4 * a * c - b * b) / (8 * a**1.5) * logarithm

    length, table = arc_length("bezier", {"t": p[0]}, {"t": p[1:2]}, {"t": p[2]})
    np.testing.assert_allclose(length, antiderivative(1) - antiderivative(0), rtol=1e-12)
    expected = [(antiderivative(t) - antiderivative(0)) / length for t in table[1]]
    np.testing.assert_allclose(table[0], expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_lengths_are_those_of_a_dense_chain(rng, shape):
    points = control_points(rng, 3)
    rows = matrix(points)
    t = np.linspace(0, 1, 100_001)
    if shape == "bezier":
        dense = sum(math.comb(4, k) * (t**k * (1 - t) ** (4 - k))[:, None] * rows[k] for k in range(5))
    else:
        dense = np.stack([np.interp(t, np.arange(5) / 4, column) for column in rows.T], axis=1)
    steps = np.linalg.norm(np.diff(dense, axis=0), axis=1)
    np.testing.assert_allclose(arc_length(shape, *points)[0], steps.sum(), rtol=1e-8)


def test_a_chain_on_a_circle_has_the_length_of_its_segments():
    points = arc(*np.linspace(0, np.pi, 9))
    length, table = arc_length("polygon", {"t": points[0]}, {"t": points[1:-1]}, {"t": points[-1]})
    np.testing.assert_allclose(length, 16 * np.sin(np.pi / 16), rtol=1e-14)
    np.testing.assert_allclose(table[0], np.arange(9) / 8, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
def test_even_alphas_are_even_steps_along_the_curve(rng, x64, shape):
    a, bends, b = control_points(rng, 2)
    length, table = arc_length(shape, a, bends, b)
    alphas = jnp.linspace(0, 1, 1201)
    at = jax.jit(jax.vmap(lambda alpha: Curve(shape)((a, (bends, table), b), alpha, None)))
    found = np.concatenate(jax.tree.leaves(at(alphas)), axis=-1)
    steps = np.linalg.norm(np.diff(found, axis=0), axis=1)
    typical = np.abs(steps * 1200 / length - 1)
    assert np.sum(typical > 2e-3) <= (0 if shape == "bezier" else 2)  # a step around a corner is shorter
    parameter = np.concatenate(jax.tree.leaves(jax.vmap(lambda t: curve_at(shape, a, bends, b, t))(alphas)), axis=-1)
    uneven = np.linalg.norm(np.diff(parameter, axis=0), axis=1)
    assert uneven.max() / uneven.min() > 1.3  # t would not do


@pytest.mark.parametrize("shape", SHAPES)
def test_a_curve_without_length_stays_where_it_is(rng, shape):
    a = control_points(rng, 1)[0]
    bends = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), a)
    length, table = arc_length(shape, a, bends, a)
    assert length == 0
    np.testing.assert_array_equal(table[0], table[1])
    for alpha in (0.0, 0.3, 1.0):
        np.testing.assert_allclose(
            row(Curve(shape)((a, (bends, table), a), jnp.asarray(alpha), None)), row(a), rtol=1e-6
        )


def test_a_control_point_that_is_not_finite_has_no_length(rng):
    a, bends, b = control_points(rng, 1)
    with pytest.raises(ValueError, match="a control point of the curve is not finite"):
        arc_length("bezier", a, bends | {"u": np.full_like(bends["u"], np.nan)}, b)


def mean_loss(model, shape, points):
    """E over t of the loss on a curve through rows of control points: exact quadrature of a polynomial, in pieces."""
    num = len(points) - 1
    nodes, weights = np.polynomial.legendre.leggauss(16)
    pieces = num if shape == "polygon" else 1
    t = np.concatenate([(k + (nodes + 1) / 2) / pieces for k in range(pieces)])
    if shape == "bezier":
        w = np.stack([math.comb(num, k) * t**k * (1 - t) ** (num - k) for k in range(num + 1)], axis=1)
    else:
        w = np.maximum(0, 1 - np.abs(num * t[:, None] - np.arange(num + 1)))
    return np.tile(weights, pieces) @ model.loss(w @ points) / (2 * pieces)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "num_bends", "most"), [("bezier", 1, 0.06), ("bezier", 3, 2e-3), ("polygon", 3, 0.02)]
)
def test_a_fitted_curve_goes_around_a_hill_as_well_as_the_best_one(shape, num_bends, most):
    """The best bends by L-BFGS on the exact mean are the reference."""
    a, b = arc(0.0, np.pi * 2 / 3)
    found, problem = fit(Ring(), [a], [b], shape=shape, num_bends=num_bends, num_steps=1500, num_points=4)
    whole = lambda bends: np.concatenate([a[None], np.reshape(bends, (-1, 2)), b[None]])  # noqa: E731
    begin = np.linspace(a, b, num_bends + 2)[1:-1]
    best = minimize(lambda bends: mean_loss(Ring(), shape, whole(bends)), begin.ravel(), tol=1e-12)
    reached = mean_loss(Ring(), shape, whole(found.bends["theta"][0]))
    assert best.fun <= reached <= best.fun + 2e-4
    if num_bends == 1:
        np.testing.assert_allclose(found.bends["theta"][0, 0], best.x, atol=0.02)
    line = lines_of(problem, found)[0]
    flat = straight_line(Ring(), "squared_error", {"theta": np.float32(a)}, {"theta": np.float32(b)}, problem[-1])
    np.testing.assert_allclose(flat.barriers["train_loss"].chord, np.sin(np.pi / 3) ** 4, rtol=1e-5)
    assert line.barriers["train_loss"].chord < most
    assert 1 < found.detour[0] < 1.35  # the arc is 1.21 chords long


@pytest.mark.parametrize("shape", SHAPES)
def test_a_convex_loss_has_no_barrier_on_curves_either(shape):
    found, problem = fit(CONVEX, [[1, 2], [-1, 0.5]], [[-2, 1], [2, 2]], shape=shape, num_steps=300, num_bends=2)
    for line in lines_of(problem, found, num_alphas=11):
        assert line.barriers["train_loss"].chord <= line.barriers["train_loss"].tolerance


def test_the_l2_term_is_felt(rng):
    ends = arc(0.3), arc(1.8)
    free, _ = fit(Ring(), *ends, num_steps=300)
    held, problem = fit(Ring(), *ends, num_steps=300, l2=2.0)
    size = lambda found: np.linalg.norm(found.bends["theta"])  # noqa: E731
    assert size(held) < 0.8 * size(free)
    line = lines_of(problem, held, l2=2.0, num_alphas=3)[0]
    np.testing.assert_allclose(line.values["train_objective"][0] - line.values["train_loss"][0], 1.0, rtol=1e-6)


def control_rows(params_a, bends, params_b):
    return jax.tree.map(lambda u, v, w: jnp.concatenate([u[None], v, w[None]]), params_a, bends, params_b)


def segment(leaf, t):
    k = jnp.minimum(jnp.floor(t * (len(leaf) - 1)), len(leaf) - 2).astype(int)
    s = t * (len(leaf) - 1) - k
    return (1 - s) * leaf[k] + s * leaf[k + 1]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_size", [6, 120])
def test_training_is_adam_on_the_drawn_points(rng, shape, batch_size):
    """A loop in float64 whose gradient goes through the curve as it is written down."""
    whole, model, l2, rate, num_steps, number = load(DataSpec(name="iris")), MLP((4, 5, 3)), 0.1, 0.02, 7, 9
    data = dataclasses.replace(whole, x_train=whole.x_train[:120], y_train=whole.y_train[:120])
    a, b, key = small_networks(rng, 2), small_networks(rng, 2), jax.random.key(3)
    found = fit_curves(
        model, "cross_entropy", a, b, data, shape=shape, num_bends=2, l2=l2, num_steps=num_steps, batch_size=batch_size,
        learning_rate=rate, num_points=3, ids=[5, number], key=key,
    )  # fmt: skip
    start, end = (jax.tree.map(lambda leaf: leaf[1].astype(np.float64), params) for params in (a, b))
    point = casteljau if shape == "bezier" else segment

    @jax.jit
    def loss_and_gradient(bends, t, x, y):
        def mean(bends, l2):
            rows = control_rows(start, bends, end)
            points = [jax.tree.map(lambda leaf, j=j: point(leaf, t[j]), rows) for j in range(3)]
            return sum(objective.objective(model, "cross_entropy", p, x[j], y[j], l2) for j, p in enumerate(points)) / 3

        return mean(bends, 0.0), jax.grad(mean)(bends, l2)

    bends = jax.tree.map(lambda u, v: np.stack([(2 * u + v) / 3, (u + 2 * v) / 3]), start, end)
    first, second = (jax.tree.map(np.zeros_like, bends) for _ in range(2))
    for step in range(num_steps):
        t, chosen = curves._draw(jax.random.fold_in(jax.random.fold_in(key, number), step), 3, batch_size, 120)
        rows = np.broadcast_to(np.arange(120), (3, 120)) if chosen is None else np.asarray(chosen)
        with jax.enable_x64(True):
            batch = data.x_train[rows].astype(np.float64), data.y_train[rows]
            loss, grad = loss_and_gradient(bends, np.asarray(t, np.float64), *batch)
        np.testing.assert_allclose(found.history[1, step], loss, rtol=1e-4)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * np.asarray(g), first, grad)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * np.asarray(g) ** 2, second, grad)
        now, n = rate * (1 + math.cos(math.pi * step / num_steps)) / 2, step + 1
        sizes = jax.tree.map(lambda v, n=n: np.sqrt(v / (1 - 0.999**n)) + 1e-8, second)
        moves = jax.tree.map(lambda m, s, n=n, now=now: now * (m / (1 - 0.9**n)) / s, first, sizes)
        bends = jax.tree.map(np.subtract, bends, moves)
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u[1], v, rtol=2e-3, atol=2e-4), found.bends, bends)


def test_points_are_drawn_evenly_and_batches_from_all_examples():
    t, chosen = curves._draw(jax.random.key(0), 1000, 20, 7)
    np.testing.assert_array_equal(np.floor(1000 * np.asarray(t)), np.arange(1000))
    assert np.ptp(1000 * np.asarray(t) % 1) > 0.9
    np.testing.assert_allclose(np.bincount(np.asarray(chosen).ravel()), 20_000 / 7, rtol=0.1)
    assert curves._draw(jax.random.key(0), 2, 7, 7)[1] is None


@pytest.mark.slow
def test_a_pair_does_not_depend_on_its_company(rng, monkeypatch):
    data, model = load(DataSpec(name="iris")), MLP((4, 5, 3))
    a, b = small_networks(rng, 5), small_networks(rng, 5)
    options: dict[str, Any] = {"num_steps": 20, "batch_size": 16, "key": jax.random.key(1)}
    one_of = lambda params, i: jax.tree.map(lambda leaf: leaf[i : i + 1], params)  # noqa: E731
    together = fit_curves(model, "cross_entropy", a, b, data, **options)
    alone = [
        fit_curves(model, "cross_entropy", one_of(a, i), one_of(b, i), data, ids=[i], **options)
        for i in range(5)
    ]  # fmt: skip
    monkeypatch.setattr(curves, "block_width", lambda *args: 2)
    blocks = fit_curves(model, "cross_entropy", a, b, data, num_devices=1, **options)
    for i, one in enumerate(alone):
        for other, index in ((one, 0), (blocks, i)):
            np.testing.assert_allclose(together.history[i], other.history[index], rtol=1e-4)
            np.testing.assert_allclose(together.length[i], other.length[index], rtol=1e-4)
            jax.tree.map(
                lambda u, v, i=i, index=index: np.testing.assert_allclose(u[i], v[index], rtol=1e-3, atol=1e-4),
                together.bends, other.bends,
            )  # fmt: skip


def test_the_same_key_gives_the_same_curves():
    ends = arc(0.0, 1.0), arc(2.0, 2.5)
    first, again, other = (fit(Ring(), *ends, key=jax.random.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.bends["theta"], again.bends["theta"])
    np.testing.assert_array_equal(first.history, again.history)
    assert np.all(first.bends["theta"] != other.bends["theta"])


@pytest.mark.parametrize("shape", SHAPES)
def test_losses_are_by_arc_length(rng, shape):
    """Points at shares of the way, found on a dense chain, have the losses of the line; its ends are the networks."""
    found, problem = fit(Ring(), [[3.0, 0.0]], [[0.0, 1.0]], shape=shape, num_steps=50)
    model, kind, params_a, params_b, data = problem
    line = lines_of(problem, found, num_alphas=11)[0]
    a, (bends, _), b = curve_points(found, 0, params_a, params_b)
    rows = np.concatenate([a["theta"][None], bends["theta"], b["theta"][None]]).astype(np.float64)
    t = np.linspace(0, 1, 20_001)[:, None]
    quadratic = (1 - t) ** 2 * rows[0] + 2 * t * (1 - t) * rows[1] + t**2 * rows[2]
    chain = np.concatenate([rows[0] + t * (rows[1] - rows[0]), (rows[1] + t * (rows[2] - rows[1]))[1:]])
    dense = quadratic if shape == "bezier" else chain
    way = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
    at = np.stack([np.interp(line.alphas * way[-1], way, column) for column in dense.T], axis=1)
    np.testing.assert_allclose(line.values["train_loss"], Ring().loss(at), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.length[0], way[-1], rtol=1e-6)
    np.testing.assert_allclose([found.distance[0], line.length], math.sqrt(10), rtol=1e-7)
    np.testing.assert_allclose(found.detour, found.length / math.sqrt(10), rtol=1e-7)
    flat = straight_line(model, kind, a, b, data, num_alphas=3)
    for name, values in flat.values.items():
        np.testing.assert_array_equal(line.values[name][[0, -1]], values[[0, -1]])
    direct = along(model, kind, curve_points(found, 0, params_a, params_b), data, path=found.path, num_alphas=11)
    assert direct.barriers == line.barriers


def test_equal_ends_give_a_curve_without_length_where_nothing_pulls_at_it():
    found, problem = fit(CONVEX, [[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(found.distance, [0, 0])
    assert found.length[0] == 0
    assert found.length[1] > 0.1  # a loop to lower loss and back
    assert np.isnan(found.detour).all()
    assert not found.diverged.any()
    for line in lines_of(problem, found, num_alphas=3):
        assert line.barriers["train_loss"].chord == 0
        assert line.values["train_loss"][0] == line.values["train_loss"][-1]


def test_a_curve_that_diverges_is_marked_and_harms_no_other():
    ends = [[1.0, 0.0], [1e12, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1e12], [-1.0, 0.0]]
    found, problem = fit(Ring(), *ends, num_steps=20)
    np.testing.assert_array_equal(found.diverged, [False, True, False])
    assert not np.isfinite(found.history[1]).all()
    assert np.isfinite(found.history[[0, 2]]).all()
    np.testing.assert_array_equal(np.isnan(found.length), found.diverged)
    np.testing.assert_array_equal(np.isnan(found.detour), found.diverged)
    lines = lines_of(problem, found, num_alphas=3)
    assert [line is None for line in lines] == [False, True, False]
    with pytest.raises(ValueError, match="the curve of pair 1 diverged"):
        curve_points(found, 1, problem[2], problem[3])
    healthy, _ = fit(Ring(), *(np.array(end)[[0, 2]] for end in ends), num_steps=20, ids=[0, 2])
    np.testing.assert_allclose(found.bends["theta"][[0, 2]], healthy.bends["theta"], rtol=1e-5)


def test_progress_reaches_the_end():
    said = []
    found, _ = fit(Ring(), arc(0.0, 1.0, 2.0), arc(1.5, 2.0, 3.0), num_steps=70, progress=said.append)
    assert found.history.shape == (3, 70)
    assert said[-1].startswith("70 of 70 steps, curves between 3 pairs: loss ")
    assert said[-1].endswith("about 0 s left")


def test_float64_stays_outside(rng):
    found, _ = fit(Ring(), arc(0.0), arc(2.0), num_steps=5)
    with jax.enable_x64(True):
        again, _ = fit(Ring(), arc(0.0), arc(2.0), num_steps=5)
    assert found.bends["theta"].dtype == found.history.dtype == np.float32
    np.testing.assert_array_equal(found.bends["theta"], again.bends["theta"])
    assert isinstance(found.bends["theta"], np.ndarray)
    assert found.length.dtype == np.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_bends": 0}, "num_bends = 0: at least 1"),
        ({"num_steps": 0, "num_points": 0}, "num_steps = 0, num_points = 0: at least 1"),
        ({"batch_size": 5}, "batch_size = 5: there are 4 train examples"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0, l2 = 0.0"),
        ({"l2": -1.0}, "l2 = -1.0"),
        ({"ids": [1]}, r"ids of shape \(1,\) for 2 pairs"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(Ring(), arc(0.0, 1.0), arc(1.0, 2.0), **options)


def test_ends_that_cannot_be_connected_are_refused():
    good = arc(0.0, 1.0, 2.0)
    bad = good.copy()
    bad[[0, 2], 1] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"params_b of the pairs \[0, 2\] are not finite"):
        fit(Ring(), good, bad)
    with pytest.raises(ValueError, match=r"params_a of the pairs \[0, 2\] are not finite"):
        fit(Ring(), bad, good)
    with pytest.raises(ValueError, match="the networks differ: leaves"):
        fit(Ring(), good, good[:2])
    with pytest.raises(ValueError, match="all begin with the number of pairs, at least 1"):
        fit(Ring(), good[:0], good[:0])


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape = 'spline' is not one of \('bezier', 'polygon'\)"):
        curves._check(population(arc(0.0)), population(arc(1.0)), "spline", None)
