import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hand_built import NETWORKS, Xor, draw

from analysis.units import agreement, unit_effects, weight_effects
from wspace import MLP
from wspace.objective import example_loss
from wspace.tree import pick

CASES = [(name, layer) for name, (model, _) in NETWORKS.items() for layer in range(model.num_layers)]


def data(rng, features, num=6):
    return rng.standard_normal((num, features)).astype(np.float32), rng.integers(3, size=num).astype(np.int32)


def loss(model, params, x, y):
    return float(jnp.mean(example_loss("cross_entropy", model.apply(params, x), y)))


def changed(params, layer, at, by):
    """A copy with one weight of a layer's matrix changed."""
    layers = [dict(one) for one in params]
    weight = np.array(layers[layer]["weight"], np.float64)
    weight.reshape(-1, weight.shape[-1])[at] += by
    layers[layer]["weight"] = weight
    return tuple(layers)


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_weights_are_removed_and_shifted_as_one_would_by_hand(x64, rng, name, layer):
    model, features = NETWORKS[name]
    (x, y), params = data(rng, features), draw(model, rng)
    found = weight_effects(model, "cross_entropy", params, x, y, layer=layer, shift=0.3)
    for seed in range(2):
        one = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), pick(params, seed))
        weight = one[layer]["weight"].reshape(-1, one[layer]["weight"].shape[-1])
        before, handed_on = loss(model, one, x, y), model.activations(one, x)[layer]
        np.testing.assert_allclose(found.magnitude[seed], np.abs(weight), rtol=1e-12)
        np.testing.assert_allclose(found.shift[seed], 0.3 * rms(weight), rtol=1e-12)
        for at in [tuple(rng.integers(weight.shape)) for _ in range(6)]:
            without = changed(one, layer, at, -weight[at])
            difference = (model.activations(without, x)[layer] - handed_on)[..., at[1]]
            np.testing.assert_allclose(found.on_unit[(seed, *at)], rms(difference), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(
                found.on_loss[(seed, *at)], loss(model, without, x, y) - before, rtol=1e-7, atol=1e-11
            )
            both = [changed(one, layer, at, sign * found.shift[seed]) for sign in (1, -1)]
            losses = [loss(model, other, x, y) for other in both]
            np.testing.assert_allclose(
                found.on_loss_shifted[(seed, *at)], np.mean(losses) - before, rtol=1e-7, atol=1e-11
            )
            moved = np.stack([(model.activations(other, x)[layer] - handed_on)[..., at[1]] for other in both])
            np.testing.assert_allclose(found.on_unit_shifted[(seed, *at)], rms(moved), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "layer"), [case for case in CASES if case[1] < NETWORKS[case[0]][0].num_layers - 1])
