"""The planes of a run's report as a surface to turn, in a page of its own beside the report."""

from pathlib import Path

from analysis.figures import interactive as figures
from analysis.report.section import Tell
from analysis.report.shared import PLANES, restart_surfaces
from analysis.training import metric_unit
from wspace import store
from wspace.run import Run

NAME = "surface.html"


def write_interactive(run: Run, out: Path | None = None, *, tell: Tell = lambda text: None) -> Path | None:
    """surface.html: the train loss on the planes through the first three restarts, raw and aligned.

    Args:
        run: with at least three converged seeds; otherwise there is no plane.
        out: folder, default `report` in the run's.
        tell: hears what is being computed.

    Returns:
        Path of the page, or None where the run has no plane.

    Raises:
        ImportError: plotly is not installed (the `interactive` extra).
        StoreError: the folder cannot be written.
    """
    figures.check()
    surfaces = restart_surfaces(run, tell)
    if not surfaces:
        return None
    label = f"train loss ({metric_unit('train_loss', run.loss_kind)})"
    titled = {PLANES[way]: surface for way, surface in surfaces.items()}
    page = figures.surface_page(titled, "train_loss", label, f"{run.spec.name}: plane through three restarts")
    out = out or run.path / "report"
    with store.writing(out):
        out.mkdir(parents=True, exist_ok=True)
        store.replace_file(out / NAME, page.encode())
    return out / NAME
