"""The loss over lines and planes of weight space."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.axes3d import Axes3D

from analysis.figures import style
from analysis.landscape.surface import Surface

SPLITS = {"train": style.TRAIN, "test": style.TEST}
NUM_LEVELS, DECADES = 12, 5  # bins of the colour scale, and decades that it spans at most
CLIP = 0.95  # quantile of all finite values above which a scale ends
BEYOND, BELOW, UNDEFINED = "#F4E3D7", "#000000", "#B8BEC4"  # above the scale; below it; not finite
OFF = 1e-6  # of the directions' length: a network farther from its plane is marked as off it
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclasses.dataclass(frozen=True)
class Scale:
    """Bins that several surfaces share.

    Attributes:
        edges: of the bins, ascending; evenly spaced in the logarithm where `log`.
        log: whether they are.
    """

    edges: Float[np.ndarray, "edge"]
    log: bool

    @property
    def colors(self) -> Colormap:
        """Viridis, one colour a bin, and colours of their own for what lies above and below."""
        shades = colormaps["viridis"](np.linspace(0, 1, len(self.edges) - 1))
        return ListedColormap(shades).with_extremes(over=BEYOND, under=BELOW, bad=UNDEFINED)

    @property
    def norm(self) -> BoundaryNorm:
        """Value -> bin."""
        return BoundaryNorm(self.edges, len(self.edges) - 1)


def shared_scale(surfaces: Sequence[Surface], metric: str) -> Scale:
    """One scale for all, up to the CLIP quantile of the finite values.

    Logarithmic where positive values span a factor of four: it then begins at the lowest of them, or DECADES below its
    end, or at the lowest anchor, whichever is higher, but never above an anchor.
    """
    values = np.concatenate([np.asarray(s.values[metric]).ravel() for s in surfaces])
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Scale(np.linspace(0, 1, NUM_LEVELS + 1), False)
    low, high = float(values.min()), float(np.quantile(values, CLIP))
    anchors = np.concatenate([s.anchors[metric] for s in surfaces])
    positive = values[values > 0]
    if low >= 0 and len(positive) and high > 4 * positive.min():
        floor = min([high * 10.0**-DECADES, *anchors[np.isfinite(anchors) & (anchors > 0)].tolist()])
        return Scale(np.geomspace(max(float(positive.min()), floor), high, NUM_LEVELS + 1), True)
    high = max(high, low + 1e-9 * max(abs(low), 1.0))
    return Scale(np.linspace(low, high, NUM_LEVELS + 1), False)


def contours(surface: Surface, metric: str, label: str, scale: Scale, title: str) -> Figure:
    """Filled contours over distances; anchors are marked; values above the scale and non-finite ones have own colours.

    Args:
        surface: on a plane.
        metric: which values.
        label: of the colour bar, with unit.
        scale: the bins.
        title: of the panel.

    Raises:
        ValueError: the surface is over a line.
    """
    if surface.plane.num_axes != 2:
        raise ValueError(f"contours take a surface over a plane; this one has {surface.plane.num_axes} axis")
    figure, axes = style.panel(title, "", "", (4.1, 3.8))
    x, y = surface.distances
    values = np.asarray(surface.values[metric])
    finite = np.isfinite(values)
    axes.set_facecolor(UNDEFINED)
    grid = np.ma.masked_array(np.where(finite, values, 0), ~finite).T
    extend = "both" if np.any(values[finite] < scale.edges[0]) else "max"
    axes.contourf(x, y, grid, levels=scale.edges, cmap=scale.colors, norm=scale.norm, extend=extend)
    axes.contour(x, y, grid, levels=scale.edges[1:], colors="white", linewidths=0.4, alpha=0.7)
    bar = figure.colorbar(
        ScalarMappable(scale.norm, scale.colors), ax=axes, extend=extend, fraction=0.05, pad=0.03, aspect=26
    )
    _bar(bar, scale, label)
    _anchors(axes, surface)
    axes.set_aspect("equal")
    axes.set_xlim(float(x[0]), float(x[-1]))
    axes.set_ylim(float(y[0]), float(y[-1]))
    axes.grid(False)
    _distances(axes, surface)
    if not finite.all():
        axes.legend(
            handles=[Patch(color=UNDEFINED, label="not finite")], loc="lower right", fontsize=8, framealpha=0.9,
            edgecolor="none", labelcolor=style.INK,
        )  # fmt: skip
    return figure


def relief(surface: Surface, metric: str, label: str, scale: Scale, title: str) -> Figure:
    """The same values as a surface in three dimensions, cut off above the scale's end; anchors stand on it."""
    figure = Figure(figsize=(4.1, 3.8), facecolor="white")  # the layout of other figures does not know three dimensions
    axes = figure.add_axes((0.0, 0.07, 0.9, 0.84), projection="3d", computed_zorder=False)
    assert isinstance(axes, Axes3D)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=style.INK, pad=2)
    x, y = np.meshgrid(*surface.distances, indexing="ij")
    values = np.asarray(surface.values[metric])
    height = lambda v: np.log10(v) if scale.log else v  # noqa: E731
    shown = np.isfinite(values) & (values >= scale.edges[0])  # what lies below the scale is a gap, not its floor
    inside = np.minimum(np.where(shown, values, np.nan), scale.edges[-1])
    colors = scale.colors(scale.norm(np.where(shown, inside, scale.edges[0])))
    colors[values > scale.edges[-1]] = scale.colors.get_over()
    axes.plot_surface(
        x, y, height(inside), facecolors=colors, rcount=80, ccount=80, linewidth=0, antialiased=False, shade=False,
        rasterized=True,
    )  # fmt: skip
    for anchor, value, marker in zip(
        surface.plane.anchors, surface.anchors[metric], itertools.cycle(MARKERS), strict=False
    ):
        if scale.edges[0] <= value < np.inf:
            place = anchor.coordinates * surface.plane.lengths
            top = height(min(float(value), scale.edges[-1]))
            axes.plot(
                [place[0]], [place[1]], [top], marker=marker, markersize=6, markerfacecolor="white",
                markeredgecolor=style.INK, linestyle="none", label=anchor.name, zorder=10,
            )  # fmt: skip
    axes.view_init(elev=38, azim=-60)
    axes.set_xlabel("distance", fontsize=8, color=style.MUTED)
    axes.set_ylabel("distance", fontsize=8, color=style.MUTED)
    axes.set_zlabel(label, fontsize=8, color=style.MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if scale.log:
        low, high = np.log10(scale.edges[[0, -1]])
        powers = np.arange(np.ceil(low), np.floor(high) + 1)
        if len(powers) > 1:
            axes.zaxis.set_ticks(powers, [f"$10^{{{power:.0f}}}$" for power in powers])
        else:
            ticks = np.linspace(low, high, 4)
            axes.zaxis.set_ticks(ticks, [f"{10**tick:.2g}" for tick in ticks])
    else:
        axes.zaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=8, colors=style.MUTED, pad=0)
    panes: tuple[Any, ...] = (axes.xaxis, axes.yaxis, axes.zaxis)  # mplot3d has no types for these
    for axis in panes:
        axis.pane.set(facecolor="white", edgecolor=style.FAINT)
        axis._axinfo["grid"].update(color=style.FAINT, linewidth=0.5)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", fontsize=8, frameon=False, labelcolor=style.INK, handletextpad=0.2)
    return figure


