"""Writes `plateau/torch.json`: learning rates of PyTorch's `ReduceLROnPlateau`.

    python -m tests.golden.make_plateau

Needs torch.
"""

import json
import random
from pathlib import Path
from typing import Any

RATE = 0.1
# Patience, factor, smallest rate, and whether the largest value is the best.
CASES = ((2, 0.1, 0.0, True), (0, 0.5, 0.02, True), (3, 0.1, 0.001, False))
VALIDATIONS = 40
FILE = Path(__file__).parent / "plateau" / "torch.json"


def main() -> None:
    """Writes the file."""
    import torch

    found = {
        "source": f"torch.optim.lr_scheduler.ReduceLROnPlateau of torch {torch.__version__}, "
        "threshold=0, eps=0",
        "rate": RATE,
        "cases": [_case(seed, *case) for seed, case in enumerate(CASES)],
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found, separators=(",", ":")))


def _case(seed: int, patience: int, factor: float, least: float, largest: bool) -> dict[str, Any]:
    """Returns validation values, some of them equal, and the rate after each of them."""
    import torch

    rng = random.Random(seed)
    values = [round(rng.random() + index / VALIDATIONS, 1) for index in range(VALIDATIONS)]
    values = [value if largest else -value for value in values]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="max" if largest else "min",
        factor=factor,
        patience=patience,
        threshold=0.0,
        min_lr=least,
        eps=0.0,
    )
    rates = []
    for value in values:
        schedule.step(value)
        rates.append(optimizer.param_groups[0]["lr"])
    return {
        "patience": patience,
        "factor": factor,
        "least": least,
        "sign": 1 if largest else -1,
        "values": values,
        "rates": rates,
    }


if __name__ == "__main__":
    main()
