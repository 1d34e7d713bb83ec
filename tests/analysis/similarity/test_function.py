import itertools

import jax
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from analysis.similarity import (
    disagreement,
    function,
    function_distances,
    independent_disagreement,
    js_divergence,
    outputs,
    probabilities,
    representations,
    rms_distance,
)
from wspace.models import MLP
from wspace.symmetry import act, random_element
from wspace.tree import pick, stack_params

MODEL = MLP((4, 6, 5, 3), "tanh")


def population(num=5, model=MODEL):
    return stack_params([model.init(key, 2.0) for key in jax.random.split(jax.random.key(1), num)])


def examples(rng, num=40):
    return rng.standard_normal((num, 4)).astype(np.float32), rng.integers(3, size=num).astype(np.int32)


@pytest.mark.parametrize("chunk", [None, 1, 7, 40])
@pytest.mark.parametrize("together", [2, 64])
def test_outputs_are_those_of_every_network(chunk, together, rng, monkeypatch):
    monkeypatch.setattr(function, "TOGETHER", together)
    params, (x, _) = population(), examples(rng)
    got = outputs(MODEL, params, x, chunk=chunk)
    layers = representations(MODEL, params, x, chunk=chunk)
    assert got.dtype == np.float32
    assert [layer.shape for layer in layers] == [(5, 40, 6), (5, 40, 5), (5, 40, 3)]
    for i in range(5):
        expected = MODEL.activations(pick(params, i), x)
        np.testing.assert_allclose(got[i], expected[-1], atol=1e-5)
        for layer, own in zip(layers, expected, strict=True):
            np.testing.assert_allclose(layer[i], own, atol=1e-5)


def test_disagreement_counts_examples(rng):
    labels = rng.integers(4, size=(6, 50))
    got = disagreement(labels)
    for i, j in itertools.product(range(6), repeat=2):
        assert got[i, j] == pytest.approx(np.mean(labels[i] != labels[j]))
    assert np.all(np.diag(got) == 0)
    renamed = rng.permutation(4)[labels]
    np.testing.assert_array_equal(disagreement(renamed), got)
    order = rng.permutation(50)
    np.testing.assert_allclose(disagreement(labels[:, order]), got)


def test_js_divergence_is_that_of_scipy(rng, monkeypatch):
    monkeypatch.setattr(function, "CHUNK_VALUES", 200)
    p = rng.dirichlet([0.3] * 5, (4, 20))
    p[0, 0], p[1, 0] = [1, 0, 0, 0, 0], [0, 1, 0, 0, 0]  # nothing in common
    got = js_divergence(p)
    for i, j in itertools.product(range(4), repeat=2):
        expected = np.mean([jensenshannon(a, b) ** 2 for a, b in zip(p[i], p[j], strict=True)])
        assert got[i, j] == pytest.approx(expected, abs=1e-12)
    ends = np.stack([np.eye(2)[[0, 0]], np.eye(2)[[1, 1]], np.eye(2)[[0, 1]]])
    np.testing.assert_allclose(js_divergence(ends), np.log(2) * np.array([[0, 1, 0.5], [1, 0, 0.5], [0.5, 0.5, 0]]))
    root = np.sqrt(got)
    for i, j, k in itertools.permutations(range(4), 3):
        assert root[i, k] <= root[i, j] + root[j, k] + 1e-12


def test_js_divergence_of_similar_networks_is_not_lost_among_their_entropies(rng):
    """To second order it is a quarter of half of sum d^2 / p: one part in 10^14 of an entropy here."""
    p = rng.dirichlet([5.0] * 4, 10)
    step = 1e-7 * np.array([1, -1, 1, -1.0])
    got = js_divergence(np.stack([p, p + step, p]))
    expected = np.mean(np.sum(step**2 / p, axis=1)) / 8
    assert got[0, 1] == pytest.approx(expected, rel=1e-4)
    assert got[0, 2] == 0
    assert np.all(js_divergence(rng.dirichlet([0.01] * 3, (6, 5))) <= np.log(2))


def test_probabilities_survive_huge_logits():
    got = probabilities(np.array([[1000.0, 0.0], [-1e4, -1e4]], np.float32))
    np.testing.assert_allclose(got, [[1, 0], [0.5, 0.5]])


def test_independent_errors_disagree_as_often_as_the_null_says(rng):
    """Networks that draw their answers from class-wise tables, over and over."""
    y = rng.integers(3, size=60)
    labels = rng.integers(3, size=(2, 60))
    tables = [[labels[i, y == c] for c in range(3)] for i in range(2)]
    found = []
    for _ in range(3000):
        a, b = (np.array([rng.choice(tables[i][c]) for c in y]) for i in range(2))
        found.append(np.mean(a != b))
    expected = independent_disagreement(labels, y)[0, 1]
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / np.sqrt(len(found))
    right = np.stack([y, y])
    np.testing.assert_allclose(independent_disagreement(right, y), 0, atol=1e-15)


