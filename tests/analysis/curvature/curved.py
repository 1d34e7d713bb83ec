"""Functions whose Hessians are known, and small networks with their Hessians by plain JAX in float64."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from problems import zero_targets
from scipy.special import logsumexp

from analysis.curvature import Objective
from wspace import MLP, objective
from wspace.data import Dataset
from wspace.tree import Layout

PHI = {
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "gelu": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "identity": lambda z: z,
}
SIZES = (3, 4, 3)  # of all small networks: few shapes, few compilations


@dataclasses.dataclass(frozen=True)
class Planted:
    """loss = mean over examples of x^2 sum_k (u_k^2 - 1)^2, u = theta - 2 mean(theta).

    Eigenvalues are mean(x^2) (12 u_k^2 - 4), all entries differ from 0. u is theta mirrored, so the k-th eigenvector is
    e_k - 2/P, and theta is u mirrored once more.
    """

    def apply(self, params, x):
        return x * (jnp.square(mirrored(params["theta"])) - 1)


def planted(values, scale=1.0, l2=0.0):
    """An objective and params, float64, at which its Hessian has these eigenvalues, for each network.

    Args:
        values: (*batch, param), each above -4 scale.
        scale: an even power of 2.
        l2: coefficient of an L2 term, by which eigenvalues are larger.
    """
    values = np.asarray(values, np.float64)
    data = zero_targets(values.shape[-1], 1)
    data = dataclasses.replace(data, x_train=np.full((1, 1), np.sqrt(scale), np.float32))
    return Objective(Planted(), "squared_error", data, l2=l2), {"theta": mirrored(np.sqrt((values / scale + 4) / 12))}


def mirrored(vectors):
    """Coordinates u of theta, and the other way round: in u the Hessian of `Planted` is diagonal."""
    return vectors - 2 * vectors.mean(axis=-1, keepdims=True)


def examples(rng, kind="classes", nums=(23, 11)):
    """Train and test examples for networks of SIZES: labels, or targets of as many outputs."""
    x = [rng.standard_normal((n, SIZES[0])).astype(np.float32) for n in nums]
    if kind == "classes":
        y = [rng.integers(SIZES[-1], size=n).astype(np.int32) for n in nums]
        return Dataset("drawn", "classification", x[0], y[0], x[1], y[1], SIZES[-1], (SIZES[0],), (), ())
    y = [rng.standard_normal((n, SIZES[-1])).astype(np.float32) for n in nums]
    return Dataset("drawn", "regression", x[0], y[0], x[1], y[1], 0, (SIZES[0],), (), ())


def networks(rng, batch=(3,), sizes=SIZES, bias=True):
    """float32 params like trained ones, biases included."""
    draw = lambda *shape: rng.standard_normal((*batch, *shape)).astype(np.float32)  # noqa: E731
    return tuple(
        {"weight": draw(*pair)} | ({"bias": draw(pair[1])} if bias else {}) for pair in itertools.pairwise(sizes)
    )


def rows(params, batch_ndim=1):
    """theta, float64, (network, param), by NumPy."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    return np.concatenate([leaf.reshape(*leaf.shape[:batch_ndim], -1) for leaf in leaves], axis=-1)


def plain(order, function, params):
    """order(f) of every network, f the objective of all examples at once, by JAX in float64, one network at a time.

    Args:
        order: jax.grad or jax.hessian.
        function: an Objective.
        params: leaves (network, ...).
    """
    layout = Layout.of(jax.tree.map(lambda leaf: leaf[0], params))
    x, y = (np.float64(a) if np.issubdtype(a.dtype, np.floating) else a for a in function.examples)
    compiled = _plain(order, function.model, function.kind, layout)
    with jax.enable_x64(True):
        return np.stack([np.asarray(compiled(theta, x, y, function.l2)) for theta in rows(params)])


@functools.cache
def _plain(order, model, kind, layout):
    return jax.jit(order(lambda theta, x, y, l2: objective.objective(model, kind, layout.unravel(theta), x, y, l2)))


def tanh_problem(rng, l2=0.1):
    """The objective of most tests here, and three networks."""
    return Objective(MLP(SIZES, "tanh"), "cross_entropy", examples(rng), l2=l2), networks(rng)


def numpy_values(function, layout, theta):
    """The objective of an MLP, (network,), by NumPy."""
    x, y = function.examples
    found = []
    for one in theta:
        params, z = layout.unravel(one), x.astype(np.float64)
        for i, layer in enumerate(params):
            z = z @ layer["weight"] + layer.get("bias", 0)
            z = PHI[function.model.activation](z) if i < len(params) - 1 else z
        targets = np.eye(z.shape[1])[y] if y.ndim == 1 else y.astype(np.float64)
        each = logsumexp(z, axis=1) - np.sum(targets * z, axis=1)
        each = each if function.kind == "cross_entropy" else np.sum((z - targets) ** 2, axis=1)
        found.append(np.mean(each) + function.l2 / 2 * np.sum(one**2))
    return np.array(found)
