import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from wspace import MLP, symmetry, tree
from wspace.errors import SymmetryError
from wspace.models import Symmetric
from wspace.symmetry import Axis, Element, Symmetry, Units

ACTIVATIONS = ["gelu", "identity", "relu", "tanh"]
models = st.tuples(  # inputs, hidden, outputs, activation, bias
    st.integers(1, 3),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from(ACTIVATIONS),
    st.booleans(),
)
groups = st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans()), min_size=1, max_size=3)
batches = st.sampled_from([(), (4,), (2, 3)])
seeds = st.integers(0, 99)


def model_of(inputs, hidden, outputs, activation, bias):
    return MLP((inputs, *hidden, outputs), activation, bias)


def group_of(layers):
    return Symmetry(tuple(Units(num, (), sign, scale) for num, sign, scale in layers))


def draw(model, rng, batch=(), dtype: type[np.floating] = np.float64):
    """NumPy params with Gaussian weights and biases."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.standard_normal((*batch, *leaf.shape)).astype(dtype), shapes)


def outputs_of(model, params, x, batch_ndim=0):
    apply = lambda theta: model.apply(theta, jnp.asarray(x))  # noqa: E731
    for _ in range(batch_ndim):
        apply = jax.vmap(apply)
    return np.asarray(jax.jit(apply)(params))


def assert_trees_close(got, expected, rtol=0.0):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=0)


def assert_elements_equal(got, expected, rtol=1e-12):
    for a, b in zip(got.perms, expected.perms, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(got.factors, expected.factors, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=0)
        np.testing.assert_array_equal(np.sign(a), np.sign(b))


def norms_of(params, layer):
    """What each unit of an MLP's hidden layer receives, and what it sends."""
    incoming = np.square(params[layer]["weight"]).sum(-2) + np.square(params[layer].get("bias", 0))
    return np.sqrt(incoming), np.sqrt(np.square(params[layer + 1]["weight"]).sum(-1))


def squared_length(params):
    return sum(float(np.square(leaf).sum()) for leaf in jax.tree.leaves(params))


def redeclare(group, layer, **changes):
    layers = list(group.layers)
    layers[layer] = dataclasses.replace(layers[layer], **changes)
    return Symmetry(tuple(layers))


def without(group, layer, leaf):
    return redeclare(group, layer, axes=tuple(axis for axis in group.layers[layer].axes if axis.leaf != leaf))


@settings(max_examples=12)
@given(models, st.sampled_from([((), ()), ((), (3,)), ((3,), (3,)), ((2,), (2, 3)), ((2, 3), (2, 3))]), seeds)
def test_act_preserves_the_function(sizes, batches, seed):
    model, (of_element, of_params), rng = model_of(*sizes), batches, np.random.default_rng(seed)
    params, x = draw(model, rng, of_params), rng.standard_normal((5, model.sizes[0]))
    element = symmetry.random_element(model.symmetry, rng, of_element)
    with jax.enable_x64(True):
        before = outputs_of(model, params, x, len(of_params))
        after = outputs_of(model, symmetry.act(model.symmetry, element, params), x, len(of_params))
    assert after.shape == (*of_params, 5, model.sizes[-1])
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12 * max(np.abs(before).max(), 1e-3))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_act_moves_activations_as_the_element_says(x64, rng, activation):
    model = MLP((3, 5, 4, 2), activation)
    params, x = draw(model, rng), rng.standard_normal((7, 3))
    element = symmetry.random_element(model.symmetry, rng)
    before, after = (model.activations(p, x) for p in (params, symmetry.act(model.symmetry, element, params)))
    for h, moved, perm, factor in zip(before, after, element.perms, element.factors, strict=False):
        np.testing.assert_allclose(moved, np.asarray(h)[:, perm] * factor, rtol=1e-10, atol=1e-12)
        assert not np.array_equal(perm, np.arange(len(perm)))


def test_act_is_indexing_and_scaling_of_rows_and_columns(rng):
    model = MLP((2, 3, 1), "identity")
    first, second = params = draw(model, rng)
    perm, factor = np.array([2, 0, 1]), np.array([-1.0, 2.0, 0.5])
    moved = symmetry.act(model.symmetry, Element((perm,), (factor,)), params)
    np.testing.assert_array_equal(moved[0]["weight"], first["weight"][:, perm] * factor)
    np.testing.assert_array_equal(moved[0]["bias"], first["bias"][perm] * factor)
    np.testing.assert_array_equal(moved[1]["weight"], second["weight"][perm] / factor[:, None])
    np.testing.assert_array_equal(moved[1]["bias"], second["bias"])


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_a_stack_acts_as_its_elements_one_by_one(rng, batch):
    model = MLP((2, 4, 3, 1), "identity")
    params, element = draw(model, rng, (*batch, 2)), symmetry.random_element(model.symmetry, rng, batch)
    moved = symmetry.act(model.symmetry, element, params)
    for index in np.ndindex(*batch, 2):
        one = symmetry.act(model.symmetry, element[index[:-1]], jax.tree.map(lambda leaf, i=index: leaf[i], params))
        assert_trees_close(jax.tree.map(lambda leaf, i=index: leaf[i], moved), one)


