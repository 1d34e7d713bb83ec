"""Work side by side on all cores, in threads that share one copy of the arrays."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from wspace.cores import num_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int | None = None
) -> list[Result]:
    """[function(item) for item in items], side by side, with one BLAS thread for each.

    SciPy's assignment, BLAS and compiled JAX programs release the GIL, so threads share one copy of the arrays and use all
    cores.

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
            _limits = _controller().limit(limits=1, user_api="blas")
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0 and _limits is not None:
                _limits.restore_original_limits()


@functools.cache
def _controller() -> ThreadpoolController:
    """Looking for the loaded libraries takes milliseconds, so it is done once: NumPy's and SciPy's are there by now."""
    return ThreadpoolController()


_lock, _depth = threading.Lock(), 0
_limits: Any = None
