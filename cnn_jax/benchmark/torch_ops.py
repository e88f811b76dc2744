"""Programs to time: the cases of `benchmark.ops` in torch, in both of its memory formats."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cnn_jax import errors
from cnn_jax.benchmark import ops, timing

FORMATS = ("contiguous", "channels_last")
# The CPU builds; the extra index has torch and torchvision, PyPI has timm.
INSTALL = (
    "pip install torch torchvision timm --extra-index-url https://download.pytorch.org/whl/cpu"
)


def version() -> str:
    """Returns torch's version and number of threads as text.

    Raises:
      errors.UserError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise errors.UserError(f"--against=torch needs torch ({error}); run: {INSTALL}") from error
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def memory_format(layout: str) -> Any:
    """Returns the `torch.memory_format` of a name in `FORMATS`."""
    import torch

    return {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[layout]


def faster_format(timings: Mapping[str, timing.Timing]) -> str:
    """Returns the name of torch's faster timing: `torch FORMAT`, or '' if torch was not timed."""
    found = [name for name in timings if name.startswith("torch")]
    return min(found, key=lambda name: timings[name].median, default="")


def contenders(case: ops.Case, name: str) -> dict[str, Callable[[], object]]:
    """Returns the programs to time for one pass of a case, one per memory format.

    Args:
      case: the operation.
      name: one of `ops.PASSES`.
    """
    return {f"torch {layout}": _contender(case, name, layout) for layout in FORMATS}


def _contender(case: ops.Case, name: str, layout: str) -> Callable[[], object]:
    """Returns one pass of a case with its tensors in a memory format."""
    import torch

    def tensor(array: np.ndarray, axes: tuple[int, ...]) -> Any:
        values = torch.from_numpy(np.ascontiguousarray(array.transpose(axes)))
        return values.to(memory_format=memory_format(layout))

    images, kernel, gradient = ops.arrays(case)
    x, dy = tensor(images, (0, 3, 1, 2)), tensor(gradient, (0, 3, 1, 2))
    weight: Any = None if case.is_pooling else tensor(kernel, (3, 2, 0, 1))

    def operation(x: Any, weight: Any) -> Any:
        if case.is_pooling:
            return torch.nn.functional.max_pool2d(x, case.kernel, case.stride, case.padding)
        return torch.nn.functional.conv2d(
            x, weight, None, case.stride, case.padding, 1, case.groups
        )

    def forward() -> object:
        with torch.no_grad():
            return operation(x, weight)

    def with_gradient() -> object:
        wanted = (weight if name == ops.PASSES[1] else x).detach().requires_grad_()
        result = operation(x, wanted) if name == ops.PASSES[1] else operation(wanted, weight)
        return torch.autograd.grad(result, wanted, dy)

    return forward if name == ops.PASSES[0] else with_gradient
