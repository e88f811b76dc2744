"""Compares input pipelines; writes the tables and the figure of README.md; takes six minutes.

    python -m experiments.input_pipeline.run --torch-python=PYTHON --tf-python=PYTHON

The interpreters belong to environments with torch and torchvision, and with tensorflow-cpu. Without
one of them, its contender is left out.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from matplotlib.figure import Figure

from cnn_jax.benchmark import processes, report
from experiments.input_pipeline import pictures, protocol

README = Path(__file__).with_name("README.md")
FIGURE = Path(__file__).with_name("speeds.png")
MODULE = "experiments.input_pipeline"
TORCH, TF = "torchvision, DataLoader", "tf.data, fused decode and crop"
_BEGIN, _END = "<!-- tables of run.py -->", "<!-- end -->"
# Batches before a measurement: more than any contender makes ahead of time.
_LEAD_IN = 16
_DECODERS = ("pillow", "opencv")
_TRAINING = {
    "data.image_size": "64",
    "data.train_crop": "random_resized",
    "data.crop_padding": "0",
    "data.train_split": "train",
    "data.validation_split": "",
    "data.test_split": "",
    "model.name": "resnet18",
    "train.batch_size": str(protocol.BATCH_SIZE),
}


@dataclasses.dataclass
class Contender:
    """A process that makes batches when it is asked to.

    Attributes:
      process: the process, which runs `protocol.serve`.
      images_per_second: of each pass.
      cpu_ms: processor time per image in milliseconds, of each pass.
      memory: the largest memory of the process and its workers in bytes.
    """

    process: subprocess.Popen[str]
    images_per_second: list[float] = dataclasses.field(default_factory=list)
    cpu_ms: list[float] = dataclasses.field(default_factory=list)
    memory: int = 0

    @classmethod
    def start(cls, python: str, module: str, *arguments: object) -> Self:
        """Starts a process and waits for its first batches."""
        process = subprocess.Popen(
            [python, "-m", f"{MODULE}.{module}", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        contender = cls(process)
        contender.take(_LEAD_IN)
        return contender

    def take(self, batches: int) -> float:
        """Returns the seconds that a number of batches takes."""
        if self.process.stdin is None or self.process.stdout is None:
            raise ValueError("the process has no pipes")
        self.process.stdin.write(f"{batches}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args!r} has ended")
        return float(answer)

    def measure(self) -> None:
        """Adds the figures of a pass over all images."""
        batches = protocol.IMAGES // protocol.BATCH_SIZE
        images = batches * protocol.BATCH_SIZE
        pid = self.process.pid
        with processes.PeakMemory(pid) as memory:
            self.take(_LEAD_IN)
            before = processes.cpu_seconds(pid)
            self.images_per_second.append(images / self.take(batches))
            self.cpu_ms.append(1e3 * (processes.cpu_seconds(pid) - before) / images)
        self.memory = max(self.memory, memory.peak.total if memory.peak else 0)

    def end(self) -> None:
        """Ends the process."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def start(options: argparse.Namespace) -> dict[str, Contender]:
    """Makes the images and starts the contenders, by name."""
    folder, shards = options.directory / "folder", options.directory / "shards"
    pictures.make(folder)
    if not shards.exists():
        command = [sys.executable, "-m", "cnn_jax.data.pack", folder, shards, "--shards=4"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    others = {
        TORCH: (options.torch_python, "torch_loader", folder),
        TF: (options.tf_python, "tf_data", folder),
    }
    ours = {
        "cnn_jax, pillow": (folder, "pillow", protocol.WORKERS, "bytes"),
        "cnn_jax, opencv": (folder, "opencv", protocol.WORKERS, "bytes"),
        "cnn_jax, pillow, normalised": (folder, "pillow", protocol.WORKERS, "normalised"),
        "cnn_jax, opencv, normalised": (folder, "opencv", protocol.WORKERS, "normalised"),
        "cnn_jax, opencv, packed shards": (shards, "opencv", protocol.WORKERS, "bytes"),
        "cnn_jax, opencv, two threads": (folder, "opencv", 0, "bytes"),
    }
    found = {name: Contender.start(*given) for name, given in others.items() if given[0]}
    return found | {
        name: Contender.start(sys.executable, "ours", *given) for name, given in ours.items()
    }


def compare(options: argparse.Namespace) -> dict[str, Contender]:
    """Measures all contenders in turns."""
    contenders = start(options)
    try:
        for number in range(options.passes):
            for name, contender in contenders.items():
                contender.measure()
                rate = contender.images_per_second[-1]
                print(f"pass {number + 1}: {name}: {rate:.0f} images/s", file=sys.stderr)
    finally:
        for contender in contenders.values():
            contender.end()
    return contenders


def train(directory: Path, decoder: str) -> dict[str, float]:
    """Measures resnet18 at 64 pixels; returns medians.

    The entries are images per second of a: the training step alone, b: the pipeline alone, and c:
    training from the folder; and the share of c in which the device waited for data.
    """
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary, "figures.json")
        keys = {**_TRAINING, "data.directory": directory / "folder", "data.decoder": decoder}
        subprocess.run(
            [
                *(sys.executable, "-m", "cnn_jax.benchmark", "data", "--config=configs/folder.py"),
                *(f"--config.{key}={value}" for key, value in keys.items()),
                *(f"--workers={protocol.WORKERS}", "--rounds=5", f"--out={out}"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        figures = json.loads(out.read_text())
    [whole] = figures["wholes"]
    values = {
        "a": figures["stages"]["training step"],
        "b": whole["images_per_second"],
        "c": whole["training_images_per_second"],
        "waiting": whole["waiting"],
    }
    return {name: statistics.median(each) for name, each in values.items()}


def pipeline_table(contenders: Mapping[str, Contender]) -> list[str]:
    """Returns the lines of the first table."""
    rates = {name: statistics.median(one.images_per_second) for name, one in contenders.items()}
    lines = [
        "| pipeline | images/s | slowest and fastest pass | over torchvision | over tf.data | "
        "CPU ms per image | memory MiB |",
        report.line(["---", *["--:"] * 6]),
    ]
    for name, one in contenders.items():
        ratios = [
            f"{rates[name] / rates[each]:.2f}" if each in rates else "" for each in (TORCH, TF)
        ]
        cells = [
            *(name, f"{rates[name]:.0f}"),
            f"{min(one.images_per_second):.0f} to {max(one.images_per_second):.0f}",
            *(*ratios, f"{statistics.median(one.cpu_ms):.2f}", f"{one.memory / 2**20:.0f}"),
        ]
        lines.append(report.line(cells))
    return lines


def training_table(trained: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns the lines of the second table."""
    lines = [
        "| decoder | a: step alone | b: pipeline alone | c: training | 1 / (1/a + 1/b) | "
        "c over that | waiting for data |",
        report.line(["---", *["--:"] * 6]),
    ]
    for decoder, figures in trained.items():
        a, b, c = (figures[name] for name in "abc")
        both = 1 / (1 / a + 1 / b)
        cells = [f"{each:.0f}" for each in (a, b, c, both)]
        lines.append(report.line([decoder, *cells, f"{c / both:.2f}", f"{figures['waiting']:.0%}"]))
    return lines


def draw(contenders: Mapping[str, Contender]) -> None:
    """Draws a bar for each pipeline, from the slowest to the fastest pass around the median."""
    rates = {
        name: sorted(one.images_per_second) for name, one in reversed(list(contenders.items()))
    }
    medians = [statistics.median(values) for values in rates.values()]
    errors = [
        [median - values[0] for median, values in zip(medians, rates.values(), strict=True)],
        [values[-1] - median for median, values in zip(medians, rates.values(), strict=True)],
    ]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    colours = ["C0" if name.startswith("cnn_jax") else "C1" for name in rates]
    bars = axes.barh(list(rates), medians, xerr=errors, color=colours, ecolor="grey")
    axes.bar_label(bars, [f"{median:.0f}" for median in medians], padding=6)
    axes.margins(x=0.15)
    axes.set(title="random resized crops to 224 pixels, two workers", xlabel="images per second")
    figure.savefig(FIGURE, dpi=100)


def write(lines: Sequence[str]) -> None:
    """Replaces the tables in the README."""
    text = README.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    tables = "\n".join(lines)
    README.write_text(f"{before}{_BEGIN}\n\n{tables}\n\n{_END}{after}")


def main() -> None:
    """Measures, prints the tables and writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--torch-python", help="interpreter with torch and torchvision")
    parser.add_argument("--tf-python", help="interpreter with tensorflow-cpu")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(tempfile.gettempdir(), "input_pipeline"),
        help="place of the images, which are made if they are not there",
    )
    parser.add_argument("--passes", type=int, default=5, help="passes over all images; default: 5")
    options = parser.parse_args()
    contenders = compare(options)
    lines = pipeline_table(contenders)
    trained = {decoder: train(options.directory, decoder) for decoder in _DECODERS}
    lines += ["", *training_table(trained)]
    print(*lines, sep="\n")
    write(lines)
    draw(contenders)


if __name__ == "__main__":
    main()
