import copy
import dataclasses

import jax
import numpy as np
import pytest
from curved import SIZES, examples, networks, rows, tanh_problem

from analysis.curvature import Objective, gradients, hessian_products, hessians, lanczos, spectra, spectrum
from analysis.curvature import objective as objectives
from analysis.curvature.hessian import values
from analysis.curvature.objective import Population
from wspace import MLP, objective
from wspace.tree import pick, ravel


def test_what_is_not_a_function_is_refused(rng):
    data, model = examples(rng), MLP(SIZES, "tanh")
    wrong = copy.copy(Objective(model, "cross_entropy", data))
    object.__setattr__(wrong, "split", "validation")  # the types checked in tests would refuse it before
    with pytest.raises(ValueError, match="split = 'validation': 'train' or 'test' is expected"):
        wrong.__post_init__()
    for l2 in (-0.1, float("inf"), float("nan"), -float("inf")):
        with pytest.raises(ValueError, match=f"l2 = {l2}: a finite number of at least 0 is expected"):
            Objective(model, "cross_entropy", data, l2=l2)
    empty = examples(rng, nums=(5, 0))
    with pytest.raises(ValueError, match="there are no test examples"):
        Objective(model, "cross_entropy", empty, "test")
    assert Objective(model, "cross_entropy", empty).examples[0] is empty.x_train
    with pytest.raises(ValueError, match="there are no train examples"):
        Objective(model, "cross_entropy", examples(rng, nums=(0, 5)))


def test_the_name_says_which_function_it_is(rng):
    function, _ = tanh_problem(rng, l2=0.0)
    assert function.name == "mean cross entropy over 23 train examples, without L2 term"
    other = dataclasses.replace(function, kind="squared_error", split="test", l2=1e-4)
    assert other.name == "mean squared error over 11 test examples + 0.0001/2 |theta|^2"
    assert other.examples[0] is function.data.x_test
    assert other.examples[1] is function.data.y_test


def test_the_test_split_is_the_test_data(rng):
    function, params = tanh_problem(rng)
    data = function.data
    swapped = dataclasses.replace(
        data, x_train=data.x_test, y_train=data.y_test, x_test=data.x_train, y_test=data.y_train
    )
    test = dataclasses.replace(function, split="test")
    for compute in (values, gradients):
        expected = compute(dataclasses.replace(function, data=swapped), params)
        np.testing.assert_array_equal(compute(test, params), expected)
    assert np.abs(values(test, params) - values(function, params)).min() > 1e-2


def everything(function, params, batch_ndim=1):
    """Numbers of all networks, (*batch, ...) each."""
    batch = jax.tree.leaves(params)[0].shape[:batch_ndim]
    vectors = np.broadcast_to(np.random.default_rng(5).standard_normal((3, 31)), (*batch, 3, 31))
    return {
        "value": values(function, params, batch_ndim=batch_ndim),
        "gradient": gradients(function, params, batch_ndim=batch_ndim),
        "product": hessian_products(function, params, vectors, batch_ndim=batch_ndim),
    }


def test_leading_axes_and_blocks_do_not_change_the_numbers(rng, monkeypatch):
    """(seed,), (seed, checkpoint), (); and three networks in blocks of two, the last block padded."""
    function, params = tanh_problem(rng)
    before = jax.tree.map(np.copy, params)
    monkeypatch.setattr(Population, "_width", lambda *_: 2)
    padded = everything(function, params)
    nested = everything(function, jax.tree.map(lambda leaf: leaf[:, None], params), 2)
    assert hessians(function, jax.tree.map(lambda leaf: leaf[None], params), batch_ndim=2).shape == (1, 3, 31, 31)
    monkeypatch.undo()
    alone = [everything(function, pick(params, network), 0) for network in range(3)]
    for name, expected in padded.items():
        assert expected.dtype == np.float64
        assert nested[name].shape == (3, 1, *expected.shape[1:])
        np.testing.assert_array_equal(nested[name][:, 0], expected, name)
        np.testing.assert_allclose(
            np.stack([one[name] for one in alone]), expected, rtol=1e-12, atol=1e-12, err_msg=name
        )
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.float32
    assert not jax.config.read("jax_enable_x64")


