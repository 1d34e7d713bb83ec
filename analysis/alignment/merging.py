"""Merging: one network from several, with and without repaired statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wspace.models import ACTIVATIONS, MLP
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
    model: MLP, merged: Params, params: Params, weights: Float[AnyArray, "seed"], x: Float[AnyArray, "example feature"]
) -> Params:
    """A merged network whose hidden units have, on x, the mean and the spread that its parents' units have on average.

    Averaging shrinks the variance of pre-activations layer after layer. Here unit j of each hidden layer is rescaled and
    shifted, z -> (z - mean z) sigma_j / std z + mu_j, with mu_j and sigma_j the weighted means of its parents' means and
    standard deviations, layer after layer as the repaired network computes them; scale and shift go into weight and bias.
    REPAIR, Jordan et al. 2023 (2211.08403). Units that are constant on x keep their scale. Pure JAX, in `merged`'s dtype.

    Args:
        model: an MLP with biases.
        merged: one network.
        params: its aligned parents, leaves (seed, ...).
        weights: of the parents, (seed,), summing to 1.
        x: train inputs that the statistics are taken from, all of them.

    Raises:
        ValueError: the model has no biases, or is not an MLP; or the weights are not one for each parent.
    """
    if not isinstance(model, MLP) or not model.bias:
        raise ValueError(f"repair shifts pre-activations, which takes an MLP with biases; got {model}")
    phi, num = ACTIVATIONS[model.activation], len(model.sizes) - 2
    x = jnp.asarray(x, jax.tree.leaves(merged)[0].dtype)  # integers would round the weights away
    if np.shape(weights) != (parents := jax.tree.leaves(params)[0].shape[:1]):
        raise ValueError(f"weights of shape {np.shape(weights)} for {parents[0]} parents: one for each is expected")
    targets = jax.vmap(lambda p: _statistics(model, p, x))(params)
    h, layers = jnp.asarray(x), list(merged)
    for i in range(num):
        mean, std = (jnp.tensordot(jnp.asarray(weights, h.dtype), part[i], 1) for part in targets)
        z = h @ layers[i]["weight"] + layers[i]["bias"]
        now, spread = jnp.mean(z, axis=0), jnp.std(z, axis=0)
        alive = jnp.square(spread) > QUIET * jnp.mean(jnp.square(z), axis=0)
        scale = jnp.where(alive, std / jnp.where(alive, spread, 1), 1)
        shift = mean - scale * now
        layers[i] = {"weight": layers[i]["weight"] * scale, "bias": layers[i]["bias"] * scale + shift}
        h = phi(z * scale + shift)
    return tuple(layers)


@dataclasses.dataclass(frozen=True)
class Repaired:
    """The straight line with every point repaired, as `path` of `analysis.connectivity.along`."""

    model: MLP

    def __call__(
        self, points: tuple[Params, Params], alpha: Float[Array, ""], x: Float[Array, "example feature"]
    ) -> Params:
        """Params at alpha in [0, 1]; the ends are the two points themselves, up to rounding."""
        weights = jnp.stack([1 - alpha, alpha])
        parents = jax.tree.map(lambda u, v: jnp.stack([u, v]), *points)
        merged = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), parents)
        return repair(self.model, merged, parents, weights, x)


def _statistics(model: MLP, params: Params, x: AnyArray) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Mean and standard deviation over examples of every hidden layer's pre-activations."""
    phi, h, means, stds = ACTIVATIONS[model.activation], jnp.asarray(x), [], []
    for layer in params[:-1]:
        z = h @ layer["weight"] + layer["bias"]
        means.append(jnp.mean(z, axis=0))
        stds.append(jnp.std(z, axis=0))
        h = phi(z)
    return tuple(means), tuple(stds)
