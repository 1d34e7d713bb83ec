import dataclasses

import jax
import numpy as np
import pytest
from curved import SIZES, examples, networks, plain, tanh_problem

from analysis.curvature import Objective, layer_blocks, layers, traces
from analysis.curvature.layers import layer_positions
from wspace import MLP
from wspace.tree import Layout, pick

PLACES = {"0": np.arange(16), "1": np.arange(16, 31)}  # 4 biases and 3 x 4 weights, 3 biases and 4 x 3 weights


def blocks_of(matrices):
    return [matrices[:, at[:, None], at] for at in PLACES.values()]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(3, 4, 3), (2, 2), (5, 4, 3, 2)])
def test_layers_of_an_mlp_cover_theta_once(rng, sizes, bias):
    params = pick(networks(rng, (1,), sizes, bias), 0)
    layout = Layout.of(params)
    found = layer_positions(layout)
    assert list(found) == [str(i) for i in range(len(sizes) - 1)]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(found.values()))), np.arange(layout.size))
    marked = np.zeros(layout.size)
    for i, (name, at) in enumerate(found.items()):
        assert len(at) == sizes[i] * sizes[i + 1] + bias * sizes[i + 1]
        marked[at] = i
        for leaf in jax.tree.leaves(layout.unravel(marked)[int(name)]):
            np.testing.assert_array_equal(leaf, i)


def test_layers_of_other_pytrees_cover_theta_once():
    ones = np.ones
    params = {
        "head": {"bias": ones(2), "weight": ones((3, 2))},
        "scale": np.float64(1.0),
        "stem": {"conv": {"bias": ones(4), "weight": ones((2, 2, 4))}, "norm": {"gain": ones(4)}},
        "list": [ones(2), {"a": ones(1), "b": ones(3)}],
    }
    layout = Layout.of(params)
    found = layer_positions(layout)
    assert {name: len(at) for name, at in found.items()} == {
        "head": 8, "list": 2, "list.1": 4, "scale": 1, "stem.conv": 20, "stem.norm": 4,
    }  # fmt: skip
    np.testing.assert_array_equal(np.sort(np.concatenate(list(found.values()))), np.arange(layout.size))
    theta = np.zeros(layout.size)
    theta[found["stem.conv"]] = 1
    marked = layout.unravel(theta)
    assert sum(leaf.sum() for leaf in jax.tree.leaves(marked)) == 20
    assert np.all(marked["stem"]["conv"]["weight"] == 1)
    assert np.all(marked["stem"]["conv"]["bias"] == 1)
    single = layer_positions(Layout.of({"theta": ones(3)}))
    np.testing.assert_array_equal(single["theta"], np.arange(3))


def test_blocks_are_the_diagonal_blocks_of_the_hessian(rng):
    function, params = tanh_problem(rng)
    matrices = plain(jax.hessian, function, params)
    told = []
    found = layer_blocks(function, params, rng=rng, tell=lambda *numbers: told.append(numbers))
    assert (found.names, found.sizes, found.objective) == (("0", "1"), (16, 15), function.name)
    for layer, block in enumerate(blocks_of(matrices)):
        values = np.linalg.eigvalsh(block)
        np.testing.assert_allclose(found.largest[:, layer], values[:, -1], rtol=1e-10)
        np.testing.assert_allclose(found.smallest[:, layer], values[:, 0], atol=1e-12)
        np.testing.assert_allclose(found.traces[:, layer], values.sum(axis=1), rtol=1e-10)
    whole = np.trace(matrices, axis1=1, axis2=2)
    np.testing.assert_allclose(found.traces.sum(axis=1), whole, rtol=1e-12)
    np.testing.assert_allclose(found.shares, found.traces / whole[:, None], rtol=1e-12)
    np.testing.assert_allclose(traces(function, params, rng=rng, num_samples=16).values, whole, rtol=1e-12)
    for nothing in (found.residuals, found.errors):
        np.testing.assert_array_equal(nothing, np.zeros((3, 2)))
    assert np.all(found.converged)
    extent = np.linalg.eigvalsh(matrices)
    assert np.all(found.largest <= extent[:, -1:] + 1e-12)  # Cauchy's interlacing
    assert np.all(found.smallest >= extent[:, :1] - 1e-12)


def test_blocks_by_lanczos_are_those_of_all_entries(rng, monkeypatch):
    """One step less than the first layer has params, as many as the second one; traces within their errors."""
    function, params = tanh_problem(rng)
    exact = layer_blocks(function, params, rng=rng)
    monkeypatch.setattr(layers, "DENSE", 0)
    told = []
    found = layer_blocks(
        function, params, rng=rng, num_steps=15, num_samples=2000, tell=lambda *numbers: told.append(numbers)
    )  # fmt: skip
    np.testing.assert_allclose(found.largest, exact.largest, rtol=1e-9)
    np.testing.assert_allclose(found.smallest, exact.smallest, atol=1e-9)
    assert np.all(found.residuals < 1e-9)
    assert np.all(found.converged)
    assert np.all(found.errors > 0)
    assert np.all(np.abs(found.traces - exact.traces) < 4 * found.errors)
    matrices = plain(jax.hessian, function, params)
    for layer, block in enumerate(blocks_of(matrices)):  # Hutchinson's variance: 2 sum of squares off the diagonal
        theory = np.sqrt(
            2 * (np.sum(block**2, axis=(1, 2)) - np.sum(np.diagonal(block, axis1=1, axis2=2) ** 2, axis=1))
        )
        np.testing.assert_allclose(found.errors[:, layer], theory / np.sqrt(2000), rtol=0.15)
    assert told[-1] == (3, 3)


