"""How much of the task a linear readout finds in each layer: probes, beside networks at their init and shuffled labels."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from analysis.representation.features import features
from analysis.threads import in_threads
from wspace.data import Dataset, Task
from wspace.models import Network
from wspace.tree import Params

L2 = 1e-3
TOLERANCE = 1e-4  # of every entry of the gradient
MOST_STEPS = 1000
MOST_TRAIN, MOST_TEST = 2000, 2000


@dataclasses.dataclass(frozen=True)
class Separability:
    """Linear probes, one for each layer and network, all on the same examples.

    Attributes:
        task: classification or regression.
        score: accuracy on test examples; of regressions R^2, of all outputs together, negative where the mean does better.
        by_example: of every test example, with the score as their mean: whether the answer is right; of regressions
            R^2 - (e_i - (1 - R^2) t_i) / mean(t), with e_i and t_i the squared distances of target i from the answer and
            from the mean target, as the choice of examples moves R^2 to first order. `score_error` takes it.
        train_score: the same on the examples that the probe was fitted to. An accuracy of 1 shows that the classes of these
            are linearly separable; less, with a probe that is regularised, shows nothing.
        converged: whether no entry of the gradient is larger than TOLERANCE; of regressions, which are solved, always.
        chance: score of the best constant prediction: share on the test examples of the class most frequent in training, or
            0.
        num_train, num_test: examples.
        l2: how strongly probes are regularised.
    """

    task: Task
    score: Float[np.ndarray, "layer seed"]
    by_example: Float[np.ndarray, "layer seed example"]
    train_score: Float[np.ndarray, "layer seed"]
    converged: Bool[np.ndarray, "layer seed"]
    chance: float
    num_train: int
    num_test: int
    l2: float


@dataclasses.dataclass(frozen=True)
class Probed:
    """A population's probes and the two controls, for the same examples.

    Attributes:
        trained: of the networks.
        untrained: of other params of the same networks, at their init: what depth and width do without learning; None where
            these were not given.
        shuffled: of the networks when the labels of the training examples change places, another time for each network: what
            probes reach where there is nothing to find.
    """

    trained: Separability
    untrained: Separability | None
    shuffled: Separability


def probe_layers(
    model: Network, params: Params, data: Dataset, *, untrained: Params | None = None, l2: float = L2,
    most_train: int = MOST_TRAIN, most_test: int = MOST_TEST, rng: np.random.Generator,
) -> Probed:  # fmt: skip
    """Probe the inputs, every hidden layer and the outputs of stacked networks, with both controls.

    Args:
        model: with `activations(params, x)`.
        params: stacked, leaves (seed, ...).
        data: probes are fitted to some of its training examples and scored on some of its test examples.
        untrained: the same networks at their init, stacked.
        l2: as in `separability`.
        most_train, most_test: examples, drawn without replacement where there are more.
        rng: source of the examples and of the shuffles.

    Raises:
        ValueError: as in `features` and `separability`.
    """
    train = _some(len(data.x_train), most_train, rng)
    test = _some(len(data.x_test), most_test, rng)
    y_train, y_test = data.y_train[train], data.y_test[test]
    both = lambda some: [features(model, some, x) for x in (data.x_train[train], data.x_test[test])]  # noqa: E731
    seen, new = both(params)
    trained = separability(seen, y_train, new, y_test, data.task, l2=l2)
    shuffled = separability(seen, y_train, new, y_test, data.task, l2=l2, shuffle=rng)
    if untrained is None:
        return Probed(trained, None, shuffled)
    seen, new = both(untrained)
    return Probed(trained, separability(seen, y_train, new, y_test, data.task, l2=l2), shuffled)


def separability(
    train: Sequence[Float[np.ndarray, "seed _ _"]], y_train: Shaped[np.ndarray, "..."],
    test: Sequence[Float[np.ndarray, "seed _ _"]], y_test: Shaped[np.ndarray, "..."], task: Task, *, l2: float = L2,
    shuffle: np.random.Generator | None = None,
) -> Separability:  # fmt: skip
    """Fit a linear probe to the features of training examples, for every layer and network, and score it on test examples.

    With x_i the features less their mean and over their standard deviation, unit by unit, both those of the training
    examples, the probe minimises over W and b

        1/n sum_i cross-entropy(softmax(W x_i + b), y_i) + l2/2 |W|^2            classification
        1/n sum_i |W x_i + b - y_i|^2 + l2 |W|^2                                 regression

    by scikit-learn in float64 (of two classes W is one row and softmax the logistic function), on all cores. Neither scale,
    shift nor order of units changes it. A score tells what a linear readout finds, not what the network uses.

    Args:
        train, test: of every layer, features of training and of test examples, as `features` has them.
        y_train, y_test: labels (example,) or targets (example, output).
        task: what they are.
        l2: positive.
        shuffle: source of a permutation of y_train for every network, the control; default: as they are.

    Raises:
        ValueError: layers or labels do not fit each other, features are not finite, l2 is not positive, training labels are
            all the same, or the targets of the test examples are.

    Source: Alain & Bengio 2016, Understanding intermediate layers using linear classifier probes, 1610.01644; controls:
    Hewitt & Liang 2019, 1909.03368.
    """
    y_train, y_test = np.asarray(y_train), np.asarray(y_test)
    num = _check(train, y_train, test, y_test, task, l2)
    orders = [np.arange(len(y_train)) if shuffle is None else shuffle.permutation(len(y_train)) for _ in range(num)]
    fit = _classified if task == "classification" else _regressed

    def probe(job: tuple[int, int]) -> tuple[np.ndarray, float, bool]:
        layer, seed = job
        return fit(train[layer][seed], y_train[orders[seed]], test[layer][seed], y_test, l2)

    # Inputs are the same for all networks: one probe serves them all.
    same = [shuffle is None and _equal(a) and _equal(b) for a, b in zip(train, test, strict=True)]
    jobs = [(layer, seed) for layer in range(len(train)) for seed in range(1 if same[layer] else num)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` tells
        found = dict(zip(jobs, in_threads(probe, jobs), strict=True))
    every = [[found[layer, 0 if same[layer] else seed] for seed in range(num)] for layer in range(len(train))]
    by_example, train_score, converged = (np.array([[one[k] for one in row] for row in every]) for k in range(3))
    if task == "regression":
        chance = 0.0
    else:
        classes, counts = np.unique(y_train, return_counts=True)
        chance = float(np.mean(y_test == classes[np.argmax(counts)]))
    return Separability(
        task=task,
        score=by_example.mean(axis=-1),
        by_example=by_example,
        train_score=train_score,
        converged=converged.astype(bool),
        chance=chance,
        num_train=len(y_train),
        num_test=len(y_test),
        l2=l2,
    )


def score_error(by_example: Float[np.ndarray, "*batch example"]) -> Float[np.ndarray, "*batch"]:
    """Standard error, by the choice of test examples, of a difference of scores that is none in truth.

    With d_i what example i adds to one score more than to the other, error = sqrt(sum_i d_i^2) / n: the spread about 0, not
    about the mean, so that few examples that happen to agree do not pass for certainty. A difference of two accuracies is
    more than twice its error where McNemar's statistic is more than 4; no difference is, of fewer than five examples.

    Args:
        by_example: differences of `Separability.by_example`: of two readouts, or of one from a fixed score.

    Source: McNemar 1947, 10.1007/BF02295996.
    """
    return np.asarray(np.sqrt(np.mean(np.square(by_example), axis=-1) / by_example.shape[-1]))


def _classified(
    train: np.ndarray, y_train: np.ndarray, test: np.ndarray, y_test: np.ndarray, l2: float
) -> tuple[np.ndarray, float, bool]:
    seen, new = _standardised(train, test)
    probe = LogisticRegression(C=1 / (l2 * len(seen)), tol=TOLERANCE / 2, max_iter=MOST_STEPS).fit(seen, y_train)
    rows = len(probe.coef_)  # of two classes one, for the second of them
    wrong = (probe.predict_proba(seen) - (y_train[:, None] == probe.classes_))[:, -rows:]
    gradient = np.concatenate([wrong.T @ seen / len(seen) + l2 * probe.coef_, wrong.mean(axis=0)[:, None]], axis=1)
    right = lambda x, y: (probe.predict(x) == y).astype(np.float64)  # noqa: E731
    return right(new, y_test), float(right(seen, y_train).mean()), bool(np.abs(gradient).max() <= TOLERANCE)


def _regressed(
    train: np.ndarray, y_train: np.ndarray, test: np.ndarray, y_test: np.ndarray, l2: float
) -> tuple[np.ndarray, float, bool]:
    seen, new = _standardised(train, test)
    y_train, y_test = (y.reshape(len(y), -1).astype(np.float64) for y in (y_train, y_test))
    probe = Ridge(alpha=l2 * len(seen), solver="svd").fit(seen, y_train)

    def r2(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
        answer = np.reshape(probe.predict(x), y.shape)  # one target comes back without its axis
        errors, total = (np.sum((y - some) ** 2, axis=1) for some in (answer, y.mean(axis=0)))
        left = errors.mean() / total.mean()
        return float(1 - left), 1 - left - (errors - left * total) / total.mean()

    return r2(new, y_test)[1], r2(seen, y_train)[0], True


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units that do not vary over the training examples stay at 0 there, and so does their weight."""
    scaler = StandardScaler().fit(train.astype(np.float64))
    return np.asarray(scaler.transform(train.astype(np.float64))), np.asarray(scaler.transform(test.astype(np.float64)))


