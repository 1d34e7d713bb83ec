import itertools

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st

from analysis.alignment.assignment import assign, in_threads

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


@pytest.mark.parametrize("num_threads", [None, 1, 3])
def test_threads_keep_the_order(num_threads):
    assert in_threads(lambda i: i * i, range(50), num_threads) == [i * i for i in range(50)]
    assert in_threads(lambda i: i, [], num_threads) == []


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda i: 1 // i, [1, 0])


def test_blas_has_one_thread_inside_and_as_many_as_before_after():
    def of_blas(_=None):
        return [lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]

    before = of_blas()
    assert all(set(inside) <= {1} for inside in in_threads(of_blas, range(3)))
    assert of_blas() == before
