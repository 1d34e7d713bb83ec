"""How fast does wspace train a population: of what this machine can do, and beside what others use?

    python runs/benchmarks/engine.py [--workloads ..] [--contenders ..] [--rounds 5] [--torch-python PATH] [--gpu] [--write]

Net-steps per second (optimizer steps x networks) and the share of the machine's matmul peak, on four workloads; how it
is measured is in README.md. The exit code is 1 when a contender did not train as the others did, not when a target is
missed.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import tables
from teams import ALL, CONTENDERS, GPU, GPU_NETWORKS, PEAK, Row, measure
from workloads import TOY, WORKLOADS, Workload

LOSS_BAND = 0.25  # a final loss may differ from the median by this share of the fall from log(number of classes)

# Workload -> share of the matmul peak, and how many times the best setting of each peer, that wspace has to reach.
TARGETS = {
    "64-32-32-10": {PEAK: 0.20, "torch-vmap": 3.0, "torch-loop": 100.0, "sklearn": 15.0},
    "784-512-512-512-10": {PEAK: 0.80, "torch-vmap": 2.0},
}


class Verdict(NamedTuple):
    """A target and what was measured.

    Attributes:
        what: matmul (share of the peak), or the peer that wspace is compared with.
        target: to be reached.
        measured: median over the rounds; None when not measured. A peer is taken as it comes: one process, all cores.
        setting: of the peer that makes it fastest, when that is another.
        at_best: measured against that setting.
        ceiling: what a program at the matmul peak would reach; a target above it cannot be met on this machine.
    """

    what: str
    target: float
    measured: float | None
    setting: str = ""
    at_best: float | None = None
    ceiling: float | None = None

    @property
    def text(self) -> str:
        """What is asked, what was measured, met or not met."""
        percent = self.what == PEAK
        show = (lambda value: f"{value:.0%} of the matmul peak") if percent else (lambda value: f"{value:.3g} x")
        asked = f"at least {show(self.target)}" + ("" if percent else f" {self.what}")
        if self.measured is None:
            return f"{asked}: not measured"
        text = f"{asked}: {show(self.measured)}, {'met' if self.measured >= self.target else 'NOT MET'}"
        if self.ceiling is not None and self.ceiling < self.target:
            text += f" (out of reach here: all of the matmul peak would be {show(self.ceiling)})"
        return text + (f"; {show(self.at_best)} its fastest setting, {self.setting}" if self.at_best else "")


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write where asked."""
    args = _arguments(argv)
    workloads = [TOY] if args.quick else [WORKLOADS[name] for name in args.workloads]
    if args.gpu:
        workloads = [dataclasses.replace(w, num_seeds=GPU_NETWORKS * w.num_seeds) for w in workloads]
    rounds, seconds = (min(args.rounds, 2), 0.0) if args.quick else (args.rounds, args.seconds)
    record: dict[str, Any] = {**tables.environment(), "rounds": rounds, "seconds": seconds, "workloads": []}
    for workload in workloads:
        before = os.getloadavg()[0]
        rows = measure(workload, args.contenders, rounds, seconds, args.torch_python, args.gpu)
        record["workloads"].append(summary(workload, rows) | {"load_average_before": before})
        print(markdown(record["workloads"][-1]), end="\n\n", flush=True)
    if args.out:
        args.out.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if args.write:
        parts = [
            f"{tables.heading(record)}; medians of {rounds} rounds.",
            *(markdown(workload) for workload in record["workloads"]),
        ]
        tables.show("engine-gpu" if args.gpu else "engine", "\n\n".join(parts))
    strays = [f"{w['name']}: {stray}" for w in record["workloads"] for stray in w["strays"]]
    for stray in strays:
        print(stray, file=sys.stderr)
    return 1 if strays else 0


def summary(workload: Workload, rows: list[Row]) -> dict[str, Any]:
    """Everything measured on a workload, as JSON."""
    trained = [row for row in rows if row.contender != PEAK]
    mode = GPU if any(row.mode == GPU for row in trained) else ALL
    peaks = {mode: peak(rows, mode), ALL: peak(rows)}
    ours = {row.variant: row for row in trained if row.contender == "wspace" and row.mode == mode}
    return {
        **dataclasses.asdict(workload),
        "name": workload.name,
        "num_steps": workload.num_steps,
        "flops_per_net_step": workload.flops,
        "peak_flops": statistics.median(peaks[mode]),
        "rows": [
            dataclasses.asdict(row)
            | {
                "losses": [loss if math.isfinite(loss) else None for loss in row.losses],
                "rate": median(row.rates),
                "share_of_peak": median(share_of_peak(row, workload.flops, peaks.get(row.mode, peaks[ALL]))),
                "wspace_is_times_as_fast": median(ratios(ours[row.variant], row)) if ours else None,
            }
            for row in trained
        ],
        "yardstick": [dataclasses.asdict(row) for row in rows if row.contender == PEAK],
        "verdicts": [verdict._asdict() for verdict in judge(workload, rows)] if mode == ALL else [],
        "strays": strays(workload, trained),
    }


