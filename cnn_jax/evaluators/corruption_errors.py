"""The result of a sweep over corruptions, and the mean corruption error."""

import dataclasses
import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from cnn_jax import errors
from cnn_jax.evaluators.corruptions import SEVERITIES

ALEXNET_ERRORS: Mapping[str, float] = MappingProxyType(
    {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    }
)
"""The errors of AlexNet on ImageNet-C, means over the severities, which define its mCE.

They are in github.com/google-research/augmix, `imagenet.py`. They are the baseline for ImageNet's
validation set only. Even there, drawn frost and images without a second JPEG compression differ.
"""


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """Accuracies on corrupted images.

    Attributes:
      corruptions: the C names.
      severities: the S severities.
      accuracy: `[C, S]` float64, top-1 accuracies.
      loss: `[C, S]` float64, mean cross-entropies in nats.
      clean: 'top1' and 'loss' on the images without corruption.
      examples: the number of images.
    """

    corruptions: tuple[str, ...]
    severities: tuple[int, ...]
    accuracy: np.ndarray
    loss: np.ndarray
    clean: Mapping[str, float]
    examples: int

    @property
    def mean_accuracy(self) -> float:
        """The mean accuracy over corruptions and severities."""
        return float(self.accuracy.mean())

    @property
    def mean_error(self) -> float:
        """The mean corruption error that is not relative to a baseline, in [0, 1]."""
        return 1 - self.mean_accuracy

    def by_corruption(self) -> dict[str, float]:
        """Returns the error of each corruption in [0, 1], the mean over the severities."""
        means = 1 - self.accuracy.mean(1)
        return dict(zip(self.corruptions, means.tolist(), strict=True))

    def mce(self, baseline: "Sweep | Mapping[str, float]") -> float:
        """Returns the mean corruption error (mCE) relative to a baseline.

        The error of each corruption, summed over the severities, is divided by that of the
        baseline. The mCE is the mean over the corruptions (Hendrycks & Dietterich 2019,
        arXiv:1903.12261, section 4.1). It is 1 for the baseline itself. Papers give percent.

        Args:
          baseline: a sweep of the baseline on the same images, with the same severities; or its
            errors, means over all five severities, by corruption, such as `ALEXNET_ERRORS`.

        Raises:
          UserError: the baseline lacks a corruption, has other severities, or an error that is not
            positive.
        """
        if isinstance(baseline, Sweep):
            wanted, theirs = baseline.severities, baseline.by_corruption()
        else:
            wanted, theirs = SEVERITIES, dict(baseline)
        if sorted(wanted) != sorted(self.severities):
            raise errors.UserError(
                f"the baseline has the severities {wanted} and the sweep "
                f"{self.severities}; measure both with the same severities"
            )
        ours = self.by_corruption()
        absent = [name for name in ours if name not in theirs]
        if absent:
            raise errors.UserError(
                f"the baseline has no error for {', '.join(absent)}; measure it with the same "
                "corruptions"
            )
        for name in ours:
            if not 0 < theirs[name] <= 1:
                raise errors.UserError(
                    f"the baseline's error for {name} must be above 0 and at most 1, got "
                    f"{theirs[name]}; choose a baseline that makes errors"
                )
        return float(np.mean([error / theirs[name] for name, error in ours.items()]))

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row for the clean images and for each corruption and severity, for CSV files.

        The clean images have the corruption 'none' and the severity 0.
        """
        found = [{"corruption": "none", "severity": 0, **self.clean}]
        for (row, name), (column, severity) in itertools.product(
            enumerate(self.corruptions), enumerate(self.severities)
        ):
            values = {"top1": self.accuracy[row, column], "loss": self.loss[row, column]}
            numbers = {key: float(value) for key, value in values.items()}
            found.append({"corruption": name, "severity": severity, **numbers})
        return found

    def table(self) -> str:
        """Returns the accuracies as text, with a line for each corruption."""
        width = max(map(len, (*self.corruptions, "corruption")))
        head = [*map(str, self.severities), "mean"]
        lines = [f"{'corruption':{width}}" + "".join(f"{text:>8}" for text in head)]
        for name, row in zip(self.corruptions, self.accuracy, strict=True):
            cells = "".join(f"{value:8.4f}" for value in (*row, row.mean()))
            lines.append(f"{name:{width}}{cells}")
        columns = (*self.accuracy.mean(0), self.mean_accuracy)
        lines.append(f"{'mean':{width}}" + "".join(f"{value:8.4f}" for value in columns))
        lines.append(f"{'clean':{width}}{self.clean['top1']:8.4f}")
        return "\n".join(lines)
