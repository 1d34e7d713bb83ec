"""What every contender trains: the workloads, their data, and what one step of one network costs."""

import dataclasses
import itertools

import numpy as np

LEARNING_RATE = 1e-3  # of Adam, in every contender


@dataclasses.dataclass(frozen=True)
class Workload:
    """A population of fully connected ReLU networks, trained by Adam on cross-entropy from a Glorot init.

    Attributes:
        sizes: units of every layer, inputs and outputs included.
        batch_size: examples a step; divides num_examples, so that all contenders take the same steps.
        num_seeds: networks in the population.
        num_examples: train examples.
        epochs: passes over them.
    """

    sizes: tuple[int, ...]
    batch_size: int
    num_seeds: int
    num_examples: int
    epochs: int

    @property
    def name(self) -> str:
        """Layer sizes, e.g. 64-32-32-10."""
        return "-".join(map(str, self.sizes))

    @property
    def num_steps(self) -> int:
        """Steps that every network takes."""
        return self.epochs * self.num_examples // self.batch_size

    @property
    def flops(self) -> int:
        """Floating-point operations of the matmuls of one step of one network.

        2 batch (3 M - M_1): M multiply-adds an example in all layers, M_1 in the first. Forward, gradient of the
        weights and gradient of the inputs each take M, but nobody needs the gradient of the first layer's inputs.
        """
        layers = [a * b for a, b in itertools.pairwise(self.sizes)]
        return 2 * self.batch_size * (3 * sum(layers) - layers[0])

    def examples(self) -> tuple[np.ndarray, np.ndarray]:
        """Gaussian inputs (example, feature) float32 and int32 labels of a random linear teacher; always the same."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((self.num_examples, self.sizes[0]), dtype=np.float32)
        teacher = rng.standard_normal((self.sizes[0], self.sizes[-1]), dtype=np.float32)
        return x, np.argmax(x @ teacher, axis=1).astype(np.int32)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload((64, 32, 32, 10), batch_size=64, num_seeds=256, num_examples=1408, epochs=10),
        Workload((64, 128, 128, 10), batch_size=64, num_seeds=64, num_examples=1408, epochs=10),
        Workload((784, 128, 128, 10), batch_size=128, num_seeds=32, num_examples=4096, epochs=3),
        Workload((784, 512, 512, 512, 10), batch_size=500, num_seeds=8, num_examples=8000, epochs=3),
    )
}
TOY = Workload((8, 32, 4), batch_size=16, num_seeds=4, num_examples=256, epochs=20)
