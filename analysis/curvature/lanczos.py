"""Extreme eigenvalues of a population's Hessians: Lanczos with full reorthogonalisation, residuals and flags.

The one place where matfree is used for decompositions. A network with up to DENSE params has its whole spectrum computed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from matfree import decomp

from analysis.curvature.hessian import dense, products
from analysis.curvature.objective import Objective, Population, Tell, flat
from analysis.projection.components import fix_signs
from wspace.models import Model
from wspace.objective import LossKind, cache_compiled
from wspace.tree import Layout, Params

DENSE = 400  # params up to which all entries are computed: LAPACK then also finds every copy of an eigenvalue
DENSE_MOST = 4096  # where Lanczos cannot go on because eigenvalues are repeated, all entries are computed up to here
STEPS, MOST_STEPS = 64, 1024  # of Lanczos, at first and at most
BASIS_VALUES = 2**28  # float64 values of one network's basis: 2 GB
BREAKDOWN = 1e-10  # of the spectrum's size: a shorter remainder means that the Krylov space is invariant


class Krylov(NamedTuple):
    """T = Q H Q^T, the Hessian in an orthonormal basis Q of span(v, H v, .., H^(m-1) v).

    Attributes:
        basis: Q, (step, param); rows of dead steps are 0.
        diagonal: of T, (step,).
        off: beside the diagonal of T, (step,); the last is the length of what the basis leaves out.
        live: which steps are part of the space; the others follow a breakdown, (step,).
    """

    basis: Array
    diagonal: Array
    off: Array
    live: Array


@dataclasses.dataclass(frozen=True)
class Extremes:
    """Largest and smallest eigenpairs, algebraically, of the Hessian of each network.

    Attributes:
        objective: whose Hessian, in words.
        values: eigenvalues, from the largest down: first the `num_largest`, then the smallest; (*batch, pair).
        vectors: unit eigenvectors, raveled, signs as `fix_signs` has them, (*batch, pair, param).
        residuals: |H v - lambda v|, computed from the vectors: some eigenvalue lies within it; (*batch, pair).
        converged: whether the residual is at most the tolerance x the largest |eigenvalue|, (*batch, pair).
        num_largest: how many of the pairs are from the upper end.
        num_products: Hessian-vector products spent, (*batch,).
        exact: whether all entries were computed, so that no copy of an eigenvalue is missed; (*batch,).
    """

    objective: str
    values: Float[np.ndarray, "*batch pair"]
    vectors: Float[np.ndarray, "*batch pair param"]
    residuals: Float[np.ndarray, "*batch pair"]
    converged: Bool[np.ndarray, "*batch pair"]
    num_largest: int
    num_products: Int[np.ndarray, "*batch"]
    exact: Bool[np.ndarray, "*batch"]

    @property
    def largest(self) -> Float[np.ndarray, "*batch pair"]:
        """The upper end, from the largest down."""
        return self.values[..., : self.num_largest]

    @property
    def smallest(self) -> Float[np.ndarray, "*batch pair"]:
        """The lower end, from the smallest up."""
        return self.values[..., self.num_largest :][..., ::-1]


def krylov(product: Callable[[Array], Array], start: Array, num_steps: int) -> Krylov:
    """Lanczos with full reorthogonalisation, inside a compiled program (Lanczos 1950, 10.6028/jres.045.026).

    Args:
        product: v -> H v, H symmetric.
        start: v, any length but 0.
        num_steps: m, at most the dimension.
    """
    found: Any = decomp.hessenberg(num_steps, reortho="full", custom_vjp=False)(product, start)
    basis, upper, rest, _ = found
    # Below the diagonal stand the lengths of the remainders. Above it stands what the next vector gives, which after a
    # breakdown is noise of any size, in small spaces even within the basis.
    diagonal, off = jnp.diagonal(upper), jnp.append(jnp.diagonal(upper, -1), jnp.linalg.norm(rest))
    size = jax.lax.cummax(jnp.nan_to_num(jnp.abs(diagonal) + off, nan=0.0, posinf=0.0))
    going = jnp.isfinite(off) & (off > BREAKDOWN * size)  # a step is followed by another one
    live = jnp.append(True, jnp.cumprod(going[:-1]).astype(bool))
    clean = lambda a, fill: jnp.where(live.reshape(-1, *(1,) * (a.ndim - 1)), jnp.nan_to_num(a), fill)  # noqa: E731
    last = live & ~jnp.append(live[1:], False)
    return Krylov(
        clean(basis, 0.0),
        clean(diagonal, diagonal[0]),  # a Rayleigh quotient, so never outside the spectrum
        jnp.where(live & (going | ~last), jnp.nan_to_num(off), 0.0),
        live,
    )


def ritz(space: Krylov) -> tuple[Float[np.ndarray, "step"], Float[np.ndarray, "step step"]]:
    """Eigenvalues of one network's T, ascending, and its eigenvectors as columns; in NumPy, outside of programs."""
    inner = np.where(space.live[1:], space.off[:-1], 0.0)
    return np.linalg.eigh(np.diag(space.diagonal) + np.diag(inner, 1) + np.diag(inner, -1))


