"""Contender: torchvision's ImageFolder and usual transforms in torch's DataLoader.

python -m experiments.input_pipeline.torch_loader DIRECTORY
"""

import importlib
import sys

import torch
from torch.utils.data import DataLoader, RandomSampler

from experiments.input_pipeline import protocol

# The torchvision of PyPI is built for CUDA. Beside a torch for CPUs, its operators for detection do
# not load, and describing them fails. Its transforms use none of them.
torch.library.register_fake = lambda _: lambda function: function
transforms = importlib.import_module("torchvision.transforms")
datasets = importlib.import_module("torchvision.datasets")

EPOCHS = 1_000  # more than are measured; one long epoch starts the workers once


def main() -> None:
    """Serves batches: normalised images `[B, 3, H, W]` float32, and labels."""
    torch.manual_seed(0)
    steps = [
        transforms.RandomResizedCrop(protocol.IMAGE_SIZE, protocol.SCALE, protocol.RATIO),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(protocol.MEAN, protocol.STD),
    ]
    images = datasets.ImageFolder(f"{sys.argv[1]}/train", transforms.Compose(steps))
    sampler = RandomSampler(images, num_samples=EPOCHS * len(images))
    loader = DataLoader(
        images, protocol.BATCH_SIZE, sampler=sampler, num_workers=protocol.WORKERS, drop_last=True
    )
    protocol.serve(iter(loader))


if __name__ == "__main__":
    main()
