"""PyTorch, one network after another: nn.Module, autograd, torch.optim.Adam (fused, the faster one)."""

import itertools
import time

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn.functional import cross_entropy  # pyright: ignore[reportMissingImports]
from workloads import LEARNING_RATE, Workload

DEVICES = {"cpu": "cpu", "gpu": "cuda"}


def wait(tensor: torch.Tensor) -> None:
    """Until a GPU has done what it was told."""
    if tensor.is_cuda:
        torch.cuda.synchronize()


def network(sizes: tuple[int, ...]) -> nn.Module:
    """Linear layers with ReLU between them, Glorot init."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        nn.init.xavier_normal_(layers[-2].weight)
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers[:-1])


def prepare(workload: Workload, x: np.ndarray, y: np.ndarray, variant: str, platform: str = "cpu"):
    """A turn trains one network."""
    inputs, labels = torch.from_numpy(x).to(DEVICES[platform]), torch.from_numpy(y).long().to(DEVICES[platform])

    def turn(seed: int) -> tuple[int, float, float]:
        torch.manual_seed(seed)
        net = network(workload.sizes).to(inputs.device)
        optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE, fused=True)
        wait(inputs)
        began = time.perf_counter()
        for _ in range(workload.epochs):
            for batch in torch.randperm(len(inputs), device=inputs.device).split(workload.batch_size):
                optimizer.zero_grad()
                cross_entropy(net(inputs[batch]), labels[batch]).backward()
                optimizer.step()
        wait(inputs)
        seconds = time.perf_counter() - began
        with torch.no_grad():
            return workload.num_steps, seconds, cross_entropy(net(inputs), labels).item()

    return turn
