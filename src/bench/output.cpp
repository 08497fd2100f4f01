#include "bench/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "backend/target.h"

namespace heddle::bench {
namespace {

using Json = nlohmann::ordered_json;

// Six significant digits: more would be noise.
double rounded(double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  const double unit = std::pow(10.0, std::floor(std::log10(std::abs(value))) - 5);
  return unit < 1 ? std::round(value / unit) / std::round(1 / unit)
                  : std::round(value / unit) * unit;
}

Json to_json(const Record& record) {
  Json object = Json::object();
  for (const Field& field : record) {
    std::visit(
        [&](const auto& value) {
          using T = std::decay_t<decltype(value)>;
          if constexpr (std::is_same_v<T, Record>) {
            object[field.name] = to_json(value);
          } else if constexpr (std::is_same_v<T, Stats>) {
            object[field.name] = {{"median", rounded(value.median)},
                                  {"min", rounded(value.min)},
                                  {"max", rounded(value.max)}};
          } else if constexpr (std::is_same_v<T, std::vector<double>>) {
            object[field.name] = Json::array();
            for (const double number : value) object[field.name].push_back(rounded(number));
          } else if constexpr (std::is_same_v<T, double>) {
            object[field.name] = rounded(value);
          } else {
            object[field.name] = value;
          }
        },
        field.value);
  }
  return object;
}

}  // namespace

Stats stats_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  const double median = n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
  return {median, values.front(), values.back()};
}

void Output::line(const Record& record, const std::string& text) const {
  const std::string shown =
      json_ ? to_json(record).dump(-1, ' ', false, Json::error_handler_t::replace) : text;
  fmt::print("{}\n", shown);
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
