"""Two CPU devices, and public signatures checked by jaxtyping: both are set before anything is imported."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()

from jaxtyping import install_import_hook

install_import_hook(["wspace", "analysis"], "strict_types.check")

import jax
import numpy as np
import pytest
from hypothesis import settings

from wspace import spec as specs

settings.register_profile("wspace", deadline=None)  # the first example of a test compiles
settings.load_profile("wspace")


@pytest.fixture
def x64():
    """float64 in JAX, for this test only."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def make_spec():
    """Build a small, quick spec; keywords are sections, e.g. make_spec(train={"num_steps": 3})."""

    def make(**sections):
        tree = {
            "name": "toy",
            "data": {"name": "iris"},
            "model": {"hidden": [5]},
            "optimizer": {"learning_rate": 0.01},
            "train": {"num_steps": 12, "batch_size": 16},
            "checkpoints": {"num": 4},
            "seeds": {"num": 3},
            "engine": {"block_width": 2},
        }
        for name, value in sections.items():
            tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) and name != "sweep" else value
        return specs.parse(tree)

    return make
