import os
import subprocess
import sys

import pytest

from wspace.cores import FLAG, use_cores


def devices_after(code: str, **environ: str) -> str:
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | environ
    code = f"from wspace.cores import use_cores\n{code}\nimport jax; print(len(jax.devices()))"
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_one_device_per_core_or_as_many_as_asked():
    assert devices_after("use_cores()") == f"{len(os.sched_getaffinity(0))}\n"
    assert devices_after("use_cores(3)") == "3\n"


def test_the_environment_has_the_last_word():
    assert devices_after("use_cores(3)", XLA_FLAGS=f"{FLAG}=4") == "4\n"


def test_too_late_is_said():
    with pytest.raises(RuntimeError, match="after JAX was imported"):
        use_cores()
