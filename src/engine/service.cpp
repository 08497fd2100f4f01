#include "engine/service.h"

#include <future>

#include "base/check.h"

namespace heddle::engine {

RequestStream::~RequestStream() {
  if (!finished_) cancel();
}

std::optional<Event> RequestStream::next(std::chrono::milliseconds timeout) {
  std::unique_lock lock(queue_->mutex);
  if (!queue_->ready.wait_for(lock, timeout, [&] { return !queue_->events.empty(); }))
    return std::nullopt;
  Event event = std::move(queue_->events.front());
  queue_->events.pop_front();
  finished_ = event.kind == Event::Kind::finished;
  return event;
}

Event RequestStream::next() {
  HEDDLE_CHECK(!finished_, "request {} has finished", id_);
  while (true)
    if (auto event = next(std::chrono::hours(1))) return std::move(*event);
}

void RequestStream::cancel() {
  if (service_ != nullptr) service_->post([id = id_](Engine& engine) { engine.cancel(id); });
}

EngineService::EngineService(Executor& executor, const EngineOptions& options)
    : engine_(executor, options) {
  thread_ = std::thread([this] { loop(); });
}

EngineService::~EngineService() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void EngineService::post(std::function<void(Engine&)> command) {
  {
    std::lock_guard lock(mutex_);
    inbox_.push_back(std::move(command));
    is_idle_ = false;
  }
  wake_.notify_all();
}

void EngineService::call(const std::function<void(Engine&)>& fn) {
  std::promise<void> done;
  post([&](Engine& engine) {
    fn(engine);
    done.set_value();
  });
  done.get_future().wait();
}

Result<std::unique_ptr<RequestStream>> EngineService::submit(Request request) {
  {
    std::lock_guard lock(mutex_);
    if (draining_) return fail("the server is shutting down");
  }
  auto stream = std::make_unique<RequestStream>();
  Status status;
  call([&](Engine& engine) {
    auto id = engine.submit(std::move(request));
    if (!id) {
      status = tl::unexpected(id.error());
      return;
    }
    stream->id_ = *id;
    streams_[*id] = stream->queue_;
  });
  if (!status) {
    stream->finished_ = true;
    return tl::unexpected(status.error());
  }
  stream->service_ = this;
  return stream;
}

EngineMetrics EngineService::metrics() {
  EngineMetrics metrics;
  call([&](Engine& engine) { metrics = engine.metrics(); });
  return metrics;
}

bool EngineService::drain(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  if (idle_.wait_for(lock, limit, [&] { return is_idle_; })) return true;
  lock.unlock();
  call([&](Engine& engine) {
    for (const auto& [id, queue] : streams_) engine.cancel(id);
  });
  lock.lock();
  idle_.wait(lock, [&] { return is_idle_; });
  return false;
}

void EngineService::dispatch(std::vector<Event> events) {
  for (Event& event : events) {
    const auto it = streams_.find(event.request);
    if (it == streams_.end()) continue;
    const auto queue = it->second;
    if (event.kind == Event::Kind::finished) streams_.erase(it);
    {
      std::lock_guard lock(queue->mutex);
      queue->events.push_back(std::move(event));
    }
    queue->ready.notify_one();
  }
}

void EngineService::loop() {
  while (true) {
    std::deque<std::function<void(Engine&)>> commands;
    {
      std::unique_lock lock(mutex_);
      if (engine_.idle() && inbox_.empty()) {
        is_idle_ = true;
        idle_.notify_all();
        wake_.wait(lock, [&] { return stop_ || !inbox_.empty(); });
      }
      if (stop_ && inbox_.empty()) break;
      is_idle_ = false;
      commands.swap(inbox_);
    }
    for (auto& command : commands) command(engine_);
    dispatch(engine_.step());
  }
  // Whoever still waits is told.
  for (const auto& [id, queue] : streams_) engine_.cancel(id);
  while (!engine_.idle()) dispatch(engine_.step());
}

}  // namespace heddle::engine
