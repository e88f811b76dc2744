"""Changes by which weights fit a network.

- `naming.py`: names without the prefixes of wrappers
- `adapt.py`: arrays for images of another size or number of channels
- `positions.py`: resampling of position embeddings and of tables of relative positions
"""
