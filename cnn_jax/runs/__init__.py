"""The files of a run.

- `workdir.py`: their names, the config and the description, the lock
- `checkpoint.py`: checkpoints; the only importer of Orbax
- `logs.py`: `metrics.jsonl`, TensorBoard events, throughput
- `plots.py`: `curves.png` and confusion matrices; an importer of matplotlib
"""
