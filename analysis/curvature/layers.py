"""The diagonal blocks of the Hessian: the curvature when one layer moves and the others stand still."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from analysis.curvature.hessian import dense
from analysis.curvature.lanczos import Krylov, krylov, ritz
from analysis.curvature.objective import Objective, Population, Tell, flat
from wspace.models import Model
from wspace.objective import LossKind, cache_compiled
from wspace.tree import Layout, Params

DENSE = 400  # params of a layer up to which all entries of its block are computed


@dataclasses.dataclass(frozen=True)
class Blocks:
    """One diagonal block of the Hessian for each layer.

    Attributes:
        objective: whose Hessian, in words.
        names: of the layers.
        sizes: number of params of each.
        largest, smallest: eigenvalues of the blocks, (*batch, layer).
        residuals: |H v - lambda v| of both as Lanczos has them, the larger one; 0 where all entries were computed,
            (*batch, layer).
        converged: whether it is at most the tolerance x the block's largest |eigenvalue|, (*batch, layer).
        traces: of the blocks, which add up to that of the Hessian, (*batch, layer).
        errors: standard errors of the traces; 0 where exact, (*batch, layer).
    """

    objective: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    largest: Float[np.ndarray, "*batch layer"]
    smallest: Float[np.ndarray, "*batch layer"]
    residuals: Float[np.ndarray, "*batch layer"]
    converged: Bool[np.ndarray, "*batch layer"]
    traces: Float[np.ndarray, "*batch layer"]
    errors: Float[np.ndarray, "*batch layer"]

    @property
    def shares(self) -> Float[np.ndarray, "*batch layer"]:
        """Each layer's share of the trace; NaN where the trace is 0."""
        total = self.traces.sum(axis=-1, keepdims=True)
        return np.divide(self.traces, total, out=np.full_like(self.traces, np.nan), where=total != 0)


def layer_positions(layout: Layout) -> dict[str, np.ndarray]:
    """Where each layer's params lie in theta: leaves whose names agree up to the last dot are one layer."""
    found: dict[str, list[np.ndarray]] = {}
    for name, offset, size in zip(layout.names, layout.offsets, layout.sizes, strict=True):
        found.setdefault(name.rpartition(".")[0] or name, []).append(np.arange(offset, offset + size))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def layer_blocks(
    objective: Objective, params: Params, *, rng: np.random.Generator, batch_ndim: int = 1, num_samples: int = 64,
    num_steps: int = 96, tolerance: float = 1e-3, tell: Tell | None = None,
) -> Blocks:  # fmt: skip
    """Extreme eigenvalues and trace of every layer's block, for every network.

    Layers of at most DENSE params: all entries. Larger ones: Lanczos within the layer, and the mean of z^T H z over random
    signs z (Hutchinson 1990, 10.1080/03610919008812866).

    Args:
        objective: which function.
        params: leaves batch + shape.
        rng: source of starting vectors and signs.
        batch_ndim: number of leading axes of the params.
        num_samples: sign vectors for each trace, at least 2.
        num_steps: of Lanczos.
        tolerance: of residuals, relative.
        tell: called with (networks done, networks), layer by layer.

    Raises:
        ValueError: a number is out of range, or the params are not finite.
    """
    if num_samples < 2 or num_steps < 2:
        raise ValueError(f"num_samples = {num_samples}, num_steps = {num_steps}: at least 2 of each are expected")
    population = Population.of(objective, params, batch_ndim)
    layers, size = layer_positions(population.layout), population.layout.size
    columns = []
    for at in layers.values():
        if len(at) <= DENSE:
            blocks = dense(population, at)
            values = np.linalg.eigvalsh(blocks)
            none = np.zeros(len(values))
            columns.append((values[:, -1], values[:, 0], none, np.abs(values).max(axis=1), values.sum(axis=1), none))
            continue
        mask = np.zeros(size)
        mask[at] = 1.0
        starts = mask * rng.standard_normal((len(population.theta), size))
        signs = mask * rng.choice([-1.0, 1.0], (len(population.theta), num_samples, size))
        program = population.program(_block, min(num_steps, len(at)))
        masks = np.broadcast_to(mask, starts.shape)

        def finish(block):
            spaces, samples = block
            ends = []
            for space in (Krylov(*arrays) for arrays in zip(*spaces, strict=True)):
                values, columns = ritz(space)
                rest = space.off[space.live.sum() - 1] * np.abs(columns[space.live.sum() - 1, [0, -1]])
                ends.append((values[-1], values[0], rest.max(), np.abs(values).max()))
            return (*map(np.array, zip(*ends, strict=True)), samples)

        found = population.map(
            program, masks, starts, signs, values=(2 * num_steps + num_samples) * size, finish=finish, tell=tell
        )
        largest, smallest, residuals, scale, samples = found
        errors = samples.std(axis=1, ddof=1) / np.sqrt(num_samples)
        columns.append((largest, smallest, residuals, scale, samples.mean(axis=1), errors))
    largest, smallest, residuals, scale, traces, errors = (np.stack(c, axis=1) for c in zip(*columns, strict=True))
    shaped = population.shaped
    return Blocks(
        objective.name, tuple(layers), tuple(map(len, layers.values())), shaped(largest), shaped(smallest),
        shaped(residuals), shaped(residuals <= tolerance * scale), shaped(traces), shaped(errors),
    )  # fmt: skip


@cache_compiled
def _block(model: Model, kind: LossKind, layout: Layout, chunk: int, num_steps: int) -> Callable:
    hessian = flat(model, kind, layout, chunk).hessian

    def one(theta, mask, start, signs, data):
        product = hessian(theta, data)
        inside = lambda v: mask * product(mask * v)  # noqa: E731
        space = krylov(inside, start, num_steps)
        samples = jax.lax.map(lambda z: jnp.vdot(z, inside(z)), signs)
        return space._replace(basis=jnp.zeros(0)), samples

    return jax.jit(jax.vmap(one, (0, 0, 0, 0, None)))