def test_one_large_and_one_small_layer(rng, monkeypatch):
    """The first layer by Lanczos, the second one by all entries; and any leading axes."""
    function, params = tanh_problem(rng)
    exact = layer_blocks(function, params, rng=rng)
    monkeypatch.setattr(layers, "DENSE", 15)
    nested = jax.tree.map(lambda leaf: leaf[:, None], params)
    found = layer_blocks(function, nested, rng=rng, batch_ndim=2, num_steps=15, num_samples=2000)
    for name in ("largest", "smallest", "residuals", "converged", "traces", "errors", "shares"):
        assert getattr(found, name).shape == (3, 1, 2)
    np.testing.assert_allclose(found.largest[:, 0], exact.largest, rtol=1e-9)
    np.testing.assert_array_equal(found.errors[..., 1], 0)
    assert np.all(found.errors[..., 0] > 0)
    np.testing.assert_array_equal(found.traces[:, 0, 1], exact.traces[:, 1])
    one = layer_blocks(function, pick(params, 2), rng=rng, batch_ndim=0)
    np.testing.assert_allclose(one.largest, exact.largest[2], rtol=1e-9)
    assert one.shares.shape == (2,)


def test_residuals_of_few_steps_are_those_of_the_ritz_vectors(rng, monkeypatch):
    """They are as large as the distance to an eigenvalue at least, and pairs far from one are flagged."""
    monkeypatch.setattr(layers, "DENSE", 0)
    function, params = tanh_problem(rng)
    found = layer_blocks(function, params, rng=np.random.default_rng(2), num_steps=4, num_samples=2)
    assert not np.any(found.converged)
    same = np.random.default_rng(2)
    for layer, (at, block) in enumerate(
        zip(PLACES.values(), blocks_of(plain(jax.hessian, function, params)), strict=True)
    ):
        starts = same.standard_normal((3, 31))[:, at]
        same.choice([-1.0, 1.0], (3, 2, 31))
        for network, (matrix, start) in enumerate(zip(block, starts, strict=True)):
            basis = np.linalg.qr(np.stack([np.linalg.matrix_power(matrix, n) @ start for n in range(4)], axis=1))[0]
            values, columns = np.linalg.eigh(basis.T @ matrix @ basis)
            vectors = basis @ columns
            off = np.linalg.norm(matrix @ vectors - values * vectors, axis=0)
            np.testing.assert_allclose(found.largest[network, layer], values[-1], rtol=1e-7)
            np.testing.assert_allclose(found.smallest[network, layer], values[0], rtol=1e-7)
            np.testing.assert_allclose(found.residuals[network, layer], max(off[0], off[-1]), rtol=1e-6)


def test_a_layer_of_equal_curvature_takes_one_step(rng, monkeypatch):
    """Squared error is 2 (z - y) in the outputs: the block of a network of biases alone is 2 I, (P = 3)."""
    monkeypatch.setattr(layers, "DENSE", 0)
    function = Objective(Shift(), "squared_error", examples(rng, "targets"))
    params = {"a": {"bias": rng.standard_normal((5, 3))}, "b": {"bias": rng.standard_normal((5, 3))}}
    found = layer_blocks(function, params, rng=rng)
    for value, exact in ((found.largest, 2), (found.smallest, 2), (found.traces, 6)):
        np.testing.assert_allclose(value, exact, rtol=1e-12)
    np.testing.assert_allclose(found.shares, 0.5, rtol=1e-12)
    np.testing.assert_allclose(found.residuals, 0, atol=1e-12)
    assert np.all(found.converged)


class Shift:
    """outputs = a + b, whatever the inputs; two Shifts are not equal, so this one is compiled each time."""

    def apply(self, params, x):
        outputs = params["a"]["bias"] + params["b"]["bias"]
        return outputs + 0 * x[..., :3]


def test_a_flat_function_has_no_shares(rng):
    model = MLP(SIZES, "relu")
    dead = jax.tree.map(lambda leaf: np.zeros_like(leaf), networks(rng))
    dead[0]["bias"][:] = -1.0
    found = layer_blocks(Objective(model, "squared_error", examples(rng, "targets"), "test", 0.3), dead, rng=rng)
    np.testing.assert_allclose(found.traces, [[16 * 0.3, 3 * 2 + 15 * 0.3]] * 3, rtol=1e-12)
    flat = dataclasses.replace(found, traces=np.zeros((3, 2)))
    assert np.all(np.isnan(flat.shares))


def test_numbers_out_of_range_are_refused(rng):
    function, params = tanh_problem(rng)
    with pytest.raises(ValueError, match="num_samples = 1, num_steps = 96: at least 2 of each are expected"):
        layer_blocks(function, params, rng=rng, num_samples=1)
    with pytest.raises(ValueError, match="num_samples = 64, num_steps = 1: at least 2 of each are expected"):
        layer_blocks(function, params, rng=rng, num_steps=1)
    params[0]["weight"][0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="params are not finite"):
        layer_blocks(function, params, rng=rng)
