"""ResNet-18 on the ten largest categories of Open Clip Art: a folder of pictures, run in full.

The pictures are 7,360 PNG files of Debian's package openclipart-png, most of them with transparent
or indexed colours. `computer` holds 29 % of them. Two have 623 million pixels each, more than
`images.decode` accepts; they are skipped.

Source: He et al. 2015 (arXiv:1512.03385) for the network; the recipe is ours, chosen once.
Command: apt-get install openclipart-png
  python -m cnn_jax.main --config=configs/openclipart.py
Result: test top-1 73.74 %, top-5 94.97 %, loss 0.9546 on 736 pictures with seed 0, the final
parameters; params_sha256 81f531fd7b3dc104860f308e5762f29cdefc564f936139600b71eae50db6067e. The
training accuracy in the last steps was 92 %. It took 43 min; other work shared the machine.
Measured with cnn_jax 0.2.0 (commit 3f8ee18) on 2 cores of an AMD EPYC (Zen 4), Python 3.11.7, JAX
0.10.2, Flax 0.12.8. The digest holds for the same versions and machine.
"""

from ml_collections import ConfigDict

from configs import base, folder

CATEGORIES = (
    "animals",
    "computer",
    "food",
    "people",
    "recreation",
    "shapes",
    "signs_and_symbols",
    "special",
    "transportation",
    "unsorted",
)


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = folder.get_config()
    config.data.update(
        source="folder",
        directory="/usr/share/openclipart/png",
        classes=",".join(CATEGORIES),
        split="stratified",
        max_bad_images=2,
    )
    config.optim.schedule.warmup_first_step = 0  # As in the run that was measured.
    config.train.batch_size = 64
    config.train.epochs = 20.0
    return base.finish(config, variant, smoke_image_size=32)
