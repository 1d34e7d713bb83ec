"""Section: how far, how fast and how straight training travels, and how far apart restarts are on the way."""

import numpy as np

from analysis.figures import style
from analysis.figures import trajectory as figures
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.report.shared import PLANES, labelled, trajectories
from analysis.statistics import Estimate, median, median_over_pairs, pair_values
from analysis.travel import Travel, apart, travel
from wspace.run import Run


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Distances along trajectories, layer by layer too, and between restarts at every checkpoint."""
    rows = np.flatnonzero(run.converged())
    travelled = travel(run.theta, run.checkpoint_steps, layout=run.layout, seeds=rows)
    findings = {"seeds": finding(len(rows), n=len(rows)), "checkpoints": finding(len(run.checkpoint_steps))}
    findings |= _travel_findings(travelled, rng)
    few, steps, _, theta = trajectories(run)
    between = {way: apart(values) for way, values in labelled(run, theta, tell).items()} if len(few) > 1 else {}
    findings |= _apart_findings(between, rng)
    return Content(
        findings=findings,
        headline=_headline(findings),
        says=tuple(_says(findings, between)),
        shows="Euclidean distances along the trajectories of {seeds} "
        f"{plural(len(rows), 'restart', 'restarts')}, seen at {{checkpoints}} checkpoints, of all weights and layer by "
        "layer; and between restarts at each of them.",
        reads="A straightness of one is a straight line. In many dimensions independent steps are at right angles to each "
        "other: what the same steps would reach in such directions is the null model of each curve.",
        limits="Checkpoints are snapshots: between them the path is longer and more crooked than the chords that are "
        "measured. Layers differ in size, so that their distances compare training only with itself. The distance between "
        "restarts is raw, or after one relabelling of each restart for all of its checkpoints, the one that fits its end.",
        pictures=tuple(_pictures(findings, travelled, steps, between)),
        facts=tuple(_facts(findings, travelled)),
    )


def _travel_findings(travelled: dict[str, Travel], rng: np.random.Generator) -> dict[str, Finding]:
    findings: dict[str, Finding] = {}
    for place, (name, of) in enumerate(travelled.items()):
        key = "" if name == "all" else f"layer_{place}_"
        if name != "all":
            findings[f"{key}name"] = finding(_layer(name))
        findings[f"{key}distance"] = finding(_over_seeds(of.from_init[:, -1], rng))
        moved = of.path[:, -1] > 0
        if moved.any():
            findings[f"{key}straightness"] = finding(_over_seeds(of.straightness, rng))
    of = travelled["all"]
    findings["straightness_walk"] = finding(_over_seeds(of.straightness_null, rng))
    findings["path"] = finding(_over_seeds(of.path[:, -1], rng))
    angles = np.array([np.nan if np.all(np.isnan(row)) else np.nanmedian(row) for row in of.angle])
    if not np.all(np.isnan(angles)):
        findings["angle"] = finding(_over_seeds(angles, rng, "degrees"))
        findings["right_angle"] = finding(90, unit="degrees")
    return findings


def _apart_findings(between: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, Finding]:
    findings = {}
    for way, matrices in between.items():
        for name, matrix in (("start", matrices[0]), ("end", matrices[-1])):
            findings[f"apart_{way}_{name}"] = finding(median_over_pairs(matrix, rng=rng))
    return findings


def _headline(findings: dict[str, Finding]) -> str:
    if "straightness" not in findings:
        return ""
    return (
        "Training ends {distance} away from its start after a path of {path:value} between checkpoints (straightness "
        "{straightness:value}, of steps in independent directions {straightness_walk:value}; {seeds:n} "
        f"{plural(findings['seeds']['value'], 'seed', 'seeds')})."
    )


def _says(findings: dict[str, Finding], between: dict[str, np.ndarray]):
    restart = "the restart" if findings["seeds"]["value"] == 1 else "the median restart"
    if "straightness" not in findings:
        yield "None of {seeds} restarts moved away from where it started."
        return
    yield (
        f"From start to end {restart} gets {{distance}} away on a path of {{path}} between checkpoints: a straightness of "
        "{straightness}, where one is a straight line and independent directions would give {straightness_walk:value}."
        + (
            " Successive displacements make an angle of {angle} (median over training); independent ones would make one of "
            "{right_angle}."
            if "angle" in findings
            else ""
        )
    )
    if "apart_raw_end" in findings:
        yield (
            "Restarts are {apart_raw_start} apart where they start and {apart_raw_end} where they end"
            + (
                "; labelled by what aligns their ends, {apart_aligned_start} and {apart_aligned_end}."
                if "apart_aligned_end" in findings
                else "."
            )
            + (
                " All of them start at one place."
                if between["raw"][0].max() == 0
                else ""
            )
        )  # fmt: skip


def _facts(findings: dict[str, Finding], travelled: dict[str, Travel]):
    for place, name in enumerate(travelled):
        if name != "all":
            straight = f", straightness {{layer_{place}_straightness}}"
            yield (
                f"Layer {{layer_{place}_name}}",
                f"distance from its start {{layer_{place}_distance}}"
                + (straight if f"layer_{place}_straightness" in findings else ""),
            )


def _pictures(
    findings: dict[str, Finding], travelled: dict[str, Travel], steps: np.ndarray, between: dict[str, np.ndarray]
):
    if "straightness" not in findings:
        return
    of = travelled["all"]
    layers = {f"layer {_layer(name)}": own for name, own in travelled.items() if name != "all"}
    colors = [style.CYCLE[i % len(style.CYCLE)] for i in range(len(layers))]
    yield Picture(
        "travel-distance",
        figures.over_steps(
            "How far from the start?", "distance from the start", of.steps, {"restarts": of.from_init}, [style.END],
            null=("independent directions", np.median(of.from_init_null, axis=0)),
        ),
        "Distance from the start over training: median and middle half of the restarts. Dashed: what the same steps would "
        "reach in independent directions.",
        "Line chart of the distance from the start, {distance:value} at the end.",
    )  # fmt: skip
    middle = (of.steps[1:] + of.steps[:-1]) / 2
    rows = {"all weights": of.speed} | {name: own.speed for name, own in layers.items()}
    yield Picture(
        "travel-speed",
        figures.over_steps(
            "How fast?", "distance per training step", middle, rows, [style.INK, *colors], log=True, band=False
        ),
        "Distance between successive checkpoints divided by the training steps between them, median over restarts, for all "
        "weights and for each layer with its biases. Where checkpoints are far apart this is less than the speed of single "
        "steps.",
        "Line chart of the speed over training, of all weights and layer by layer.",
    )  # fmt: skip
    if "angle" in findings:
        rows = {"all weights": of.angle} | {name: own.angle for name, own in layers.items()}
        yield Picture(
            "travel-angle",
            figures.over_steps(
                "How much does it turn?", "angle (degrees)", of.steps[1:-1].astype(float), rows,
                [style.INK, *colors], null=("independent directions", np.full(len(of.steps) - 2, 90.0)), band=False,
            ),
            "Angle between what was travelled before and after a checkpoint, median over restarts. A right angle is what "
            "independent directions make in many dimensions; less goes on, more turns back.",
            "Line chart of the angle between successive displacements, in the median {angle:value}.",
        )  # fmt: skip
    if between:
        pairs = {PLANES[way]: np.array([pair_values(m) for m in values]).T for way, values in between.items()}
        yield Picture(
            "travel-apart",
            figures.over_steps(
                "How far apart?", "distance between restarts", steps, pairs, [style.INIT, style.END][: len(pairs)]
            ),
            "Distance between the restarts of every pair over training, median and middle half of the pairs: as trained, "
            "and each relabelled at all checkpoints by what aligns its end.",
            "Line chart of the distance between restarts, {apart_raw_start:value} at the start and {apart_raw_end:value} at "
            "the end.",
        )  # fmt: skip


def _layer(name: str) -> str:
    """Layers that are counted from 0 in the params are counted from 1 for people."""
    return str(int(name) + 1) if name.isdigit() else name


def _over_seeds(values: np.ndarray, rng: np.random.Generator, unit: str = "") -> Estimate:
    """Median over the seeds that have a value."""
    return median(values[~np.isnan(values)].astype(np.float64), rng=rng, unit=unit)


SECTION = Section(
    "travel",
    "How far does training travel?",
    "How far, how fast and how straight do weights move, and how far apart are restarts on the way?",
    some_converged,
    write,
)
