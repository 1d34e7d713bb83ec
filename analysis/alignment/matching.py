"""Matching: the group element that brings one network close to another.

Every matcher takes (symmetry, reference, params, ...) with the networks that are moved stacked along `pair`, and returns
a `Match`, whose element acts on them. The reference is one network for all, or stacked ones, pair by pair. Scales are
not matched: balance the networks first (`wspace.symmetry.balance`) where their scales are free.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.alignment.ascent import Climb, Labels, Leaves, Similarities, as_element, as_labels, climb
from analysis.threads import in_threads
from wspace import symmetry as symmetries
from wspace.symmetry import Element, Symmetry
from wspace.tree import Layout, Params


@dataclasses.dataclass(frozen=True)
class Match:
    """What a matcher found for each pair of a reference and a network.

    Attributes:
        element: stacked over pairs; acting with it on the networks brings them to their references.
        objective: what the matcher maximises, at the element; float64.
        restarts: the objective that each restart reached; `objective` is the largest.
        sweeps: passes over the layers, or iterations, of the best restart.
        converged: whether the best restart stopped because nothing improved any more, not because of its limit.
        history: per pair, the best restart's objective after every sweep.
    """

    element: Element
    objective: Float[np.ndarray, "pair"]
    restarts: Float[np.ndarray, "pair restart"]
    sweeps: Int[np.ndarray, "pair"]
    converged: Bool[np.ndarray, "pair"]
    history: tuple[Float[np.ndarray, "_"], ...]

    @property
    def spread(self) -> Float[np.ndarray, "pair"]:
        """(best - worst restart) / |best|: how much the matcher depends on where it starts."""
        return np.ptp(self.restarts, axis=1) / np.maximum(np.abs(self.objective), np.finfo(float).tiny)


class Pairs(Sequence[tuple[Leaves, Leaves]]):
    """Checked pairs of a reference and a network, leaf by leaf in float64, made when they are asked for.

    A reference that is the same for all pairs is made once: nobody writes to it.

    Raises:
        ValueError: the architectures differ, a value is not finite, or the symmetry does not fit.
    """

    def __init__(self, symmetry: Symmetry, reference: Params, params: Params):
        layouts = Layout.of(reference), Layout.of(params)
        self.names = layouts[1].names
        self._a, self._b = ([np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in (reference, params))
        shapes_a, shapes_b = (layout.shapes for layout in layouts)
        self._single = shapes_a == tuple(shape[1:] for shape in shapes_b)
        if layouts[0].names != self.names or not (self._single or shapes_a == shapes_b):
            raise ValueError(
                f"the reference has the leaves {_described(layouts[0])}, the networks that are moved "
                f"{_described(layouts[1])}: the same architecture is expected, the networks stacked along a first axis "
                "(stack_params), the reference alone or stacked like them"
            )
        self._num = shapes_b[0][0]
        if any(shape[0] != self._num for shape in shapes_b) or self._num == 0:
            raise ValueError(
                f"the networks that are moved are stacked to different lengths, or none: {_described(layouts[1])}"
            )
        one = jax.tree.unflatten(jax.tree.structure(params), [leaf[0] for leaf in self._b])
        symmetries.check_axes(symmetry, Layout.of(one))
        for what, leaves in (("reference", self._a), ("network that is moved", self._b)):
            for name, leaf in zip(self.names, leaves, strict=True):
                if not np.all(np.isfinite(leaf)):
                    raise ValueError(f"{name} of a {what} is not finite: leave out networks that diverged")
        self._reference = self._wide(self._a) if self._single else None

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index):  # type: ignore[override]
        pick = lambda leaves: self._wide([leaf[index] for leaf in leaves])  # noqa: E731
        return (pick(self._a) if self._reference is None else self._reference), pick(self._b)

    def _wide(self, leaves: Sequence[np.ndarray]) -> Leaves:
        return {name: leaf.astype(np.float64) for name, leaf in zip(self.names, leaves, strict=True)}


def match_weights(
    symmetry: Symmetry,
    reference: Params,
    params: Params,
    *,
    rng: np.random.Generator,
    num_restarts: int = 4,
    start: Element | None = None,
    num_threads: int | None = None,
) -> Match:
    """Weight matching: maximise <theta_reference, g theta> over perms and signs, by coordinate ascent over the layers.

    Given all other layers, a layer's best labels are the linear assignment of its similarity S[i, j], the inner product
    of all that unit i of the reference and unit j of the network receive and send. Solving layer after layer until none
    improves finds a local maximum of an NP-hard problem; with one hidden layer that does not feed itself, the global one.
    All sums are in float64.
    Since |theta_reference - g theta|^2 = |theta_reference|^2 + |theta|^2 - 2 <., .>, the distance is minimised. Ainsworth
    et al. 2023 (2209.04836), algorithm 1; for signs see `assignment.assign`.

    Args:
        symmetry: which axes are permuted; the units of layers with `sign` are flipped as well.
        reference: one network, or stacked ones, pair by pair.
        params: stacked, leaves (pair, ...).
        rng: source of the restarts.
        num_restarts: the first sweep goes through the layers from the inputs on, in the second restart from the outputs,
            each layer matched to what is matched before it; further restarts begin at random perms.
        start: elements (pair, ...) to begin at, in a single restart.
        num_threads: default: all cores.

    Raises:
        ValueError: the architectures differ, a value is not finite, or there are no restarts.
    """
    if num_restarts < 1:
        raise ValueError(f"num_restarts = {num_restarts}: at least 1 is expected")
    pairs = Pairs(symmetry, reference, params)
    rngs = spawn(rng, len(pairs))

    def one(index: int) -> list[Climb]:
        similarities = Similarities(symmetry, *pairs[index])
        if start is not None:
            return [climb(similarities, as_labels(start[index]), rngs[index])]
        starts = ("inputs", "outputs", *(random_labels(symmetry, rngs[index]) for _ in range(num_restarts - 2)))
        return [climb(similarities, labels, rngs[index]) for labels in starts[:num_restarts]]

    return collect(in_threads(one, range(len(pairs)), num_threads))


def spawn(rng: np.random.Generator, num: int) -> list[np.random.Generator]:
    """Generators of their own for `num` pairs, drawn from the stream, so that a generator that went on gives others."""
    return [np.random.default_rng(seed) for seed in rng.integers(2**63, size=num)]


def random_labels(symmetry: Symmetry, rng: np.random.Generator) -> list[Labels]:
    """A random perm, and signs where they are free, for every layer."""
    return as_labels(symmetries.random_element(symmetry, rng, kinds=("perm", "sign")))


def collect(results: Sequence[Sequence[Climb]]) -> Match:
    """The best of each pair's climbs."""
    best = [max(climbs, key=lambda c: c.objective) for climbs in results]
    return Match(
        element=stack_elements([as_element(c.labels) for c in best]),
        objective=np.array([c.objective for c in best]),
        restarts=np.array([[c.objective for c in climbs] for climbs in results]),
        sweeps=np.array([len(c.history) for c in best]),
        converged=np.array([c.converged for c in best]),
        history=tuple(c.history for c in best),
    )


def stack_elements(elements: Sequence[Element]) -> Element:
    """Elements stacked along a new first axis."""
    return Element(
        tuple(np.stack(p) for p in zip(*(e.perms for e in elements), strict=True)),
        tuple(np.stack(f) for f in zip(*(e.factors for e in elements), strict=True)),
    )


def _described(layout: Layout) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in zip(layout.names, layout.shapes, strict=True))
