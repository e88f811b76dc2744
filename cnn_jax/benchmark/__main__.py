r"""Benchmarks of the package on this machine, against plain XLA and torch.

ops: each convolution and max-pooling of `cnn_jax.ops`, forward and with either gradient:

    python -m cnn_jax.benchmark ops --against=torch

models: training steps and inference of whole networks:

    python -m cnn_jax.benchmark models --models=resnet50,vgg11@8 --against=torch,xla

frozen: training steps of a part of the parameters, beside those of all of them:

    python -m cnn_jax.benchmark frozen --models=resnet50,vgg11@8 --trainable=head

augment: augmentations of training batches:

    python -m cnn_jax.benchmark augment --against=torch

data: the input pipeline of a config, as a whole and by stage:

    python -m cnn_jax.benchmark data --config=configs/folder.py --config.data.directory=DIR

Plain XLA means the operations of `jax.lax`. torch runs in both of its memory formats, and the
faster one is reported. All programs of a table row run alternately in one process. Each time is
the median over the rounds. Each speedup is the opponent's median time divided by ours: above 1,
cnn_jax is faster.
"""

import argparse
import itertools

from cnn_jax import config_files, errors, plan
from cnn_jax.benchmark import (
    augment,
    compare_augment,
    compare_frozen,
    compare_models,
    compare_ops,
    data,
    models,
    ops,
    torch_ops,
)
from cnn_jax.runtime import compilation_cache, console, flags, malloc, patterns, sharding

_DATA_FLAGS = ("--config", "--workers", "--seconds", "--rounds", "--out")
_TORCH_NOTE = f"not in requirements.txt; install with: {torch_ops.INSTALL}"
_OPS_HELP = """Time single operations: forward, and forward with the kernel or input gradient.

ours ms: time of one call. speedup in scan: time of one call divided by the time per iteration
inside jax.lax.scan; below 1, the operation is slower in a loop. torch: its faster memory format.
speedup over torch, speedup over XLA: above 1, cnn_jax is faster."""
_MODELS_HELP = """Time training steps (SGD with momentum) and inference of whole networks.

Modes: train, the training step of cnn_jax; loop, that of a plain loop over models.create with
Optax, in a new process; infer, the logits.

step ms: median time of a step. spread ms: longest minus shortest time. compile s, cached s: time
to trace and compile without and with the compilation cache. memory MiB: arguments, results and
temporary memory of the compiled step. GFLOP/s: operations of convolutions and dense layers per
second; a training step counts three times those of inference. of matmul: that rate as a share of
the rate of a 2048x2048 matrix product in the same rounds. torch: its faster memory format.
malloc: the same program in a new process with CNN_JAX_KEEP_MEMORY=0.
speedup over an opponent: above 1, cnn_jax is faster. In bfloat16, torch uses autocast.
"""
_FROZEN_HELP = """Time training steps of a part of the parameters (train.trainable) and of all.

Both steps are SGD with momentum and run alternately. The frozen step has no backward pass below the
first trained parameter, and no optimizer state for the frozen ones.

full, frozen ms: median times of a step. speedup: above 1, the frozen step is faster. GFLOP:
operations of a step, by XLA's analysis of the uncompiled program. MiB: arguments, results and
temporary memory of the compiled step. optimizer MiB: the optimizer's state."""
_AUGMENT_HELP = """Time augmentations in the compiled program that makes a training batch.

The program takes images of 8 bits and returns them normalised, in float32.

ours ms: median time of a batch. torchvision ms: the same with torchvision.transforms.v2 on tensors,
image by image, as a data loader does. one draw for the batch ms: torchvision's transforms of a
whole batch, with the same random numbers for all of its images; ours are drawn for each.
speedup: above 1, cnn_jax is faster."""
_DATA_HELP = """Time the input pipeline of a config: reading, decoding and cropping of images.

Options: --config.KEY=VALUE sets a key of the config, as for cnn_jax.main. The images are streamed,
also where training would keep them in memory.

workers: number of worker processes; 0: threads of the main process. images/s: batches on the
devices, without training. with training: images/s of the config's training steps. waiting: share of
that time in which the devices waited for data. memory, workers MiB: largest memory of the process
and of its workers together, on Linux.
Below, images/s of each stage alone in one process. Files that were read before are in the memory of
the operating system, so the stage 'read' is faster than a first epoch."""


def main() -> int:
    """Runs the command with the arguments in `sys.argv` and returns the exit status."""
    parser = flags.make_parser("benchmark", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_flags, summary, description in (
        ("ops", _add_ops_flags, "time the operations of cnn_jax.ops", _OPS_HELP),
        ("models", _add_models_flags, "time whole networks", _MODELS_HELP),
        ("frozen", _add_frozen_flags, "time training steps of a part", _FROZEN_HELP),
        ("augment", _add_augment_flags, "time augmentations of batches", _AUGMENT_HELP),
        ("data", _add_data_flags, "time the input pipeline of a config", _DATA_HELP),
    ):
        command = commands.add_parser(
            name, help=summary, description=description, allow_abbrev=False
        )
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        add_flags(command)
    args, others = parser.parse_known_args()
    if others and args.command != "data":
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if args.rounds < 1:
        raise errors.UserError(f"--rounds must be at least 1, got {args.rounds}")
    malloc.keep_freed_memory()
    sharding.check_devices()
    if args.command == "data":
        settings = _settings(args.config, others)
        data.run(settings, _numbers(args.workers), args.rounds, args.seconds, args.out)
    elif args.command == "augment":
        torch = args.against == "torch"
        compare_augment.run(args.cases, args.batch, args.image_size, args.rounds, torch, args.csv)
    elif args.command == "ops":
        compare_ops.run(args.cases, args.rounds, args.against == "torch", args.csv)
    elif args.command == "frozen":
        compare_frozen.run(_cases(args), args.rounds, args.csv)
    else:
        cases = _cases(args)
        compare_models.run(cases, args.rounds, args.against, args.csv, args.plot, args.profile)
    return 0


def _add_ops_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--against",
        choices=["torch"],
        help=f"also time torch; it is {_TORCH_NOTE}",
    )
    command.add_argument(
        "--cases",
        nargs="+",
        default=list(ops.CASES),
        metavar="CASE",
        help=f"operations to time; default: all of {', '.join(map(repr, ops.CASES))}",
    )
    command.add_argument("--rounds", type=int, default=7, help="timed rounds; default: 7")
    command.add_argument(
        "--csv", action=flags.StorePath, help="also write the table to this new file"
    )


