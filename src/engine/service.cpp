#include "engine/service.h"

#include <algorithm>
#include <future>
#include <utility>

#include "base/check.h"
#include "base/out_of_memory.h"

namespace heddle::engine {

uint64_t Mailbox::wait(uint64_t seen, std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  ready_.wait_for(lock, timeout, [&] { return version_ != seen; });
  return version_;
}

void Mailbox::notify() {
  {
    std::lock_guard lock(mutex_);
    ++version_;
  }
  ready_.notify_all();
}

RequestStream::~RequestStream() {
  if (!finished_) cancel();
}

std::optional<Event> RequestStream::next(std::chrono::milliseconds timeout) {
  Mailbox& mailbox = *queue_->mailbox;
  std::unique_lock lock(mailbox.mutex_);
  if (!mailbox.ready_.wait_for(lock, timeout, [&] { return !queue_->events.empty(); }))
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
    : engine_(executor, options),
      max_unread_events_(static_cast<size_t>(std::max<int64_t>(1, options.max_unread_events))) {
  thread_ = start_thread("the engine", [this] { loop(); });
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
  // Shared: set_value() may still be at work when the waiting side has gone on.
  const auto done = std::make_shared<std::promise<void>>();
  auto ended = done->get_future();
  post([&fn, done](Engine& engine) {
    try {
      fn(engine);
      done->set_value();
    } catch (...) {  // memory ran out: the caller's to tell
      done->set_exception(std::current_exception());
    }
  });
  ended.get();
}

Admission<std::vector<std::unique_ptr<RequestStream>>> EngineService::submit(
    Request request, std::shared_ptr<Mailbox> mailbox) {
  {
    std::lock_guard lock(mutex_);
    if (draining_) {
      Refusal refusal;
      refusal.kind = Refusal::Kind::shutting_down;
      refusal.message = "the server is shutting down";
      return tl::unexpected(std::move(refusal));
    }
  }
  if (mailbox == nullptr) mailbox = std::make_shared<Mailbox>();
  std::vector<std::unique_ptr<RequestStream>> streams;
  std::optional<Refusal> refused;
  call([&](Engine& engine) {
    const int64_t choices = request.choices;
    const auto first = engine.submit(std::move(request));
    if (!first) {
      refused = first.error();
      return;
    }
    for (int64_t choice = 0; choice < choices; ++choice) {
      auto stream = std::make_unique<RequestStream>();
      stream->service_ = this;
      stream->id_ = *first + static_cast<RequestId>(choice);
      stream->queue_->mailbox = mailbox;
      streams_[stream->id_] = stream->queue_;
      streams.push_back(std::move(stream));
    }
  });
  if (refused) return tl::unexpected(std::move(*refused));
  return streams;
}

bool EngineService::draining() {
  std::lock_guard lock(mutex_);
  return draining_;
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
  for (Event& event : events) deliver(std::move(event));
}

void EngineService::deliver(Event event) {
  const auto it = streams_.find(event.request);
  if (it == streams_.end()) return;
  const auto queue = it->second;
  const bool finished = event.kind == Event::Kind::finished;
  if (finished) streams_.erase(it);
  Mailbox& mailbox = *queue->mailbox;
  {
    std::lock_guard lock(mailbox.mutex_);
    if (!finished && queue->events.size() >= max_unread_events_) {
      if (!std::exchange(queue->overflowed, true)) engine_.cancel(event.request);
      return;
    }
    if (finished && queue->overflowed) {
      event.reason = FinishReason::error;
      event.error = fmt::format("the answer was not read: {} tokens wait", queue->events.size());
    }
    queue->events.push_back(std::move(event));
    ++mailbox.version_;
  }
  mailbox.ready_.notify_all();
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
