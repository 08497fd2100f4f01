#pragma once
// What benches print: JSON lines for scripts, a table for people.
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "backend/machine_limits.h"

namespace heddle::bench {

struct Stats {
  double median = 0, min = 0, max = 0;
};
Stats stats_of(std::vector<double> values);  // not empty

// One line of output: fields in order. Nested ones are objects.
struct Field;
using Record = std::vector<Field>;
struct Field {
  std::string name;
  std::variant<std::string, double, int64_t, bool, Stats, std::vector<double>, Record> value;
};

class Output {
 public:
  explicit Output(bool json) : json_(json) {}
  bool json() const { return json_; }
  // With json: the record as a line. Else: the text, which may hold several lines.
  void line(const Record& record, const std::string& text) const;

 private:
  bool json_;
};

// {"machine": ...} with the threads, the measured limits and the instruction set in use.
Field machine_field(const backend::MachineLimits& limits, int threads);
std::string machine_text(const backend::MachineLimits& limits, int threads);

}  // namespace heddle::bench
