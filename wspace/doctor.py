"""Is this machine fit? Versions, devices, matmul peak, and compiled programs against NumPy in float64."""

import functools
import importlib.metadata
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wspace.errors import PlatformError
from wspace.provenance import PACKAGES

KNOWN_BAD = {"jaxlib": {"0.10.2": "silently wrong numbers on CPU (jax issues 39103, 39352)"}}
INSTALL = "pip install 'jax!=0.10.2' 'jaxlib!=0.10.2'"


class Check(NamedTuple):
    """One comparison of a compiled program with NumPy float64.

    Attributes:
        name: what was computed.
        error: largest relative error.
        tolerance: what rounding allows.
    """

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN is not."""
        return self.error <= self.tolerance


@functools.cache
def refuse_wrong_numbers() -> None:
    """Raise unless this installation computes right numbers on a small population; runs once per process (< 1 s).

    Raises:
        PlatformError: names the package to replace, or the computation that went wrong.
    """
    refuse_known_bad()
    if failed := [check for check in check_numbers(quick=True) if not check.passed]:
        lines = "; ".join(
            f"{c.name}: relative error {c.error:.1e}, at most {c.tolerance:.0e} is rounding" for c in failed
        )
        raise PlatformError(
            f"jaxlib {importlib.metadata.version('jaxlib')} computes wrong numbers on this machine ({lines}). "
            f"Install another version ({INSTALL}) and run `wspace doctor`"
        )


def refuse_known_bad(version: Callable[[str], str] = importlib.metadata.version) -> None:
    """Raise if an installed version is known to compute wrong numbers.

    Raises:
        PlatformError: says which, why, and what to install.
    """
    for package, bad in KNOWN_BAD.items():
        if (installed := version(package)) in bad:
            raise PlatformError(f"{package} {installed} is known to give {bad[installed]}; install another: {INSTALL}")


def check_numbers(quick: bool = False) -> list[Check]:
    """Compiled, vmapped programs of the kinds that wspace uses, against NumPy in float64.

    Args:
        quick: a few seconds' worth less: no row counts beyond 2^17.

    Returns:
        One Check per computation; the tolerance is that of float32 rounding for its number of terms.
    """
    rng = np.random.default_rng(0)
    with jax.default_matmul_precision("highest"):  # as the engine by default; accelerators would multiply in less
        return _check_numbers(rng, quick)


def matmul_peak(size: int = 2048, repeats: int = 9) -> float:
    """Median speed of a float32 (size, size) matmul on all cores of the default device, in FLOP/s (2 size^3 each)."""
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((size, size)), jnp.float32)
    with jax.default_matmul_precision("highest"):
        multiply = jax.jit(jnp.matmul)
        multiply(matrix, matrix).block_until_ready()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            multiply(matrix, matrix).block_until_ready()
            times.append(time.perf_counter() - start)
    return 2 * size**3 / float(np.median(times))


def versions() -> dict[str, str]:
    """Installed version of every package that the numbers depend on."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}


def _check_numbers(rng: np.random.Generator, quick: bool) -> list[Check]:
    rows = [1, 1000, 32_769, 131_073] if quick else [1, 1000, 16_385, 32_769, 131_073, 1_048_577]
    checks = [_matvec_then_sum(rng, n) for n in rows]
    checks += [_population_gradient(rng, width, batch) for width, batch in ((3, 17), (32, 64), (128, 500))]
    checks += [_large_sum(rng, n) for n in rows[1:]]
    return checks


def _matvec_then_sum(rng: np.random.Generator, rows: int) -> Check:
    """sum_j (A x_i)_j^2 for each row x_i: the pattern that jaxlib 0.10.2 gets wrong."""
    matrix, x = rng.standard_normal((3, 3)), rng.standard_normal((rows, 3))
    got = jax.jit(jax.vmap(lambda a, v: jnp.sum((a @ v) ** 2), (None, 0)))(_single(matrix), _single(x))
    return _compare(f"matvec then sum, {rows} rows", got, np.sum((_double(x) @ _double(matrix).T) ** 2, axis=1), 3)


def _population_gradient(rng: np.random.Generator, width: int, batch: int) -> Check:
    """Gradient of the squared error of a tanh layer for every network of a population, in closed form."""
    x, y = rng.standard_normal((batch, 20)), rng.standard_normal((batch, 7))
    weights = rng.standard_normal((width, 20, 7)) / 4

    def loss(weight, x, y):
        return jnp.sum((jnp.tanh(x @ weight) - y) ** 2)

    got = jax.jit(jax.vmap(jax.grad(loss), (0, None, None)))(_single(weights), _single(x), _single(y))
    x, y, weights = _double(x), _double(y), _double(weights)
    hidden = np.tanh(x @ weights)
    expected = x.T @ (2 * (hidden - y) * (1 - hidden**2))
    return _compare(f"gradient of {width} networks, {batch} examples", got, expected, batch)


def _large_sum(rng: np.random.Generator, rows: int) -> Check:
    """Mean squared error of a linear fit over many rows, for a population of four.

    Not the bare mean of x @ w: jaxlib 0.10.1 crashes on that beyond 2^17 rows, and no program of wspace contains it.
    """
    x, y, weights = rng.random((rows, 5)), rng.random(rows), rng.random((4, 5))
    got = jax.jit(jax.vmap(lambda w, x, y: jnp.mean((x @ w - y) ** 2), (0, None, None)))(*map(_single, (weights, x, y)))
    expected = np.mean((_double(x) @ _double(weights).T - _double(y)[:, None]) ** 2, axis=0)
    return _compare(f"mean over {rows} rows", got, expected, rows)


def _compare(name: str, got: jax.Array, expected: np.ndarray, terms: int) -> Check:
    """Largest error relative to the largest value; rounding of a sum of n terms grows no faster than sqrt(n) eps."""
    error = np.max(np.abs(np.asarray(got, np.float64) - expected)) / np.max(np.abs(expected))
    return Check(name, float(error), float(8 * np.sqrt(terms) * np.finfo(np.float32).eps))


def _single(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array, jnp.float32)


def _double(array: np.ndarray) -> np.ndarray:
    """The float32 values that the compiled program sees, in float64."""
    return array.astype(np.float32).astype(np.float64)
