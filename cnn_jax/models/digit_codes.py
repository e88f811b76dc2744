"""Bitmaps of the ten digits, 7x12 pixels: the target codes of LeNet-5's output layer."""

import numpy as np

# Digits 0 to 9 from left to right, drawn after LeCun et al. 1998 (doi:10.1109/5.726791), Fig. 3.
_BITMAPS = """
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
..XXX..  ...X...  .XXXXX.  XXXXXXX  ....XX.  XXXXXXX  ..XXXX.  XXXXXXX  ..XXX..  ..XXX..
.X...X.  ..XX...  X.....X  .....X.  ...X.X.  X......  .X.....  ......X  .X...X.  .X...X.
X.....X  .X.X...  ......X  ....X..  ..X..X.  X......  X......  .....X.  X.....X  X.....X
X.....X  ...X...  .....X.  ...XX..  .X...X.  XXXXX..  X......  .....X.  .X...X.  X.....X
X.....X  ...X...  ....X..  .....X.  X....X.  .....X.  X.XXX..  ....X..  ..XXX..  .X...XX
X.....X  ...X...  ...X...  ......X  XXXXXXX  ......X  XX...X.  ....X..  .X...X.  ..XXX.X
X.....X  ...X...  ..X....  ......X  .....X.  ......X  X.....X  ...X...  X.....X  ......X
X.....X  ...X...  .X.....  X.....X  .....X.  X.....X  X.....X  ...X...  X.....X  ......X
.X...X.  ...X...  X......  .X...X.  .....X.  .X...X.  .X...X.  ..X....  .X...X.  .....X.
..XXX..  .XXXXX.  XXXXXXX  ..XXX..  .....X.  ..XXX..  ..XXX..  ..X....  ..XXX..  .XXXX..
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
"""


def _codes() -> np.ndarray:
    lines = [line.split() for line in _BITMAPS.split("\n") if line]
    bitmaps = ["".join(rows) for rows in zip(*lines, strict=True)]
    return np.asarray([[1 if pixel == "X" else -1 for pixel in bitmap] for bitmap in bitmaps])


CODES = _codes()  # [10, 84]: 1 for ink, -1 for background
