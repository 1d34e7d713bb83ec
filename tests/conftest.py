"""Two CPU devices, and public signatures checked by jaxtyping: both are set before anything is imported."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()

from jaxtyping import install_import_hook

install_import_hook(["wspace", "analysis"], "strict_types.check")

import jax
import numpy as np
import pytest
from hypothesis import settings

from analysis.census import certificate
from analysis.report import shared
from analysis.report.sections import census, connectivity, curvature
from wspace import spec as specs

settings.register_profile("wspace", deadline=None)  # the first example of a test compiles
settings.load_profile("wspace")


@pytest.fixture
def x64():
    """float64 in JAX, for this test only."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def small_reports():
    """Little fitting and polishing, and coarse planes, in all reports from now on: for tests that read no numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connectivity, "CURVE_STEPS", 20)
        patch.setattr(connectivity, "MOST_CURVE_SEEDS", 3)
        patch.setattr(shared, "MOST_POINTS", 15)
        patch.setattr(curvature, "NUM_POINTS", 11)
        patch.setattr(census, "MOST_STEPS", 300)
        patch.setattr(census, "MOST_NEWTON", 20)
        patch.setattr(curvature, "MOST_STEPS", 64)
        patch.setattr(certificate, "LANCZOS", 64)
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Free what a module's tests compiled: each program takes some of a process' memory maps, of which Linux has 65,530."""
    yield
    jax.clear_caches()


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
