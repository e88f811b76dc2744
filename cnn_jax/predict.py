"""Name what is on pictures with a trained network.

  python -m cnn_jax.predict --workdir=DIR [--checkpoint=best|last|STEP] IMAGE...
  python -m cnn_jax.predict --model=resnet50.a1_in1k IMAGE...
  python -m cnn_jax.predict --weights=FILE [--model=resnet50] IMAGE...

prints the likeliest classes with their probabilities for PNG, JPEG and other files of any size and
mode. The first form takes a network trained here: each picture is brought to the size of the
training images and then treated as they were. The others take published weights, timm's from the
Hugging Face Hub or a file's, and treat pictures as those want it. A file that cannot be read is
reported by name; the others are still answered, and the status is 1.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from cnn_jax import errors, models, pretrained
from cnn_jax.data import images, pixels
from cnn_jax.runs import checkpoint, workdir
from cnn_jax.runtime import compilation_cache, console, malloc, sharding
from cnn_jax.train import state

COLOUR = 3


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained network and what belongs to its images.

    Attributes:
      model: the network.
      variables: its parameters and running statistics.
      prepare: makes of a picture `[h, w, C]` uint8 of any size an input `[H, W, C]` float32.
      channels: C.
      class_names: the name of each output.
    """

    model: nn.Module
    variables: Any
    prepare: Callable[[np.ndarray], np.ndarray]
    channels: int
    class_names: Sequence[str]

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """`[N, K]` float32, for N pictures `[h, w, C]` uint8 of any size."""
        inputs = np.stack([self.prepare(picture) for picture in pictures])
        return np.asarray(jax.nn.softmax(self._logits(self.variables, inputs)))

    def top(self, picture: np.ndarray, top_k: int) -> list[tuple[str, float]]:
        """The `top_k` likeliest class names of a picture, with their probabilities."""
        (row,) = self.probabilities([picture])
        order = np.argsort(-row, kind="stable")[:top_k]
        return [(self.class_names[index], float(row[index])) for index in order]

    @functools.cached_property
    def _logits(self) -> Callable[[Any, np.ndarray], jax.Array]:
        return jax.jit(functools.partial(self.model.apply, train=False))


def load(directory: Path, which: str = "best") -> Predictor:
    """The network of a run.

    Args:
      directory: the work directory.
      which: the checkpoint: 'best', 'last' or a step.

    Raises:
      ValueError: there is no such run or checkpoint.
    """
    config = workdir.load(directory, workdir.CONFIG)
    dataset = workdir.load(directory, workdir.DATASET)
    model = models.create(**config["model"], num_classes=len(dataset["class_names"]))
    like = state.abstract_variables(model, dataset["input_shape"], sharding.make_mesh())
    variables = checkpoint.restore(directory / workdir.CHECKPOINTS, which, like).state
    prepare = functools.partial(_as_trained, dataset=dataset, resize=config["data"]["resize"])
    return Predictor(model, variables, prepare, dataset["input_shape"][-1], dataset["class_names"])


def load_published(source: str | Path, name: str | None = None) -> Predictor:
    """A network with published weights; arguments and errors are those of `pretrained.load`."""
    found = pretrained.load(source, name=name)
    treatment = found.preprocessing
    return Predictor(found.model, found.variables, treatment, COLOUR, treatment.class_names)


def _as_trained(picture: np.ndarray, *, dataset: Mapping[str, Any], resize: str) -> np.ndarray:
    """A picture as the training images were; `dataset` is the content of a run's dataset.json."""
    native, size = dataset["native_size"], dataset["input_shape"][0]
    if native is not None and picture.shape[:2] != native:
        method = "bilinear" if resize == "pad" else resize
        picture = images.scale(picture, native, method)
    return pixels.normalise(images.fit(picture, size, resize), dataset["mean"], dataset["std"])


def main() -> int:
    """Entry point of the command line."""
    args = _parser().parse_args()
    if args.top_k < 1:
        raise errors.UserError(f"--top_k must be at least 1, got {args.top_k}")
    malloc.keep()
    predictor = _predictor(args)
    return int(sum(not _answer(predictor, path, args.top_k) for path in args.image) > 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cnn_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=Path, help="work directory of the run")
    parser.add_argument(
        "--checkpoint", help="of the run: best by validation (default), last, or a step"
    )
    parser.add_argument(
        "--model", help="timm's checkpoint NETWORK.TAG on the Hub, or the network of --weights"
    )
    parser.add_argument("--weights", type=Path, help="a .safetensors, .pth or .pt file")
    parser.add_argument("--top_k", default=5, type=int, help="classes to print (default: 5)")
    parser.add_argument("image", nargs="+", type=Path, help="a picture")
    return parser


def _predictor(args: argparse.Namespace) -> Predictor:
    published = args.model is not None or args.weights is not None
    if published == (args.workdir is not None):
        raise errors.UserError("give either --workdir, or --model, --weights or both")
    if published:
        if args.checkpoint is not None:
            raise errors.UserError("--checkpoint is for --workdir")
        compilation_cache.use_cache()
        if args.weights is None:
            return load_published(args.model)
        return load_published(args.weights, args.model)
    if workdir.load(args.workdir, workdir.CONFIG).get("compilation_cache", True):
        compilation_cache.use_cache()
    return load(args.workdir, args.checkpoint or "best")


def _answer(predictor: Predictor, path: Path, top_k: int) -> bool:
    try:
        picture = images.read_file(path, predictor.channels)
    except errors.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    print(path)
    for name, probability in predictor.top(picture, top_k):
        print(f"  {probability:.4f}  {name}")
    return True


if __name__ == "__main__":
    console.exit_with(main)