def bands(
    positions: Float[np.ndarray, "position"], splits: Mapping[str, Float[np.ndarray, "level position"]], ylabel: str
) -> Figure:
    """Quantiles of slices: the median as a line, the middle half and 5 to 95 % as bands, for train and test.

    Args:
        positions: relative distances from the network.
        splits: train and test -> the 5, 25, 50, 75 and 95 % quantiles.
        ylabel: quantity and unit.
    """
    figure, axes = style.panel("Random lines through every restart", "relative distance from the restart", ylabel)
    for split, levels in splits.items():
        finite = np.where(np.isfinite(levels), levels, np.nan)
        color = SPLITS[split]
        axes.fill_between(positions, finite[0], finite[4], color=color, alpha=0.13, linewidth=0)
        axes.fill_between(positions, finite[1], finite[3], color=color, alpha=0.25, linewidth=0)
        axes.plot(positions, finite[2], color=color, linewidth=1.8, label=f"{split}: median")
    every = np.concatenate([levels.ravel() for levels in splits.values()])
    if style.spans_decades(every):
        style.log(axes, "y")
    axes.fill_between([], [], [], color=style.MUTED, alpha=0.4, linewidth=0, label="middle half of the slices")
    axes.fill_between([], [], [], color=style.MUTED, alpha=0.15, linewidth=0, label="5 to 95 % of the slices")
    axes.set_xlim(float(positions[0]), float(positions[-1]))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def _bar(bar, scale: Scale, label: str) -> None:
    bar.set_label(label, fontsize=8.5, color=style.MUTED)
    ticks = scale.edges[::3]
    labels = next(
        (texts for digits in range(2, 9) if len(set(texts := [f"{t:.{digits}g}" for t in ticks])) == len(ticks)), []
    )
    bar.set_ticks(ticks, labels=labels or [f"{t:.9g}" for t in ticks])
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=2, width=0.6)
    bar.ax.minorticks_off()
    bar.outline.set(edgecolor=style.FAINT)


def _anchors(axes: Axes, surface: Surface) -> None:
    """Networks on the plane as white shapes; those off it as grey ones, with their distance from it."""
    for number, (anchor, marker) in enumerate(zip(surface.plane.anchors, itertools.cycle(MARKERS), strict=False)):
        x, y = anchor.coordinates * surface.plane.lengths
        off = anchor.residual > OFF * float(surface.plane.lengths.max())
        axes.plot(
            [x], [y], marker=marker, markersize=6.5, markerfacecolor=UNDEFINED if off else "white",
            markeredgecolor=style.INK, markeredgewidth=1, linestyle="none", zorder=5,
        )  # fmt: skip
        axes.annotate(
            f"{anchor.name} ({anchor.residual:.2g} off)" if off else anchor.name, (x, y), (0, (8, -14)[number % 2]),
            textcoords="offset points", ha="center", fontsize=8, color=style.INK, zorder=6, clip_on=True,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip


def _distances(axes: Axes, surface: Surface) -> None:
    """Distance along the lower and left edges, relative coordinates along the upper one."""
    lengths = surface.plane.lengths
    axes.set_xlabel(f"distance, {surface.plane.names[0]}", fontsize=8.5, color=style.MUTED)
    axes.set_ylabel(f"distance, {surface.plane.names[1]}", fontsize=8.5, color=style.MUTED)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    relative = axes.secondary_xaxis("top", functions=(lambda x: x / lengths[0], lambda c: c * lengths[0]))
    relative.tick_params(labelsize=8, colors=style.MUTED, length=2, width=0.6, pad=1)
    relative.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    relative.set_xlabel("relative", fontsize=8, color=style.MUTED, labelpad=2)
    relative.spines["top"].set(color=style.FAINT)
