"""Packages of the distribution; all other metadata is in pyproject.toml.

pyproject.toml can either find packages or map one to a directory. The configs lie beside the
package in the clone, and inside it in the wheel: a top-level package called `configs` could clash
with any other project's.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["cnn_jax", "cnn_jax.*"]), "cnn_jax.configs"],
    package_dir={"cnn_jax.configs": "configs"},
)
