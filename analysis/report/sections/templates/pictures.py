"""Pictures of templates, of units that come back, of types of units, and of the inputs that units answer to."""

from collections.abc import Iterator

import numpy as np

from analysis.figures import units as figures
from analysis.report.section import Picture
from analysis.report.sections.templates.measured import Measured
from analysis.report.shared import as_images, by_channels, channels
from analysis.units import Matches, Types, deconvolutions, gradient_images, greatest_inputs
from wspace.models import ConvNet
from wspace.run import Run
from wspace.tree import Params, pick

SHOWN_UNITS, SHOWN_SEEDS, SHOWN_BARS, MOST_BARS = 6, 4, 3, 30
EXAMPLES = 3  # units of a type
MOST_DOTS = 12  # restarts beside the bars of their mean


def draw(run: Run, params: Params, found: Measured, rng: np.random.Generator) -> Iterator[Picture]:
    """Templates, units that come back, types of units, strongest inputs: those that the run allows."""
    chosen = _chosen(found)
    names = [f"unit {unit + 1}" for unit in chosen]
    aligned = "aligned " if found.recurrence else ""
    seeds = range(min(SHOWN_SEEDS, len(found.aligned)))
    labels = [f"seed {found.ids[seed]}" for seed in seeds]
    shown = found.aligned[: len(labels), chosen]
    if found.recurrence is not None:
        consensus = found.recurrence.consensus[chosen].reshape(1, *shown.shape[1:])
        shown, labels = np.concatenate([consensus, shown]), ["all seeds", *labels]
    sheet = _drawable(run, shown)
    if sheet is not None:
        yield Picture(
            "templates",
            figures.images(sheet, labels, names, "Incoming weights"),
            f"Templates of the first layer: a row for each {aligned}restart, a column for each unit"
            + (", those first that agree most with the other restarts. " if found.recurrence else ". ")
            + "Each has a scale of its own; "
            + colours(run)
            + (" Above: the mean direction over all restarts." if found.recurrence else ""),
            "Images of incoming weights, a row a restart, a column a unit.",
        )
    else:
        yield _bars(run, found, chosen[:SHOWN_BARS])
    if (matching := _matching(found.of_first)) is not None:
        yield matching
    if found.recurrence is not None and found.untrained is not None:
        yield Picture(
            "recurrence",
            figures.recurrence(
                found.recurrence.agreement.ravel(),
                {"untrained": found.untrained.null.ravel(), "surrogates": found.recurrence.null.ravel()},
                found.recurrence.threshold,
            ),
            "Cosine of each unit's template with the mean of the other restarts' matched ones, all units of all restarts; "
            "beside it the same networks before training, and surrogates, units drawn with the mean and covariance of the "
            "trained ones, all aligned in the same way. Dashed: what few surrogates exceed.",
            "Histograms of agreement with other restarts: trained {agreement:value}, untrained {agreement_untrained:value}, "
            "surrogates {agreement_drawn:value}.",
        )
    if found.types and found.types.spread.max() > 1 / len(found.types.labels):
        yield _types(run, found, found.types)
    if found.varies.any():
        images = as_images(run, run.data.x_train[:1]) is not None
        yield _strongest(run, params, found, rng) if images else _strongest_bars(run, found)


def _chosen(found: Measured) -> np.ndarray:
    """Units to show: those that agree most with the other restarts, or the first ones."""
    if found.recurrence is None:
        return np.arange(min(SHOWN_UNITS, found.aligned.shape[1]))
    return np.argsort(-np.median(found.recurrence.agreement, axis=0), kind="stable")[:SHOWN_UNITS]


