"""How training travels: paths on planes of weight space, spectra beside those of random walks, distances over training."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Num
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from analysis.figures import landscape, style
from analysis.figures.landscape import Scale
from analysis.landscape.shadows import Shadows
from analysis.landscape.surface import Surface
from analysis.projection.walks import Null

Steps = Int[np.ndarray, "checkpoint"]
ROUNDING = 1e-12  # a share of the variance that is none
WALK, DASHES = style.INIT, ("-", "--", ":", "-.")
PATHS = ("#D55E00", "#E69F00", "#F0E442", "#CC79A7", "#FFFFFF", "#56B4E9")  # light enough for viridis' dark end


def on_plane(
    surface: Surface, metric: str, label: str, scale: Scale, title: str, paths: Mapping[str, Float[np.ndarray, "_ 2"]]
) -> Figure:
    """Contours of the loss on a plane with the shadows of trajectories: an open circle where they begin, a dot at the end.

    Args:
        surface: on that very plane.
        metric, label, scale, title: as in `landscape.contours`.
        paths: name -> relative coordinates of the checkpoints' shadows, in order.
    """
    figure = landscape.contours(surface, metric, label, scale, title)
    axes = figure.axes[0]
    casing = [withStroke(linewidth=2.6, foreground=style.INK)]
    for number, (name, path) in enumerate(paths.items()):
        x, y = (path * surface.plane.lengths).T
        color = PATHS[number % len(PATHS)]
        axes.plot(
            x, y, color=color, linewidth=1.3, marker=".", markersize=3.5, path_effects=casing, zorder=5, label=name,
            solid_joinstyle="round",
        )  # fmt: skip
        for at, fill in ((0, "white"), (-1, color)):
            axes.plot(
                x[at], y[at], marker="o", markersize=6, markerfacecolor=fill, markeredgecolor=style.INK, linestyle="none",
                zorder=6,
            )  # fmt: skip
    axes.plot([], [], marker="o", markerfacecolor="white", markeredgecolor=style.INK, linestyle="none", label="start")
    axes.plot([], [], marker="o", color=style.INK, linestyle="none", label="end")
    figure.legend(
        loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=style.INK, handlelength=1.4,
        columnspacing=1.1,
    )  # fmt: skip
    return figure


def in_plane(
    coordinates: Float[np.ndarray, "seed checkpoint 2"], names: Sequence[str], title: str, xlabel: str, ylabel: str
) -> Figure:
    """Restarts over training as paths in a plane without a loss: an open circle at the start, a dot at the end.

    Args:
        coordinates: of each checkpoint; both axes have one scale.
        names: of the restarts.
        title: of the panel.
        xlabel, ylabel: of the axes.
    """
    figure, axes = style.panel(title, xlabel, ylabel, (4.1, 3.8))
    for number, (path, name) in enumerate(zip(coordinates, names, strict=True)):
        color = style.CYCLE[number % len(style.CYCLE)]
        axes.plot(*path.T, color=color, linewidth=1.0, marker=".", markersize=4, alpha=0.85, label=name)
        for at, fill in ((0, "white"), (-1, color)):
            axes.plot(
                *path[at],
                marker="o",
                markersize=6,
                markerfacecolor=fill,
                markeredgecolor=color,
                linestyle="none",
                zorder=4,
            )
    axes.set_aspect("equal", adjustable="datalim")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    figure.legend(
        loc="outside lower center", ncols=4, frameon=False, fontsize=8, labelcolor=style.INK, handlelength=1.2
    )
    return figure


def shadow(steps: Steps, result: Shadows, ylabel: str) -> Figure:
    """One trajectory: its own train loss and that of its shadow on the plane, and how far it lies from the plane."""
    figure = style.canvas((4.1, 4.2))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes in (top, bottom):
        style.frame(axes)
    top.set_title("What the plane hides", loc="left", fontsize=10, fontweight="bold", color=style.INK, pad=10)
    own, flat = result.values["train_loss"], result.shadow["train_loss"]
    top.plot(steps, own, color=style.TRAIN, linewidth=1.8, marker=".", label="the network itself")
    top.plot(
        steps, flat, color=style.TRAVELLED, linewidth=1.4, linestyle="--", marker=".", label="its shadow on the plane"
    )
    if style.spans_decades(np.concatenate([own, flat])):
        style.log(top, "y")
    top.set_ylabel(ylabel, fontsize=8.5, color=style.MUTED)
    bottom.plot(steps, result.away, color=style.INIT, linewidth=1.4, label="from the plane's centre")
    bottom.plot(steps, result.residual, color=style.INK, linewidth=1.4, marker=".", label="from the plane")
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("distance of the network", fontsize=8.5, color=style.MUTED)
    style.steps(bottom, steps)
    for axes in (top, bottom):
        axes.label_outer()
        style.legend(axes)
    return figure


def hidden(rows: Mapping[str, Shadows], label: str) -> Figure:
    """Every network drawn on planes: the loss of its shadow against its own, coloured by its distance from the plane.

    Args:
        rows: which plane -> the networks drawn on it.
        label: of the loss, with unit.
    """
    figure, axes = style.panel(
        "What the pooled planes hide", f"{label}, of the network", f"{label}, of its shadow", (4.1, 3.9)
    )
    losses = [(np.asarray(r.values["train_loss"]), np.asarray(r.shadow["train_loss"])) for r in rows.values()]
    far = max(float(r.residual.max()) for r in rows.values())
    image = None
    for (name, result), (own, flat), marker in zip(rows.items(), losses, ("o", "D"), strict=False):
        image = axes.scatter(
            own, flat, c=result.residual, s=15, marker=marker, cmap="viridis", vmin=0, vmax=far or 1, linewidths=0.3,
            edgecolors="white", label=name,
        )  # fmt: skip
    every = np.concatenate([np.concatenate(both) for both in losses])
    every = every[np.isfinite(every)]
    if len(every):
        ends = [float(every.min()), float(every.max())]
        axes.plot(ends, ends, color=style.INK, linewidth=1, linestyle="--", label="equal")
    if style.spans_decades(every):
        style.log(axes, "x")
        style.log(axes, "y")
    assert image is not None
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03, aspect=26)
    bar.set_label("distance from the plane", fontsize=8.5, color=style.MUTED)
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=2, width=0.6)
    bar.outline.set(edgecolor=style.FAINT)  # type: ignore[call-arg]
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def scree(null: Null, low: float, high: float, percent: str) -> Figure:
    """Shares of the variance along the first components: every trajectory, beside random walks with its step norms.

    Shares that are rounding are left out.

    Args:
        null: the comparison.
        low, high: quantiles between which walks are drawn.
        percent: what the two are, for people.
    """
    figure, axes = style.panel(
        "How many directions does training take?", "principal component", "share of the variance"
    )
    num = null.shares.shape[1]
    shown = null.shares[~np.isnan(null.shares[:, 0])]
    shown = np.where(shown > ROUNDING, shown, np.nan)  # on a logarithmic axis rounding would take most of the room
    drawn = null.walks.reshape(-1, num)
    ends = np.nanquantile(drawn, [low, high], axis=0)
    for k in range(num):
        spread = np.linspace(-0.16, 0.16, len(shown)) if len(shown) > 1 else np.zeros(1)
        axes.fill_between([k + 0.68, k + 1.32], *ends[:, [k, k]], color=WALK, alpha=0.35, linewidth=2.5)
        axes.plot(k + 1 + spread, shown[:, k], color=style.END, marker=".", markersize=4, linestyle="none", alpha=0.7)
        axes.plot([k + 0.68, k + 1.32], [np.nanmedian(null.expected[:, k])] * 2, color=style.INK, linewidth=1.2)
    style.log(axes, "y")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, num + 0.5)
    axes.grid(False, axis="x")
    axes.plot([], [], color=style.END, marker=".", linestyle="none", label="restarts")
    axes.fill_between([], [], [], color=WALK, alpha=0.35, linewidth=0, label=f"random walks, {percent}")
    axes.plot([], [], color=style.INK, linewidth=1.2, label="in infinitely many dimensions")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def components(
    curves: Float[np.ndarray, "seed checkpoint component"], expected: Float[np.ndarray, "seed checkpoint component"]
) -> Figure:
    """The first components over the checkpoints: every restart, and the curve that a random walk has in expectation.

    Args:
        curves: unit components over time, their signs those that fit `expected` best.
        expected: the same of a walk with each restart's step norms; the first is drawn.
    """
    num = curves.shape[2]
    figure = style.canvas((4.1, 0.9 + 1.05 * num))
    every = figure.subplots(num, 1, sharex=True, squeeze=False)[:, 0]
    x = np.arange(curves.shape[1])
    alpha = max(0.12, min(0.6, 6 / len(curves)))
    for k, axes in enumerate(every):
        style.frame(axes)
        axes.plot(x, curves[:, :, k].T, color=style.END, linewidth=0.7, alpha=alpha)
        axes.plot(x, expected[0, :, k], color=style.INK, linewidth=1.3, linestyle="--")
        axes.set_ylabel(f"component {k + 1}", fontsize=8.5, color=style.MUTED)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    every[0].set_title("Components over training", loc="left", fontsize=10, fontweight="bold", color=style.INK, pad=10)
    every[-1].set_xlabel("checkpoint", fontsize=8.5, color=style.MUTED)
    every[-1].set_xlim(0, curves.shape[1] - 1)
    every[-1].xaxis.set_major_locator(MaxNLocator(7, integer=True))
    every[-1].plot([], [], color=style.END, linewidth=1.2, label="restarts")
    every[-1].plot([], [], color=style.INK, linewidth=1.3, linestyle="--", label="expected of a random walk")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def over_steps(
    title: str, ylabel: str, steps: Num[np.ndarray, "step"], rows: Mapping[str, Float[np.ndarray, "_ step"]],
    colors: Sequence[str], *, null: tuple[str, Float[np.ndarray, "step"]] | None = None, log: bool = False,
    band: bool = True,
) -> Figure:  # fmt: skip
    """Quantities over training: medians over restarts as lines, the middle half as bands where there is room.

    Args:
        title: of the panel.
        ylabel: quantity and unit.
        steps: of the values, in training steps.
        rows: label -> values of every restart, NaN where there are none.
        colors: of the rows.
        null: label and values of a null model.
        log: a logarithmic axis, where values span decades.
        band: whether to draw the bands.
    """
    figure, axes = style.panel(title, "", ylabel, (4.1, 3.2))
    for number, ((label, values), color) in enumerate(zip(rows.items(), colors, strict=True)):
        some = values[~np.all(np.isnan(values), axis=1)]
        if len(some) == 0:
            continue
        low, middle, high = _quartiles(some)
        if band and len(some) > 1:
            axes.fill_between(steps, low, high, color=color, alpha=0.22, linewidth=0)
        axes.plot(steps, middle, color=color, linewidth=1.7, linestyle=DASHES[number % len(DASHES)], label=label)
    if null is not None:
        axes.plot(steps, null[1], color=style.INK, linewidth=1.2, linestyle=(0, (2.5, 2)), label=null[0])
    every = np.concatenate([values.ravel() for values in rows.values()])
    if log and style.spans_decades(every[every > 0]):
        style.log(axes, "y")
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    style.steps(axes, np.concatenate([[0.0], steps[steps > 0]]))
    if len(rows) + (null is not None) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def _quartiles(values: np.ndarray) -> np.ndarray:
    """Over seeds, of those that have a value; NaN where none has."""
    there = ~np.all(np.isnan(values), axis=0)
    found = np.full((3, values.shape[1]), np.nan)
    found[:, there] = np.nanquantile(values[:, there], [0.25, 0.5, 0.75], axis=0)
    return found
