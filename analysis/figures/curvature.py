"""How curved the loss is: spectra, extreme eigenvalues over training, slices along eigenvectors, shares of layers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Num
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style

LARGEST, SMALLEST = style.TRAIN, style.TRAVELLED  # what is curved is the train objective, and the train set is blue
BETWEEN = (style.CYCLE[4], style.END, style.CYCLE[5], style.INIT)  # of the eigenvectors between the two ends
DECADES = 6  # of a density that are shown, at most
WIDE = 30  # medians that differ by more than this factor span decades
MOST_TICKS = 9  # on an axis that is linear around zero


def spectra(
    values: Float[np.ndarray, "seed rank"], num_classes: int | None, unit: str, title: str = "Spectrum of the Hessian"
) -> Figure:
    """Eigenvalues by rank on a logarithmic axis: every restart a thin line with dots, the median over restarts thick.

    Only positive eigenvalues are drawn, since a logarithmic axis has no place for others: they are gaps in the lines. The
    median is that of all values of a rank.

    Args:
        values: largest first; NaN where there are none.
        num_classes: K, of a classification: ranks K - 1 and K are marked. None for a regression.
        unit: of the eigenvalues.
        title: of the panel.
    """
    figure, axes = style.panel(title, "rank of the eigenvalue", _eigenvalue(unit), (4.1, 3.6))
    ranks = np.arange(1, values.shape[1] + 1)
    alpha = max(0.1, min(0.6, 6 / len(values)))
    shown = np.where(values > 0, values, np.nan)
    middle = _levels(values, (0.5,))[0]
    axes.plot(
        ranks, shown.T, color=LARGEST, linewidth=0.5, marker=".", markersize=3, markeredgewidth=0, alpha=alpha,
        rasterized=values.size > style.MANY_POINTS,
    )  # fmt: skip
    axes.plot(ranks, np.where(middle > 0, middle, np.nan), color=LARGEST, linewidth=1.9, label="median over restarts")
    axes.plot([], [], color=LARGEST, linewidth=0.8, marker=".", markersize=4, alpha=0.6, label="every restart")
    marks = [] if num_classes is None else [("K − 1", num_classes - 1, "--"), ("K", num_classes, ":")]
    for name, rank, dashes in marks:
        if rank <= len(ranks):
            label = f"rank {name} = {rank}, of {num_classes} classes" if name == "K − 1" else f"rank {name} = {rank}"
            axes.axvline(rank, color=style.INK, linewidth=1.1, linestyle=dashes, zorder=1, label=label)
    axes.set_xlim(0.4, len(ranks) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _positive(axes, shown)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def density(
    grid: Float[np.ndarray, "grid"], mean: Float[np.ndarray, "grid"], seeds: Float[np.ndarray, "seed grid"],
    outliers: Float[np.ndarray, "seed num"], unit: str, *, ylabel: str, linthresh: float,
) -> Figure:  # fmt: skip
    """The spectral density over asinh(eigenvalue / linthresh): linear around zero, logarithmic beyond it on both sides.

    The mean over restarts is a filled curve, the range from 5 to 95 % of the restarts a band; ticks below are the largest
    eigenvalues of every restart. The vertical axis is logarithmic and shows DECADES below the highest density at most.

    Args:
        grid: eigenvalues, ascending.
        mean: of the density over the restarts.
        seeds: the density of each.
        outliers: the largest eigenvalues of each; NaN where there are none.
        unit: of the eigenvalues.
        ylabel: the density and its unit.
        linthresh: where the axis turns from linear to logarithmic.
    """
    figure, axes = style.panel("Density of the spectrum", _eigenvalue(unit), ylabel, (4.1, 3.7))
    low, high = _levels(seeds, (0.05, 0.95))
    every = np.concatenate([mean, low, high])
    positive = every[np.isfinite(every) & (every > 0)]
    if positive.size:
        top = float(positive.max())
        floor = max(float(positive.min()), top * 10.0**-DECADES) / 2
        drawn = [np.where(values > floor, values, floor) for values in (mean, low, high)]
    else:
        floor, top, drawn = 0.0, 1.0, [np.zeros(len(grid))] * 3
    axes.plot(grid, np.where(mean > floor, mean, np.nan), color=LARGEST, linewidth=1.6, label="mean over restarts")
    axes.fill_between(grid, floor, drawn[0], color=LARGEST, alpha=0.15, linewidth=0)
    if len(seeds) > 1:
        axes.fill_between(
            grid, drawn[1], drawn[2], color=LARGEST, alpha=0.25, linewidth=0, label="5 to 95 % of restarts"
        )
    far = outliers[np.isfinite(outliers)]
    axes.plot(
        far, np.full(len(far), 0.045), transform=axes.get_xaxis_transform(), color=style.INK, marker="|", markersize=9,
        markeredgewidth=0.7, alpha=max(0.15, min(0.8, 12 / len(outliers))), linestyle="none",
    )  # fmt: skip
    axes.plot([], [], color=style.INK, marker="|", markersize=8, linestyle="none", label="largest of every restart")
    ends = np.concatenate([grid, far])
    _signed(axes, "x", float(ends.min()), float(ends.max()), linthresh)
    axes.set_ylim(floor, 2 * top)
    if positive.size:
        style.log(axes, "y")
        axes.set_ylim(floor * (floor / top) ** 0.12, 2 * top)  # room for the ticks of the restarts
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def gradient_shares(
    steps: Int[np.ndarray, "checkpoint"], shares: Float[np.ndarray, "seed checkpoint"], null: float, k: int
) -> Figure:
    """How much of the squared gradient lies along the largest eigenvectors over training: median and bands over restarts.

    Args:
        steps: of the checkpoints.
        shares: in [0, 1]; NaN where there are none.
        null: the share expected of a random direction.
        k: number of eigenvectors.
    """
    figure, axes = style.panel("Where does the gradient point?", "", "share of the squared gradient", (4.1, 3.4))
    _bands(axes, steps, shares, LARGEST, "largest eigenvector" if k == 1 else f"{k} largest eigenvectors")
    axes.axhline(null, color=style.INK, linewidth=1.2, linestyle="--", label="random direction")
    _band_labels(axes, len(shares))
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    _steps(axes, steps)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def extreme_along_training(
    steps: Int[np.ndarray, "checkpoint"], largest: Float[np.ndarray, "seed checkpoint"],
    smallest: Float[np.ndarray, "seed checkpoint"], unit: str,
) -> Figure:  # fmt: skip
    """The largest and the smallest eigenvalue over training in a panel each: median and bands over restarts.

    The largest is on a logarithmic axis where its values are positive and span a decade. The smallest has a line at zero;
    where its medians span decades its axis is logarithmic on both sides of zero and linear around it.

    Args:
        steps: of the checkpoints.
        largest, smallest: NaN where there are none.
        unit: of the eigenvalues.
    """
    figure = style.canvas((4.1, 4.3))
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.set_title("Curvature over training", loc="left", fontsize=10, fontweight="bold", color=style.INK, pad=10)
    for axes, values, color, name in ((top, largest, LARGEST, "largest"), (bottom, smallest, SMALLEST, "smallest")):
        style.frame(axes)
        _bands(axes, steps, values, color, f"{name}: median")
        axes.set_ylabel(name, fontsize=8.5, fontweight="bold", color=color)
    if style.spans_decades(largest):
        style.log(top, "y")
    else:
        _linear(top, "y")
        top.set_ylim(bottom=min(0.0, top.get_ylim()[0]))
    bottom.axhline(0, color=style.MUTED, linewidth=0.9)
    low, middle, high = _levels(smallest, (0.05, 0.5, 0.95))
    sizes = np.abs(middle)
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if sizes.size and sizes.max() > WIDE * sizes.min():
        linthresh = max(float(sizes.min()), float(sizes.max()) * 1e-3)
        _signed(bottom, "y", float(np.nanmin(low)), float(np.nanmax(high, initial=0)), linthresh)
    else:
        _linear(bottom, "y")
    _band_labels(bottom, len(largest))
    _steps(bottom, steps)
    top.label_outer()
    figure.align_ylabels((top, bottom))
    figure.supylabel(f"eigenvalue ({unit})", fontsize=8.5, color=style.MUTED)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def slices(
    distances: Float[np.ndarray, "x"], values: Mapping[str, Float[np.ndarray, "x"]],
    parabola: Mapping[str, Float[np.ndarray, "x"]], names: Sequence[str], unit: str,
) -> Figure:  # fmt: skip
    """The train objective on lines along eigenvectors, and the parabolas that their eigenvalues promise, dashed.

    The vertical axis ends where the objective itself does: parabolas leave it.

    Args:
        distances: from the restart, in weight space.
        values: name -> the objective there.
        parabola: name -> value + slope distance + eigenvalue distance² / 2.
        names: of the eigenvectors that are drawn, from the largest eigenvalue to the smallest: the first has the colour of
            the largest eigenvalues, the last, if there are several, that of the smallest.
        unit: of the objective.
    """
    figure, axes = style.panel(
        "Along eigenvectors", "distance from the restart in weight space", f"train objective ({unit})", (4.1, 3.5)
    )
    for number, name in enumerate(names):
        last = number == len(names) - 1 > 0
        color = LARGEST if number == 0 else SMALLEST if last else BETWEEN[(number - 1) % len(BETWEEN)]
        axes.plot(distances, values[name], color=color, linewidth=1.8, label=name)
        axes.plot(distances, parabola[name], color=color, linewidth=1.2, linestyle=(0, (4, 2)), zorder=3)
    axes.plot([], [], color=style.MUTED, linewidth=1.2, linestyle=(0, (4, 2)), label="quadratic model")
    every = np.concatenate([values[name] for name in names])
    every = every[np.isfinite(every)]
    axes.set_xlim(float(distances[0]), float(distances[-1]))
    _linear(axes, "x")
    if style.spans_decades(every):
        _positive(axes, every)
    else:
        _linear(axes, "y")
        if every.size:
            low, high = float(every.min()), float(every.max())
            room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
            axes.set_ylim(low - room, high + room)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def layer_shares(
    names: Sequence[str], traces: Float[np.ndarray, "seed layer"], errors: Float[np.ndarray, "seed layer"]
) -> Figure:
    """How the trace of the Hessian divides among layers: every restart a dot with its error, the median a bar.

    Values are scaled by the restart's sum over the layers; a restart whose sum is not positive has no shares and is left
    out.

    Args:
        names: of the layers.
        traces: of each layer's diagonal block.
        errors: standard error of each, 0 where it is exact.
    """
    figure, axes = style.panel("Which layers are curved?", "share of the trace", "", (4.1, 1.3 + 0.42 * len(names)))
    totals = traces.sum(axis=1, keepdims=True)
    there = np.isfinite(totals[:, 0]) & (totals[:, 0] > 0)
    shares, spread = traces[there] / totals[there], errors[there] / totals[there]
    alpha = max(0.25, min(0.8, 12 / max(len(shares), 1)))
    for y, (values, error) in enumerate(zip(shares.T, spread.T, strict=True)):
        if len(values) == 0:
            continue
        axes.barh(y, float(np.median(values)), height=0.7, color=LARGEST, alpha=0.25, linewidth=0)
        heights = y + 0.52 * _spread(values)
        axes.hlines(heights, values - error, values + error, color=LARGEST, linewidth=0.7, alpha=alpha)
        axes.scatter(values, heights, s=9, color=LARGEST, alpha=alpha, linewidths=0, zorder=3)
    axes.fill_between([], [], [], color=LARGEST, alpha=0.25, linewidth=0, label="median over restarts")
    axes.plot([], [], color=LARGEST, marker=".", linewidth=0.7, label="every restart ± standard error")
    _linear(axes, "x")
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g}%".replace("-", "−"))
    axes.set_xlim(*((min(0.0, axes.get_xlim()[0]), axes.get_xlim()[1]) if len(shares) else (0, 1)))
    axes.axvline(0, color=style.MUTED, linewidth=0.8)
    style.rows(axes, list(names), [style.INK] * len(names))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def class_counts(
    classes: Int[np.ndarray, "problem"], outliers: Num[np.ndarray, "problem seed"], median: Num[np.ndarray, "problem"]
) -> Figure:
    """Number of outlying eigenvalues against number of classes: every restart a dot beside its place, medians as bars.

    Args:
        classes: K of each problem.
        outliers: of each restart; NaN where there are none.
        median: over the restarts.
    """
    figure, axes = style.panel("Outliers against classes", "number of classes", "number of outliers", (4.1, 3.5))
    gap = max(float(np.diff(np.unique(classes)).min(initial=2)), 0.03 * float(np.ptp(classes)))
    for x, values, middle in zip(classes, outliers, median, strict=True):
        values = values[np.isfinite(values)]
        places = x + 0.5 * gap * _spread(values)
        axes.scatter(places, values, s=11, color=LARGEST, alpha=0.5, linewidths=0, zorder=3)
        axes.plot([x - 0.35 * gap, x + 0.35 * gap], [middle] * 2, color=style.INK, linewidth=1.6, zorder=2)
    left, right = float(classes.min()) - 0.6 * gap, float(classes.max()) + 0.6 * gap
    for name, less, dashes in (("K, one for each class", 0, ":"), ("K − 1", 1, "--")):
        axes.plot(
            [left, right], [left - less, right - less], color=style.INIT, linewidth=1.1, linestyle=dashes, alpha=0.8,
            zorder=1, label=name,
        )  # fmt: skip
    axes.scatter([], [], s=11, color=LARGEST, alpha=0.6, linewidths=0, label="every restart")
    axes.plot([], [], color=style.INK, linewidth=1.6, label="median over restarts")
    axes.set_xlim(left, right)
    top = max(float(np.nan_to_num(outliers).max(initial=0)), right)
    axes.set_ylim(-0.03 * top, 1.05 * top)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def _eigenvalue(unit: str) -> str:
    """The label of an axis, in two lines where one is too long."""
    return f"eigenvalue{' ' if len(unit) < 36 else chr(10)}({unit})"


def _levels(values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles over seeds, of those that have a value; NaN where none has."""
    there = ~np.all(np.isnan(values), axis=0)
    found = np.full((len(levels), values.shape[1]), np.nan)
    found[:, there] = np.nanquantile(values[:, there], levels, axis=0)
    return found


