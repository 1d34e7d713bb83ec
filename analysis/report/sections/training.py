"""Section: training curves."""

import numpy as np

from analysis.figures import training as figures
from analysis.report.findings import finding
from analysis.report.section import Content, Picture, Section, anything
from analysis.training import all_curves
from wspace.run import Run

TITLES = {
    "loss": "Loss",
    "accuracy": "Accuracy",
    "r2": "R²",
    "train_objective": "Objective (train loss + weight penalty)",
    "grad_norm": "Norm of the objective's gradient",
}


def write(run: Run, rng: np.random.Generator) -> Content:
    """Curves of every metric; the L2 objective only where it differs from the loss."""
    curves = all_curves(run)
    score = "accuracy" if run.task == "classification" else "r2"
    panels = {kind: {split: f"{split}_{kind}" for split in ("train", "test")} for kind in ("loss", score)}
    if run.spec.objective.l2 > 0:
        panels["train_objective"] = {"all seeds": "train_objective"}
    panels["grad_norm"] = {"all seeds": "grad_norm"}
    diverged, num = run.diverged_at >= 0, len(run.seeds)
    findings = {
        "num_steps": finding(run.spec.train.num_steps),
        "num_checkpoints": finding(len(run.checkpoint_steps)),
        "seeds": finding(num, n=num),
        "converged": finding(int(run.converged().sum()), n=num),
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
        label = {
            "loss": f"loss ({unit})",
            "train_objective": f"objective ({unit})",
            "grad_norm": f"gradient norm ({unit})",
        }
        pictures.append(
            Picture(
                f"training-{kind.replace('_', '-').replace('r2', 'r-squared')}",
                figures.curves(TITLES[kind], label.get(kind, TITLES[kind].lower()), chosen),
                f"{subject[0].upper() + subject[1:]} at the {{num_checkpoints}} checkpoints, measured on all examples "
                "and joined by straight segments; what happens between checkpoints is not seen.",
                f"Line chart of the {subject} against the training step for {{seeds}} seeds"
                + (", train and test, each with its median and bands over seeds." if len(chosen) > 1 else "."),
            )
        )
    return Content(
        findings=findings,
        says=tuple(_says(findings)),
        shows="One thin line for every seed. The thick line is the median over the seeds that reached the end, the dark "
        "band holds the middle half of them, the light band nine tenths.",
        reads="A narrow band means that the starting point hardly matters for how training goes; lines far from the "
        "band are restarts worth a look. The first steps are stretched where checkpoints are dense there.",
        limits="Equal curves do not mean equal weights: networks can be far apart and have the same loss. Bands are of "
        "the seeds trained here; they are no confidence intervals.",
        pictures=tuple(pictures),
    )


def _says(findings):
    if findings["converged"]["value"] == findings["seeds"]["value"]:
        yield "All {seeds} seeds reached step {num_steps} with finite numbers."
    else:
        yield "{converged} of {seeds} seeds reached the last step with finite numbers; only these are analysed."
    if findings["diverged"]["value"]:
        yield (
            "{diverged} of {seeds} seeds diverged, the first at step {first_divergence}; their lines stop where their "
            "numbers stop being finite, and nothing is filled in."
        )
    if findings["unfinished"]["value"]:
        yield "{unfinished} of {seeds} seeds are not trained to the end yet; the training command resumes them."


SECTION = Section("training", "Training", "How did training go, restart by restart?", anything, write)
