"""Does PCA of trajectories on disk need more memory when there are more of them, and how fast is it?

    python runs/benchmarks/projection.py [--seeds 16 64 256] [--params 1000000] [--folder FOLDER] [--write]

Pooled trajectories of growing numbers of seeds, stored as a run stores them, and their first two principal components: by
both out-of-core routes of wspace, by scikit-learn's PCA of all points in memory, and by its IncrementalPCA; every one in a
fresh process. How it is measured is in README.md. The exit code is 1 when memory grows or a plane is wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import memory
import numpy as np
import tables
import zarr
from contenders import matmul
from sklearn.decomposition import PCA, IncrementalPCA
from worker import versions
from workloads import TOY

from analysis.projection.components import GUARDS, MOST_BYTES, principal_components

NUM = 2  # components
PLANTED, DECAY, NOISE = 20, 0.85, 0.02  # directions, the ratio of their scales, and the noise beside them
ALLOWED_BYTES = 128 * 2**20  # by which the peak may grow from the fewest points to the most
GRAMS = (
    5  # as much as so many Gram matrices that route may take beside: its matrix, eigenvectors and what eigh works in
)
TOLERANCE = {
    "stream": 1e-6,
    "svd": 1e-4,
}  # sine of the largest angle to the plane of the Gram route; float32 for the SVD
MOST_STORED = {"svd": 1.1e9, "incremental": 2.2e9}  # bytes of points that they are given: beyond they take too long
LARGE = (1000, 100, 1_000_000)  # seeds, checkpoints, params of the extrapolation
CONTENDERS = {  # -> name in the table
    "stream": "wspace, stream",
    "gram": "wspace, gram",
    "svd": "all in memory, scikit-learn PCA",
    "incremental": "scikit-learn IncrementalPCA",
}


def main(argv: list[str] | None = None) -> int:
    """Store, measure, print, and write where asked."""
    args = _arguments(argv)
    if args.quick:
        args.seeds, args.checkpoints, args.params, args.block, args.most_bytes = [16, 32, 64], 8, 20_000, 16, 2**22
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        record = measure(args, Path(folder, "theta.zarr"))
    print(text := markdown(record))
    if args.out:
        args.out.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.write:
        tables.show("projection", f"{tables.heading(record)}; one run of each.\n\n{text}")
    return 0 if all(met for _, met in verdicts(record)) else 1


def store(path: Path, num_seeds: int, num_checkpoints: int, num_params: int, block: int) -> zarr.Array:
    """Random walks along PLANTED directions, from random starts, with noise in all others; chunks as those of a run."""
    shape = (num_seeds, num_checkpoints, num_params)
    theta = zarr.create_array(path, shape=shape, chunks=(block, 1, num_params), dtype="float32", compressors=None)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((PLANTED, num_params), dtype=np.float32)
    scales = DECAY ** np.arange(PLANTED, dtype=np.float32)
    for low in range(0, num_seeds, block):
        width = min(block, num_seeds - low)
        noise = NOISE * rng.standard_normal((width, num_params), dtype=np.float32)
        at = np.zeros((width, PLANTED), np.float32)
        for checkpoint in range(num_checkpoints):
            at += scales * rng.standard_normal((width, PLANTED), dtype=np.float32)
            sizes = rng.standard_normal((width, 1), dtype=np.float32)
            theta[low : low + width, checkpoint] = at @ directions + sizes * noise
    return theta


def measure(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Every contender for every number of seeds: seconds, peak resident bytes, passes, and how far its plane is off."""
    print(f"storing {args.seeds[-1]} seeds in {path.parent}", file=sys.stderr)
    store(path, args.seeds[-1], args.checkpoints, args.params, args.block)
    peaks = [matmul.prepare(TOY, *TOY.examples(), library) for library in ("numpy", "jax")]
    record: dict[str, Any] = {
        **tables.environment(), "load_average_before": os.getloadavg()[0], "versions": versions(),
        "num_cores": tables.num_cores(), "blas_threads": os.environ.get("OPENBLAS_NUM_THREADS"),
        "num_params": args.params, "num_checkpoints": args.checkpoints,
        "block": args.block, "most_bytes": args.most_bytes, "rows": [],
    }  # fmt: skip
    record["peak_flops"] = max(amount / taken for amount, taken, _ in (peak(0) for peak in peaks))
    for num_seeds in args.seeds:
        stored = num_seeds * args.checkpoints * args.params * 4
        for name in ("read", *args.contenders):
            job = {"contender": name, "path": str(path), "num_seeds": num_seeds, "most_bytes": args.most_bytes}
            row = {"contender": name, "num_points": num_seeds * args.checkpoints, "stored_bytes": stored}
            if stored > MOST_STORED.get(name, stored):
                record["rows"].append(row | {"missing": "not tried"})
                continue
            print(f"{num_seeds} seeds: {name}", file=sys.stderr)
            record["rows"].append(row | _in_new_process(job))
        _compare(record["rows"], path.parent)
    record["load_average_after"] = os.getloadavg()[0]
    return record


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Sine of the largest angle between the spans of two sets of orthonormal rows."""
    return float(np.linalg.norm(a - (a @ b.T) @ b, 2))


def growth(rows: list[dict[str, Any]], name: str) -> float:
    """Bytes by which the peak for the most points exceeds that for the fewest."""
    peaks = [row["peak_bytes"] for row in rows if row["contender"] == name and "peak_bytes" in row]
    return peaks[-1] - peaks[0]


def verdicts(record: dict[str, Any]) -> list[tuple[str, bool]]:
    """What is asked, what was measured, and whether it is met."""
    found = []
    for name in ("stream", "gram"):
        points = [row["num_points"] for row in record["rows"] if row["contender"] == name]
        if points:
            own = GRAMS * 8 * (points[-1] ** 2 - points[0] ** 2) if name == "gram" else 0
            more, allowed = growth(record["rows"], name), ALLOWED_BYTES + own
            asked = f"{CONTENDERS[name]}: grows by at most {allowed / 1e6:.0f} MB from the fewest points to the most"
            if own:
                asked += f", {own / 1e6:.0f} MB of it for the Gram matrix"
            found.append((f"{asked}: {more / 1e6:+.0f} MB, {'met' if more <= allowed else 'NOT MET'}", more <= allowed))
    for row in record["rows"]:
        if not row.get("off", 0.0) <= TOLERANCE.get(row["contender"], 1.0):
            found.append(
                (f"WRONG: {CONTENDERS[row['contender']]}, {row['num_points']} points: off by {row['off']:.1e}", False)
            )
    return found


def flops(row: dict[str, Any], num_params: int) -> float:
    """Floating-point operations of the products with all points, float64: half of n^2 P multiply-adds and 3 n P NUM for
    gram, 2 n P (NUM + GUARDS) for each pass of streaming and 3 n P NUM for its last one."""  # fmt: skip
    values = row["num_points"] * num_params
    if row["contender"] == "gram":
        return 2.0 * values * (row["num_points"] / 2 + 3 * NUM)
    return 2.0 * values * ((row["passes"] - 2) * 2 * (NUM + GUARDS) + (NUM + GUARDS) + 3 * NUM)


def extrapolated(record: dict[str, Any]) -> str:
    """LARGE, from the rate of the largest population that was streamed."""
    seeds, checkpoints, params = LARGE
    row = [row for row in record["rows"] if row["contender"] == "stream"][-1]
    stored, num = 4 * seeds * checkpoints * params, seeds * checkpoints
    rate, passes = row["passes"] * row["stored_bytes"] / row["seconds"], row["passes"]
    fixed = row["peak_bytes"] + 8 * num * (2 * NUM + GUARDS + 2)
    vectors = "" if record["num_params"] == params else f" (its vectors had {record['num_params']:,} params)"
    return (
        f"EXTRAPOLATED, not measured: {seeds:,} seeds x {checkpoints} checkpoints x {params:,} params are "
        f"{stored / 1e9:,.0f} GB in float32, {2 * stored / 1e9:,.0f} GB in float64, and their Gram matrix "
        f"{8e-9 * num**2:,.0f} GB. Streaming at the {rate / 1e9:.2f} GB/s of {row['num_points']:,} points takes "
        f"{stored / rate / 60:.0f} minutes a pass, {passes * stored / rate / 3600:.1f} h for the {passes} passes it "
        f"took here, from a disk that delivers as much, in {fixed / 1e9:.1f} GB of memory{vectors}; about each trajectory's "
        f"own ends {4e-9 * seeds * params:.0f} GB more for those. How many passes it takes depends on how far variances "
        "differ."
    )


def markdown(record: dict[str, Any]) -> str:
    """The table, the facts, the verdicts and the extrapolation."""
    header = (
        "contender", "points", "on disk, GB", "peak resident, MB", "passes", "seconds", "GB/s a pass", "of reading",
        "of peak", "off by",
    )  # fmt: skip
    lines, rates = [], {}
    for row in record["rows"]:
        num, stored = f"{row['num_points']:,}", row["stored_bytes"]
        name = CONTENDERS.get(row["contender"], "reading alone")
        if "missing" in row:
            lines.append((name, num, f"{stored / 1e9:.2f}", row["missing"], *[""] * 6))
            continue
        rate = row["passes"] * stored / row["seconds"]
        if row["contender"] == "read":
            rates[num] = rate
        ours = row["contender"] in ("stream", "gram")
        share = flops(row, record["num_params"]) / row["seconds"] / record["peak_flops"] if ours else 0
        lines.append(
            (
                name, num, f"{stored / 1e9:.2f}", f"{row['peak_bytes'] / 1e6:,.0f}", str(row["passes"]),
                f"{row['seconds']:.3g}", f"{rate / 1e9:.2f}", f"{rate / rates[num]:.0%}",
                f"{share:.1%}" if ours else "", f"{row['off']:.0e}" if "off" in row else "",
            )
        )  # fmt: skip
    facts = (
        f"{record['num_params']:,} params, {record['num_checkpoints']} checkpoints a seed, {record['block']} seeds a chunk, "
        f"most_bytes {record['most_bytes'] / 1e6:.0f} MB; peak {record['peak_flops'] / 1e9:.0f} GFLOP/s in float32; "
        f"{record['num_cores']} cores, load average {record['load_average_before']:.2f} before and "
        f"{record['load_average_after']:.2f} after"
    )
    if max(record["load_average_before"], record["load_average_after"]) > 1.5 * record["num_cores"]:
        facts += ", so other programs shared the cores: times are too long and vary, memory is not affected"
    if record["blas_threads"]:
        facts += (
            f"; OPENBLAS_NUM_THREADS={record['blas_threads']}, which holds scikit-learn to as many cores, but not wspace, "
            "whose threads are its own: their seconds are no fair comparison"
        )
    told = [f"- {text}" for text, _ in verdicts(record)]
    if any(row["contender"] == "stream" for row in record["rows"]):
        told.append(f"- {extrapolated(record)}")
    return "\n\n".join(
        (
            tables.table(header, lines),
            f"{facts}; " + ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
            "\n".join(told),
        )
    )


def _compare(rows: list[dict[str, Any]], folder: Path) -> None:
    """How far the planes of the latest rows are from that of the Gram route; what they left is removed."""
    planes = {name: np.load(file) for name in CONTENDERS if (file := folder / f"{name}.npy").exists()}
    for row in rows:
        name = row["contender"]
        if "gram" in planes and name in planes and name != "gram" and "off" not in row and "missing" not in row:
            row["off"] = angle(planes[name], planes["gram"])
    for name in planes:
        (folder / f"{name}.npy").unlink()


def _in_new_process(job: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, "--run", json.dumps(job)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(
            f"{job['contender']} failed with exit code {done.returncode}; what it said is above\n{done.stdout}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def _run(job: dict[str, Any]) -> int:
    """What the new process does: one contender, then one line of JSON."""
    theta, name = zarr.open_array(job["path"], mode="r"), job["contender"]
    seeds, block = np.arange(job["num_seeds"]), theta.chunks[0]
    told, directions = [], None
    began = time.perf_counter()
    tiles = [(low, checkpoint) for low in range(0, len(seeds), block) for checkpoint in range(theta.shape[1])]
    read = lambda low, checkpoint: np.asarray(theta[low : min(low + block, len(seeds)), checkpoint])  # noqa: E731
    if name == "read":
        for tile in tiles:
            read(*tile)
        passes = 1
    elif name in ("stream", "gram"):
        found = principal_components(
            theta, NUM, seeds=seeds, route=name, most_bytes=job["most_bytes"], progress=told.append
        )
        directions = found.directions
        slices = -(-theta.shape[2] // max(1, job["most_bytes"] // (4 * len(seeds) * theta.shape[1])))
        passes = 2 + (slices if name == "gram" else len(told) - 2)
    elif name == "svd":
        points = np.asarray(theta[: len(seeds)]).reshape(-1, theta.shape[2])
        pca = PCA(NUM, svd_solver="full").fit(points)
        pca.transform(points)
        directions, passes = pca.components_, 1
    else:
        incremental = IncrementalPCA(NUM + GUARDS)  # it keeps as many vectors as streaming has in a block
        for tile in tiles:
            incremental.partial_fit(read(*tile))
        for tile in tiles:
            incremental.transform(read(*tile))
        directions, passes = np.asarray(incremental.components_)[:NUM], 2
    seconds = time.perf_counter() - began
    answer = {"seconds": seconds, "peak_bytes": memory.peak_bytes(), "passes": passes}
    if directions is not None:
        np.save(Path(job["path"]).with_name(f"{name}.npy"), np.linalg.qr(np.float64(directions).T)[0].T)
    print(json.dumps(answer))
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[16, 64, 256], metavar="NUM", help="ascending")
    parser.add_argument("--checkpoints", type=int, default=16, help="of each seed (default 16)")
    parser.add_argument("--params", type=int, default=1_000_000, help="of each network (default 1,000,000)")
    parser.add_argument("--block", type=int, default=16, help="seeds of a stored chunk (default 16)")
    parser.add_argument("--most-bytes", type=int, default=MOST_BYTES, help="see principal_components")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--folder", type=Path, help="where points are stored for the while (default: temporary files)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything that was measured as JSON")
    parser.add_argument("--write", action="store_true", help="show the results in README.md")
    parser.add_argument("--quick", action="store_true", help="small networks: does it run?")
    return parser.parse_args(argv)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        sys.exit(_run(json.loads(sys.argv[2])))
    sys.exit(main())