def _bands(axes: Axes, steps: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    """The median over seeds as a line with dots at the checkpoints, the middle half and 5 to 95 % as bands."""
    p5, p25, middle, p75, p95 = _levels(values, (0.05, 0.25, 0.5, 0.75, 0.95))
    if len(values) > 1:
        axes.fill_between(steps, p5, p95, color=color, alpha=0.13, linewidth=0)
        axes.fill_between(steps, p25, p75, color=color, alpha=0.25, linewidth=0)
    axes.plot(steps, middle, color=color, linewidth=1.8, marker=".", markersize=5, clip_on=False, zorder=3, label=label)


def _band_labels(axes: Axes, num: int) -> None:
    if num > 1:
        axes.fill_between([], [], [], color=style.MUTED, alpha=0.4, linewidth=0, label="middle half of restarts")
        axes.fill_between([], [], [], color=style.MUTED, alpha=0.15, linewidth=0, label="5 to 95 % of restarts")


def _steps(axes: Axes, steps: np.ndarray) -> None:
    """From step 0, whether or not anything was measured there."""
    style.steps(axes, np.concatenate([[0], steps[steps > 0]]))


def _spread(values: np.ndarray) -> np.ndarray:
    """Offsets in [-1/2, 1/2) that keep dots apart, the first at 0: low discrepancy, always the same."""
    return (np.argsort(np.argsort(values, kind="stable")) * 0.618034 + 0.5) % 1 - 0.5


def _linear(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))


