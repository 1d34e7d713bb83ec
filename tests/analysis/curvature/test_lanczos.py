import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curved import mirrored, plain, planted, tanh_problem
from problems import Bowl, Wells, zero_targets

from analysis.curvature import Objective, extremes, lanczos
from analysis.curvature.lanczos import Krylov, krylov, ritz
from analysis.projection import fix_signs
from wspace import MLP, symmetry
from wspace.tree import Layout, pick


@functools.cache
def compiled(num_steps):
    one = lambda matrix, start: krylov(lambda v: matrix @ v, start, num_steps)  # noqa: E731
    return jax.jit(jax.vmap(one))


def spaces(matrix, starts, num_steps):
    """Krylov spaces of one matrix from many starts, in float64, as NumPy arrays."""
    with jax.enable_x64(True):
        found = compiled(num_steps)(jnp.broadcast_to(matrix, (len(starts), *matrix.shape)), jnp.asarray(starts))
    return [Krylov(*arrays) for arrays in zip(*map(np.asarray, found), strict=True)]


def turned(rng, values):
    """A dense symmetric matrix with these eigenvalues, and its eigenvectors as columns."""
    turn = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return (turn * values) @ turn.T, turn


@pytest.fixture
def iterated(monkeypatch):
    """Small networks go through Lanczos, without a way out."""
    monkeypatch.setattr(lanczos, "DENSE", 0)
    monkeypatch.setattr(lanczos, "DENSE_MOST", 0)


# The iteration ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_the_basis_stays_orthonormal_on_a_matrix_of_condition_1e10(rng, sign):
    """Plain Lanczos loses this after a few dozen steps, and then finds copies of eigenvalues that are there once."""
    values = np.sort(np.concatenate([sign * np.logspace(0, -10, 79), [-0.3 * sign]]))
    matrix, _ = turned(rng, values)
    for space in spaces(matrix, rng.standard_normal((2, 80)), 60):
        assert np.all(space.live)
        np.testing.assert_allclose(space.basis @ space.basis.T, np.eye(60), atol=1e-12)
        inner = np.diag(space.diagonal) + np.diag(space.off[:-1], 1) + np.diag(space.off[:-1], -1)
        np.testing.assert_allclose(space.basis @ matrix @ space.basis.T, inner, atol=1e-12)
        rest = matrix @ space.basis.T - space.basis.T @ inner  # of rank one, in the last column
        np.testing.assert_allclose(rest[:, :-1], 0, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(rest[:, -1]), space.off[-1], rtol=1e-6, atol=1e-15)
        found, _ = ritz(space)
        for end in (0, -1):
            assert abs(found[end] - values[end]) < 1e-12
        assert np.sum(found > values[-1] - 1e-6) == 1  # no copies
        assert np.all((found >= values[0] - 1e-12) & (found <= values[-1] + 1e-12))


def test_the_first_vector_is_the_start_of_any_length(rng):
    matrix, _ = turned(rng, np.linspace(-1, 2, 12))
    start = rng.standard_normal(12)
    one, large, tiny = spaces(matrix, np.stack([start, 1e100 * start, -1e-100 * start]), 12)
    np.testing.assert_allclose(one.basis[0], start / np.linalg.norm(start), rtol=1e-14)
    for other in (large, tiny):
        np.testing.assert_allclose(other.diagonal, one.diagonal, atol=1e-9)
        np.testing.assert_allclose(other.off, one.off, atol=1e-9)
    np.testing.assert_allclose(ritz(one)[0], np.linspace(-1, 2, 12), atol=1e-12)  # as many steps as dimensions


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
@pytest.mark.parametrize("num", [12, 80])
def test_a_matrix_with_three_eigenvalues_takes_three_steps(rng, num, scale):
    wanted = scale * np.array([-2.0, 0.5, 3.0])
    matrix, _ = turned(rng, np.resize(wanted, num))
    for space in spaces(matrix, rng.standard_normal((20, num)), 12):
        np.testing.assert_array_equal(space.live, np.arange(12) < 3)
        values, columns = ritz(space)
        found = np.abs(columns[:3]).sum(axis=0) > 1e-8  # those of live steps
        np.testing.assert_allclose(values[found], wanted, rtol=1e-12)
        np.testing.assert_array_equal(space.basis[3:], 0)
        assert np.all(np.isfinite(space.diagonal) & np.isfinite(space.off))
        assert np.all((space.diagonal >= wanted[0]) & (space.diagonal <= wanted[2]))  # dead ones invent nothing
        np.testing.assert_allclose(np.sum(columns[0, found] ** 2), 1, rtol=1e-12)  # nor do they weigh anything


