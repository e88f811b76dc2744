"""The predictor that the flags of a command name."""

import argparse
import sys

from cnn_jax import errors, predictor
from cnn_jax.predictor.predicting import Predictor
from cnn_jax.runs import workdir
from cnn_jax.runtime import compilation_cache, sharding


def load(args: argparse.Namespace) -> Predictor:
    """Returns the predictor of a run or of published weights, and prints its notes.

    Args:
      args: the flags of `runtime.flags.add_network` and `add_batch_size`, checked.

    Raises:
      UserError: see `predictor.load`.
    """
    sharding.check_devices()
    if args.workdir is None or workdir.load_plan(args.workdir).compilation_cache:
        compilation_cache.use_cache()
    source = args.workdir or args.weights or args.model
    found = predictor.load(
        source,
        args.checkpoint,
        name=None if args.weights is None else args.model,
        batch_size=args.batch_size,
        trust=args.trust,
        average=args.average,
    )
    for note in found.notes:
        print(errors.printable(f"{source}: {note}"), file=sys.stderr)
    return found
