"""The yardstick: a float32 matmul of 2048 x 2048 on all cores, by the library that `variant` names."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from workloads import Workload

SIZE, REPEATS = 2048, 9


def prepare(workload: Workload, x: np.ndarray, y: np.ndarray, variant: str):
    """A turn is the median of REPEATS matmuls, of 2 SIZE^3 FLOP each; its loss means nothing."""
    matrix = np.random.default_rng(0).standard_normal((SIZE, SIZE), dtype=np.float32)
    if variant == "numpy":
        out = np.empty_like(matrix)
        multiply = lambda: np.matmul(matrix, matrix, out=out)  # noqa: E731
    else:
        on_device, compiled = jnp.asarray(matrix), jax.jit(jnp.matmul)
        multiply = lambda: compiled(on_device, on_device).block_until_ready()  # noqa: E731

    def turn(seed: int) -> tuple[int, float, float]:
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - began)
        return 2 * SIZE**3, float(np.median(times)), 0.0

    return turn
