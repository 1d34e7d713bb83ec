"""Which networks hang together below which loss: the tree of merging components over the graph of measured paths.

The nodes are networks, each with its own loss; the edge between two has the highest loss on the path between them. Below
a level the graph falls into components; as the level rises they merge, and the merges form a tree. It is the tree of this
graph: paths that were not measured, curved ones or ones through other networks, may pass lower.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import squareform

from analysis.connectivity.line import TOLERANCE
from analysis.statistics import Estimate, bootstrap_seeds, pair_values

Matrix = Float[np.ndarray, "seed seed"]
FEWEST = 4  # networks for an interval of the gain: of three, the median over pairs cannot be passed by


@dataclasses.dataclass(frozen=True)
class MergeTree:
    """The disconnectivity tree of a population.

    A branch below num seeds is a seed; branch num + k is what merge k makes.

    Attributes:
        leaves: each network's own loss: where its branch begins.
        children: the two branches that each of the num - 1 merges joins, the one with the lower lowest leaf first.
        height: the level of each merge, from low to high. Several branches that merge at one level do so in merges of one
            height, in no meaningful order.
        order: seeds from left to right, so that no branches cross and every branch is a run of neighbours; the branch with
            the lower lowest leaf is on the left.
        minimax: the lowest level at which two networks are in one component: over all chains of measured paths between
            them the least highest loss; on the diagonal the leaves.
    """

    leaves: Float[np.ndarray, "seed"]
    children: Int[np.ndarray, "merge 2"]
    height: Float[np.ndarray, "merge"]
    order: Int[np.ndarray, "seed"]
    minimax: Float[np.ndarray, "seed seed"]


def merge_tree(heights: Matrix, leaves: Float[np.ndarray, "seed"]) -> MergeTree:
    """The tree in which components of networks merge as the level rises.

    At level h network i exists if leaves_i <= h, the edge (i, j) if heights_ij <= h; components are those of this graph.
    Two networks meet at minimax_ij = min over chains i = k_0, .., k_m = j of max_l heights[k_l, k_l+1], which single
    linkage finds.

    Args:
        heights: symmetric, the highest loss on the path between each pair, e.g. `PairBarriers.top`; the diagonal is not
            read.
        leaves: each network's own loss, e.g. the diagonal of `PairBarriers.top`. An edge that is lower than its ends by
            rounding is lifted to them.

    Raises:
        ValueError: there is no network, the shapes do not fit, heights are not symmetric, a pair was not measured or is
            not finite, or a height is below a leaf at its ends by more than rounding.

    Source: Becker & Karplus 1997, 10.1063/1.473299; single linkage and spanning trees: Gower & Ross 1969, 10.2307/2346439.
    """
    heights = _checked(heights, leaves)
    num = len(leaves)
    merges = linkage(squareform(heights, checks=False), "single") if num > 1 else np.zeros((0, 4))
    branches = [np.array([seed]) for seed in range(num)]
    lowest = [(leaf, seed) for seed, leaf in enumerate(leaves)]  # the seed breaks ties
    children, minimax = np.zeros((num - 1, 2), int), np.diag(np.asarray(leaves, float))
    for k, (a, b) in enumerate(merges[:, :2].astype(int)):
        left, right = children[k] = sorted((a, b), key=lowest.__getitem__)
        minimax[np.ix_(branches[a], branches[b])] = minimax[np.ix_(branches[b], branches[a])] = merges[k, 2]
        branches.append(np.concatenate([branches[left], branches[right]]))
        lowest.append(lowest[left])
    return MergeTree(np.asarray(leaves, float), children, merges[:, 2].copy(), branches[-1], minimax)


def components(
    heights: Matrix, leaves: Float[np.ndarray, "seed"], levels: Float[np.ndarray, "level"]
) -> Int[np.ndarray, "level"]:
    """How many components the graph has at each level: networks at or below it less merges at or below it.

    With barriers for heights and zeros for leaves: into how many groups the population falls when barriers of at most a
    level are no obstacle.

    Args:
        heights, leaves: see `merge_tree`.
        levels: in any order; 0 below the lowest leaf, 1 from the highest merge on.
    """
    tree = merge_tree(heights, leaves)
    upto = lambda values: np.searchsorted(np.sort(values), levels, side="right")  # noqa: E731
    return upto(tree.leaves) - upto(tree.height)


def through_others(direct: Matrix) -> Matrix:
    """The least highest barrier on chains of lines from one network to another through others: minimax of `direct`.

    At most `direct`, and an ultrametric: no entry exceeds the larger of the two others of a triple.

    Args:
        direct: symmetric, e.g. `PairBarriers.chord`; all pairs measured, none below its diagonal; the diagonal is kept.

    Raises:
        ValueError: as `merge_tree`.
    """
    return merge_tree(direct, np.diag(direct)).minimax


def minimax_gain(direct: Matrix, *, rng: np.random.Generator) -> Estimate | None:
    """Median over pairs of `through_others` / median of the direct barriers: 1 where detours do not help.

    In a resample, chains go through its own seeds only, some 0.63 num distinct ones. With fewer to go through, detours help
    less: the resampled gains are too large, in simulations so much that the plain percentile interval missed the gain of
    populations of num seeds in 4 of 10 trials. The interval is therefore that of the resampled gains divided by their median
    and multiplied by the gain of all; in the same simulations it covered in 94 to 99 of 100.

    Args:
        direct: see `through_others`; not negative.
        rng: source of the resamples of seeds.

    Returns:
        The ratio, in [0, 1]; None without pairs or where the direct median is 0. No interval where the resampled median
        gain is 0, or below FEWEST networks.

    Raises:
        ValueError: a barrier is negative; and as `merge_tree`.
    """
    num, minimax = len(direct), through_others(direct)
    if np.any(pair_values(direct) < 0):
        raise ValueError(f"a barrier is {pair_values(direct).min()}: a ratio takes barriers of at least 0")
    if num < 2 or (median_direct := np.median(pair_values(direct))) == 0:
        return None
    value = float(np.median(pair_values(minimax)) / median_direct)

    def gain(seeds: np.ndarray) -> float:
        drawn, counts = np.unique(seeds, return_counts=True)
        some = squareform(direct[np.ix_(drawn, drawn)], checks=False)
        weights = np.outer(counts, counts)[np.triu_indices(len(drawn), 1)]
        above, below = (_median(values, weights) for values in (np.asarray(cophenet(linkage(some, "single"))), some))
        return above / below if below else np.nan

    def centred(resamples: np.ndarray) -> np.ndarray:
        gains = np.array([gain(seeds) for seeds in resamples])
        middle = np.nanmedian(gains)
        return np.minimum(gains * (value / middle), 1) if middle > 0 else np.full(len(gains), np.nan)

    ci = bootstrap_seeds(centred, num, rng=rng, pairs=True) if num >= FEWEST else None
    return Estimate(value, ci, num)


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    """Median of the list in which each value occurs as often as its weight says."""
    order = np.argsort(values)
    upto = np.cumsum(weights[order])
    middle = np.searchsorted(upto, [(upto[-1] - 1) // 2, upto[-1] // 2], side="right")
    return float(values[order][middle].mean())


def _checked(heights: np.ndarray, leaves: np.ndarray) -> np.ndarray:
    """Heights that no end exceeds, with a diagonal of 0."""
    num = len(leaves)
    if num == 0 or heights.shape != (num, num):
        raise ValueError(
            f"heights of shape {heights.shape}, leaves of {leaves.shape}: (seed, seed) and (seed,), not empty"
        )
    between = ~np.eye(num, dtype=bool)
    if missing := int(np.sum(np.triu(~np.isfinite(heights + heights.T), 1))):
        raise ValueError(f"{missing} pairs of {num} networks have no finite height: measure all pairs")
    if not np.all(np.isfinite(leaves)):
        raise ValueError(f"leaves at {np.flatnonzero(~np.isfinite(leaves)).tolist()} are not finite")
    if np.any((heights != heights.T) & between):
        raise ValueError("heights are not symmetric: one height for each pair is expected")
    ends = np.maximum.outer(leaves, leaves)
    scale = max(np.max(np.abs(heights), initial=0.0, where=between), np.max(np.abs(leaves)))
    if np.any(low := (heights < ends - TOLERANCE * scale) & between):
        i, j = np.argwhere(low)[0].tolist()
        raise ValueError(f"the path between {i} and {j} is at most {heights[i, j]}, below its higher end {ends[i, j]}")
    return np.where(between, np.maximum(heights, ends), 0.0)
