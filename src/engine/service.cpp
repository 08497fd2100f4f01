#include "engine/service.h"

#include <algorithm>
#include <future>
#include <utility>

#include "base/check.h"
#include "base/memory_reserve.h"
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
  if (!mailbox.ready_.wait_for(lock, timeout,
                               [&] { return !queue_->events.empty() || queue_->last; }))
    return std::nullopt;
  if (queue_->events.empty()) {
    finished_ = true;
    return std::move(queue_->last);
  }
  Event event = std::move(queue_->events.front());
  queue_->events.pop_front();
  return event;
}

Event RequestStream::next() {
  HEDDLE_CHECK(!finished_, "request {} has finished", id_);
  while (true)
    if (auto event = next(std::chrono::hours(1))) return std::move(*event);
}

void RequestStream::cancel() { queue_->cancelled.store(true); }

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
  for (int64_t choice = 0; choice < request.choices; ++choice) {
    streams.push_back(std::make_unique<RequestStream>());
    streams.back()->queue_->mailbox = mailbox;
  }
  std::optional<Refusal> refused;
  const auto enter = [&](Engine& engine) {
    auto first = engine.submit(std::move(request));
    if (!first) {
      refused = std::move(first).error();
      return;
    }
    for (size_t choice = 0; choice < streams.size(); ++choice)
      streams[choice]->id_ = *first + static_cast<RequestId>(choice);
    try {
      for (const auto& stream : streams) streams_[stream->id_] = stream->queue_;
    } catch (...) {
      for (const auto& stream : streams) engine.cancel(stream->id_);
      throw;
    }
  };
  try {
    call(enter);
  } catch (const std::bad_alloc& error) {
    refused.emplace();
    refused->kind = Refusal::Kind::out_of_memory;
    refused->message = memory_error(error, "a request was taken").message;
  }
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
  cancel_all_ = true;
  idle_.wait(lock, [&] { return is_idle_; });
  return false;
}

// Whether the reader may have this event: not behind one that it missed.
bool EngineService::keep(RequestStream::Queue& queue, Event& event) {
  using Loss = RequestStream::Loss;
  if (queue.loss != Loss::none) return false;
  try {
    if (queue.events.size() < max_unread_events_) {
      queue.events.push_back(std::move(event));
    } else {
      queue.loss = Loss::unread;
    }
  } catch (const std::bad_alloc&) {
    queue.loss = Loss::memory;
  }
  return queue.loss == Loss::none;
}

void EngineService::explain_loss(const RequestStream::Queue& queue, Event& event) {
  using Loss = RequestStream::Loss;
  if (queue.loss == Loss::none) return;
  event.reason = FinishReason::error;
  event.temporary = queue.loss == Loss::memory;
  try {
    event.error = event.temporary
                      ? "out of memory for the tokens of the answer"
                      : fmt::format("the answer was not read: {} tokens wait", queue.events.size());
  } catch (const std::bad_alloc&) {
    event.error.clear();
  }
}

void EngineService::deliver(Event event) {
  const auto it = streams_.find(event.request);
  if (it == streams_.end()) return;
  const auto queue = it->second;
  Mailbox& mailbox = *queue->mailbox;
  {
    std::lock_guard lock(mailbox.mutex_);
    if (event.kind == Event::Kind::finished) {
      streams_.erase(it);
      explain_loss(*queue, event);
      queue->last = std::move(event);
    } else if (!keep(*queue, event)) {
      engine_.cancel(event.request);
      return;
    }
    ++mailbox.version_;
  }
  mailbox.ready_.notify_all();
}

// One step; where there is no memory even to plan it, all that run end.
void EngineService::step() {
  for (const auto& [id, queue] : streams_)
    if (queue->cancelled.load()) engine_.cancel(id);
  try {
    for (Event& event : engine_.step()) deliver(std::move(event));
  } catch (const std::bad_alloc&) {
    engine_.give_up();
    keep_memory_back();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // others are giving up, too
  }
}

void EngineService::loop() {
  for (bool stop = false; !stop || !engine_.idle();) {
    std::vector<std::function<void(Engine&)>> commands;
    bool cancel_all = false;
    {
      std::unique_lock lock(mutex_);
      if (engine_.idle() && inbox_.empty()) {
        is_idle_ = true;
        idle_.notify_all();
        wake_.wait(lock, [&] { return stop_ || !inbox_.empty(); });
      }
      stop = stop_ && inbox_.empty();
      cancel_all = std::exchange(cancel_all_, false) || stop;  // whoever still waits is told
      is_idle_ = false;
      commands.swap(inbox_);
    }
    for (auto& command : commands) command(engine_);
    for (const auto& [id, queue] : streams_)
      if (cancel_all) engine_.cancel(id);
    step();
  }
}

}  // namespace heddle::engine