@pytest.mark.parametrize(
    ("activation", "sign", "scale"),
    [("gelu", False, False), ("identity", True, True), ("relu", False, True), ("tanh", True, False)],
)
def test_mlp_declares_the_symmetry_of_its_activation(activation, sign, scale):
    model = MLP((3, 5, 4, 2), activation)
    assert isinstance(model, Symmetric)
    assert [units.num for units in model.symmetry.layers] == [5, 4]
    assert all((units.sign, units.scale) == (sign, scale) for units in model.symmetry.layers)
    assert (model.symmetry.sign, model.symmetry.scale) == (sign, scale)
    assert MLP((3, 2), activation).symmetry == Symmetry(())


@settings(max_examples=30)
@given(groups, batches, seeds)
def test_elements_are_a_group(layers, batch, seed):
    group, rng = group_of(layers), np.random.default_rng(seed)
    f, g, h = (symmetry.random_element(group, rng, batch) for _ in range(3))
    one = symmetry.identity(group, batch)
    compose, invert = symmetry.compose, symmetry.invert
    assert_elements_equal(compose(f, compose(g, h)), compose(compose(f, g), h))
    assert_elements_equal(compose(f, one), f, rtol=0)
    assert_elements_equal(compose(one, f), f, rtol=0)
    assert_elements_equal(compose(f, invert(f)), one)
    assert_elements_equal(compose(invert(f), f), one)
    assert_elements_equal(invert(compose(f, g)), compose(invert(g), invert(f)))


@settings(max_examples=30)
@given(groups, batches, seeds)
def test_perms_and_signs_are_a_group_exactly(layers, batch, seed):
    group, rng = group_of(layers), np.random.default_rng(seed)
    f, g, h = (symmetry.random_element(group, rng, batch, kinds=("perm", "sign")) for _ in range(3))
    one, compose, invert = symmetry.identity(group, batch), symmetry.compose, symmetry.invert
    assert_elements_equal(compose(f, compose(g, h)), compose(compose(f, g), h), rtol=0)
    assert_elements_equal(compose(f, invert(f)), one, rtol=0)
    assert_elements_equal(compose(invert(f), f), one, rtol=0)


@settings(max_examples=30)
@given(models, batches, seeds)
def test_compose_is_an_action(sizes, batch, seed):
    model, rng = model_of(*sizes), np.random.default_rng(seed)
    group = model.symmetry
    params = draw(model, rng, (*batch, 2))
    g, h = (symmetry.random_element(group, rng, batch) for _ in range(2))
    act = lambda element, params: symmetry.act(group, element, params)  # noqa: E731
    assert_trees_close(act(symmetry.compose(g, h), params), act(g, act(h, params)), rtol=1e-12)
    assert_trees_close(act(symmetry.invert(g), act(g, params)), params, rtol=1e-12)
    assert_trees_close(act(symmetry.identity(group, batch), params), params)
    g, h = (symmetry.random_element(group, rng, batch, kinds=("perm", "sign")) for _ in range(2))
    assert_trees_close(act(symmetry.compose(g, h), params), act(g, act(h, params)))


def test_composition_has_an_order():
    g, h = (Element((np.array(perm),), (np.ones(3),)) for perm in ([1, 0, 2], [0, 2, 1]))
    np.testing.assert_array_equal(symmetry.compose(g, h).perms[0], [2, 0, 1])
    np.testing.assert_array_equal(symmetry.compose(h, g).perms[0], [1, 2, 0])


def test_one_element_composes_with_a_stack_or_is_refused(rng):
    group = MLP((4, 4, 4), "identity").symmetry
    stack, one = symmetry.random_element(group, rng, (4,)), symmetry.random_element(group, rng)
    pick = lambda element, i: element[i] if element is stack else element  # noqa: E731
    for second, first in ((one, stack), (stack, one)):
        try:
            composed = symmetry.compose(second, first)
        except (ValueError, IndexError):
            continue
        for i in range(4):
            assert_elements_equal(composed[i], symmetry.compose(pick(second, i), pick(first, i)))


def test_symmetry_is_hashable_and_equal_by_value():
    group = MLP((3, 5, 4, 2)).symmetry
    assert group == MLP((3, 5, 4, 2)).symmetry
    assert hash(group) == hash(MLP((3, 5, 4, 2)).symmetry)
    others = [MLP((3, 5, 3, 2)), MLP((3, 5, 4, 2), "tanh"), MLP((3, 5, 4, 2), bias=False), MLP((3, 5, 2))]
    assert len({group, *(model.symmetry for model in others)}) == 5


def test_act_keeps_dtype_and_kind(rng):
    model = MLP((3, 5, 4, 2), "identity")
    element = symmetry.random_element(model.symmetry, rng)
    for dtype in (np.float32, np.float64):
        moved = symmetry.act(model.symmetry, element, draw(model, rng, dtype=dtype))
        assert all(type(leaf) is np.ndarray and leaf.dtype == dtype for leaf in jax.tree.leaves(moved))
    moved = symmetry.act(model.symmetry, element, model.init(jax.random.key(0)))
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == np.float32 for leaf in jax.tree.leaves(moved))


