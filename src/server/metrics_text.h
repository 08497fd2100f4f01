#pragma once
// Metrics in the text format of Prometheus (version 0.0.4). Names and meanings are those that
// dashboards made for vLLM know, with the prefix "heddle:"; docs/server.md lists them.
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/metrics.h"

namespace heddle::server {

// Writes families one after the other: HELP and TYPE once, then the samples.
class MetricsWriter {
 public:
  using Labels = std::vector<std::pair<std::string_view, std::string_view>>;

  // `common` is put on every sample.
  explicit MetricsWriter(const Labels& common);

  // Names of counters end in _total.
  void family(std::string_view name, std::string_view type, std::string_view help);
  void sample(double value, const Labels& labels = {});
  void sample(int64_t value, const Labels& labels = {});
  void histogram(std::string_view name, const engine::Histogram& histogram, std::string_view help);
  const std::string& text() const { return text_; }

 private:
  void line(std::string_view suffix, const std::string& labels, const std::string& value);
  std::string label_text(const Labels& labels) const;

  std::string common_;
  std::string name_;
  std::string text_;
};

// Answers by path and status. Any thread.
class HttpCounters {
 public:
  void count(const std::string& path, int status);
  std::map<std::pair<std::string, int>, int64_t> all() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> counts_;
};

struct ServerFigures {
  int64_t connections = 0;
  int64_t connections_turned_away = 0;
  bool draining = false;
  std::map<std::pair<std::string, int>, int64_t> http;
};

std::string metrics_text(const std::string& model, const engine::EngineMetrics& engine,
                         const ServerFigures& server);

}  // namespace heddle::server
