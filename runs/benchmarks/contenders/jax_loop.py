"""Plain JAX, one network after another: jit of a scan over the steps of one network, on one device with all cores."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from workloads import LEARNING_RATE, Workload


def prepare(workload: Workload, x: np.ndarray, y: np.ndarray, variant: str, platform: str = "cpu"):
    """A turn trains one network."""
    inputs, labels = jnp.asarray(x), jnp.asarray(y)
    optimizer = optax.adam(LEARNING_RATE)

    @jax.jit
    def init(key):
        layers = []
        for fan_in, fan_out in itertools.pairwise(workload.sizes):
            key, own = jax.random.split(key)
            weight = jnp.sqrt(2 / (fan_in + fan_out)) * jax.random.normal(own, (fan_in, fan_out))
            layers.append((weight, jnp.zeros(fan_out)))
        return layers, optimizer.init(layers)

    @jax.jit
    def loss(layers, x, y):
        *hidden, (weight, bias) = layers
        for w, b in hidden:
            x = jax.nn.relu(x @ w + b)
        return optax.softmax_cross_entropy_with_integer_labels(x @ weight + bias, y).mean()

    @jax.jit
    def fit(state, key):
        def step(state, batch):
            layers, opt_state = state
            updates, opt_state = optimizer.update(jax.grad(loss)(layers, inputs[batch], labels[batch]), opt_state)
            return (optax.apply_updates(layers, updates), opt_state), None

        def epoch(state, key):
            batches = jax.random.permutation(key, len(inputs)).reshape(-1, workload.batch_size)
            return jax.lax.scan(step, state, batches)

        return jax.lax.scan(epoch, state, jax.random.split(key, workload.epochs))[0]

    def turn(seed: int) -> tuple[int, float, float]:
        start, shuffle = jax.random.split(jax.random.key(seed))
        state = jax.block_until_ready(init(start))
        began = time.perf_counter()
        layers, _ = jax.block_until_ready(fit(state, shuffle))
        seconds = time.perf_counter() - began
        return workload.num_steps, seconds, float(loss(layers, inputs, labels))

    return turn