def test_random_numbers_do_not_depend_on_leading_axes_and_blocks(rng, monkeypatch):
    """One generator draws for all networks before they are divided, so that padding takes no draws."""
    monkeypatch.setattr(lanczos, "DENSE", 0)
    monkeypatch.setattr(spectrum, "DENSE", 0)
    function, params = tanh_problem(rng)
    nested = jax.tree.map(lambda leaf: leaf[:, None], params)
    one, other = (
        spectra(function, p, rng=np.random.default_rng(0), batch_ndim=n, num_steps=8)
        for p, n in ((params, 1), (nested, 2))
    )
    assert other.nodes.shape == other.weights.shape == (3, 1, 4, 8)
    np.testing.assert_array_equal(other.nodes[:, 0], one.nodes)
    monkeypatch.setattr(Population, "_width", lambda *_: 1)
    each = spectra(function, params, rng=np.random.default_rng(0), num_steps=8)
    np.testing.assert_allclose(each.nodes, one.nodes, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(each.weights, one.weights, rtol=1e-7, atol=1e-12)


def test_chunks_of_examples_do_not_change_the_numbers(rng, monkeypatch):
    """23 examples in chunks of 4, the last one padded; the padding has no weight."""
    function, params = tanh_problem(rng)
    one = everything(function, params)
    assert function.chunk(pick(params, 0)) == 23
    monkeypatch.setattr(objective, "CHUNK_VALUES", 4 * 4 * (3 + 4 + 3))
    assert function.chunk(pick(params, 0)) == 4
    other = everything(function, params)
    for name, expected in one.items():
        np.testing.assert_allclose(other[name], expected, rtol=1e-12, atol=1e-12, err_msg=name)


def test_params_of_any_kind_are_a_population(rng):
    """NumPy or JAX arrays, float16 to float64, scalars; theta is as `ravel` has it."""
    function, params = tanh_problem(rng)
    found = Population.of(function, params)
    np.testing.assert_array_equal(found.theta, rows(params))
    np.testing.assert_array_equal(found.theta, ravel(params, 1))
    assert found.theta.dtype == np.float64
    assert (found.batch, found.layout.size) == ((3,), 31)
    np.testing.assert_array_equal(found.params(found.theta)[1]["weight"], params[1]["weight"])
    for dtype in (np.float16, np.float64):
        cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), params)
        np.testing.assert_array_equal(Population.of(function, cast).theta, rows(cast))
    placed = jax.tree.map(jax.numpy.asarray, params)
    np.testing.assert_array_equal(Population.of(function, placed).theta, found.theta)
    scalars = Population.of(function, {"b": np.ones((2, 3)), "a": np.array([5.0, 6.0])})
    np.testing.assert_array_equal(scalars.theta, [[5, 1, 1, 1], [6, 1, 1, 1]])
    assert scalars.layout.shapes == ((), (3,))
    assert Population.of(function, {"a": 2.0}, 0).theta.tolist() == [[2.0]]


def test_what_is_not_a_population_is_refused(rng):
    function, params = tanh_problem(rng)
    one = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"leaves of shapes \[\] lack 1 leading axes"):
        Population.of(function, {})
    with pytest.raises(ValueError, match=r"leaves of shapes \[\(\), \(2, 3\)\] lack 1 leading axes"):
        Population.of(function, {"a": 1.0, "b": one})
    with pytest.raises(ValueError, match=r"shapes \[\(2, 3\), \(3, 2\)\]: the same 1 leading axes, at least one"):
        Population.of(function, {"a": one, "b": one.T})
    with pytest.raises(ValueError, match=r"shapes \[\(0, 3\)\]: the same 1 leading axes, at least one network long"):
        Population.of(function, {"a": np.ones((0, 3))})
    with pytest.raises(ValueError, match=r"the same 2 leading axes"):
        Population.of(function, {"a": np.ones((2, 0, 3))}, 2)
    with pytest.raises(ValueError, match="params of dtype complex128, int64: floats are expected"):
        Population.of(function, {"a": np.ones((2, 3), int), "b": one.astype(complex), "c": one})
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="params are not finite: a diverged network has no curvature"):
            Population.of(function, {"a": np.array([[1.0, bad]])})
    params[0]["bias"][2, 1] = np.inf
    for compute in (values, gradients, hessians):
        with pytest.raises(ValueError, match="params are not finite"):
            compute(function, params)


def test_a_mapped_program_gets_every_network_once_and_tells_how_far_it_is(rng, monkeypatch):
    function, _ = tanh_problem(rng)
    population = Population.of(function, networks(rng, (5,)))
    for width, blocks in ((1, 5), (2, 3), (5, 1)):
        monkeypatch.setattr(Population, "_width", lambda *_, width=width: width)
        seen, told = [], []

        def program(theta, extra, data, seen=seen):
            seen.append(len(theta))
            return {"sum": theta.sum(axis=1) + extra, "l2": np.full(len(theta), float(data.l2))}

        found = population.map(program, np.arange(5.0), tell=lambda *numbers, told=told: told.append(numbers))
        np.testing.assert_allclose(found["sum"], population.theta.sum(axis=1) + np.arange(5), rtol=1e-14)
        np.testing.assert_array_equal(found["l2"], 0.1)
        assert seen == [width] * blocks
        assert len(told) == blocks
        assert max(told) == (5, 5)


@pytest.mark.parametrize("num", [1, 3, 40, 1000])
@pytest.mark.parametrize("cores", [1, 4])
def test_blocks_are_as_wide_as_memory_allows(rng, monkeypatch, num, cores):
    """On a CPU, enough blocks for all cores, of no more values than allowed; never less than one network."""
    population = Population.of(tanh_problem(rng)[0], networks(rng, (num,)))
    monkeypatch.setattr(objectives, "num_cores", lambda: cores)
    each = 23 * (4 + 3) + 31  # activations, theta
    for room in (10, each, 3 * each, 50 * each, 10**9):
        monkeypatch.setitem(objectives.BLOCK_VALUES, "cpu", room)
        for alone in (False, True):
            widths = {kept: population._width(kept, alone) for kept in (0, each, 10 * each, 10**9)}
            assert list(widths.values()) == sorted(widths.values(), reverse=True)
            assert all(width == 1 or width * (each + kept) <= room for kept, width in widths.items())
            assert 1 <= min(widths.values()) <= max(widths.values()) <= objectives.MAX_WIDTH
    wide = population._width(0, False)
    assert wide >= min(objectives.MAX_WIDTH, -(-num // cores))
    assert population._width(0, True) >= min(objectives.MAX_WIDTH, num)
    assert cores == 1 or num < 100 or -(-num // wide) >= cores / 2
