import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from curved import plain, planted, tanh_problem
from problems import Bowl, zero_targets
from sklearn.datasets import load_digits

from analysis.curvature import Objective, Spectra, extremes, outliers, spectra, spectrum, traces
from wspace import MLP, objective
from wspace.data import Dataset
from wspace.tree import pick

NUM = 120  # params of planted spectra


@pytest.fixture
def sampled(monkeypatch):
    """Small networks go through stochastic quadrature."""
    monkeypatch.setattr(spectrum, "DENSE", 0)


def areas(density):
    """Integral over u = asinh(eigenvalue / scale), and the shares to the left of each point of the grid."""
    u = np.arcsinh(density.grid / density.scale)
    parts = (density.values[..., 1:] + density.values[..., :-1]) / 2 * np.diff(u)
    return parts.sum(axis=-1), np.concatenate([np.zeros((*parts.shape[:-1], 1)), np.cumsum(parts, axis=-1)], axis=-1)


# Nodes and weights ------------------------------------------------------------------------------------------------------


def test_small_networks_have_all_their_eigenvalues(rng):
    function, params = tanh_problem(rng)
    matrices = plain(jax.hessian, function, params)
    found = spectra(function, params, rng=rng)
    assert found.exact
    assert found.objective == function.name
    np.testing.assert_allclose(found.nodes, np.linalg.eigvalsh(matrices)[:, None], atol=1e-12)
    np.testing.assert_array_equal(found.weights, np.full((3, 1, 31), 1 / 31))
    for function_of, expected in (
        (lambda x: x, np.trace(matrices, axis1=1, axis2=2)),
        (np.square, (matrices**2).sum((1, 2))),
    ):
        mean, error = found.mean_of(function_of)
        np.testing.assert_allclose(31 * mean, expected, rtol=1e-12)
        np.testing.assert_array_equal(error, 0)
    for level in (0.0, 0.05):
        share, error = found.share_below(level)
        np.testing.assert_allclose(share, np.mean(np.linalg.eigvalsh(matrices) < level, axis=1), rtol=1e-12)
        np.testing.assert_array_equal(error, 0)
        assert np.all(share > 0)


def test_nodes_and_weights_are_a_gauss_rule_of_each_probe(rng, sampled):
    """sum_i w_i node_i^n = v^T H^n v / v^T v up to n = 2 steps - 1, and not beyond."""
    function, params = tanh_problem(rng)
    found = spectra(function, params, rng=np.random.default_rng(3), num_steps=8)
    assert found.nodes.shape == found.weights.shape == (3, 4, 8)
    assert not found.exact
    assert np.all(found.weights >= 0)
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, rtol=1e-12)
    starts = np.random.default_rng(3).standard_normal((3, 4, 31))
    matrices = plain(jax.hessian, function, params)
    for network, matrix in enumerate(matrices):
        scale = np.abs(np.linalg.eigvalsh(matrix)).max()
        for probe, v in enumerate(starts[network]):
            moment = lambda n, v=v, m=matrix: v @ np.linalg.matrix_power(m, n) @ v / (v @ v)  # noqa: E731
            rule = lambda n, at=(network, probe): np.sum(found.weights[at] * found.nodes[at] ** n)  # noqa: E731
            for n in range(16):
                np.testing.assert_allclose(rule(n), moment(n), atol=1e-11 * scale**n)
            assert abs(rule(16) / moment(16) - 1) > 1e-12


def test_with_as_many_steps_as_params_nodes_are_the_eigenvalues(rng, sampled):
    """Weights are then the squared components of the probe, also where the iteration ends early (5 copies of l2)."""
    function, params = tanh_problem(rng)
    found = spectra(function, params, rng=np.random.default_rng(3), num_steps=500)
    assert found.nodes.shape == (3, 4, 31)
    starts = np.random.default_rng(3).standard_normal((3, 4, 31))
    for network, matrix in enumerate(plain(jax.hessian, function, params)):
        values, columns = np.linalg.eigh(matrix)
        shares = (starts[network] @ columns) ** 2 / np.sum(starts[network] ** 2, axis=1, keepdims=True)
        for nodes, weights, share in zip(found.nodes[network], found.weights[network], shares, strict=True):
            assert np.all(np.min(np.abs(nodes[weights > 1e-9, None] - values), axis=1) < 1e-8)
            for value in values:
                own, there = np.abs(nodes - value) < 1e-7, np.abs(values - value) < 1e-7
                np.testing.assert_allclose(weights[own].sum(), share[there].sum(), atol=1e-7)


