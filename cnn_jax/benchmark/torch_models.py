"""The same networks in torchvision or timm, in both of torch's memory formats."""

import contextlib
from collections.abc import Callable
from typing import Any

from cnn_jax import errors
from cnn_jax.benchmark import models, torch_ops

# Where their name is not ours.
_THEIRS = {
    "alexnet_owt": "alexnet",
    "googlenet_bn": "googlenet",
    "senet154": "legacy_senet154",
    "xception": "legacy_xception",
}


def version() -> str:
    """Torch's version and number of threads, and the versions of torchvision and timm.

    Raises:
      ValueError: one of them is not installed.
    """
    torch = torch_ops.version()
    try:
        import timm
        import torchvision
    except ImportError as error:
        raise errors.UserError(
            "--against=torch needs torchvision and timm: pip install torchvision timm"
            " --extra-index-url https://download.pytorch.org/whl/cpu"
        ) from error
    return f"{torch}, torchvision {torchvision.__version__}, timm {timm.__version__}"


def check(case: models.Case) -> None:
    """Raise a ValueError unless torchvision or timm has the network."""
    import timm
    import torchvision

    theirs = _THEIRS.get(case.name, case.name)
    known = {*torchvision.models.list_models(torchvision.models), *timm.list_models()}
    if theirs not in known:
        raise errors.UserError(f"neither torchvision nor timm has {case.name}")


def contenders(case: models.Case) -> dict[str, Callable[[], object]]:
    """One for each of torch's memory formats; see `models.program`."""
    return {f"torch {layout}": _contender(case, layout) for layout in torch_ops.FORMATS}


def _contender(case: models.Case, layout: str) -> Callable[[], object]:
    import torch

    memory_format = torch_ops.memory_format(layout)
    network = _network(case).to(memory_format=memory_format)
    images, labels = models.batch(case)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(memory_format=memory_format)
    y = torch.from_numpy(labels)

    def arithmetic() -> Any:
        if case.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast("cpu", dtype=getattr(torch, case.dtype))

    def predict() -> object:
        with torch.inference_mode(), arithmetic():
            return network(x)

    if case.mode == "infer":
        network.eval()
        return predict
    network.train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=models.LEARNING_RATE, momentum=models.MOMENTUM
    )

    def train() -> object:
        with arithmetic():
            loss = _loss(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return train


def _network(case: models.Case) -> Any:
    import timm
    import torchvision

    theirs = _THEIRS.get(case.name, case.name)
    if theirs not in torchvision.models.list_models(torchvision.models):
        return timm.create_model(theirs, num_classes=case.num_classes)
    options = {"init_weights": False} if theirs in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(theirs, num_classes=case.num_classes, **options)


def _loss(result: Any, labels: Any) -> Any:
    """The cross-entropy, with that of auxiliary heads, which come after the logits in a tuple."""
    import torch

    logits, *heads = result if isinstance(result, tuple) else (result,)
    losses = [torch.nn.functional.cross_entropy(head, labels) for head in heads]
    main = torch.nn.functional.cross_entropy(logits, labels)
    return main + models.AUXILIARY_WEIGHT * sum(losses)
