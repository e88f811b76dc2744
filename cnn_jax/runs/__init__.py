"""The files of a run; `read` returns their logs as a table.

- `workdir.py`: their names, the config and the description, the lock
- `descriptions.py`: reading of stored descriptions of data sets
- `checkpoint.py`: checkpoints; the only importer of Orbax
- `verification.py`: digests of checkpoints, and the quarantine of damaged ones
- `logs.py`: `metrics.jsonl`, throughput
- `events.py`: TensorBoard events; the only importer of tensorboardX
- `environment.py`: `environment.json`: commands, versions and hardware of the run
- `table.py`: the logs of one or more runs as a table
- `place.py`: files that a run appends to; errors for a full disk and for a deleted directory
- `quiet.py`: keeps tracebacks of Orbax's threads from the terminal
- `plots.py`: `curves.png` and confusion matrices; an importer of matplotlib
"""

from cnn_jax.runs.table import read

__all__ = ["read"]