def test_act_by_a_jax_element_keeps_numpy_params(rng):
    model = MLP((3, 5, 4, 2), "identity")
    element = Element(*jax.tree.map(jnp.asarray, tuple(symmetry.random_element(model.symmetry, rng))))
    moved = symmetry.act(model.symmetry, element, draw(model, rng, dtype=np.float32))
    assert all(type(leaf) is np.ndarray and leaf.dtype == np.float32 for leaf in jax.tree.leaves(moved))


def test_act_works_under_jit_and_vmap(x64, rng):
    model = MLP((3, 5, 4, 2), "identity")
    params, element = draw(model, rng, (3,)), symmetry.random_element(model.symmetry, rng, (3,))
    expected = symmetry.act(model.symmetry, element, params)
    act = lambda element, params: symmetry.act(model.symmetry, element, params)  # noqa: E731
    for transformed in (jax.jit(act), jax.jit(jax.vmap(act))):
        assert_trees_close(transformed(element, params), expected, rtol=1e-15)
    assert_trees_close(jax.jit(lambda params: act(element, params))(params), expected, rtol=1e-15)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    over_elements = jax.jit(jax.vmap(act, in_axes=(0, None)))(element, first)
    for i in range(3):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], over_elements)
        assert_trees_close(one, symmetry.act(model.symmetry, element[i], first), rtol=1e-15)


def test_traced_elements_act_on_numpy_params(x64, rng):
    model = MLP((3, 5, 4, 2), "identity")
    params, element = draw(model, rng), symmetry.random_element(model.symmetry, rng)
    moved = jax.jit(lambda element: symmetry.act(model.symmetry, element, params))(element)
    assert_trees_close(moved, symmetry.act(model.symmetry, element, params), rtol=1e-15)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_act_and_balance_leave_their_arguments_alone(rng, batch):
    model = MLP((3, 5, 4, 2), "identity")
    params, element = draw(model, rng, batch), symmetry.random_element(model.symmetry, rng, batch)
    before = jax.tree.map(np.copy, (params, tuple(element)))
    moved = symmetry.act(model.symmetry, element, params)
    symmetry.balance(model.symmetry, params, len(batch))
    symmetry.invert(symmetry.compose(element, element))
    for leaf in jax.tree.leaves(moved[0]):
        leaf[...] = np.nan
    assert_trees_close((params, tuple(element)), before)


@pytest.mark.parametrize("batch", [(), (3,), (3, 2)])
def test_act_on_theta_is_act_on_params(rng, batch):
    model = MLP((3, 5, 4, 2), "identity")
    params, element = draw(model, rng, batch, np.float32), symmetry.random_element(model.symmetry, rng, batch[:1])
    theta = np.asarray(tree.ravel(params, batch_ndim=len(batch)))
    layout = tree.Layout.of(draw(model, rng))
    moved = symmetry.act_on_theta(model.symmetry, layout, element, theta)
    assert type(moved) is np.ndarray
    assert moved.dtype == np.float32
    expected = tree.ravel(symmetry.act(model.symmetry, element, params), batch_ndim=len(batch))
    np.testing.assert_array_equal(moved, expected)
    assert not np.array_equal(moved, theta)


def test_indexing_a_stack_gives_its_elements(rng):
    stack = symmetry.random_element(MLP((3, 5, 4, 2), "identity").symmetry, rng, (4, 2))
    one, rest = stack[1], stack[2:]
    assert isinstance(one, Element)
    for perm, factor, p, f in zip(one.perms, one.factors, stack.perms, stack.factors, strict=True):
        np.testing.assert_array_equal(perm, p[1])
        np.testing.assert_array_equal(factor, f[1])
    assert_elements_equal(stack[1, 0], one[0], rtol=0)
    for part, p in zip(jax.tree.leaves(tuple(rest)), jax.tree.leaves(tuple(stack)), strict=True):
        np.testing.assert_array_equal(part, p[2:])


@pytest.mark.parametrize(
    ("activation", "kinds", "flips", "scales"),
    [
        *((activation, ("perm",), False, False) for activation in ACTIVATIONS),
        ("gelu", ("perm", "sign", "scale"), False, False),
        ("relu", ("perm", "sign", "scale"), False, True),
        ("tanh", ("perm", "sign", "scale"), True, False),
        ("identity", ("perm", "sign", "scale"), True, True),
        ("identity", ("sign",), True, False),
        ("identity", ("scale",), False, True),
    ],
)
def test_random_elements_have_the_kinds_of_model_and_caller(rng, activation, kinds, flips, scales):
    element = symmetry.random_element(MLP((3, 5, 4, 2), activation).symmetry, rng, (20, 2), kinds=kinds)
    for n, perm, factor in zip((5, 4), element.perms, element.factors, strict=True):
        assert perm.shape == factor.shape == (20, 2, n)
        np.testing.assert_array_equal(np.sort(perm, axis=-1), np.broadcast_to(np.arange(n), perm.shape))
        assert np.any(perm != np.arange(n)) == ("perm" in kinds)
        assert np.any(factor < 0) == flips
        assert np.any(np.abs(factor) != 1) == scales


