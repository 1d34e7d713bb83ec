"""Section: how training travels through weight space, beside random walks with the same step norms."""

import dataclasses

import numpy as np

from analysis.figures import landscape as landscape_figures
from analysis.figures import style
from analysis.figures import trajectory as figures
from analysis.landscape.paths import Paths, paths
from analysis.projection.components import Centre, Components, principal_components, schedule_weights
from analysis.projection.walks import Null, compare, grams, p_value, pooled_walks, scattered
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.report.shared import PLANES, alignment_study, all_equal, plane_points
from analysis.statistics import Estimate, jackknife_seeds, median, median_over_pairs, pair_values
from analysis.training import metric_unit
from analysis.travel import Travel, apart, travel
from wspace.run import Run
from wspace.symmetry import act_on_theta

NUM_COMPONENTS, NUM_WALKS, POOLED_WALKS = 5, 499, 199
LOW, HIGH = 0.05, 0.95  # quantiles between which walks are drawn
SIGNIFICANT = 0.05
MOST_POOLED = 6  # trajectories on one plane
MOST_VALUES = 2**27  # of the trajectories held in memory at once: half a gigabyte
FEWEST_CHECKPOINTS = 3


@dataclasses.dataclass(frozen=True)
class _Found:
    """What the section draws: of all restarts, of one, and of a few pooled as trained and aligned.

    Attributes:
        ids: of the seeds that are pooled.
    """

    ids: list[int]
    steps: np.ndarray
    travelled: dict[str, Travel]
    null: Null
    own: Paths | None
    pooled: dict[str, Paths]
    fans: dict[str, Components]
    apart: dict[str, np.ndarray]