@pytest.fixture(scope="module")
def two():
    """Two spectra, and quadrature with many probes."""
    one = np.concatenate([np.linspace(-1.0, -0.5, 30), np.linspace(0.2, 3, 87), [20.0, 30, 40]])
    other = np.where(np.arange(NUM) < 36, -0.5, 2.0)
    function, params = planted(np.stack([one, other]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectrum, "DENSE", 0)
        found = spectra(function, params, rng=np.random.default_rng(0), num_probes=400, num_steps=40)
    return np.stack([one, other]), found, spectra(function, params, rng=np.random.default_rng(0))


def test_means_over_probes_are_traces_within_their_errors(two):
    values, found, exact = two
    assert exact.exact
    assert not found.exact
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, rtol=1e-12)
    functions = (lambda x: x, np.square, lambda x: np.exp(-(x**2)), lambda x: x < 0)
    for function in functions:
        mean, error = found.mean_of(function)
        expected, none = exact.mean_of(function)
        np.testing.assert_allclose(expected, function(values).mean(axis=1), rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(none, 0)
        assert np.all(np.abs(mean - expected) < 4 * error)
        theory = np.sqrt(2 * np.var(function(values), axis=1) / (NUM + 2) / 400)  # of a uniform direction
        np.testing.assert_allclose(error, theory, rtol=0.2)
    share, error = found.share_below(0.0)
    assert np.all(np.abs(share - [0.25, 0.3]) < 4 * error)


@pytest.mark.parametrize("dense", [400, 0])
def test_one_network_without_leading_axes_has_a_spectrum(rng, monkeypatch, dense):
    monkeypatch.setattr(spectrum, "DENSE", dense)
    function, params = tanh_problem(rng)
    found = spectra(function, pick(params, 1), rng=rng, batch_ndim=0, num_steps=8)
    assert found.nodes.shape == found.weights.shape == ((1, 31) if dense else (4, 8))
    mean, error = found.mean_of(lambda x: x)
    assert mean.shape == error.shape == ()
    assert found.share_below(0.0)[0].shape == ()
    assert found.density(num=50).values.shape == (50,)
    trace = np.trace(plain(jax.hessian, function, params)[1])
    assert abs(31 * mean - trace) <= (1e-12 if dense else 31 * 5 * error)


def test_errors_need_two_probes(rng, sampled):
    function, params = tanh_problem(rng)
    found = spectra(function, params, rng=rng, num_probes=1, num_steps=8)
    for error in (found.mean_of(np.square)[1], found.share_below(0.0)[1], found.density().errors):
        assert np.all(np.isnan(error))
    assert np.all(np.isfinite(found.density().values))
    for numbers in ((0, 8), (4, 0), (-1, 8)):
        with pytest.raises(
            ValueError, match=f"num_probes = {numbers[0]}, num_steps = {numbers[1]}: at least 1 of each"
        ):
            spectra(function, params, rng=rng, num_probes=numbers[0], num_steps=numbers[1])


# Densities --------------------------------------------------------------------------------------------------------------


def test_densities_are_sums_of_kernels_and_integrate_to_1(two):
    values, found, exact = two
    for scale, num, width in ((None, 400, 0.08), (0.5, 333, 0.2)):
        densities = [s.density(scale, num=num, width=width) for s in (found, exact)]
        for density in densities:
            assert density.values.shape == density.errors.shape == (2, num)
            assert np.all(density.values >= 0)
            np.testing.assert_allclose(areas(density)[0], 1, atol=1e-4)
            assert np.all(np.diff(density.grid) > 0)
            assert (density.scale, density.width) == (scale or pytest.approx(40e-4), width)
        sampled, known = densities
        u = np.arcsinh(known.grid / known.scale)
        centres = np.arcsinh(values / known.scale)
        kernels = np.exp(-(((u - centres[..., None]) / width) ** 2) / 2) / np.sqrt(2 * np.pi) / width
        np.testing.assert_allclose(known.values, kernels.mean(axis=1), rtol=1e-7, atol=1e-9)
        np.testing.assert_array_equal(known.errors, 0)
        assert np.all(sampled.errors >= 0)
        assert np.all(sampled.errors.max(axis=1) > 0)


def test_densities_of_many_probes_are_the_exact_ones(two):
    """L1 distance over u, each integrating to 1; wide kernels, as 40 nodes do not resolve 120 eigenvalues."""
    _, found, exact = two
    own = found.density(1.0, width=0.3)
    u = np.arcsinh(own.grid / own.scale)
    known = exact.density(1.0, width=0.3)
    apart = []
    for few in (4, 400):
        part = Spectra(found.objective, found.nodes[:, :few], found.weights[:, :few], False).density(1.0, width=0.3)
        each = [
            np.interp(u, np.arcsinh(d.grid / d.scale), row) for d in (part, known) for row in d.values
        ]  # fmt: skip
        apart.append([np.trapezoid(np.abs(each[i] - each[i + 2]), u) for i in range(2)])
    assert np.all(np.array(apart[1]) < 0.02)
    assert np.all(np.array(apart[0]) > 2 * np.array(apart[1]))


def test_two_eigenvalues_are_two_bumps_of_their_shares(two):
    _, found, exact = two
    for spectrum_, tolerance in ((found, 0.01), (exact, 1e-4)):
        density = spectrum_.density()
        whole, left = areas(density)
        middle = np.searchsorted(density.grid, 0.0)
        assert abs(left[1, middle] - 0.3) < tolerance
        assert abs(whole[1] - left[1, middle] - 0.7) < tolerance
        peaks = density.grid[1:-1][(np.diff(density.values[1])[:-1] > 0) & (np.diff(density.values[1])[1:] < 0)]
        np.testing.assert_allclose(peaks, [-0.5, 2], rtol=0.06)
        assert density.values[1, middle] < 1e-12


def test_flat_functions_have_a_density_as_well(rng):
    function = Objective(Bowl(((0.0, 0.0),)), "squared_error", zero_targets(1))
    density = spectra(function, {"theta": np.ones((2, 2))}, rng=rng).density()
    assert density.scale == 1.0
    np.testing.assert_allclose(areas(density)[0], 1, atol=1e-4)
    np.testing.assert_allclose(density.grid[np.argmax(density.values, axis=1)], 0, atol=0.01)


# Traces -----------------------------------------------------------------------------------------------------------------


def test_half_as_many_samples_as_params_give_the_trace(rng):
    function, params = tanh_problem(rng)
    expected = np.trace(plain(jax.hessian, function, params), axis1=1, axis2=2)
    found = traces(function, params, rng=rng, num_samples=16)
    assert found.exact
    assert found.objective == function.name
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.errors, 0)
    one = traces(function, pick(params, 1), rng=rng, batch_ndim=0, num_samples=1000)
    assert one.values.shape == one.errors.shape == ()
    np.testing.assert_allclose(one.values, expected[1], rtol=1e-12)
    for num in (1, 0):
        with pytest.raises(
            ValueError, match=f"num_samples = {num}: at least 2 are expected, so that there is an error"
        ):
            traces(function, params, rng=rng, num_samples=num)