@pytest.mark.parametrize("num", [2, 3, 5, 12])
def test_the_iteration_ends_in_spaces_that_are_all_there_is(rng, num):
    """Starts with entries of exactly 0, as within a layer: what then remains is noise within the basis itself."""
    inside = np.arange(num) < (num + 1) // 2
    matrix = np.diag(np.where(np.arange(num) < num // 4, 3.0, 1.0) * inside)
    distinct = len(np.unique(np.diag(matrix)[inside]))
    for space in spaces(matrix, inside * rng.standard_normal((200, num)), num):
        assert space.live.sum() == distinct
        gram = space.basis @ space.basis.T
        np.testing.assert_allclose(gram, np.diag(space.live.astype(float)), atol=1e-12)
        assert ritz(space)[0].max() <= np.diag(matrix).max() + 1e-12


def test_an_eigenvector_as_start_takes_one_step(rng):
    values = np.linspace(-1, 2, 12)
    matrix, turn = turned(rng, values)
    for value, space in zip(values, spaces(matrix, turn.T, 12), strict=True):
        np.testing.assert_array_equal(space.live, np.arange(12) < 1)
        np.testing.assert_allclose(space.diagonal, value, atol=1e-14)
        np.testing.assert_array_equal(space.off[1:], 0)
    for value, space in zip(values, spaces(np.diag(values), np.eye(12), 12), strict=True):  # 0 / 0 within
        np.testing.assert_array_equal(space.live, np.arange(12) < 1)
        np.testing.assert_array_equal(space.diagonal, value)
    for space in spaces(np.zeros((12, 12)), rng.standard_normal((2, 12)), 12):
        np.testing.assert_array_equal(space.live, np.arange(12) < 1)
        np.testing.assert_array_equal(space.diagonal, 0)


# Eigenpairs of networks -------------------------------------------------------------------------------------------------


def check(found, matrices, largest, smallest, tolerance=1e-6):
    """Values, order, vectors, residuals, signs and flags against NumPy's eigh."""
    size = matrices.shape[-1]
    values, columns = np.linalg.eigh(matrices)
    at = [*range(size - 1, size - 1 - largest, -1), *range(smallest - 1, -1, -1)]
    scale = np.abs(values).max(axis=1)
    assert np.all(found.converged)
    assert np.all(found.residuals <= tolerance * scale[:, None])
    np.testing.assert_allclose(found.values, values[:, at], atol=1e-9 * scale.max())
    np.testing.assert_array_equal(found.largest, found.values[:, :largest])
    np.testing.assert_array_equal(found.smallest, found.values[:, largest:][:, ::-1])
    assert found.num_largest == largest
    for network, matrix in enumerate(matrices):
        v = found.vectors[network]
        np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, rtol=1e-12)
        np.testing.assert_allclose(v @ v.T, np.eye(len(at)), atol=1e-7)
        off = np.linalg.norm(v @ matrix - found.values[network][:, None] * v, axis=1)
        np.testing.assert_allclose(found.residuals[network], off, atol=1e-12 * scale[network])
        np.testing.assert_array_equal(v, fix_signs(v))
        alone = np.sum(np.abs(values[network][:, None] - values[network][at]) < 1e-6, axis=0) == 1
        same = np.abs(np.sum(v * columns[network][:, at].T, axis=1))
        np.testing.assert_allclose(same[alone], 1, atol=1e-6)
        assert alone.sum() >= min(len(at), 20)


@pytest.mark.parametrize("path", ["dense", "lanczos"])
def test_eigenpairs_of_networks_are_those_of_all_entries(rng, request, path):
    if path == "lanczos":
        request.getfixturevalue("iterated")
    function, params = tanh_problem(rng)
    matrices = plain(jax.hessian, function, params)
    for largest, smallest in ((3, 2), (1, 0), (0, 2)):
        found = extremes(function, params, largest, smallest, rng=rng)
        check(found, matrices, largest, smallest)
        np.testing.assert_array_equal(found.exact, path == "dense")
        np.testing.assert_array_equal(found.num_products, 31 + largest + smallest)
        assert found.objective == function.name
    assert not jax.config.read("jax_enable_x64")


@pytest.mark.parametrize("dense", [400, 0])
def test_all_eigenvalues_of_a_network_are_found_with_all_their_copies(rng, monkeypatch, dense):
    """Adding the same to all logits changes nothing, so that l2 is an eigenvalue (4 units + bias) times over."""
    monkeypatch.setattr(lanczos, "DENSE", dense)
    function, params = tanh_problem(rng)
    matrices = plain(jax.hessian, function, params)
    for largest, smallest in ((31, 0), (20, 11)):
        found = extremes(function, params, largest, smallest, rng=rng)
        check(found, matrices, largest, smallest)
        assert np.all(found.exact)
        assert np.all(np.sum(np.abs(found.values - 0.1) < 1e-12, axis=1) == 5)


@pytest.mark.parametrize("path", ["dense", "lanczos"])
def test_shifts_of_the_objective_shift_all_eigenvalues(rng, request, path):
    if path == "lanczos":
        request.getfixturevalue("iterated")
    function, params = tanh_problem(rng, l2=0.0)
    one, other = (
        extremes(f, params, 3, 2, rng=rng) for f in (function, dataclasses.replace(function, l2=0.75))
    )  # fmt: skip
    np.testing.assert_allclose(other.values, one.values + 0.75, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(other.vectors, one.vectors, atol=1e-5)
    assert np.all(one.values[:, -1] < 0)  # so that ends are not mixed up with sizes


@pytest.mark.parametrize("path", ["dense", "lanczos"])
def test_relabelled_networks_have_the_same_eigenvalues(rng, request, path):
    if path == "lanczos":
        request.getfixturevalue("iterated")
    function, params = tanh_problem(rng)
    group = MLP((3, 4, 3), "tanh").symmetry
    element = symmetry.random_element(group, rng, (3,), kinds=("perm", "sign"))
    moved = symmetry.act(group, element, params)
    assert any(np.any(a["weight"] != b["weight"]) for a, b in zip(params, moved, strict=True))
    one, other = (extremes(function, p, 4, 4, rng=rng) for p in (params, moved))
    np.testing.assert_allclose(other.values, one.values, rtol=1e-7, atol=1e-9)
    back = symmetry.act_on_theta(group, Layout.of(pick(params, 0)), element, one.vectors)
    np.testing.assert_allclose(np.abs(np.sum(back * other.vectors, axis=-1)), 1, atol=1e-6)


@pytest.mark.parametrize("path", ["dense", "lanczos"])
def test_a_population_has_the_eigenpairs_of_each_network_alone(rng, request, path):
    """Any leading axes, blocks of two networks with the last one padded, and none of it changes a number."""
    if path == "lanczos":
        request.getfixturevalue("iterated")
    function, params = tanh_problem(rng)
    before = jax.tree.map(np.copy, params)
    told = []
    found = extremes(function, params, 2, 1, rng=rng, tell=lambda *numbers: told.append(numbers))
    nested = extremes(function, jax.tree.map(lambda leaf: leaf[:, None], params), 2, 1, rng=rng, batch_ndim=2)
    for name in ("values", "vectors", "residuals", "converged", "num_products", "exact"):
        assert getattr(nested, name).shape == (3, 1, *getattr(found, name).shape[1:])
    np.testing.assert_allclose(nested.values[:, 0], found.values, rtol=1e-10)
    np.testing.assert_allclose(nested.vectors[:, 0], found.vectors, atol=1e-7)
    assert (nested.largest.shape, nested.smallest.shape) == ((3, 1, 2), (3, 1, 1))
    for network in range(3):
        alone = extremes(function, pick(params, network), 2, 1, rng=rng, batch_ndim=0)
        assert alone.values.shape == (3,)
        assert alone.exact.shape == ()
        np.testing.assert_allclose(alone.values, found.values[network], rtol=1e-10)
        np.testing.assert_allclose(alone.vectors, found.vectors[network], atol=1e-7)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(a, b)
    if path == "lanczos":
        assert told[-1] == (3, 3)
        assert all(0 < done <= 3 for done, _ in told)


def test_one_generator_gives_one_result(rng, iterated):
    function, params = tanh_problem(rng)
    one, same = (extremes(function, params, 2, 2, rng=np.random.default_rng(1)) for _ in range(2))
    for name in ("values", "vectors", "residuals"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))


# Functions with known eigenvalues ---------------------------------------------------------------------------------------


def bowl(roots, rng):
    """|R theta|^2 with eigenvalues 2 roots^2, and the eigenvectors as columns."""
    turn = np.linalg.qr(rng.standard_normal((len(roots), len(roots))))[0]
    model = Bowl(tuple(map(tuple, np.diag(roots) @ turn.T)))
    return Objective(model, "squared_error", zero_targets(len(roots))), turn


@pytest.mark.parametrize("iterating", [False, True])
def test_eigenpairs_of_a_bowl_are_those_of_its_matrix(rng, monkeypatch, iterating):
    monkeypatch.setattr(lanczos, "DENSE", 0 if iterating else 400)
    roots = np.array([5.0, 3, 2, *np.linspace(1, 0.5, 8), 0.1])
    function, turn = bowl(roots, rng)
    found = extremes(function, {"theta": rng.standard_normal((2, 12))}, 3, 2, rng=rng)
    np.testing.assert_allclose(found.values, 2 * np.tile(roots[[0, 1, 2, 10, 11]], (2, 1)) ** 2, rtol=1e-9)
    for v in found.vectors:
        np.testing.assert_allclose(np.abs(v @ turn[:, [0, 1, 2, 10, 11]]), np.eye(5), atol=1e-6)


@pytest.mark.parametrize("iterating", [False, True])
@pytest.mark.parametrize("roots", [np.ones(12), np.array([3.0, 3, 3, *np.ones(9)]), np.zeros(12)])
def test_every_copy_of_an_eigenvalue_is_found(rng, monkeypatch, roots, iterating):
    """Also where Lanczos, which sees one copy, has to give up."""
    monkeypatch.setattr(lanczos, "DENSE", 0 if iterating else 400)
    function, _ = bowl(roots, rng)
    found = extremes(function, {"theta": rng.standard_normal((2, 12))}, 4, 2, rng=rng)
    expected = 2 * roots[[0, 1, 2, 3, 10, 11]] ** 2
    np.testing.assert_allclose(found.values, np.tile(expected, (2, 1)), rtol=1e-12, atol=1e-14)
    assert np.all(found.converged & found.exact[:, None])
    for v in found.vectors:
        np.testing.assert_allclose(v[:4] @ v[:4].T, np.eye(4), atol=1e-12)


def test_every_copy_of_an_eigenvalue_is_found_among_600_params(rng):
    """One network of the two has repeated eigenvalues only: the other one stays with Lanczos."""
    distinct = np.concatenate([[9.0, 8, 7, 6, 5], np.linspace(1, 0, 593), [-2.0, -3]])
    values = np.stack([np.concatenate([np.full(3, 3.0), np.ones(595), np.full(2, -1.0)]), distinct])
    function, params = planted(values)
    found = extremes(function, params, 5, 3, rng=rng)
    np.testing.assert_allclose(found.values[0], [3, 3, 3, 1, 1, 1, -1, -1], atol=1e-12)
    np.testing.assert_allclose(found.values[1], [9, 8, 7, 6, 5, 0, -2, -3], atol=1e-5)
    np.testing.assert_array_equal(found.exact, [True, False])
    assert np.all(found.converged)
    assert found.num_products[1] < 600 < found.num_products[0]
    u = mirrored(found.vectors)
    np.testing.assert_allclose(np.abs(u[1][[0, 1, 2, 3, 4, 7]][:, [0, 1, 2, 3, 4, 599]]), np.eye(6), atol=1e-5)
    np.testing.assert_allclose(np.sum(u[0][:3, :3] ** 2, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(u[0] @ u[0].T, np.eye(8), atol=1e-12)


def test_repeated_eigenvalues_without_a_way_out_are_not_passed_off_as_converged(rng, iterated):
    """Three copies of 3 are seen as one; what lies behind the Krylov space is NaN, not an invention."""
    function, params = planted(np.concatenate([np.full(3, 3.0), np.ones(37)])[None])
    found = extremes(function, params, 3, 0, rng=rng)
    np.testing.assert_allclose(found.values[0, 0], 3, rtol=1e-12)
    np.testing.assert_array_equal(found.converged, [[True, False, False]])
    np.testing.assert_array_equal(np.isnan(found.values), [[False, True, True]])
    assert np.all(np.isinf(found.residuals[0, 1:]))
    assert found.num_products[0] == 43  # no doubling, as it would not help


@pytest.mark.parametrize("scale", [2.0**-70, 1.0, 2.0**70])
def test_the_iteration_goes_on_until_all_pairs_have_converged_at_any_scale(rng, scale):
    """Evenly spaced eigenvalues need more than the first 64 steps, and tolerances are relative."""
    values = np.linspace(2, -3, 600)
    function, params = planted(scale * np.stack([values, values]), scale)
    found = extremes(function, params, 3, 2, rng=rng)
    np.testing.assert_allclose(found.values / scale, [values[[0, 1, 2, -2, -1]]] * 2, rtol=1e-7)
    assert np.all(found.converged)
    assert np.all(found.residuals < 3e-6 * scale)
    assert np.all(found.num_products > 64 + 128)
    assert not np.any(found.exact)


def test_too_few_steps_are_flagged_and_stay_within_the_spectrum(rng):
    values = np.linspace(2, -3, 600)
    function, params = planted(np.stack([values, np.roll(values, 3)]))
    found = extremes(function, params, 3, 2, rng=rng, max_steps=20)
    assert not np.any(found.converged)
    assert np.all((found.values > -3) & (found.values < 2))
    assert np.all(np.diff(found.values, axis=1) < 0)
    np.testing.assert_array_equal(found.num_products, 25)
    u = mirrored(found.vectors)
    np.testing.assert_allclose(np.sum(u[0] ** 2 * values, axis=1), found.values[0], rtol=1e-9)  # Rayleigh quotients
    off = np.linalg.norm(u[0] * values - found.values[0][:, None] * u[0], axis=1)
    np.testing.assert_allclose(found.residuals[0], off, rtol=1e-9)
    assert all(np.min(np.abs(values - v)) <= r for v, r in zip(found.values[0], found.residuals[0], strict=True))
    more = extremes(function, params, 3, 2, rng=rng, max_steps=60)
    assert np.all(more.residuals < found.residuals)
    one = extremes(function, params, 1, 0, rng=rng, max_steps=1)  # the Rayleigh quotient of a random vector
    assert np.all(np.abs(one.values + 0.5) < 6 * 5 / np.sqrt(12) * np.sqrt(2 / 600))
    exact = extremes(function, params, 1, 0, rng=rng, tolerance=1e9)
    assert np.all(exact.converged)
    np.testing.assert_array_equal(exact.num_products, 65)


@pytest.mark.parametrize("iterating", [False, True])
def test_a_hilltop_curves_downwards(rng, monkeypatch, iterating):
    """Wells at 0: H = -4 I. At a saddle between wells: 8 where it sits in a well, -4 where on a hill."""
    monkeypatch.setattr(lanczos, "DENSE", 0 if iterating else 400)
    function = Objective(Wells(), "squared_error", zero_targets(6))
    theta = np.array([np.zeros(6), [0, 1, -1, 1, 1, 0], np.ones(6)])
    found = extremes(function, {"theta": theta}, 2, 3, rng=rng)
    np.testing.assert_allclose(found.values, [[-4] * 5, [8, 8, 8, -4, -4], [8] * 5], rtol=1e-12)
    np.testing.assert_allclose(found.smallest, [[-4] * 3, [-4, -4, 8], [8] * 3], rtol=1e-12)
    np.testing.assert_allclose(np.abs(found.vectors[1, 3:][:, 1:5]), 0, atol=1e-12)


def test_numbers_out_of_range_are_refused(rng):
    function, params = tanh_problem(rng)
    wrong: list[tuple[int, int]] = [(0, 0), (-1, 2), (2, -1), (30, 2)]
    for largest, smallest in wrong:
        with pytest.raises(ValueError, match=f"largest = {largest}, smallest = {smallest}: together 1 to 31 eigenv"):
            extremes(function, params, largest, smallest, rng=rng)
    options: list[dict[str, Any]] = [{"tolerance": 0.0}, {"tolerance": float("nan")}, {"max_steps": 0}]
    for option in options:
        with pytest.raises(ValueError, match="above 0, and at least 1, are expected"):
            extremes(function, params, rng=rng, **option)
    params[1]["bias"][1, 0] = np.nan
    with pytest.raises(ValueError, match="params are not finite"):
        extremes(function, params, rng=rng)
