"""wspace: the program that `wspace train` runs, in the same rounds: a block per device, a device per core."""

import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from workloads import LEARNING_RATE, Workload

from wspace import program as programs
from wspace import spec as specs
from wspace.data import make
from wspace.program import Arrays
from wspace.spec import DataSpec


def prepare(workload: Workload, x: np.ndarray, y: np.ndarray, variant: str, platform: str = "cpu"):
    """A turn trains the population."""
    spec = specs.parse(
        {
            "model": {"hidden": list(workload.sizes[1:-1]), "init": "glorot"},
            "optimizer": {"name": "adam", "learning_rate": LEARNING_RATE},
            "train": {"num_steps": workload.num_steps, "batch_size": workload.batch_size},
            "seeds": {"num": workload.num_seeds, "vary": {"own": "both", "shared": "init"}[variant]},
        }
    )
    data = make(x, y, task="classification", test=(x, y), spec=DataSpec(standardize=False))
    devices = programs.choose_devices()
    plan = programs.plan(spec, data, devices[0].platform)
    program = programs.compile_program(plan.recipe)
    shared = (programs.root_key(spec), Arrays.of(data), plan.hypers)
    on_device = [jax.device_put(shared, device) for device in devices]
    num_steps = np.int32(workload.num_steps)
    pool = ThreadPoolExecutor(len(devices))

    def start(index: int, seeds: np.ndarray):
        root, _, hypers = on_device[index]
        init, order = programs.stream_seeds(spec, seeds.tolist())
        own = (init, order[0] if plan.recipe.shared_order else order)
        init, order = jax.device_put(own, devices[index])
        return jax.block_until_ready((index, program.init(root, init, hypers), order))

    def advance(part):
        index, state, order = part
        root, arrays, hypers = on_device[index]
        return jax.block_until_ready(
            (index, program.advance(state, root, order, np.int32(0), num_steps, arrays, hypers))
        )

    def turn(seed: int) -> tuple[int, float, float]:
        ids = np.arange(workload.num_seeds, dtype=np.uint32) + np.uint32(seed * workload.num_seeds)
        blocks = np.resize(ids, (-(-len(ids) // plan.width), plan.width))  # a short last block is filled up
        seconds, losses = 0.0, []
        for first in range(0, len(blocks), len(devices)):
            parts = [start(index, seeds) for index, seeds in enumerate(blocks[first : first + len(devices)])]
            began = time.perf_counter()
            parts = list(pool.map(advance, parts))
            seconds += time.perf_counter() - began
            for index, state in parts:
                _, arrays, hypers = on_device[index]
                losses.append(np.mean(program.measure(state, num_steps, arrays, hypers)[1]["train_loss"]))
        return workload.num_seeds * workload.num_steps, seconds, float(np.mean(losses))

    return turn
