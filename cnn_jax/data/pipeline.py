"""Grain pipelines: batches made ahead of time by worker processes or threads."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Generator
from concurrent import futures
from multiprocessing import resource_tracker
from typing import Any, Generic, Self, TypeVar

import grain
from absl import flags

from cnn_jax import errors
from cnn_jax.data import shared
from cnn_jax.runtime import malloc, threads

MAX_WORKERS = 16  # of the automatic value
_AHEAD = 2  # items that a thread prepares ahead
_PAUSE = 1.0  # seconds from the end of the main process to that of its workers

Item = TypeVar("Item")


def num_workers(wanted: int) -> int:
    """Returns the number of worker processes for `data.workers`; -1 stands for one per core."""
    return wanted if wanted >= 0 else min(threads.cores(), MAX_WORKERS)


def batches(source: Any, start: int, workers: int) -> Generator[Any, None, None]:
    """Yields the batches of a source in order, made in parallel.

    Close the generator to end its workers. Memory holds up to five batches per worker process.

    Args:
      source: batches by number, with `__len__` and `__getitem__`; picklable.
      start: the number of the first batch.
      workers: the number of worker processes; 0 makes batches in threads of this process, one per
        core, at most 16.

    Raises:
      UserError: a worker has died, or the source cannot be pickled. Errors of the source are raised
        as they are.
    """
    readers = 0 if workers else num_workers(-1)
    options = grain.ReadOptions(num_threads=readers, prefetch_buffer_size=readers)
    made = shared.Source(source) if workers else source
    dataset = grain.MapDataset.source(made)[start:].to_iter_dataset(options)
    if workers:
        _allow_unparsed_flags()
        processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        dataset = dataset.mp_prefetch(processes, worker_init_fn=_start_worker)
    iterator, reader = iter(dataset), shared.Reader()
    try:
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except RuntimeError as error:
                if "terminated unexpectedly" not in str(error):
                    raise
                raise errors.UserError(
                    f"a worker process that reads images has died: {error} Exit code -9 means "
                    "that memory ran out, -7 that /dev/shm is full: try a smaller "
                    "--config.data.workers, or 0. Exit code 1 means that a script starts a run "
                    "when it is imported, as each worker does: call train.run below "
                    "if __name__ == '__main__':"
                ) from error
            except (TypeError, pickle.PicklingError) as error:
                if "pickle" not in str(error):
                    raise
                raise errors.UserError(
                    f"the examples cannot be copied to worker processes: {error}. Leave open files "
                    "and locks out of the source's pickled state (__getstate__), or set "
                    "--config.data.workers=0, to read with threads"
                ) from error
            yield reader.open(item)
    finally:
        iterator.close()
        reader.close()


class Ahead(Generic[Item]):
    """Iterator that a thread runs ahead of its consumer."""

    def __init__(self, items: Generator[Item, None, None]) -> None:
        """Starts the thread.

        Args:
          items: the items. The generator is run and closed in the thread.
        """
        self._items = items
        self._is_open = True
        self._thread = futures.ThreadPoolExecutor(1, "data", initializer=_block_signals)
        self._pending = deque(self._submit() for _ in range(_AHEAD))

    def __iter__(self) -> Self:
        """Returns itself."""
        return self

    def __next__(self) -> Item:
        """Returns the next item, or raises the error of the generator."""
        if not self._pending:
            raise StopIteration
        found = self._pending.popleft().result()
        if found is None:
            self._pending.clear()
            raise StopIteration
        self._pending.append(self._submit())
        return found[0]

    def close(self) -> None:
        """Closes the generator and ends the thread; does nothing the second time."""
        if self._is_open:
            self._is_open = False
            for future in self._pending:
                future.cancel()
            self._pending.clear()
            self._thread.submit(self._items.close).result()
            self._thread.shutdown()

    def _submit(self) -> futures.Future[tuple[Item] | None]:
        return self._thread.submit(self._next)

    def _next(self) -> tuple[Item] | None:
        for item in self._items:
            return (item,)
        return None


def _block_signals() -> None:
    """Blocks signals in this thread, so that worker processes that it starts inherit the mask.

    Ctrl-C and SIGTERM are for the main process, which saves a checkpoint and then ends its workers.
    Windows has no masks; there the workers ignore Ctrl-C themselves.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return
    # The first worker would start this tracker. In Python 3.11, its start unblocks both signals.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))


def _allow_unparsed_flags() -> None:
    """Gives Grain's flag of profiling its default value in programs that parse no absl flags.

    Grain reads it without a check: https://github.com/google/grain/issues/1355.
    """
    name = "grain_enable_multiprocess_worker_profiling"
    if name in flags.FLAGS:
        flags.FLAGS[name].present = True


def _start_worker(number: int, count: int) -> None:
    """Prepares a worker process: it ends when its parent process has ended.

    It keeps freed memory, because a page fault for each page of each decoded image takes a third of
    its time (experiments/input_pipeline).
    """
    del number, count
    if not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    malloc.keep_freed_memory()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: Any) -> None:
    parent.join()
    # An exit while shared memory is created leaves it behind until the machine restarts. After a
    # second, this worker has most likely filled its buffer and only waits.
    time.sleep(_PAUSE)
    os._exit(1)
