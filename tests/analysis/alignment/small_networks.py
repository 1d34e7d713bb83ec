"""Networks small enough for every relabelling to be tried, and slow oracles for them."""

import functools
import itertools

import jax
import numpy as np

from analysis.alignment import match_activations, match_frank_wolfe, match_straight_through, match_weights
from wspace import symmetry as symmetries
from wspace.symmetry import Axis, Element, Symmetry, Units
from wspace.tree import Layout

MATCHERS = ["weights", "frank_wolfe", "correlation", "inner_product", "straight_through"]
SHAPES = {
    "bias": (4,), "conv": (2, 2, 3, 4), "head": (4, 2), "loose": (2, 3), "norm": (2, 4), "recurrent": (2, 2), "stem": (2, 3),
    "triple": (3, 4, 2),
}  # fmt: skip


def grouped(*, recurrent=False, triple=False, sign=(False, True, False)):
    """Three layers of 3, 4 and 2 units that share leaves of up to four axes; `loose` belongs to none."""
    axes = [
        [Axis("stem", -1), Axis("conv", -2, sends=True)],
        [Axis("conv", -1), Axis("bias", -1), Axis("norm", -1), Axis("head", -2, sends=True)],
        [Axis("head", -1)],
    ]
    if recurrent:
        axes[2] += [Axis("recurrent", -1), Axis("recurrent", -2, sends=True)]
    if triple:
        for layer in range(3):
            axes[layer].append(Axis("triple", layer - 3))
    return Symmetry(tuple(Units(n, tuple(a), sign=s) for n, a, s in zip((3, 4, 2), axes, sign, strict=True)))


def leaves(rng):
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def draw(model, rng, batch=(), dtype: type[np.floating] = np.float64):
    """NumPy params with Gaussian weights and biases."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: rng.standard_normal((*batch, *leaf.shape)).astype(dtype), shapes)


def relabel(model, params, rng, num):
    """`num` random relabellings, and the network under each of them."""
    plant = symmetries.random_element(model.symmetry, rng, (num,), kinds=("perm", "sign"))
    return plant, symmetries.act(model.symmetry, plant, repeat(params, num))


def pick(params, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], params)


def repeat(params, num):
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (num, *leaf.shape)).copy(), params)


def theta(params, batch_ndim=0):
    parts = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    return np.concatenate([p.reshape(*p.shape[:batch_ndim], -1) for p in parts], axis=-1)


def inner(a, b):
    return float(theta(a) @ theta(b))


def outputs(model, params, x):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        return np.asarray(model.apply(wide, np.asarray(x, np.float64)))


@functools.lru_cache(maxsize=8)
def every_element(group):
    """All perms, and all signs where they are free, stacked."""
    per_layer = []
    for units in group.layers:
        signs = list(itertools.product((1.0, -1.0), repeat=units.num)) if units.sign else [(1.0,) * units.num]
        per_layer.append(list(itertools.product(itertools.permutations(range(units.num)), signs)))
    elements = list(itertools.product(*per_layer))
    layers = range(len(group.layers))
    return Element(
        tuple(np.array([e[i][0] for e in elements]) for i in layers),
        tuple(np.array([e[i][1] for e in elements]) for i in layers),
    )


def best_of_all(group, a, b):
    """max over all elements of <a, g b>."""
    elements = every_element(group)
    moved = symmetries.act(group, elements, repeat(b, len(elements.perms[0])))
    return float((theta(moved, 1) @ theta(a)).max())


def matrix(perm, signs):
    """M with (M v)_j = signs_j v_perm[j]."""
    return np.asarray(signs)[:, None] * np.eye(len(perm))[np.asarray(perm)]


def similarity(group, a, b, element, layer, unlabelled=()):
    """S of one layer from its definition, by dense matrices; what another layer without labels shares is left out."""
    found_a, found_b = (dict(zip(Layout.of(p).names, jax.tree.leaves(p), strict=True)) for p in (a, b))
    places = [(i, axis) for i, units in enumerate(group.layers) for axis in units.axes]
    num = group.layers[layer].num
    total = np.zeros((num, num))
    for own in group.layers[layer].axes:
        others = [(i, axis) for i, axis in places if axis.leaf == own.leaf and axis != own]
        if any(i in unlabelled for i, _ in others):
            continue
        moved = found_b[own.leaf]
        for i, axis in others:
            dense = matrix(element.perms[i], element.factors[i])
            moved = np.moveaxis(np.tensordot(dense, moved, (1, axis.axis)), 0, axis.axis)
        rows = (np.moveaxis(leaf, own.axis, 0).reshape(num, -1) for leaf in (found_a[own.leaf], moved))
        total += np.dot(next(rows), next(rows).T)
    return total


def matcher(name, model, rng, x, y):
    """Any of MATCHERS as a function of (symmetry, reference, params)."""
    if name in ("correlation", "inner_product"):
        return functools.partial(match_activations, model=model, x=x, kind=name)
    if name == "straight_through":
        return functools.partial(
            match_straight_through, model=model, kind="squared_error", x=x, y=y, rng=rng, num_steps=2
        )
    return functools.partial({"weights": match_weights, "frank_wolfe": match_frank_wolfe}[name], rng=rng)
