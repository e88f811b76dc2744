"""Training steps of whole runs, timed alternately in cnn_jax and in torch.

    python -m experiments.cpu_speed.training lenet_fashion_mnist --steps=429
    python -m experiments.cpu_speed.training fashion_cnn --steps=10

cnn_jax runs the config's own training steps: Fashion-MNIST on the device, shuffled, and augmented
if the config augments. torch keeps the images in memory as normalised float32 tensors and shuffles
them, without augmentation. Loss, optimizer and dropout are equal. The script prints milliseconds
per step and the speedup over torch: above 1, cnn_jax is faster.

Needs torch: pip install torch --index-url https://download.pytorch.org/whl/cpu
"""

import argparse
import importlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import torch
from torch import nn

from cnn_jax import data, plan
from cnn_jax.runtime import malloc
from cnn_jax.train import job as jobs
from cnn_jax.train import state


def lenet() -> nn.Module:
    """Returns `cnn_jax.models.lenet` in torch, for 32x32 images."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, 10),
    )


def fashion_cnn() -> nn.Module:
    """Returns `cnn_jax.models.fashion_cnn` in torch, for 28x28 images."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        first, second = (nn.Conv2d(n, outputs, 3, padding=1) for n in (inputs, outputs))
        return [first, nn.ReLU(), second, nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        *(nn.Conv2d(1, 64, 7, padding=3), nn.ReLU(), nn.MaxPool2d(2)),
        *stage(64, 128),
        *stage(128, 256),
        *(nn.Flatten(), nn.Linear(2304, 128), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10)),
    )


NETWORKS = {"lenet_fashion_mnist": lenet, "fashion_cnn": fashion_cnn}


def ours(job: jobs.Job) -> Callable[[int], None]:
    """Returns a function that takes a number of steps; successive calls continue one run."""
    shape = job.feed.description.input_shape
    current = state.create(job.objective, job.optimizer, shape, job.plan.seed, job.layout)
    calls = job.feed.train_inputs(job.calls(0))

    def run(steps: int) -> None:
        nonlocal current
        taken = 0
        while taken < steps:
            call, inputs = next(calls)
            current, _ = job.train_steps(current, inputs, len(call))
            taken += len(call)
        jax.block_until_ready(current)

    return run


def torchs(job: jobs.Job, network: nn.Module, channels_last: bool) -> Callable[[int], None]:
    """Returns the counterpart of `ours` for `network` in torch, with the config's optimizer."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    train = next(data.eval_batches(job.feed, "train", job.feed.size("train")))
    images = torch.tensor(np.asarray(train["image"]).transpose(0, 3, 1, 2))
    images = images.to(memory_format=layout)
    labels = torch.tensor(np.asarray(train["label"]), dtype=torch.long)
    optim, rate = job.plan.optim, job.plan.optim.learning_rate
    optimizer: torch.optim.Optimizer
    if optim.name == "adam":
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    else:
        optimizer = torch.optim.SGD(
            network.parameters(), lr=rate, momentum=optim.momentum, weight_decay=optim.weight_decay
        )
    size = job.plan.train.batch_size
    loss = nn.CrossEntropyLoss()

    def batches() -> Iterator[torch.Tensor]:
        while True:
            yield from torch.randperm(len(labels)).split(size)[: len(labels) // size]

    endless = batches()

    def run(steps: int) -> None:
        for chosen in itertools.islice(endless, steps):
            optimizer.zero_grad()
            loss(network(images[chosen]), labels[chosen]).backward()
            optimizer.step()

    return run


def main() -> None:
    """Prints the median time of each program and the speedup over torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("config", choices=NETWORKS)
    parser.add_argument(
        "--steps", type=int, default=429, help="steps per round; default: 429, one epoch"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds; default: 5")
    args = parser.parse_args()
    malloc.keep_freed_memory()
    options = plan.read(importlib.import_module(f"configs.{args.config}").get_config())
    job = jobs.make(options, data.open_source(options.data))
    network = NETWORKS[args.config]
    contenders = {
        "ours": ours(job),
        "torch contiguous": torchs(job, network(), channels_last=False),
        "torch channels_last": torchs(job, network(), channels_last=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run(2 * job.plan.train.steps_per_call)
    for _ in range(args.rounds):
        for name, run in contenders.items():
            run(1)  # Absorbs the spinning threads of the previous program.
            start = time.perf_counter()
            run(args.steps)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        listed = " ".join(f"{1e3 * value / args.steps:.2f}" for value in values)
        print(f"{name}: {1e3 * medians[name] / args.steps:.2f} ms per step ({listed})")
    best = min(medians["torch contiguous"], medians["torch channels_last"])
    print(f"speedup over torch: {best / medians['ours']:.2f}")


if __name__ == "__main__":
    main()
