"""How restarts hang together: barrier matrices, the trees of merging components, curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.connectivity.merge_tree import MergeTree
from analysis.figures import style

MOST_NAMES = 16  # more seeds than this and their ids are not written out


def matrix(
    values: Float[np.ndarray, "seed seed"], order: Int[np.ndarray, "seed"], ids: Sequence[int], title: str, label: str,
    top: float,
) -> Figure:  # fmt: skip
    """A matrix over pairs of seeds as colours, seeds in the given order.

    Args:
        values: symmetric, at least 0; the diagonal is left blank.
        order: of the seeds, e.g. that of a merge tree, so that what is connected lies together.
        ids: of the seeds.
        title: of the panel.
        label: of the colour bar, with unit.
        top: end of the colour scale, shared by several panels.
    """
    figure, axes = style.panel(title, "seed", "seed", (4.1, 3.7))
    shown = np.ma.masked_array(values[np.ix_(order, order)], np.eye(len(order), dtype=bool))
    image = axes.imshow(shown, cmap="viridis", vmin=0, vmax=top or 1, interpolation="nearest", rasterized=True)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03, aspect=26)
    bar.set_label(label, fontsize=8.5, color=style.MUTED)
    bar.locator = MaxNLocator(6)
    bar.update_ticks()
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=2, width=0.6)
    bar.outline.set(edgecolor=style.FAINT)  # type: ignore[call-arg]
    named = len(order) <= MOST_NAMES
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(range(len(order)) if named else [], [str(ids[i]) for i in order] if named else [])
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    return figure


def tree(
    result: MergeTree, ids: Sequence[int], title: str, ylabel: str, limits: tuple[float, float], log: bool, color: str
) -> Figure:
    """The disconnectivity tree: each restart a leaf at its own loss, branches joined where their components merge.

    Args:
        result: the tree.
        ids: of the seeds.
        title: of the panel.
        ylabel: the level, with unit.
        limits: of the levels, shared by several panels.
        log: whether the levels are on a logarithmic axis.
        color: of the branches.
    """
    figure, axes = style.panel(title, "seed", ylabel, (4.1, 3.4))
    if log:
        axes.set_yscale("log")
    axes.set_ylim(*limits)
    if log:
        style.log(axes, "y")
    place = np.empty(len(result.leaves))
    place[result.order] = np.arange(len(place))
    centres, levels = list(place), list(result.leaves)
    for (a, b), height in zip(result.children, result.height, strict=True):
        axes.plot(
            [centres[a], centres[a], centres[b], centres[b]], [levels[a], height, height, levels[b]], color=color,
            linewidth=1.3, solid_joinstyle="miter",
        )  # fmt: skip
        centres.append((centres[a] + centres[b]) / 2)
        levels.append(height)
    axes.plot(place, result.leaves, color=style.INK, marker="o", markersize=3.5, linestyle="none", zorder=3)
    named = len(place) <= MOST_NAMES
    axes.set_xticks(range(len(place)) if named else [], [str(ids[i]) for i in result.order] if named else [])
    axes.set_xlim(-0.7, len(place) - 0.3)
    axes.grid(False, axis="x")
    return figure


def components(
    levels: Float[np.ndarray, "level"], counts: Mapping[str, tuple[Int[np.ndarray, "level"], str]], unit: str
) -> Figure:
    """Number of components as a function of the barrier that is no obstacle, one line for each way of labelling.

    Args:
        levels: thresholds, positive, ascending.
        counts: label -> (components at each level, colour).
        unit: of the barrier.
    """
    figure, axes = style.panel(
        "Into how many groups do restarts fall?",
        f"barriers up to this are no obstacle ({unit})",
        "number of components",
    )
    for (label, (values, color)), dashes in zip(counts.items(), ("-", "-", ":", "--", "-."), strict=False):
        axes.step(levels, values, where="post", color=color, linewidth=1.8, linestyle=dashes, label=label)
    axes.set_xscale("log")
    axes.set_xlim(float(levels[0]), float(levels[-1]))
    style.log(axes, "x")
    axes.set_ylim(0, max(int(values.max()) for values, _ in counts.values()) * 1.06 + 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure


def paths(
    alphas: Float[np.ndarray, "alpha"], losses: Mapping[str, tuple[Float[np.ndarray, "pair alpha"], str]], ylabel: str
) -> Figure:
    """The loss along several kinds of paths between the same pairs: every pair thin, the median thick.

    Args:
        alphas: share of the path's length.
        losses: label -> (loss of every pair, colour).
        ylabel: quantity and unit.
    """
    figure, axes = style.panel("Straight lines and curves", "share of the path's length", ylabel, (4.1, 3.5))
    for values, color in losses.values():
        for line in values:
            axes.plot(alphas, line, color=color, linewidth=0.5, alpha=0.35)
    for (label, (values, color)), dashes in zip(losses.items(), ("-", "-", "--", "-."), strict=False):
        axes.plot(alphas, np.median(values, axis=0), color=color, linewidth=2.2, linestyle=dashes, label=label)
    every = np.concatenate([values.ravel() for values, _ in losses.values()])
    if style.spans_decades(every):
        style.log(axes, "y")
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["a", "¼", "½", "¾", "b"])
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=style.INK)
    return figure
