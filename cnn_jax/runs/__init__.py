"""The files of a run; `read` returns their logs as a table.

- `workdir.py`: their names, the config and the description, the lock
- `checkpoint.py`: checkpoints; the only importer of Orbax
- `logs.py`: `metrics.jsonl`, TensorBoard events, throughput
- `environment.py`: `environment.json`: commands, versions and hardware of the run
- `table.py`: the logs of one or more runs as a table
- `plots.py`: `curves.png` and confusion matrices; an importer of matplotlib
"""

from cnn_jax.runs.table import read

__all__ = ["read"]
