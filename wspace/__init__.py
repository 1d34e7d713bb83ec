"""wspace: train hundreds of networks in one program and look at them as a population in weight space.

The names below are imported when they are first used, so that the command line can decide the number of CPU devices
before JAX is imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wspace.models import MLP, ConvNet
    from wspace.run import Run, open_run
    from wspace.spec import Spec
    from wspace.tree import stack_params

__all__ = ["MLP", "ConvNet", "Run", "Spec", "open_run", "stack_params"]

_HOMES = {
    "MLP": "models", "ConvNet": "models", "Run": "run", "Spec": "spec", "open_run": "run", "stack_params": "tree",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
