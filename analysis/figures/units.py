"""What single weights and units do and look like: magnitude against influence, templates, ranges of weights, calibration."""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.strips import strip
from analysis.statistics import Estimate

LEAST = 1e-9, 1e-5  # smaller changes, and magnitudes, than this share of the largest are drawn at it
CELL = 0.66  # inches that one image takes, at most
LONGEST = 24  # letters of a feature's name
MARGIN = 0.95  # inches for the names of rows
MANY_DOTS = 2000  # more are drawn as pixels inside the SVG
MOST_FITS = 6  # drawn beside each other
SCORE_LOOKS = tuple(
    zip(
        (style.END, style.INIT, style.CYCLE[1], style.CYCLE[0], style.CYCLE[3], style.CYCLE[4]),
        ("-", "-", (0, (5, 1.5)), (0, (1, 1)), "-.", "-"),
        strict=True,
    )
)
MAP = "RdBu_r"  # white is 0, red positive, blue negative; told apart by colour-blind readers


def influence(
    layers: Mapping[str, tuple[Float[np.ndarray, "weight"], Float[np.ndarray, "weight"]]], unit: str
) -> Figure:
    """Magnitude against size of the change of the loss when a weight is removed, a dot a weight, a colour a layer.

    Args:
        layers: label -> (magnitudes, changes of the loss) of one network's weights.
        unit: of the loss.
    """
    figure, axes = style.panel(
        "Large weights, large influence?",
        "magnitude of the weight",
        f"|change of train loss| without it ({unit})",
        (4.1, 3.5),
    )
    top = lambda k: max((float(np.abs(pair[k]).max()) for pair in layers.values() if len(pair[k])), default=0.0) or 1.0  # noqa: E731
    floors = [share * top(k) for k, share in zip((1, 0), LEAST, strict=True)]
    for number, (label, (magnitude, change)) in enumerate(layers.items()):
        axes.scatter(
            np.maximum(magnitude, floors[1]), np.maximum(np.abs(change), floors[0]), s=7, alpha=0.35, linewidths=0,
            color=style.CYCLE[number % len(style.CYCLE)], label=label, rasterized=len(magnitude) > style.MANY_POINTS,
        )  # fmt: skip
    for which in ("x", "y"):
        style.log(axes, which)
    _legend_below(figure, min(len(layers), 3))
    return figure


def correlations(rows: Mapping[str, Mapping[str, tuple[Float[np.ndarray, "seed"], Estimate]]], chance: float) -> Figure:
    """Rank correlations of influence with magnitude, a row a layer, a band of dots a control.

    Args:
        rows: layer -> control -> (one value a seed, their median).
        chance: standard deviation of the correlation of unrelated numbers; twice it is shaded.
    """
    controls = list(next(iter(rows.values())))
    size = (4.1, max(2.6, 1.3 + 0.62 * len(rows)))
    figure, axes = style.panel("How far magnitude tells influence", "Spearman's rank correlation", "", size)
    axes.axvspan(-2 * chance, 2 * chance, color=style.FAINT, zorder=0)
    step = 0.8 / len(controls)
    for y, values in enumerate(rows.values()):
        for number, (control, (each, median)) in enumerate(values.items()):
            place = y + step * (number - (len(controls) - 1) / 2)
            strip(axes, place, each, median, style.CYCLE[controls.index(control)], height=0.24 * step)
    style.rows(axes, list(rows), [style.INK] * len(rows))
    axes.set_xlim(min(-0.1, axes.get_xlim()[0]), 1.02)
    axes.axvline(0, color=style.MUTED, linewidth=0.8)
    for number, control in enumerate(controls):
        axes.plot([], [], "o", markersize=4, color=style.CYCLE[number], label=control)
    _legend_below(figure, 1)
    return figure


def images(
    values: Float[np.ndarray, "row column height width *channel"], rows: Sequence[str], columns: Sequence[str],
    title: str, *, shared: bool = False,
) -> Figure:  # fmt: skip
    """A sheet of images, white where a value is 0, each on a scale of its own that is symmetric around it.

    Args:
        values: what is drawn; NaN leaves a place empty. Three channels are red, green and blue, and 0 is grey.
        rows, columns: their names, beside and above.
        title: of the sheet.
        shared: whether the images of a column have one scale.
    """
    num_rows, num_columns = values.shape[:2]
    cell = min(CELL, (style.PANEL[0] - MARGIN) / num_columns)
    figure = style.canvas((style.PANEL[0], 0.75 + cell * num_rows))
    figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="bold", color=style.INK)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    for row, column in np.ndindex(num_rows, num_columns):
        axes, image = cast(Axes, grid[row, column]), values[row, column]
        _bare(axes)
        if np.all(np.isfinite(image)):
            most = float(np.nanmax(np.abs(values[:, column] if shared else image))) or 1.0
            if image.ndim == 3:
                axes.imshow(0.5 + 0.5 * image / most, interpolation="nearest")
            else:
                axes.imshow(image, cmap=MAP, vmin=-most, vmax=most, interpolation="nearest")
        else:
            axes.set_visible(False)
        if row == 0 and columns:
            axes.set_title(str(columns[column]), fontsize=8, color=style.MUTED, pad=3)
        if column == 0 and rows:
            axes.set_ylabel(rows[row], fontsize=8, color=style.MUTED, rotation=0, ha="right", va="center", labelpad=4)
    return figure


