"""Name what is on pictures with a trained network.

  python -m cnn_jax.predict --workdir=DIR [--top_k=5] [--checkpoint=best|last|STEP] IMAGE...

prints the likeliest classes with their probabilities for PNG, JPEG and other files of any size and
mode. Each picture is brought to the size of the training images and then treated as they were. A
file that cannot be read is reported by name; the others are still answered, and the status is 1.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax import checkpoint, cli, compilation, errors, memory, models, sharding, state, workdir
from cnn_jax.data import images
from cnn_jax.data.resident import normalise


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained network and what belongs to its images.

    Attributes:
      model: the network.
      variables: its parameters and running statistics.
      dataset: the content of a run's dataset.json.
      resize: how the training images were brought to the network's size.
    """

    model: nn.Module
    variables: Any
    dataset: Mapping[str, Any]
    resize: str

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """`[N, K]` float32, for N pictures `[h, w, C]` uint8 of any size."""
        batch = np.stack([self._prepare(picture) for picture in pictures])
        inputs = normalise(jnp.asarray(batch), self.dataset["mean"], self.dataset["std"])
        logits = cast("jax.Array", self.model.apply(self.variables, inputs, train=False))
        return np.asarray(jax.nn.softmax(logits))

    def top(self, picture: np.ndarray, top_k: int) -> list[tuple[str, float]]:
        """The `top_k` likeliest class names of a picture, with their probabilities."""
        (row,) = self.probabilities([picture])
        order = np.argsort(-row, kind="stable")[:top_k]
        return [(self.dataset["class_names"][index], float(row[index])) for index in order]

    def _prepare(self, picture: np.ndarray) -> np.ndarray:
        native, size = self.dataset["native_size"], self.dataset["input_shape"][0]
        if native is not None and picture.shape[:2] != native:
            method = "bilinear" if self.resize == "pad" else self.resize
            picture = images.scale(picture, native, method)
        return images.fit(picture, size, self.resize)


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
    return Predictor(model, variables, dataset, config["data"]["resize"])


def main() -> int:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_jax.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, type=Path, help="work directory of the run")
    parser.add_argument(
        "--checkpoint", default="best", help="best by validation (default), last, or a step"
    )
    parser.add_argument("--top_k", default=5, type=int, help="classes to print (default: 5)")
    parser.add_argument("image", nargs="+", type=Path, help="a picture")
    args = parser.parse_args()
    if args.top_k < 1:
        raise errors.UserError(f"--top_k must be at least 1, got {args.top_k}")
    memory.keep()
    if workdir.load(args.workdir, workdir.CONFIG).get("compilation_cache", True):
        compilation.use_cache()
    predictor = load(args.workdir, args.checkpoint)
    return int(sum(not _answer(predictor, path, args.top_k) for path in args.image) > 0)


def _answer(predictor: Predictor, path: Path, top_k: int) -> bool:
    try:
        picture = images.read_file(path, predictor.dataset["input_shape"][-1])
    except errors.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    print(path)
    for name, probability in predictor.top(picture, top_k):
        print(f"  {probability:.4f}  {name}")
    return True


if __name__ == "__main__":
    cli.exit_with(main)
