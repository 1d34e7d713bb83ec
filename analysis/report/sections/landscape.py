"""Section: the loss on planes through restarts and on random lines through them."""

import dataclasses

import jax
import numpy as np

from analysis.figures import landscape as figures
from analysis.landscape import Surface, slices
from analysis.landscape.slices import Slices
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.report.shared import PLANES, forward_flops, restart_surfaces
from analysis.statistics import Estimate
from analysis.training import metric_unit
from wspace.run import Run
from wspace.tree import Params

NUM_POSITIONS, NUM_DIRECTIONS, MOST_SEEDS = 21, 8, 32
SLICES_FLOPS = 2e12  # what all slices may cost: a quarter of a minute
RELATIVE, ABSOLUTE = 1e-3, 1e-5  # float32 rounding of a stored loss stays inside


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Surfaces through three restarts, raw and aligned, and an ensemble of random lines."""
    ids = run.seeds[run.converged()].tolist()
    params = run.params(ids[: max(MOST_SEEDS, 3)])
    unit = metric_unit("train_loss", run.loss_kind)
    findings: dict[str, Finding] = {}
    surfaces = restart_surfaces(run, tell)
    findings |= _surface_findings(run, ids, surfaces, unit)
    lines = _slices(run, params, rng, tell)
    findings |= _slice_findings(run, lines, unit, rng)
    return Content(
        findings=findings,
        headline=_headline(findings, surfaces),
        says=tuple(_says(findings, surfaces, len(ids))),
        shows=_shows(findings, surfaces),
        reads=(
            "Each colour is a range of losses; ranges grow by equal factors where the scale is logarithmic. The planes "
            "share scale and extent, and pass through the marked restarts. Distances are those of weight space; the upper "
            "edge counts the distance between the first two marked restarts as one. "
            if surfaces
            else ""
        )
        + "On the random lines a step of one is as large as the weights, unit by unit, and biases stay (filter "
        "normalisation), so that networks of other scales can be compared.",
        limits="A plane is a sample of a space of {num_params} dimensions: what looks like a wall here may have a way "
        "around it, and what looks like a valley may be one of many. Random directions see averages over all directions, "
        "not the steepest. "
        + (
            "The scale ends at {scale_end:value}; above, the height of the loss is not drawn ({clipped} of the points). "
            if surfaces
            else ""
        )
        + (
            "What lies below the scale is black ({below} of the points), and a gap in the relief. "
            if surfaces and findings["below"]["value"]
            else ""
        )
        + "Losses are without the weight penalty, in single precision, exact on all examples. A low place on a picture is "
        "not certified to be a minimum.",
        pictures=tuple(_pictures(findings, surfaces, lines, unit)),
    )


def _slices(run: Run, params: Params, rng: np.random.Generator, tell: Tell) -> Slices:
    each = forward_flops(run) * NUM_POSITIONS * NUM_DIRECTIONS
    num = int(np.clip(SLICES_FLOPS // each, 3, MOST_SEEDS))
    some = jax.tree.map(lambda leaf: np.asarray(leaf)[:num], params)
    return slices(
        run.model, run.loss_kind, some, run.data, rng=rng, num_directions=NUM_DIRECTIONS, num=NUM_POSITIONS,
        metrics=("train_loss", "test_loss"), path=run.path / "slices", progress=tell,
    )  # fmt: skip


def _surface_findings(run: Run, ids: list[int], surfaces: dict[str, Surface], unit: str) -> dict[str, Finding]:
    findings = {"num_params": finding(run.layout.size)}
    if not surfaces:
        return findings
    stored = run.metrics["train_loss"][np.flatnonzero(run.converged())[:3], -1].astype(np.float64)
    scale = figures.shared_scale(list(surfaces.values()), "train_loss")
    drawn = np.concatenate([s.values["train_loss"].ravel() for s in surfaces.values()])
    found = [values["train_loss"] for s in surfaces.values() for values in (s.anchors, s.projected)]
    mismatch = max(float(np.max(np.abs(losses - stored))) for losses in found)
    agree = all(np.allclose(losses, stored, RELATIVE, ABSOLUTE) for losses in found)
    findings |= {
        "plane_seeds": finding([str(seed) for seed in ids[:3]], n=3),
        "points": finding(len(drawn) // len(surfaces)),
        "anchor_mismatch": finding(Estimate(mismatch, None, 3, unit)),
        "anchors_agree": finding(agree, n=3),
        "scale_end": finding(Estimate(float(scale.edges[-1]), None, 3, unit)),
        "clipped": finding(Estimate(float(np.mean(drawn > scale.edges[-1])), None, 3, "share")),
        "below": finding(Estimate(float(np.mean(drawn < scale.edges[0])), None, 3, "share")),
        "not_finite": finding(Estimate(float(np.mean(~np.isfinite(drawn))), None, 3, "share")),
    }
    if "aligned" in surfaces:
        signs = run.model.symmetry.sign
        findings["relabelling"] = finding(
            "permutations and signs of hidden units" if signs else "permutations of hidden units"
        )
    for way, surface in surfaces.items():
        findings[f"{way}_side"] = finding(Estimate(float(surface.plane.lengths[0]), None, 3, ""))
        for split in ("train", "test"):
            values = {"mean": surface.centre[f"{split}_loss"], "anchors": surface.anchors[f"{split}_loss"].max()}
            for name, value in values.items():
                if np.isfinite(value):
                    findings[f"{way}_{split}_{name}"] = finding(Estimate(float(value), None, 3, unit))
    return findings


def _slice_findings(run: Run, lines: Slices, unit: str, rng: np.random.Generator) -> dict[str, Finding]:
    num = len(lines.lengths)
    findings = {
        "slice_seeds": finding(num, n=num),
        "slices": finding(lines.lengths.size, n=num),
        "slice_length": finding(Estimate(float(np.median(lines.lengths)), None, num, "")),
    }
    for split in ("train", "test"):
        for name, position in (("half", 0.5), ("one", 1.0)):
            rise = lines.median_at(f"{split}_loss", position, rng=rng, unit=unit)
            if np.isfinite(rise.value):
                finite = rise.ci is not None and bool(np.all(np.isfinite(rise.ci)))
                findings[f"{split}_rise_{name}"] = finding(rise if finite else dataclasses.replace(rise, ci=None))
    centre = lines.values["train_loss"][:, :, NUM_POSITIONS // 2]
    tolerance = float(1e-5 * np.max(np.abs(centre))) if np.all(np.isfinite(centre)) else 0.0
    findings["train_lower"] = finding(lines.share_lower("train_loss", tolerance=tolerance, rng=rng))
    return findings


def _headline(findings: dict[str, Finding], surfaces: dict[str, Surface]) -> str:
    if not all(f"{way}_train_mean" in findings for way in ("raw", *surfaces)):
        return ""
    if "aligned" in surfaces:
        return (
            "At the mean of three restarts the train loss is {raw_train_mean}, and {aligned_train_mean} once they are "
            "aligned; at the restarts themselves it is {raw_train_anchors} at most (one plane each)."
        )
    return (
        "At the mean of three restarts the train loss is {raw_train_mean}; at the restarts themselves it is "
        "{raw_train_anchors} at most (one plane)."
    )


def _says(findings: dict[str, Finding], surfaces: dict[str, Surface], num: int):
    if surfaces:
        yield (
            "The plane through the first three restarts that were trained to the end, seeds {plane_seeds}, has sides of "
            "{raw_side} between the first two"
            + (", and of {aligned_side} after alignment" if "aligned" in surfaces else "")
            + "."
            + "".join(_at_the_mean(findings, way) for way in surfaces)
            + " At the restarts the largest train loss is {raw_train_anchors}."
        )
        yield (
            "Check: the losses at the marked restarts, from their own weights and where the planes have them, agree with "
            "those stored in training (largest difference {anchor_mismatch})."
            if findings["anchors_agree"]["value"]
            else "Check failed: the losses at the marked restarts, or where the planes have them, differ from those stored "
            "in training by up to {anchor_mismatch}. Distrust this section."
        )
    elif num < 3:
        yield "A plane takes three restarts; there are fewer, so only lines are drawn."
    else:
        yield "The first three restarts lie on one line or are equal: no plane passes through them."
    if "train_rise_half" in findings:
        yield (
            f"On {{slices}} random lines through {{slice_seeds}} {_restarts(findings)} the train loss rises by a median of "
            "{train_rise_half} "
            "at half the size of the weights"
            + (" and of {train_rise_one} at their whole size" if "train_rise_one" in findings else "")
            + "; it falls below its value at the restart somewhere on {train_lower} of the lines."
        )
    if surfaces and findings["not_finite"]["value"]:
        yield "The loss is not finite at {not_finite} of the points of the planes; they have a colour of their own."


def _at_the_mean(findings: dict[str, Finding], way: str) -> str:
    where = f" At the mean of the three, {PLANES[way]}, "
    if not all(f"{way}_{split}_mean" in findings for split in ("train", "test")):
        return where + "the loss is not finite."
    return where + f"the train loss is {{{way}_train_mean}} and the test loss {{{way}_test_mean}}."


def _restarts(findings: dict[str, Finding]) -> str:
    return plural(findings["slice_seeds"]["value"], "restart", "restarts")


def _mean_of(findings: dict[str, Finding], way: str) -> str:
    return f"{{{way}_train_mean}}" if f"{way}_train_mean" in findings else "not finite"


def _shows(findings: dict[str, Finding], surfaces: dict[str, Surface]) -> str:
    planes = (
        "The train loss at {points} points of the plane through three restarts"
        + (
            ", and of the plane through the same three, the second and the third aligned to the first by weight matching ("
            "{relabelling})"
            if "aligned" in surfaces
            else ""
        )
        + ". " if surfaces else ""
    )  # fmt: skip
    return planes + (
        f"Train and test loss on {{slices}} lines in random directions through {{slice_seeds}} {_restarts(findings)}: what "
        "is common to many "
        "slices, and how much they differ."
    )


def _pictures(findings: dict[str, Finding], surfaces: dict[str, Surface], lines: Slices, unit: str):
    label = f"train loss ({unit})"
    scale = figures.shared_scale(list(surfaces.values()), "train_loss") if surfaces else None
    for way, surface in surfaces.items():
        assert scale is not None
        yield Picture(
            f"plane-{way}",
            figures.contours(surface, "train_loss", label, scale, f"Through three restarts, {PLANES[way]}"),
            f"Train loss on the plane through three restarts, {PLANES[way]}. White shapes: the restarts. The palest colour "
            "lies above the scale, which both planes share. One plane of one triple.",
            f"Contour map of the train loss on the plane through three restarts, {PLANES[way]}; at their mean it is "
            f"{_mean_of(findings, way)}.",
        )
    if scale is not None:
        yield Picture(
            "relief",
            figures.relief(surfaces["raw"], "train_loss", label, scale, "The first plane as a relief"),
            "The train loss of the first plane as height, cut off where the scale ends. White shapes: the restarts.",
            "Relief of the train loss on the plane through three restarts as trained: at most {raw_train_anchors} at the "
            f"restarts, {_mean_of(findings, 'raw')} at their mean.",
        )  # fmt: skip
    splits = {split: lines.bands(f"{split}_loss") for split in ("train", "test")}
    yield Picture(
        "slices",
        figures.bands(lines.positions, splits, f"loss ({unit})"),
        "Loss on random lines through every restart: quantiles over all {slices} lines. Bands say "
        "how much slices differ; they are no intervals.",
        "Line chart of train and test loss against the relative distance from the restart, median and bands"
        + ("; the median train loss has risen by {train_rise_half} at half a step." if _risen(lines) else "."),
    )


def _risen(lines: Slices) -> bool:
    at = np.isclose(np.abs(lines.positions), 0.5)
    return bool(np.isfinite(np.median(lines.rise("train_loss")[:, :, at])))


SECTION = Section(
    "landscape",
    "The loss around and between restarts",
    "What does the loss look like on planes through restarts, and along random directions?",
    some_converged,
    write,
)