def needs(run: Run) -> str | None:
    """At least one seed trained to the end, with checkpoints on the way."""
    if missing := some_converged(run):
        return missing
    if len(run.checkpoint_steps) < FEWEST_CHECKPOINTS:
        return (
            "Fewer than three checkpoints are stored: with no more snapshots than principal components any trajectory fills "
            "its plane. More are stored when the spec asks for them."
        )
    return None


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Spectra against walks, the paths on planes with their shadows, distances over training."""
    rows = np.flatnonzero(run.converged())
    tell("distances")
    travelled = travel(run.theta, run.checkpoint_steps, layout=run.layout, seeds=rows)
    moves = travelled["all"].path[:, -1] > np.finfo(np.float32).eps * travelled["all"].norm[:, -1]
    if not moves.any():
        return Content(
            findings={"seeds": finding(len(rows), n=len(rows))},
            says=(
                "None of {seeds} restarts moved away from its start, but for rounding: there is no trajectory to describe.",
            ),
            shows="Nothing: the weights of all checkpoints are equal up to rounding.",
            reads="Training that moves has a path; this one has none.",
            limits="Why nothing moved is not said here; the training curves and the provenance may tell.",
        )
    few = rows[: max(1, MOST_VALUES // (len(run.checkpoint_steps) * run.layout.size))]
    theta = np.asarray(run.theta.oindex[few])
    tell("random walks")
    null, more = _spectra(run, theta, rng)
    findings = _spectrum_findings(null, run, len(few), rng) | more | _travel_findings(travelled, rng)
    moving = np.flatnonzero(moves[: len(few)])
    own = _paths(run, theta[moving[:1]], "one restart", tell)
    if own is not None:
        findings |= _own_findings(run, int(run.seeds[few[moving[0]]]), own)
    pooled, fans, between = {}, {}, {}
    if len(moving) >= 2:
        ways = _labelled(run, theta, tell)
        between = {way: apart(theta) for way, theta in ways.items()}
        findings |= _apart_findings(between, travelled["all"], rng)
        some = {way: values[moving[:MOST_POOLED]] for way, values in ways.items()}
        for way, values in some.items():
            found = _paths(run, values, f"{len(values)} restarts, {PLANES[way]}", tell)
            if found is not None:
                pooled[way] = found
                findings |= _pooled_findings(way, values, found, run, rng)
            if np.isfinite(_plane_share(values, "init")):
                fans[way] = principal_components(values, 2, centre="init")
                findings |= _fan_findings(way, values, rng)
        findings |= _ends_findings(ways, rng)
    result = _Found(
        run.seeds[few[moving[:MOST_POOLED]]].tolist(), run.checkpoint_steps, travelled, null, own, pooled, fans, between
    )
    unit = metric_unit("train_loss", run.loss_kind)
    return Content(
        findings=findings,
        headline=_headline(findings),
        says=tuple(_says(findings, result)),
        shows=_shows(findings, result),
        reads="Principal components are about the mean of the checkpoints, each of which counts alike. Even a walk without "
        "any direction has smooth components, close to cosines, and most of its variance in the first few: a picture of a "
        "trajectory says something about training only where it differs from such walks. On a plane the contours are the "
        "loss of the plane, while the trajectory lies off it: its own loss stands beside that of its shadow.",
        limits="Checkpoints are snapshots: between them the path is longer and more crooked than the chords that are "
        "measured. A plane shows {plane_share:value} of a trajectory's variance and none of the rest of {num_params} "
        "dimensions. Walks share the step norms of each restart and nothing else; that training differs from them does not "
        "say why. The distance between restarts is raw, or after one relabelling of each restart for all of its "
        "checkpoints, the one that fits its end.",
        pictures=tuple(_pictures(findings, result, unit)),
        facts=tuple(_facts(findings, travelled)),
    )


def _spectra(run: Run, theta: np.ndarray, rng: np.random.Generator) -> tuple[Null, dict[str, Finding]]:
    """Against walks: about the mean; anchored at the end; and with checkpoints weighted by the steps they stand for."""
    inner, num = grams(theta), len(theta)
    size = run.layout.size
    most = min(NUM_COMPONENTS, theta.shape[1] - 1, size)
    null = compare(inner, size, most, num_walks=NUM_WALKS, rng=rng)
    weights = schedule_weights(run.checkpoint_steps, "step")
    others = {
        "anchored": compare(inner, size, 1, centre="final", num_walks=NUM_WALKS, rng=rng),
        "by_steps": compare(inner, size, 1, weights=weights, num_walks=NUM_WALKS, rng=rng),
    }
    findings = {}
    for name, other in others.items():
        findings[name] = finding(_over_seeds(other.shares[:, 0], rng))
        findings[f"{name}_walk"] = finding(_null_median(other.walks[:, :, 0], num))
        findings[f"{name}_p"] = finding(float(other.p_shares[0]), n=num)
    return null, findings


def _spectrum_findings(null: Null, run: Run, num: int, rng: np.random.Generator) -> dict[str, Finding]:
    findings = {
        "seeds": finding(num, n=num),
        "checkpoints": finding(len(run.checkpoint_steps)),
        "num_params": finding(run.layout.size),
        "walks": finding(NUM_WALKS),
    }
    for k in range(min(2, null.shares.shape[1])):
        findings |= {
            f"share_{k + 1}": finding(_over_seeds(null.shares[:, k], rng)),
            f"walk_{k + 1}": finding(_null_median(null.walks[:, :, k], num)),
            f"p_{k + 1}": finding(float(null.p_shares[k]), n=num),
            f"fit_{k + 1}": finding(_over_seeds(null.fit[:, k], rng, "")),
            f"walk_fit_{k + 1}": finding(_null_median(null.walks_fit[:, :, k], num, "")),
            f"p_fit_{k + 1}": finding(float(null.p_fit[k]), n=num),
        }
    both = null.shares[:, :2].sum(axis=1)
    walks = null.walks[:, :, :2].sum(axis=2)
    moves = ~np.isnan(both)
    findings |= {
        "plane_share": finding(_over_seeds(both, rng)),
        "plane_walk": finding(_null_median(walks, num)),
        "plane_p": finding(float(p_value(float(both[moves].mean()), walks[:, moves].mean(axis=1))), n=num),
        # on the side that the test looks at: of means, which may lie on another side than medians
        "plane_more": finding(bool(both[moves].mean() > np.median(walks[:, moves].mean(axis=1)))),
        "plane_full": finding(min(len(run.checkpoint_steps) - 1, run.layout.size) <= 2),
    }
    return findings


def _travel_findings(travelled: dict[str, Travel], rng: np.random.Generator) -> dict[str, Finding]:
    findings = {}
    for place, (name, of) in enumerate(travelled.items()):
        key = "" if name == "all" else f"layer_{place}_"
        if name != "all":
            findings[f"{key}name"] = finding(name)
        findings[f"{key}distance"] = finding(_over_seeds(of.from_init[:, -1], rng, ""))
        moved = of.path[:, -1] > 0
        if moved.any():
            findings[f"{key}straightness"] = finding(_over_seeds(of.straightness, rng, ""))
    of = travelled["all"]
    findings["straightness_walk"] = finding(_over_seeds(of.straightness_null, rng, ""))
    findings["path"] = finding(_over_seeds(of.path[:, -1], rng, ""))
    angles = np.array([np.nan if np.all(np.isnan(row)) else np.nanmedian(row) for row in of.angle])
    if not np.all(np.isnan(angles)):
        findings["angle"] = finding(_over_seeds(angles, rng, "degrees"))
        findings["right_angle"] = finding(90, unit="degrees")
    return findings


def _paths(run: Run, theta: np.ndarray, what: str, tell: Tell) -> Paths | None:
    """None where the trajectories lie on one line: there is no plane to draw."""
    try:
        return paths(
            run.model, run.loss_kind, run.layout, theta, run.data, num=plane_points(run),
            metrics=("train_loss", "test_loss"), path=run.path / "landscape",
            progress=lambda text: tell(f"plane of {what}: {text}"),
        )  # fmt: skip
    except ValueError as error:
        if "span fewer than" not in str(error):
            raise
        return None


def _own_findings(run: Run, seed: int, own: Paths) -> dict[str, Finding]:
    unit = metric_unit("train_loss", run.loss_kind)
    true, flat = own.shadows.values["train_loss"], own.shadows.shadow["train_loss"]
    stored = run.metrics["train_loss"][list(run.seeds).index(seed)].astype(np.float64)
    findings = {
        "own_seed": finding(str(seed)),
        "own_share": finding(Estimate(float(own.components.explained.sum()), None, 1, "share")),
        "own_off": finding(Estimate(float(np.median(own.shadows.off)), None, 1, "share")),
        "own_residual": finding(Estimate(float(own.shadows.residual.max()), None, 1, "")),
        "stored_agree": finding(bool(np.allclose(true, stored, 1e-3, 1e-5))),
    }
    for name, values in (("true", true), ("shadow", flat)):
        if np.isfinite(values[-1]):
            findings[f"own_{name}_end"] = finding(Estimate(float(values[-1]), None, 1, unit))
    return findings


def _labelled(run: Run, theta: np.ndarray, tell: Tell) -> dict[str, np.ndarray]:
    """The trajectories as trained, and each moved as a whole by the relabelling that aligns its end to the medoid."""
    ways = {"raw": theta}
    if run.spec.model.hidden and not all_equal(run.params()):
        element = alignment_study(run, tell).population.element[: len(theta)]
        ways["aligned"] = act_on_theta(run.model.symmetry, run.layout, element, theta)
    return ways


def _apart_findings(between: dict[str, np.ndarray], of: Travel, rng: np.random.Generator) -> dict[str, Finding]:
    findings = {}
    for way, matrices in between.items():
        for name, matrix in (("start", matrices[0]), ("end", matrices[-1])):
            findings[f"apart_{way}_{name}"] = finding(median_over_pairs(matrix, rng=rng))
    return findings


def _pooled_findings(
    way: str, theta: np.ndarray, found: Paths, run: Run, rng: np.random.Generator
) -> dict[str, Finding]:
    unit = metric_unit("train_loss", run.loss_kind)
    num = len(theta)
    walks = pooled_walks(theta, 2, num_walks=POOLED_WALKS, rng=rng).sum(axis=1)
    share = jackknife_seeds(lambda seeds: _plane_share(theta[seeds]), num, unit="share")
    gap = np.abs(found.shadows.shadow["train_loss"] - found.shadows.values["train_loss"])
    findings = {
        "pooled_seeds": finding(num, n=num),
        "pooled_walks": finding(POOLED_WALKS),
        f"pooled_{way}_share": finding(share),
        f"pooled_{way}_walk": finding(Estimate(float(np.median(walks)), None, num, "share")),
        f"pooled_{way}_p": finding(float(p_value(share.value, walks)), n=num),
        f"pooled_{way}_off": finding(Estimate(float(np.median(found.shadows.off)), None, num, "share")),
    }
    if np.isfinite(np.median(gap)):
        findings[f"pooled_{way}_gap"] = finding(Estimate(float(np.median(gap)), None, num, unit))
    return findings


def _fan_findings(way: str, theta: np.ndarray, rng: np.random.Generator) -> dict[str, Finding]:
    """The displacements of several restarts, each from its own start: do they leave in common directions?"""
    share = jackknife_seeds(lambda seeds: _plane_share(theta[seeds], "init"), len(theta), unit="share")
    walks = pooled_walks(theta, 2, centre="init", num_walks=POOLED_WALKS, rng=rng).sum(axis=1)
    return {
        f"fan_{way}_share": finding(share),
        f"fan_{way}_walk": finding(Estimate(float(np.median(walks)), None, len(theta), "share")),
        f"fan_{way}_p": finding(float(p_value(share.value, walks)), n=len(theta)),
    }


def _ends_findings(ways: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, Finding]:
    """The population of endpoints, and points as far from zero in independent directions."""
    findings: dict[str, Finding] = {}
    for way, theta in ways.items():
        ends, num = theta[:, -1], len(theta)
        if num < 4:  # three points always lie in one plane
            continue
        share = jackknife_seeds(lambda seeds, ends=ends: _plane_share(ends[seeds]), num, unit="share")
        if not np.isfinite(share.value):  # equal ends
            continue
        draws = scattered(ends, 2, num_draws=POOLED_WALKS, rng=rng).sum(axis=1)
        findings |= {
            f"ends_{way}_share": finding(share),
            f"ends_{way}_null": finding(Estimate(float(np.median(draws)), None, num, "share")),
            f"ends_{way}_p": finding(float(p_value(share.value, draws)), n=num),
        }
    return findings


def _headline(findings: dict[str, Finding]) -> str:
    if findings["plane_full"]["value"]:
        return (
            "One direction holds {share_1} of the variance of a trajectory; of random walks with the same steps it holds "
            "{walk_1} (p = {p_1:value}; {seeds:n} "
            f"{plural(findings['seeds']['value'], 'seed', 'seeds')})."
        )
    return (
        "Two directions hold {plane_share} of the variance of a trajectory; of random walks with the same steps they hold "
        "{plane_walk} (p = {plane_p:value}; {seeds:n} "
        f"{plural(findings['seeds']['value'], 'seed', 'seeds')})."
    )


def _says(findings: dict[str, Finding], result: _Found):
    restart = "the restart" if findings["seeds"]["value"] == 1 else "the median restart"
    yield (
        f"Of the variance of {restart}'s trajectory the first principal component holds {{share_1}}"
        + (" and the second {share_2}" if "share_2" in findings else "")
        + "; random walks with the same step norms have {walk_1}"
        + (" and {walk_2}" if "share_2" in findings else "")
        + " there. "
        + _verdict(findings)
    )
    yield (
        "Over training the first component follows the curve that a random walk has in expectation with an R² of {fit_1}"
        + (", the second with {fit_2}" if "fit_2" in findings else "")
        + "; walks do so with {walk_fit_1}"
        + (" and {walk_fit_2}" if "fit_2" in findings else "")
        + " (p of so bad a fit: {p_fit_1:value}"
        + (" and {p_fit_2:value}" if "fit_2" in findings else "")
        + ")."
    )
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
    if result.own is None:
        yield "The trajectory lies on one line up to rounding: there is no plane to draw it on."
    else:
        yield (
            "The plane of seed {own_seed} holds {own_share} of that trajectory's variance. At the median checkpoint "
            "{own_off} of the squared distance from the plane's centre is off the plane, at most a distance of "
            "{own_residual}."
            + (
                " At the end its own train loss is {own_true_end}, while the plane has {own_shadow_end} at its shadow."
                if "own_true_end" in findings and "own_shadow_end" in findings
                else ""
            )
            + (
                ""
                if findings["stored_agree"]["value"]
                else " Check failed: these losses differ from those stored in training. Distrust this section."
            )
        )
    for way in result.pooled:
        yield (
            f"Pooled, {PLANES[way]}, the trajectories of {{pooled_seeds}} restarts have {{pooled_{way}_share}} of their "
            f"variance in one plane; random walks from the same starts have {{pooled_{way}_walk}} "
            f"(p = {{pooled_{way}_p:value}}, {{pooled_walks}} walks). {{pooled_{way}_off}} of the squared distance from the "
            "plane's centre is off it at the median checkpoint"
            + (
                f", and the train loss differs from that of the shadow by {{pooled_{way}_gap}}."
                if f"pooled_{way}_gap" in findings
                else "."
            )
        )
    for way in result.fans:
        yield (
            f"Laid to one starting point, {PLANES[way]}, the same trajectories have {{fan_{way}_share}} of their variance "
            f"in two common directions; random walks have {{fan_{way}_walk}} (p = {{fan_{way}_p:value}})."
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
                if result.apart["raw"][0].max() == 0
                else ""
            )
        )  # fmt: skip
    elif findings["seeds"]["value"] == 1:
        yield "One restart is an example: nothing here has an interval, and there is nothing to pool."


def _verdict(findings: dict[str, Finding]) -> str:
    if findings["plane_full"]["value"]:
        return (
            "So few checkpoints, or params, always lie in one plane: what two components hold is no evidence of a "
            "low-dimensional path."
        )
    if findings["plane_p"]["value"] > SIGNIFICANT:
        return (
            "What two components hold cannot be told from random walks (p = {plane_p:value}, {walks} walks of every "
            "restart): this spectrum is no evidence of a low-dimensional path."
        )
    more = findings["plane_more"]["value"]
    return (
        f"In the mean over restarts two components hold {'more' if more else 'less'} than they do of walks "
        f"(p = {{plane_p:value}}, {{walks}} walks of every restart): training takes {'fewer' if more else 'more'} "
        "directions than they do."
    )


def _shows(findings: dict[str, Finding], result: _Found) -> str:
    text = (
        f"{{checkpoints}} checkpoints of {{seeds}} {plural(findings['seeds']['value'], 'restart', 'restarts')} in a "
        "space of {num_params} dimensions: the spectrum and the components of each trajectory beside random walks with its "
        "own step norms; distances over training, of all weights and layer by layer"
    )
    if result.own is not None:
        text += "; one trajectory on its principal plane, over the train loss of that very plane"
    if "pooled_seeds" in findings:
        text += (
            "; {pooled_seeds} trajectories pooled. Intervals of pooled shares come from leaving out one seed at a time"
        )
    return text + "."


def _facts(findings: dict[str, Finding], travelled: dict[str, Travel]):
    yield ("First component, anchored at the end", _against("anchored"))
    yield ("First component, checkpoints weighted by training steps", _against("by_steps"))
    yield (
        "Both first components alone",
        "p = {p_1:value}" + (" and p = {p_2:value}" if "p_2" in findings else "") + " against random walks",
    )
    for way, label in PLANES.items():
        if f"ends_{way}_share" in findings:
            yield (
                f"Ends of all restarts, {label}: share of their variance in one plane",
                f"{{ends_{way}_share}}; as long ones in independent directions {{ends_{way}_null}} "
                f"(p = {{ends_{way}_p:value}})",
            )
    for place, name in enumerate(travelled):
        if name != "all":
            straight = f", straightness {{layer_{place}_straightness}}"
            yield (
                f"Layer {{layer_{place}_name}}",
                f"distance from its start {{layer_{place}_distance}}"
                + (straight if f"layer_{place}_straightness" in findings else ""),
            )


def _against(name: str) -> str:
    return f"{{{name}}}, random walks {{{name}_walk}} (p = {{{name}_p:value}})"


def _pictures(findings: dict[str, Finding], result: _Found, unit: str):
    label = f"train loss ({unit})"
    if result.own is not None:
        surface = result.own.surface
        scale = landscape_figures.shared_scale([surface], "train_loss")
        yield Picture(
            "trajectory-plane",
            figures.on_plane(
                surface, "train_loss", label, scale, "One restart on its own plane",
                {f"seed {findings['own_seed']['value']}": result.own.coordinates[0]},
            ),
            "Train loss on the plane of the first two principal components of one trajectory, and the trajectory's shadow "
            "on it. The palest colour lies above the scale. The network itself lies off the plane; see the next figure.",
            "Contour map of the train loss on the principal plane of one restart, with its path from start to end; the "
            "plane holds {own_share:value} of the variance.",
        )  # fmt: skip
        yield Picture(
            "trajectory-shadow",
            figures.shadow(result.steps, result.own.shadows, label),
            "The same restart: its own train loss beside that of its shadow, which is what the contours show, and its "
            "distance from the plane beside that from the plane's centre.",
            "Line charts over training of the train loss of a network and of its shadow, and of its distance from the "
            "plane, at most {own_residual:value}.",
        )
    if result.pooled:
        scale = landscape_figures.shared_scale([found.surface for found in result.pooled.values()], "train_loss")
        for way, found in result.pooled.items():
            named = {f"seed {seed}": path for seed, path in zip(result.ids, found.coordinates, strict=True)}
            yield Picture(
                f"trajectory-pooled-{way}",
                figures.on_plane(found.surface, "train_loss", label, scale, f"Several restarts, {PLANES[way]}", named),
                f"Train loss on the principal plane of {{pooled_seeds}} trajectories, {PLANES[way]}, through their mean, "
                f"and their shadows; {{pooled_{way}_off}} of the squared distance from its centre is off the plane at the "
                "median checkpoint, so a shadow may lie on a colour that its network does not have.",
                f"Contour map of the train loss with the paths of {{pooled_seeds}} restarts, {PLANES[way]}; the plane holds "
                f"{{pooled_{way}_share:value}} of their variance.",
            )
    for way, fan in result.fans.items():
        shares = [f"component {k + 1} ({share:.1%} of the variance)" for k, share in enumerate(fan.explained)]
        names = [f"seed {seed}" for seed in result.ids]
        yield Picture(
            f"trajectory-fan-{way}",
            figures.in_plane(fan.coordinates, names, f"From one start, {PLANES[way]}", shares[0], shares[1]),
            f"The displacements of {{pooled_seeds}} restarts from their own starts, {PLANES[way]}, in their common "
            "principal plane. There are no contours: the starts differ, so this plane lies at no one place.",
            f"Paths of {{pooled_seeds}} restarts from one point; {{fan_{way}_share:value}} of the variance is seen.",
        )
    yield Picture(
        "trajectory-scree",
        figures.scree(result.null, LOW, HIGH, "5 to 95 %"),
        "Share of a trajectory's variance along each principal component, on a logarithmic axis: every restart as a dot; "
        "the range of random walks with the same step norms; the closed form of such walks in infinitely many dimensions.",
        "Scree plot: the first component holds {share_1:value} of the variance, of random walks {walk_1:value}.",
    )
    yield Picture(
        "trajectory-components",
        figures.components(result.null.curves[..., :3], result.null.expected_curves[..., :3]),
        "The first components of every restart over its checkpoints, scaled to one length, beside the curve that a random "
        "walk with the step norms of the first restart has in expectation.",
        "Curves of the principal components over training beside those of random walks; R² of the first {fit_1:value}.",
    )
    of = result.travelled["all"]
    layers = {f"layer {name}": own for name, own in result.travelled.items() if name != "all"}
    colors = [style.CYCLE[i % len(style.CYCLE)] for i in range(len(layers))]
    yield Picture(
        "trajectory-distance",
        figures.over_steps(
            "How far from the start?", "distance from the start", of.steps, {"restarts": of.from_init}, [style.END],
            null=("independent directions", np.median(of.from_init_null, axis=0)),
        ),
        "Distance from the start over training: median and middle half of the restarts. Dotted: what the same steps would "
        "reach in independent directions.",
        "Line chart of the distance from the start, {distance:value} at the end.",
    )  # fmt: skip
    middle = (of.steps[1:] + of.steps[:-1]) / 2
    rows = {"all weights": of.speed} | {name: own.speed for name, own in layers.items()}
    yield Picture(
        "trajectory-speed",
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
            "trajectory-angle",
            figures.over_steps(
                "How much does it turn?", "angle (degrees)", of.steps[1:-1].astype(float), rows,
                [style.INK, *colors], null=("independent directions", np.full(len(of.steps) - 2, 90.0)), band=False,
            ),
            "Angle between what was travelled before and after a checkpoint, median over restarts. A right angle is what "
            "independent directions make in many dimensions; less goes on, more turns back.",
            "Line chart of the angle between successive displacements, in the median {angle:value}.",
        )  # fmt: skip
    if result.apart:
        pairs = {PLANES[way]: np.array([pair_values(m) for m in values]).T for way, values in result.apart.items()}
        yield Picture(
            "trajectory-apart",
            figures.over_steps(
                "How far apart?", "distance between restarts", of.steps, pairs, [style.INIT, style.END][: len(pairs)]
            ),
            "Distance between the restarts of every pair over training, median and middle half of the pairs: as trained, "
            "and each relabelled at all checkpoints by what aligns its end.",
            "Line chart of the distance between restarts, {apart_raw_start:value} at the start and {apart_raw_end:value} at "
            "the end.",
        )  # fmt: skip


def _plane_share(points: np.ndarray, centre: Centre = "mean") -> float:
    """Share of the variance in the first two components; NaN where points do not span a plane."""
    try:
        return float(principal_components(points, 2, centre=centre).explained.sum())
    except ValueError as error:
        if "span fewer than" not in str(error):
            raise
        return np.nan


def _over_seeds(values: np.ndarray, rng: np.random.Generator, unit: str = "share") -> Estimate:
    """Median over the seeds that have a value."""
    return median(values[~np.isnan(values)].astype(np.float64), rng=rng, unit=unit)


def _null_median(walks: np.ndarray, num: int, unit: str = "share") -> Estimate:
    """Middle of what walks have, each averaged over seeds as the test does."""
    moves = ~np.isnan(walks).any(axis=0)
    return Estimate(float(np.median(walks[:, moves].mean(axis=1))), None, num, unit)


SECTION = Section(
    "trajectory",
    "How did training travel?",
    "What path does training take through weight space, and is it more than a random walk?",
    needs,
    write,
)
