#include "bench/output.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "backend/target.h"
#include "text/template/value.h"
#include "text/utf8.h"

namespace heddle::bench {
namespace {

// Six significant digits: more would be noise.
double rounded(double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  const double unit = std::pow(10.0, std::floor(std::log10(std::abs(value))) - 5);
  return unit < 1 ? std::round(value / unit) / std::round(1 / unit)
                  : std::round(value / unit) * unit;
}

text::Value value_of(const Record& record) {
  std::vector<std::pair<text::Value, text::Value>> entries;
  for (const Field& field : record) {
    entries.emplace_back(field.name,
                         std::visit(
                             [](const auto& value) -> text::Value {
                               using T = std::decay_t<decltype(value)>;
                               if constexpr (std::is_same_v<T, Record>) {
                                 return value_of(value);
                               } else if constexpr (std::is_same_v<T, Stats>) {
                                 return text::Value::map({{"median", rounded(value.median)},
                                                          {"min", rounded(value.min)},
                                                          {"max", rounded(value.max)}});
                               } else if constexpr (std::is_same_v<T, std::vector<double>>) {
                                 std::vector<text::Value> items;
                                 for (const double number : value)
                                   items.emplace_back(rounded(number));
                                 return text::Value::list(std::move(items));
                               } else if constexpr (std::is_same_v<T, double>) {
                                 return rounded(value);
                               } else if constexpr (std::is_same_v<T, std::string>) {
                                 return text::sanitize_utf8(value);
                               } else {
                                 return value;
                               }
                             },
                             field.value));
  }
  return text::Value::map(std::move(entries));
}

}  // namespace

Stats stats_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  const double median = n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
  return {median, values.front(), values.back()};
}

void Output::line(const Record& record, const std::string& text) const {
  fmt::print("{}\n", json_ ? *text::to_json(value_of(record)) : text);
  std::fflush(stdout);
}

Field machine_field(const backend::MachineLimits& limits, int threads) {
  return {"machine", Record{{"threads", int64_t{threads}},
                            {"read_gb_s", limits.read_bytes_per_s / 1e9},
                            {"int8_gop_s", limits.int8_ops / 1e9},
                            {"fp32_gflop_s", limits.fp32_flops / 1e9},
                            {"target", std::string(backend::active_target())}}};
}

std::string machine_text(const backend::MachineLimits& limits, int threads) {
  return fmt::format(
      "{} threads, {}: reads {:.1f} GB/s, int8 {:.0f} GOP/s, fp32 {:.0f} GFLOP/s, measured now",
      threads, backend::active_target(), limits.read_bytes_per_s / 1e9, limits.int8_ops / 1e9,
      limits.fp32_flops / 1e9);
}

}  // namespace heddle::bench
