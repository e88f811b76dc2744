"""The process and the machine: devices, random keys, signals, caches, memory, the terminal.

- `sharding.py`: the mesh over devices and hosts, and the layout of arrays on it
- `prng.py`: independent PRNG keys from the one seed of a run
- `seeds.py`: seeds of 64 bits
- `exits.py`: the end of a command by SIGTERM or Ctrl-C
- `signals.py`: SIGTERM and Ctrl-C as a request to stop
- `imports.py`: import of a user's objects that a config names as 'module:attribute'
- `files.py`: paths that a user gives, and files that a run reads and writes
- `flags.py`: flags that several commands share
- `console.py`: progress, messages and exit statuses of the commands
- `outputs.py`: output streams without a reader, or on a full disk
- `locks.py`: locks of files between processes
- `compilation_cache.py`: compiled programs on disk
- `determinism.py`: the flags of XLA for the same bits in every run on a GPU
- `jax_internals.py`: all that the package uses of JAX outside its compatibility policy
- `ownership.py`: directories that no other user can change
- `machine.py`: the commit of a Git repository, the name of the processor
- `malloc.py`: the settings of glibc's allocator
"""
