"""Section `data`: the data set, its splits, and the size and augmentation of images."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cnn_jax import limits, schema
from cnn_jax.data import images, splits

_SIDES = limits.MAX_IMAGE_SIDE + 1


def _split(value: str) -> str:
    return "" if not value or splits.is_readable(value) else "such as 'train[:90%]', or empty"


def _or_empty(check: schema.Check) -> schema.Check:
    """Allows the empty text, too."""

    def allow(value: str) -> str:
        allowed = check(value)
        return f"{allowed}, or empty" if value and allowed else ""

    return allow


@dataclasses.dataclass(frozen=True)
class Data:
    """Section `data`: the data set, its splits, and the size and augmentation of images."""

    source: str = schema.key(
        "digits",
        "digits, fake, folder, idx (MNIST's format), npz, shards, tfds, module:attribute, or auto: "
        "by the content of data.directory",
        automatic="auto",
    )
    name: str = schema.key(
        "",
        "idx: a known set, such as kmnist or emnist_letters; empty for others; tfds: such as "
        "'mnist:3.0.1'",
    )
    directory: str = schema.key(
        "",
        "directory or file of the data set; empty for the source's usual place",
        material=False,
    )
    classes: str = schema.key(
        "", "names of the classes to keep, separated by commas; empty for all", since="0.2.0"
    )
    train_split: str = schema.key(
        "train[:90%]",
        "examples to train on; auto: by the stored splits",
        lambda v: _split(v) if v else "a split, not empty",
        automatic="auto",
    )
    validation_split: str = schema.key(
        "train[90%:]",
        "examples that choose the best checkpoint; empty for none; auto: by the stored splits",
        _split,
        automatic="auto",
    )
    test_split: str = schema.key(
        "test",
        "examples to test the final parameters on; empty for none; auto: by the stored splits",
        _split,
        automatic="auto",
    )
    split: str = schema.key(
        "",
        "stratified: divide each class of the split train by split_shares; empty: take the splits "
        "of the three keys above; auto: stratified if the set has no other split",
        _or_empty(schema.one_of("stratified", "auto")),
        automatic="auto",
        since="0.2.0",
    )
    split_shares: tuple[float, ...] = schema.key(
        (0.8, 0.1, 0.1),
        "stratified: shares of training, validation and test",
        schema.each_finite,
        since="0.2.0",
    )
    split_seed: int = schema.key(
        0, "stratified: seed of the division", schema.within(0, 2**64), since="0.2.0"
    )
    split_groups: str = schema.key(
        "",
        "stratified: groups that are not divided: a pattern whose match in a name is the group, or "
        "a CSV file",
        since="0.2.0",
    )
    split_folds: int = schema.key(
        0,
        "stratified: number of folds of cross-validation; 0 for none",
        schema.at_least(0),
        since="0.2.0",
    )
    split_fold: int = schema.key(
        0, "stratified: the fold to validate on, from 0", schema.at_least(0), since="0.2.0"
    )
    storage: str = schema.key(
        "auto",
        "resident: images stay on the devices; streamed: read each epoch; auto: by size and crop",
        schema.one_of("auto", "resident", "streamed"),
        automatic="auto",
        since="0.2.0",
        before="resident",
    )
    image_size: int = schema.key(
        32,
        "height of the network's input in pixels; 0: of the weights (init.weights), or of the "
        "images, if all are of one size",
        schema.at_least(0, _SIDES),
        automatic=0,
    )
    eval_image_size: int = schema.key(
        0,
        "height and width of the input in evaluation, if not those of training; 0: of the weights, "
        "or the same",
        schema.at_least(0, _SIDES),
        automatic=0,
        since="0.2.0",
    )
    image_width: int = schema.key(
        0, "width of the input in pixels; 0 for a square", schema.at_least(0, _SIDES), since="0.2.0"
    )
    channels: int = schema.key(
        1,
        "1 grey, 3 colour: images of the other kind are converted; 2, 4 to 16: as stored; 0: of "
        "the weights or the images",
        schema.within(0, images.MAX_CHANNELS + 1),
        automatic=0,
    )
    resize: str = schema.key(
        "pad",
        "pad: pad with black, without scaling; bilinear, bicubic: scale and crop; empty: of the "
        "weights, or bilinear",
        _or_empty(schema.one_of(*images.RESIZE)),
        automatic="",
    )
    train_crop: str = schema.key(
        "pad",
        "training crop: pad (whole image, then crop_padding), random_resized, random or centre",
        schema.one_of("pad", "random_resized", "random", "centre"),
        since="0.2.0",
    )
    eval_crop: str = schema.key(
        "fit",
        "evaluation crop: fit (by data.resize), or centre (shorter side to shorter_side, then "
        "crop); empty: of the weights, or fit",
        _or_empty(schema.one_of("fit", "centre")),
        automatic="",
        since="0.2.0",
    )
    shorter_side: int = schema.key(
        0,
        "random, centre: shorter side in pixels before the crop; 0: of the weights, or the input's "
        "/ 0.875",
        schema.at_least(0, _SIDES),
        automatic=0,
        since="0.2.0",
    )
    crop_scale: tuple[float, ...] = schema.key(
        (0.08, 1.0),
        "random_resized: smallest and largest share of the image's area",
        schema.each_above(0),
        since="0.2.0",
    )
    crop_ratio: tuple[float, ...] = schema.key(
        (3 / 4, 4 / 3),
        "random_resized: smallest and largest ratio of width to height",
        schema.each_above(0),
        since="0.2.0",
    )
    crop_padding: int = schema.key(
        0,
        "pixels of padding for the random crop of training images; 0 for none",
        schema.at_least(0, _SIDES),
    )
    flip: bool = schema.key(False, "mirror training images at random")
    augment: tuple[tuple[str, Mapping[str, Any]], ...] = schema.key(
        (),
        "further augmentations, in order: a name, or (name, options); see docs/augmentation.md",
        entries=schema.NAMED,
        since="0.2.0",
    )
    repeats: int = schema.key(
        1,
        "repeated augmentation: the number of crops of each example in a batch; 1 for none",
        schema.at_least(1, 1025),
        since="0.2.0",
    )
    mean: tuple[float, ...] = schema.key(
        (),
        "mean of each channel, of pixels in [0, 1]; empty: of the weights or the data set",
        schema.each_finite,
        automatic=(),
        since="0.2.0",
    )
    std: tuple[float, ...] = schema.key(
        (),
        "standard deviation of each channel, of pixels in [0, 1]; empty: as for mean",
        schema.each_above(0),
        automatic=(),
        since="0.2.0",
    )
    decoder: str = schema.key(
        "pillow",
        "decoder of random crops: pillow (exact), or opencv (over twice as fast, not equal)",
        schema.one_of("pillow", "opencv"),
        since="0.2.0",
    )
    workers: int = schema.key(
        -1,
        "streamed: worker processes per host; 0: threads of the main process; -1: one per core, "
        "at most 16",
        schema.at_least(-1, 1025),
        material=False,
        since="0.2.0",
    )
    max_bad_images: int = schema.key(
        0,
        "number of unreadable images to skip before the run stops with an error",
        schema.at_least(0),
        material=False,
        since="0.2.0",
    )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input in training."""
        return self.image_size, self.image_width or self.image_size, self.channels

    @property
    def eval_size(self) -> tuple[int, int] | None:
        """Height and width of the input in evaluation; None if they are those of training."""
        size = self.eval_image_size
        return (size, size) if size and (size, size) != self.input_shape[:2] else None

    @property
    def eval_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input in evaluation."""
        return *(self.eval_size or self.input_shape[:2]), self.channels

    @property
    def needs_original(self) -> bool:
        """True if a crop is cut from the original pixels, not from the image at the input size."""
        return self.train_crop != "pad" or self.eval_crop == "centre"
