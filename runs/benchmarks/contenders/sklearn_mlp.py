"""scikit-learn's MLPClassifier, one network after another, in float32."""

import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from workloads import LEARNING_RATE, Workload


def prepare(workload: Workload, x: np.ndarray, y: np.ndarray, variant: str, platform: str = "cpu"):
    """A turn trains one network."""
    warnings.filterwarnings("ignore", category=ConvergenceWarning)  # it stops after `epochs` because it is told to

    def turn(seed: int) -> tuple[int, float, float]:
        net = MLPClassifier(
            workload.sizes[1:-1],
            batch_size=workload.batch_size,  # pyright: ignore[reportArgumentType]
            learning_rate_init=LEARNING_RATE,
            alpha=0.0,
            max_iter=workload.epochs,
            n_iter_no_change=workload.epochs + 1,
            random_state=seed,
        )
        began = time.perf_counter()
        net.fit(x, y)
        seconds = time.perf_counter() - began
        assert net.t_ == workload.epochs * workload.num_examples, "it stopped early"
        return workload.num_steps, seconds, float(log_loss(y, net.predict_proba(x)))

    return turn
