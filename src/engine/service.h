#pragma once
// The engine on a thread of its own. Any thread submits and reads; requests and events cross
// through queues, and nothing below takes a lock.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/engine.h"

namespace heddle::engine {

class EngineService;

// Where a thread waits for the events of one or several requests, or for news from elsewhere.
class Mailbox {
 public:
  // Something happened since version `seen`, or the time is up. Returns the version now.
  uint64_t wait(uint64_t seen, std::chrono::milliseconds timeout);
  // From any thread: wakes who waits.
  void notify();

 private:
  friend class EngineService;
  friend class RequestStream;
  std::mutex mutex_;
  std::condition_variable ready_;
  uint64_t version_ = 0;
};

// The answer to one choice of a request. Read by one thread. Dropping it before it has finished
// cancels the choice.
class RequestStream {
 public:
  ~RequestStream();
  RequestId id() const { return id_; }
  // The next event, waiting up to `timeout`; nullopt when none came. After the finished event
  // nothing follows.
  std::optional<Event> next(std::chrono::milliseconds timeout);
  // Waits as long as it takes. Not after the finished event.
  Event next();
  void cancel();

 private:
  friend class EngineService;
  enum class Loss : uint8_t { none, unread, memory };
  // Ending a request takes no memory: its last event has a place of its own, and so has the wish.
  struct Queue {
    std::shared_ptr<Mailbox> mailbox;  // its mutex guards events and last
    std::deque<Event> events;
    std::optional<Event> last;  // the finished event
    Loss loss = Loss::none;     // why events are missing; engine thread only
    std::atomic<bool> cancelled{false};
  };
  RequestId id_ = 0;
  std::shared_ptr<Queue> queue_ = std::make_shared<Queue>();
  bool finished_ = false;
};

class EngineService {
 public:
  // The executor must outlive the service.
  EngineService(Executor& executor, const EngineOptions& options);
  // Cancels what still runs and joins the thread.
  ~EngineService();

  // Waits for the running step to end. A stream for each choice of the request. Events of several
  // requests may wake one mailbox; without one those of the request have their own. A reader that
  // lets max_unread_events pile up loses its answer (finished with reason error): it never slows
  // the engine, and never grows its memory.
  Admission<std::vector<std::unique_ptr<RequestStream>>> submit(
      Request request, std::shared_ptr<Mailbox> mailbox = nullptr);
  // Runs fn on the engine's thread between two steps and waits for it. What fn throws is thrown
  // here.
  void call(const std::function<void(Engine&)>& fn);
  EngineMetrics metrics();

  // No new requests from now on; true when all running ones ended within `limit`, else the others
  // are cancelled.
  bool drain(std::chrono::milliseconds limit);
  // drain() has begun.
  bool draining();

 private:
  void loop();
  void post(std::function<void(Engine&)> command);
  void step();
  void deliver(Event event);
  bool keep(RequestStream::Queue& queue, Event& event);
  static void explain_loss(const RequestStream::Queue& queue, Event& event);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  std::vector<std::function<void(Engine&)>> inbox_;
  bool stop_ = false;
  bool cancel_all_ = false;
  bool draining_ = false;
  bool is_idle_ = true;
  // Engine thread only.
  Engine engine_;
  const size_t max_unread_events_;
  std::unordered_map<RequestId, std::shared_ptr<RequestStream::Queue>> streams_;
  std::thread thread_;
};

}  // namespace heddle::engine
