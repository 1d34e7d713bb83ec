"""Coordinate ascent on <theta_a, g theta_b>: one layer's labels at a time, each by an exact assignment."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from analysis.alignment.assignment import assign
from wspace.symmetry import Axis, Element, Symmetry

GAIN = 1e-12  # relative; less is rounding of float64 sums of this size
MAX_SWEEPS = 200

Leaves = dict[str, np.ndarray]
Direction = Literal["inputs", "outputs"]


class Labels(NamedTuple):
    """One layer's perm and signs."""

    perm: np.ndarray
    signs: np.ndarray


@dataclasses.dataclass(frozen=True)
class Climb:
    """Where an ascent ended.

    Attributes:
        labels: of every layer.
        objective: <theta_a, g theta_b> over all leaves.
        history: the objective after every sweep, from the first one that had labelled all layers.
        converged: whether no layer could be improved any more.
    """

    labels: list[Labels]
    objective: float
    history: Float[np.ndarray, "sweep"]
    converged: bool


@dataclasses.dataclass
class Coupling:
    """A leaf that two layers share, seen from one of them (`target`): what the other one's labels add to its similarity.

    a and b are the leaf as (unit of the other layer, unit of the target, rest); `sum` is valid for `used`.
    """

    other: int
    a: np.ndarray
    b: np.ndarray
    sum: np.ndarray
    used: Labels | None = None

    def update(self, labels: Labels | None) -> np.ndarray:
        """sum[i, j] = sum over k, r of a[k, i, r] signs[k] b[perm[k], j, r]; only what changed is computed anew."""
        if labels is None and self.used is not None:  # of an earlier climb
            self.sum, self.used = np.zeros_like(self.sum), None
        if labels is None or labels is self.used:
            return self.sum
        if self.used is None:
            changed = np.arange(len(labels.perm))
        else:
            changed = np.flatnonzero((labels.perm != self.used.perm) | (labels.signs != self.used.signs))
        if 2 * len(changed) > len(labels.perm):
            self.sum = contract(self.a, _take(self.b, labels))
        elif len(changed):
            now, before = (Labels(x.perm[changed], x.signs[changed]) for x in (labels, self.used or labels))
            self.sum += contract(self.a[changed], _take(self.b, now) - _take(self.b, before))
        self.used = labels
        return self.sum


class Similarities:
    """What every unit of a has in common with every unit of b, given the labels of all other layers.

    S_l[i, j] = inner product of all that unit i of layer l receives and sends in a, and unit j in b, both as the other
    layers are labelled now. Layers without labels add nothing.

    Attributes:
        constant: per layer, what does not depend on labels: leaves that no other layer's units share.
        couplings: per layer, the leaves that it shares with one other layer.
    """

    def __init__(self, symmetry: Symmetry, a: Leaves, b: Leaves):
        self.symmetry, self.a, self.b = symmetry, a, b
        sizes = [units.num for units in symmetry.layers]
        self.constant = [np.zeros((n, n)) for n in sizes]
        self.couplings: list[list[Coupling]] = [[] for _ in sizes]
        self._shared: list[tuple[tuple[int, Coupling], ...]] = []  # per leaf of two layers: it, seen from either
        self._tied: list[list[tuple[str, int]]] = [[] for _ in sizes]
        self._places: dict[str, list[tuple[int, Axis]]] = {}
        for layer, units in enumerate(symmetry.layers):
            for axis in units.axes:
                self._places.setdefault(axis.leaf, []).append((layer, axis))
        self._fixed = float(sum(np.vdot(a[name], b[name]) for name in a if name not in self._places))
        for name, places in self._places.items():
            layers = [layer for layer, _ in places]
            if len(places) == 1:
                (layer, axis) = places[0]
                rows_a, rows_b = (_rows(leaf[name], [axis.axis])[..., None] for leaf in (a, b))
                self.constant[layer] += rows_a.reshape(len(rows_a), -1) @ rows_b.reshape(len(rows_b), -1).T
            elif len(places) == 2 and layers[0] != layers[1]:
                for (target, at), (other, there) in (places, places[::-1]):
                    side_a, side_b = (_rows(leaf[name], [there.axis, at.axis]) for leaf in (a, b))
                    side_b, n = np.ascontiguousarray(side_b), sizes[target]  # whose rows are taken again and again
                    self.couplings[target].append(Coupling(other, side_a, side_b, np.zeros((n, n))))
                self._shared.append(tuple((layer, self.couplings[layer][-1]) for layer in layers))
            else:
                for place, (layer, _) in enumerate(places):
                    self._tied[layer].append((name, place))

    @property
    def bilinear(self) -> bool:
        """Whether every leaf is shared by at most two layers, each with one axis."""
        return not any(self._tied)

    def linear(self, layer: int) -> bool:
        """Whether the objective is linear in this layer's labels: no leaf holds its units on two axes."""
        return not any(layer == other for name, place in self._tied[layer] for other in self._others(name, place))

    def pending(self, layer: int, labels: Sequence[Labels | None]) -> bool:
        """Whether labels that this layer's similarity depends on have changed since it was computed."""
        return bool(self._tied[layer]) or any(c.used is not labels[c.other] for c in self.couplings[layer])

    def of(self, layer: int, labels: Sequence[Labels | None]) -> Float[np.ndarray, "unit unit"]:
        """S of a layer."""
        total = self.constant[layer].copy()
        for coupling in self.couplings[layer]:
            total += coupling.update(labels[coupling.other])
        for name, place in self._tied[layer]:
            if all(labels[other] is not None for other in self._others(name, place)):
                total += self._tied_similarity(name, place, labels)
        return total

    def value(self, labels: Sequence[Labels]) -> float:
        """<theta_a, g theta_b> over all leaves; of what layers share, from the side that is up to date if one is."""
        total = self._fixed + sum(reached(*both) for both in zip(self.constant, labels, strict=True))
        for sides in self._shared:
            layer, coupling = next((side for side in sides if side[1].used is labels[side[1].other]), sides[0])
            total += reached(coupling.update(labels[coupling.other]), labels[layer])
        for name in dict.fromkeys(name for tied in self._tied for name, _ in tied):
            total += float(np.vdot(self.a[name], self._moved(name, labels)))
        return total

    def _others(self, name: str, place: int) -> list[int]:
        return [layer for i, (layer, _) in enumerate(self._places[name]) if i != place]

    def _moved(self, name: str, labels: Sequence[Labels | None], but: int | None = None) -> np.ndarray:
        """A leaf of b as it is labelled now, in all places but one."""
        moved = self.b[name]
        for i, (layer, axis) in enumerate(self._places[name]):
            if i != but and (given := labels[layer]) is not None:
                moved = np.moveaxis(_take(np.moveaxis(moved, axis.axis, 0), given), 0, axis.axis)
        return moved

    def _tied_similarity(self, name: str, place: int, labels: Sequence[Labels | None]) -> np.ndarray:
        axis = self._places[name][place][1].axis
        rows_a, rows_b = (_rows(leaf, [axis]) for leaf in (self.a[name], self._moved(name, labels, place)))
        return rows_a.reshape(len(rows_a), -1) @ rows_b.reshape(len(rows_b), -1).T


