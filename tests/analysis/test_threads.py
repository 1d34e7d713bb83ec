"""Threads: order, errors, and BLAS kept to one thread each."""

import pytest
import threadpoolctl

from analysis.threads import in_threads


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
