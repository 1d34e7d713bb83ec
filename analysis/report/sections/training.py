"""Section: training curves."""

import dataclasses

import numpy as np

from analysis.figures import training as figures
from analysis.report.findings import finding
from analysis.report.section import Content, Picture, Section, Tell, anything, plural, varied
from analysis.training import Curves, all_curves
from wspace.run import Run

TITLES = {
    "loss": "Loss",
    "accuracy": "Accuracy",
    "r2": "R²",
    "train_objective": "Objective (train loss + weight penalty)",
    "grad_norm": "Norm of the objective's gradient",
}


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
    """Curves of every metric; the L2 objective only where it differs from the loss."""
    curves = {name: _until_divergence(curve, run.diverged_at) for name, curve in all_curves(run).items()}
    score = "accuracy" if run.task == "classification" else "r2"
    panels = {kind: {split: f"{split}_{kind}" for split in ("train", "test")} for kind in ("loss", score)}
    if run.spec.objective.l2 > 0:
        panels["train_objective"] = {"objective": "train_objective"}
    panels["grad_norm"] = {"gradient norm": "grad_norm"}
    diverged, num = run.diverged_at >= 0, len(run.seeds)
    findings = {
        "num_steps": finding(run.spec.train.num_steps),
        "num_checkpoints": finding(len(run.checkpoint_steps)),
        "seeds": finding(num, n=num),
        "trained_to_end": finding(int(run.converged().sum()), n=num),
        "diverged": finding(int(diverged.sum()), n=num),
        "unfinished": finding(int((~run.done[:, -1] & ~diverged).sum()), n=num),
    }
    if diverged.any():
        findings["first_divergence"] = finding(int(run.diverged_at[diverged].min()), n=int(diverged.sum()))
    pictures = []
    for kind, lines in panels.items():
        chosen = {label: curves[name] for label, name in lines.items()}
        if not any(np.isfinite(curve.values).any() for curve in chosen.values()):
            continue
        unit = next(iter(chosen.values())).unit
        subject = TITLES[kind].split(" (")[0].lower() if kind != "r2" else "R²"
        label = {"loss": f"loss ({unit})", "train_objective": f"objective ({unit})", "grad_norm": unit, "r2": "R²"}
        pictures.append(
            Picture(
                f"training-{kind.replace('_', '-').replace('r2', 'r-squared')}",
                figures.curves(TITLES[kind], label.get(kind, TITLES[kind].lower()), chosen),
                f"{subject[0].upper() + subject[1:]} at the {{num_checkpoints}} checkpoints, measured on all "
                + ("train and test" if len(chosen) > 1 else "train")
                + " examples and joined by straight segments; what happens between checkpoints is not seen.",
                f"Line chart of the {subject} against the training step for {{seeds}} {plural(num, 'seed', 'seeds')}"
                + (", train and test, each with its median and bands over seeds." if len(chosen) > 1 else "."),
            )
        )
    return Content(
        findings=findings,
        says=tuple(_says(findings, varied(run))),
        shows=_shows(findings["trained_to_end"]["value"]),
        reads="Where the band is narrow, restarts train alike; lines far from it are restarts worth a look. Where "
        "checkpoints are dense at the start, the first steps are stretched: the axis of steps then says so.",
        limits="Equal curves do not mean equal weights: networks can be far apart and have the same loss. Bands "
        "describe the seeds trained here; they are no confidence intervals.",
        pictures=tuple(pictures),
    )


def _until_divergence(curve: Curves, diverged_at: np.ndarray) -> Curves:
    """Without what a seed's metrics say once its params are not finite, such as the accuracy of a network of NaNs."""
    gone = (diverged_at[:, None] >= 0) & (curve.steps >= diverged_at[:, None])
    return dataclasses.replace(curve, values=np.where(gone, np.nan, curve.values))


def _says(findings, varying: str):
    num = findings["seeds"]["value"]
    if num == 1:
        yield "This run has one seed" + (
            "." if findings["trained_to_end"]["value"] else ", which has not reached the end."
        )
    elif findings["trained_to_end"]["value"] == num:
        yield f"All {{seeds}} seeds reached step {{num_steps}} with finite numbers. What differs between them: {varying}."
    elif findings["trained_to_end"]["value"] == 0:
        yield f"None of the {{seeds}} seeds reached step {{num_steps}} so far. What differs between seeds: {varying}."
    else:
        yield (
            "{trained_to_end} of {seeds} seeds reached step {num_steps} with finite numbers; only these enter the sections "
            f"that follow. What differs between seeds: {varying}."
        )
    if findings["diverged"]["value"]:
        yield (
            "{diverged} of {seeds} seeds diverged, the first at step {first_divergence}: a seed's line stops at its last "
            "checkpoint before that, and nothing is filled in."
        )
    if findings["unfinished"]["value"]:
        verb = plural(findings["unfinished"]["value"], "is", "are")
        yield f"{{unfinished}} of {{seeds}} seeds {verb} not trained to the end yet; the training command resumes them."


def _shows(converged: int) -> str:
    if converged == 0:
        return "One thin line for every seed. No seed reached the end, so there is neither a median nor a band."
    if converged == 1:
        return "One thin line for every seed, and a thick one for the only seed that reached the end."
    return (
        "One thin line for every seed. The thick line is the median over the {trained_to_end} seeds that reached the end, "
        "the dark band spans the middle half of them, the light band the middle nine tenths."
    )


SECTION = Section("training", "Training", "How did training go, restart by restart?", anything, write)
