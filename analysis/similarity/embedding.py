"""Points of a plane for things of which only distances are known, such as predictions of many networks over training."""

import dataclasses
import itertools
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import pdist, squareform
from sklearn.manifold import TSNE, trustworthiness
from threadpoolctl import threadpool_limits

from analysis.projection.components import fix_signs
from analysis.similarity.function import js_divergence, probabilities, rms_distance
from analysis.statistics import spearman

NEIGHBOURS = 5  # whose keeping is measured


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Classical multidimensional scaling.

    Attributes:
        coordinates: of the points, about their mean, the largest spread first; signs as `fix_signs` has them.
        explained: share of the sum of squared distances along each axis; of positive eigenvalues only.
        negative: sum of |negative eigenvalues| / sum of all |eigenvalues|: 0 where the distances are Euclidean.
        stress: sqrt(sum (d_ij - |x_i - x_j|)^2 / sum d_ij^2), Kruskal's stress 1: how far the distances in the plane are
            from the given ones.
    """

    coordinates: Float[np.ndarray, "point axis"]
    explained: Float[np.ndarray, "axis"]
    negative: float
    stress: float


@dataclasses.dataclass(frozen=True)
class Neighbourhoods:
    """t-SNE from several random starts.

    Attributes:
        coordinates: of every start; positions, distances between groups and orientation mean nothing.
        perplexity: how many neighbours, about, each point keeps.
        divergence: what t-SNE minimises, of each start.
        trust: share, penalised by rank, of the neighbours in the plane that are neighbours in truth; 1 is perfect.
        agreement: Spearman's correlation of the distances between points, mean over pairs of starts; None for one start.
    """

    coordinates: Float[np.ndarray, "start point 2"]
    perplexity: float
    divergence: Float[np.ndarray, "start"]
    trust: Float[np.ndarray, "start"]
    agreement: float | None

    @property
    def best(self) -> Float[np.ndarray, "point 2"]:
        """Of the start with the smallest divergence."""
        return self.coordinates[np.argmin(self.divergence)]


def prediction_distances(
    outputs: Float[np.ndarray, "seed checkpoint example output"], task: Literal["classification", "regression"]
) -> Float[np.ndarray, "point point"]:
    """Distances between predictions on the same examples: a metric over points (seed, checkpoint), seed by seed.

    Classification: sqrt of the mean Jensen-Shannon divergence of predicted probabilities, in sqrt(nats), at most
    sqrt(ln 2). Regression: root mean squared difference. Memory: `function.CHUNK_VALUES` values of pairs at a time.

    Args:
        outputs: logits or predictions, as `function.outputs` gives them.
        task: what they are.

    Raises:
        ValueError: there are no examples, or outputs are not finite.

    Source: Endres & Schindelin 2003, 10.1109/TIT.2003.813506: the root is a metric, and so is a root mean square of metrics.
    """
    if 0 in outputs.shape or not np.all(np.isfinite(outputs)):
        raise ValueError(f"outputs of shape {outputs.shape} are empty or not finite: predictions are expected")
    points = outputs.reshape(-1, *outputs.shape[2:])
    return np.sqrt(js_divergence(probabilities(points))) if task == "classification" else rms_distance(points)


def scaling(distances: Float[np.ndarray, "point point"], num: int = 2) -> Scaling:
    """Classical scaling: eigenvectors of -J D^2 J / 2 with J the centring matrix, times the roots of their eigenvalues.

    Exact for Euclidean distances, for which it is PCA.

    Args:
        distances: symmetric, 0 on the diagonal.
        num: axes; those without a positive eigenvalue are 0.

    Raises:
        ValueError: there are no more points than axes, distances are missing, negative or not symmetric, or all are 0.

    Source: Torgerson 1952, 10.1007/BF02288916; Gower 1966, 10.1093/biomet/53.3-4.325.
    """
    _check(distances, num + 1)
    centring = np.eye(len(distances)) - 1 / len(distances)
    values, vectors = np.linalg.eigh(-centring @ np.square(distances) @ centring / 2)
    values[np.abs(values) <= len(values) * np.finfo(float).eps * np.abs(values).max()] = 0  # rounding
    order = np.argsort(values)[::-1][:num]
    top = values[order].clip(0)
    coordinates = (fix_signs(vectors[:, order].T) * np.sqrt(top)[:, None]).T
    given = squareform(distances, checks=False)
    return Scaling(
        coordinates=coordinates,
        explained=top / values.clip(0).sum(),
        negative=float(-values.clip(max=0).sum() / np.abs(values).sum()),
        stress=float(np.linalg.norm(given - pdist(coordinates)) / np.linalg.norm(given)),
    )


def neighbourhoods(
    distances: Float[np.ndarray, "point point"], *, perplexity: float, num_starts: int = 3, rng: np.random.Generator
) -> Neighbourhoods:
    """t-SNE of given distances, by scikit-learn, from several random starts, with how far they agree.

    Args:
        distances: symmetric, 0 on the diagonal.
        perplexity: less than the number of points.
        num_starts: random starts.
        rng: source of their seeds.

    Raises:
        ValueError: there are fewer than four points, the perplexity does not fit, distances are missing, negative or
            not symmetric, all are 0, or there are no starts.

    Source: van der Maaten & Hinton 2008, JMLR 9; trustworthiness: Venna & Kaski 2001, 10.1007/3-540-44668-0_68.
    """
    _check(distances, 4)
    num = len(distances)
    if not 1 <= perplexity < num:
        raise ValueError(f"perplexity = {perplexity}: a number from 1 to less than the {num} points is expected")
    if num_starts < 1:
        raise ValueError(f"num_starts = {num_starts}: at least one is expected")
    found, divergence, trust = [], [], []
    for seed in rng.integers(2**31, size=num_starts):
        tsne = TSNE(
            2, perplexity=perplexity, metric="precomputed", init="random", learning_rate="auto", random_state=int(seed)
        )
        with threadpool_limits(1):  # threads that wait for each other make it twenty times slower
            found.append(tsne.fit_transform(distances).astype(np.float64))
        divergence.append(float(tsne.kl_divergence_))
        neighbours = max(1, min(NEIGHBOURS, (num - 1) // 2))
        trust.append(trustworthiness(distances, found[-1], n_neighbors=neighbours, metric="precomputed"))
    pairs = [spearman(pdist(a), pdist(b)) for a, b in itertools.combinations(found, 2)]
    return Neighbourhoods(
        np.array(found),
        float(perplexity),
        np.array(divergence),
        np.array(trust),
        float(np.mean(pairs)) if pairs else None,
    )


def _check(distances: np.ndarray, fewest: int) -> None:
    if len(distances) < fewest:
        raise ValueError(f"{len(distances)} points: at least {fewest} are expected")
    if not np.all(np.isfinite(distances)) or np.any(distances < 0):
        raise ValueError("distances are missing or negative")
    if not np.allclose(distances, distances.T, rtol=1e-9, atol=0) or np.any(np.diagonal(distances) != 0):
        raise ValueError("distances are symmetric, and 0 from a point to itself: these are not")
    if not np.any(distances > 0):
        raise ValueError("all points are at one place: there is nothing to draw")
