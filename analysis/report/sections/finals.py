"""Section: distributions at the end of training."""

import numpy as np

from analysis.figures import training as figures
from analysis.report.findings import finding
from analysis.report.section import Content, Picture, Section, Tell, plural, some_converged
from analysis.statistics import Estimate
from analysis.training import all_finals
from wspace.run import Run


def write(run: Run, rng: np.random.Generator, tell: Tell) -> Content:
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
    unit, num = finals["test_loss"].unit, len(finals["test_loss"].values)
    caption = (
        "Every dot is a seed, at its exact value; only the height is arranged, so that dots of similar value lie above "
        "each other. Upright line: median. Thick bar: its interval over seeds. Each row has an axis of its own."
        if num > 1
        else "The dot is the only seed, at its exact value. Each row has an axis of its own."
    )
    pictures = (
        Picture(
            "finals-loss",
            figures.finals("Loss at the end", f"loss ({unit})", {s: finals[f"{s}_loss"] for s in ("train", "test")}),
            caption,
            f"Dot plot of the final losses of {{test_loss:n}} {plural(num, 'seed', 'seeds')}: train median "
            "{train_loss:value}, test median {test_loss:value}.",
        ),
        Picture(
            f"finals-{score.replace('r2', 'r-squared')}",
            figures.finals(
                f"{word[0].upper() + word[1:]} at the end", word, {s: finals[f"{s}_{score}"] for s in ("train", "test")}
            ),
            caption,
            f"Dot plot of the final {word} of {{{key}:n}} {plural(num, 'seed', 'seeds')}: train median "
            f"{{{key.replace('test', 'train')}:value}}, test median {{{key}:value}}.",
        ),
    )
    if num == 1:
        says = [
            f"Test loss {{test_loss}}, train loss {{train_loss}}; test {word} {{{key}}}, train {word} "
            f"{{{key.replace('test', 'train')}}}.",
            "A single seed has no spread: there is no interval, and nothing is said about other seeds.",
        ]
    else:
        says = [
            "Test loss: median {test_loss}, over seeds from {test_loss_min:value} to {test_loss_max:value}. Train loss: "
            "median {train_loss}, from {train_loss_min:value} to {train_loss_max:value}.",
            f"Test {word}: median {{{key}}}, over seeds from {{{key}_min:value}} to {{{key}_max:value}} "
            f"({{{key}:n}} seeds).",
        ]
    says.append(
        "The norm of the objective's gradient at the end is {grad_norm}"
        + (" (median)" if num > 1 else "")
        + ". Training stopped there; that certifies no minimum."
    )
    return Content(
        findings=findings,
        headline=f"{'Medians over restarts' if num > 1 else 'The only restart'} at the end: test loss {{test_loss}}, test "
        f"{word} {{{key}}} ({{test_loss:n}} {plural(num, 'seed', 'seeds')}).",
        says=tuple(says),
        shows="Where each restart ends, on the train and on the test examples, measured on all of them.",
        reads="Compare the spread over restarts with the differences that you care about: the effect of a change that is "
        "smaller than this spread cannot be told from luck by training one seed.",
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
