"""Nulls and certificates: what a matcher finds where nothing is to be found, and where the answer is known."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from analysis.alignment.population import Matcher
from wspace.symmetry import Element, Symmetry, act, compose, random_element, share_fixed
from wspace.tree import Layout, Params


@dataclasses.dataclass(frozen=True)
class Recovery:
    """How much of a planted relabelling a matcher finds again.

    Attributes:
        noise: |noise| / |theta| of each level; a copy with noise s has cosine 1 / sqrt(1 + s^2) with its original.
        recovered: share of hidden units that return to their place, sign included; (level, seed).
        found: the matcher's objective; (level, seed).
        planted: the objective at the planted answer, <theta, theta + noise>; (level, seed). Where found < planted, the
            matcher failed: a better match was there.
    """

    noise: Float[np.ndarray, "level"]
    recovered: Float[np.ndarray, "level seed"]
    found: Float[np.ndarray, "level seed"]
    planted: Float[np.ndarray, "level seed"]


def planted(
    symmetry: Symmetry, params: Params, noise: Sequence[float], *, matcher: Matcher, rng: np.random.Generator
) -> Recovery:
    """Relabel every network at random, add Gaussian noise, and match the result back to the network itself.

    Noise of relative size s has standard deviation s times each leaf's root mean square, so that |noise| = s |theta| up
    to chance, and the cosine between a network and its noisy copy is 1 / sqrt(1 + s^2). Matching does not see lengths, so at
    s = sqrt(1/c^2 - 1), c the cosine between aligned restarts, it says whether a relabelling of that quality would have
    been found.

    Args:
        symmetry: the group.
        params: stacked, leaves (seed, ...).
        noise: levels s >= 0.
        matcher: (symmetry, references, params) -> Match, by weights.
        rng: source of relabellings and noise.
    """
    num = jax.tree.leaves(params)[0].shape[0]
    recovered, found, known = [], [], []
    for level in noise:
        noisy = jax.tree.map(lambda leaf, level=level: _noisy(np.asarray(leaf), level, rng), params)
        plant = random_element(symmetry, rng, (num,), kinds=("perm", "sign"))
        match = matcher(symmetry, params, act(symmetry, plant, noisy))
        recovered.append(np.broadcast_to(share_fixed(compose(match.element, plant)), num))
        found.append(match.objective)
        pairs = list(zip(jax.tree.leaves(params), jax.tree.leaves(noisy), strict=True))
        known.append([sum(float(np.vdot(np.float64(a[i]), np.float64(b[i]))) for a, b in pairs) for i in range(num)])
    return Recovery(np.array(noise, float), np.array(recovered), np.array(found), np.array(known))


def random_relabelling(symmetry: Symmetry, params: Params, *, rng: np.random.Generator) -> tuple[Element, Params]:
    """Every network under uniformly random perms and signs: the same functions in unrelated labellings."""
    num = jax.tree.leaves(params)[0].shape[0]
    element = random_element(symmetry, rng, (num,), kinds=("perm", "sign"))
    return element, act(symmetry, element, params)


def scrambled(symmetry: Symmetry, params: Params, *, rng: np.random.Generator) -> Params:
    """Networks of the same weights without their units: every row of weights is dealt out anew among the units.

    Along each axis that receives, for every other index (an input, a unit of the layer before), the values are shuffled
    among the units independently; leaves that only send are shuffled along that axis. Which inputs carry weight, and how
    much, is kept; which weights belong together is not. So matching finds in them what it finds in noise of this shape.

    Args:
        symmetry: the group.
        params: stacked, leaves (seed, ...).
        rng: source of the shuffles.
    """
    names, leaves = Layout.of(params).names, [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    found = dict(zip(names, leaves, strict=True))
    axes = [axis for units in symmetry.layers for axis in units.axes]
    for name in dict.fromkeys(axis.leaf for axis in axes):
        own = sorted((axis for axis in axes if axis.leaf == name), key=lambda axis: axis.sends)
        found[name] = rng.permuted(found[name], axis=own[0].axis)
    return jax.tree.unflatten(jax.tree.structure(params), [found[name] for name in names])


def _noisy(leaf: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    axes = tuple(range(1, leaf.ndim))
    size = np.sqrt(np.mean(np.square(leaf, dtype=np.float64), axis=axes, keepdims=True))
    return (leaf + level * size * rng.standard_normal(leaf.shape)).astype(leaf.dtype)
