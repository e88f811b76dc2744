"""Examination of an installation and its machine: `python -m cnn_jax.doctor`.

  from cnn_jax import doctor
  problems = [each for each in doctor.examine() if each.level == "problem"]

- `findings.py`: the type of a finding
- `examination.py`: the table of probes, which fail one by one
- `isolated.py`: the probes of JAX in a process of their own, for the command
- `report.py`: the findings as text and as JSON
- `versions.py`, `settings.py`, `host.py`, `storage.py`, `nvidia.py`: probes without JAX
- `devices.py`, `kernels.py`, `programs.py`, `collective.py`: probes with JAX
- `cgroups.py`: limits of the container
"""

from cnn_jax.doctor.examination import examine
from cnn_jax.doctor.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]
