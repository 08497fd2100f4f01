#include "backend/cuda/status.cuh"
#include "backend/cuda/stream.h"

namespace heddle::backend::cuda {
namespace {

cudaStream_t stream_of(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle()); }

}  // namespace

void release_stream(void* stream) { cudaStreamDestroy(static_cast<cudaStream_t>(stream)); }
void release_event(void* event) { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }
void release_graph(void* graph) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

Result<Stream> Stream::make() {
  cudaStream_t raw = nullptr;
  HEDDLE_TRY_STATUS(
      status_of(cudaStreamCreateWithFlags(&raw, cudaStreamNonBlocking), "making a stream"));
  Stream stream;
  stream.handle_ = Handle<release_stream>(raw);
  return stream;
}

Status Stream::copy(void* to, const void* from, int64_t bytes) const {
  return status_of(
      cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream_of(*this)),
      "copying");
}

Status Stream::fill(void* data, uint8_t value, int64_t bytes) const {
  return status_of(cudaMemsetAsync(data, value, static_cast<size_t>(bytes), stream_of(*this)),
                   "filling memory");
}

Status Stream::wait() const {
  return status_of(cudaStreamSynchronize(stream_of(*this)), "waiting for the device");
}

Result<Mark> Mark::make() {
  cudaEvent_t raw = nullptr;
  HEDDLE_TRY_STATUS(status_of(cudaEventCreate(&raw), "making a mark"));
  Mark mark;
  mark.handle_ = Handle<release_event>(raw);
  return mark;
}

Status Mark::set(const Stream& stream) const {
  return status_of(cudaEventRecord(static_cast<cudaEvent_t>(handle_.get()), stream_of(stream)),
                   "setting a mark");
}

Result<double> Mark::seconds_since(const Mark& begin) const {
  const auto end = static_cast<cudaEvent_t>(handle_.get());
  HEDDLE_TRY_STATUS(status_of(cudaEventSynchronize(end), "waiting for the device"));
  float milliseconds = 0;
  HEDDLE_TRY_STATUS(status_of(
      cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(begin.handle_.get()), end),
      "reading a time"));
  return 1e-3 * static_cast<double>(milliseconds);
}

Result<Graph> Graph::capture(const Stream& stream, const std::function<Status()>& work) {
  HEDDLE_TRY_STATUS(
      status_of(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal),
                "recording a graph"));
  const Status done = work();
  cudaGraph_t recorded = nullptr;
  cudaGraphExec_t ready = nullptr;
  cudaError_t error = cudaStreamEndCapture(stream_of(stream), &recorded);
  if (done && error == cudaSuccess) error = cudaGraphInstantiate(&ready, recorded, 0);
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  if (!done) return tl::unexpected(done.error());
  HEDDLE_TRY_STATUS(status_of(error, "recording a graph"));
  Graph graph;
  graph.handle_ = Handle<release_graph>(ready);
  return graph;
}

Status Graph::launch(const Stream& stream) const {
  return status_of(cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_.get()), stream_of(stream)),
                   "launching a graph");
}

}  // namespace heddle::backend::cuda
