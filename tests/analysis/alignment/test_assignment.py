import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.alignment.assignment import assign

seeds = st.integers(0, 999)


@given(st.integers(1, 5), seeds)
def test_the_assignment_is_the_best_of_all_perms(num, seed):
    similarity = np.random.default_rng(seed).standard_normal((num, num))
    perm, signs, best = assign(similarity)
    values = [similarity[range(num), p].sum() for p in itertools.permutations(range(num))]
    np.testing.assert_allclose(best, max(values), rtol=1e-12)
    np.testing.assert_allclose(similarity[range(num), perm].sum(), best, rtol=1e-12)
    np.testing.assert_array_equal(signs, 1)


@given(st.integers(1, 4), seeds)
def test_the_signed_assignment_is_the_best_of_all_perms_and_signs(num, seed):
    similarity = np.random.default_rng(seed).standard_normal((num, num))
    perm, signs, best = assign(similarity, signed=True)
    flips = np.array(list(itertools.product((1, -1), repeat=num)))
    values = [(flips @ similarity[range(num), p]).max() for p in itertools.permutations(range(num))]
    np.testing.assert_allclose(best, max(values), rtol=1e-12)
    np.testing.assert_allclose(signs @ similarity[range(num), perm], best, rtol=1e-12)


def test_a_similarity_of_nothing_is_assigned_all_the_same():
    for signed in (False, True):
        perm, signs, best = assign(np.zeros((4, 4)), signed=signed)
        assert sorted(perm.tolist()) == [0, 1, 2, 3]
        np.testing.assert_array_equal(signs, 1)
        assert best == 0


def test_a_similarity_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="invalid numeric"):
        assign(np.full((2, 2), np.nan))
