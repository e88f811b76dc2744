"""Cache directories for commands that tests start."""

from pathlib import Path

from cnn_jax.runtime import compilation_cache


def share_native_kernels(cache_home: Path) -> None:
    """Makes `cache_home` share the user's native kernels, whose compilation takes a minute of CPU.

    Args:
      cache_home: the value of XDG_CACHE_HOME for a command.
    """
    kernels = compilation_cache.user_cache_directory() / "native"
    kernels.mkdir(parents=True, exist_ok=True)
    (cache_home / "cnn_jax").mkdir(parents=True, exist_ok=True)
    link = cache_home / "cnn_jax" / "native"
    if not link.is_symlink():
        link.symlink_to(kernels, target_is_directory=True)
