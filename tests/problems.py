"""Losses with known answers: models whose squared error on targets of 0 is a function that one can write down."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from wspace.data import Dataset


def zero_targets(num_outputs, num_examples=4):
    """Examples with inputs of 1 and targets of 0, for training and for testing: the loss is the sum of squared outputs."""
    x, y = np.ones((num_examples, 1), np.float32), np.zeros((num_examples, num_outputs), np.float32)
    return Dataset("zeros", "regression", x, y, x, y, 0, (1,), (), ())


def everywhere(outputs, x):
    """The same outputs for every example."""
    return jnp.broadcast_to(outputs, (*x.shape[:-1], *outputs.shape[-1:]))


@dataclasses.dataclass(frozen=True)
class Bowl:
    """loss = |R theta|^2 = theta^T A theta with A = R^T R: convex."""

    root: tuple[tuple[float, ...], ...]

    def apply(self, params, x):
        return everywhere(jnp.asarray(self.root) @ params["theta"], x)

    def loss(self, theta):
        return np.sum((theta @ np.array(self.root).T) ** 2, axis=-1)


@dataclasses.dataclass(frozen=True)
class Wells:
    """loss = sum_k (theta_k^2 - 1)^2: wells of depth 0 at all corners of a cube, a barrier of 1 along each of its edges.

    Between two corners that differ in m coordinates the straight line rises to m, halfway.
    """

    def apply(self, params, x):
        return everywhere(jnp.square(params["theta"]) - 1, x)

    def loss(self, theta):
        return np.sum((np.square(theta) - 1) ** 2, axis=-1)


@dataclasses.dataclass(frozen=True)
class Chain:
    """loss = (theta_1 theta_2 .. - target)^2: a deep linear network of one unit a layer."""

    target: float = 1.0

    def apply(self, params, x):
        return everywhere(jnp.prod(params["theta"], keepdims=True) - self.target, x)

    def loss(self, theta):
        return (np.prod(theta, axis=-1) - self.target) ** 2


@dataclasses.dataclass(frozen=True)
class Ring:
    """loss = (|theta|^2 - 1)^2: 0 on the unit circle, 1 at its centre.

    Between two points of the circle an angle phi apart the straight line rises to sin(phi/2)^4, halfway.
    """

    def apply(self, params, x):
        theta = params["theta"]
        return everywhere(jnp.sum(jnp.square(theta), keepdims=True) - 1, x)

    def loss(self, theta):
        return (np.sum(np.square(theta), axis=-1) - 1) ** 2


def population(theta):
    """Stacked params, float32, of the models above: theta is (seed, param)."""
    return {"theta": np.asarray(theta, np.float32)}


def corners(num_params):
    """(2^num_params, num_params) corners of the cube: -1 and 1."""
    return np.stack(np.meshgrid(*[(-1.0, 1.0)] * num_params, indexing="ij"), axis=-1).reshape(-1, num_params)
