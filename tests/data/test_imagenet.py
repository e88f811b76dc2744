import subprocess
import sys
from pathlib import Path

import tensorflow_datasets

from cnn_jax.data import imagenet
from cnn_jax.pretrained import preprocessing

# The same labels in the same order; TFDS has no English names.
TFDS_LABELS = Path(tensorflow_datasets.__file__).parent / "datasets/imagenet2012/labels.txt"


def test_synsets_are_those_of_tfds_in_the_order_of_labels() -> None:
    synsets = list(imagenet.classes())
    assert synsets == TFDS_LABELS.read_text().split()
    assert synsets == sorted(synsets)


def test_names_are_unique_and_belong_to_their_synsets() -> None:
    classes = imagenet.classes()
    assert len(set(classes.values())) == 1000
    # As in WordNet, for synsets of all parts of the list.
    known = {
        "n01440764": "tench",
        "n02012849": "crane (bird)",
        "n03126707": "crane (machine)",
        "n02206856": "bee",
        "n02510455": "giant panda",
        "n03888257": "parachute",
        "n07753592": "banana",
        "n11939491": "daisy",
        "n15075141": "toilet tissue",
    }
    assert {synset: classes[synset] for synset in known} == known


def test_published_weights_have_the_same_names() -> None:
    assert preprocessing.class_names(1000) == tuple(imagenet.classes().values())


def test_folders_of_some_classes_are_named_too() -> None:
    assert imagenet.readable(["n03394916", "n01440764"]) == ("French horn", "tench")
    assert imagenet.readable(["n03394916", "n00000000"]) == ("n03394916", "n00000000")
    assert imagenet.readable(["cat", "dog"]) == ("cat", "dog")


def test_import_is_light_and_reads_no_file() -> None:
    code = (
        "import sys; from cnn_jax.data import imagenet; "
        "print(imagenet.classes.cache_info().misses, *sys.modules)"
    )
    command = [sys.executable, "-c", code]
    misses, *modules = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.split()
    assert misses == "0"
    assert not {"jax", "flax", "sklearn", "tensorflow_datasets"} & set(modules)
