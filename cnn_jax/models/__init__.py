"""Networks: `models.create("lenet", num_classes=10)`.

- `registry.py`: the names of all networks, and their construction
- `own.py`: networks of the user, and the contract that they keep (`check`)
- `structure.py`: endpoints and head of a network
- `depth.py`: number of the layer of each module
- `costs.py`: parameters and multiply-adds of each layer
- a file for each family of networks; `layers.py`, `attention.py` and others for several families
"""

from flax import linen as nn

from cnn_jax.models import depth, registry, structure
from cnn_jax.models.own import check
from cnn_jax.models.registry import (
    DTYPES,
    check_options,
    create,
    input_shape,
    name_of,
    names,
    options,
    register,
    registered,
)
from cnn_jax.models.structure import Endpoint, features

__all__ = [
    "DTYPES",
    "Endpoint",
    "check",
    "check_options",
    "create",
    "depths",
    "endpoints",
    "features",
    "head",
    "input_shape",
    "name_of",
    "names",
    "options",
    "register",
    "registered",
]


def endpoints(
    network: str | nn.Module, input_shape: tuple[int, int, int] | None = None
) -> dict[str, Endpoint]:
    """Returns channels and stride of each endpoint, in the order of execution.

    Args:
      network: a network, or the name of one.
      input_shape: height, width and channels of the images. By default the published ones; networks
        of the user have none.

    Raises:
      UserError: the name is unknown, or the input shape is needed.

    >>> endpoints("resnet50")["stage1"]
    Endpoint(channels=256, stride=4)
    """
    return structure.endpoints(*_traceable(network, input_shape))


def head(network: str | nn.Module, input_shape: tuple[int, int, int] | None = None) -> str:
    """Returns the path of the head's parameters, joined by '/'.

    Args:
      network: a network, or the name of one.
      input_shape: as in `endpoints`.

    Raises:
      UserError: the name is unknown, the input shape is needed, or the network has no single head.

    >>> head("resnet18")
    'fc'
    """
    return structure.head(*_traceable(network, input_shape))


def depths(
    network: str | nn.Module, input_shape: tuple[int, int, int] | None = None
) -> dict[str, int]:
    """Returns the number of the layer of each module, from 0 at the input; see `depth.depths`.

    Args:
      network: a network, or the name of one.
      input_shape: as in `endpoints`.

    Raises:
      UserError: the name is unknown, the input shape is needed, or the network has no layers.

    >>> depths("squeezenet1_1")["fire9"]
    8
    """
    return depth.depths(*_traceable(network, input_shape))


def _traceable(
    network: str | nn.Module, input_shape: tuple[int, int, int] | None
) -> tuple[nn.Module, tuple[int, int, int]]:
    """Returns a module and the shape of its images."""
    module = registry.create(network, num_classes=1) if isinstance(network, str) else network
    return module, input_shape or registry.input_shape(registry.name_of(module))