def climb(similarities: Similarities, start: Sequence[Labels] | Direction, rng: np.random.Generator) -> Climb:
    """Solve layer after layer until none improves.

    Args:
        similarities: of the pair; its caches are reused from climb to climb.
        start: labels to begin with; or `inputs` or `outputs`: no labels, and a first sweep from that end of the network
            to the other, in which each layer is matched to what has labels already and is not misled by what has none.
        rng: order of the layers in each sweep.
    """
    symmetry = similarities.symmetry
    num = len(symmetry.layers)
    labels: list[Labels | None] = [None] * num if isinstance(start, str) else list(start)
    total = None if isinstance(start, str) else similarities.value(start)
    first = range(num) if start == "inputs" else range(num)[::-1]
    solved, history, converged = [False] * num, [], False
    for _ in range(MAX_SWEEPS):
        improved = False
        for layer in first if total is None else rng.permutation(num).tolist():
            if solved[layer] and not similarities.pending(layer, labels):
                continue
            similarity = similarities.of(layer, labels)
            perm, signs, best = assign(similarity, signed=symmetry.layers[layer].sign)
            solved[layer], new, old = True, Labels(perm, signs), labels[layer]
            if old is None or total is None:
                labels[layer], improved = new, True
                continue
            gain = best - reached(similarity, old)
            if not similarities.linear(layer):
                changed = [new if i == layer else x for i, x in enumerate(labels)]
                gain = similarities.value(changed) - total  # type: ignore[arg-type]
            if gain > GAIN * max(abs(total), abs(best)):
                labels[layer], total, improved = new, total + gain, True
        if total is None:
            total = similarities.value(labels)  # type: ignore[arg-type]
        history.append(total)
        if not improved:
            converged = True
            break
    final: list[Labels] = [x for x in labels if x is not None]
    return Climb(final, similarities.value(final), np.array(history), converged)


def reached(similarity: Float[np.ndarray, "unit unit"], labels: Labels) -> float:
    """sum_i signs[i] S[i, perm[i]]."""
    return float(labels.signs @ similarity[np.arange(len(labels.perm)), labels.perm])


def contract(a: Float[np.ndarray, "k i r"], b: Float[np.ndarray, "k j r"]) -> Float[np.ndarray, "i j"]:
    """sum over k, r of a[k, i, r] b[k, j, r]."""
    if a.shape[2] == 1:
        return a[:, :, 0].T @ b[:, :, 0]
    return np.tensordot(a, b, axes=((0, 2), (0, 2)))


def as_element(labels: Sequence[Labels]) -> Element:
    """One element of the group."""
    return Element(tuple(x.perm for x in labels), tuple(x.signs for x in labels))


def as_labels(element: Element) -> list[Labels]:
    """Of one element; the sizes of its factors are dropped."""
    return [Labels(np.asarray(p), np.sign(np.asarray(f))) for p, f in zip(element.perms, element.factors, strict=True)]


def _rows(leaf: np.ndarray, axes: list[int]) -> np.ndarray:
    """(units of the first axis, [units of the second,] rest)."""
    moved = np.moveaxis(leaf, axes, range(len(axes)))
    return moved.reshape(*moved.shape[: len(axes)], -1)


def _take(b: np.ndarray, labels: Labels) -> np.ndarray:
    moved = b[labels.perm]
    return moved if np.all(labels.signs == 1) else moved * labels.signs.reshape(-1, *[1] * (b.ndim - 1))
