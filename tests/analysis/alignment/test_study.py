"""The study on populations whose answer is known: relabelled copies of one network, and unrelated networks."""

import dataclasses

import jax
import numpy as np
import pytest

from analysis.alignment import study as studies
from analysis.alignment.study import affordable_seeds, embed, study, unit_cosines
from analysis.connectivity import LOSSES, barriers
from analysis.statistics import pair_values
from wspace import MLP
from wspace.data import make
from wspace.errors import SymmetryError
from wspace.spec import DataSpec
from wspace.symmetry import Axis, Symmetry, Units, act, random_element

MODEL = MLP((4, 6, 5, 3))


def population(rng, num):
    draw = lambda *shape: rng.standard_normal((num, *shape)).astype(np.float32)  # noqa: E731
    sizes = list(zip(MODEL.sizes, MODEL.sizes[1:], strict=False))
    return tuple({"weight": draw(a, b), "bias": draw(b)} for a, b in sizes)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((90, 4)).astype(np.float32)
    y = rng.integers(3, size=90).astype(np.int32)
    return make(x[:60], y[:60], task="classification", test=(x[60:], y[60:]), spec=DataSpec(standardize=False))


def copies(rng, num, noise=0.0):
    """One network, relabelled at random, each copy with noise of its own."""
    one = jax.tree.map(lambda leaf: np.repeat(leaf, num, axis=0), population(rng, 1))
    noisy = jax.tree.map(lambda leaf: leaf + noise * rng.standard_normal(leaf.shape).astype(np.float32), one)
    return act(MODEL.symmetry, random_element(MODEL.symmetry, rng, (num,), kinds=("perm",)), noisy)


def run(params, data, rng, **options):
    return study(MODEL, MODEL.symmetry, "cross_entropy", params, data, rng=rng, **options)


def test_relabelled_copies_are_one_network(rng, data):
    result = run(copies(rng, 4), data, rng)
    geometry = result.geometry
    assert pair_values(geometry["raw"].distance).min() > 1
    np.testing.assert_allclose(geometry["aligned"].distance, 0, atol=1e-5)
    np.testing.assert_allclose(geometry["aligned"].cosine, 1, rtol=1e-6)
    assert pair_values(geometry["random"].distance).min() > 1
    for loss in LOSSES:
        for way in ("weights", "repaired", "activations"):
            np.testing.assert_allclose(result.barriers[way][loss].chord, 0, atol=1e-5, err_msg=way)
        assert pair_values(result.barriers["raw"][loss].chord).max() > 0.01
    for layer in result.units["aligned"]:
        np.testing.assert_allclose(layer, 1, rtol=1e-6)
    assert result.cycle is not None
    assert result.cycle.value == 0
    np.testing.assert_allclose(result.transitivity, 0, atol=1e-9)
    assert result.observed_noise is not None
    assert result.observed_noise < 1e-3
    np.testing.assert_allclose(result.embedding.aligned, result.embedding.aligned[:1].repeat(4, axis=0), atol=1e-5)


def test_unrelated_networks_stay_apart_and_are_no_closer_than_untrained_ones(rng, data):
    params, init = population(rng, 5), population(rng, 5)
    result = run(params, data, rng, init=init)
    removed = [
        1
        - np.median(pair_values(result.geometry[after].distance))
        / np.median(pair_values(result.geometry[before].distance))
        for before, after in (("raw", "aligned"), ("untrained", "untrained_aligned"))
    ]
    assert min(removed) > 0.05  # a matcher finds something in noise
    assert abs(removed[0] - removed[1]) < 0.1  # and no more between these networks
    assert result.geometry["aligned"].distance[0, 1] > 1
    assert result.cycle is not None
    assert result.cycle.value > 0.3
    assert result.recovery.noise[-1] == result.observed_noise
    assert result.recovery.recovered.shape == (len(studies.NOISE) + 1, 5)
    assert result.recovery.recovered[0].min() == 1