def bars(
    values: Float[np.ndarray, "unit feature"], features: Sequence[str], units: Sequence[str], title: str,
    quantity: str = "weight", each: Float[np.ndarray, "seed unit feature"] | None = None,
) -> Figure:  # fmt: skip
    """Templates of tables: a panel a unit, a bar a feature.

    Args:
        values: weights.
        features: their names, which are shortened where they are long.
        units: names of the panels.
        title: of the sheet.
        quantity: what the bars are.
        each: the same of some seeds, a dot each.
    """
    num = len(values)
    figure = style.canvas((style.PANEL[0], max(2.2, 0.9 + 0.2 * len(features))))
    figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="bold", color=style.INK)
    most = 1.05 * max(float(np.abs(shown).max()) for shown in (values, values if each is None else each)) or 1.0
    grid = figure.subplots(1, num, squeeze=False, sharey=True)[0]
    for number, (axes, weights, unit) in enumerate(zip(grid, values, units, strict=True)):
        style.frame(axes)
        colors = [style.CYCLE[1] if weight > 0 else style.CYCLE[0] for weight in weights]
        axes.barh(range(len(weights)), weights, color=colors, height=0.7)
        for seed in () if each is None else each[:, number]:
            axes.plot(seed, range(len(seed)), "o", markersize=2.2, color=style.INK, alpha=0.55, markeredgewidth=0)
        axes.set_xlim(-most, most)
        axes.axvline(0, color=style.MUTED, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(2, symmetric=True))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        axes.set_title(unit, fontsize=8, color=style.MUTED, pad=3)
    grid[0].set_yticks(range(len(features)), [style.name(feature, LONGEST) for feature in features])
    grid[0].invert_yaxis()
    figure.supxlabel(quantity, fontsize=8.5, color=style.MUTED)
    return figure


def weights(layers: Mapping[str, tuple[Float[np.ndarray, "edge"], Float[np.ndarray, "bin"]]]) -> Figure:
    """Histograms of weights, one line a layer, beside the range in which probabilities would lie.

    Args:
        layers: label -> (edges, share of the weights in each bin).
    """
    figure, axes = style.panel("Where weights lie", "weight", "share of the layer's weights in a bin", (4.1, 3.4))
    axes.axvspan(0, 1, color=style.FAINT, alpha=0.6, zorder=0)
    for number, (label, (edges, shares)) in enumerate(layers.items()):
        axes.stairs(shares, edges, color=style.CYCLE[number % len(style.CYCLE)], linewidth=1.6, label=label)
    axes.axvline(0, color=style.MUTED, linewidth=0.8)
    axes.set_ylim(bottom=0)
    style.percent(axes.yaxis)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    axes.text(0.5, 0.98, "probabilities\nlie here", ha="center", va="top", fontsize=8, color=style.MUTED,
              transform=axes.get_xaxis_transform())  # fmt: skip
    _legend_below(figure, min(len(layers), 3))
    return figure