def test_kinds_may_be_an_iterator(rng):
    group = MLP((3, 5, 4, 2)).symmetry
    element = symmetry.random_element(group, rng, (20,), kinds=iter(("scale",)))
    assert all(np.all(perm == np.arange(perm.shape[-1])) for perm in element.perms)
    assert all(np.any(factor != 1) for factor in element.factors)


def test_the_same_rng_draws_the_same_element():
    group = MLP((3, 5, 4, 2), "identity").symmetry
    a, b, c = (symmetry.random_element(group, np.random.default_rng(seed), (3,)) for seed in (1, 1, 2))
    assert_elements_equal(a, b, rtol=0)
    assert not any(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(c), strict=True))


def test_random_elements_have_the_stated_distribution():
    group = Symmetry((Units(3, (), sign=True, scale=True), Units(3, ())))
    element = symmetry.random_element(group, np.random.default_rng(0), (6000,))
    index = {perm: i for i, perm in enumerate(itertools.permutations(range(3)))}
    drawn = [[index[tuple(row)] for row in perm.tolist()] for perm in element.perms]
    for layer in drawn:
        assert scipy.stats.chisquare(np.bincount(layer, minlength=6)).pvalue > 1e-3
    pairs = np.bincount(np.ravel_multi_index(tuple(drawn), (6, 6)), minlength=36)  # layers are independent
    assert scipy.stats.chisquare(pairs).pvalue > 1e-3
    factor = element.factors[0].ravel()
    assert scipy.stats.binomtest(int(np.sum(factor < 0)), factor.size).pvalue > 1e-3
    assert scipy.stats.kstest(np.log(np.abs(factor)) / symmetry.SPREAD, "norm").pvalue > 1e-3
    np.testing.assert_array_equal(element.factors[1], 1)


def test_share_fixed_counts_units_that_stay_with_their_sign(rng):
    group = MLP((3, 4, 2, 1), "identity").symmetry
    perms = (np.array([[1, 0, 2, 3]]), np.array([[0, 1]]))
    swap_and_flip = Element(perms, (np.array([[1.0, 1, -1, 2]]), np.array([[0.5, -2.0]])))
    np.testing.assert_allclose(symmetry.share_fixed(swap_and_flip), [2 / 6])
    scales = symmetry.random_element(group, rng, (2, 3), kinds=("scale",))
    for still in (symmetry.identity(group, (2, 3)), scales):
        np.testing.assert_array_equal(symmetry.share_fixed(still), np.ones((2, 3)))
    flips = symmetry.identity(group, (5,))._replace(factors=(-np.ones((5, 4)), np.ones((5, 2))))
    np.testing.assert_allclose(symmetry.share_fixed(flips), np.full(5, 2 / 6))
    assert symmetry.share_fixed(symmetry.identity(Symmetry(()))) == 1


def test_share_fixed_of_one_element_is_an_array_without_axes(rng):
    group = MLP((3, 4, 2, 1), "identity").symmetry
    assert symmetry.share_fixed(symmetry.identity(group)) == 1
    assert symmetry.share_fixed(symmetry.random_element(group, rng, kinds=("scale",))) == 1
    one = Element((np.array([1, 0, 2, 3]), np.array([0, 1])), (np.array([1.0, 1, -1, 2]), np.array([0.5, -2.0])))
    assert symmetry.share_fixed(one) == pytest.approx(2 / 6)


@pytest.mark.parametrize("activation", ["relu", "identity"])
@pytest.mark.parametrize("bias", [True, False])
def test_balanced_units_receive_as_much_as_they_send(x64, rng, activation, bias):
    model = MLP((3, 5, 4, 6, 2), activation, bias)
    params, x = draw(model, rng), rng.standard_normal((7, 3))
    element = symmetry.balance(model.symmetry, params)
    balanced = symmetry.act(model.symmetry, element, params)
    for layer, (perm, factor) in enumerate(zip(element.perms, element.factors, strict=True)):
        np.testing.assert_array_equal(perm, np.arange(len(perm)))
        assert np.all(factor > 0)
        incoming, outgoing = norms_of(balanced, layer)
        np.testing.assert_allclose(incoming, outgoing, rtol=1e-10)
    before = outputs_of(model, params, x)
    np.testing.assert_allclose(outputs_of(model, balanced, x), before, rtol=0, atol=1e-12 * np.abs(before).max())
    again = symmetry.balance(model.symmetry, balanced)
    assert_elements_equal(again, symmetry.identity(model.symmetry), rtol=1e-10)


def test_balance_of_one_unit_has_a_closed_form():
    params = ({"weight": np.array([[3.0], [4.0]])}, {"weight": np.array([[20.0]])})
    element = symmetry.balance(MLP((2, 1, 1), bias=False).symmetry, params)
    np.testing.assert_allclose(element.factors[0], [2.0], rtol=1e-12)  # sqrt(20/5)


