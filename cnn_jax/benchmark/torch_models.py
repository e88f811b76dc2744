"""Programs to time: networks of torchvision and timm, in both of torch's memory formats."""

import contextlib
from collections.abc import Callable
from typing import Any

from cnn_jax import errors
from cnn_jax.benchmark import models, torch_ops

# Names in torchvision or timm that differ from those in `cnn_jax.models`.
_THEIR_NAMES = {
    "alexnet_owt": "alexnet",
    "googlenet_bn": "googlenet",
    "senet154": "legacy_senet154",
    "xception": "legacy_xception",
}


def version() -> str:
    """Returns the versions of torch, torchvision and timm and torch's number of threads as text.

    Raises:
      errors.UserError: torch, torchvision or timm is not installed.
    """
    try:
        import timm
        import torchvision
    except ImportError as error:
        raise errors.UserError(
            f"--against=torch needs torch, torchvision and timm ({error}); run: {torch_ops.INSTALL}"
        ) from error
    return f"{torch_ops.version()}, torchvision {torchvision.__version__}, timm {timm.__version__}"


def check(case: models.Case) -> None:
    """Checks that torchvision or timm has the network.

    Raises:
      errors.UserError: neither library has it.
    """
    import timm
    import torchvision

    theirs = _THEIR_NAMES.get(case.name, case.name)
    known = {*torchvision.models.list_models(torchvision.models), *timm.list_models()}
    if theirs not in known:
        raise errors.UserError(
            f"neither torchvision nor timm has {case.name}; drop it from --models, or torch from "
            "--against"
        )


def contenders(case: models.Case) -> dict[str, Callable[[], object]]:
    """Returns the programs to time for a case, one per memory format."""
    return {f"torch {layout}": _contender(case, layout) for layout in torch_ops.FORMATS}


def _contender(case: models.Case, layout: str) -> Callable[[], object]:
    """Returns a step of a case in a memory format."""
    import torch

    memory_format = torch_ops.memory_format(layout)
    network = _network(case).to(memory_format=memory_format)
    images, labels = models.batch(case)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    y = torch.from_numpy(labels)

    def precision() -> Any:
        if case.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast("cpu", dtype=getattr(torch, case.dtype))

    def predict() -> object:
        with torch.inference_mode(), precision():
            return network(x)

    if case.mode == "infer":
        network.eval()
        return predict
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=models.LEARNING_RATE, momentum=models.MOMENTUM
    )

    def train() -> object:
        with precision():
            loss = _loss(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return train


def _network(case: models.Case) -> Any:
    """Returns the network of torchvision, or that of timm if torchvision has none."""
    import timm
    import torchvision

    theirs = _THEIR_NAMES.get(case.name, case.name)
    if theirs not in torchvision.models.list_models(torchvision.models):
        return timm.create_model(theirs, num_classes=case.num_classes)
    options = {"init_weights": False} if theirs in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(theirs, num_classes=case.num_classes, **options)


def _loss(result: Any, labels: Any) -> Any:
    """Returns the cross-entropy plus `AUXILIARY_WEIGHT` times that of auxiliary heads.

    In training, a network with auxiliary heads returns a tuple: the logits, then one array of
    logits per head.
    """
    import torch

    logits, *heads = result if isinstance(result, tuple) else (result,)
    losses = [torch.nn.functional.cross_entropy(head, labels) for head in heads]
    main = torch.nn.functional.cross_entropy(logits, labels)
    return main + models.AUXILIARY_WEIGHT * sum(losses)