def _add_network_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags that `models` and `frozen` share."""
    command.add_argument(
        "--models",
        type=_words,
        required=True,
        metavar="NAME[@BATCH],...",
        help="networks to time; @BATCH replaces --batch for one network",
    )
    command.add_argument("--batch", type=int, default=16, help="images per step; default: 16")
    command.add_argument(
        "--dtype",
        type=_words,
        default=["float32"],
        help="float32 (default), bfloat16 or float32,bfloat16",
    )
    command.add_argument(
        "--image_size",
        type=int,
        default=0,
        help="height and width in pixels; default: as published",
    )
    command.add_argument(
        "--channels", type=int, default=0, help="channels of the images; default: as published"
    )
    command.add_argument("--rounds", type=int, default=5, help="timed rounds; default: 5")
    command.add_argument(
        "--csv", action=flags.StorePath, help="also write the table to this new file"
    )


def _add_models_flags(command: argparse.ArgumentParser) -> None:
    _add_network_flags(command)
    command.set_defaults(trainable="")
    command.add_argument(
        "--mode",
        type=_words,
        default=["train", "infer"],
        help="some of train, loop and infer; default: train,infer",
    )
    command.add_argument(
        "--against",
        type=_words,
        default=[],
        help="opponents to time: some of torch, xla and malloc; torch needs torch, torchvision and "
        f"timm, which are {_TORCH_NOTE}",
    )
    command.add_argument(
        "--plot", action=flags.StorePath, help="draw the speedups to this new PNG file"
    )
    command.add_argument(
        "--profile",
        action=flags.StorePath,
        help="write traces of some steps of cnn_jax to this new directory and print the time by "
        "kind of operation",
    )


def _add_frozen_flags(command: argparse.ArgumentParser) -> None:
    _add_network_flags(command)
    command.set_defaults(mode=["train"])
    command.add_argument(
        "--trainable",
        default=patterns.HEAD,
        help="the value of train.trainable: head (default), or patterns of parameters",
    )


def _add_augment_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--against",
        choices=["torch"],
        help=f"also time torchvision; torch and torchvision are {_TORCH_NOTE}",
    )
    command.add_argument(
        "--cases",
        nargs="+",
        default=list(augment.CASES),
        metavar="CASE",
        help=f"augmentations to time; default: all of {', '.join(map(repr, augment.CASES))}",
    )
    command.add_argument("--batch", type=int, default=64, help="images in a batch; default: 64")
    command.add_argument(
        "--image_size", type=int, default=224, help="height and width in pixels; default: 224"
    )
    command.add_argument("--rounds", type=int, default=5, help="timed rounds; default: 5")
    command.add_argument(
        "--csv", action=flags.StorePath, help="also write the table to this new file"
    )


def _add_data_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", required=True, metavar="FILE[:VARIANT]", help="the config file"
    )
    command.add_argument(
        "--workers",
        type=_words,
        default=["0", "1", "2"],
        metavar="N,...",
        help="numbers of worker processes to measure; default: 0,1,2",
    )
    command.add_argument(
        "--seconds", type=float, default=1.0, help="duration of a measurement; default: 1"
    )
    command.add_argument(
        "--rounds", type=int, default=3, help="measurements of each figure; default: 3"
    )
    command.add_argument(
        "--out", action=flags.StorePath, help="also write all measurements to this JSON file"
    )


def _settings(config: str, others: list[str]) -> plan.Plan:
    """Returns the plan of a config file, with the values of --config.KEY=VALUE."""
    overrides = config_files.parse_overrides(others, _DATA_FLAGS)
    settings = config_files.override(plan.read(config_files.load(config)), overrides)
    if settings.compilation_cache:
        compilation_cache.use_cache()
    return settings


def _numbers(words: list[str]) -> list[int]:
    for word in words:
        if not word.isdecimal():
            raise errors.UserError(
                f"--workers: {word!r} is not a number of processes; write such as --workers=0,1,2"
            )
    return [int(word) for word in words]


def _words(text: str) -> list[str]:
    """Returns the parts of a comma-separated list."""
    return text.split(",")


def _cases(args: argparse.Namespace) -> list[models.Case]:
    """Returns every combination of network, mode and dtype in the arguments."""
    cases = []
    for word, mode, dtype in itertools.product(args.models, args.mode, args.dtype):
        name, at, batch = word.partition("@")
        if at and not batch.isdecimal():
            raise errors.UserError(
                f"--models: {batch!r} in {word!r} is not a batch size; write NAME or NAME@BATCH"
            )
        size = int(batch) if at else args.batch
        sizes = (size, args.image_size, args.channels)
        cases.append(models.Case(name, mode, dtype, *sizes, args.trainable))
    return cases


if __name__ == "__main__":
    console.exit_with(main)
