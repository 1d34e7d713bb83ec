"""Section: the paths of training on planes of weight space, beside random walks with the same step norms."""

import dataclasses

import numpy as np

from analysis.figures import landscape as landscape_figures
from analysis.figures import trajectory as figures
from analysis.landscape.paths import Paths, paths
from analysis.projection.components import Centre, Components, principal_components, schedule_weights
from analysis.projection.walks import Null, compare, grams, p_value, pooled_walks, scattered
from analysis.report.findings import Finding, finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.report.shared import PLANES, labelled, plane_points, trajectories
from analysis.statistics import Estimate, jackknife_seeds, median
from analysis.training import metric_unit
from wspace.run import Run

NUM_COMPONENTS, NUM_WALKS, POOLED_WALKS = 5, 499, 199
LOW, HIGH = 0.05, 0.95  # quantiles between which walks are drawn
SIGNIFICANT = 0.05
MOST_POOLED = 6  # trajectories on one plane
WALK_WORK = 8e6  # seeds x checkpoints^3 that are compared with walks: seconds
FEWEST_CHECKPOINTS = 3


@dataclasses.dataclass(frozen=True)
class _Found:
    """What the section draws: of all restarts, of one, and of a few pooled as trained and aligned.

    Attributes:
        ids: of the seeds that are pooled.
    """

    ids: list[int]
    steps: np.ndarray
    null: Null
    own: Paths | None
    pooled: dict[str, Paths]
    fans: dict[str, Components]


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
    """Spectra against walks, and the paths on planes with their shadows."""
    few, steps, at, theta = trajectories(run)
    away = np.linalg.norm(theta - theta[:, :1], axis=2).max(axis=1)
    moves = away > np.finfo(np.float32).eps * np.linalg.norm(theta[:, 0], axis=1)
    if not moves.any():
        return Content(
            findings={"seeds": finding(len(few), n=len(few))},
            says=(
                "None of {seeds} restarts moved away from its start, but for rounding: there is no trajectory to describe.",
            ),
            shows="Nothing: the weights of all checkpoints are equal up to rounding.",
            reads="Training that moves has a path; this one has none.",
            limits="Why nothing moved is not said here; the training curves and the provenance may tell.",
        )
    tell("random walks")
    null, more = _spectra(run, steps, theta[: max(1, int(WALK_WORK / len(steps) ** 3))], rng)
    findings = {"seeds": finding(len(few), n=len(few)), "checkpoints": finding(len(steps))}
    findings |= _spectrum_findings(null, run, len(steps), rng) | more
    moving = np.flatnonzero(moves)
    own = _paths(run, theta[moving[:1]], "one restart", tell)
    if own is not None:
        findings |= _own_findings(run, int(run.seeds[few[moving[0]]]), at, own)
    pooled, fans = {}, {}
    if len(moving) >= 2:
        ways = labelled(run, theta, tell)
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
    result = _Found(run.seeds[few[moving[:MOST_POOLED]]].tolist(), steps, null, own, pooled, fans)
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
        "say why. Aligned trajectories are relabelled as a whole, by what aligns their ends.",
        pictures=tuple(_pictures(findings, result, unit)),
        facts=tuple(_facts(findings)),
    )


def _spectra(
    run: Run, steps: np.ndarray, theta: np.ndarray, rng: np.random.Generator
) -> tuple[Null, dict[str, Finding]]:
    """Against walks: about the mean; anchored at the end; and with checkpoints weighted by the steps they stand for."""
    inner, num = grams(theta), len(theta)
    size = run.layout.size
    most = min(NUM_COMPONENTS, theta.shape[1] - 1, size)
    null = compare(inner, size, most, num_walks=NUM_WALKS, rng=rng)
    weights = schedule_weights(steps, "step")
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


def _spectrum_findings(null: Null, run: Run, checkpoints: int, rng: np.random.Generator) -> dict[str, Finding]:
    num = len(null.shares)
    findings = {"num_params": finding(run.layout.size), "walks": finding(NUM_WALKS)}
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
        "plane_full": finding(min(checkpoints - 1, run.layout.size) <= 2),
    }
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


def _own_findings(run: Run, seed: int, at: np.ndarray, own: Paths) -> dict[str, Finding]:
    unit = metric_unit("train_loss", run.loss_kind)
    true, flat = own.shadows.values["train_loss"], own.shadows.shadow["train_loss"]
    stored = run.metrics["train_loss"][list(run.seeds).index(seed), at].astype(np.float64)
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
    if findings["seeds"]["value"] == 1:
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
        "own step norms"
    )
    if result.own is not None:
        text += "; one trajectory on its principal plane, over the train loss of that very plane"
    if "pooled_seeds" in findings:
        text += (
            "; {pooled_seeds} trajectories pooled. Intervals of pooled shares come from leaving out one seed at a time"
        )
    return text + "."


def _facts(findings: dict[str, Finding]):
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
            "on it. The palest colour lies above the scale, black below. The network lies off the plane: see the next.",
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
        yield Picture(
            "trajectory-hidden",
            figures.hidden({PLANES[way]: found.shadows for way, found in result.pooled.items()}, label),
            "Every point of the pooled planes: the train loss of the network that is drawn there, and that of its shadow, "
            "which is what the contours show. On the dashed line they are equal. Colours: how far off the network lies.",
            "Scatter of the train loss of shadows against that of their networks, over {pooled_seeds} trajectories.",
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
    "What path does training take?",
    "Which way through weight space does training go, and is it more than a random walk?",
    needs,
    write,
)
