// Loops on XLA's own threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <utility>

#include "vector.h"
#include "xla/ffi/api/ffi.h"

namespace cnn_jax {

// Calls `task(i)` for every `i` below `count`, each once, and returns when all are done.
//
// Which thread runs which task is left to chance, so that a task's result must not depend on it.
// The caller works as well, and waits for no more than what has been begun: a pool whose threads
// are all busy, perhaps with calls like this one, delays nothing for good.
template <typename Task>
void parallel_for(xla::ffi::ThreadPool& pool, Index count, const Task& task) {
  struct Progress {
    std::atomic<Index> next{0};
    std::atomic<Index> done{0};
  };
  auto progress = std::make_shared<Progress>();
  // A late thread finds nothing left to take and never touches `task`.
  auto work = [progress, count, &task] {
    for (Index i; (i = progress->next.fetch_add(1)) < count;) {
      task(i);
      if (progress->done.fetch_add(1) + 1 == count) progress->done.notify_all();
    }
  };
  const Index helpers = std::min<Index>(pool.num_threads(), count) - 1;
  for (Index i = 0; i < helpers; ++i) pool.Schedule(decltype(work)(work));
  work();
  for (Index done; (done = progress->done.load()) < count;) progress->done.wait(done);
}

// Memory of a thread that lasts from call to call, so that it is mapped once.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // Room for `size` elements, aligned to cache lines; what was there is lost.
  template <typename Element>
  Element* room(Index size) {
    const Index bytes = ceil_div(size * Index{sizeof(Element)}, 64) * 64;
    if (bytes > bytes_) {
      std::free(data_);
      data_ = std::aligned_alloc(64, bytes);
      bytes_ = bytes;
    }
    return static_cast<Element*>(data_);
  }

 private:
  void* data_ = nullptr;
  Index bytes_ = 0;
};

}  // namespace cnn_jax
