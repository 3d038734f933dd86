"""Compiled programs, kept in the user's cache folder: the next run finds them and starts sooner."""

import jax
import platformdirs

_MOST_BYTES = 512 * 2**20


def keep() -> None:
    """Let JAX keep every program; a folder that JAX_COMPILATION_CACHE_DIR names stays."""
    folder = platformdirs.user_cache_path("bnjax", appauthor=False) / "programs"
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
