#pragma once
// What a computation runs on: threads, scratch memory and the set of kernels. Passed explicitly
// everywhere.
#include "backend/arena.h"
#include "base/thread_pool.h"

namespace heddle::backend {

// reference: the float64 specification of every operation (`--kernels=reference`). cpu: the fast
// kernels.
enum class KernelSet : uint8_t { reference, cpu };

class Profile;

struct Context {
  ThreadPool& pool;
  Arena& scratch;
  KernelSet kernels = KernelSet::cpu;
  Profile* profile = nullptr;  // where the time goes (backend/profile.h); null: nobody asks

  bool reference() const { return kernels == KernelSet::reference; }
};

}  // namespace heddle::backend