def test_balance_minimises_the_norm(rng):
    model = MLP((2, 3, 2, 1))
    params, group = draw(model, rng), model.symmetry
    one = symmetry.identity(group)

    def length(logs):
        return squared_length(symmetry.act(group, Element(one.perms, (np.exp(logs[:3]), np.exp(logs[3:]))), params))

    element = symmetry.balance(group, params)
    shortest = squared_length(symmetry.act(group, element, params))
    found = scipy.optimize.minimize(length, np.zeros(5), tol=1e-10)
    np.testing.assert_allclose(shortest, found.fun, rtol=1e-9)
    np.testing.assert_allclose(np.log(np.concatenate(element.factors)), found.x, atol=1e-4)
    assert shortest < squared_length(params) - 0.1
    others = symmetry.random_element(group, rng, (100,), kinds=("scale",))
    balanced = symmetry.act(group, element, params)
    assert all(squared_length(symmetry.act(group, others[i], balanced)) > shortest for i in range(100))


@settings(max_examples=15)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.sampled_from(["relu", "identity"]), st.booleans(), seeds)
def test_balance_is_canonical(hidden, activation, bias, seed):
    model, rng = MLP((2, *hidden, 2), activation, bias), np.random.default_rng(seed)
    params, group = draw(model, rng), model.symmetry
    rescaled = symmetry.act(group, symmetry.random_element(group, rng, kinds=("scale",)), params)
    canonical = lambda params: symmetry.act(group, symmetry.balance(group, params), params)  # noqa: E731
    assert_trees_close(canonical(rescaled), canonical(params), rtol=1e-8)


def test_units_without_input_or_output_keep_their_scale(rng):
    model = MLP((3, 5, 4, 2))
    params = draw(model, rng)
    params[0]["weight"][:, 1] = params[0]["bias"][1] = 0  # receives nothing
    params[1]["weight"][3] = 0  # sends nothing
    params[1]["weight"][:, 2] = params[1]["bias"][2] = params[2]["weight"][2] = 0  # neither
    element = symmetry.balance(model.symmetry, params)
    balanced = symmetry.act(model.symmetry, element, params)
    dead = [np.array([False, True, False, True, False]), np.array([False, False, True, False])]
    for layer, (factor, is_dead) in enumerate(zip(element.factors, dead, strict=True)):
        np.testing.assert_array_equal(factor[is_dead], 1)
        assert np.all(np.isfinite(factor) & (factor > 0))
        incoming, outgoing = (norm[~is_dead] for norm in norms_of(balanced, layer))
        np.testing.assert_allclose(incoming, outgoing, rtol=1e-10)


def test_isolated_dead_units_do_not_disturb_the_others(rng):
    small, large = MLP((3, 4, 2)), MLP((3, 6, 2))
    first, second = params = draw(small, rng)
    pad = lambda leaf, axis: np.insert(leaf, [1, 3], 0, axis=axis)  # noqa: E731
    padded = (
        {"weight": pad(first["weight"], 1), "bias": pad(first["bias"], 0)},
        {"weight": pad(second["weight"], 0), "bias": second["bias"]},
    )
    (alone,), (together,) = (
        symmetry.balance(model.symmetry, p).factors for model, p in ((small, params), (large, padded))
    )
    np.testing.assert_array_equal(together, np.insert(alone, [1, 3], 1))


@pytest.mark.parametrize("activation", ["gelu", "tanh"])
def test_balance_leaves_layers_without_scale_symmetry_alone(rng, activation):
    model = MLP((3, 5, 4, 2), activation)
    assert_elements_equal(symmetry.balance(model.symmetry, draw(model, rng)), symmetry.identity(model.symmetry), rtol=0)
    relu = MLP((3, 5, 4, 2))
    mixed = redeclare(relu.symmetry, 0, scale=False)
    params = draw(relu, rng)
    element = symmetry.balance(mixed, params)
    np.testing.assert_array_equal(element.factors[0], 1)
    incoming, outgoing = norms_of(params, 1)
    np.testing.assert_allclose(element.factors[1], np.sqrt(outgoing / incoming), rtol=1e-12)


@pytest.mark.parametrize("batch", [(), (3,), (3, 2)])
def test_balance_of_a_stack_is_that_of_its_networks(rng, batch):
    model = MLP((3, 5, 4, 2))
    params = draw(model, rng, batch, np.float32)
    element = symmetry.balance(model.symmetry, params, len(batch))
    assert [f.shape for f in element.factors] == [(*batch, 5), (*batch, 4)]
    assert all(factor.dtype == np.float64 for factor in element.factors)
    for index in np.ndindex(*batch):
        one = symmetry.balance(model.symmetry, jax.tree.map(lambda leaf, i=index: leaf[i], params))
        assert_elements_equal(element[index], one, rtol=0)


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
def test_balance_converges_where_units_feed_themselves(rng, strength):
    receives, sends = Axis("loop", -1), Axis("loop", -2, sends=True)
    group = Symmetry((Units(4, (Axis("embed", -1), receives, sends, Axis("read", -2, sends=True)), scale=True),))
    params = {"embed": rng.standard_normal((3, 4)), "read": rng.standard_normal((4, 2))}
    params["loop"] = strength * np.diag(np.exp(rng.standard_normal(3)), 1) + strength * np.diag([1.0, 0.5, 3.0], -1)
    balanced = symmetry.act(group, symmetry.balance(group, params), params)
    incoming = np.square(balanced["embed"]).sum(0) + np.square(balanced["loop"]).sum(0)
    outgoing = np.square(balanced["read"]).sum(1) + np.square(balanced["loop"]).sum(1)
    np.testing.assert_allclose(incoming, outgoing, rtol=1e-9)


