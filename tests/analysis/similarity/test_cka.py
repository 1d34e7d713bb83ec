import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.similarity import cka


def debiased_hsic(k, l):  # noqa: E741
    """Song et al. 2012, equation 5, written out."""
    n = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    first = np.trace(k @ l)
    second = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    third = 2 / (n - 2) * one @ k @ l @ one
    return (first + second - third) / (n * (n - 3))


def plain(x, y):
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return debiased_hsic(k, l) / np.sqrt(debiased_hsic(k, k) * debiased_hsic(l, l))


def biased(x, y):
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return np.sum((x.T @ y) ** 2) / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)


def layers(rng, num=3, n=12):
    return [rng.standard_normal((num, n, 5)), rng.standard_normal((num, n, 2, 4)) + 1, rng.standard_normal((num, n, 1))]


@pytest.mark.parametrize("most_values", [1, 500, 2**24])
def test_cka_is_that_of_a_plain_implementation(most_values, rng):
    given_layers = layers(rng)
    before = [layer.copy() for layer in given_layers]
    got = cka(given_layers, most_values=most_values)
    flat = [layer.reshape(3, 12, -1) for layer in given_layers]
    assert got.shape == (3, 3, 3, 3)
    for a in range(3):
        for b in range(3):
            for i in range(3):
                for j in range(3):
                    assert got[a, b, i, j] == pytest.approx(plain(flat[a][i], flat[b][j]), abs=1e-12)
    for layer, old in zip(given_layers, before, strict=True):
        np.testing.assert_array_equal(layer, old)


@given(st.integers(0, 2**32 - 1), st.integers(4, 9), st.integers(1, 6))
def test_rotation_scale_shift_and_order_of_units_change_nothing_and_a_linear_map_does(seed, n, width):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, n, width))
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0]
    variants = np.stack([x, 3 * x @ rotation + rng.standard_normal(width), x[:, rng.permutation(width)] * -1, y])
    got = cka([variants])[0, 0]
    if np.isnan(got).any():
        return
    np.testing.assert_allclose(got[:3, :3], 1, atol=1e-9)
    np.testing.assert_allclose(got[:3, 3], got[0, 3], atol=1e-9)


def test_a_general_linear_map_is_noticed(rng):
    x = rng.standard_normal((50, 4))
    got = cka([np.stack([x, x @ np.diag([1, 2, 5, 20])])])[0, 0, 0, 1]
    assert 0.3 < got < 0.95


def test_order_of_arguments_does_not_matter(rng):
    got = cka(layers(rng))
    np.testing.assert_allclose(got, got.transpose(1, 0, 3, 2), rtol=1e-12)
    np.testing.assert_allclose(np.einsum("llii->li", got), 1, rtol=1e-12)


def test_independent_features_are_unlike_however_wide_they_are(rng):
    """Of 30 examples in 300 dimensions the biased estimate is near 0.9 although they are independent; this one is near 0."""
    x = rng.standard_normal((40, 30, 300))
    got = cka([x])[0, 0]
    off = got[np.triu_indices(40, 1)]
    assert abs(off.mean()) < 4 * off.std() / np.sqrt(40)
    assert biased(x[0], x[1]) > 0.85


def test_what_does_not_vary_has_no_alignment(rng):
    x = rng.standard_normal((3, 8, 4)).astype(np.float32)
    x[1] = 0.1  # whose mean is rounded
    got = cka([x])[0, 0]
    assert np.isnan(got[1]).all()
    assert np.isnan(got[:, 1]).all()
    assert np.isfinite(got[[0, 0, 2], [0, 2, 2]]).all()


def test_variation_on_one_example_only_has_no_alignment(rng):
    """A unit that answers one example alone: off the diagonal K is a sum of a row and a column, which U-centring removes."""
    x = rng.standard_normal((4, 30, 3))
    x[1] = 0.3
    x[1, 7] = [1, 2, 3]
    x[3, 7] += 1e3  # others vary as well, a little
    got = cka([x])[0, 0]
    assert np.isnan(got[1]).all()
    others = [0, 2, 3]
    for i in others:
        for j in others:
            centred = [x[k] - x[k].mean(axis=0) for k in (i, j)]
            assert got[i, j] == pytest.approx(plain(*centred), abs=1e-8)


def test_tiny_and_huge_features_are_as_alike_as_others(rng):
    x = rng.standard_normal((2, 8, 4))
    expected = cka([x])
    for scale in (1e-150, 1e150):
        np.testing.assert_allclose(cka([x * scale]), expected, rtol=1e-9)


def test_what_cannot_be_compared_is_refused(rng):
    with pytest.raises(ValueError, match="3 examples: a debiased CKA takes at least 4"):
        cka([rng.standard_normal((2, 3, 4))])
    with pytest.raises(ValueError, match=r"\[\(2, 8\), \(2, 9\)\]: equal ones"):
        cka([rng.standard_normal((2, 8, 4)), rng.standard_normal((2, 9, 4))])
    x = rng.standard_normal((2, 8, 4))
    x[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"positions \[1\] are not finite"):
        cka([x])
