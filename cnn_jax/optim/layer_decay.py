"""Rates that fall from the head to the input, for fine-tuning: `optim.layer_decay`.

The rate of a parameter is multiplied by `layer_decay^(L - l)`, where l is the number of its layer
and L that of the last one, the head (Clark et al. 2020, arXiv:2003.10555, section 3.1, by the
formula of the code of BEiT and MAE). `models.depths` numbers the layers.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax import errors
from cnn_jax.optim.values import Number, check_factor, is_known
from cnn_jax.runtime import patterns


def layer_factors(params: Any, decay: Number, depths: Mapping[str, int]) -> Any:
    """Returns a tree with the factor of the learning rate of each parameter.

    >>> layer_factors({"stem": {"kernel": 0}, "fc": {"kernel": 0}}, 0.5, {"stem": 0, "fc": 1})
    {'fc': {'kernel': 1.0}, 'stem': {'kernel': 0.5}}

    Args:
      params: a tree of parameters. It may lack some of the network's, such as frozen ones.
      decay: `optim.layer_decay`.
      depths: the number of the layer by the path of a module or an array, such as `models.depths`
        returns. The longest path that a parameter's path begins with counts.

    Raises:
      UserError: a parameter is in none of them.
    """
    last = max(depths.values())

    def factor(keys: Any, _: Any) -> Number:
        return decay ** (last - _depth(patterns.path(keys), depths))

    return jax.tree_util.tree_map_with_path(factor, params)


def _depth(path: str, depths: Mapping[str, int]) -> int:
    above = path
    while above not in depths:
        above, slash, _ = above.rpartition("/")
        if not slash:
            raise errors.UserError(
                f"optim.layer_decay: the layer of the parameter {path} is unknown, because it is "
                "in no module of the network; set optim.layer_decay to 1 and use "
                "optim.rate_factors"
            )
    return depths[above]


def scale_layers(
    optimizer: optax.GradientTransformation, decay: Number, depths: Mapping[str, int]
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer whose updates are multiplied by `layer_factors`.

    The factors come after everything else, as those of torch's parameter groups do: they multiply
    decoupled weight decay too, and `optim.rate_factors`. The state is that of the given optimizer.

    Args:
      optimizer: an optimizer whose updates are proportional to its learning rate.
      decay: `optim.layer_decay`, in (0, 1]. With 1, the result is the given optimizer.
      depths: as in `layer_factors`.

    Raises:
      UserError: `decay` is out of range. `init` and `update` raise it if the layer of a parameter
        is unknown.
    """
    inner = optax.with_extra_args_support(optimizer)
    check_factor("layer_decay", decay)
    if is_known(decay) and decay == 1:
        return inner

    def init(params: Any) -> Any:
        layer_factors(params, decay, depths)  # An unknown layer is an error before the first step.
        return inner.init(params)

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, state = inner.update(grads, state, params, **extra)
        factors = layer_factors(updates, decay, depths)
        scaled = jax.tree.map(
            lambda leaf, factor: jnp.asarray(factor, leaf.dtype) * leaf, updates, factors
        )
        return scaled, state

    return optax.GradientTransformationExtraArgs(init, update)