def test_rows_on_disk_give_the_same_study_without_computing_lines_again(rng, data, tmp_path, monkeypatch):
    params = population(rng, 3)
    first = run(params, data, np.random.default_rng(5), path=tmp_path / "study")
    monkeypatch.setattr(barriers, "along", None)
    again = run(params, data, np.random.default_rng(5), path=tmp_path / "study")
    for way, losses in first.barriers.items():
        for loss, matrices in losses.items():
            for field in dataclasses.fields(matrices):
                ours, others = (getattr(of, field.name) for of in (matrices, again.barriers[way][loss]))
                np.testing.assert_array_equal(ours, others)
    with pytest.raises(TypeError):
        run(population(rng, 3), data, np.random.default_rng(5), path=tmp_path / "study")


def test_num_seeds_and_the_cost_decide_how_many_are_compared(rng, data):
    assert len(run(population(rng, 6), data, rng, num_seeds=3).rows) == 3
    assert affordable_seeds(2 * 3000 * 2000) == studies.MOST_SEEDS
    assert affordable_seeds(2e15) == studies.FEWEST_SEEDS
    sizes = [affordable_seeds(2 * 10**k * 10**4) for k in range(2, 10)]
    assert sizes == sorted(sizes, reverse=True)


def test_networks_without_biases_have_no_repaired_line(rng, data):
    model = MLP((4, 5, 3), "tanh", bias=False)
    params = tuple(
        {"weight": rng.standard_normal((3, *shape)).astype(np.float32)} for shape in zip((4, 5), (5, 3), strict=True)
    )
    result = study(model, model.symmetry, "cross_entropy", params, data, rng=rng)
    assert set(result.barriers) == {"raw", "random", "weights", "activations"}


def test_a_symmetry_that_changes_the_function_is_refused(rng, data):
    layers = tuple(
        Units(units.num, tuple(axis for axis in units.axes if axis.leaf != f"{i}.bias"))
        for i, units in enumerate(MODEL.symmetry.layers)
    )
    with pytest.raises(SymmetryError, match="perm symmetry of layer 0"):
        study(MODEL, Symmetry(layers), "cross_entropy", population(rng, 3), data, rng=rng)
    with pytest.raises(SymmetryError, match=r"'9\.weight'"):
        study(MODEL, Symmetry((Units(6, (Axis("9.weight", -1),)),)), "cross_entropy", population(rng, 3), data, rng=rng)


def test_one_network_is_no_population(rng, data):
    with pytest.raises(ValueError, match="at least two networks"):
        run(population(rng, 1), data, rng)


def test_the_embedding_is_that_of_principal_components(rng):
    raw, aligned = population(rng, 5), population(rng, 5)
    result = embed(raw, aligned)
    rows = lambda params: np.concatenate([leaf.reshape(5, -1) for leaf in jax.tree.leaves(params)], axis=1)  # noqa: E731
    flat = np.concatenate([rows(raw), rows(aligned)]).astype(float)
    centred = flat - flat.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    points = np.concatenate([result.raw, result.aligned])
    np.testing.assert_allclose(np.abs(points), np.abs(u[:, :2] * s[:2]), rtol=1e-8)
    np.testing.assert_allclose(result.explained, s[:2] ** 2 / np.sum(s**2), rtol=1e-10)
    assert np.all(points[np.abs(points).argmax(axis=0), [0, 1]] > 0)


def test_unit_cosines_are_of_all_that_a_unit_receives(rng):
    a, b = (jax.tree.map(lambda leaf: leaf[0], population(rng, 1)) for _ in range(2))
    for layer, cosines in enumerate(unit_cosines(MODEL.symmetry, a, b)):
        u, v = (np.concatenate([p[layer]["weight"], p[layer]["bias"][None]]).astype(float) for p in (a, b))
        expected = (u * v).sum(axis=0) / np.linalg.norm(u, axis=0) / np.linalg.norm(v, axis=0)
        np.testing.assert_allclose(cosines, expected, rtol=1e-12)
    silent = jax.tree.map(np.zeros_like, a)
    assert all(np.all(c == 0) for c in unit_cosines(MODEL.symmetry, a, silent))


def test_the_study_is_the_same_from_the_same_generator(rng, data):
    params = population(rng, 3)
    one, two = (run(params, data, np.random.default_rng(9)) for _ in range(2))
    assert one.cycle == two.cycle
    np.testing.assert_array_equal(one.recovery.recovered, two.recovery.recovered)
    np.testing.assert_array_equal(one.embedding.raw, two.embedding.raw)
    np.testing.assert_array_equal(one.geometry["random"].distance, two.geometry["random"].distance)
