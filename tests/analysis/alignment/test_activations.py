import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from small_networks import draw, pick, relabel, repeat

from analysis.alignment import activation_similarity, match_activations
from wspace import MLP, objective
from wspace import symmetry as symmetries

PHI = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "identity": lambda z: z}
KINDS = ["correlation", "inner_product"]


def hidden(params, x, phi):
    h, layers = x.astype(np.float64), []
    for layer in params[:-1]:
        h = phi(h @ layer["weight"].astype(np.float64) + layer["bias"])
        layers.append(h)
    return layers


def expected_similarity(h, other, kind):
    if kind == "inner_product":
        return np.mean(h[:, :, None] * other[:, None, :], axis=0)
    with np.errstate(invalid="ignore"):  # the dead
        return np.nan_to_num(np.corrcoef(h, other, rowvar=False)[: h.shape[1], h.shape[1] :])


def kill(params, layer, units, level: float | np.ndarray = 0.0):
    """Units that answer the same to every input: -> phi(level)."""
    params[layer]["weight"][..., units] = 0
    params[layer]["bias"][..., units] = level
    return params


@pytest.mark.parametrize(
    ("activation", "kind", "single"),
    [("relu", "correlation", True), ("tanh", "correlation", False), ("identity", "inner_product", True)],
)
def test_the_similarity_is_numpys_in_float64(rng, activation, kind, single):
    model, x = MLP((3, 5, 4, 2), activation), rng.standard_normal((40, 3)).astype(np.float32)
    a, b = draw(model, rng, () if single else (2,), np.float32), draw(model, rng, (2,), np.float32)
    got = activation_similarity(model.symmetry, a, b, model=model, x=x, kind=kind)
    assert [s.shape for s in got] == [(2, 5, 5), (2, 4, 4)]
    for i in range(2):
        sides = hidden(a if single else pick(a, i), x, PHI[activation]), hidden(pick(b, i), x, PHI[activation])
        for layer, (h, other) in enumerate(zip(*sides, strict=True)):
            assert got[layer].dtype == np.float64
            expected = expected_similarity(h, other, kind)
            np.testing.assert_allclose(got[layer][i], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_has_the_best_assignment_of_its_similarity(rng, kind):
    model, x = MLP((3, 6, 5, 2), "tanh"), rng.standard_normal((40, 3))
    a, b = draw(model, rng), draw(model, rng, (3,))
    found = activation_similarity(model.symmetry, a, b, model=model, x=x, kind=kind)
    match = match_activations(model.symmetry, a, b, model=model, x=x, kind=kind)
    for i in range(3):
        total = 0.0
        for layer, s in enumerate(found):
            score = np.abs(s[i])
            best = score[linear_sum_assignment(score, maximize=True)].sum()
            units = np.arange(len(score))
            perm, signs = match.element.perms[layer][i], match.element.factors[layer][i]
            np.testing.assert_allclose(signs @ s[i][units, perm], best, rtol=1e-12)
            total += best
        np.testing.assert_allclose(match.objective[i], total, rtol=1e-12)
        np.testing.assert_array_equal(match.history[i], match.objective[i : i + 1])


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_of_examples_give_what_all_of_them_give(rng, monkeypatch, chunk):
    model, x = MLP((3, 5, 4, 2), "tanh"), rng.standard_normal((40, 3))
    a, b = draw(model, rng), draw(model, rng, (2,))
    of = lambda: activation_similarity(model.symmetry, a, b, model=model, x=x)  # noqa: E731
    whole = of()
    monkeypatch.setattr(objective, "CHUNK_VALUES", 4 * (3 + 5 + 4 + 2) * chunk)
    assert objective.chunk_examples(model, a, x.shape, 4) == chunk
    for got, expected in zip(of(), whole, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("activation", "level"), [("relu", -1.0), ("tanh", 0.7)])
def test_dead_units_are_like_nothing_and_do_not_disturb_the_living(rng, activation, level):
    model, x = MLP((3, 6, 5, 2), activation), rng.standard_normal((60, 3))
    dead, alive = [1, 4], [0, 2, 3, 5]
    params = kill(draw(model, rng), 0, dead, level)
    plant, moved = relabel(model, params, rng, 3)
    options = {"model": model, "x": x}
    first, second = activation_similarity(model.symmetry, params, repeat(params, 1), **options)
    assert np.all(np.isfinite(first))
    assert np.all(np.isfinite(second))
    assert not np.any(first[0, dead])
    assert not np.any(first[0, :, dead])
    np.testing.assert_allclose(np.diag(first[0])[alive], 1, rtol=1e-9)
    match = match_activations(model.symmetry, params, moved, **options)
    found = symmetries.compose(match.element, plant)
    np.testing.assert_array_equal(found.perms[0][:, alive], np.broadcast_to(alive, (3, 4)))
    np.testing.assert_array_equal(found.factors[0][:, alive], 1)
    np.testing.assert_array_equal(np.sort(found.perms[0][:, dead], axis=1), np.broadcast_to(dead, (3, 2)))


def test_a_layer_of_dead_units_is_matched_all_the_same(rng):
    """Rounding makes the variance of a constant other than 0."""
    model, x = MLP((3, 40, 2), "tanh"), rng.standard_normal((31, 3))
    params = kill(draw(model, rng), 0, np.arange(40), np.linspace(-2, 2, 40))
    match = match_activations(model.symmetry, params, repeat(params, 2), model=model, x=x)
    assert match.objective.tolist() == [0, 0]
    np.testing.assert_array_equal(np.sort(match.element.perms[0], axis=1), np.broadcast_to(np.arange(40), (2, 40)))


def test_correlation_does_not_see_scales_and_the_inner_product_does(rng):
    model, x = MLP((3, 6, 5, 2)), rng.standard_normal((60, 3))
    a, b = draw(model, rng), draw(model, rng)
    scale = symmetries.random_element(model.symmetry, rng, kinds=("scale",))
    scaled = symmetries.act(model.symmetry, scale, b)
    of = lambda params, kind: activation_similarity(  # noqa: E731
        model.symmetry, a, repeat(params, 1), model=model, x=x, kind=kind
    )
    for s, moved in zip(of(b, "correlation"), of(scaled, "correlation"), strict=True):
        np.testing.assert_allclose(moved, s, rtol=1e-8, atol=1e-10)
    for s, moved, factor in zip(of(b, "inner_product"), of(scaled, "inner_product"), scale.factors, strict=True):
        np.testing.assert_allclose(moved, s * factor, rtol=1e-8, atol=1e-10)


def test_float32_params_are_compared_in_float64(rng):
    """The answer of a unit that hardly varies about 1000 would be lost in float32."""
    model, x = MLP((3, 4, 2), "identity"), rng.standard_normal((50, 3)).astype(np.float32)
    a, b = draw(model, rng, dtype=np.float32), draw(model, rng, (1,), np.float32)
    for params in (a, b):
        params[0]["weight"] *= np.float32(1e-2)
        params[0]["bias"] += np.float32(1000)
    (got,) = activation_similarity(model.symmetry, a, b, model=model, x=x)
    (h,), (other,) = hidden(a, x, PHI["identity"]), hidden(pick(b, 0), x, PHI["identity"])
    np.testing.assert_allclose(got[0], expected_similarity(h, other, "correlation"), rtol=0, atol=1e-4)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves((a, b)))


def test_layers_and_activations_that_do_not_fit_are_refused(rng):
    model, x = MLP((3, 5, 4, 2)), rng.standard_normal((9, 3))
    swapped = symmetries.Symmetry(model.symmetry.layers[::-1])
    with pytest.raises(ValueError, match=r"layers of \[4, 5\] units, the model's activations"):
        match_activations(swapped, draw(model, rng), draw(model, rng, (2,)), model=model, x=x)