def _check(
    train: Sequence[np.ndarray], y_train: np.ndarray, test: Sequence[np.ndarray], y_test: np.ndarray, task: Task, l2: float
) -> int:  # fmt: skip
    """The number of networks."""
    sizes = [(a.shape[0], a.shape[1], b.shape[1]) for a, b in zip(train, test, strict=False)]
    fits = all(a.shape[::2] == b.shape[::2] for a, b in zip(train, test, strict=False))
    if len(train) != len(test) or len(set(sizes)) != 1 or not fits or 0 in sizes[0]:
        raise ValueError(
            f"train features have shapes {[a.shape for a in train]}, those of test examples {[b.shape for b in test]}: "
            "(seed, example, unit) with equal seeds and units are expected, of at least one layer"
        )
    num, num_train, num_test = sizes[0]
    if (len(y_train), len(y_test)) != (num_train, num_test) or y_train.shape[1:] != y_test.shape[1:]:
        raise ValueError(
            f"y_train has shape {y_train.shape}, y_test {y_test.shape}: those of {num_train} and {num_test} examples are "
            "expected"
        )
    if task == "classification" and y_train.ndim != 1:
        raise ValueError(f"y_train has shape {y_train.shape}: one label for each example is expected")
    if not 0 < l2 < np.inf:
        raise ValueError(f"l2 = {l2}: a positive number is expected")
    for name, y in (("training", y_train), *([("test", y_test)] if task == "regression" else [])):
        if np.all(y == y[0]):
            raise ValueError(
                f"the {num_train if name == 'training' else num_test} {name} examples ask all for the same"
            )
    if bad := [
        k for k, pair in enumerate(zip(train, test, strict=True)) if not all(np.isfinite(x).all() for x in pair)
    ]:
        raise ValueError(f"features of the layers {bad} are not finite")
    return num


def _equal(layer: np.ndarray) -> bool:
    return bool(np.all(layer == layer[:1]))


def _some(num: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of at most this many of `num` examples, ascending."""
    return np.arange(num) if num <= most else np.sort(rng.choice(num, most, replace=False))
