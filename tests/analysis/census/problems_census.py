"""Data and networks whose minima are known, or can be computed by other means."""

import jax
import numpy as np

from wspace.data import Dataset

POINTS = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], np.float32)


def dataset(x, y, num_classes=0):
    """The same examples for training and testing."""
    x = np.asarray(x, np.float32)
    y = np.asarray(y, np.int32) if num_classes else np.asarray(y, np.float32)
    task = "classification" if num_classes else "regression"
    return Dataset("given", task, x, y, x, y, num_classes, (x.shape[1],), (), ())


def xor():
    return dataset(POINTS, [0, 1, 1, 0], 2)


def noisy_regression(rng, num=60, num_outputs=1):
    x = rng.standard_normal((num, 2))
    return dataset(x, np.stack([np.sin(2 * x[:, 0]) + 0.3 * rng.standard_normal(num) for _ in range(num_outputs)], 1))


def inits(model, num, seed=0, scale=1.0):
    """Starting points, float64."""
    params = jax.vmap(lambda key: model.init(key, scale))(jax.random.split(jax.random.key(seed), num))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def stacked(*thetas):
    """Networks of tests/problems.py."""
    return {"theta": np.array(thetas, np.float64)}
