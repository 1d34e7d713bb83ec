"""A loss surface to turn and zoom, as one HTML file (needs the `interactive` extra)."""

import html
from collections.abc import Mapping

import numpy as np

from analysis.figures import style
from analysis.landscape.surface import Surface

VIEWPORT = "width=device-width, initial-scale=1"


def check() -> None:
    """Say now whether `surface_page` could work.

    Raises:
        ImportError: plotly is not installed; the message says what to install.
    """
    try:
        import plotly.graph_objects  # noqa: F401
    except ImportError as error:
        raise ImportError("an interactive surface needs plotly: pip install 'wspace[interactive]'") from error


def surface_page(surfaces: Mapping[str, Surface], metric: str, label: str, title: str) -> str:
    """An HTML page that stands alone: one surface at a time, buttons choose which; plotly's script is in it once.

    The height is logarithmic where all finite values are positive. Points that are not finite are left out, as a gap.

    Args:
        surfaces: name of a button -> surface on a plane, at least one.
        metric: which values.
        label: of the height, with unit.
        title: of the page.

    Raises:
        ImportError: plotly is not installed.
        ValueError: there are no surfaces.
    """
    check()
    import plotly.graph_objects as go

    if not surfaces:
        raise ValueError("surface_page got no surfaces; at least one is expected")
    finite = np.concatenate([np.asarray(s.values[metric])[np.isfinite(s.values[metric])] for s in surfaces.values()])
    log = len(finite) > 0 and bool(finite.min() > 0)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    traces = []
    for number, surface in enumerate(surfaces.values()):
        x, y = surface.distances
        values = np.asarray(surface.values[metric])
        height = np.where(np.isfinite(values), values, np.nan).T
        with np.errstate(invalid="ignore"):
            color = np.log10(height) if log else height
        ends = (np.log10(low), np.log10(high)) if log else (low, high)
        ticks = np.linspace(*ends, 6)
        bar = {
            "title": {"text": label}, "tickvals": ticks.tolist(), "thickness": 14, "len": 0.7,
            "ticktext": [f"{10**tick if log else tick:.2g}" for tick in ticks],
        }  # fmt: skip
        traces.append(go.Surface(
            x=x, y=y, z=height, surfacecolor=color, colorscale="Viridis", cmin=ends[0], cmax=ends[1], colorbar=bar,
            visible=number == 0, hovertemplate="%{x:.3g}, %{y:.3g}<br>" + label + " %{z:.4g}<extra></extra>",
        ))  # fmt: skip
        places = np.array([a.coordinates for a in surface.plane.anchors]).reshape(-1, 2) * surface.plane.lengths
        traces.append(go.Scatter3d(
            x=places[:, 0], y=places[:, 1], z=surface.anchors[metric], text=[a.name for a in surface.plane.anchors],
            mode="markers+text", marker={"size": 5, "color": "white", "line": {"color": style.INK, "width": 2}},
            textfont={"color": style.INK}, visible=number == 0, showlegend=False,
            hovertemplate="%{text}<br>" + label + " %{z:.4g}<extra></extra>",
        ))  # fmt: skip
    buttons = [
        {"label": name, "method": "update", "args": [{"visible": [i // 2 == k for i in range(len(traces))]}]}
        for k, name in enumerate(surfaces)
    ]
    plane = next(iter(surfaces.values())).plane
    axis = {"backgroundcolor": "white", "gridcolor": style.FAINT, "color": style.MUTED}
    figure = go.Figure(traces)
    figure.update_layout(
        title={"text": title, "font": {"color": style.INK}}, paper_bgcolor="white", font={"color": style.MUTED},
        margin={"l": 0, "r": 0, "t": 60, "b": 0},
        scene={
            "camera": {"eye": {"x": -1.3, "y": -1.9, "z": 1.2}},
            "xaxis": axis | {"title": {"text": f"distance, {plane.names[0]}"}},
            "yaxis": axis | {"title": {"text": f"distance, {plane.names[1]}"}},
            "zaxis": axis | {"title": {"text": label}, "type": "log" if log else "linear"},
        },
        updatemenus=[{"buttons": buttons, "type": "buttons", "direction": "right", "x": 0.02, "y": 1.0, "xanchor": "left"}]
        if len(buttons) > 1 else [],
    )  # fmt: skip
    page = figure.to_html(full_html=True, include_plotlyjs=True, include_mathjax=False, div_id="surface")
    for old, new in (
        ("<html>", '<html lang="en">'),
        ("<head>", f'<head><meta name="viewport" content="{VIEWPORT}"><title>{html.escape(title)}</title>'),
        ("<body>", '<body style="margin: 0">'),
    ):
        page = page.replace(old, new, 1)
    return page
