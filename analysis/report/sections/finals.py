"""Section: distributions at the end of training."""

import numpy as np

from analysis.figures import training as figures
from analysis.report.findings import finding
from analysis.report.section import Content, Picture, Section, some_converged
from analysis.statistics import Estimate
from analysis.training import all_finals
from wspace.run import Run


def write(run: Run, rng: np.random.Generator) -> Content:
    """Median, interval, extremes and range of every metric over the converged seeds."""
    finals = all_finals(run, rng=rng)
    score, word = ("accuracy", "accuracy") if run.task == "classification" else ("r2", "R²")
    findings = {}
    for name, final in finals.items():
        n, unit = len(final.values), final.unit
        key = name.replace("r2", "r_squared")
        findings[key] = finding(final.median)
        for what, value in (("min", final.low), ("max", final.high), ("range", final.high - final.low)):
            findings[f"{key}_{what}"] = finding(Estimate(value, None, n, unit))
    key = f"test_{score}".replace("r2", "r_squared")
    unit = finals["test_loss"].unit
    caption = (
        "Every dot is a seed, at its exact value; dots are stacked where they would overlap. Upright line: median. "
        "Thick bar below: its interval, where there are enough seeds for one."
    )
    pictures = (
        Picture(
            "finals-loss",
            figures.finals("Loss at the end", f"loss ({unit})", {s: finals[f"{s}_loss"] for s in ("train", "test")}),
            caption,
            "Dot plot of the final losses of {test_loss:n} seeds: train median {train_loss:value}, test median "
            "{test_loss:value}.",
        ),
        Picture(
            f"finals-{score.replace('r2', 'r-squared')}",
            figures.finals(
                f"{word[0].upper() + word[1:]} at the end", word, {s: finals[f"{s}_{score}"] for s in ("train", "test")}
            ),
            caption,
            f"Dot plot of the final {word} of {{{key}:n}} seeds: train median {{{key.replace('test', 'train')}:value}}, "
            f"test median {{{key}:value}}.",
        ),
    )
    says = [
        "Test loss: median {test_loss}, between {test_loss_min:value} and {test_loss_max:value}. "
        "Train loss: median {train_loss}, between {train_loss_min:value} and {train_loss_max:value}.",
        f"Test {word}: median {{{key}}}, between {{{key}_min:value}} and {{{key}_max:value}}, over {{{key}:n}} "
        f"{'seeds' if len(finals[f'test_{score}'].values) > 1 else 'seed'}.",
    ]
    if findings["test_loss"]["n"] == 1:
        says.append("A single seed has no spread: there is no interval, and nothing is said about other seeds.")
    else:
        says.append(
            "The gradient's norm at the end: median {grad_norm}. Training stopped there; that is no certificate "
            "of a minimum."
        )
    return Content(
        findings=findings,
        headline=f"The median restart ends at a test loss of {{test_loss}} and a test {word} of {{{key}}} "
        "({test_loss:n} seeds).",
        says=tuple(says),
        shows="Where each restart ends, on the train and on the test examples, measured on all of them.",
        reads="Compare the spread over restarts with the differences that you care about: a change of the recipe that is "
        "smaller than this spread cannot be told from luck with one seed.",
        limits="Losses are data terms, without the weight penalty. All seeds share one train-test split, so the "
        "intervals speak of other seeds on this split, not of other data.",
        pictures=pictures,
    )


SECTION = Section(
    "finals",
    "Where training ends",
    "How different are the restarts in what they were trained for?",
    some_converged,
    write,
)
