"""One CPU device per core. Batched small matmuls use one core each, so this decides the engine's speed on a CPU."""

import os
import sys

FLAG = "--xla_force_host_platform_device_count"


def use_cores(num: int | None = None) -> None:
    """Make JAX see `num` CPU devices (default: the cores that this process may use), unless XLA_FLAGS already says.

    To be called once, by a program's entry point and not by a library, before JAX is imported.

    Raises:
        RuntimeError: JAX is already imported, so the flag would do nothing.
    """
    if "jax" in sys.modules:
        raise RuntimeError("use_cores() was called after JAX was imported: call it first in the program")
    flags = os.environ.get("XLA_FLAGS", "")
    if FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {FLAG}={num or num_cores()}".strip()


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