@pytest.mark.parametrize("scale", [1.0, 2.0**-70])
def test_estimated_traces_are_right_within_their_errors(rng, scale):
    """60 times the same three spectra: no bias, errors as large as they say, whatever the scale."""
    flat = np.linspace(-1, 3, NUM)
    steep = np.concatenate([[100.0, 60, 40, 20, -3], np.linspace(0, 0.2, NUM - 5)])
    low = np.where(np.arange(NUM) < 5, 7.0, 0.0)
    function, params = planted(scale * np.stack([flat, steep, low] * 60), scale)
    found = traces(function, params, rng=rng, num_samples=12)
    assert not found.exact
    values, errors = (a.reshape(60, 3) / scale for a in (found.values, found.errors))
    truth = np.array([flat.sum(), steep.sum(), low.sum()])
    np.testing.assert_allclose(values[:, 2], truth[2], rtol=1e-9)  # fewer dimensions than samples
    assert np.all(errors[:, 2] < 1e-9)
    off = values[:, :2] - truth[:2]
    spread = off.std(axis=0, ddof=1)
    assert np.all(np.abs(off.mean(axis=0)) < 4 * spread / np.sqrt(60))
    np.testing.assert_allclose(np.sqrt(np.mean(off**2, axis=0)), np.sqrt(np.mean(errors[:, :2] ** 2, axis=0)), rtol=0.5)
    assert np.mean(np.abs(off) > 5 * errors[:, :2]) < 0.02
    hutchinson = np.sqrt(2 * np.sum(steep**2) / 24)  # standard error from as many products, Gaussian vectors
    assert spread[1] < hutchinson / 20
    shared = np.sqrt(2 * np.sum(flat**2) / 24)
    assert spread[0] < 2 * shared


