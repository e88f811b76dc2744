"""Networks of the user: their import, their construction, and the check of their contract."""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax import errors
from cnn_jax.models import fields
from cnn_jax.runtime import imports

_VARIABLES = ("params", "batch_stats")  # the collections of a training state
_RECORDED = ("aux_logits", "features")  # collections that a call may write
_IMAGES = 2  # in a batch of `check`; a network is initialised with one image
_DTYPES = (jnp.dtype("float32"), jnp.dtype("float64"))  # of logits


def load(name: str) -> Callable[..., nn.Module]:
    """Imports the class or function that builds a network.

    Args:
      name: 'module:attribute', such as 'nets:Small'.

    Raises:
      UserError: it cannot be imported, or is no class or function that builds networks.
    """
    build: Callable[..., nn.Module] = imports.load(name, "model.name")
    check_build(name, build)
    return build


def check_build(name: str, build: Any) -> None:
    """Checks that `build` can be called with the keywords `num_classes` and `dtype`.

    Args:
      name: the name of the network, for messages.
      build: the class or function.

    Raises:
      UserError: `build` cannot be called with them.
    """
    if not callable(build) or isinstance(build, nn.Module):
        raise errors.UserError(
            f"model {name!r} must be a module class or a function that returns a module, got "
            f"{_kind(build)}"
        )
    fields.check_arguments(name, build)


def construct(
    name: str, build: Callable[..., nn.Module], arguments: Mapping[str, Any]
) -> nn.Module:
    """Builds a network of the user.

    Args:
      name: the name of the network, for messages.
      build: the class or function.
      arguments: the keywords to call it with.

    Raises:
      UserError: it raises an error, or returns something other than a Linen module.
    """
    with _reporting(f"model {name!r} cannot be built", getattr(build, "__module__", "")):
        model = build(**arguments)
    if not isinstance(model, nn.Module):
        raise errors.UserError(f"model {name!r} must build a flax.linen.Module, got {_kind(model)}")
    return model


def check(
    module: nn.Module, input_shape: tuple[int, int, int], num_classes: int | None = None
) -> None:
    """Checks that a network keeps the contract. Only shapes are computed.

    The contract of a network, which a config names as 'module:attribute':

    - A module class, or a function that returns a Linen module, is called with the keywords
      `num_classes` (int), `dtype` (the `jnp.dtype` of the computation), and the options of the
      config's section `model`.
    - The module is called as `module(images, train=train)`. `images` is `[B, H, W, C]` float32,
      normalised; B may be any number. `train` is a bool. Flax's transformations of a whole network,
      such as `nn.remat`, also need it by position: `__call__(self, images, train)`.
    - It returns logits `[B, num_classes]`, or a dict with these as 'logits'. Logits are float32 or
      float64, whatever `dtype` is. Further entries of the dict are further outputs.
    - `init` creates equal parameters and running statistics for both values of `train`.
    - Parameters are in the collection `params`, running statistics in `batch_stats`. In training, a
      module may store logits `[B, num_classes]` of auxiliary heads in `aux_logits`. It may record
      endpoints: `self.sow("features", name, x)`. There are no other collections.
    - Random numbers in training come from the PRNG stream 'dropout'; evaluation has no stream.

    Args:
      module: the network.
      input_shape: height, width and channels of the images.
      num_classes: the number of logits. By default the field `num_classes` of `module`, if it has
        one.

    Raises:
      UserError: the network does not keep the contract. Errors that it raises itself are reported
        with their text, file and line.

    >>> from cnn_jax import models
    >>> check(models.create("lenet", num_classes=10), (32, 32, 1))
    """
    wanted = getattr(module, "num_classes", None) if num_classes is None else num_classes
    _Check(module, tuple(input_shape), wanted if isinstance(wanted, int) else 0).run()


