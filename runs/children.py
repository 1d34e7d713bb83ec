"""Do children of one init travel together, or as far apart as restarts from inits of their own?

Children start at the same weights and see the examples in different orders; restarts differ in both. Child i and restart i
have the same order, so that only the init sets the two groups apart. Measured are the distances between the networks of a
group on the way, how alike their displacements are, how straight they travel and whether they predict the same; the former
also after one relabelling of the hidden units of each network for all of its checkpoints, the one that fits its end to the
group's medoid. It leaves every network's own path as long and as straight as it is. Matching brings unrelated networks
together as well, those most that are matched directly: pairs with the medoid are given for themselves, and beside them
what matching makes of the inits of the restarts alone. MNIST's IDX files, or scikit-learn's digits where the folder is
missing.

    python runs/children.py --data FOLDER
    python runs/children.py --num-seeds 3 --num-steps 60 --num-walks 9 --out results/quick
"""

from wspace.cores import use_cores

use_cores()

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from analysis.alignment import align_to_medoid, match_weights
from analysis.alignment.population import cosines, gram
from analysis.projection import pooled_walks, principal_components
from analysis.report import write_report
from analysis.report.findings import dumps, finding, phrase
from analysis.similarity import function_distances
from analysis.statistics import Estimate, jackknife_seeds, median, median_over_pairs, pair_median, pair_ratio
from analysis.travel import apart, together, travel
from wspace.monitor import Bar
from wspace.run import Run
from wspace.spec import CheckpointSpec, DataSpec, ModelSpec, OptimizerSpec, ScheduleSpec, SeedSpec, Spec, TrainSpec
from wspace.symmetry import Element, act, act_on_theta, share_fixed
from wspace.train import train
from wspace.tree import Params

GROUPS: dict[str, Literal["order", "both"]] = {"children": "order", "restarts": "both"}
ROWS = {
    "steps": "steps of training",
    "accuracy": "test accuracy",
    "straightness": "distance from the init ÷ path through the checkpoints",
    "straightness_walk": "  of a walk with the same moves",
    "angle": "mean angle between successive moves, degrees",
    "init": "distance between networks ÷ distance travelled: at the init",
    "halfway": "  halfway",
    "end": "  at the end",
    "right_angles": "  at the end, had all moved at right angles",
    "init_aligned": "  aligned: at the init",
    "halfway_aligned": "  aligned: halfway",
    "end_aligned": "  aligned: at the end",
    "right_angles_aligned": "  aligned: at the end, had all moved at right angles",
    "cosine_halfway": "cosine between displacements: halfway",
    "cosine_end": "  at the end",
    "cosine_halfway_aligned": "  aligned: halfway",
    "cosine_end_aligned": "  aligned: at the end",
    "cosine_medoid_aligned": "  aligned: at the end, to the medoid",
    "cosine_inits": "cosine between inits",
    "cosine_inits_aligned": "  matched to their medoid",
    "cosine_inits_medoid_aligned": "  matched to their medoid: to the medoid",
    "fixed": "units that alignment leaves in place",
    "plane": "share of all displacements in two components",
    "plane_aligned": "  aligned",
    "plane_walk": "  of walks with the same moves",
    "disagreement": "disagreement on test examples",
    "disagreement_ratio": "  ÷ error",
}


def main(
    data: Path = Path("data/mnist10k"),
    num_seeds: int = 8,
    num_steps: int = 2000,
    num_walks: int = 99,
    reports: bool = True,
    out: Path = Path("results/children"),
) -> int:
    """Train both groups, measure how each travels.

    Args:
        data: folder with MNIST's IDX files; without it, scikit-learn's digits.
        num_seeds: networks of each group.
        num_steps: of training.
        num_walks: that the share in two components is compared with.
        reports: write the runs' own reports as well.
        out: folder of the runs and of comparison.json.
    """
    console, found = Console(), {}
    if num_seeds < 2 or num_steps < 2:
        console.print(f"{num_seeds} seeds and {num_steps} steps: paths are compared from two seeds and two steps on")
        return 2
    if not data.is_dir():
        console.print(f"{data} is not there: training on scikit-learn's digits")
    for group, vary in GROUPS.items():
        with Bar(console, group) as bar:
            run = train(make_spec(group, vary, data, num_seeds, num_steps), out / group, monitor=bar)
        if run.converged().sum() < 2:
            console.print(f"{group}: fewer than two were trained to the end: nothing to compare")
            return 1
        with console.status(group):
            found[group] = {name: finding(value) for name, value in measure(run, num_walks).items()}
            if reports:
                write_report(run)
    table = Table("median", *GROUPS)
    for name, words in ROWS.items():
        table.add_row(words, *(phrase(found[group][name]) if name in found[group] else "" for group in GROUPS))
    console.print(table)
    console.print(
        "medians over networks or pairs with 95 % intervals that resample networks; of shares in two components intervals "
        "leave out one network at a time"
    )
    numbers_file = out / "comparison.json"
    numbers_file.write_text(dumps(found), encoding="utf-8")
    console.print(f"numbers: {numbers_file}", soft_wrap=True)
    return 0


