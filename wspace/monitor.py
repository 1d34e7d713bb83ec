"""Training seen from the terminal: a bar with rate, time left, loss and diverged count, or plain lines in a log."""

import time

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from wspace.spec import Point

LINE_SECONDS = 10.0  # between two plain lines


class Bar:
    """A monitor of one run, or of a sweep's runs one after another; a context manager.

    Args:
        console: where to draw; without a terminal, a line is printed every LINE_SECONDS.
        name: of the run or sweep.
        num_runs: runs that will be monitored.
    """

    def __init__(self, console: Console, name: str, num_runs: int = 1):
        self._console, self._name, self._num_runs, self._index = console, name, num_runs, 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("left"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=False),
            TextColumn("{task.fields[loss]}"),
            TextColumn("[red]{task.fields[diverged]}[/]"),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=10.0,
        )
        self._task = self._progress.add_task(escape(name), total=None, rate="", loss="", diverged="")

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self._progress.stop()

    def of_point(self, point: Point) -> "Bar":
        """The same bar, labelled for the next point of a sweep."""
        self._index += 1
        self._name = f"{self._index}/{self._num_runs} {point.folder}"
        return self

    def begin(self, total: int, already: int) -> None:
        self._total, self._left, self._num_diverged = total, total - already, 0
        self._loss = "no checkpoint yet"
        self._since, self._timed = None, 0
        name = escape(self._name)
        self._progress.reset(
            self._task, total=total, completed=already, description=name, rate="", loss="", diverged=""
        )
        if already == total:
            self._console.print(f"{escape(self._name)}: complete, nothing to train", highlight=False)
        elif already:
            self._console.print(f"{escape(self._name)}: resuming at {already / total:.0%}", highlight=False)

    def advance(self, net_steps: int) -> None:
        self._left -= net_steps
        now = time.monotonic()
        if self._since is None:  # the first stretch compiles: it says nothing about the speed
            self._since = self._spoke = now
            self._progress.update(self._task, advance=net_steps)
            return
        self._timed += net_steps
        rate = self._timed / max(now - self._since, 1e-9)
        self._progress.update(self._task, advance=net_steps, rate=f"{_count(rate)} net-steps/s")
        if not self._console.is_terminal and now - self._spoke > LINE_SECONDS:
            self._spoke = now
            self._console.print(
                f"{escape(self._name)}: {1 - self._left / self._total:.0%}, {_count(rate)} net-steps/s, "
                f"{self._left / rate:.0f} s left, {self._loss}, {self._num_diverged} diverged",
                highlight=False,
                soft_wrap=True,
            )

    def checkpoint(self, step: int, train_loss: Float[np.ndarray, "seed"]) -> None:
        finite = train_loss[np.isfinite(train_loss)]
        self._loss = f"train loss {np.median(finite):.4g}" if len(finite) else "train loss not finite"
        self._progress.update(self._task, loss=self._loss)

    def diverged(self, seed: int, step: int) -> None:
        self._num_diverged += 1
        self._progress.update(self._task, diverged=f"{self._num_diverged} diverged")
        self._console.print(f"[red]seed {seed} diverged at step {step}[/]; the others go on", highlight=False)


def _count(rate: float) -> str:
    return f"{rate / 1000:.1f} k" if rate >= 1000 else f"{rate:.1f}"
