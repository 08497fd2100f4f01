#pragma once
// Where the time of a step goes: seconds, calls and work of named parts. Without a profile in the
// context a scope costs one comparison and its work is not counted.
#include <chrono>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "backend/context.h"

namespace heddle::backend {

// What a part cannot do without: bytes of weights and state that are read once, and arithmetic
// (multiply and add count as two).
struct Work {
  double bytes = 0;
  double int8_ops = 0;
  double fp32_flops = 0;

  Work& operator+=(const Work& other) {
    bytes += other.bytes;
    int8_ops += other.int8_ops;
    fp32_flops += other.fp32_flops;
    return *this;
  }
};

// Owned by the thread that runs the steps.
class Profile {
 public:
  struct Part {
    const char* name = "";  // a literal
    int64_t calls = 0;
    double seconds = 0;  // without the parts inside
    Work work;
  };
  // In the order in which they first ended.
  std::span<const Part> parts() const { return parts_; }
  double seconds() const {  // of all parts
    double sum = 0;
    for (const Part& part : parts_) sum += part.seconds;
    return sum;
  }
  void clear() { parts_.clear(); }

 private:
  friend class ProfileScope;
  Part& part(const char* name) {
    for (Part& known : parts_) {
      if (known.name == name || std::strcmp(known.name, name) == 0) return known;
    }
    parts_.push_back({name});
    return parts_.back();
  }
  std::vector<Part> parts_;
  double inside_ = 0;  // seconds of the scopes that ended inside the open one
};

// The time from here to the end of the block belongs to the part `name`, but for what scopes inside
// it take. `work`: called only when there is a profile, and inside the part, whose time it counts
// to.
class ProfileScope {
 public:
  template <class F>
  ProfileScope(const Context& ctx, const char* name, F&& work) : profile_(ctx.profile) {
    if (profile_ == nullptr) return;
    start(name);
    work_ = work();
  }
  ProfileScope(const Context& ctx, const char* name) : profile_(ctx.profile) {
    if (profile_ != nullptr) start(name);
  }
  ~ProfileScope() {
    if (profile_ != nullptr) stop();
  }
  ProfileScope(const ProfileScope&) = delete;
  ProfileScope& operator=(const ProfileScope&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  void start(const char* name) {
    name_ = name;
    outside_ = profile_->inside_;
    profile_->inside_ = 0;
    begin_ = Clock::now();
  }
  void stop() {
    const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
    Profile::Part& part = profile_->part(name_);
    ++part.calls;
    part.seconds += seconds - profile_->inside_;
    part.work += work_;
    profile_->inside_ = outside_ + seconds;
  }

  Profile* profile_;
  const char* name_ = "";
  Work work_;
  double outside_ = 0;
  Clock::time_point begin_;
};

}  // namespace heddle::backend