def judge(workload: Workload, rows: list[Row]) -> list[Verdict]:
    """wspace, every network with an order of its own, against the targets.

    torch.func vmap is compared where it draws an order for each network too; the others always do.
    """
    ours = next((row for row in rows if row.contender == "wspace" and row.variant == "own"), None)
    verdicts = []
    for what, target in TARGETS.get(workload.name, {}).items():
        if what == PEAK:
            measured = median(share_of_peak(ours, workload.flops, peak(rows))) if ours else None
            verdicts.append(Verdict(what, target, measured))
            continue
        peers = {row.mode: row for row in rows if row.contender == what and row.variant == "own" and row.rates}
        if ours is None or ALL not in peers:
            verdicts.append(Verdict(what, target, None))
            continue
        plain, best = peers[ALL], max(peers.values(), key=lambda row: statistics.median(row.rates))
        ceiling = median([1 / share for share in share_of_peak(plain, workload.flops, peak(rows))])
        beyond = (best.mode, median(ratios(ours, best))) if best is not plain else ("", None)
        verdicts.append(Verdict(what, target, median(ratios(ours, plain)), *beyond, ceiling))
    return verdicts


def strays(workload: Workload, rows: list[Row]) -> list[str]:
    """Contenders that did not train as the others did.

    With m the median of the contenders' final losses and log K the loss of guessing among K classes, a loss L is fine
    when |L - m| <= LOSS_BAND (log K - m).
    """
    losses = {row.name: statistics.fmean(row.losses) for row in rows if row.losses}
    middle = median([loss for loss in losses.values() if math.isfinite(loss)]) or math.nan
    band = LOSS_BAND * (math.log(workload.sizes[-1]) - middle)
    return [
        f"{name}: final loss {loss:.3f}, but {middle:.3f} +- {band:.3f} is expected"
        for name, loss in losses.items()
        if not abs(loss - middle) <= band
    ]


def peak(rows: list[Row], mode: str = ALL) -> list[float]:
    """FLOP/s of the fastest library's matmul, in each round."""
    yardsticks = [row.rates for row in rows if row.contender == PEAK and row.mode == mode]
    return [max(rates) for rates in zip(*yardsticks, strict=True)]


def share_of_peak(row: Row, flops: int, peaks: list[float]) -> list[float]:
    """Of each round's peak."""
    return [rate * flops / top for rate, top in zip(row.rates, peaks, strict=False)]


def ratios(row: Row, other: Row) -> list[float]:
    """How many times as fast as the other, in each round; empty when one was not measured."""
    return [a / b for a, b in zip(row.rates, other.rates, strict=False)]


def median(values: list[float]) -> float | None:
    """None when there is nothing."""
    return statistics.median(values) if values else None


def markdown(workload: dict[str, Any]) -> str:
    """One workload's table, verdicts and strays."""
    header = ("contender", "order", "cores", "net-steps/s", "min - max", "of peak", "compile, s", "loss", "wspace is")
    lines = []
    for row in workload["rows"]:
        name = (row["contender"], row["variant"], row["mode"])
        if row["missing"]:
            lines.append((*name, f"{row['missing']}: not installed", "", "", "", "", ""))
            continue
        faster = row["wspace_is_times_as_fast"]
        numbers = (
            f"{row['rate']:,.0f}",
            f"{min(row['rates']):,.0f} - {max(row['rates']):,.0f}",
            f"{row['share_of_peak']:.1%}",
            f"{row['compile_s']:.1f}",
            "not finite" if None in row["losses"] else f"{statistics.fmean(row['losses']):.3f}",
            f"{faster:.3g} x" if faster else "",
        )
        lines.append((*name, *numbers))
    versions = {name: version for row in workload["rows"][::-1] for name, version in row["versions"].items()}
    verdicts = [Verdict(**verdict).text for verdict in workload["verdicts"]]
    facts = [
        f"peak {workload['peak_flops'] / 1e9:.0f} GFLOP/s",
        f"{workload['flops_per_net_step'] / 1e6:.2f} MFLOP a net-step",
        f"{workload['num_steps']} steps",
        *(f"{name} {version}" for name, version in versions.items()),
    ]
    paragraphs = [
        f"#### {workload['name']}, batch {workload['batch_size']}, {workload['num_seeds']} networks",
        tables.table(header, lines),
        ", ".join(facts),
        "\n".join(f"- {line}" for line in verdicts + [f"WRONG: {stray}" for stray in workload["strays"]]),
    ]
    return "\n\n".join(filter(None, paragraphs))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, help="the contenders take turns so many times (default 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of training in a turn, at least (default 1)")
    parser.add_argument("--torch-python", default=sys.executable, metavar="PATH", help="the Python that has PyTorch")
    parser.add_argument("--gpu", action="store_true", help="on a GPU, and wspace beside it on the cores; no targets")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything that was measured as JSON")
    parser.add_argument("--write", action="store_true", help="show the results in README.md")
    parser.add_argument("--quick", action="store_true", help="a toy workload for a moment: does everything run?")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
