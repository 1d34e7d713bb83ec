"""Merging: one network from several, with and without repaired statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wspace.models import Layered
from wspace.tree import AnyArray, Params

QUIET = 1e-12  # a unit whose variance is below this share of its mean square keeps its scale


def average(params: Params, weights: Float[AnyArray, "seed"] | None = None) -> Params:
    """sum_i w_i theta_i over the leading axis, w_i = 1/n by default; in the leaves' dtypes.

    Raises:
        ValueError: the weights are not one per network, or do not sum to 1.
    """
    num = jax.tree.leaves(params)[0].shape[0]
    weights = np.full(num, 1 / num) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != (num,) or not abs(weights.sum() - 1) <= 1e-6:
        raise ValueError(f"weights = {weights}: {num} numbers that sum to 1 are expected, one for each network")
    return jax.tree.map(lambda leaf: np.tensordot(weights, np.float64(leaf), 1).astype(leaf.dtype), params)


def repair(
    model: Layered,
    merged: Params,
    params: Params,
    weights: Float[AnyArray, "seed"],
    x: Float[AnyArray, "example feature"],
) -> Params:
    """A merged network whose hidden units have, on x, the mean and the spread that its parents' units have on average.

    Averaging shrinks the variance of pre-activations layer after layer. Here unit j of each hidden layer is rescaled and
    shifted, z -> (z - mean z) sigma_j / std z + mu_j, with mu_j and sigma_j the weighted means of its parents' means and
    standard deviations, layer after layer as the repaired network computes them; scale and shift go into weight and bias.
    REPAIR, Jordan et al. 2023 (2211.08403). Units that are constant on x keep their scale. Pure JAX, in `merged`'s dtype.

    Args:
        model: a network of layers with weights and biases; statistics of a channel are those of all positions.
        merged: one network.
        params: its aligned parents, leaves (seed, ...).
        weights: of the parents, (seed,), summing to 1.
        x: train inputs that the statistics are taken from, all of them.

    Raises:
        ValueError: the model is not told by its layers, or they have no biases; or the weights are not one for each parent.
    """
    if not repairable(model, merged):
        raise ValueError(f"repair shifts pre-activations, which takes a network of layers with biases; got {model}")
    x = jnp.asarray(x, jax.tree.leaves(merged)[0].dtype)  # integers would round the weights away
    if np.shape(weights) != (parents := jax.tree.leaves(params)[0].shape[:1]):
        raise ValueError(f"weights of shape {np.shape(weights)} for {parents[0]} parents: one for each is expected")
    targets = jax.vmap(lambda p: _statistics(model, p, x))(params)
    h, layers = jnp.asarray(x), list(merged)
    for i in range(model.num_layers - 1):
        mean, std = (jnp.tensordot(jnp.asarray(weights, h.dtype), part[i], 1) for part in targets)
        z = model.receive(merged, i, h)
        axes = tuple(range(z.ndim - 1))
        now, spread = jnp.mean(z, axes), jnp.std(z, axes)
        alive = jnp.square(spread) > QUIET * jnp.mean(jnp.square(z), axes)
        scale = jnp.where(alive, std / jnp.where(alive, spread, 1), 1)
        shift = mean - scale * now
        layers[i] = {"weight": layers[i]["weight"] * scale, "bias": layers[i]["bias"] * scale + shift}
        h = model.hand_on(i, z * scale + shift)
    return tuple(layers)


def repairable(model: object, params: Params) -> bool:
    """Whether `repair` applies: hidden layers one by one, each with a bias to shift."""
    return isinstance(model, Layered) and all("bias" in layer for layer in params[: model.num_layers - 1])


@dataclasses.dataclass(frozen=True)
class Repaired:
    """The straight line with every point repaired, as `path` of `analysis.connectivity.along`."""

    model: Layered

    def __call__(
        self, points: tuple[Params, Params], alpha: Float[Array, ""], x: Float[Array, "example feature"]
    ) -> Params:
        """Params at alpha in [0, 1]; the ends are the two points themselves, up to rounding."""
        weights = jnp.stack([1 - alpha, alpha])
        parents = jax.tree.map(lambda u, v: jnp.stack([u, v]), *points)
        merged = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), parents)
        return repair(self.model, merged, parents, weights, x)


def _statistics(model: Layered, params: Params, x: AnyArray) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Mean and standard deviation of every hidden layer's pre-activations, over examples and positions."""
    h, means, stds = jnp.asarray(x), [], []
    for layer in range(model.num_layers - 1):
        z = model.receive(params, layer, h)
        axes = tuple(range(z.ndim - 1))
        means.append(jnp.mean(z, axes))
        stds.append(jnp.std(z, axes))
        h = model.hand_on(layer, z)
    return tuple(means), tuple(stds)
