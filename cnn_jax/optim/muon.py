"""Muon: momentum, orthogonalised by Newton-Schulz iterations."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnn_jax.optim import groups
from cnn_jax.optim.values import Number, is_off
from cnn_jax.runtime import patterns

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_EPS = 1e-7
_MUON, _ADAM = "muon", "adam"


def make(
    momentum: Number, nesterov: bool, b1: Number, b2: Number, eps: Number
) -> optax.GradientTransformation:
    """Returns Muon for the kernels of convolutions and dense layers, and Adam for the others.

    The rule is that of Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/, and
    `muon.py` of github.com/KellerJordan/Muon at 857d1ad), computed in the dtype of the parameters.
    For a gradient g, the momentum becomes `m' = momentum * m + (1 - momentum) * g`. The update is
    m', or with Nesterov's momentum, `momentum * m' + (1 - momentum) * g`. The update is then
    orthogonalised and multiplied by sqrt(max(1, outputs / inputs)).

    A kernel of a convolution `[h, w, I, O]` is a matrix of h w I inputs and O outputs, as in
    `timm.optim.Muon` with `adjust_lr_fn="original"`. The tests compare with the formula in NumPy,
    because torch's and the authors' Muon compute in bfloat16. `optax.contrib.muon` is another rule:
    its momentum has a bias correction.

    Adam trains all other parameters at the same rate: convolutions with I = 1, such as depthwise
    ones, and arrays that are not named 'kernel' or do not have 2 or 4 axes. `optim.rate_factors`
    gives them another rate. The authors train the first layer and the head by AdamW, too.

    Args:
      momentum: decay of the momentum; 0 for none.
      nesterov: True for Nesterov's momentum.
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: constant that Adam adds to the root of the second moment.
    """
    stages = [optax.stateless(lambda updates, _: jax.tree.map(_orthogonalise, updates))]
    if not is_off(momentum):
        # Optax's trace sums gradients without the factor 1 - momentum.
        stages = [optax.trace(momentum, nesterov), optax.scale(1 - momentum), *stages]
    rules = {_MUON: optax.chain(*stages), _ADAM: optax.scale_by_adam(b1, b2, eps)}
    return optax.partition(rules, labels)


def labels(params: Any) -> Any:
    """Returns a tree with the rule of each parameter, 'muon' or 'adam'.

    >>> kernel = jnp.zeros((3, 3, 2, 4))
    >>> labels({"conv": {"kernel": kernel, "bias": jnp.zeros(4)}})
    {'conv': {'bias': 'adam', 'kernel': 'muon'}}
    """

    def label(keys: Any, leaf: Any) -> str:
        is_kernel = re.search(groups.KERNELS[0], patterns.path(keys))
        is_matrix = leaf.ndim == 2 or (leaf.ndim == 4 and leaf.shape[2] > 1)
        return _MUON if is_kernel and is_matrix else _ADAM

    return jax.tree_util.tree_map_with_path(label, params)


def _orthogonalise(kernel: jax.Array) -> jax.Array:
    """Returns the orthogonalised matrix of a kernel, times the factor, in the kernel's shape."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    inputs, outputs = matrix.shape
    is_tall = inputs > outputs  # The iterations multiply the smaller Gram matrix.
    wide = matrix.T if is_tall else matrix
    wide = wide / (jnp.sqrt(jnp.sum(jnp.square(wide))) + _EPS)
    result = functools.reduce(lambda x, _: _newton_schulz(x), range(_ITERATIONS), wide)
    factor = max(1.0, outputs / inputs) ** 0.5
    return factor * (result.T if is_tall else result).reshape(kernel.shape)


def _newton_schulz(x: jax.Array) -> jax.Array:
    a, b, c = _COEFFICIENTS
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    gram = product(x, x.T)
    return a * x + product(b * gram + c * product(gram, gram), x)
