"""Packs a labelled image set into a few large files, which are quick to copy and to read.

    python -m cnn_jax.data.pack DIR OUT --shards=16

- `writer.py`: `pack` writes the shards of a source
- `inputs.py`: `open_input` opens DIR; `imagenet_tars.py` reads ImageNet's official archives
- `encoding.py`: the records of examples, and images that are scaled down
- `journal.py`: the list of finished shards, so that a repeated command continues
- `verification.py`: `verify` compares checksums

`cnn_jax.data.sources.shards` documents the files and reads them.
"""
