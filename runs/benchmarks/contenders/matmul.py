"""The yardstick: a float32 matmul on all cores or a GPU, by the library that `variant` names."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from workloads import Workload

SIZES, REPEATS = {"cpu": 2048, "gpu": 8192}, 9


def prepare(workload: Workload, x: np.ndarray, y: np.ndarray, variant: str, platform: str = "cpu"):
    """A turn is the median of REPEATS matmuls, of 2 size^3 FLOP each; its loss means nothing."""
    size = SIZES[platform]
    matrix = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
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
        return 2 * size**3, float(np.median(times)), 0.0

    return turn
