"""Reports of runs as HTML pages that need no internet connection.

    from cnn_jax import report
    report.write("runs/lenet").path  # runs/lenet/report.html

- `writing.py`: the report of a run; `comparison.py`, `figures.py`, `paired.py`: that of several
- `stored.py`: the files of a work directory; `measured.py`: its evaluation, stored or new
- `curves.py`, `scores.py`, `matrix.py`, `sheets.py`, `settings.py`: the sections
- `gaps.py`: avoidable bias, variance and mismatch
- `page.py`: pages, sections, tables; `style.py`: style sheet and the script of tables
- `charts.py`, `axes.py`: charts as SVG
"""

from cnn_jax.report.measured import Wanted
from cnn_jax.report.writing import Report, make, write

__all__ = ["Report", "Wanted", "make", "write"]
