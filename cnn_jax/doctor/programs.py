"""JAX's persistent cache of compiled programs."""

from collections.abc import Iterator

from cnn_jax.doctor.findings import Finding, note, ok


def cache() -> Iterator[Finding]:
    """Yields a finding with the directory of JAX's compilation cache, or with why there is none."""
    import jax

    from cnn_jax.runtime import compilation_cache

    given = jax.config.values
    if not given["jax_enable_compilation_cache"]:
        text = "disabled, so each run compiles its programs"
        yield note("compilation cache", text, "unset JAX_ENABLE_COMPILATION_CACHE")
        return
    if directory := given["jax_compilation_cache_dir"]:
        text = f"{directory}, as JAX_COMPILATION_CACHE_DIR says; nothing deletes old programs"
        yield ok("compilation cache", text)
        return
    try:
        root = compilation_cache.private_directory("xla")
    except (OSError, RuntimeError) as error:  # RuntimeError: the home directory is unknown.
        text = f"none, so each run compiles its programs: {error}"
        yield note("compilation cache", text, "set XDG_CACHE_HOME to a directory of your own")
        return
    number = sum(1 for _ in root.glob("*/*-cache"))
    yield ok("compilation cache", f"{number:,} programs in {root}")
