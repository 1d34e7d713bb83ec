"""The command line: the composition root, and the only place in wspace that may import analysis.

JAX is imported only after the number of CPU devices is set, so the imports that need it are inside the commands.
"""

import argparse
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from wspace import spec as specs
from wspace.cores import use_cores
from wspace.errors import SpecError, WspaceError
from wspace.spec import Spec

if TYPE_CHECKING:
    from wspace.sweep import Outcome

OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
MAX_DEVICES = 1024


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0: done. 1: done, but a seed diverged, a point of a sweep failed or a check did not pass. 2: the input was refused
    before any work, or the disk refused to take more. 130: interrupted; the same command resumes.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.command not in ("train", "run"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if "jax" not in sys.modules:
        use_cores(getattr(args, "devices", None))
    console, errors = Console(), Console(stderr=True)
    try:
        return args.function(args, rest, console)
    except (WspaceError, ImportError, OSError) as error:  # OSError: the terminal or a file beside the run is gone
        errors.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return REFUSED
    except KeyboardInterrupt:
        errors.print("[bold]interrupted[/]; the same command resumes", highlight=False)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wspace",
        description="Train many restarts of a network in one program, and report on them in weight space.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(function=function)
        return command

    for name, function, text in (
        ("run", _run, "Train a spec (or resume it), then write its report."),
        ("train", _train, "Train a spec, or resume it."),
    ):
        command = add(name, function, text)
        command.add_argument("spec", type=Path, metavar="SPEC.toml", help="the experiment")
        command.add_argument("--out", type=Path, help="run folder (default: results/<name>)")
        command.add_argument(
            "--dry-run", action="store_true", help="check everything, say what would be done, write nothing"
        )
        command.add_argument(
            "--devices", type=_num_devices, help="devices to use (default: all; on a CPU one per core)"
        )
        command.add_argument("--dask", metavar="ADDRESS", help="train a sweep's points on this Dask scheduler")
        command.add_argument(
            "--sweep",
            action="append",
            default=[],
            metavar="FIELD=[..]",
            help="add an axis, e.g. 'model.hidden=[[8],[16]]'",
        )
        command.epilog = (
            "Every field of the spec can be overridden, e.g. --optimizer.learning-rate 0.01 --seeds.num 8; "
            "--spec-help lists them all."
        )
        if name == "run":
            _add_interactive(command)
        command.add_argument("--spec-help", action="store_true", help="list every field of the spec with its value")
    command = add("report", _report, "Write the report of a run or of a sweep.")
    command.add_argument("path", type=Path, metavar="DIR", help="run or sweep folder")
    _add_interactive(command)
    command = add("status", _status, "Say how far a run or a sweep is.")
    command.add_argument("path", type=Path, metavar="DIR", help="run or sweep folder")
    add("doctor", _doctor, "Check versions, devices, speed and that compiled programs compute right numbers.")
    return parser


def _add_interactive(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--interactive", action="store_true", help="also write surface.html, a loss surface to turn (needs plotly)"
    )


def _train(args: argparse.Namespace, rest: list[str], console: Console) -> int:
    """train: returns FAILED when a seed diverged or a point failed, after all others are done."""
    spec = _load_spec(args, rest)
    out = args.out or Path("results") / spec.name
    if args.dry_run:
        return _dry_run(spec, out, args.devices, console)
    if args.dask and not spec.sweep:
        raise SpecError("--dask spreads the points of a sweep, but this spec has no [sweep]")
    return _train_sweep(spec, out, args, console) if spec.sweep else _train_run(spec, out, args, console)


def _run(args: argparse.Namespace, rest: list[str], console: Console) -> int:
    """run: train, then report; the report is written even when seeds diverged."""
    began = time.monotonic()
    if args.interactive:
        _check_interactive()
    args.out = args.out or Path("results") / _load_spec(args, rest).name
    code = _train(args, rest, console)
    if args.dry_run:
        return code
    args.path = args.out
    written = _report(args, [], console)
    console.print(f"[dim]{time.monotonic() - began:.0f} s in all[/]", highlight=False)
    return code or written


def _report(args: argparse.Namespace, rest: list[str], console: Console) -> int:
    """report: of a run, or of every begun point of a sweep and of the sweep."""
    from analysis.report import write_report, write_sweep_report
    from wspace import open_run
    from wspace.sweep import is_sweep, open_sweep

    if args.interactive:
        _check_interactive()

    def report(run, name: str) -> Path:
        with console.status(name) as status:
            tell = lambda text: status.update(escape(f"{name}: {text}"))  # noqa: E731
            return write_report(run, interactive=args.interactive, tell=tell)

    if is_sweep(args.path):
        runs = open_sweep(args.path)
        for _, run in runs:
            if run is not None:
                run.check()
        for i, (_, run) in enumerate(runs):
            if run is not None:
                report(run, f"report {i + 1} of {len(runs)}, {run.path.name}")
        page = write_sweep_report(runs, args.path / "report")
    else:
        run = open_run(args.path)
        run.check()
        page = report(run, "report")
    console.print(f"report: [bold]{escape(str(page))}[/]", highlight=False, soft_wrap=True)
    return OK


def _check_interactive() -> None:
    """Say before the work starts that plotly is missing."""
    from analysis.figures.interactive import check

    check()


def _status(args: argparse.Namespace, rest: list[str], console: Console) -> int:
    from wspace import open_run
    from wspace.sweep import is_sweep, open_sweep

    swept = is_sweep(args.path)
    runs = (
        [(specs.Point(values, Spec()).folder, run) for values, run in open_sweep(args.path)]
        if swept
        else [(args.path.name, open_run(args.path))]
    )
    table = Table(Column("run", overflow="fold"), "seeds", "checkpoints", "done", "diverged", "test loss (median)")
    complete = 0
    for name, run in runs:
        if run is None:
            table.add_row(escape(name), "-", "-", "not begun", "-", "-")
            continue
        done, loss = run.done, run.metrics["test_loss"]
        usable = run.converged()
        median = f"{np.median(loss[usable, -1]):.4g}" if usable.any() else "-"
        checkpoints = f"{int(done.all(axis=0).sum())}/{done.shape[1]}"
        table.add_row(
            escape(name),
            str(len(run.seeds)),
            checkpoints,
            f"{done.mean():.0%}",
            str(int((run.diverged_at >= 0).sum())),
            median,
        )
        complete += run.complete
    console.print(table)
    text = f"{complete} of {len(runs)} runs complete" if swept else "complete" if complete else "incomplete"
    console.print(text if complete == len(runs) else f"{text}: the training command resumes it", highlight=False)
    return OK


def _doctor(args: argparse.Namespace, rest: list[str], console: Console) -> int:
    from wspace import doctor

    doctor.refuse_known_bad()
    import jax

    for package, version in doctor.versions().items():
        console.print(f"  {package:<14} {version}", highlight=False)
    devices = jax.devices()
    console.print(
        f"  {'devices':<14} {len(devices)} x {devices[0].device_kind} ({devices[0].platform})", highlight=False
    )
    with console.status("measuring the matmul peak"):
        peak = doctor.matmul_peak()
    console.print(
        f"  {'matmul peak':<14} {peak / 1e9:.0f} GFLOP/s (float32, 2048 x 2048, median of 9)", highlight=False
    )
    table = Table("compiled program against NumPy float64", "relative error", "allowed", "")
    with console.status("comparing with NumPy"):
        checks = doctor.check_numbers()
    for check in checks:
        mark = "[green]right[/]" if check.passed else "[bold red]WRONG[/]"
        table.add_row(check.name, f"{check.error:.1e}", f"{check.tolerance:.1e}", mark)
    console.print(table)
    if all(check.passed for check in checks):
        console.print("[green]fit[/]")
        return OK
    console.print(f"[bold red]this jaxlib computes wrong numbers here[/]; install another: {escape(doctor.INSTALL)}")
    return FAILED


def _train_run(spec: Spec, out: Path, args: argparse.Namespace, console: Console) -> int:
    from wspace.monitor import Bar
    from wspace.train import train

    with Bar(console, spec.name) as monitor:
        run = train(spec, out, num_devices=args.devices, monitor=monitor)
    diverged, num = int((run.diverged_at >= 0).sum()), len(run.seeds)
    text = f"{num - diverged} of {num} seeds trained to step {spec.train.num_steps} in {escape(str(out))}"
    if run.converged().any():
        text += f"; median test loss {np.median(run.metrics['test_loss'][run.converged(), -1]):.4g}"
    console.print(text, highlight=False, soft_wrap=True)
    if diverged:
        console.print(f"[bold red]{diverged} of {num} seeds diverged[/] and are kept out of the analyses")
    return FAILED if diverged else OK


def _train_sweep(spec: Spec, out: Path, args: argparse.Namespace, console: Console) -> int:
    from wspace import sweep
    from wspace.monitor import Bar

    num = len(specs.grid(spec))

    def tell(outcome: "Outcome") -> None:
        name = escape(outcome.point.folder)
        if outcome.error:
            console.print(f"[bold red]failed[/] {name}: {escape(outcome.error)}", highlight=False, soft_wrap=True)
        elif outcome.num_diverged:
            console.print(f"[bold red]{outcome.num_diverged} seeds diverged[/] in {name}", highlight=False)

    executor = sweep.on_dask(args.dask) if args.dask else sweep.in_process
    with Bar(console, spec.name, num_runs=num) as bar:
        monitor = None if args.dask else bar.of_point
        outcomes = sweep.run_sweep(spec, out, num_devices=args.devices, monitor=monitor, executor=executor, tell=tell)
    failed = sum(outcome.error is not None for outcome in outcomes)
    diverged = sum(outcome.num_diverged for outcome in outcomes)
    console.print(
        f"{num - failed} of {num} runs complete in {escape(str(out))}; {failed} failed, {diverged} seeds diverged",
        highlight=False,
        soft_wrap=True,
    )
    return FAILED if failed or diverged else OK


def _dry_run(spec: Spec, out: Path, num_devices: int | None, console: Console) -> int:
    """Check all points as training would, and say what it would do."""
    from wspace import program, store
    from wspace.sweep import check

    devices, runs = program.choose_devices(num_devices), 0
    for point, folder, existing, data, plan in check(spec, out, devices):
        num, steps = len(specs.seed_ids(point.spec)), point.spec.train.num_steps
        blocks, size = -(-num // plan.width), store.num_bytes(point.spec, plan.layout)
        lines = (
            f"{'resume' if existing else 'train'} {escape(str(folder))}",
            f"  {num} seeds x {steps} steps, {plan.layout.size} params each, {plan.recipe.model}",
            f"  {data.name}: {len(data.x_train)} train, {len(data.x_test)} test examples",
            f"  {blocks} block{'s' if blocks > 1 else ''} of {plan.width} seeds on {len(devices)} x {devices[0].platform}",
            f"  {len(specs.checkpoint_steps(point.spec))} checkpoints, {store.size_text(size)}",
        )
        console.print("\n".join(lines), highlight=False, soft_wrap=True)
        runs += 1
    console.print(f"dry run: nothing was written; {runs} run{'s' if runs > 1 else ''} would be", highlight=False)
    return OK


def _load_spec(args: argparse.Namespace, rest: list[str]) -> Spec:
    """The spec file with the command line's overrides."""
    spec = specs.read(args.spec)
    rest = ["--help"] if args.spec_help else rest
    prog = f"wspace {args.command} {args.spec}"
    fields = tyro.conf.configure(tyro.conf.FlagConversionOff)(Spec)
    default = msgspec.structs.replace(spec, sweep={})
    given = {token.partition("=")[0] for token in rest}
    if "--seeds.ids" in given and "--seeds.num" not in given:  # one of the two says which seeds: the later word counts
        default = msgspec.structs.replace(default, seeds=msgspec.structs.replace(spec.seeds, num=None))
    elif "--seeds.num" in given and "--seeds.ids" not in given:
        default = msgspec.structs.replace(default, seeds=msgspec.structs.replace(spec.seeds, ids=None))
    edited = tyro.cli(fields, args=rest, default=default, prog=prog)
    sweep = dict(spec.sweep)
    for axis in args.sweep:
        field, _, values = axis.partition("=")
        try:
            tree = tomllib.loads(f"values = {values}")
            (sweep[field.strip().replace("-", "_")],) = tree.values()
        except ValueError:  # not TOML, or more than one value
            example = "'optimizer.learning_rate=[0.1, 0.01]'"
            raise SpecError(f"--sweep {axis!r}: FIELD=[VALUE, ..] is expected, e.g. {example}") from None
    return specs.normalise(msgspec.structs.replace(edited, sweep=sweep))


def _num_devices(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_DEVICES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of devices in [1, {MAX_DEVICES}]")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
