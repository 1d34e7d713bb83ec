"""PyTorch, one network after another: nn.Module, autograd, torch.optim.Adam (fused, the faster one)."""

import itertools
import time

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn.functional import cross_entropy  # pyright: ignore[reportMissingImports]
from workloads import LEARNING_RATE, Workload


def network(sizes: tuple[int, ...]) -> nn.Module:
    """Linear layers with ReLU between them, Glorot init."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        nn.init.xavier_normal_(layers[-2].weight)
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers[:-1])


def prepare(workload: Workload, x: np.ndarray, y: np.ndarray, variant: str):
    """A turn trains one network."""
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y).long()

    def turn(seed: int) -> tuple[int, float, float]:
        torch.manual_seed(seed)
        net = network(workload.sizes)
        optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
        began = time.perf_counter()
        for _ in range(workload.epochs):
            for batch in torch.randperm(len(inputs)).split(workload.batch_size):
                optimizer.zero_grad()
                cross_entropy(net(inputs[batch]), labels[batch]).backward()
                optimizer.step()
        seconds = time.perf_counter() - began
        with torch.no_grad():
            return workload.num_steps, seconds, cross_entropy(net(inputs), labels).item()

    return turn
