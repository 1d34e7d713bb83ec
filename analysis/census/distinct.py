"""Which networks are the same minimum: modulo the symmetry group by their weights, and by their function."""

import dataclasses
import itertools
import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, pdist, squareform

from analysis.alignment.matching import match_weights
from wspace.symmetry import Element, Symmetry, Units, act, balance, check_axes
from wspace.tree import Layout, Params

CHUNK_VALUES = 2_000_000  # float64 values of pairs at once: 16 MB an array
UNSURE = 1e-6  # of max(1, size): what polishing leaves uncertain, as in `certificate.STEP`
PER_DECADE = 10
MOST_ELEMENTS = 5000  # of a group that is enumerated
NUM_RESTARTS = 2  # of the matching of more than one layer: from the inputs on, and from the outputs

Leaves = dict[str, np.ndarray]  # as flat as that, leaves are params of the same names
Squares = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of positions i and j of pairs


@dataclasses.dataclass(frozen=True)
class Distinct:
    """The distinct minima of a population.

    Networks are the same at a tolerance t if a chain of networks leads from one to the other, each at most t from the next
    (single linkage).

    Attributes:
        by_weights: which minimum each network is, told apart by `weights_distance`; numbered by increasing lowest loss.
        by_function: the same by `outputs_distance`, with numbers of its own.
        representatives: per minimum by weights, the position of the network with the lowest loss.
        tolerance: at which these labels hold.
        tolerances: from the floor to 1, PER_DECADE for every factor of 10.
        num_by_weights, num_by_function: distinct minima at each of them; a plateau is a number to be trusted.
        num_pairs: pairs of which the distance of weights was computed.
    """

    by_weights: Int[np.ndarray, "network"]
    by_function: Int[np.ndarray, "network"]
    representatives: Int[np.ndarray, "minimum"]
    tolerance: float
    tolerances: Float[np.ndarray, "tolerance"]
    num_by_weights: Int[np.ndarray, "tolerance"]
    num_by_function: Int[np.ndarray, "tolerance"]
    num_pairs: int


def distinct(
    symmetry: Symmetry,
    params: Params,
    losses: Float[np.ndarray, "network"],
    outputs: Float[np.ndarray, "network example output"],
    *,
    rng: np.random.Generator,
    tolerance: float = 1e-4,
    floor: float = 1e-8,
) -> Distinct:
    """Tell the networks of a population apart, by weights modulo the group and by function.

    In the order of their loss, each network joins a leader that it equals at the floor, or becomes a leader itself. Leaders
    are compared all with all, and no pair of them is left out, so that counts and labels are those of all networks at
    tolerances that are off by at most twice the floor.

    Args:
        symmetry: the group.
        params: stacked, leaves (network, ...).
        losses: of the networks.
        outputs: of the networks, on the same examples.
        rng: source of the restarts of the matcher.
        tolerance: of the labels; floor to 1.
        floor: relative distance below which networks are equal but for rounding.

    Raises:
        ValueError: numbers of networks differ, a value is not finite, or a tolerance is out of range.
        SymmetryError: the symmetry does not fit the params, or balancing does not converge.

    Source: single linkage: Gower & Ross 1969, 10.2307/2346439.
    """
    if not 0 < floor <= tolerance <= 1:
        raise ValueError(f"floor = {floor}, tolerance = {tolerance}: 0 < floor <= tolerance <= 1 is expected")
    leaves, num = _balanced(symmetry, params), len(losses)
    measure = _modulo(symmetry, leaves, rng)
    if not num == len(outputs) == _num(leaves) or not np.all(np.isfinite(losses)):
        raise ValueError(
            f"{_num(leaves)} networks have {num} losses, {np.sum(~np.isfinite(losses))} of them not finite, and "
            f"{len(outputs)} outputs: one finite loss and outputs for each network are expected"
        )
    order, function = np.argsort(losses, kind="stable"), outputs_distance(outputs)
    leaders, owner, rows, num_pairs = np.zeros(0, int), np.zeros(num, int), [], 0
    for network in order:
        # Outputs only tell where to look first: a network that joins a leader with like outputs needs no other comparison,
        # and one that joins none of these is compared with all leaders.
        near = function[network, leaders] <= math.sqrt(floor)
        row = np.full(len(leaders), np.inf)
        for some in (near, ~near):
            if row.min(initial=np.inf) > floor:
                row[some] = measure(np.stack([np.full(some.sum(), network), leaders[some]], axis=1))
                num_pairs += int(some.sum())
        if row.min(initial=np.inf) <= floor:
            owner[network] = np.argmin(row)
        else:
            owner[network] = len(leaders)
            leaders = np.append(leaders, network)
            rows.append(row)
    between = np.zeros((len(leaders), len(leaders)))
    for index, row in enumerate(rows):
        between[index, :index] = between[:index, index] = row
    tolerances = np.geomspace(floor, 1, 1 + round(-PER_DECADE * math.log10(floor)))
    weights_labels, num_by_weights = _linked(between, tolerance, tolerances)
    function_labels, num_by_function = _linked(function, tolerance, tolerances)
    by_weights, representatives = _numbered(weights_labels[owner], order)
    by_function, _ = _numbered(function_labels, order)
    return Distinct(
        by_weights, by_function, representatives, tolerance, tolerances, num_by_weights, num_by_function, num_pairs
    )