def test_units_are_silenced_as_one_would_by_hand(x64, rng, name, layer):
    model, features = NETWORKS[name]
    (x, y), params = data(rng, features), draw(model, rng)
    found = unit_effects(model, "cross_entropy", params, x, y, layer=layer)
    for seed in range(2):
        one = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), pick(params, seed))
        h = np.asarray(model.activations(one, x)[layer])
        outputs, before = model.apply(one, x), loss(model, one, x, y)
        following = model.activations(one, x)[layer + 1]
        for unit in range(h.shape[-1]):
            moved = 0.1 * rms(h)
            both = []
            for level, effect in (
                (0.0, found.on_loss), (h[..., unit].mean(axis=0), found.on_loss_mean),
                (h[..., unit] + moved, None), (h[..., unit] - moved, None),
            ):  # fmt: skip
                other = h.copy()
                other[..., unit] = level
                z = model.rest(one, model.receive(one, layer + 1, other), layer + 1)
                after = float(jnp.mean(example_loss("cross_entropy", z, y)))
                if effect is None:
                    both.append(after)
                    continue
                np.testing.assert_allclose(effect[seed, unit], after - before, rtol=1e-7, atol=1e-11)
                if effect is found.on_loss:
                    np.testing.assert_allclose(found.on_outputs[seed, unit], rms(z - outputs), rtol=1e-9)
                    moved = model.hand_on(layer + 1, model.receive(one, layer + 1, other)) - following
                    np.testing.assert_allclose(found.on_next[seed, unit], rms(moved), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(found.on_loss_shifted[seed, unit], np.mean(both) - before, rtol=1e-7, atol=1e-11)
            np.testing.assert_allclose(found.activity[seed, unit], rms(h[..., unit]), rtol=1e-9)
            weight = one[layer]["weight"]
            np.testing.assert_allclose(found.incoming_norm[seed, unit], np.linalg.norm(weight[..., unit]), rtol=1e-9)
            sent = np.moveaxis(one[layer + 1]["weight"], -2, 0)[unit]
            np.testing.assert_allclose(found.outgoing_norm[seed, unit], np.linalg.norm(sent), rtol=1e-9)


def test_units_of_the_xor_network_do_what_they_were_built_for():
    xor = Xor()
    units = unit_effects(xor.model, "squared_error", xor.params, xor.x, xor.y, layer=0)
    # OR is 1, 1, 2 on the last three inputs and is sent on with weight 1; AND is 1 on the last one, with weight -2
    np.testing.assert_allclose(units.on_loss, [[(1 + 1 + 4) / 4, 4 / 4]])
    np.testing.assert_allclose(units.on_outputs, [[np.sqrt(6 / 4), 1.0]])
    np.testing.assert_allclose(units.activity, [[np.sqrt(6 / 4), 0.5]])
    np.testing.assert_allclose((units.incoming_norm, units.outgoing_norm), [[[np.sqrt(2)] * 2], [[1, 2]]])
    weights = weight_effects(xor.model, "squared_error", xor.params, xor.x, xor.y, layer=0)
    # without one weight OR copies the other bit, AND never fires
    np.testing.assert_allclose(weights.on_loss, [[[(0 + 1 + 1) / 4, 1.0]] * 2])
    np.testing.assert_allclose(weights.on_unit, [[[np.sqrt(2 / 4), 0.5]] * 2])


def test_in_a_linear_layer_the_effect_on_a_unit_is_the_contribution(x64, rng):
    model = MLP((5, 4, 3), "identity")
    (x, y), params = data(rng, 5, 20), draw(model, rng, 3)
    found = weight_effects(model, "cross_entropy", params, x, y, layer=0)
    np.testing.assert_allclose(found.on_unit, found.contribution, rtol=1e-9)
    orthogonal = np.linalg.qr(rng.standard_normal((5, 5)))[0].astype(np.float32)
    equal = weight_effects(model, "cross_entropy", params, orthogonal, y[:5], layer=0)
    np.testing.assert_allclose(equal.on_unit, equal.magnitude / np.sqrt(5), rtol=1e-6)  # all else is equal


def test_magnitude_tells_all_where_all_else_is_equal(rng):
    model, x = MLP((8, 1), bias=False), np.eye(8, dtype=np.float32)
    params = draw(model, rng, 4)
    y = np.zeros((8, 1), np.float32)
    found = weight_effects(model, "squared_error", params, x, y, layer=0)
    np.testing.assert_allclose(found.on_loss, -np.square(found.magnitude) / 8, rtol=1e-5)
    told = agreement(found, found.on_loss, rng=rng)
    np.testing.assert_allclose((told.raw, told.scaled, told.within), np.ones((3, 4)))
    np.testing.assert_array_equal((told.misled, told.missed), np.zeros((2, 4)))
    assert told.chance == pytest.approx(1 / np.sqrt(7), rel=0.3)


def test_magnitude_misleads_where_inputs_differ_in_scale(rng):
    model, scales = MLP((40, 1), bias=False), np.geomspace(1e-3, 1e3, 40)
    x = (np.eye(40) * scales).astype(np.float32)
    weights = np.stack([rng.permutation(np.geomspace(1, 2, 40)) for _ in range(5)])
    params = ({"weight": (weights / scales[None] ** 1.0)[..., None].astype(np.float32)},)
    found = weight_effects(model, "squared_error", params, x, np.zeros((40, 1), np.float32), layer=0)
    told = agreement(found, found.on_unit, rng=rng)
    np.testing.assert_allclose(told.scaled, 1)
    assert abs(told.raw.mean()) < 3 * told.chance
    assert told.misled.mean() > 0.2


def test_a_weight_from_a_silent_input_is_large_and_does_nothing(rng):
    model, params = MLP((3, 4, 3)), draw(MLP((3, 4, 3)), rng)
    params[0]["weight"][:, 0] = 100
    x, y = data(rng, 3, 12)
    x[:, 0] = 0
    found = weight_effects(model, "cross_entropy", params, x, y, layer=0)
    assert np.all(found.magnitude[:, 0] == 100)
    for effect in (found.on_unit, found.on_loss, found.on_loss_shifted, found.contribution):
        np.testing.assert_allclose(effect[:, 0], 0, atol=1e-14)


def test_unrelated_numbers_have_no_rank_correlation(rng):
    model, params = MLP((20, 10, 3)), draw(MLP((20, 10, 3)), rng, 8)
    found = weight_effects(model, "cross_entropy", params, *data(rng, 20), layer=0)
    told = agreement(found, rng.standard_normal(found.magnitude.shape), rng=rng)
    assert told.chance == pytest.approx(1 / np.sqrt(199), rel=0.3)
    for correlations in (told.raw, told.scaled, told.within):
        assert np.abs(correlations).max() < 5 * told.chance
    assert 0.3 < told.misled.mean() < 0.7


def test_relabelled_units_have_relabelled_effects(rng):
    model, params, perm = MLP((5, 4, 3)), draw(MLP((5, 4, 3)), rng), np.array([2, 0, 3, 1])
    x, y = data(rng, 5)
    moved = (
        {"weight": params[0]["weight"][..., perm], "bias": params[0]["bias"][..., perm]},
        {"weight": params[1]["weight"][:, perm], "bias": params[1]["bias"]},
    )
    before, after = (weight_effects(model, "cross_entropy", p, x, y, layer=0) for p in (params, moved))
    np.testing.assert_allclose(after.on_loss, before.on_loss[..., perm], rtol=1e-7, atol=1e-12)


def test_what_cannot_be_measured_is_refused(rng):
    model, params, (x, y) = MLP((5, 4, 3)), draw(MLP((5, 4, 3)), rng), data(rng, 5)
    args = (model, "cross_entropy", params, x, y)
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=f"layer = {layer}: one of 0 .. 1"):
            weight_effects(*args, layer=layer)
    with pytest.raises(ValueError, match=r"layer = 1: one of 0 \.\. 0"):
        unit_effects(*args, layer=1)
    with pytest.raises(ValueError, match=r"shift = 0.0: a positive"):
        weight_effects(*args, layer=0, shift=0.0)
    with pytest.raises(ValueError, match="no examples"):
        weight_effects(model, "cross_entropy", params, x[:0], y[:0], layer=0)
    params[1]["bias"][0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        unit_effects(*args, layer=0)
    equal = ({"weight": np.ones((3, 2, 1)), "bias": np.ones((3, 1))},)
    flat = weight_effects(MLP((2, 1)), "squared_error", equal, np.eye(2), np.ones((2, 1)), layer=0)
    assert np.all(np.isnan(agreement(flat, flat.on_loss, rng=rng).raw))
    with pytest.raises(ValueError, match="no hidden layer"):
        unit_effects(MLP((5, 3)), "cross_entropy", draw(MLP((5, 3)), rng), x, y, layer=0)
    with pytest.raises(
        ValueError, match=r"y has shape \(6,\): real targets of 3 outputs of 6 examples have shape \(6, 3\)"
    ):
        weight_effects(model, "squared_error", draw(model, rng), x, y.astype(np.float32), layer=0)
    with pytest.raises(ValueError, match=r"labels are 0 to 7: 0 \.\. 2 are expected"):
        weight_effects(model, "cross_entropy", draw(model, rng), x, np.array([0, 1, 2, 0, 1, 7]), layer=0)
    with pytest.raises(ValueError, match="x or y are not finite"):
        unit_effects(model, "cross_entropy", draw(model, rng), np.full_like(x, np.nan), y, layer=0)
    for senders in ([], [5], [-1]):
        with pytest.raises(ValueError, match=r"at least one of 0 \.\. 4"):
            weight_effects(model, "cross_entropy", draw(model, rng), x, y, layer=0, senders=senders)


def test_some_senders_have_the_effects_that_they_have_among_all(rng):
    model, params, (x, y) = MLP((5, 4, 3)), draw(MLP((5, 4, 3)), rng), data(rng, 5)
    whole, some = (weight_effects(model, "cross_entropy", params, x, y, layer=0, senders=s) for s in (None, [3, 1]))
    for name in ("magnitude", "incoming", "on_unit", "on_unit_shifted", "on_loss", "on_loss_shifted"):
        np.testing.assert_allclose(getattr(some, name), getattr(whole, name)[:, [3, 1]], rtol=1e-9, atol=1e-13)


def test_effects_below_rounding_are_none(rng):
    """Weights out of a silent input change nothing, whatever the number of examples."""
    model, params = MLP((3, 4, 3), "tanh"), draw(MLP((3, 4, 3)), rng, 5)
    x, y = data(rng, 3, 77)
    x[:, 1] = 0
    found = weight_effects(model, "cross_entropy", params, x, y, layer=0)
    for effect in (found.on_loss, found.on_loss_shifted, found.on_unit):
        np.testing.assert_array_equal(effect[:, 1], 0)
        assert np.all(effect[:, [0, 2]] != 0)


def test_large_weights_that_do_nothing_mislead(rng):
    """Five of eight units are dead and have the largest weights."""
    model = MLP((4, 8, 3))
    params = draw(model, rng, 3)
    params[0]["weight"][:, :, :5] = 10 + rng.random((3, 4, 5))
    params[0]["bias"][:, :5] = -1000
    x, y = data(rng, 4, 20)
    told = agreement(found := weight_effects(model, "cross_entropy", params, x, y, layer=0), found.on_loss, rng=rng)
    np.testing.assert_array_equal(told.misled, 1)
    assert np.all(told.raw < 0)


def test_chance_knows_that_weights_of_one_unit_are_alike(rng):
    """Magnitudes and changes whose scales by unit are unrelated: correlations spread as `chance` says, not as 1/sqrt(n)."""
    model = MLP((64, 8, 3))
    params = draw(model, rng, 40)
    scale = lambda: np.exp(rng.standard_normal((40, 1, 8)))  # noqa: E731
    params[0]["weight"][:] = rng.standard_normal((40, 64, 8)) * scale()
    found = weight_effects(model, "cross_entropy", params, *data(rng, 64), layer=0)
    told = agreement(found, rng.standard_normal((40, 64, 8)) * scale(), rng=rng)
    assert np.std(told.raw) == pytest.approx(told.chance, rel=0.4)
    assert told.chance > 2 / np.sqrt(64 * 8 - 1)