def test_two_outcomes_have_the_textbook_null(rng):
    """Two classes and error rates e and f: independent errors disagree on e (1 - f) + f (1 - e) of the examples."""
    y = np.zeros(100, int)
    labels = np.stack([np.arange(100) < 30, np.arange(100) >= 80]).astype(int)
    assert independent_disagreement(labels, y)[0, 1] == pytest.approx(0.3 * 0.8 + 0.2 * 0.7)


def test_the_record_of_a_classifier(rng):
    params, (x, y) = population(), examples(rng)
    got = function_distances(MODEL, params, x, y, "classification")
    labels = outputs(MODEL, params, x).argmax(axis=-1)
    error = np.mean(labels != y, axis=1)
    np.testing.assert_allclose(got.error, error)
    np.testing.assert_allclose(got.distance, disagreement(labels))
    i, j = 1, 3
    assert got.normalised[i, j] == pytest.approx(got.distance[i, j] * (1 / error[i] + 1 / error[j]) / 2)
    assert got.divergence is not None
    np.testing.assert_allclose(got.divergence, js_divergence(probabilities(outputs(MODEL, params, x))))
    assert not got.floored.any()
    assert got.num_examples == 40
    for matrix in (got.distance, got.normalised, got.independent, got.divergence):
        np.testing.assert_allclose(matrix, matrix.T)
        assert np.all(np.diag(matrix) == 0)


def test_relabelled_networks_are_one_function(rng):
    one = pick(population(1), 0)
    moved = act(MODEL.symmetry, random_element(MODEL.symmetry, rng=rng), one)
    x, y = examples(rng)
    got = function_distances(MODEL, stack_params([one, moved, one]), x, y, "classification")
    assert np.all(got.distance == 0)
    assert got.divergence is not None
    np.testing.assert_allclose(got.divergence, 0, atol=1e-10)
    assert got.divergence[0, 2] == 0


def test_networks_without_errors_are_divided_by_one_example(rng):
    params, (x, _) = population(3), examples(rng)
    labels = outputs(MODEL, params, x).argmax(axis=-1)
    got = function_distances(MODEL, params, x, labels[0], "classification")
    assert got.floored.tolist() == [True, False, False]
    assert got.normalised[0, 1] == pytest.approx(got.distance[0, 1] * (40 + 1 / got.error[1]) / 2)


def test_the_record_of_a_regression(rng):
    model = MLP((4, 5, 2))
    params, (x, _) = population(4, model), examples(rng)
    y = rng.standard_normal((40, 2)).astype(np.float32)
    got = function_distances(model, params, x, y, "regression")
    found = outputs(model, params, x).astype(float)
    for i, j in itertools.product(range(4), repeat=2):
        assert got.distance[i, j] == pytest.approx(np.sqrt(np.mean((found[i] - found[j]) ** 2)), abs=1e-9)
    np.testing.assert_allclose(got.error, np.sqrt(np.mean((found - y) ** 2, axis=(1, 2))), rtol=1e-6)
    assert got.divergence is None
    shuffled = []
    errors = found - y
    for _ in range(3000):
        shuffled.append(np.mean((errors[0] - errors[1][rng.permutation(40)]) ** 2))
    assert got.independent[0, 1] ** 2 == pytest.approx(np.mean(shuffled), rel=0.02)


def test_a_regression_without_error_has_no_normalised_distance(rng):
    model = MLP((4, 5, 2))
    params, (x, _) = population(3, model), examples(rng)
    y = outputs(model, params, x)[1]
    got = function_distances(model, params, x, y, "regression")
    assert got.floored.tolist() == [False, True, False]
    assert np.isnan(got.normalised).tolist() == [[False, True, False], [True, False, True], [False, True, False]]
    assert np.all(np.diag(got.normalised) == 0)


def test_answers_that_do_not_fit_are_refused(rng):
    params, (x, y) = population(2), examples(rng)
    with pytest.raises(ValueError, match=r"y has shape \(40, 1\): a classification .* takes \(40,\)"):
        function_distances(MODEL, params, x, y[:, None], "classification")
    with pytest.raises(ValueError, match=r"y has shape \(40,\): a regression .* takes \(40, 3\)"):
        function_distances(MODEL, params, x, y.astype(np.float32), "regression")


def test_rms_distance_in_chunks(rng, monkeypatch):
    found = rng.standard_normal((5, 7, 2))
    whole = rms_distance(found)
    monkeypatch.setattr(function, "CHUNK_VALUES", 30)
    np.testing.assert_array_equal(rms_distance(found), whole)


def test_one_network_and_networks_that_are_broken(rng):
    x, y = examples(rng)
    alone = function_distances(MODEL, population(1), x, y, "classification")
    assert alone.distance.tolist() == [[0.0]]
    broken = jax.tree.map(
        lambda leaf: np.where(np.arange(3).reshape(-1, *[1] * (leaf.ndim - 1)) == 2, np.nan, leaf), population(3)
    )
    with pytest.raises(ValueError, match=r"positions \[2\] are not finite"):
        function_distances(MODEL, broken, x, y, "classification")
    with pytest.raises(ValueError, match="no examples"):
        function_distances(MODEL, population(2), x[:0], y[:0], "classification")
