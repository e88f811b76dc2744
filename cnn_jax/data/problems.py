"""The count of unreadable images of a run."""

from absl import logging

from cnn_jax import errors


class Problems:
    """Unreadable images: each is named once in the log, and only so many are skipped."""

    def __init__(self, allowed: int) -> None:
        """Starts without problems.

        Args:
          allowed: the number of images to skip, `data.max_bad_images`.
        """
        self._allowed = allowed
        self._found: set[tuple[str, str]] = set()

    def __len__(self) -> int:
        """Returns the number of different unreadable images."""
        return len(self._found)

    def add(self, split: str, problem: str) -> None:
        """Counts an unreadable image, if it is not known yet.

        Args:
          split: the split of the run.
          problem: the message of the image's UnreadableImageError.

        Raises:
          UserError: the number of unreadable images exceeds the allowed number.
        """
        if (split, problem) in self._found:
            return
        self._found.add((split, problem))
        if len(self._found) > self._allowed:
            count = len(self._found)
            raise errors.UserError(
                f"{split}: {problem}. {count} unreadable {'image' if count == 1 else 'images'}, "
                f"data.max_bad_images allows {self._allowed}: mend or remove the file, or skip "
                f"such images with --config.data.max_bad_images={max(count, 10)}"
            )
        logging.warning("skipped an unreadable image of %s: %s", split, errors.printable(problem))
