import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Bowl, zero_targets
from test_surface import classification, random_params

from analysis.landscape import (
    common_reach,
    custom_plane,
    evaluate,
    filter_normalised,
    grid,
    hessian_plane,
    line_through,
    pca_plane,
    plane_through,
    random_plane,
)
from wspace import MLP, stack_params
from wspace.tree import pick, ravel

SIZES = (3, 5, 4)


def theta(params):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(params)])


def rows(plane):
    return np.stack([theta(pick(plane.directions, k)) for k in range(plane.num_axes)])


def of(*values):
    """A network without structure."""
    return {"theta": np.array(values, np.float64)}


def test_two_networks_lie_at_minus_and_plus_one_half_of_their_line(rng):
    a, b = (random_params(rng, SIZES) for _ in range(2))
    line = line_through(a, b, ("first", "last"))
    assert (line.num_axes, line.names, line.how) == (1, ("first to last",), "through two networks")
    np.testing.assert_allclose(line.lengths, [np.linalg.norm(theta(b) - theta(a))], rtol=1e-14)
    np.testing.assert_allclose(theta(line.origin), (theta(a) + theta(b)) / 2, rtol=1e-15)
    for anchor, name, params, place in zip(line.anchors, ("first", "last"), (a, b), (-0.5, 0.5), strict=True):
        assert anchor.name == name
        np.testing.assert_allclose(anchor.coordinates, [place], rtol=1e-14)
        np.testing.assert_allclose(theta(line.at(np.array([place]))), theta(params), rtol=1e-14, atol=1e-15)
        assert anchor.residual < 1e-13
        assert anchor.params is params


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, lambda leaf: leaf.astype(np.float64)])
def test_a_plane_through_three_networks_holds_them_on_equal_scales(rng, convert):
    networks = [jax.tree.map(convert, random_params(rng, SIZES)) for _ in range(3)]
    a, b, c = map(theta, networks)
    plane = plane_through(*networks, names=("a", "b", "c"))
    first, second = rows(plane)
    np.testing.assert_allclose(first, b - a, rtol=1e-14)
    assert abs(first @ second) < 1e-13 * (first @ first)
    np.testing.assert_allclose(plane.lengths, np.linalg.norm(b - a), rtol=1e-13)
    assert (c - a) @ second > 0
    np.testing.assert_allclose(theta(plane.origin), (a + b + c) / 3, rtol=1e-14, atol=1e-15)
    assert [anchor.name for anchor in plane.anchors] == ["a", "b", "c"]
    for anchor, params in zip(plane.anchors, networks, strict=True):
        np.testing.assert_allclose(theta(plane.at(anchor.coordinates)), theta(params), rtol=1e-12, atol=1e-13)
        assert 0 <= anchor.residual < 1e-12
    at = np.stack([anchor.coordinates for anchor in plane.anchors])
    np.testing.assert_allclose(at.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(at[1] - at[0], [1, 0], atol=1e-14)
    away = np.linalg.norm(at[:, None] - at, axis=-1) * plane.lengths[0]  # the triangle is not sheared
    np.testing.assert_allclose(away[0, 2], np.linalg.norm(c - a), rtol=1e-13)
    np.testing.assert_allclose(away[1, 2], np.linalg.norm(c - b), rtol=1e-13)


def test_an_equilateral_triangle_is_drawn_as_one():
    plane = plane_through(of(1, 0, 0), of(0, 1, 0), of(0, 0, 1))
    at = np.stack([anchor.coordinates for anchor in plane.anchors])
    height = np.sqrt(3) / 2
    np.testing.assert_allclose(at, [[-0.5, -height / 3], [0.5, -height / 3], [0, height * 2 / 3]], atol=1e-15)


def test_what_lies_off_the_plane_is_projected_at_right_angles(rng):
    plane = plane_through(*(random_params(rng, SIZES) for _ in range(3)))
    directions, place = rows(plane), np.array([0.3, -1.7])
    away = rng.standard_normal(directions.shape[1])
    away -= directions.T @ (directions @ away / plane.lengths**2)
    base, off = plane.at(place), rng.standard_normal()
    layout = jax.tree.structure(base)
    leaves, start = [], 0
    for leaf in jax.tree.leaves(base):
        leaves.append(leaf + off * away[start : start + leaf.size].reshape(leaf.shape))
        start += leaf.size
    params = jax.tree.unflatten(layout, leaves)
    coordinates, residual = plane.project(params)
    np.testing.assert_allclose(coordinates, place, rtol=1e-12)
    np.testing.assert_allclose(residual, abs(off) * np.linalg.norm(away), rtol=1e-12)
    total = np.linalg.norm(theta(params) - theta(plane.origin))
    np.testing.assert_allclose(np.hypot(np.linalg.norm(place * plane.lengths), residual), total, rtol=1e-12)
    more = plane.marked({"off": params, "on": base})
    assert [anchor.name for anchor in more.anchors] == ["a", "b", "c", "off", "on"]
    np.testing.assert_array_equal(more.anchors[3].coordinates, coordinates)
    assert more.anchors[3].residual == residual
    assert more.anchors[4].residual < 1e-12
    assert len(plane.anchors) == 3


def test_places_come_in_batches(rng):
    plane = plane_through(*(random_params(rng, SIZES) for _ in range(3)))
    places = rng.standard_normal((2, 4, 2))
    many = plane.at(places)
    for index in np.ndindex(2, 4):
        one = theta(plane.at(places[index]))
        np.testing.assert_allclose(one, theta(plane.origin) + places[index] @ rows(plane), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(
            theta(jax.tree.map(lambda leaf, i=index: leaf[i], many)), one, rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("num", [3, 5, 51])
@pytest.mark.parametrize("reach", [1.0, 2, 0.3, (0.1, 7.0), np.array([1e-5, 1e5])])
def test_grids_are_odd_symmetric_and_hold_the_centre(num, reach):
    plane = custom_plane(of(1, 2, 3), {"theta": np.eye(3)[:2]})
    axes = grid(plane, num, reach)
    assert len(axes) == 2
    for axis, far in zip(axes, np.broadcast_to(reach, 2), strict=True):
        assert len(axis) == num
        assert axis[num // 2] == 0
        np.testing.assert_array_equal(axis, -axis[::-1])
        np.testing.assert_allclose(axis, np.linspace(-far, far, num), rtol=1e-14, atol=1e-15 * far)
    assert len(grid(custom_plane(of(1, 2), {"theta": np.eye(2)[:1]}), num)) == 1


@pytest.mark.parametrize("num", [-1, 0, 1, 2, 50])
def test_a_grid_without_its_centre_is_refused(num):
    with pytest.raises(ValueError, match=f"num = {num}: an odd number of at least 3"):
        grid(custom_plane(of(1, 2), {"theta": np.eye(2)}), num)


@pytest.mark.parametrize("reach", [0.0, -1.0, np.nan, np.inf, (1.0, 0.0)])
def test_a_grid_without_extent_is_refused(reach):
    with pytest.raises(ValueError, match="positive numbers are expected"):
        grid(custom_plane(of(1, 2), {"theta": np.eye(2)}), 3, reach)


def test_a_common_reach_holds_the_anchors_of_all_planes(rng):
    one = custom_plane(of(0, 0, 0), {"theta": np.diag([2.0, 3.0, 1.0])[:2]}).marked(
        {"p": of(1, -5, 9), "q": of(4, 0, 0)}
    )
    line = line_through(of(0, 0, 1), of(0, 0, 13))
    np.testing.assert_allclose(common_reach([one]), 1.25 * 5)
    np.testing.assert_allclose(common_reach([one, line], margin=0), 6)
    half = common_reach([one, line])
    for plane in (one, line):
        axes = grid(plane, 5, half / plane.lengths)
        for axis, length in zip(axes, plane.lengths, strict=True):
            np.testing.assert_allclose(axis[-1] * length, 7.5)
    bare = custom_plane(of(1, 2), {"theta": np.eye(2)})
    for planes in ([], [bare], [bare.marked({"centre": of(1, 2)})]):
        with pytest.raises(ValueError, match="no plane has an anchor away from its origin"):
            common_reach(planes)


def test_networks_that_span_no_plane_are_refused(rng):
    a, b = (random_params(rng, SIZES) for _ in range(2))
    middle = jax.tree.map(lambda u, v: ((u + v) / 2).astype(np.float32), a, b)
    with pytest.raises(ValueError, match="direction 0 is zero, not finite, or depends"):
        line_through(a, a)
    for three in ((a, a, b), (a, b, b), (a, b, a)):
        with pytest.raises(ValueError, match=r"direction [01] is zero, not finite, or depends"):
            plane_through(*three)
    with pytest.raises(ValueError, match="a, b, their middle lie on one line up to the rounding"):
        plane_through(a, b, middle, ("a", "b", "their middle"))
    with pytest.raises(ValueError, match=r"direction 1 is zero, not finite, or depends|lie on one line"):
        plane_through(of(0, 1, 2), of(0.1, 1.2, 2.3), of(0.3, 1.6, 2.9))
    nudged = jax.tree.map(lambda leaf: (leaf + 1e-4 * rng.standard_normal(leaf.shape)).astype(np.float32), middle)
    assert plane_through(a, b, nudged).anchors[2].residual < 1e-12  # thin, but a plane


def test_networks_that_differ_or_diverged_are_refused(rng):
    a, b = (random_params(rng, SIZES) for _ in range(2))
    wider, bare = random_params(rng, (3, 6, 4)), random_params(rng, SIZES, bias=False)
    plane = line_through(a, b)
    for other in (wider, bare, list(a), {"theta": np.zeros(44)}):
        with pytest.raises(ValueError, match=r"b has leaves .*, a has"):
            line_through(a, other)
        with pytest.raises(ValueError, match=r"c has leaves .*, a has"):
            plane_through(a, b, other)
        with pytest.raises(ValueError, match=r"other has leaves .*, the origin has"):
            plane.marked({"other": other})
    for value in (np.nan, np.inf):
        lost = jax.tree.map(np.copy, b)
        lost[1]["bias"][2] = value
        with pytest.raises(ValueError, match="b is not finite: a diverged network"):
            line_through(a, lost)
        with pytest.raises(ValueError, match="c is not finite"):
            plane_through(a, b, lost)
        with pytest.raises(ValueError, match="lost is not finite"):
            plane.marked({"lost": lost})
    with pytest.raises(ValueError, match="the origin has"):
        custom_plane(a, jax.tree.map(lambda leaf: leaf[None], wider))
    for num in (0, 3):
        with pytest.raises(ValueError, match=f"a line has 1 direction, a plane has 2; got {num}"):
            custom_plane(of(1, 2, 3), {"theta": np.eye(3)[:num]})
    with pytest.raises(ValueError, match="direction 1 is zero, not finite, or depends"):
        custom_plane(of(1, 2), {"theta": np.array([[1.0, 2.0], [2.0, 4.0]])})


def test_directions_of_ones_own_are_made_orthogonal_to_the_first():
    plane = custom_plane(
        of(1, 1, 1), {"theta": np.array([[2.0, 0, 0], [5.0, 0, 3.0]])}, names=("x", "z"), how="by hand"
    )
    np.testing.assert_allclose(plane.directions["theta"], [[2, 0, 0], [0, 0, 3]], atol=1e-15)
    assert (plane.names, plane.how, plane.anchors) == (("x", "z"), "by hand", ())
    np.testing.assert_allclose(plane.lengths, [2, 3])


def test_random_planes_are_filter_normalised_around_their_centre(rng):
    params = random_params(rng, SIZES)
    plane = random_plane(params, rng=np.random.default_rng(5), name="seed 3")
    same = np.random.default_rng(5)
    drawn = jax.tree.map(lambda leaf: same.standard_normal(leaf.shape), params)
    np.testing.assert_array_equal(rows(plane)[0], theta(filter_normalised(drawn, params)))
    assert abs(rows(plane)[0] @ rows(plane)[1]) < 1e-13 * np.prod(plane.lengths)
    np.testing.assert_array_equal(theta(plane.origin), theta(params))
    assert plane.how == "random, filter-normalised"
    (anchor,) = plane.anchors
    assert (anchor.name, anchor.coordinates.tolist(), anchor.residual) == ("seed 3", [0, 0], 0)
    line = random_plane(params, 1, rng=np.random.default_rng(5), filters=False)
    assert (line.num_axes, line.how) == (1, "random")
    np.testing.assert_allclose(line.lengths, np.linalg.norm(theta(params)), rtol=1e-12)
    with pytest.raises(ValueError, match="a plane has 2; got 3"):
        random_plane(params, 3, rng=rng)


def test_the_principal_plane_marks_all_points_with_their_distances(rng):
    networks = [random_params(rng, SIZES) for _ in range(6)]
    points = stack_params(networks)
    plane, found = pca_plane(points)
    x = np.stack([theta(p) for p in networks])
    _, s, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    unit = rows(plane) / plane.lengths[:, None]
    np.testing.assert_allclose(np.abs(unit @ vt[:2].T), np.eye(2), atol=1e-9)
    np.testing.assert_allclose(plane.lengths, s[:2] / np.sqrt(6), rtol=1e-10)  # one standard deviation
    at = np.stack([anchor.coordinates for anchor in plane.anchors])
    np.testing.assert_allclose(at.std(axis=0), 1, rtol=1e-10)
    np.testing.assert_allclose(at.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(at * plane.lengths, found.coordinates, atol=1e-10)
    for anchor, name, network, residual in zip(plane.anchors, "012345", networks, found.residuals, strict=True):
        assert anchor.name == name
        np.testing.assert_array_equal(theta(anchor.params), theta(network))
        np.testing.assert_allclose(anchor.residual, residual, rtol=1e-9)
        away = theta(network) - x.mean(axis=0)
        np.testing.assert_allclose(anchor.residual, np.linalg.norm(away - unit.T @ (unit @ away)), rtol=1e-9)
    assert [a.name for a in pca_plane(points, list("abcdef"), 1)[0].anchors] == list("abcdef")
    for names in (["a", "b"], list("abcdeff"), list("abcdea")):
        with pytest.raises(ValueError, match="6 points take as many different names"):
            pca_plane(points, names)


def test_along_an_eigenvector_the_objective_begins_as_its_quadratic(rng):
    """L + g c + lambda c^2 / 2 + O(c^3): half the step leaves an eighth of the difference."""
    data, params, model = classification(rng), random_params(rng, (3, 4, 3)), MLP((3, 4, 3), "tanh")
    plane, found = hessian_plane(model, "cross_entropy", params, data, which="both", l2=0.3, rng=rng)
    assert found.values[0] > found.values[1]
    np.testing.assert_allclose(plane.lengths, 1, rtol=1e-9)
    assert plane.names == tuple(f"eigenvector of {value:.3g}" for value in found.values)
    assert [anchor.coordinates.tolist() for anchor in plane.anchors] == [[0, 0]]
    step, (x, y) = 0.02, grid(plane, 5, 0.02)
    values = evaluate(model, "cross_entropy", plane, (x, y), data, l2=0.3, dtype="float64", metrics=["train_objective"])
    values = values.values["train_objective"]
    for line, curvature in ((values[:, 2], found.values[0]), (values[2], found.values[1])):
        even = (line[::-1] + line)[3:] / 2 - line[2]  # what is left of the slope: lambda c^2 / 2 + O(c^4)
        np.testing.assert_allclose(even / (np.array([step / 2, step]) ** 2 / 2), curvature, rtol=1e-2, atol=1e-3)
        slope = (8 * (line[3] - line[1]) - (line[4] - line[0])) / (6 * step)
        left = np.abs(line - line[2] - slope * x - curvature * x**2 / 2)
        assert left[[1, 3]].max() < left[[0, 4]].max() / 6
        assert left.max() < 100 * step**3
    cross = values[4, 4] - values[4, 0] - values[0, 4] + values[0, 0]  # eigenvectors do not mix
    assert abs(cross) / (2 * step) ** 2 < 1e-2 * np.abs(found.values).max()


def test_a_bowls_plane_is_exact(rng):
    model = Bowl(((3.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 1.0)))
    plane, found = hessian_plane(model, "squared_error", of(1, 2, 3), zero_targets(3), rng=rng)
    np.testing.assert_allclose(found.values, [18, 8], rtol=1e-6)
    x, y = axes = grid(plane, 5, 2.0)
    values = evaluate(model, "squared_error", plane, axes, zero_targets(3), dtype="float64", metrics=["train_loss"])
    expected = 34 + 18 * x[:, None] + 9 * x[:, None] ** 2 + 16 * y + 4 * y**2
    np.testing.assert_allclose(values.values["train_loss"], expected, rtol=1e-6)


def test_planes_keep_copies_and_leave_their_arguments_alone(rng):
    centre, directions = of(1, 2, 3), {"theta": rng.standard_normal((2, 3))}
    before = directions["theta"].copy()
    plane = custom_plane(centre, directions)
    np.testing.assert_array_equal(directions["theta"], before)
    found = theta(plane.origin), rows(plane)
    centre["theta"][:] = 7
    directions["theta"][:] = 7
    np.testing.assert_array_equal(theta(plane.origin), found[0])
    np.testing.assert_array_equal(rows(plane), found[1])
    for record, field in ((plane, "origin"), (plane.marked({"p": of(0, 0, 0)}).anchors[0], "residual")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field, None)
    a, b, c = networks = [random_params(rng, SIZES) for _ in range(3)]
    copies = [theta(p) for p in networks]
    plane_through(a, b, c)
    line_through(a, b)
    pca_plane(stack_params(networks), num_axes=1)
    for params, copy in zip(networks, copies, strict=True):
        np.testing.assert_array_equal(theta(params), copy)
        np.testing.assert_array_equal(np.asarray(ravel(params)), copy)
