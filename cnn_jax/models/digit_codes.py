"""The ten digits as pictures of 7x12 pixels, the codes that LeNet-5's output compares with."""

import numpy as np

# In the manner of LeCun et al. 1998 (doi:10.1109/5.726791), Fig. 3, the digits side by side.
_PICTURES = """
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
    lines = [line.split() for line in _PICTURES.split("\n") if line]
    pictures = ["".join(rows) for rows in zip(*lines, strict=True)]
    return np.asarray([[1 if pixel == "X" else -1 for pixel in picture] for picture in pictures])


CODES = _codes()  # [10, 84], 1 for ink and -1 for paper
