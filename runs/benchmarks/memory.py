"""Does a run need more memory when it keeps more checkpoints?

    python runs/benchmarks/memory.py [--checkpoints 5 50 500] [--repeats 3] [--write]

`wspace train` in a fresh process for every number of checkpoints, all else equal, and the most memory that it ever had
resident. At most 8 checkpoints or 16 MB wait in memory for their commit (wspace/train.py), and a copy of them is made
when they are committed: that constant is all that checkpoints may cost, however many there are.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tables

ALLOWED_BYTES = 32 * 2**20  # what is pending, twice; the run itself takes hundreds of MB, half a GB of theta is stored
SPEC = """
[model]
hidden = {hidden}
[train]
num_steps = {num_steps}
[checkpoints]
num = {num}
[seeds]
num = {num_seeds}
"""


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write where asked; the exit code is 1 when memory grows."""
    args = _arguments(argv)
    sizes = {"hidden": [8], "num_steps": 60, "num_seeds": 4} if args.quick else {}
    rows = measure(args.checkpoints, args.repeats, **sizes)
    text = markdown(rows)
    print(text)
    record = {**tables.environment(), "rows": rows, "allowed_bytes": ALLOWED_BYTES, "met": met(rows)}
    if args.out:
        args.out.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.write:
        tables.show("memory", f"{tables.heading(record)}; medians of {args.repeats} runs.\n\n{text}")
    return 0 if met(rows) else 1


def measure(
    checkpoints: list[int], repeats: int, hidden: list[int] | None = None, num_steps: int = 1000, num_seeds: int = 64
) -> list[dict[str, Any]]:
    """Peak resident bytes of a training process, for each number of checkpoints, which take turns.

    Args:
        checkpoints: how many, first and last included; at most num_steps + 1.
        repeats: processes for each.
        hidden, num_steps, num_seeds: of the population, on digits; the default is the size of the main job.
    """
    rows = [{"checkpoints": num, "theta_bytes": 0, "peak_bytes": []} for num in checkpoints]
    for _ in range(repeats):
        for row in rows:
            spec = SPEC.format(
                hidden=hidden or [32, 32], num_steps=num_steps, num=row["checkpoints"], num_seeds=num_seeds
            )
            answer = _train_in_new_process(spec)
            row["theta_bytes"] = answer["theta_bytes"]
            row["peak_bytes"].append(answer["peak_bytes"])
    return rows


def growth(row: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    """Bytes by which the median peak exceeds that of the fewest checkpoints."""
    fewest = min(rows, key=lambda row: row["checkpoints"])
    return statistics.median(row["peak_bytes"]) - statistics.median(fewest["peak_bytes"])


def met(rows: list[dict[str, Any]]) -> bool:
    """Whether no number of checkpoints costs more than ALLOWED_BYTES."""
    return all(growth(row, rows) <= ALLOWED_BYTES for row in rows)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table and the verdict."""
    header = ("checkpoints", "theta on disk, MB", "peak resident, MB", "min - max", "growth, MB")
    lines = []
    for row in rows:
        low, middle, high = (f(row["peak_bytes"]) / 1e6 for f in (min, statistics.median, max))
        stored, more = row["theta_bytes"] / 1e6, growth(row, rows) / 1e6
        lines.append(
            (str(row["checkpoints"]), f"{stored:.1f}", f"{middle:.1f}", f"{low:.1f} - {high:.1f}", f"{more:+.1f}")
        )
    verdict = f"grows by at most {ALLOWED_BYTES / 1e6:.0f} MB, whatever is stored: {'met' if met(rows) else 'NOT MET'}"
    return f"{tables.table(header, lines)}\n\n- {verdict}"


def peak_bytes() -> int:
    """The most memory that this process ever had resident.

    Linux: VmHWM; ru_maxrss would also count what the parent held when it started this process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _train_in_new_process(spec: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "memory.toml"), Path(folder, "run")
        path.write_text(spec, encoding="utf-8")
        command = [sys.executable, __file__, "--train", str(path), str(out)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"training failed with exit code {done.returncode}; what it said is above\n{done.stdout}")
    return json.loads(done.stdout.splitlines()[-1])


def _train(path: Path, out: Path) -> int:
    """What the new process does: the real command, then one line of JSON."""
    from wspace import open_run
    from wspace.cli import main as wspace

    if code := wspace(["train", str(path), "--out", str(out)]):
        return code
    peak = peak_bytes()  # before anything else is read
    print(json.dumps({"peak_bytes": peak, "theta_bytes": open_run(out).theta.nbytes}))
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", nargs="+", type=int, default=[5, 50, 500], metavar="NUM")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each (default 3)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything that was measured as JSON")
    parser.add_argument("--write", action="store_true", help="show the results in README.md")
    parser.add_argument("--quick", action="store_true", help="a toy population, at most 61 checkpoints: does it run?")
    return parser.parse_args(argv)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        sys.exit(_train(Path(sys.argv[2]), Path(sys.argv[3])))
    sys.exit(main())
