#include "server/http/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

#include "base/check.h"
#include "base/out_of_memory.h"

namespace heddle::server {
namespace {

// What the kernel holds for a client that does not read: what it will have missed is bounded.
constexpr int kSendBufferBytes = 64 << 10;
constexpr size_t kReadBytes = 16 << 10;

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

IoResult wait_for(int fd, short events, Clock::time_point deadline) {
  while (true) {
    pollfd entry{fd, events, 0};
    const int ready = ::poll(&entry, 1, milliseconds_until(deadline));
    if (ready > 0) return IoResult::ok;  // errors show at the next read or write
    if (ready < 0 && errno != EINTR) return IoResult::closed;
    if (Clock::now() >= deadline) return IoResult::timeout;
  }
}

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

void FileDescriptor::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

IoResult wait_readable(int fd, Clock::time_point deadline) {
  return wait_for(fd, POLLIN, deadline);
}

static IoResult receive(int fd, std::span<char> buffer, size_t& count, Clock::time_point deadline) {
  while (true) {
    const ssize_t received = ::recv(fd, buffer.data(), buffer.size(), 0);
    count = static_cast<size_t>(std::max<ssize_t>(received, 0));
    if (received > 0) return IoResult::ok;
    if (received == 0) return IoResult::closed;
    if (errno == EINTR) continue;
    if (!would_block(errno)) return IoResult::closed;
    if (const IoResult ready = wait_readable(fd, deadline); ready != IoResult::ok) return ready;
  }
}

IoResult read_some(int fd, std::string& out, Clock::time_point deadline) {
  char buffer[kReadBytes];
  size_t count = 0;
  const IoResult result = receive(fd, buffer, count, deadline);
  out.append(buffer, count);
  return result;
}

IoResult write_all(int fd, std::string_view bytes, std::chrono::milliseconds patience) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count >= 0) {
      bytes.remove_prefix(static_cast<size_t>(count));
      continue;
    }
    if (errno == EINTR) continue;
    if (!would_block(errno)) return IoResult::closed;
    if (const IoResult ready = wait_for(fd, POLLOUT, Clock::now() + patience);
        ready != IoResult::ok)
      return ready;
  }
  return IoResult::ok;
}

void drain_input(int fd, Clock::time_point deadline) {
  ::shutdown(fd, SHUT_WR);
  char dropped[kReadBytes];
  size_t count = 0;
  while (Clock::now() < deadline && receive(fd, dropped, count, deadline) == IoResult::ok) {
  }
}

Result<ListeningSocket> listen_on(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.empty() ? nullptr : host.c_str(),
                                      std::to_string(port).c_str(), &hints, &found);
      error != 0)
    return fail("cannot listen on {}: {}", host, ::gai_strerror(error));
  std::string reason = "no address";
  ListeningSocket result;
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    FileDescriptor fd(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1;
    if (fd) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (!fd || ::bind(fd.get(), address->ai_addr, address->ai_addrlen) != 0 ||
        ::listen(fd.get(), 1024) != 0) {
      reason = std::strerror(errno);
      continue;
    }
    sockaddr_storage bound{};
    socklen_t size = sizeof bound;
    ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &size);
    result.port =
        ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                          : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
    result.fd = std::move(fd);
    break;
  }
  ::freeaddrinfo(found);
  if (!result.fd) return fail("cannot listen on {}:{}: {}", host, port, reason);
  return result;
}

std::string prepare_client(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kSendBufferBytes, sizeof kSendBufferBytes);
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  char host[NI_MAXHOST] = "";
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      ::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof host, nullptr,
                    0, NI_NUMERICHOST) != 0)
    return "?";
  return host;
}

WakeEvent::WakeEvent() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  HEDDLE_CHECK(static_cast<bool>(fd_), "eventfd: {}", std::strerror(errno));
}

void WakeEvent::set() {
  const uint64_t one = 1;
  (void)!::write(fd_.get(), &one, sizeof one);
}

void WakeEvent::clear() {
  uint64_t count = 0;
  (void)!::read(fd_.get(), &count, sizeof count);
}

HangupWatcher::HangupWatcher() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  HEDDLE_CHECK(static_cast<bool>(epoll_), "epoll: {}", std::strerror(errno));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 0;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop_.fd(), &event);
  thread_ = start_thread("watching connections", [this] { loop(); });
}

HangupWatcher::~HangupWatcher() {
  stop_.set();
  thread_.join();
}

uint64_t HangupWatcher::watch(int fd, std::function<void()> on_hangup) {
  std::lock_guard lock(mutex_);
  const uint64_t id = next_id_++;
  watched_.emplace(id, std::move(on_hangup));
  epoll_event event{};
  event.events = EPOLLRDHUP | EPOLLONESHOT;  // errors and hang-ups are always told
  event.data.u64 = id;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) watched_.erase(id);
  return id;
}

void HangupWatcher::forget(uint64_t id, int fd) {
  std::lock_guard lock(mutex_);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  watched_.erase(id);
}

void HangupWatcher::loop() {
  while (true) {
    epoll_event events[32];
    const int count = ::epoll_wait(epoll_.get(), events, std::size(events), -1);
    for (int i = 0; i < count; ++i) {
      if (events[i].data.u64 == 0) return;
      std::lock_guard lock(mutex_);
      const auto it = watched_.find(events[i].data.u64);
      if (it != watched_.end()) it->second();
    }
  }
}

}  // namespace heddle::server