def extremes(
    objective: Objective, params: Params, largest: int = 1, smallest: int = 1, *, rng: np.random.Generator,
    batch_ndim: int = 1, tolerance: float = 1e-6, max_steps: int = MOST_STEPS, tell: Tell | None = None,
) -> Extremes:  # fmt: skip
    """Largest and smallest eigenvalues of the Hessian of every network of a population, with their eigenvectors.

    Networks of at most DENSE params: all eigenvalues of all entries. Larger ones: Lanczos, whose steps are doubled for
    those networks that have not converged. From one starting vector Lanczos sees each eigenvalue once, however often
    it is repeated; if that ends the iteration early, all entries are computed after all, up to DENSE_MOST params.

    Args:
        objective: which function.
        params: leaves batch + shape, e.g. (seed, ..) or (seed, checkpoint, ..).
        largest, smallest: how many from each end; together at most the number of params.
        rng: source of the starting vectors.
        batch_ndim: number of leading axes of the params; 0 for one network.
        tolerance: of residuals, relative to the largest |eigenvalue|.
        max_steps: of Lanczos; pairs that have not converged by then are flagged.
        tell: called with (networks done, networks), once for every doubling.

    Raises:
        ValueError: a number is out of range, or the params are not finite.
    """
    population = Population.of(objective, params, batch_ndim)
    size, num = population.layout.size, len(population.theta)
    if largest < 0 or smallest < 0 or not 1 <= largest + smallest <= size:
        raise ValueError(f"largest = {largest}, smallest = {smallest}: together 1 to {size} eigenvalues are expected")
    if not tolerance > 0 or max_steps < 1:
        raise ValueError(f"tolerance = {tolerance}, max_steps = {max_steps}: above 0, and at least 1, are expected")
    pairs = largest + smallest
    vectors, scale = np.zeros((num, pairs, size)), np.zeros(num)
    found, residuals = np.full((num, pairs), np.nan), np.full((num, pairs), np.inf)
    spent, exact = np.zeros(num, int), np.zeros(num, bool)

    def keep(rows, values, directions, sizes):
        part = dataclasses.replace(population, theta=population.theta[rows])
        unit = directions / np.maximum(np.linalg.norm(directions, axis=-1, keepdims=True), np.finfo(float).tiny)
        off = np.linalg.norm(products(part, unit) - values[:, :, None] * unit, axis=-1)
        there = np.linalg.norm(directions, axis=-1) > 0.5  # not beyond the end of a Krylov space
        found[rows], residuals[rows] = np.where(there, values, np.nan), np.where(there, off, np.inf)
        vectors[rows], scale[rows] = unit, sizes
        spent[rows] += pairs

    def solve_densely(rows):
        part = dataclasses.replace(population, theta=population.theta[rows])
        values, columns = np.linalg.eigh(dense(part, np.arange(size)))
        at = _ends(size, largest, smallest)
        keep(rows, values[:, at], np.swapaxes(columns, 1, 2)[:, at], np.abs(values).max(axis=1))
        spent[rows] += size
        exact[rows] = True

    if size <= DENSE:
        solve_densely(np.arange(num))
    else:
        starts = rng.standard_normal((num, size))
        most = max(pairs, min(size, max_steps, BASIS_VALUES // size))
        steps, rows = min(most, max(STEPS, 2 * pairs + 20)), np.arange(num)
        while True:
            part = dataclasses.replace(population, theta=population.theta[rows])
            at = _ends(steps, largest, smallest)

            def finish(block, at=at):
                parts = []
                for space in (Krylov(*arrays) for arrays in zip(*block, strict=True)):
                    values, columns = ritz(space)
                    parts.append((values[at], columns.T[at] @ space.basis, np.abs(values).max(), not space.live[-1]))
                return tuple(map(np.stack, zip(*parts, strict=True)))

            values, directions, sizes, ended = part.map(
                part.program(_krylov, steps), starts[rows], values=2 * steps * size, finish=finish, tell=tell
            )
            keep(rows, values, directions, sizes)
            spent[rows] += steps
            if size <= DENSE_MOST and ended.any():
                for row in rows[ended]:
                    solve_densely(np.array([row]))
            open_ = np.any(residuals[rows] > tolerance * scale[rows, None], axis=1)
            rows = rows[open_ & ~ended]  # more steps would not take an ended iteration any further
            if len(rows) == 0 or steps == most:
                break
            steps = min(2 * steps, most)
    shaped = population.shaped
    converged = residuals <= tolerance * scale[:, None]
    signed = fix_signs(vectors.reshape(-1, size)).reshape(vectors.shape)
    return Extremes(
        objective.name, shaped(found), shaped(signed), shaped(residuals), shaped(converged), largest, shaped(spent),
        shaped(exact),
    )  # fmt: skip


def _ends(size: int, largest: int, smallest: int) -> np.ndarray:
    """Positions, among ascending eigenvalues, of the largest ones from the top down, then of the smallest ones."""
    return np.concatenate([np.arange(size - 1, size - 1 - largest, -1), np.arange(smallest - 1, -1, -1)]).astype(int)


@cache_compiled
def _krylov(model: Model, kind: LossKind, layout: Layout, chunk: int, num_steps: int) -> Callable:
    hessian = flat(model, kind, layout, chunk).hessian

    def one(theta, start, data):
        return krylov(hessian(theta, data), start, num_steps)

    return jax.jit(jax.vmap(one, (0, 0, None)))
