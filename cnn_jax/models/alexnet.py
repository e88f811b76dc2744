"""AlexNet, its variants in Caffe and torchvision, and ZFNet: 5 convolutions, 3 dense layers.

Krizhevsky, Sutskever & Hinton 2012, 'ImageNet Classification with Deep Convolutional Neural
Networks' (doi:10.1145/3065386), Fig. 2: `alexnet`, 60,965,224 parameters for 1000 classes.

- `alexnet_single`: one stream with the widths of `alexnet`.
- `alexnet_caffe`, `caffenet`: Caffe's bvlc_alexnet and bvlc_reference_caffenet. Their response
  normalisation divides alpha by the window size, has k = 1 and reaches across the streams. CaffeNet
  pools before it normalises. For 227x227 and for 224x224 pixels fc6 has 9,216 inputs.
- `alexnet_owt`: torchvision's AlexNet, after Krizhevsky 2014, 'One weird trick for parallelizing
  convolutional neural networks' (arXiv:1404.5997): 61,100,840 parameters.
- `alexnet_d2l`: Zhang, Lipton, Li & Smola 2023, 'Dive into Deep Learning', section 8.1.
- `zfnet512`: Zeiler & Fergus 2013, 'Visualizing and Understanding Convolutional Networks'
  (arXiv:1311.2901), as in the ONNX model zoo: 87,250,536 parameters. The zoo's network has the
  normalisation of `alexnet` (its alpha of 5e-4 is divided by the window size of 5), pooling windows
  of 3x3, 3x3 and 2x2 pixels, and no rounding at 224x224 pixels.

Each network rounds the number of pooling windows as its source does:

- Up in `alexnet` and `alexnet_single` (cuda-convnet, layer.py) and in `alexnet_caffe` and
  `caffenet` (Caffe, pooling_layer.cpp). Images of 227x227 pixels need no rounding.
- Down in `alexnet_owt` (torchvision), `alexnet_d2l` and `zfnet512` (Caffe2).
- The zoo's export of bvlc_alexnet for 224x224 pixels rounds down twice and up after conv5. Its maps
  differ from Caffe's; `ceil_mode` cannot express them.

Departures from the papers:

- AlexNet takes images of 227x227 pixels; the paper states 224x224. cuda-convnet rounds the size of
  a convolution up, which gives 55x55 maps for both sizes. Here convolutions round down.
- Each stream normalises its own maps. The formula leaves this open; in Fig. 2 the streams meet only
  in conv3 and the dense layers.
- torchvision's conv4 has 256 maps, as in Krizhevsky's own layers-imagenet-1gpu.cfg; the paper of
  2014 has 384. Weights are initialised as in torchvision, biases with zeros.
- The shape of fc6 depends on the image size at `init`. Maps of images of another size are pooled to
  the size that fc6 takes, as in torchvision, where it is always 6x6 pixels.
- The zoo's ZFNet normalises before pooling. Its conv4 has 512 maps; the paper's widened network has
  1024. Its fc7 has 1024 units. The export has neither dropout nor initial weights; here both follow
  the paper's training details: dropout of 0.5 in fc6 and fc7, weights of 0.01, biases of 0.

Sources: github.com/akrizhevsky/cuda-convnet2, github.com/BVLC/caffe, and light_zfnet512.onnx and
light_bvlc_alexnet.onnx in the package onnx 1.16.2, the networks of the zoo without their weights.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer
from jax.typing import DTypeLike

from cnn_jax import errors, ops
from cnn_jax.models import layers, shapes
from cnn_jax.models.dropout import Dropout

# Numbers of the convolutions with these properties, in all of these networks.
NORMALIZED = frozenset({1, 2})
POOLED = (1, 2, 5)
SPLIT = frozenset({2, 4, 5})  # each stream reads only its own maps
NONZERO_BIAS = frozenset({2, 4, 5})  # biases start at `Initial.bias`


class Convolution(NamedTuple):
    """Convolution with `features` kernels of `size` by `size` pixels."""

    features: int
    size: int
    stride: int
    padding: int


class ResponseNorm(NamedTuple):
    """Arguments of `ops.local_response_norm`, and whether its windows reach across streams."""

    size: int
    alpha: float
    beta: float
    k: float
    divide_by_size: bool
    across_streams: bool


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Normal initialiser. Unlike `nn.initializers.normal`, it can be pickled and compared."""

    stddev: float

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        return nn.initializers.normal(self.stddev)(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Uniform initialiser with variance `scale` divided by the fan; can be pickled and compared.

    Attributes:
      scale: see `nn.initializers.variance_scaling`.
      mode: 'fan_in' or 'fan_avg'.
    """

    scale: float
    mode: Literal["fan_in", "fan_avg"]

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        init = nn.initializers.variance_scaling(self.scale, self.mode, "uniform")
        return init(key, shape, dtype)


class Initial(NamedTuple):
    """Initial values of the parameters.

    Attributes:
      kernel: initialiser of the kernels, except those of the hidden dense layers.
      hidden_kernel: initialiser of the kernels of the hidden dense layers.
      bias: initial bias of the hidden dense layers and of the convolutions in `NONZERO_BIAS`. All
        other biases start at 0.
    """

    kernel: Initializer
    hidden_kernel: Initializer
    bias: float


# torch's default for convolutions and dense layers: uniform, with variance 1 / (3 fan_in).
_torch = Uniform(1 / 3, "fan_in")
_glorot = Uniform(1.0, "fan_avg")  # as `layers.glorot_uniform`


class AlexNet(nn.Module):
    """Convolutions with pooling after the first, second and fifth, then dense layers.

    Attributes:
      num_classes: the number of logits, the units of fc8.
      convolutions: conv1 to conv5.
      hidden: units of fc6 and fc7.
      streams: number of groups of maps that conv2, conv4 and conv5 keep separate.
      local_response_norm: whether conv1 and conv2 are followed by local response normalisation.
      response_norm: constants of this normalisation.
      pool_first: whether pooling comes before this normalisation.
      pooling_windows: height and width in pixels of the pooling windows after conv1, conv2 and
        conv5; the stride is 2.
      overlapping_pooling: False for windows of 2x2 pixels in place of larger ones.
      ceil_mode: whether the number of pooling windows is rounded up.
      activation: a key of `layers.ACTIVATIONS`.
      dropout_rate: rate of the dropout at fc6 and fc7.
      dropout_on_input: True for dropout on the inputs of fc6 and fc7, False for their outputs.
      initial: initial values of the parameters.
      remat: whether the backward pass recomputes each convolution, with its normalisation and
        pooling, instead of storing its activations.
      dtype: dtype of the computation.
    """

    num_classes: int
    convolutions: tuple[Convolution, ...] = (
        Convolution(96, 11, 4, 0),
        Convolution(256, 5, 1, 2),
        Convolution(384, 3, 1, 1),
        Convolution(384, 3, 1, 1),
        Convolution(256, 3, 1, 1),
    )
    hidden: tuple[int, ...] = (4096, 4096)
    streams: int = 1
    local_response_norm: bool = True
    response_norm: ResponseNorm = ResponseNorm(5, 1e-4, 0.75, 2.0, False, False)
    pool_first: bool = False
    pooling_windows: tuple[int, ...] = (3, 3, 3)
    overlapping_pooling: bool = True
    ceil_mode: bool = False
    activation: str = "relu"
    dropout_rate: float = 0.5
    dropout_on_input: bool = False
    initial: Initial = Initial(Gaussian(0.01), Gaussian(0.01), 1.0)
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields, so that a wrong one is an error before any tracing."""
        if len(self.pooling_windows) != len(POOLED) or min(self.pooling_windows) < 2:
            raise errors.UserError(
                "model.pooling_windows must hold three windows of at least 2 pixels, after conv1, "
                f"conv2 and conv5, got {self.pooling_windows!r}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        layers.check_image_size(images, self._min_image_size(), "alexnet")
        activation = layers.activation(self.activation)
        drop = Dropout(self.dropout_rate, deterministic=not train)
        x = images
        for number in range(1, len(self.convolutions) + 1):
            # AlexNet: [B, 27, 27, 96], [B, 13, 13, 256], [B, 13, 13, 384] twice, [B, 6, 6, 256]
            stage = partial(AlexNet._stage, number=number)
            x = layers.remat(stage, self.remat)(self, x)
            layers.feature(self, f"stage{number}", x)
        first = "fc6" if self.hidden else "fc8" if self.num_classes else ""
        x = shapes.flatten_for(self, first, x, images, pooled=6)  # [B, 9216]
        for number, width in enumerate(self.hidden, 6):
            x = drop(x) if self.dropout_on_input else x
            x = activation(self._dense(f"fc{number}", width, x))
            x = x if self.dropout_on_input else drop(x)
        head = partial(nn.Dense, kernel_init=self.initial.kernel, dtype=self.dtype, name="fc8")
        return layers.logits(x, self.num_classes, head)

    def _stage(self, x: jax.Array, *, number: int) -> jax.Array:
        """Applies convolution `number` and the layers up to the next convolution."""
        activation = layers.activation(self.activation)
        return self._normalize_and_pool(number, activation(self._convolve(number, x)))

    def _convolve(self, number: int, x: jax.Array) -> jax.Array:
        features, size, stride, padding = self.convolutions[number - 1]
        conv = layers.Conv(
            features,
            (size, size),
            stride,
            padding,
            groups=self.streams if number in SPLIT else 1,
            kernel_init=self.initial.kernel,
            bias_init=nn.initializers.constant(
                self.initial.bias if number in NONZERO_BIAS else 0.0
            ),
            dtype=self.dtype,
            name=f"conv{number}",
        )
        return conv(x)

    def _dense(self, name: str, width: int, x: jax.Array) -> jax.Array:
        dense = nn.Dense(
            width,
            kernel_init=self.initial.hidden_kernel,
            bias_init=nn.initializers.constant(self.initial.bias),
            dtype=self.dtype,
            name=name,
        )
        return dense(x)

    def _normalize_and_pool(self, number: int, x: jax.Array) -> jax.Array:
        """Applies the normalisation and pooling that follow convolution `number`, if any."""
        steps: list[Callable[[jax.Array], jax.Array]] = []
        if number in NORMALIZED and self.local_response_norm:
            steps.append(self._normalize)
        if number in POOLED:
            steps.append(partial(self._pool, number))
        for step in reversed(steps) if self.pool_first else steps:
            x = step(x)
        return x

    def _normalize(self, x: jax.Array) -> jax.Array:
        norm = self.response_norm
        parts = 1 if norm.across_streams else self.streams
        # Each stream becomes extra columns, so that no window of channels reaches across streams.
        batch, height, width, channels = x.shape
        separate = shapes.reshape(x, batch, height, width * parts, channels // parts)
        normalized = ops.local_response_norm(
            separate,
            size=norm.size,
            alpha=norm.alpha,
            beta=norm.beta,
            k=norm.k,
            divide_by_size=norm.divide_by_size,
        )
        return shapes.reshape(normalized, *x.shape)

    def _pool(self, number: int, x: jax.Array) -> jax.Array:
        return ops.max_pool(x, self._window(number), stride=2, ceil_mode=self.ceil_mode)

    def _window(self, number: int) -> int:
        """Returns the size of the pooling windows after convolution `number`."""
        window = self.pooling_windows[POOLED.index(number)]
        return window if self.overlapping_pooling else min(window, 2)

    def _min_image_size(self) -> int:
        """Returns the height and width in pixels for which fc6 gets maps of 1x1 pixel."""
        side = 1
        for number in range(len(self.convolutions), 0, -1):
            if number in POOLED:
                side = 2 * (side - 1) + self._window(number) - self.ceil_mode
            _, size, stride, padding = self.convolutions[number - 1]
            side = stride * (side - 1) + size - 2 * padding
        return side


_OWT = (
    Convolution(64, 11, 4, 2),
    Convolution(192, 5, 1, 2),
    Convolution(384, 3, 1, 1),
    Convolution(256, 3, 1, 1),
    Convolution(256, 3, 1, 1),
)
_ZFNET = (
    Convolution(96, 7, 2, 0),
    Convolution(256, 5, 2, 0),
    Convolution(512, 3, 1, 1),
    Convolution(512, 3, 1, 1),
    Convolution(512, 3, 1, 1),
)
_krizhevsky = partial(AlexNet, ceil_mode=True)
_caffe = partial(_krizhevsky, streams=2, response_norm=ResponseNorm(5, 1e-4, 0.75, 1.0, True, True))

VARIANTS = {
    "alexnet": layers.Variant(partial(_krizhevsky, streams=2), (227, 227, 3)),
    "alexnet_single": layers.Variant(_krizhevsky, (227, 227, 3)),
    "alexnet_caffe": layers.Variant(
        partial(_caffe, initial=Initial(Gaussian(0.01), Gaussian(0.005), 0.1)), (227, 227, 3)
    ),
    "caffenet": layers.Variant(
        partial(_caffe, pool_first=True, initial=Initial(Gaussian(0.01), Gaussian(0.005), 1.0)),
        (227, 227, 3),
    ),
    "alexnet_owt": layers.Variant(
        partial(
            AlexNet,
            convolutions=_OWT,
            local_response_norm=False,
            dropout_on_input=True,
            initial=Initial(_torch, _torch, 0.0),
        ),
        (224, 224, 3),
    ),
    "alexnet_d2l": layers.Variant(
        partial(
            AlexNet,
            convolutions=(Convolution(96, 11, 4, 1), *AlexNet.convolutions[1:]),
            local_response_norm=False,
            initial=Initial(_glorot, _glorot, 0.0),
        ),
        (224, 224, 1),
    ),
    "zfnet512": layers.Variant(
        partial(
            AlexNet,
            convolutions=_ZFNET,
            hidden=(4096, 1024),
            pooling_windows=(3, 3, 2),
            initial=Initial(Gaussian(0.01), Gaussian(0.01), 0.0),
        ),
        (224, 224, 3),
    ),
}
