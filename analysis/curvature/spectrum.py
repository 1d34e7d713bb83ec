"""Spectral densities, traces, and what is read off them: negative curvature and outliers."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from matfree import stochtrace
from scipy.stats import f as fisher

from analysis.curvature.hessian import dense
from analysis.curvature.lanczos import DENSE, krylov, ritz
from analysis.curvature.objective import Objective, Population, Tell, flat
from wspace.models import Model
from wspace.objective import LossKind, cache_compiled
from wspace.tree import Layout, Params

SURROUNDINGS = 8  # gaps behind a gap that it is compared with
RANKS = 32  # largest eigenvalues among which outliers are looked for, whatever the number of classes
EQUAL = 1e-12  # gaps in ln(eigenvalue) that are rounding
SMOOTH = 0.08  # width of the kernel, in units of asinh(eigenvalue / scale)


@dataclasses.dataclass(frozen=True)
class Density:
    """The share of directions with a given curvature, per unit of u = asinh(eigenvalue / scale).

    u is linear near 0 and logarithmic beyond `scale`, on both sides, because eigenvalues span decades and have signs.

    Attributes:
        objective: whose Hessian, in words.
        grid: eigenvalues at which it is given.
        scale: where u turns from linear to logarithmic.
        width: of the Gaussian kernel, in units of u.
        values: (*batch, grid); each integrates to 1 over u.
        errors: standard error of the mean over probes, (*batch, grid); 0 where all eigenvalues are known.
    """

    objective: str
    grid: Float[np.ndarray, "grid"]
    scale: float
    width: float
    values: Float[np.ndarray, "*batch grid"]
    errors: Float[np.ndarray, "*batch grid"]


@dataclasses.dataclass(frozen=True)
class Spectra:
    """Eigenvalue distributions as weighted nodes: sum_i weight_i f(node_i) estimates (1/P) trace f(H).

    Attributes:
        objective: whose Hessian, in words.
        nodes: eigenvalues, or Ritz values of each probe, (*batch, probe, node).
        weights: (*batch, probe, node); those of a probe add up to 1.
        exact: whether the nodes are all eigenvalues, in one probe.
    """

    objective: str
    nodes: Float[np.ndarray, "*batch probe node"]
    weights: Float[np.ndarray, "*batch probe node"]
    exact: bool

    def mean_of(self, function: Callable) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
        """(1/P) trace f(H), and the standard error of its mean over probes (0 where exact, NaN for one probe)."""
        each = np.sum(self.weights * function(self.nodes), axis=-1)
        return np.asarray(each.mean(axis=-1)), self._error(each, -1)

    def share_below(self, level: float) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
        """Share of directions whose curvature is below a level, with its standard error."""
        return self.mean_of(lambda nodes: nodes < level)

    def density(self, scale: float | None = None, *, num: int = 400, width: float = SMOOTH) -> Density:
        """The distribution smoothed by a Gaussian kernel in u = asinh(eigenvalue / scale).

        Args:
            scale: where u turns logarithmic; default: 1e-4 of the largest |node|, or 1 where all are 0.
            num: points of the grid.
            width: of the kernel.
        """
        largest = float(np.abs(self.nodes).max())
        scale = scale or 1e-4 * largest or 1.0
        u = np.arcsinh(self.nodes / scale)
        grid = np.linspace(u.min() - 4 * width, u.max() + 4 * width, num)
        each = np.zeros((*u.shape[:-1], num))
        for i in range(u.shape[-1]):  # one node of all probes at a time: memory
            kernel = np.exp(-0.5 * np.square((grid - u[..., i, None]) / width)) / (np.sqrt(2 * np.pi) * width)
            each += self.weights[..., i, None] * kernel
        return Density(
            self.objective, scale * np.sinh(grid), scale, width, each.mean(axis=-2), self._error(each, -2)
        )  # fmt: skip

    def _error(self, each: np.ndarray, axis: int) -> np.ndarray:
        num = each.shape[axis]
        if self.exact:
            return np.zeros_like(each.mean(axis=axis))
        if num == 1:
            return np.full_like(each.mean(axis=axis), np.nan)
        return np.asarray(each.std(axis=axis, ddof=1) / np.sqrt(num))


@dataclasses.dataclass(frozen=True)
class Traces:
    """Trace of each Hessian: the sum of all eigenvalues.

    Attributes:
        objective: whose Hessian, in words.
        values: (*batch,).
        errors: standard errors; 0 where exact, (*batch,).
        exact: whether the diagonal was computed.
    """

    objective: str
    values: Float[np.ndarray, "*batch"]
    errors: Float[np.ndarray, "*batch"]
    exact: bool


@dataclasses.dataclass(frozen=True)
class Outliers:
    """Eigenvalues that stand apart.

    Attributes:
        count: k, how many; 0 where there are too few positive eigenvalues for one gap, (*batch,).
        gap: the gap behind them / the mean of the next gaps, in ln(eigenvalue); NaN likewise, (*batch,).
        p: probability of such a gap among eigenvalues without any order; 1 likewise, (*batch,).
    """

    count: Int[np.ndarray, "*batch"]
    gap: Float[np.ndarray, "*batch"]
    p: Float[np.ndarray, "*batch"]


def spectra(
    objective: Objective, params: Params, *, rng: np.random.Generator, batch_ndim: int = 1, num_probes: int = 4,
    num_steps: int = 80, tell: Tell | None = None,
) -> Spectra:  # fmt: skip
    """Eigenvalue distribution of every network's Hessian by stochastic Lanczos quadrature.

    Each probe starts Lanczos at a Gaussian vector. The eigenvalues of T are the nodes and the squared first entries of its
    eigenvectors the weights of a Gauss rule, exact for polynomials up to degree 2 num_steps - 1 in the probe's own
    spectral measure, whose mean over probes is that of H. Ubaru, Chen & Saad 2017 (10.1137/16M1104974); on networks
    Ghorbani, Krishnan & Xiao 2019 (1901.10159). Networks of at most DENSE params have all eigenvalues computed.

    Args:
        objective: which function.
        params: leaves batch + shape.
        rng: source of the probes.
        batch_ndim: number of leading axes of the params.
        num_probes: starting vectors for each network; at least 2 give an error.
        num_steps: of Lanczos.
        tell: called with (networks done, networks).

    Raises:
        ValueError: a number is below 1, or the params are not finite.
    """
    population = Population.of(objective, params, batch_ndim)
    size, num = population.layout.size, len(population.theta)
    if num_probes < 1 or num_steps < 1:
        raise ValueError(f"num_probes = {num_probes}, num_steps = {num_steps}: at least 1 of each is expected")
    if size <= DENSE:
        values = np.linalg.eigvalsh(dense(population, np.arange(size)))[:, None]
        return Spectra(
            objective.name, population.shaped(values), population.shaped(np.full_like(values, 1 / size)), True
        )
    steps = min(num_steps, size)
    program = population.program(_quadrature, steps)
    starts = rng.standard_normal((num, num_probes, size))

    def finish(block):
        nodes, weights = np.zeros((2, len(block.diagonal), num_probes, steps))
        for at in np.ndindex(nodes.shape[:2]):
            nodes[at], columns = ritz(jax.tree.map(lambda leaf, at=at: leaf[at], block))
            weights[at] = np.square(columns[0])
        return nodes, weights

    nodes, weights = population.map(program, starts, values=2 * steps * size, finish=finish, tell=tell)
    return Spectra(objective.name, population.shaped(nodes), population.shaped(weights), False)


def traces(
    objective: Objective, params: Params, *, rng: np.random.Generator, batch_ndim: int = 1, num_samples: int = 32,
    tell: Tell | None = None,
) -> Traces:  # fmt: skip
    """Trace of every network's Hessian by XTrace, which projects out the outliers before it samples.

    Epperly, Tropp & Webber 2024 (2301.07825), with their estimate of the error from leaving out one sample at a time: that
    of matfree. Exact where num_samples is at least half the number of params.

    Args:
        objective: which function.
        params: leaves batch + shape.
        rng: source of the samples.
        batch_ndim: number of leading axes of the params.
        num_samples: Gaussian vectors, each of which takes two products with H; at least 2.
        tell: called with (networks done, networks).

    Raises:
        ValueError: there are fewer than 2 samples, or the params are not finite.
    """
    population = Population.of(objective, params, batch_ndim)
    size, num = population.layout.size, len(population.theta)
    if num_samples < 2:
        raise ValueError(f"num_samples = {num_samples}: at least 2 are expected, so that there is an error")
    samples = min(num_samples, size)
    exact = 2 * samples >= size
    starts = rng.standard_normal((num, samples, size))
    each = population.map(population.program(_xtrace), starts, values=4 * samples * size, alone=True, tell=tell)
    errors = np.zeros(num) if exact else each.std(axis=1, ddof=1) / np.sqrt(samples)
    return Traces(objective.name, population.shaped(each.mean(axis=1)), population.shaped(errors), exact)


def outliers(values: Float[np.ndarray, "*batch rank"]) -> Outliers:
    """How many of the largest eigenvalues stand apart from those that follow, and how far.

    The k outliers end at the widest gap for its surroundings: ln(lambda_k / lambda_(k+1)) is compared with the mean of the
    next SURROUNDINGS = w such gaps, so that neither the largest eigenvalue alone nor the thinning out of a spectrum
    towards its end decides; nothing about classes goes in. Were the gaps draws from one exponential distribution (levels
    without any order), a ratio would follow Fisher's F(2, 2w); p is the probability that the largest of all ratios is so
    large by chance, taking them as independent. That outliers are about as many as classes: Sagun et al. 2018
    (1706.04454), Papyan 2019 (1901.08244), Ghorbani et al. 2019 (1901.10159).

    Args:
        values: the largest eigenvalues from the largest down, RANKS of them, say; the last w + 1 cannot be outliers. Only
            positive ones count.
    """
    batch = values.shape[:-1]
    num = values.shape[-1] - 1 - SURROUNDINGS
    if num < 1:
        return Outliers(np.zeros(batch, int), np.full(batch, np.nan), np.ones(batch))
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(values > 0, values, np.nan))
        gaps = logs[..., :-1] - logs[..., 1:]
        after = np.stack([gaps[..., k + 1 : k + 1 + SURROUNDINGS].mean(axis=-1) for k in range(num)], axis=-1)
        told = np.maximum(gaps[..., :num], after) > EQUAL  # else all of these levels are one
        ratios = np.where(told, gaps[..., :num] / np.maximum(after, EQUAL), np.nan)
    tried = np.sum(~np.isnan(ratios), axis=-1)
    at = np.argmax(np.nan_to_num(ratios, nan=-np.inf), axis=-1)
    gap = np.take_along_axis(ratios, at[..., None], axis=-1)[..., 0]
    with np.errstate(divide="ignore"):  # the logarithm of 0 where no gap is wider than 0
        p = -np.expm1(tried * np.log1p(-fisher.sf(gap, 2, 2 * SURROUNDINGS)))
    return Outliers(np.where(tried > 0, at + 1, 0), gap, np.where(tried > 0, p, 1.0))


@cache_compiled
def _quadrature(model: Model, kind: LossKind, layout: Layout, chunk: int, num_steps: int) -> Callable:
    hessian = flat(model, kind, layout, chunk).hessian

    def one(theta, starts, data):
        product = hessian(theta, data)

        def probe(start):
            space = krylov(product, start, num_steps)
            return space._replace(basis=jnp.zeros(0))  # which is not needed any more

        return jax.lax.map(probe, starts)

    return jax.jit(jax.vmap(one, (0, 0, None)))


@cache_compiled
def _xtrace(model: Model, kind: LossKind, layout: Layout, chunk: int) -> Callable:
    hessian, integrand = flat(model, kind, layout, chunk).hessian, stochtrace.leave_one_out_xtrace()

    def one(theta, samples, data):
        product = hessian(theta, data)
        size = jnp.linalg.norm(product(samples[0]))
        size = jnp.where(size > 0, size, 1.0)  # matfree compares with the precision itself to see whether H lacks rank
        return size * integrand(lambda v: product(v) / size, samples)

    return jax.jit(jax.vmap(one, (0, 0, None)))