def _positive(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic vertical axis around the positive values, a decade at least so that it has ticks."""
    some = values[np.isfinite(values) & (values > 0)]
    if some.size == 0:
        axes.set_yticks([])
        axes.text(
            0.5, 0.5, "no positive value", transform=axes.transAxes, ha="center", va="center", fontsize=8.5,
            color=style.MUTED,
        )  # fmt: skip
        return
    low, high = float(some.min()), float(some.max())
    room = max((high / low) ** 0.05, math.sqrt(max(10 * low / high, 1.0)), 1.1)
    axes.set_yscale("log")
    axes.set_ylim(low / room, high * room)
    style.log(axes, "y")


def _signed(axes: Axes, which: str, low: float, high: float, linthresh: float) -> None:
    """An axis of asinh(value / linthresh): linear around zero, logarithmic beyond on both sides; ticks at decades."""
    scale, limits, axis = (
        (axes.set_xscale, axes.set_xlim, axes.xaxis) if which == "x" else (axes.set_yscale, axes.set_ylim, axes.yaxis)
    )
    scale("asinh", linear_width=linthresh)
    ends = np.arcsinh(np.array([low, high]) / linthresh)
    room = 0.03 * float(np.ptp(ends)) or 1.0
    limits(*(linthresh * np.sinh(ends + room * np.array([-1.0, 1.0]))))
    first = math.floor(math.log10(linthresh))
    for digits in ((1,), (1, 2, 5)):
        sizes = np.array([digit * 10.0**power for power in range(first, first + 30) for digit in digits])
        sizes = sizes[(sizes >= 2 * linthresh) & (sizes <= max(high, -low))]
        sizes = sizes[:: max(1, math.ceil(2 * len(sizes) / MOST_TICKS) if low < -linthresh < linthresh < high else 1)]
        ticks = np.concatenate([-sizes[::-1], [0], sizes])
        ticks = ticks[(low <= ticks) & (ticks <= high)]
        if len(ticks) > 2:
            break
    else:
        _linear(axes, which)
        return
    plain = sizes[0] >= 1e-3 and max(high, -low) < 1e4

    def label(value: float) -> str:
        sign = "−" if value < 0 else ""
        if plain or value == 0:
            return f"{sign}{abs(value):g}"
        digit, power = f"{abs(value):.0e}".split("e")
        return f"{sign}{'' if digit == '1' else f'{digit}·'}$10^{{{int(power)}}}$"

    axis.set_ticks(ticks, [label(tick) for tick in ticks.tolist()])
    axis.set_ticks([], minor=True)
