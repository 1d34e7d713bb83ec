"""PyTorch, the population at once: functional_call under vmap(grad), Adam (fused) on the stacked params."""

import time

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch.func import functional_call, grad, stack_module_state, vmap  # pyright: ignore[reportMissingImports]
from torch.nn.functional import cross_entropy  # pyright: ignore[reportMissingImports]
from workloads import LEARNING_RATE, Workload

from contenders.torch_loop import DEVICES, network, wait


def prepare(workload: Workload, x: np.ndarray, y: np.ndarray, variant: str, platform: str = "cpu"):
    """A turn trains the population."""
    inputs, labels = torch.from_numpy(x).to(DEVICES[platform]), torch.from_numpy(y).long().to(DEVICES[platform])
    base = network(workload.sizes).to(inputs.device)

    def loss(params, x, y):
        return cross_entropy(functional_call(base, params, (x,)), y)

    axes = (0, 0, 0) if variant == "own" else (0, None, None)
    gradient = vmap(grad(loss), in_dims=axes)

    def epoch() -> torch.Tensor:
        """Batches of examples: (step, batch), or (step, seed, batch)."""
        if variant == "shared":
            return torch.randperm(len(inputs), device=inputs.device).reshape(-1, workload.batch_size)
        drawn = torch.rand(workload.num_seeds, len(inputs), device=inputs.device).argsort(dim=1)
        return drawn.reshape(workload.num_seeds, -1, workload.batch_size).transpose(0, 1)

    def turn(seed: int) -> tuple[int, float, float]:
        torch.manual_seed(seed)
        params, _ = stack_module_state([network(workload.sizes).to(inputs.device) for _ in range(workload.num_seeds)])
        optimizer = torch.optim.Adam(list(params.values()), lr=LEARNING_RATE, fused=True)
        detached = {name: param.detach() for name, param in params.items()}  # the same memory, outside autograd
        wait(inputs)
        began = time.perf_counter()
        for _ in range(workload.epochs):
            for batch in epoch():
                for name, slope in gradient(detached, inputs[batch], labels[batch]).items():
                    params[name].grad = slope
                optimizer.step()
        wait(inputs)
        seconds = time.perf_counter() - began
        with torch.no_grad():
            final = vmap(loss, in_dims=(0, None, None))(detached, inputs, labels).mean().item()
        return workload.num_seeds * workload.num_steps, seconds, final

    return turn
