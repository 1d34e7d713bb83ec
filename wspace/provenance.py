"""Where numbers come from: versions, devices, data, code and command, recorded in every run."""

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from wspace.data import Dataset
from wspace.program import Device, Plan
from wspace.store import SCHEMA

PACKAGES = ("wspace", "jax", "jaxlib", "optax", "numpy", "scipy", "scikit-learn", "zarr", "msgspec")


def new_provenance(data: Dataset, plan: Plan) -> dict[str, Any]:
    """The provenance of a run that starts now; `sessions` is empty until training begins."""
    return {
        "schema": SCHEMA,
        "created": _now(),
        "wspace": importlib.metadata.version("wspace"),
        "commit": _commit(),
        "dtype": "float32",
        "precision": plan.recipe.precision,
        "block_width": plan.width,
        "num_params": plan.layout.size,
        "task": plan.recipe.task,
        "loss": plan.recipe.loss_kind,
        "data_hash": data.hash,
        "data": {
            "name": data.name,
            "num_train": len(data.x_train),
            "num_test": len(data.x_test),
            "num_features": data.num_features,
            "input_shape": list(data.input_shape),
            "num_outputs": data.num_outputs,
        },
        "sessions": [],
    }


def new_session(devices: list[Device]) -> dict[str, Any]:
    """One start of training: bitwise promises hold between sessions whose versions and devices agree."""
    return {
        "started": _now(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES},
        "platform": devices[0].platform,
        "devices": [device.device_kind for device in devices],
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores",
        "flags": {k: v for k, v in os.environ.items() if k in ("XLA_FLAGS", "OMP_NUM_THREADS") or k.startswith("JAX_")},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _processor() -> str:
    """Model name of the CPU where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def _commit() -> str | None:
    """Commit of the checkout that this code runs from (`+` when it has changes); None when it is installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        show = lambda *args: subprocess.run(  # noqa: E731
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        return show("rev-parse", "HEAD") + ("+" if show("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None