def _bars(run: Run, found: Measured, chosen: np.ndarray) -> Picture:
    """The mean direction over all restarts where they are aligned, with a dot each; otherwise the weights of the first."""
    titles = [f"unit {unit + 1}" for unit in chosen]
    if found.recurrence is not None:
        weights = found.recurrence.consensus[chosen]
        units = found.aligned[:, chosen].reshape(len(found.aligned), len(chosen), -1)
        length = np.linalg.norm(units, axis=-1, keepdims=True)
        each = np.divide(units, length, out=np.zeros_like(units), where=length > 0)[:MOST_DOTS]
        text = "Templates of the first layer, each divided by its length: bars are the mean over all aligned restarts, dots "
        text += "are restarts; those units that agree most with the other restarts"
    else:
        weights, each = found.aligned[0][chosen].reshape(len(chosen), -1), None
        text = "Templates of the first layer of one restart: a bar for each feature, all on one scale"
    kept = _largest(weights)
    names = [run.data.feature_names[k] for k in kept]
    dots, quantity = (None, "weight") if each is None else (each[..., kept], "weight / |template|")
    return Picture(
        "templates",
        figures.bars(weights[:, kept], names, titles, "Incoming weights", quantity, dots),
        text
        + ("." if len(kept) == run.data.num_features else ". Drawn are those features that have the largest weights."),
        "Bars of incoming weights, a panel a unit.",
    )


def _matching(found: Matches) -> Picture | None:
    """Of the unit that answers most; None where it never does, or its template is zero."""
    differ = found.dot.argmax(axis=1) != found.cosine.argmax(axis=1)
    top = found.activation.max(axis=1)
    unit = int(np.argmax(np.where(differ, top, -np.inf) if differ.any() else top))
    if found.template_norm[unit] == 0 or np.ptp(found.dot[unit]) == 0:
        return None
    return Picture(
        "matching",
        figures.matching(found.cosine[unit], found.dot[unit] / found.template_norm[unit], found.input_norm),
        "One unit of one restart, that answers most"
        + (" of those whose best inputs by dot product and by cosine differ" if differ.any() else "")
        + ", and all inputs that are looked at: a dot each. Height is cosine times "
        "length: of inputs at the same angle the longer one counts more, and a long input at a poorer angle can win.",
        "Scatter of dot product against cosine; lengths of inputs as colours.",
    )


def _types(run: Run, found: Measured, kinds: Types) -> Picture:
    """The types that most restarts have: their centres, and a unit of each in some restarts."""
    order = np.argsort(-kinds.spread, kind="stable")[: min(SHOWN_UNITS, np.sum(kinds.spread > 1 / len(kinds.labels)))]
    shape, num = found.aligned.shape[2:], len(kinds.labels)
    names = [f"{kinds.spread[kind] * num:.0f} of {num}" for kind in order]
    centres = kinds.centres[order].reshape(len(order), *shape)
    if (sheet := _drawable(run, centres[None])) is None:
        weights = centres[:SHOWN_BARS].reshape(min(SHOWN_BARS, len(order)), -1)
        kept = _largest(weights)
        features = [run.data.feature_names[k] for k in kept]
        return Picture(
            "types",
            figures.bars(weights[:, kept], features, names[:SHOWN_BARS], "Types of units", "mean direction"),
            "Types of units, those in most restarts first: the mean direction of the incoming weights of each, and above "
            "it in how many restarts it occurs.",
            "Bars of the mean direction of each type, a panel a type.",
        )
    drawn = _drawable(run, found.aligned)
    assert drawn is not None
    homes = [
        [(seed, int(np.argmax(row == kind))) for seed, row in enumerate(kinds.labels) if np.any(row == kind)][:EXAMPLES]
        for kind in order
    ]
    members = np.full((max(map(len, homes)), *sheet.shape[1:]), np.nan)
    for column, places in enumerate(homes):
        for row, place in enumerate(places):
            members[row, column] = drawn[place]
    return Picture(
        "types",
        figures.images(
            np.concatenate([sheet, members]),
            ["mean", *(f"unit {k + 1}" for k in range(len(members)))],
            names,
            "Types of units",
        ),
        "Types of units, those in most restarts first, and in how many restarts each occurs: the mean direction of its "
        "incoming weights, and below it a unit of the type from each of the first restarts that have one. Scales differ; "
        + colours(run),
        "Images of incoming weights, a column a type of unit.",
    )