def reliability(
    confidence: Float[np.ndarray, "seed bin"],
    accuracy: Float[np.ndarray, "seed bin"],
    counts: Int[np.ndarray, "seed bin"],
) -> Figure:
    """Accuracy against confidence: a dot a bin and seed, its area by examples; all seeds together; the diagonal.

    Args:
        confidence: mean probability of the predicted class; NaN in empty bins.
        accuracy: share of right predictions; NaN in empty bins.
        counts: test examples in each bin.
    """
    figure, axes = style.panel(
        "Softmax outputs as probabilities",
        "probability given to the predicted class",
        "share of right predictions",
        (4.1, 3.8),
    )
    axes.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1, linestyle=(0, (3, 2)), label="calibrated")
    known = counts > 0
    axes.scatter(
        confidence[known], accuracy[known], s=3 + 60 * counts[known] / counts[0].sum(), color=style.TEST, alpha=0.3,
        linewidths=0, label="a bin of a restart",
    )  # fmt: skip
    total = counts.sum(axis=0)
    mean = [
        np.divide(np.nansum(values * counts, axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
        for values in (confidence, accuracy)
    ]
    known = total > 0
    axes.plot(
        mean[0][known], mean[1][known], color=style.INK, linewidth=1.8, marker="o", markersize=4, label="all together"
    )
    low = float(np.floor(10 * np.nanmin(confidence)) / 10)
    axes.set_xlim(low, 1.01)
    axes.set_ylim(-0.02, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        style.percent(axis)
    _legend_below(figure, 3)
    return figure


def matching(
    cosine: Float[np.ndarray, "input"], scaled: Float[np.ndarray, "input"], length: Float[np.ndarray, "input"]
) -> Figure:
    """How inputs match one template: dot product over the template's length against the cosine, coloured by length.

    Args:
        cosine: of the angle between input and template.
        scaled: s . w / |w| = |s| cos; its largest, and the largest cosine, are marked.
        length: |s|.
    """
    figure, axes = style.panel(
        "Match or length?", "cosine of input and template", "dot product / |template|", (4.1, 3.9)
    )
    axes.axhline(0, color=style.MUTED, linewidth=0.8)
    axes.axvline(0, color=style.MUTED, linewidth=0.8)
    dots = axes.scatter(
        cosine, scaled, c=length, s=10, cmap="viridis", linewidths=0, alpha=0.8, rasterized=len(cosine) > MANY_DOTS
    )
    for values, marker, label in ((scaled, "^", "largest dot product"), (cosine, "s", "largest cosine")):
        best = int(np.argmax(values))
        axes.plot(
            cosine[best], scaled[best], marker, markersize=9, markerfacecolor="none", markeredgecolor=style.TEST,
            markeredgewidth=1.6, label=label,
        )  # fmt: skip
    bar = figure.colorbar(dots, ax=axes, pad=0.02, aspect=28)
    bar.set_label("length of the input", fontsize=8.5, color=style.MUTED)
    bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=3, width=0.6)
    bar.outline.set_visible(False)  # type: ignore[operator]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    _legend_below(figure, 2)
    return figure


def recurrence(
    trained: Float[np.ndarray, "_"], nulls: Mapping[str, Float[np.ndarray, "_"]], threshold: float
) -> Figure:
    """Histograms of how far units agree with those of other restarts, trained and not, and the threshold.

    Args:
        trained: cosines of all units of all seeds.
        nulls: label -> cosines of units that have less in common; two at most.
        threshold: beyond it a unit counts as recurring.
    """
    figure, axes = style.panel(
        "Which units come back", "cosine with the other restarts' matched units", "share of units in a bin", (4.1, 3.5)
    )
    least = min(float(values.min()) for values in (trained, *nulls.values()))
    edges = np.linspace(min(-0.2, float(np.floor(10 * least) / 10)), 1, 41)
    looks = [(style.INIT, True, 0.4, "-"), (style.CYCLE[1], False, 1.0, (0, (5, 1.5))), (style.END, False, 1.0, "-")]
    drawn = [*nulls.items(), ("trained", trained)]
    for (label, values), (color, fill, alpha, line) in zip(drawn, looks[-len(drawn) :], strict=True):
        shares = np.histogram(values, edges)[0] / len(values)
        axes.stairs(shares, edges, color=color, linewidth=1.6, fill=fill, alpha=alpha, linestyle=line, label=label)
    axes.axvline(threshold, color=style.INK, linewidth=1.1, linestyle=(0, (3, 2)), label="threshold")
    style.percent(axes.yaxis)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    _legend_below(figure, 2)
    return figure


def gabor_fits(
    filters: Float[np.ndarray, "filter height width"], fits: Float[np.ndarray, "filter height width"],
    r2: Float[np.ndarray, "filter"], title: str,
) -> Figure:  # fmt: skip
    """Filters above the Gabor functions nearest to them, evenly chosen from the best fit to the worst.

    Args:
        filters, fits: a filter and its fit have one scale.
        r2: of the fits; filters without one (NaN) are not shown. At least one has it.
        title: of the sheet.
    """
    known = np.flatnonzero(np.isfinite(r2))
    order = known[np.argsort(-r2[known], kind="stable")]
    shown = order[np.linspace(0, len(order) - 1, min(MOST_FITS, len(order))).round().astype(int)]
    scores = [f"R² {r2[k]:.2f}".replace("-", "−") for k in shown]
    return images(np.stack([filters[shown], fits[shown]]), ["filter", "fit"], scores, title, shared=True)


def gabor_scores(kinds: Mapping[str, Float[np.ndarray, "_"]]) -> Figure:
    """Cumulative shares of R^2, a line a kind of filter, the first one stronger; R^2 below 0 is drawn at 0.

    Args:
        kinds: label -> R^2 of its filters; NaN is left out, and so are kinds without any. At most six.
    """
    figure, axes = style.panel(
        "How well Gabor functions fit", "R² of the fit", "share of filters at most there", (4.1, 3.6)
    )
    for number, ((label, r2), look) in enumerate(zip(kinds.items(), SCORE_LOOKS, strict=False)):
        if len(known := r2[np.isfinite(r2)]):
            color, line = look
            width = 1.4 if number else 2.4
            axes.ecdf(np.maximum(known, 0), color=color, linewidth=width, linestyle=line, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    style.percent(axes.yaxis)
    _legend_below(figure, 2)
    return figure


def _legend_below(figure: Figure, columns: int) -> None:
    legend = figure.legend(
        loc="outside lower center", ncols=columns, frameon=False, fontsize=8, labelcolor=style.INK, markerscale=1.4
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=style.FAINT, linewidth=0.6)