def test_balance_converges_where_two_units_only_feed_each_other():
    group = Symmetry((Units(2, (Axis("loop", -1), Axis("loop", -2, sends=True)), scale=True),))
    params = {"loop": np.array([[0.0, 2.0], [1.0, 0.0]])}
    balanced = symmetry.act(group, symmetry.balance(group, params), params)
    np.testing.assert_allclose(balanced["loop"], np.sqrt(2) * (1 - np.eye(2)), rtol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(3, 2), (3, 1, 2), (3, 5, 4, 2)])
def test_check_passes_every_mlp(rng, activation, bias, sizes):
    model, x = MLP(sizes, activation, bias), rng.standard_normal((100, 3)).astype(np.float32)
    symmetry.check(model, model.symmetry, model.init(jax.random.key(0)), x)
    symmetry.check(model, model.symmetry, draw(model, rng, dtype=np.float32), jnp.asarray(x))
    symmetry.check(model, model.symmetry, jax.tree.map(np.zeros_like, draw(model, rng)), x)
    assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]


GROUP = MLP((3, 5, 4, 2)).symmetry
FIRST, SECOND = GROUP.layers


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            redeclare(GROUP, 0, axes=(*FIRST.axes, Axis("0.gain", -1))),
            r"layer 0 declares the leaf '0.gain'; the params have \['0.bias', '0.weight', '1.bias'",
        ),
        (
            redeclare(GROUP, 0, axes=(Axis("0.weight", 1), *FIRST.axes[1:])),
            r"layer 0 declares 5 units on axis 1 of '0.weight', whose shape is \(3, 5\); axes are negative",
        ),
        (
            redeclare(GROUP, 0, axes=(*FIRST.axes[:2], Axis("1.weight", 0, sends=True))),
            r"5 units on axis 0 of '1.weight', whose shape is \(5, 4\); axes are negative",
        ),
        (
            redeclare(GROUP, 1, axes=(Axis("1.weight", -3), *SECOND.axes[1:])),
            r"layer 1 declares 4 units on axis -3 of '1.weight', whose shape is \(5, 4\)",
        ),
        (
            redeclare(GROUP, 1, axes=(*SECOND.axes, Axis("1.bias", -2))),
            r"4 units on axis -2 of '1.bias', whose shape is \(4,\)",
        ),
        (redeclare(GROUP, 1, num=3), r"layer 1 declares 3 units on axis -1 of '1.weight', whose shape is \(5, 4\)"),
        (
            redeclare(GROUP, 0, axes=(*FIRST.axes, FIRST.axes[0])),
            "axis -1 of '0.weight' is declared twice, the second time by layer 0",
        ),
        (
            Symmetry((FIRST, SECOND, Units(4, (Axis("2.weight", -2, sends=True),)))),
            "axis -2 of '2.weight' is declared twice, the second time by layer 2",
        ),
    ],
)
def test_check_refuses_axes_that_do_not_exist(rng, group, message):
    model = MLP((3, 5, 4, 2))
    with pytest.raises(SymmetryError, match=message):
        symmetry.check(model, group, draw(model, rng), rng.standard_normal((9, 3)))
    with pytest.raises(SymmetryError, match=message):
        symmetry.check_axes(group, tree.Layout.of(draw(model, rng)))


@pytest.mark.parametrize("activation", ["gelu", "tanh"])
@pytest.mark.parametrize(("layer", "leaf"), list(itertools.product([0, 1], ["receives", "bias", "sends"])))
def test_check_refuses_a_forgotten_axis_of_a_fresh_network(rng, activation, layer, leaf):
    model = MLP((3, 5, 4, 2), activation)
    name = {"receives": f"{layer}.weight", "bias": f"{layer}.bias", "sends": f"{layer + 1}.weight"}[leaf]
    message = rf"perm symmetry of layer {layer} \({model.sizes[layer + 1]} units\) changes the model's outputs by up to"
    with pytest.raises(SymmetryError, match=message):  # biases are zero
        symmetry.check(
            model,
            without(model.symmetry, layer, name),
            model.init(jax.random.key(0)),
            rng.standard_normal((9, 3)),
        )


def test_check_refuses_an_axis_of_the_wrong_direction(rng):
    model = MLP((3, 5, 4, 2))
    wrong = redeclare(model.symmetry, 0, axes=tuple(dataclasses.replace(axis, sends=False) for axis in FIRST.axes))
    with pytest.raises(SymmetryError, match=r"scale symmetry of layer 0 \(5 units\) changes"):
        symmetry.check(model, wrong, draw(model, rng), rng.standard_normal((9, 3)))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(
    ("activation", "kind"), [("relu", "sign"), ("tanh", "scale"), ("gelu", "sign"), ("gelu", "scale")]
)
def test_check_refuses_a_kind_that_the_activation_does_not_have(rng, layer, activation, kind):
    model = MLP((3, 5, 4, 2), activation)
    group = redeclare(model.symmetry, layer, **{kind: True})
    with pytest.raises(SymmetryError, match=rf"the declared {kind} symmetry of layer {layer} \(.* is the activation"):
        symmetry.check(model, group, model.init(jax.random.key(0)), rng.standard_normal((9, 3)))


