"""Limits on the sizes of files from outside, so that a small file cannot take all memory.

They are generous for real data: a photograph of 100 megapixels and ImageNet-21k's 21,841 classes
pass. Each error that a limit causes names the limit.
"""

# Images.

MAX_IMAGE_BYTES = 2 * 2**30
"""Bytes of an image file; an uncompressed photograph of 100 megapixels has 0.3 to 0.8 GB."""

MAX_IMAGE_PIXELS = 500_000_000
"""Pixels of an image. Phones make pictures of 200 million, cameras with pixel shift of 400."""

MAX_IMAGE_SIDE = 65_535
"""Height and width of an image in pixels, as of JPEG."""

MAX_IMAGE_RATIO = 64
"""Ratio of the sides up to which a whole image is scaled; of longer ones, the middle is used."""

MAX_DECODING_BYTES = 2 * 2**30
"""Bytes that an image may take while it is decoded; 100 megapixels take 0.4 GB in most formats."""

MAX_PARALLEL_PIXELS = 2**25
"""Pixels above which a process decodes one image at a time, so that threads do not add up."""

MAX_TILE_PIXELS = 2**24
"""Pixels that a tile or strip of a TIFF file may have more than the image; tiles may be padded."""

MAX_SCANNED_PIXELS = 4_000_000_000
"""Pixels of all scans of a JPEG file, about 6 seconds; progressive files have 4 to 16 scans."""

# Weights and their configs.

MAX_CLASSES = 1_000_000
"""Classes of a network; ImageNet-21k has 21,841, the largest sets of faces about this number."""

MAX_INPUT_VALUES = 3 * 4096 * 4096
"""Height x width x channels of a network's input: 200 MB in float32. Published inputs have up to
1024 x 1024 pixels."""

MAX_RESIZE_SIDE = 8192
"""Pixels of the shorter side to which a picture is scaled before the crop. A picture of 4 to 3 then
takes 600 MB."""

MAX_NATIVE_PIXELS = 105_000_000
"""Pixels of a run's native size to which a picture of another size is scaled: 750 MB. The largest
cameras have 102 megapixels."""

MAX_JSON_BYTES = 25_000_000
"""Bytes of JSON in a weights file's header or config. JSON takes up to 20 times this memory. A
network of 1,000 tensors has 100 kB, a million class names 20 MB."""

MAX_PICKLE_INSTRUCTIONS = 2_000_000
"""Instructions of a pickle, each of which can create an object. A checkpoint of 1,000 tensors with
the state of its optimizer has about 100,000."""

MAX_EXPANDED_VALUES = 1_000_000
"""Values of a tensor that repeats elements of a shorter storage, as `torch.Tensor.expand` makes."""

MAX_MODULES = 3_000
"""Modules of a network that is loaded or saved. Each takes milliseconds to trace; published
networks have up to 830."""

MAX_OPTION = 1_000_000
"""Numbers in the options of a network that a weights file describes, such as channels."""

# Data sets.

MAX_SET_BYTES = 16 * 2**30
"""Bytes of the unpacked arrays of an idx or .npz file, which are held in memory: ImageNet at
64 x 64 pixels has 15.7 GB."""

MAX_CONFUSION_CLASSES = 1_000
"""Classes up to which evaluations keep the confusion matrix without being asked: 4 MB of JSON."""

MAX_ROWS_BYTES = 2 * 2**30
"""Bytes of the unpacked outcomes of the examples of an evaluation: those of ImageNet's 1.3 million
training images have half a gigabyte."""

# Work directories.

MAX_LOG_BYTES = 128 * 2**20
"""Bytes of metrics.jsonl: half a million lines."""

MAX_STORED_BYTES = 64 * 2**20
"""Bytes of config.json, dataset.json and environment.json: a million class names have 20 MB."""