def outputs_distance(outputs: Float[np.ndarray, "network example output"]) -> Float[np.ndarray, "network network"]:
    """rms_{x,k} (f_i - f_j) / rms_{i,x,k} (f_i - mean_{i,x} f_i): how differently networks compute, in units of all outputs.

    The scale is one number for the population: how far outputs lie from the mean of their output over networks and examples.
    Differences are squared and summed as they are, so that equal networks are exactly 0 apart; so are all where outputs
    deviate from the mean by no more than UNSURE x max(1, their own size).

    Args:
        outputs: finite; read in float64.

    Raises:
        ValueError: there is nothing, or a value is not finite.
    """
    if outputs.size == 0 or not np.all(np.isfinite(outputs)):
        raise ValueError(
            f"outputs of shape {outputs.shape}, {np.sum(~np.isfinite(outputs))} of them not finite: at least one network, "
            "example and output, and finite numbers are expected"
        )
    wide = outputs.astype(np.float64)
    scale = math.sqrt(np.mean(np.square(wide - wide.mean(axis=(0, 1)))))
    rms = squareform(pdist(wide.reshape(len(wide), -1))) / math.sqrt(wide[0].size)
    unsure = UNSURE * max(1.0, math.sqrt(np.mean(np.square(wide))))
    return rms / scale if scale > unsure else np.zeros_like(rms)


def weights_distance(
    symmetry: Symmetry, params: Params, pairs: Int[np.ndarray, "pair 2"] | None = None, *, rng: np.random.Generator
) -> Float[np.ndarray, "pair"]:
    """min over perms and signs of |theta_i - g theta_j| / max(1, (|theta_i| + |theta_j|) / 2), of balanced networks.

    Below a length of 1 distances are not relative: where a penalty draws all weights to 0, what is left of them is rounding.
    Scales are balanced once (`wspace.symmetry.balance`); units that receive or send nothing keep theirs. With one hidden
    layer that does not feed itself the minimum is exact: giving unit v of j to unit u of i costs the squared distance of all
    that they receive and send, with the better sign, and one assignment makes the sum least. It is exact for groups of up to
    MOST_ELEMENTS elements, too, which are all tried. Otherwise it is NP-hard, and what `match_weights` finds is an upper
    bound: copies are recognised, unless units of one network are so alike (1e-6) that its gains are rounding to the matcher.
    All distances come from differences, never from norms and inner products, so that equal networks are 1e-16 apart and not
    1e-8.

    Args:
        symmetry: the group; without layers the distance is the plain one.
        params: stacked, leaves (network, ...), read in float64.
        pairs: positions of networks; by default all i < j, in the order of `np.triu_indices`.
        rng: source of the restarts of the matcher.

    Raises:
        ValueError: a value is not finite.
        SymmetryError: the symmetry does not fit the params, or balancing does not converge.

    Source: Ainsworth et al. 2023 (2209.04836) for perms; scales: Stock et al. 2019 (1902.10416).
    """
    leaves = _balanced(symmetry, params)
    if pairs is None:
        pairs = np.stack(np.triu_indices(_num(leaves), 1), axis=1)
    return _modulo(symmetry, leaves, rng)(pairs)