def test_the_trace_of_a_flat_function_is_0(rng):
    function = Objective(Bowl(((0.0,) * 60,)), "squared_error", zero_targets(1))
    found = traces(function, {"theta": np.ones((2, 60))}, rng=rng, num_samples=8)
    np.testing.assert_array_equal(found.values, 0)
    np.testing.assert_array_equal(found.errors, 0)


# Outliers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_planted_outliers_are_counted(rng, count, scale):
    """Steps of 5 %, and one of a factor of 4 behind the outliers; scales do not matter."""
    logs = -np.cumsum(np.full(20, np.log(1.05)) * rng.uniform(0.5, 1.5, (6, 20)), axis=1)
    logs[:, :count] += np.log(4)
    found = outliers(scale * np.exp(logs))
    np.testing.assert_array_equal(found.count, count)
    gaps = logs[:, :-1] - logs[:, 1:]
    np.testing.assert_allclose(found.gap, gaps[:, count - 1] / gaps[:, count : count + 8].mean(axis=1), rtol=1e-9)
    chance = (1 + found.gap / 8) ** -8  # of one ratio, in closed form: F(2, 16)
    np.testing.assert_allclose(found.p, 1 - (1 - chance) ** 11, rtol=1e-6)
    assert np.all(found.p < 1e-3)
    again = outliers(scale * np.exp(logs).reshape(2, 3, 20))
    np.testing.assert_array_equal(again.count, np.full((2, 3), count))
    np.testing.assert_array_equal(again.p.ravel(), found.p)
    one = outliers(scale * np.exp(logs[0]))
    assert one.count == count
    assert one.gap == found.gap[0]


def test_the_last_outlier_that_can_be_seen_has_8_gaps_behind_it():
    values = np.exp(-0.1 * np.arange(12.0))
    for count in (1, 2, 3):
        logs = np.log(values) + np.where(np.arange(12) < count, 2.0, 0)
        assert outliers(np.exp(logs)).count == count
    behind = np.log(values) + np.where(np.arange(12) < 4, 2.0, 0)
    found = outliers(np.exp(behind))
    assert found.count < 4
    assert found.gap < 1  # none of those before it
    few = outliers(values[:9])
    assert (few.count, few.p) == (0, 1)
    assert np.isnan(few.gap)
    assert outliers(values[:10]).count == 1


