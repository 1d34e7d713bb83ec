"""The examples in the plane as each layer of one network sees them, with how far each drawing can be believed."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from threadpoolctl import threadpool_limits

from analysis.projection.components import fix_signs
from analysis.statistics import spearman

MOST_EXAMPLES = 500
PERPLEXITY = 30.0
NEIGHBOURS = 10  # whose keeping is measured
START = 1e-4  # standard deviation along the first axis from which t-SNE starts: scikit-learn's own


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Every layer drawn by one method. A layer in which all examples are at one place holds NaN.

    Attributes:
        coordinates: of the examples.
        trust: trustworthiness among `num_neighbours`: 1 less a penalty, by rank, for neighbours in the plane that are none
            in the layer.
        correlation: Spearman's, between the distances of pairs of examples in the plane and in the layer. A drawing may keep
            neighbours and no distances.
    """

    coordinates: Float[np.ndarray, "layer example 2"]
    trust: Float[np.ndarray, "layer"]
    correlation: Float[np.ndarray, "layer"]


@dataclasses.dataclass(frozen=True)
class Drawings:
    """The layers of one network in the plane, the same examples in each.

    Attributes:
        examples: positions of those that are drawn, ascending.
        principal: the first two principal components; in the features' own units, signs as `fix_signs` has them.
        explained: share of variance along each of these axes; 0 for an axis that the layer does not have.
        neighbours: t-SNE; positions, sizes of groups and distances between them mean nothing.
        divergence: what t-SNE has left of its objective, Kullback-Leibler, in nats.
        perplexity: of t-SNE: how many neighbours, about, each example keeps.
        num_neighbours: of which `trust` speaks.
    """

    examples: Int[np.ndarray, "example"]
    principal: Drawing
    explained: Float[np.ndarray, "layer 2"]
    neighbours: Drawing
    divergence: Float[np.ndarray, "layer"]
    perplexity: float
    num_neighbours: int


def drawings(
    layers: Sequence[Float[np.ndarray, "example _"]], *, perplexity: float = PERPLEXITY,
    most_examples: int = MOST_EXAMPLES, rng: np.random.Generator,
) -> Drawings:  # fmt: skip
    """Principal components and t-SNE of every layer of one network, by scikit-learn, in float64.

    t-SNE starts from the principal components, as is advised to keep what it can of the large scale, so that the only random
    numbers are those that choose the examples. Both methods see the same ones.

    Args:
        layers: of one network, `[layer[seed] for layer in features(...)]`.
        perplexity: less than the number of examples that are drawn.
        most_examples: that are drawn, chosen without replacement.
        rng: source of the choice.

    Raises:
        ValueError: layers differ in examples, fewer than four are drawn, values are not finite, or the perplexity does not
            fit.

    Source: van der Maaten & Hinton 2008, JMLR 9; its start: Kobak & Linderman 2021, 10.1038/s41587-020-00809-z;
    trustworthiness: Venna & Kaski 2001, 10.1007/3-540-44668-0_68.
    """
    lengths = {len(layer) for layer in layers}
    if len(lengths) != 1:
        raise ValueError(f"layers have {sorted(lengths)} examples: the same number is expected, and at least one layer")
    if bad := [number for number, layer in enumerate(layers) if not np.all(np.isfinite(layer))]:
        raise ValueError(f"features of the layers {bad} are not finite")
    total = lengths.pop()
    num = min(total, most_examples)
    if num < 4:
        raise ValueError(f"{num} of {total} examples to draw: at least four are expected")
    if not 1 <= perplexity < num:
        raise ValueError(f"perplexity = {perplexity}: a number from 1 to less than the {num} examples is expected")
    examples = np.sort(rng.choice(total, num, replace=False))
    num_neighbours = min(NEIGHBOURS, (num - 1) // 2)
    explained, divergence = np.full((len(layers), 2), np.nan), np.full(len(layers), np.nan)
    principal, neighbours = np.full((2, len(layers), num, 2), np.nan)
    for k, layer in enumerate(layers):
        x = layer[examples].astype(np.float64)
        if np.all(x == x[0]):
            continue
        principal[k], explained[k] = _principal(x)
        start = START * principal[k] / principal[k, :, 0].std()
        tsne = TSNE(2, perplexity=perplexity, init=start, learning_rate="auto", random_state=0)  # type: ignore[arg-type]
        with threadpool_limits(1):  # threads that wait for each other take far longer
            neighbours[k] = tsne.fit_transform(x)
        divergence[k] = tsne.kl_divergence_
    points = [layer[examples].astype(np.float64) for layer in layers]
    return Drawings(
        examples=examples,
        principal=_judged(points, principal, num_neighbours),
        explained=explained,
        neighbours=_judged(points, neighbours, num_neighbours),
        divergence=divergence,
        perplexity=float(perplexity),
        num_neighbours=num_neighbours,
    )


def _principal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the first two components, and their shares of variance; 0 along one that is not there."""
    found = PCA(min(2, x.shape[1]), svd_solver="full").fit(x)
    coordinates, explained = np.zeros((len(x), 2)), np.zeros(2)
    own = (x - found.mean_) @ fix_signs(np.asarray(found.components_)).T
    coordinates[:, : own.shape[1]], explained[: own.shape[1]] = own, found.explained_variance_ratio_
    return coordinates, explained


def _judged(points: Sequence[np.ndarray], drawn: np.ndarray, num_neighbours: int) -> Drawing:
    trust, correlation = np.full((2, len(points)), np.nan)
    for k, (x, plane) in enumerate(zip(points, drawn, strict=True)):
        if np.all(np.isfinite(plane)):
            trust[k] = trustworthiness(x, plane, n_neighbors=num_neighbours)
            correlation[k] = float(spearman(pdist(x), pdist(plane)))
    return Drawing(drawn, trust, correlation)