def log10_orbit_sizes(symmetry: Symmetry, params: Params, tolerance: float = 1e-6) -> Float[np.ndarray, "network"]:
    """log10 (|G| / |stabiliser|): how many copies of each network perms and signs alone imply, counted modulo scales.

    |G| is the product over layers of n!, times 2^n with signs. Of m units of a layer that receive and send the same (up to
    one sign where it is free) all m! perms leave the network as it is, and of units that receive and send nothing all signs
    as well. Elements that fix a network only by moving several layers at once are not looked for, nor any of a layer that
    feeds itself: the number is an upper bound where there are such.

    Args:
        symmetry: the group.
        params: stacked, leaves (network, ...), read in float64 and balanced.
        tolerance: units are equal if they differ by at most this x max(1, |theta|).

    Raises:
        ValueError: a value is not finite.
        SymmetryError: the symmetry does not fit the params, or balancing does not converge.
    """
    leaves = _balanced(symmetry, params)
    near = tolerance * np.maximum(1.0, np.linalg.norm(_theta(leaves), axis=1))
    sizes = np.zeros(len(near))
    for units in symmetry.layers:
        sizes += _log10_order(units)
        if _feeds_itself(units):
            continue
        for network, rows in enumerate(_rows(units, leaves)):
            kinds, _ = _linked(np.sqrt(_apart(rows, rows, units.sign)), near[network], np.zeros(0))
            log = sum(math.lgamma(count + 1) for count in np.bincount(kinds))
            log += units.sign * math.log(2) * np.sum(np.linalg.norm(rows, axis=1) <= near[network])
            sizes[network] -= log / math.log(10)
    return sizes


