"""The Hessian itself: its product with vectors, all its entries where they fit, and the gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from analysis.curvature.objective import Objective, Population, flat
from wspace.models import Model
from wspace.objective import LossKind, cache_compiled
from wspace.tree import Layout, Params

MAX_BYTES = 2 * 2**30  # of all entries of all Hessians
COLUMNS = 16  # products at once


def gradients(objective: Objective, params: Params, *, batch_ndim: int = 1) -> Float[np.ndarray, "*batch param"]:
    """Gradient of the objective, exact on all examples, raveled, float64.

    Args:
        objective: which function.
        params: leaves batch + shape.
        batch_ndim: number of leading axes.
    """
    population = Population.of(objective, params, batch_ndim)
    return population.shaped(population.map(population.program(_gradient)))


def values(objective: Objective, params: Params, *, batch_ndim: int = 1) -> Float[np.ndarray, "*batch"]:
    """The objective itself, exact on all examples, float64."""
    population = Population.of(objective, params, batch_ndim)
    return population.shaped(heights(population))


def heights(population: Population) -> np.ndarray:
    """The objective of a population, (network,)."""
    return population.map(population.program(_value))


def hessian_products(
    objective: Objective, params: Params, vectors: Float[np.ndarray, "*batch vector param"], *, batch_ndim: int = 1
) -> Float[np.ndarray, "*batch vector param"]:
    """H v for several v of each network, exact on all examples, raveled, float64.

    Args:
        objective: which function.
        params: leaves batch + shape.
        vectors: raveled, as many for each network.
        batch_ndim: number of leading axes of the params.

    Raises:
        ValueError: the vectors do not fit the params.
    """
    population = Population.of(objective, params, batch_ndim)
    v = np.asarray(vectors, np.float64)
    if v.ndim != batch_ndim + 2 or v.shape[:batch_ndim] != population.batch or v.shape[-1] != population.layout.size:
        raise ValueError(
            f"vectors of shape {v.shape}: {(*population.batch, 'vector', population.layout.size)} is expected"
        )
    return population.shaped(products(population, v.reshape(-1, *v.shape[batch_ndim:])))


def products(population: Population, vectors: np.ndarray) -> np.ndarray:
    """H v of a population, (network, vector, param)."""
    return population.map(population.program(_products), vectors, values=2 * vectors.shape[1] * vectors.shape[2])


def hessians(
    objective: Objective, params: Params, *, batch_ndim: int = 1, at: np.ndarray | None = None
) -> Float[np.ndarray, "*batch row row"]:
    """Every entry of the Hessian, symmetric, float64: one product for each column.

    Args:
        objective: which function.
        params: leaves batch + shape.
        batch_ndim: number of leading axes.
        at: positions in theta of the rows and columns wanted, e.g. those of one layer; default: all.

    Raises:
        ValueError: `at` are not positions in theta, or the entries of all networks would take more than MAX_BYTES.
    """
    population = Population.of(objective, params, batch_ndim)
    size = population.layout.size
    where = np.arange(size) if at is None else np.asarray(at)
    inside = where.ndim == 1 and np.issubdtype(where.dtype, np.integer)
    if not inside or len(where) == 0 or where.min() < 0 or where.max() >= size:  # JAX would take the nearest ones
        raise ValueError(f"at = {where}: a list of positions, whole numbers from 0 to {size - 1}, is expected")
    return population.shaped(dense(population, where))


def dense(population: Population, at: np.ndarray) -> np.ndarray:
    """Entries of a population's Hessians at some rows and columns, (network, row, row)."""
    if (size := 8 * len(population.theta) * len(at) ** 2) > MAX_BYTES:
        raise ValueError(
            f"{len(population.theta)} Hessians of {len(at)} rows take {size / 2**30:.1f} GB, {MAX_BYTES / 2**30:.0f} are "
            "allowed: take fewer networks at a time, or eigenvalues by Lanczos"
        )
    program = population.program(_dense, tuple(np.atleast_1d(at).tolist()))
    return population.map(program, values=2 * len(at) ** 2)


@cache_compiled
def _gradient(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Callable:
    return jax.jit(jax.vmap(flat(model, kind, layout, chunk).gradient, (0, None)))


@cache_compiled
def _value(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Callable:
    return jax.jit(jax.vmap(flat(model, kind, layout, chunk).value, (0, None)))


@cache_compiled
def _products(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Callable:
    hessian = flat(model, kind, layout, chunk).hessian

    def one(theta, vectors, data):
        return jax.lax.map(hessian(theta, data), vectors)

    return jax.jit(jax.vmap(one, (0, 0, None)))


@cache_compiled
def _dense(model: Model, kind: LossKind, layout: Layout, chunk: int, at: tuple[int, ...]) -> Callable:
    hessian, rows = flat(model, kind, layout, chunk).hessian, np.array(at)

    def one(theta, data):
        product = hessian(theta, data)

        def column(row):
            unit = jnp.zeros(layout.size, theta.dtype).at[row].set(1)
            return product(unit)[rows]

        matrix = jax.lax.map(column, jnp.asarray(rows), batch_size=min(COLUMNS, len(rows)))
        return (matrix + matrix.T) / 2

    return jax.jit(jax.vmap(one, (0, None)))
