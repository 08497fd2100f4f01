#pragma once
// Work of a device in order: copies, kernels, graphs of them, and the time that they take. Only in
// builds with HEDDLE_CUDA. All calls but wait() and seconds() return before the work is done, so an
// error of a kernel comes with a later call.
#include <cstdint>
#include <functional>
#include <utility>

#include "backend/memory.h"
#include "base/result.h"

namespace heddle::backend::cuda {

// What a stream, a graph and a mark own: an object of the runtime.
template <void (*kRelease)(void*)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(void* value) : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Handle() {
    if (value_ != nullptr) kRelease(value_);
  }
  void* get() const { return value_; }

 private:
  void* value_ = nullptr;
};
void release_stream(void* stream);
void release_event(void* event);
void release_graph(void* graph);

// On the device that was opened last by this thread.
class Stream {
 public:
  static Result<Stream> make();
  void* handle() const { return handle_.get(); }  // a cudaStream_t

  // In any direction; asynchronous where host memory is pinned.
  Status copy(void* to, const void* from, int64_t bytes) const;
  Status fill(void* data, uint8_t value, int64_t bytes) const;
  // Until all of it is done.
  Status wait() const;

 private:
  Handle<release_stream> handle_;
};

// A point in a stream's work.
class Mark {
 public:
  static Result<Mark> make();
  Status set(const Stream& stream) const;
  // From `begin` to here, of marks that were set; waits for this one.
  Result<double> seconds_since(const Mark& begin) const;

 private:
  Handle<release_event> handle_;
};

// Kernels and copies recorded once and launched by one call, with the same pointers.
class Graph {
 public:
  // What `work` puts into the stream is recorded and not run.
  static Result<Graph> capture(const Stream& stream, const std::function<Status()>& work);
  Status launch(const Stream& stream) const;

 private:
  Handle<release_graph> handle_;
};

}  // namespace heddle::backend::cuda
