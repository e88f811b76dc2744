"""Rename tables: the torch, timm and torchvision module names of each network family.

- `names`: `Names`, the type of a rename table.
- `tables`: all tables by network; `tables.for_network("vgg16")` returns those of one network.
- One file per family: `NAMES` maps each network to the table of its reference implementation.
- `torchvision`: torchvision's names for networks that follow timm here.
- `inverted_residual`: rules shared by the EfficientNet and MobileNet tables.
"""
