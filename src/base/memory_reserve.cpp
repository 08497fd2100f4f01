#include "base/memory_reserve.h"

#include <sys/mman.h>

#include <atomic>
#include <new>

namespace heddle {
namespace {

// Of the address space: it is not touched before it is needed.
constexpr size_t kKeptBytes = size_t{1} << 20;

std::atomic<void*>& kept() {
  static std::atomic<void*> memory{nullptr};
  return memory;
}

void give_back_and_throw() {
  if (void* memory = kept().exchange(nullptr); memory != nullptr) ::munmap(memory, kKeptBytes);
  throw std::bad_alloc();
}

}  // namespace

void keep_memory_back() {
  std::set_new_handler(give_back_and_throw);
  if (kept().load() != nullptr) return;
  void* memory = ::mmap(nullptr, kKeptBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  void* none = nullptr;
  if (memory != MAP_FAILED && !kept().compare_exchange_strong(none, memory))
    ::munmap(memory, kKeptBytes);
}

}  // namespace heddle
