"""Errors side by side: avoidable bias, variance and mismatch, and what each suggests to try.

Definitions are those of Ng, 'Machine Learning Yearning' (2018), chapters 20 to 23 and 40 to 41.
There, the data mismatch is measured with a second split of the training distribution. Here, the
validation split has this role, as in the usual case that it is a slice of the training set.
"""

import dataclasses
import math
from collections.abc import Mapping

SIGNIFICANT = 2.0
"""Standard errors of a clear gap: about a 95 % interval."""

ADVICE: Mapping[str, str] = {
    "avoidable bias": "Train longer, with a higher learning rate or another optimizer; a larger "
    "network or a published one; less regularisation (weight decay, dropout, augmentation); a "
    "larger input size. Look at wrong training labels.",
    "variance": "More training data or stronger augmentation; published weights; more "
    "regularisation (weight decay, dropout, label smoothing, mixup); an average of the weights; "
    "early stopping; a smaller network.",
    "mismatch": "Compare the errors of both splits: conditions that the training data lack, and "
    "other shares of the classes. Collect or simulate such training data. If both splits are of "
    "one distribution, choices were fitted to the validation split: use a larger one.",
}
"""Suggestions for a large gap."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Error of a split.

    Attributes:
      error: the share of wrong predictions, in [0, 1].
      examples: the number of examples; 0 if it is unknown, or if the error is given. The standard
        error is then 0.
      origin: where the number is from, in words.
    """

    error: float
    examples: int
    origin: str

    @property
    def standard_error(self) -> float:
        """The standard error of a share: sqrt(e (1 - e) / N)."""
        if not self.examples:
            return 0.0
        return math.sqrt(self.error * (1 - self.error) / self.examples)


@dataclasses.dataclass(frozen=True)
class Gap:
    """Difference of two errors.

    Attributes:
      name: 'avoidable bias', 'variance' or 'mismatch'.
      formula: the difference in words.
      value: the difference; None if an error is unknown.
      noise: the standard error of the difference.
      advice: what to try; empty unless this is the largest gap, and it is clear of noise.
    """

    name: str
    formula: str
    value: float | None
    noise: float = 0.0
    advice: str = ""

    @property
    def is_clear(self) -> bool:
        """True if the difference exceeds two standard errors."""
        return self.value is not None and self.value > SIGNIFICANT * self.noise


_FORMULAS = {
    "avoidable bias": ("training", "human"),
    "variance": ("validation", "training"),
    "mismatch": ("test", "validation"),
}


def make(measured: Mapping[str, Measurement]) -> list[Gap]:
    """Returns the three gaps; the largest clear one has advice.

    Args:
      measured: errors by 'human', 'training', 'validation' and 'test'; each may be absent. Without
        'human', the avoidable bias is at most the training error.
    """
    gaps = []
    for name, (upper, lower) in _FORMULAS.items():
        words = f"{upper} error - {lower}{'-level' if lower == 'human' else ''} error"
        high, low = measured.get(upper), measured.get(lower)
        if name == "avoidable bias" and low is None:
            words = "training error - human-level error, here 0: an upper bound"
            low = Measurement(0.0, 0, "")
        if high is None or low is None:
            gaps.append(Gap(name, words, None))
            continue
        noise = math.hypot(high.standard_error, low.standard_error)
        gaps.append(Gap(name, words, high.error - low.error, noise))
    clear = [gap for gap in gaps if gap.is_clear]
    if not clear:
        return gaps
    largest = max(clear, key=lambda gap: gap.value or 0.0)
    return [
        dataclasses.replace(gap, advice=ADVICE[gap.name]) if gap is largest else gap for gap in gaps
    ]