@pytest.mark.parametrize("num", [2, 3, 4])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_check_finds_a_forgotten_bias_of_few_units(rng, num, depth):
    model = MLP((3, *[num] * depth, 2), "gelu")
    for layer in range(depth):
        with pytest.raises(SymmetryError, match=f"perm symmetry of layer {layer}"):
            symmetry.check(
                model,
                without(model.symmetry, layer, f"{layer}.bias"),
                model.init(jax.random.key(0)),
                rng.standard_normal((9, 3)),
            )


@pytest.mark.parametrize("seed", range(4))
def test_check_finds_a_forgotten_bias_of_relu_units_that_die_easily(rng, seed):
    model = MLP((3, 2, 2, 2), "relu")
    params, group = model.init(jax.random.key(seed)), without(model.symmetry, 0, "0.bias")
    with pytest.raises(SymmetryError, match="symmetry of layer 0"):
        symmetry.check(model, group, params, rng.standard_normal((64, 3)))


@pytest.mark.parametrize("num", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_check_finds_a_wrong_sign_of_few_units(rng, num, depth):
    model = MLP((3, *[num] * depth, 2), "relu")
    for layer in range(depth):
        with pytest.raises(SymmetryError, match=f"sign symmetry of layer {layer}"):
            symmetry.check(
                model, redeclare(model.symmetry, layer, sign=True), draw(model, rng), rng.standard_normal((9, 3))
            )


def test_check_refuses_outputs_that_are_not_finite(rng):
    model = MLP((3, 5, 4, 2))
    params = draw(model, rng)
    for value in (np.nan, np.inf):
        params[0]["weight"][0, 0] = value
        with pytest.raises(SymmetryError, match="outputs are not finite"):
            symmetry.check(model, model.symmetry, params, rng.standard_normal((9, 3)))


class Roots:
    """x @ sqrt(weight): not a number where a weight is negative."""

    def apply(self, params, x):
        return x @ jnp.sqrt(params["weight"])


def test_check_refuses_a_symmetry_that_leaves_the_domain_of_the_function(rng):
    group = Symmetry((Units(5, (Axis("weight", -1),), sign=True),))
    with pytest.raises(SymmetryError, match="sign symmetry of layer 0"):
        symmetry.check(Roots(), group, {"weight": np.ones((3, 5))}, rng.standard_normal((9, 3)))


@dataclasses.dataclass(frozen=True)
class Residual:
    """Two residual blocks: both read from one stream and write to it."""

    num_stream: int = 5
    num_inner: int = 4

    def init(self, key):
        shapes = {"embed": (3, self.num_stream), "read": (self.num_stream, 2)}
        for block in "ab":
            shapes |= {f"{block}.in": (self.num_stream, self.num_inner), f"{block}.bias": (self.num_inner,)}
            shapes |= {f"{block}.out": (self.num_inner, self.num_stream), f"{block}.shift": (self.num_stream,)}
        return {name: jnp.zeros(shape) for name, shape in shapes.items()}

    def apply(self, params, x):
        h = x @ params["embed"]
        for block in "ab":
            inner = jax.nn.relu(h @ params[f"{block}.in"] + params[f"{block}.bias"])
            h = h + inner @ params[f"{block}.out"] + params[f"{block}.shift"]
        return h @ params["read"]

    @property
    def symmetry(self):
        stream, inner = [Axis("embed", -1), Axis("read", -2, sends=True)], []
        for block in "ab":
            stream += [Axis(f"{block}.in", -2, sends=True), Axis(f"{block}.out", -1), Axis(f"{block}.shift", -1)]
            axes = (Axis(f"{block}.in", -1), Axis(f"{block}.bias", -1), Axis(f"{block}.out", -2, sends=True))
            inner.append(Units(self.num_inner, axes, scale=True))
        return Symmetry((Units(self.num_stream, tuple(stream), sign=True, scale=True), *inner))


@dataclasses.dataclass(frozen=True)
class Conv:
    """Two convolutions, mean over the image, a linear layer."""

    def init(self, key):
        shapes = {"one.bias": (4,), "one.kernel": (3, 3, 2, 4), "two.bias": (5,), "two.kernel": (3, 3, 4, 5)}
        return {name: jnp.zeros(shape) for name, shape in {**shapes, "read": (5, 3)}.items()}

    def apply(self, params, x):
        h = x
        for layer in ("one", "two"):
            kernel, numbers = params[f"{layer}.kernel"], ("NHWC", "HWIO", "NHWC")
            h = jax.lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=numbers)
            h = jax.nn.relu(h + params[f"{layer}.bias"])
        return h.mean((1, 2)) @ params["read"]

    @property
    def symmetry(self):
        one = (Axis("one.kernel", -1), Axis("one.bias", -1), Axis("two.kernel", -2, sends=True))
        two = (Axis("two.kernel", -1), Axis("two.bias", -1), Axis("read", -2, sends=True))
        return Symmetry((Units(4, one, scale=True), Units(5, two, scale=True)))