def _strongest(run: Run, params: Params, found: Measured, rng: np.random.Generator) -> Picture:
    """The last hidden layer of the first restart: strongest inputs; above the first layer, what they project to as well."""
    one = pick(params, 0)
    order = _answering(found)[:SHOWN_UNITS]
    x = run.data.x_train[found.top.examples[0]]
    rows = {f"input {rank + 1}": run.data.as_given(x[:, rank]) for rank in range(x.shape[1])}
    where = _where(run)
    caption = (
        f"One restart; the {where} that answer most to any train example. From above: the examples that each answers "
    )
    caption += "to most, as they were given"
    if found.layer > 0:
        rows |= _projections(run, one, x[:, :1], found.layer, rng)
        caption += (
            "; the gradient of its answer at the first of them"
            + ("; the same sent back by a deconvnet, rectified on its way" if "deconvnet" in rows else "")
            + "; and an input, as long as a typical example, that raises what the unit receives most, of several ascents"
            + (" (below the inputs, all is in standardised units)" if run.spec.data.standardize else "")
        )
    sheet = as_images(run, np.stack([values[order] for values in rows.values()]))
    assert sheet is not None
    return Picture(
        "strongest",
        figures.images(sheet, list(rows), [f"unit {unit + 1}" for unit in order], where.capitalize()),
        caption + ". Units are numbered as trained. Scales differ; " + colours(run),
        f"Images for {where}: "
        + ("strongest inputs, gradients, and inputs of greatest response." if found.layer > 0 else "strongest inputs."),
    )


def _strongest_bars(run: Run, found: Measured) -> Picture:
    """The last hidden layer of the first restart: the mean of the strongest inputs, with a dot each."""
    order, where = _answering(found)[:SHOWN_BARS], _where(run)
    x = run.data.x_train[found.top.examples[0, order]].astype(float)  # (unit, rank, feature)
    kept = _largest(x.mean(axis=1))
    unit = "standardised value" if run.spec.data.standardize else "value"
    return Picture(
        "strongest",
        figures.bars(
            x.mean(axis=1)[:, kept], [run.data.feature_names[k] for k in kept], [f"unit {k + 1}" for k in order],
            f"Inputs of {where}", unit, np.moveaxis(x[..., kept], 1, 0),
        ),
        f"One restart; the {where} that answer most to any train example: the mean of the examples that each answers to "
        "most, and a dot for each example; units are numbered as trained"
        + ("." if len(kept) == run.data.num_features else ". Drawn are those features that differ most from zero."),
        f"Bars of the strongest inputs, a panel for each of the {where}.",
    )  # fmt: skip


def _answering(found: Measured) -> np.ndarray:
    """Units that do not hand on the same for all examples, those that answer most first."""
    strength = np.where(found.varies, found.top.values[0, :, 0], -np.inf)
    return np.argsort(-strength, kind="stable")[: found.varies.sum()]


def _where(run: Run) -> str:
    return "units of the last hidden layer" if run.model.num_layers > 1 else "outputs"


def _projections(
    run: Run, one: Params, x: np.ndarray, layer: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:  # fmt: skip
    """What each unit's strongest input (unit, 1, feature) projects to, and the input that raises the unit most."""
    rows = {"gradient": gradient_images(run.model, one, x, layer=layer)[:, 0]}
    if run.model.activation == "relu":
        rows["deconvnet"] = deconvolutions(run.model, one, x, layer=layer)[:, 0]
    radius = float(np.sqrt(np.mean(np.sum(np.square(run.data.x_train, dtype=np.float64), axis=1))))
    rows["greatest"] = greatest_inputs(run.model, one, run.data.num_features, layer=layer, radius=radius, rng=rng).best
    return rows


def _drawable(run: Run, weights: np.ndarray) -> np.ndarray | None:
    """Templates (..., *shape) as images (..., height, width), in colour with a last axis of 3, or None."""
    return by_channels(weights) if isinstance(run.model, ConvNet) else as_images(run, weights)


def _largest(weights: np.ndarray) -> np.ndarray:
    """Positions of the features that have bars: those of the largest weights, in their own order."""
    return np.sort(np.argsort(-np.abs(weights).max(axis=0), kind="stable")[:MOST_BARS])


def colours(run: Run) -> str:
    """What the colours of an image stand for, as the end of a sentence."""
    if channels(run) == 3:
        return "channels are red, green and blue, and zero is grey."
    drawn = " Drawn is the mean over the channels of the inputs." if channels(run) > 1 else ""
    return f"red is positive, blue negative, white zero.{drawn}"
