"""The linear assignment problem, many at a time: which unit goes to which."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits

from wspace.cores import num_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def assign(
    similarity: Float[np.ndarray, "unit unit"], *, signed: bool = False
) -> tuple[Int[np.ndarray, "unit"], Float[np.ndarray, "unit"], float]:
    """The perm and signs that maximise sum_i s_i S[i, p(i)], exactly (Crouse 2016, 10.1109/TAES.2016.140952).

    For a given perm the best sign of each term is that of S, so with signs it is the assignment problem of |S|.

    Args:
        similarity: S, finite; rows are units of the reference, columns those of the network that is moved.
        signed: whether signs are free; otherwise they are 1.

    Returns:
        (perm, signs, the maximum).
    """
    score = np.abs(similarity) if signed else similarity
    rows, perm = linear_sum_assignment(score, maximize=True)
    signs = np.where(similarity[rows, perm] < 0, -1.0, 1.0) if signed else np.ones(len(perm))
    return perm, signs, float(score[rows, perm].sum())


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int | None = None
) -> list[Result]:
    """[function(item) for item in items], side by side, with one BLAS thread for each.

    SciPy's assignment and BLAS release the GIL, so threads share one copy of the arrays and use all cores.

    Args:
        function: pure, or writing to places of its own.
        items: in order.
        num_threads: default: the cores that this process may use.
    """
    with _one_blas_thread(), ThreadPoolExecutor(num_threads or num_cores()) as pool:
        return list(pool.map(function, items))


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """The limit is the process's: the first to come sets it, the last to go takes it away."""
    global _limits, _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            _limits = threadpool_limits(1, user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _limits is not None:
                _limits.restore_original_limits()


_lock, _depth = threading.Lock(), 0
_limits: threadpool_limits | None = None