def _modulo(symmetry: Symmetry, leaves: Leaves, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """The distance of weights of balanced networks, as a function of (pair, 2) positions."""
    lengths, squares = np.linalg.norm(_theta(leaves), axis=1), _least_squares(symmetry, leaves, rng)
    width = max(1, CHUNK_VALUES // sum(leaf[0].size for leaf in leaves.values()))

    def measure(pairs):
        found = np.zeros(len(pairs))
        for low in range(0, len(pairs), width):
            i, j = pairs[low : low + width].T
            found[low : low + width] = np.sqrt(squares(i, j)) / np.maximum(1.0, (lengths[i] + lengths[j]) / 2)
        return found

    return measure


def _least_squares(symmetry: Symmetry, leaves: Leaves, rng: np.random.Generator) -> Squares:
    """min over perms and signs of |theta_i - g theta_j|^2; differences are taken before anything is squared."""
    if len(symmetry.layers) == 1 and not _feeds_itself(symmetry.layers[0]):
        return _assigned(symmetry.layers[0], leaves)
    if sum(_log10_order(units) for units in symmetry.layers) <= math.log10(MOST_ELEMENTS):
        return _enumerated(symmetry, leaves)

    def squares(i, j):
        reference, moving = _at(leaves, i), _at(leaves, j)
        match = match_weights(symmetry, reference, moving, rng=rng, num_restarts=NUM_RESTARTS)
        return np.square(_theta(reference) - _theta(act(symmetry, match.element, moving))).sum(axis=1)

    return squares


def _assigned(units: Units, leaves: Leaves) -> Squares:
    """One layer: the best assignment of its units, and all that is not theirs."""
    own = {axis.leaf for axis in units.axes}
    rows, rest = _rows(units, leaves), [leaf for name, leaf in leaves.items() if name not in own]

    def squares(i, j):
        found = np.zeros(len(i))
        for leaf in rest:
            found += np.square(leaf[i] - leaf[j]).reshape(len(i), -1).sum(axis=1)
        for index, (a, b) in enumerate(zip(i, j, strict=True)):
            apart = _apart(rows[a], rows[b], units.sign)
            found[index] += apart[linear_sum_assignment(apart)].sum()
        return found

    return squares


def _enumerated(symmetry: Symmetry, leaves: Leaves) -> Squares:
    """A small group: the best of all its elements."""
    elements, theta = _every_element(symmetry), _theta(leaves)
    num = len(elements.perms[0]) if symmetry.layers else 1

    def squares(i, j):
        found = np.zeros(len(i))
        for moved in np.unique(i):
            network = {name: np.broadcast_to(leaf[moved], (num, *leaf.shape[1:])) for name, leaf in leaves.items()}
            copies = _theta(act(symmetry, elements, network))
            found[i == moved] = cdist(theta[j[i == moved]], copies, "sqeuclidean").min(axis=1)
        return found

    return squares


def _every_element(symmetry: Symmetry) -> Element:
    """All perms, each with all signs where they are free, stacked."""
    layers = []
    for units in symmetry.layers:
        signs = itertools.product((1.0, -1.0) if units.sign else (1.0,), repeat=units.num)
        layers.append(itertools.product(itertools.permutations(range(units.num)), signs))
    per_layer = list(zip(*itertools.product(*layers), strict=True))
    perms, signs = ([np.array([one[part] for one in layer]) for layer in per_layer] for part in (0, 1))
    return Element(tuple(perms), tuple(signs))


def _log10_order(units: Units) -> float:
    """log10 of the number of a layer's perms and signs."""
    return (math.lgamma(units.num + 1) + units.sign * units.num * math.log(2)) / math.log(10)


def _rows(units: Units, leaves: Leaves) -> np.ndarray:
    """(network, unit, value): all that each unit receives and sends."""
    parts = [np.moveaxis(leaves[axis.leaf], axis.axis, 1) for axis in units.axes]
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=2)


def _apart(a: np.ndarray, b: np.ndarray, sign: bool) -> np.ndarray:
    """Squared distances of the rows of a and b, up to the sign of each if it is free."""
    apart = cdist(a, b, "sqeuclidean")
    return np.minimum(apart, cdist(a, -b, "sqeuclidean")) if sign else apart


def _feeds_itself(units: Units) -> bool:
    return len({axis.leaf for axis in units.axes}) < len(units.axes)


def _balanced(symmetry: Symmetry, params: Params) -> Leaves:
    """Checked leaves (network, ...) in float64, their scales balanced where these are free."""
    names = Layout.of(params).names
    leaves = {name: np.asarray(leaf, np.float64) for name, leaf in zip(names, jax.tree.leaves(params), strict=True)}
    if len({leaf.shape[:1] for leaf in leaves.values()}) != 1 or not all(leaf.size for leaf in leaves.values()):
        shapes = {name: leaf.shape for name, leaf in leaves.items()}
        raise ValueError(f"params have leaves of shapes {shapes}: networks stacked along a first axis are expected")
    check_axes(symmetry, Layout.of(_at(leaves, 0)))
    if bad := [name for name, leaf in leaves.items() if not np.all(np.isfinite(leaf))]:
        raise ValueError(f"{', '.join(bad)} is not finite: leave out networks that diverged")
    return act(symmetry, balance(symmetry, leaves, 1), leaves) if symmetry.scale else leaves


def _num(leaves: Leaves) -> int:
    return len(next(iter(leaves.values())))


def _at(leaves: Leaves, index: np.ndarray | int) -> Leaves:
    return {name: leaf[index] for name, leaf in leaves.items()}


def _theta(leaves: Leaves) -> np.ndarray:
    """(network, param)."""
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves.values()], axis=1)


def _linked(distances: np.ndarray, tolerance: float, tolerances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Single linkage: which component everything is in at the tolerance, and how many there are at each of the others."""
    if len(distances) == 1:
        return np.zeros(1, int), np.ones(len(tolerances), int)
    tree = linkage(squareform(distances, checks=False), "single")  # merges, from the closest on
    return fcluster(tree, tolerance, "distance"), len(distances) - np.searchsorted(tree[:, 2], tolerances, side="right")


def _numbered(labels: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels 0, 1, .. in the order of their first networks, and where these are."""
    _, first, inverse = np.unique(labels[order], return_index=True, return_inverse=True)
    numbered = np.empty(len(labels), int)
    numbered[order] = np.argsort(np.argsort(first))[inverse]
    return numbered, order[np.sort(first)]