@dataclasses.dataclass(frozen=True)
class ApplyOnly:
    """What a user without `init` and `activations` brings."""

    model: Residual | Conv

    def apply(self, params, x):
        return self.model.apply(params, x)


OWN = pytest.mark.parametrize(("model", "shape"), [(Residual(), (9, 3)), (Conv(), (6, 5, 5, 2))])


@OWN
def test_own_models_pass_and_keep_their_function(x64, rng, model, shape):
    params, x = draw(model, rng), rng.standard_normal(shape)
    symmetry.check(ApplyOnly(model), model.symmetry, params, x)
    symmetry.check(ApplyOnly(model), model.symmetry, jax.tree.map(np.zeros_like, params), x)
    before = outputs_of(model, params, x)
    balanced = symmetry.act(model.symmetry, symmetry.balance(model.symmetry, params), params)
    moved = symmetry.act(model.symmetry, symmetry.random_element(model.symmetry, rng), params)
    assert squared_length(balanced) < min(squared_length(params), squared_length(moved))
    for same in (balanced, moved):
        np.testing.assert_allclose(outputs_of(model, same, x), before, rtol=0, atol=1e-12 * np.abs(before).max())


@OWN
def test_stacks_of_own_models_keep_their_functions(x64, rng, model, shape):
    params, x = draw(model, rng, (2, 3)), rng.standard_normal(shape)
    element = symmetry.random_element(model.symmetry, rng, (2,))
    before = outputs_of(model, params, x, 2)
    after = outputs_of(model, symmetry.act(model.symmetry, element, params), x, 2)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12 * np.abs(before).max())


@OWN
def test_check_refuses_own_models_that_forget_any_axis(rng, model, shape):
    params, x = draw(model, rng), rng.standard_normal(shape)
    for layer, units in enumerate(model.symmetry.layers):
        for axis in units.axes:
            with pytest.raises(SymmetryError, match=f"symmetry of layer {layer} .* changes the model's outputs"):
                symmetry.check(ApplyOnly(model), without(model.symmetry, layer, axis.leaf), params, x)


def test_act_refuses_elements_of_other_sizes_or_stacks(rng):
    group = MLP((3, 4, 2)).symmetry
    params = (
        {"weight": np.ones((5, 3, 4)), "bias": np.ones((5, 4))},
        {"weight": np.ones((5, 4, 2)), "bias": np.ones((5, 2))},
    )
    with pytest.raises(ValueError, match=r"stacked as \(3,\) act on '0.weight' of shape \(5, 3, 4\)"):
        symmetry.act(group, symmetry.random_element(group, rng, (3,)), params)
    with pytest.raises(ValueError, match="a layer has 4 units"):
        symmetry.act(group, symmetry.random_element(MLP((3, 6, 2)).symmetry, rng, (5,)), params)


def test_check_sees_a_fault_beside_one_huge_example_or_one_huge_output(rng):
    group = Symmetry((Units(8, (Axis("w", -1), Axis("v", -2, sends=True))),))  # the bias is forgotten
    params = {name: rng.standard_normal(shape) for name, shape in (("w", (4, 8)), ("b", 8), ("v", (8, 2)))}
    x = rng.standard_normal((30, 4))

    @dataclasses.dataclass(frozen=True)
    class Net:
        size: float = 1.0

        def apply(self, params, x):
            return (jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]) * jnp.array([1.0, self.size])

    for model, inputs in ((Net(), np.concatenate([1e9 * x[:1], x[1:]])), (Net(1e12), x)):
        with pytest.raises(SymmetryError, match="perm symmetry of layer 0"):
            symmetry.check(model, group, params, inputs)


def test_check_takes_integer_inputs_and_leaves_that_must_stay_positive(rng):
    @dataclasses.dataclass(frozen=True)
    class Tokens:
        def apply(self, params, x):
            h = params["embed"][x].mean(axis=1) / jnp.sqrt(params["variance"])
            return jnp.tanh(h) @ params["read"]

    axes = (Axis("embed", -1), Axis("variance", -1), Axis("read", -2, sends=True))
    params = {
        "embed": rng.standard_normal((9, 5)),
        "variance": 0.1 + rng.random(5),
        "read": rng.standard_normal((5, 2)),
    }
    tokens = rng.integers(9, size=(20, 3))
    symmetry.check(Tokens(), Symmetry((Units(5, axes),)), params, tokens)
    with pytest.raises(SymmetryError, match="perm symmetry"):
        symmetry.check(Tokens(), Symmetry((Units(5, (axes[0], axes[2])),)), params, tokens)
    with pytest.raises(SymmetryError, match="there are none"):
        symmetry.check(Tokens(), Symmetry((Units(5, axes),)), params, tokens[:0])


def test_balance_refuses_what_is_not_finite(rng):
    model = MLP((3, 4, 2))
    params = ({"weight": np.full((3, 4), np.nan), "bias": np.ones(4)}, {"weight": np.ones((4, 2)), "bias": np.ones(2)})
    with pytest.raises(ValueError, match=r"0.weight is not finite"):
        symmetry.balance(model.symmetry, params)