def make_spec(name: str, vary: Literal["order", "both"], data: Path, num_seeds: int, num_steps: int) -> Spec:
    """One group, with evenly spaced checkpoints from the start; the parent of the children is in neither group."""
    mnist = data.is_dir()
    return Spec(
        name=name,
        question="Do children of one init travel together?",
        data=DataSpec(name="idx", path=str(data), split="ordered") if mnist else DataSpec(name="digits"),
        model=ModelSpec(hidden=(128, 128)),
        optimizer=OptimizerSpec(name="adam", learning_rate=1e-3),
        schedule=ScheduleSpec(kind="constant"),
        train=TrainSpec(num_steps=num_steps, batch_size=128 if mnist else 64),
        checkpoints=CheckpointSpec(schedule="linear", num=41),
        seeds=SeedSpec(ids=tuple(range(1, num_seeds + 1)), vary=vary, parent=0),
    )


def measure(run: Run, num_walks: int) -> dict[str, Estimate | int]:
    """Everything in ROWS that a group has."""
    rng, rows = np.random.default_rng(0), np.flatnonzero(run.converged())
    theta, ends, symmetry = np.asarray(run.theta.oindex[rows]), run.params(), run.model.symmetry
    paths, functions = (
        travel(theta, run.checkpoint_steps)["all"],
        function_distances(run.model, ends, run.data.x_test, run.data.y_test, run.task),
    )
    element, medoid = _aligned(run, ends, rng)
    walks = pooled_walks(theta, 2, centre="init", num_walks=num_walks, rng=rng).sum(axis=1)
    found: dict[str, Estimate | int] = {
        "steps": int(run.checkpoint_steps[-1]),
        "accuracy": median(1 - functions.error, rng=rng, unit="share"),
        "straightness": median(paths.straightness, rng=rng),
        "straightness_walk": median(paths.straightness_null, rng=rng),
        "angle": median(np.nanmean(paths.angle, axis=1), rng=rng),
        "plane_walk": Estimate(float(np.median(walks)), None, len(rows), "share"),
        "disagreement": median_over_pairs(functions.distance, rng=rng, unit="share"),
        "disagreement_ratio": median_over_pairs(functions.normalised, rng=rng),
        "fixed": median(np.delete(share_fixed(element), medoid), rng=rng, unit="share"),
    }
    if run.spec.seeds.vary == "both":
        inits = run.params(checkpoint=0)
        matching, centre = _aligned(run, inits, rng)
        for suffix, params in (("", inits), ("_aligned", act(symmetry, matching, inits))):
            cosine = cosines(inner := gram(params), np.diag(inner))
            found[f"cosine_inits{suffix}"] = median_over_pairs(cosine, rng=rng)
            found[f"cosine_inits_medoid{suffix}"] = median(np.delete(cosine[centre], centre), rng=rng)
    travelled = paths.from_init[:, -1]
    for suffix in ("", "_aligned"):
        points = theta if not suffix else act_on_theta(symmetry, run.layout, element, theta)
        found |= {f"{name}{suffix}": value for name, value in _between(points, travelled, medoid, rng).items()}
    return found


def _aligned(run: Run, params: Params, rng: np.random.Generator) -> tuple[Element, int]:
    """What aligns the networks, and the position of the medoid that they are matched to."""
    found = align_to_medoid(run.model.symmetry, params, matcher=partial(match_weights, rng=rng))
    assert found.reference is not None
    return found.element, found.reference


def _between(theta: np.ndarray, travelled: np.ndarray, medoid: int, rng: np.random.Generator) -> dict[str, Estimate]:
    """Of one labelling: distances between networks, cosines between displacements, the plane that holds most of them."""
    num, length = theta.shape[:2]
    distances, cosine = apart(theta), together(theta)
    right = np.sqrt(np.square(distances[0]) + np.add.outer(travelled**2, travelled**2))
    relative = {"init": distances[0], "halfway": distances[length // 2], "end": distances[-1], "right_angles": right}
    found = {}
    for name, matrix in relative.items():
        ratio = pair_ratio(pair_median(matrix), lambda seeds: np.median(travelled[seeds], axis=1), num, rng)
        assert ratio is not None, "no network moved"
        found[name] = ratio
    for name, matrix in (("cosine_halfway", cosine[length // 2]), ("cosine_end", cosine[-1])):
        found[name] = median_over_pairs(matrix, rng=rng)
    found["cosine_medoid"] = median(np.delete(cosine[-1, medoid], medoid), rng=rng)
    share = lambda seeds: float(principal_components(theta[seeds], 2, centre="init").explained.sum())  # noqa: E731
    return found | {"plane": jackknife_seeds(share, num, unit="share")}


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
