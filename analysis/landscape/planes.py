"""Lines and planes in weight space as objects: an origin, one or two orthogonal directions, and marked networks."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float

from analysis.landscape import directions as ways
from analysis.landscape.directions import Eigenpairs
from analysis.projection.components import Components, principal_components
from wspace.data import Dataset
from wspace.models import Model
from wspace.objective import LossKind
from wspace.tree import Layout, Params, pick

Axes = tuple[Float[np.ndarray, "_"], ...]


@dataclasses.dataclass(frozen=True)
class Anchor:
    """A network that is marked on a plane.

    Attributes:
        name: for people.
        params: the network itself, which need not lie on the plane.
        coordinates: of its projection, relative.
        residual: its distance from the plane, 0 up to rounding for those that span it.
    """

    name: str
    params: Params
    coordinates: Float[np.ndarray, "axis"]
    residual: float


@dataclasses.dataclass(frozen=True)
class Plane:
    """theta(c) = origin + sum_k c_k direction_k: a line or a plane of weight space.

    Relative coordinates c count directions; the same place in units of distance is c_k |direction_k|, because the
    directions are orthogonal.

    Attributes:
        origin: params, float64.
        directions: leaves (axis, ...), one axis or two, orthogonal, float64.
        names: of the axes, for people.
        how: how the directions were chosen, for people.
        anchors: networks to mark.
    """

    origin: Params
    directions: Params
    names: tuple[str, ...]
    how: str
    anchors: tuple[Anchor, ...] = ()

    @property
    def lengths(self) -> Float[np.ndarray, "axis"]:
        """|direction_k|: the distance that a relative coordinate of 1 stands for."""
        return np.sqrt(np.einsum("ap,ap->a", rows := self._rows(), rows))

    @property
    def num_axes(self) -> int:
        """1 for a line, 2 for a plane."""
        return len(jax.tree.leaves(self.directions)[0])

    def at(self, coordinates: Float[np.ndarray, "*batch axis"]) -> Params:
        """Params at relative coordinates, float64, with the batch axes in front."""
        c = np.asarray(coordinates, np.float64)
        return jax.tree.map(lambda o, d: o + np.tensordot(c, d, 1), self.origin, self.directions)

    def project(self, params: Params) -> tuple[Float[np.ndarray, "axis"], float]:
        """Relative coordinates of the nearest point of the plane, and the distance to it."""
        rows = self._rows()
        away = _theta(params) - _theta(self.origin)
        coordinates = rows @ away / np.square(rows).sum(axis=1)
        return coordinates, float(np.linalg.norm(away - coordinates @ rows))

    def marked(self, networks: dict[str, Params]) -> "Plane":
        """The same plane with more anchors.

        Raises:
            ValueError: a network differs in structure from the origin, or is not finite.
        """
        _check_alike((self.origin, *networks.values()), ("the origin", *networks))
        added = tuple(Anchor(name, params, *self.project(params)) for name, params in networks.items())
        return dataclasses.replace(self, anchors=self.anchors + added)

    def _rows(self) -> Float[np.ndarray, "axis param"]:
        return np.stack([_theta(pick(self.directions, k)) for k in range(self.num_axes)])


def line_through(a: Params, b: Params, names: Sequence[str] = ("a", "b")) -> Plane:
    """The line through two networks: a at the relative coordinate -1/2, b at 1/2, their mean at 0.

    Raises:
        ValueError: the networks differ in structure, are equal, or are not finite.
    """
    _check_alike((a, b), names)
    origin = _mean((a, b))
    direction = jax.tree.map(lambda u, v: np.subtract(v, u, dtype=np.float64)[None], a, b)
    plane = custom_plane(origin, direction, names=(f"{names[0]} to {names[1]}",), how="through two networks")
    return plane.marked(dict(zip(names, (a, b), strict=True)))


def plane_through(a: Params, b: Params, c: Params, names: Sequence[str] = ("a", "b", "c")) -> Plane:
    """The plane through three networks, around their mean.

    The first direction is b - a; the second is the part of c - a at right angles to it, scaled to the same length, so
    that both relative coordinates, and both distances, have one scale.

    Raises:
        ValueError: the networks differ in structure, lie on one line, or are not finite.
    """
    _check_alike((a, b, c), names)
    pairs = jax.tree.map(lambda u, v, w: np.float64(np.stack([v, w])) - np.float64(u), a, b, c)
    both = ways.orthogonalised(pairs)
    plane = Plane(
        _mean((a, b, c)), both, (f"{names[0]} to {names[1]}", f"towards {names[2]}"), "through three networks"
    )
    scale = np.array([1.0, plane.lengths[0] / plane.lengths[1]])
    precision = max(np.finfo(np.asarray(leaf).dtype).eps for leaf in jax.tree.leaves((a, b, c)))
    if plane.lengths[1] < 2 * precision * max(np.linalg.norm(_theta(params)) for params in (a, b, c)):
        raise ValueError(f"{', '.join(names)} lie on one line up to the rounding of their params")
    scaled = jax.tree.map(lambda leaf: leaf * scale.reshape(-1, *(1,) * (leaf.ndim - 1)), both)
    return dataclasses.replace(plane, directions=scaled).marked(dict(zip(names, (a, b, c), strict=True)))


def random_plane(
    centre: Params, num_axes: int = 2, *, rng: np.random.Generator, filters: bool = True, name: str = "centre"
) -> Plane:
    """Random directions through one network, filter-normalised unless told otherwise: see `directions.random_directions`.

    Raises:
        ValueError: num_axes is neither 1 nor 2, or the network cannot be normalised.
    """
    found = ways.random_directions(centre, num_axes, rng=rng, filters=filters)
    how = "random, filter-normalised" if filters else "random"
    names = tuple(f"random direction {k + 1}" for k in range(num_axes))
    return custom_plane(centre, found, names=names, how=how).marked({name: centre})


def pca_plane(points: Params, names: Sequence[str] | None = None, num_axes: int = 2) -> tuple[Plane, Components]:
    """The principal plane of stacked networks, through their mean; they are its anchors, with their distances from it.

    A relative coordinate of 1 is one standard deviation of the points along that direction.

    Args:
        points: leaves (point, ...), more than num_axes of them.
        names: of the points.
        num_axes: 1 or 2.

    Raises:
        ValueError: there are too few points, they span fewer dimensions, or do not have one name each.
    """
    layout = Layout.of(jax.tree.map(lambda leaf: leaf[0], points))
    rows = np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(points)], axis=1)
    found = principal_components(rows, num_axes)
    plane = principal_plane(found, layout)
    labels = [str(i) for i in range(len(found.coordinates))] if names is None else list(names)
    if not len(set(labels)) == len(labels) == len(found.coordinates):
        raise ValueError(f"{len(found.coordinates)} points take as many different names, got {labels}")
    return plane.marked({label: pick(points, i) for i, label in enumerate(labels)}), found


def principal_plane(found: Components, layout: Layout) -> Plane:
    """The line or plane of principal components, through their origin, without anchors.

    A relative coordinate of 1 is one standard deviation of the points, about the origin, along that direction.

    Raises:
        ValueError: every trajectory was centred at an end of its own, so that there is no common plane.
    """
    if found.origin.ndim != 1:
        raise ValueError("components about every trajectory's own end have no common origin: centre them at the mean")
    scaled = found.directions * np.sqrt(found.explained * found.total)[:, None]
    names = tuple(f"principal component {k + 1}" for k in range(len(scaled)))
    return custom_plane(layout.unravel(found.origin), layout.unravel(scaled), names=names, how="principal components")


def hessian_plane(
    model: Model, kind: LossKind, centre: Params, data: Dataset, num_axes: int = 2, *,
    which: Literal["largest", "smallest", "both"] = "largest", l2: float = 0.0, rng: np.random.Generator,
    name: str = "centre",
) -> tuple[Plane, Eigenpairs]:  # fmt: skip
    """Unit eigenvectors of the training objective's Hessian, through the network where it was taken.

    Never filter-normalised: along eigenvector k the objective begins as L + g c + lambda_k c^2 / 2, c in distance.
    Arguments and errors: see `directions.hessian_directions`.
    """
    found = ways.hessian_directions(model, kind, centre, data, num_axes, which=which, l2=l2, rng=rng)
    names = tuple(f"eigenvector of {value:.3g}" for value in found.values)
    plane = custom_plane(centre, found.directions, names=names, how="eigenvectors of the Hessian")
    return plane.marked({name: centre}), found


def custom_plane(
    origin: Params, directions: Params, *, names: Sequence[str] = ("first direction", "second direction"),
    how: str = "custom",
) -> Plane:  # fmt: skip
    """A line or plane from directions of one's own; the second is made orthogonal to the first.

    Args:
        origin: one network.
        directions: leaves (axis, ...), one axis or two.
        names: of the axes.
        how: how they were chosen.

    Raises:
        ValueError: neither one nor two directions, another structure than the origin's, or dependent directions.
    """
    leaves = jax.tree.leaves(directions)
    if not leaves or len(leaves[0]) not in (1, 2):
        raise ValueError(f"a line has 1 direction, a plane has 2; got {len(leaves[0]) if leaves else 0}")
    of, own = Layout.of(origin), Layout.of(jax.tree.map(lambda leaf: np.asarray(leaf)[0], directions))
    if own != of:
        raise ValueError(f"directions have leaves {own.names} {own.shapes}, the origin has {of.names} {of.shapes}")
    wide = jax.tree.map(lambda leaf: np.array(leaf, np.float64), origin)  # a copy
    return Plane(wide, ways.orthogonalised(directions), tuple(names[: len(leaves[0])]), how)


def grid(plane: Plane, num: int = 51, reach: float | Sequence[float] | Float[np.ndarray, "axis"] = 1.0) -> Axes:
    """Evenly spaced relative coordinates from -reach to reach along each axis, 0 exactly in the middle.

    Args:
        plane: decides how many axes.
        num: points along each axis, odd.
        reach: largest relative coordinate, one for all axes or one each. To give planes the same extent in distance,
            divide that distance by `plane.lengths`.

    Raises:
        ValueError: num is even or less than 3, or a reach is not positive.
    """
    if num < 3 or num % 2 == 0:
        raise ValueError(f"num = {num}: an odd number of at least 3 is expected, so that the centre is on the grid")
    reaches = np.broadcast_to(np.asarray(reach, np.float64), plane.num_axes)
    if not np.all(reaches > 0) or not np.all(np.isfinite(reaches)):
        raise ValueError(f"reach = {reach}: positive numbers are expected, one for all axes or one each")
    half = num // 2
    return tuple(r * np.arange(-half, half + 1) / half for r in reaches)


def common_reach(planes: Sequence[Plane], margin: float = 0.25) -> float:
    """The distance from the origin that holds all anchors of all planes on every axis, and `margin` of it more.

    Raises:
        ValueError: no anchor lies away from its plane's origin.
    """
    far = max(
        (float(np.max(np.abs(a.coordinates * plane.lengths))) for plane in planes for a in plane.anchors), default=0.0
    )
    if far == 0:
        raise ValueError("no plane has an anchor away from its origin: a distance of your own is expected")
    return far * (1 + margin)


def _mean(networks: Sequence[Params]) -> Params:
    return jax.tree.map(lambda *leaves: np.mean(np.float64(np.stack(leaves)), axis=0), *networks)


def _theta(params: Params) -> Float[np.ndarray, "param"]:
    return np.concatenate([np.float64(leaf).ravel() for leaf in jax.tree.leaves(params)])


def _check_alike(networks: Sequence[Params], names: Sequence[str]) -> None:
    if len(set(names)) != len(networks) or len(names) != len(networks):
        raise ValueError(f"names = {list(names)}: {len(networks)} different ones are expected")
    layouts = [Layout.of(params) for params in networks]
    for name, layout, params in zip(names, layouts, networks, strict=True):
        if layout != layouts[0]:
            raise ValueError(f"{name} has leaves {layout.names} {layout.shapes}, {names[0]} has {layouts[0].shapes}")
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params)):
            raise ValueError(f"{name} is not finite: a diverged network has no place on a plane")