class _Check:
    """Check of one network; see `check`.

    Attributes:
      module: the network.
      input_shape: height, width and channels of the images.
      num_classes: the number of logits; 0 if it is unknown.
      label: the network in messages.
    """

    def __init__(self, module: nn.Module, input_shape: tuple[int, ...], num_classes: int) -> None:
        self.module, self.input_shape, self.num_classes = module, input_shape, num_classes
        kind = type(module)
        self.label = f"network {kind.__module__}:{kind.__qualname__}"

    def run(self) -> None:
        """Runs all checks."""
        self._check_signature()
        variables = self._init(train=False)
        self._check_equal(variables, self._init(train=True))
        if not variables["params"]:
            raise self._error("init creates no parameters, so there is nothing to train")
        self._apply(variables, train=False)
        updates = self._apply(variables, train=True)
        if _described(updates.get("batch_stats", {})) != _described(variables["batch_stats"]):
            raise self._error(
                "training changes the shapes, dtypes or names of batch_stats; keep them as init "
                "creates them"
            )
        for head in jax.tree.leaves(updates.get("aux_logits", {})):
            self._check_logits(head, _IMAGES, "auxiliary logits")

    def _check_signature(self) -> None:
        try:
            parameters = inspect.signature(type(self.module).__call__).parameters.values()
        except (TypeError, ValueError):  # The calls below show what it takes.
            return
        if not any(one.name == "train" or one.kind is one.VAR_KEYWORD for one in parameters):
            raise self._error(
                "__call__ takes no argument 'train'; write __call__(self, images, train: bool)"
            )

    def _init(self, *, train: bool) -> Mapping[str, Any]:
        """Returns the shapes of the variables, after checking the outputs for one image."""

        def init(images: jax.Array) -> Any:
            key = jax.random.key(0)
            rngs = {"params": key, "dropout": key} if train else key
            return self.module.init_with_output(rngs, images, train=train)

        result, variables = self._trace(f"init with train={train}", init, 1)
        self._check_output(result, 1)
        others = variables.keys() - {*_VARIABLES, *_RECORDED}
        if others:
            raise self._error(
                f"init creates the collection {' and '.join(sorted(others))}; allowed: "
                f"{', '.join((*_VARIABLES, *_RECORDED))}"
            )
        return {name: variables.get(name, {}) for name in _VARIABLES}

    def _apply(self, variables: Mapping[str, Any], *, train: bool) -> Mapping[str, Any]:
        """Returns the shapes of the collections that a call writes, after checking the outputs."""

        def apply(images: jax.Array, variables: Any) -> Any:
            if not train:
                return self.module.apply(variables, images, train=False), {}
            rngs = {"dropout": jax.random.key(0)}
            mutable = ["batch_stats", "aux_logits"]
            return self.module.apply(variables, images, train=True, rngs=rngs, mutable=mutable)

        doing = f"a call with train={train} for {_IMAGES} images"
        result, updates = self._trace(doing, apply, _IMAGES, variables)
        self._check_output(result, _IMAGES)
        return dict(updates)

    def _trace(self, doing: str, function: Callable[..., Any], images: int, *given: Any) -> Any:
        """Returns the output shapes of `function(batch of images, *given)`, by `jax.eval_shape`."""
        batch = jax.ShapeDtypeStruct((images, *self.input_shape), jnp.float32)
        with _reporting(f"{self.label}: {doing} fails", type(self.module).__module__):
            return jax.eval_shape(function, batch, *given)

    def _check_equal(self, evaluation: Mapping[str, Any], training: Mapping[str, Any]) -> None:
        """Checks that `init` creates equal variables in both modes."""
        here, there = _described(evaluation), _described(training)
        for path in sorted(here.keys() | there.keys()):
            if here.get(path) != there.get(path):
                raise self._error(
                    f"init creates {path} {there.get(path, 'not at all')} with train=True, but "
                    f"{here.get(path, 'not at all')} with train=False; variables must not depend "
                    "on train. self.is_initializing() is True in init"
                )

    def _check_output(self, result: Any, images: int) -> None:
        if isinstance(result, Mapping):
            if "logits" not in result:
                raise self._error(
                    f"__call__ returns a dict with {', '.join(map(str, result)) or 'no entries'}; "
                    "it must have the entry 'logits'"
                )
            result = result["logits"]
        self._check_logits(result, images, "logits")

    def _check_logits(self, logits: Any, images: int, kind: str) -> None:
        if not isinstance(logits, jax.ShapeDtypeStruct):
            raise self._error(
                f"__call__ returns {_kind(logits)}; it must return logits [B, num_classes], or a "
                "dict with the entry 'logits'"
            )
        count = self.num_classes or "num_classes"
        wrong = logits.ndim != 2 or logits.shape[0] != images
        if wrong or (self.num_classes and logits.shape[1] != self.num_classes):
            raise self._error(
                f"{kind} have shape {list(logits.shape)} for a batch of {images}; they must have "
                f"shape [{images}, {count}]"
            )
        if logits.dtype not in _DTYPES:
            raise self._error(
                f"{kind} are {logits.dtype}; they must be float32 for every dtype of the "
                "computation, so return logits.astype(jnp.float32)"
            )
        self.num_classes = logits.shape[1]

    def _error(self, problem: str) -> errors.UserError:
        return errors.UserError(f"{self.label}: {problem} (see models.check)")


@contextmanager
def _reporting(problem: str, module: str) -> Iterator[None]:
    """Turns an error of the user's code into a UserError with its text, file and line.

    Args:
      problem: the start of the message.
      module: the name of the user's module.
    """
    try:
        yield
    except errors.UserError:
        raise
    except Exception as error:
        package = module.partition(".")[0]
        frames = [
            f" ({frame.f_code.co_filename}, line {line})"
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__", "").partition(".")[0] == package
            and frame.f_code.co_filename != "<string>"  # code that dataclasses generate
        ]
        place = frames[-1] if frames else ""
        raise errors.UserError(f"{problem}{place}: {type(error).__name__}: {error}") from error


def _described(tree: Any) -> dict[str, str]:
    """Returns shape and dtype of each leaf in words, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{list(leaf.shape)} {leaf.dtype}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _kind(value: Any) -> str:
    """Returns the kind of a value in words."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a value of type {type(value).__name__}"
