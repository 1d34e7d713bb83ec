"""One contender in a process of its own: prepares, says so on stdout, then trains a round per line on stdin.

    python worker.py '{"contender": .., "variant": .., "platform": .., "core": .., "workload": {..}}'

It runs under whichever Python has the contender's library, so it needs NumPy and nothing of wspace.
"""

import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from typing import Any

from workloads import Workload

PACKAGES = ("wspace", "jax", "jaxlib", "optax", "numpy", "scikit-learn", "torch")


def main() -> None:
    """Answer with one JSON object a line: first what was prepared, then one for each round."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not end up between the answers
    job = json.loads(sys.argv[1])
    if job["core"] is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[job["core"]]})
    workload = Workload(**{**job["workload"], "sizes": tuple(job["workload"]["sizes"])})
    try:
        contender = importlib.import_module(f"contenders.{job['contender']}")
    except ModuleNotFoundError as error:
        if error.name != "torch":  # the one library that the benchmarks can do without
            raise
        print(json.dumps({"missing": error.name, "python": sys.executable}), file=channel)
        return
    began = time.perf_counter()
    turn = contender.prepare(workload, *workload.examples(), job["variant"], job["platform"])
    turn(0)
    print(json.dumps({"first_s": time.perf_counter() - began, "versions": versions()}), file=channel)
    for index, line in enumerate(sys.stdin):
        print(json.dumps(train(turn, float(line), 1 + 1000 * index)), file=channel)


def train(turn: Any, seconds: float, first_seed: int) -> dict[str, Any]:
    """Take turns until they have taken `seconds`; at least one."""
    turns = [turn(first_seed)]
    while sum(taken for _, taken, _ in turns) < seconds:
        turns.append(turn(first_seed + len(turns)))
    amounts, times, losses = zip(*turns, strict=True)
    return {"amount": sum(amounts), "seconds": sum(times), "turns": len(turns), "loss": sum(losses) / len(losses)}


def versions() -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    installed = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {name: installed[name] for name in PACKAGES if name in installed}


if __name__ == "__main__":
    main()
