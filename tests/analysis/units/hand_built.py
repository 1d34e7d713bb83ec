"""Networks whose units' meaning is known."""

import dataclasses

import jax
import numpy as np

from wspace import MLP, ConvNet, stack_params


@dataclasses.dataclass(frozen=True)
class Xor:
    """relu units OR = relu(a + b) and AND = relu(a + b - 1); output OR - 2 AND: exactly the exclusive or of bits a, b."""

    model = MLP((2, 2, 1))
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    y = np.array([[0], [1], [1], [0]], np.float32)

    @property
    def params(self):
        """Stacked, one network."""
        first = {"weight": np.ones((2, 2)), "bias": np.array([0.0, -1.0])}
        return stack_params([(first, {"weight": np.array([[1.0], [-2.0]]), "bias": np.zeros(1)})])


def draw(model, rng, num=2):
    """Stacked params of random numbers, biases included."""
    like = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.standard_normal((num, *leaf.shape)).astype(np.float32), like)


NETWORKS = {
    "mlp": (MLP((5, 4, 3, 3), "tanh"), 5),
    "linear": (MLP((5, 3), bias=False), 5),
    "convnet": (ConvNet((5, 4, 2), (3, 2), (4,), 3), 40),
    "mean pooling": (ConvNet((4, 4, 1), (2, 3), (), 3, pooling="mean", activation="gelu"), 16),
    "no pooling": (ConvNet((3, 3, 1), (2,), (), 3, pool_size=1, activation="tanh", bias=False), 9),
}
