#include "server/http/listener.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/out_of_memory.h"

namespace heddle::server {
namespace {

// Connections beyond the limit that still get an answer: health checks, and "try again later".
constexpr int64_t kSpare = 16;

}  // namespace

HttpListener::HttpListener(HttpListenerOptions options, HttpHandler& handler)
    : options_(std::move(options)), handler_(handler) {}

HttpListener::~HttpListener() {
  for (Client& client : clients_) {
    client.connection->abort();
    client.thread.join();
  }
}

Status HttpListener::bind() {
  HEDDLE_TRY(socket_, listen_on(options_.host, options_.port));
  return {};
}

void HttpListener::serve() {
  while (true) {
    pollfd entries[] = {{socket_.fd.get(), POLLIN, 0}, {wake_.fd(), POLLIN, 0}};
    if (::poll(entries, 2, -1) < 0) continue;  // a signal
    if ((entries[1].revents & POLLIN) != 0) {
      wake_.clear();
      reap();
    }
    {
      std::lock_guard lock(mutex_);
      if (stopping_) break;
    }
    if ((entries[0].revents & POLLIN) != 0) accept_one();
  }
  socket_.fd.reset();
  end_all();
}

void HttpListener::accept_one() {
  FileDescriptor fd(::accept4(socket_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) {
    // Out of descriptors or memory: it stays in the kernel's queue until there is room.
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return;
  }
  const int64_t open = open_.load();
  if (open >= options_.max_connections) ++turned_away_;
  if (open >= options_.max_connections + kSpare) return;
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  try {
    std::list<Client> one;
    start(one.emplace_back(), fd.get(), open >= options_.max_connections);
    one.back().fd = std::move(fd);
    clients_.splice(clients_.end(), one);
    ++open_;
  } catch (const std::bad_alloc&) {  // nor when there are no more threads
    ++turned_away_;
    (void)write_all(fd.get(), handler_.out_of_memory(), std::chrono::milliseconds(0));
  }
}

// Throws std::bad_alloc.
void HttpListener::start(Client& client, int fd, bool over_capacity) {
  client.connection =
      std::make_unique<HttpConnection>(fd, prepare_client(fd), over_capacity, options_.limits,
                                       options_.timeouts, handler_, watcher_);
  client.thread = start_thread("a connection", [this, &client] {
    client.connection->run();
    client.done.store(true);
    wake_.set();
  });
}

void HttpListener::reap() {
  std::list<Client> ended;
  {
    std::lock_guard lock(mutex_);
    for (auto it = clients_.begin(); it != clients_.end();) {
      const auto next = std::next(it);
      if (it->done.load()) ended.splice(ended.end(), clients_, it);
      it = next;
    }
  }
  for (Client& client : ended) client.thread.join();
  open_ -= static_cast<int64_t>(ended.size());
}

void HttpListener::end_all() {
  while (true) {
    reap();
    Clock::time_point end_by;
    {
      std::lock_guard lock(mutex_);
      if (clients_.empty()) return;
      end_by = end_by_;
      if (Clock::now() >= end_by)
        for (Client& client : clients_) client.connection->abort();
    }
    (void)wait_readable(wake_.fd(), std::max(end_by, Clock::now() + std::chrono::milliseconds(50)));
    wake_.clear();
  }
}

void HttpListener::stop(std::chrono::milliseconds limit) {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    end_by_ = Clock::now() + limit;
    for (Client& client : clients_) client.connection->stop();
  }
  wake_.set();
}

}  // namespace heddle::server