def test_eigenvalues_that_are_not_positive_do_not_count():
    values = np.stack([
        -np.arange(1.0, 21), np.zeros(20), np.concatenate([np.exp(-np.arange(9.0)), np.full(11, -1.0)]),
        np.concatenate([np.exp([5.0, *-0.1 * np.arange(9)]), np.full(10, -1.0)]),
        np.concatenate([np.exp([5.0, *-0.1 * np.arange(9)]), np.zeros(10)]),
    ])  # fmt: skip
    found = outliers(values)
    np.testing.assert_array_equal(found.count, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(np.isnan(found.gap), [True, True, True, False, False])
    np.testing.assert_array_equal(found.p[:3], 1)
    np.testing.assert_allclose(found.gap[3:], 5 / 0.1, rtol=1e-9)
    assert np.all(found.p[3:] < 1e-4)


def test_repeated_eigenvalues_are_no_gap():
    ties = np.ones(20)
    found = outliers(ties)
    assert (found.count, found.p) == (0, 1)
    assert np.isnan(found.gap)
    level = outliers(np.concatenate([np.ones(9), [0.5]]))  # the only gap that is tried is 0
    assert level.gap == 0
    assert level.p == 1
    groups = outliers(np.repeat([8.0, 4, 2, 1], [3, 5, 6, 6]))
    assert groups.count in (3, 8)
    assert np.isfinite(groups.gap)
    before = outliers(np.concatenate([[16.0, 8, 4], np.ones(12)]))  # the widest gap is in front of equal levels
    assert before.count == 3
    assert before.p < 1e-6


def test_levels_without_order_are_rarely_called_outliers(rng):
    """Exponential gaps: the stated p is below 5 % in about 5 % of the draws."""
    values = np.exp(-np.cumsum(rng.exponential(size=(20_000, 30)), axis=1))
    p = outliers(values).p
    for level in (0.05, 0.2):
        assert 0.5 * level < np.mean(p < level) < 1.2 * level
    assert np.all((p >= 0) & (p <= 1))


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [4, 10])
def test_networks_for_k_classes_have_k_less_1_outliers(num_classes):
    """Two hidden layers on digits, where the median loss has fallen to 0.3 of that of guessing; any of 23 ranks may win.

    By chance a count would be K - 1 in one network of 23, and within 1 of it in three.
    """
    function, params = digits(num_classes, num_seeds=8)
    pairs = extremes(function, params, 32, 0, rng=np.random.default_rng(0), tolerance=1e-3)
    assert np.all(pairs.converged)
    count = outliers(pairs.values).count
    assert np.median(count) == num_classes - 1
    assert np.sum(np.abs(count - (num_classes - 1)) <= 1) >= 6


def digits(num_classes, num_seeds):
    """The train objective, and networks after the first step of Adam whose median loss is at most 0.3 ln K."""
    x, y = map(np.asarray, load_digits(return_X_y=True))
    x, y = x[y < num_classes], y[y < num_classes].astype(np.int32)
    x = ((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-6)).astype(np.float32)
    data = Dataset("digits", "classification", x, y, x, y, num_classes, (8, 8), (), ())
    model, optimizer = MLP((64, 32, 32, num_classes)), optax.adam(3e-3)
    loss = lambda params: objective.objective(model, "cross_entropy", params, jnp.asarray(x), jnp.asarray(y))  # noqa: E731

    @jax.jit
    @jax.vmap
    def start(key):
        params = model.init(key)
        return params, optimizer.init(params)

    @jax.jit
    @jax.vmap
    def step(params, state, key):
        batch = jax.random.choice(key, len(x), (64,))
        inputs = (jnp.asarray(x)[batch], jnp.asarray(y)[batch])
        _, grad = objective.loss_and_gradient(model, "cross_entropy", params, *inputs)
        updates, state = optimizer.update(grad, state)
        params = optax.apply_updates(params, updates)
        return params, state, loss(params)

    key = jax.random.key(0)
    params, state = start(jax.random.split(key, num_seeds))
    for at in range(120):
        params, state, losses = step(params, state, jax.random.split(jax.random.fold_in(key, at), num_seeds))
        if np.median(losses) <= 0.3 * np.log(num_classes):
            return Objective(model, "cross_entropy", data), params
    raise AssertionError("the loss has not fallen")
