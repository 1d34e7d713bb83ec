import numpy as np
import pytest

from analysis.representation import class_distances


def random_layer(rng, num=40, width=5, classes=3):
    y = np.arange(num) % classes
    return rng.standard_normal((2, num, width)) + 2 * np.eye(classes, width)[y], y + 7


def test_planted_classes_have_their_share_and_their_distances():
    """Means at -3 and 3 on one axis; within, -1 and 1 on it and -2 and 2 across: between 9, within 1 + 4."""
    ends, half = np.array([[1.0, 2], [1, -2], [-1, 2], [-1, -2]]), np.array([3.0, 0])
    x = np.concatenate([ends + half, ends - half])
    got = class_distances([x[None]], np.repeat([4, 9], 4))
    assert got.share[0, 0] == pytest.approx(9 / 14)
    spread = np.sqrt(8 / 6)  # eight squares of 1 along the line, two means taken off
    np.testing.assert_allclose(got.apart[0, 0], [[0, 6 / spread], [6 / spread, 0]])
    np.testing.assert_array_equal(got.classes, [4, 9])
    assert (got.num_examples, got.null) == (8, 1 / 7)


def test_many_examples_show_the_distance_of_the_distributions(rng):
    """Two normal distributions, four of their standard deviations apart along the line, and wider across it."""
    y = np.repeat([0, 1], 20000)
    x = rng.standard_normal((40000, 2)) * [0.5, 2] + np.outer(y, [2.0, 0])
    got = class_distances([x[None]], y)
    assert got.apart[0, 0, 0, 1] == pytest.approx(4, abs=0.1)
    assert got.share[0, 0] == pytest.approx(1 / (1 + 0.25 + 4), abs=0.01)


def test_distances_and_shares_are_those_of_a_plain_implementation(rng):
    x, y = random_layer(rng)
    got = class_distances([x, x[..., :2]], y)
    for k, layer in enumerate((x, x[..., :2])):
        for seed in range(2):
            some = layer[seed]
            total = np.sum((some - some.mean(axis=0)) ** 2)
            within = sum(np.sum((some[y == c] - some[y == c].mean(axis=0)) ** 2) for c in (7, 8, 9))
            assert got.share[k, seed] == pytest.approx(1 - within / total)
            line = some[y == 7].mean(axis=0) - some[y == 9].mean(axis=0)
            along = [some[y == c] @ line / np.linalg.norm(line) for c in (7, 9)]
            n, m = map(len, along)
            pooled = ((n - 1) * along[0].var(ddof=1) + (m - 1) * along[1].var(ddof=1)) / (n + m - 2)
            assert got.apart[k, seed, 0, 2] == pytest.approx(np.linalg.norm(line) / np.sqrt(pooled))
            np.testing.assert_array_equal(got.apart[k, seed], got.apart[k, seed].T)


def test_shuffled_labels_have_the_stated_share(rng):
    x, y = random_layer(rng, num=50)
    shares = [class_distances([x[:1]], rng.permutation(y)) for _ in range(600)]
    values = np.array([one.share[0, 0] for one in shares])
    assert shares[0].null == pytest.approx(2 / 49)
    assert abs(values.mean() - 2 / 49) < 4 * values.std() / np.sqrt(600)
    assert class_distances([x[:1]], y).share[0, 0] > 5 * (2 / 49)


def test_shift_rotation_scale_and_order_of_units_change_nothing(rng):
    x, y = random_layer(rng)
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    first = class_distances([x], y)
    for other in (x @ rotation, x[..., rng.permutation(5)], 1e-3 * x, 1e3 * x + 5, x + 1e6):
        got = class_distances([other], y)
        np.testing.assert_allclose(got.share, first.share, rtol=1e-8)
        np.testing.assert_allclose(got.apart, first.apart, rtol=1e-7)


def test_classes_that_collapsed_are_infinitely_far_apart_and_hold_all_variance():
    x = np.repeat(np.array([[0.0, 1], [2, 0], [2, 0]]), 4, axis=0)[None]
    got = class_distances([x], np.repeat([0, 1, 2], 4))
    np.testing.assert_allclose(got.share, 1)
    np.testing.assert_array_equal(got.apart[0, 0], [[0, np.inf, np.inf], [np.inf, 0, 0], [np.inf, 0, 0]])


def test_features_that_do_not_vary_have_no_share():
    x = np.full((1, 6, 3), 0.1, np.float32)
    got = class_distances([x], np.array([0, 0, 0, 1, 1, 1]))
    assert np.isnan(got.share).all()
    np.testing.assert_array_equal(got.apart, 0)


def test_the_caller_keeps_the_features(rng):
    x, y = random_layer(rng)
    before = x.copy()
    class_distances([x], y)
    np.testing.assert_array_equal(x, before)


def test_what_has_no_classes_is_refused(rng):
    x, y = random_layer(rng)
    with pytest.raises(ValueError, match=r"shapes \[\(2, 40, 5\)\].*39 examples are expected"):
        class_distances([x], y[1:])
    with pytest.raises(ValueError, match=r"\[\(2, 40, 5\), \(1, 40, 5\)\]"):
        class_distances([x, x[:1]], y)
    with pytest.raises(ValueError, match="at least one layer"):
        class_distances([], y)
    with pytest.raises(ValueError, match=r"labels \[0\] have \[40\] examples"):
        class_distances([x], np.zeros(40, int))
    lonely = np.append(np.zeros(39, int), 1)
    with pytest.raises(ValueError, match=r"labels \[0, 1\] have \[39, 1\] examples: .* at least two examples"):
        class_distances([x], lonely)
    with pytest.raises(ValueError, match=r"layers \[0\] are not finite"):
        class_distances([x * np.inf], y)
