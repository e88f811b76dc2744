"""Pictures of training images, before and after cropping and augmentation.

    grid = show.draw(show.rows(settings, examples=8, steps=6))

For a run that starts from weights, `train.start.find(settings)` first returns the plan with their
preprocessing, as the command does.

- `shown.py`: selects training images and computes their versions in training batches
- `drawing.py`: draws them as one picture
"""

from cnn_jax.data.show.drawing import draw
from cnn_jax.data.show.shown import Row, check, rows

__all__ = ["Row", "check", "draw", "rows"]
