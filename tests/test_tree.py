import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wspace import MLP, stack_params, tree


def params_of(sizes, seed=0):
    return MLP(tuple(sizes)).init(jax.random.key(seed))


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.lists(st.integers(1, 3), max_size=2))
def test_unravel_inverts_ravel_for_any_shape_and_batch(sizes, batch):
    layout = tree.Layout.of(params_of(sizes))
    theta = np.random.default_rng(0).standard_normal((*batch, layout.size)).astype(np.float32)
    params = layout.unravel(theta)
    for leaf, shape in zip(jax.tree.leaves(params), layout.shapes, strict=True):
        assert leaf.shape == (*batch, *shape)
    np.testing.assert_array_equal(tree.ravel(params, batch_ndim=len(batch)), theta)


def test_layout_places_each_leaf_where_ravel_puts_it():
    params = params_of((3, 4, 2))
    layout, theta = tree.Layout.of(params), tree.ravel(params)
    assert layout.names == ("0.bias", "0.weight", "1.bias", "1.weight")
    assert layout.offsets == (0, 4, 16, 18)
    assert layout.size == len(theta) == 26
    np.testing.assert_array_equal(theta[4:16], params[0]["weight"].ravel())


def test_unravel_refuses_a_vector_of_another_length():
    with pytest.raises(ValueError, match="has 25 values in its last axis, this layout has 26"):
        tree.Layout.of(params_of((3, 4, 2))).unravel(np.zeros(25))


def test_stack_params_stacks_networks_of_ones_own():
    population = [params_of((3, 4, 2), seed) for seed in range(3)]
    stacked = stack_params(population)
    for i, params in enumerate(population):
        np.testing.assert_array_equal(tree.ravel(stacked, batch_ndim=1)[i], tree.ravel(params))


def test_stack_params_takes_lists_and_numbers():
    stacked = stack_params(
        [{"scale": 1.0, "layers": [np.ones((2, 3)), 0.5]}, {"scale": 2.0, "layers": [np.zeros((2, 3)), 1.5]}]
    )
    np.testing.assert_array_equal(stacked["scale"], [1, 2])
    assert stacked["layers"][0].shape == (2, 2, 3)
    np.testing.assert_array_equal(tree.ravel(stacked, batch_ndim=1)[:, 6:], [[0.5, 1], [1.5, 2]])


@pytest.mark.parametrize(
    ("population", "message"),
    [
        ([], "at least one"),
        (
            [params_of((3, 4, 2)), params_of((3, 5, 2))],
            r"network 1 has 0.bias of shape \(5,\), network 0 of shape \(4,\)",
        ),
        ([params_of((3, 4, 2)), params_of((3, 2))], "network 1 has leaves"),
        ([{"w": np.arange(3), "scale": 1.0}], r"network 0 has w of dtype int64: .* floats are expected"),
    ],
)
def test_stack_params_names_the_first_difference(population, message):
    with pytest.raises(ValueError, match=message):
        stack_params(population)


def test_pick_takes_one_network_of_a_stack_as_numpy():
    population = [params_of((3, 4, 2), seed) for seed in range(3)]
    stacked = stack_params(population)
    for index in (0, 2, -1):
        params = tree.pick(stacked, index)
        assert jax.tree.structure(params) == jax.tree.structure(population[index])
        for leaf, expected in zip(jax.tree.leaves(params), jax.tree.leaves(population[index]), strict=True):
            assert type(leaf) is np.ndarray
            assert leaf.dtype == np.float32
            np.testing.assert_array_equal(leaf, expected)
    with pytest.raises(IndexError):
        tree.pick(stacked, 3)


def test_digest_knows_equal_values_wherever_they_lie():
    params = tree.pick(stack_params([params_of((3, 4, 2), seed) for seed in range(3)]), 1)
    same = jax.tree.map(lambda leaf: np.asfortranarray(leaf), params)  # another order in memory
    wide = jax.tree.map(lambda leaf: np.repeat(leaf, 2, axis=-1)[..., ::2], params)  # not contiguous
    name = tree.digest(params)
    assert len(name) == 64
    assert int(name, 16) > 0
    assert name == tree.digest(jax.tree.map(jnp.asarray, params)) == tree.digest(same) == tree.digest(wide)
    assert name == tree.digest(list(params))


@pytest.mark.parametrize("leaf", range(4))
def test_digest_tells_the_smallest_change_of_any_leaf(leaf):
    params = jax.tree.map(np.array, params_of((3, 4, 2)))
    before = tree.digest(params)
    values = jax.tree.leaves(params)[leaf]
    values.flat[-1] = np.nextafter(values.flat[-1], np.float32(9), dtype=np.float32)
    assert tree.digest(params) != before
    assert tree.digest(params[::-1]) != tree.digest(params)


def test_lerp_is_exact_at_its_ends_and_linear_between():
    a, b = params_of((3, 4, 2), 0), params_of((3, 4, 2), 1)
    np.testing.assert_array_equal(tree.ravel(tree.lerp(a, b, 0.0)), tree.ravel(a))
    np.testing.assert_array_equal(tree.ravel(tree.lerp(a, b, 1.0)), tree.ravel(b))
    middle = (np.float64(1) * tree.ravel(a) + tree.ravel(b)) / 2
    np.testing.assert_allclose(tree.ravel(tree.lerp(a, b, 0.5)), middle, rtol=1e-6)


def test_dot_and_norm_are_those_of_theta():
    a, b = params_of((3, 4, 2), 0), params_of((3, 4, 2), 1)
    np.testing.assert_allclose(tree.dot(a, b), np.dot(tree.ravel(a), tree.ravel(b)), rtol=1e-5)
    np.testing.assert_allclose(tree.norm(a), np.linalg.norm(tree.ravel(a)), rtol=1e-6)
    assert jnp.shape(tree.norm(a)) == ()
