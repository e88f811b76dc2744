// Parallel loops on XLA's thread pool, and scratch memory for each thread.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <utility>

#include "vector.h"
#include "xla/ffi/api/ffi.h"

namespace cnn_jax {

// Calls `task(i)` once for each `i` below `count`, and returns when all calls are done.
//
// The thread of each task is not determined, so the result of a task must not depend on it. The
// calling thread runs tasks too, and waits only for tasks that have started. A pool whose threads
// are all busy, perhaps with calls of this function, therefore causes no deadlock.
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

// Scratch memory of one thread. It is kept between calls, so that its pages are mapped only once.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // Returns memory for `size` elements, aligned to cache lines. Its earlier contents are lost.
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
