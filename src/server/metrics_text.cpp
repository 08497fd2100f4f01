#include "server/metrics_text.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <ctime>
#include <fstream>

namespace heddle::server {
namespace {

std::string escaped(std::string_view value) {
  std::string result;
  for (const char c : value) {
    if (c == '\\' || c == '"') result += '\\';
    if (c == '\n') {
      result += "\\n";
      continue;
    }
    result += c;
  }
  return result;
}

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  return fmt::format("{}", value);
}

int64_t open_descriptors() {
  DIR* directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  int64_t count = -3;  // ".", ".." and the directory itself
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

void put_requests(MetricsWriter& out, const engine::EngineMetrics& m) {
  out.family("num_requests_running", "gauge", "Requests in the batch");
  out.sample(m.running);
  out.family("num_requests_waiting", "gauge", "Requests in the queue");
  out.sample(m.waiting);
  out.family("request_success_total", "counter", "Requests that ended, by how");
  for (int r = 0; r < engine::kFinishReasons; ++r) {
    const auto reason = static_cast<engine::FinishReason>(r);
    // "abort" is what the field calls it.
    const auto name =
        reason == engine::FinishReason::cancelled ? "abort" : engine::finish_reason_name(reason);
    out.sample(m.requests_finished[static_cast<size_t>(r)], {{"finished_reason", name}});
  }
  out.family("requests_submitted_total", "counter", "Requests that were taken");
  out.sample(m.requests_submitted);
  out.family("requests_refused_total", "counter", "Requests refused because the queue was full");
  out.sample(m.requests_refused);
}

void put_tokens(MetricsWriter& out, const engine::EngineMetrics& m) {
  out.family("prompt_tokens_total", "counter", "Prompt tokens, of requests that have started");
  out.sample(m.prompt_tokens);
  out.family("prompt_tokens_cached_total", "counter",
             "Of them, tokens whose state came from the prefix cache or from another request");
  out.sample(m.cached_tokens);
  out.family("prompt_tokens_computed_total", "counter", "Of them, tokens that the model has read");
  out.sample(m.computed_prompt_tokens);
  out.family("generation_tokens_total", "counter", "Output tokens");
  out.sample(m.output_tokens);
  out.family("engine_steps_total", "counter", "Steps of the engine");
  out.sample(m.steps);
  out.histogram("iteration_tokens", m.rows_per_step, "Tokens of one engine step");
  out.histogram("request_prompt_tokens", m.prompt_length, "Prompt tokens of a request");
  out.histogram("request_prefill_kv_computed_tokens", m.computed_prompt_length,
                "Prompt tokens of a request that were not cached: what its first token waits for");
  out.histogram("request_generation_tokens", m.output_length, "Output tokens of a request");
}

void put_times(MetricsWriter& out, const engine::EngineMetrics& m) {
  out.histogram("time_to_first_token_seconds", m.time_to_first_token,
                "From a request's arrival to its first token");
  out.histogram("inter_token_latency_seconds", m.inter_token, "Between two tokens of a request");
  out.histogram("e2e_request_latency_seconds", m.end_to_end, "From a request's arrival to its end");
  out.histogram("request_queue_time_seconds", m.queue, "A request's time in the queue");
  out.histogram("request_prefill_time_seconds", m.prefill,
                "From a request's first step to its first token");
  out.histogram("request_decode_time_seconds", m.decode,
                "From a request's first token to its last");
}

void put_state(MetricsWriter& out, const engine::EngineMetrics& m) {
  out.family("prefix_cache_queries_total", "counter",
             "Prompt tokens looked up in the prefix cache");
  out.sample(m.cache_queried_tokens);
  out.family("prefix_cache_hits_total", "counter", "Prompt tokens found in the prefix cache");
  out.sample(m.cached_tokens);
  out.family("kv_cache_usage_perc", "gauge",
             "State that running sequences reserve, of what is configured; 1 is all of it");
  out.sample(m.state_limit_bytes > 0 ? static_cast<double>(m.state_reserved_bytes) /
                                           static_cast<double>(m.state_limit_bytes)
                                     : 0.0);
  out.family("state_bytes", "gauge",
             "State held by sequences and the prefix cache, by growth class");
  const char* const growth[] = {"per_token", "window", "folded"};
  static_assert(std::size(growth) == state::kGrowthClasses);
  for (size_t g = 0; g < state::kGrowthClasses; ++g)
    out.sample(m.state_bytes_by_growth[g], {{"growth", growth[g]}});
  out.family("state_limit_bytes", "gauge", "State memory that is configured");
  out.sample(m.state_limit_bytes);
  out.family("state_reserved_bytes", "gauge", "State that running sequences may come to hold");
  out.sample(m.state_reserved_bytes);
  out.family("prefix_cache_bytes", "gauge",
             "State that the prefix cache refers to; unreachable: no resume point can use it");
  out.sample(m.cache_bytes - m.cache_unreachable_bytes, {{"reach", "reachable"}});
  out.sample(m.cache_unreachable_bytes, {{"reach", "unreachable"}});
  out.family("prefix_cache_resume_points", "gauge", "Exact positions kept to resume from");
  out.sample(m.cache_points);
  out.family("prefix_cache_blocks", "gauge", "Blocks of 64 tokens in the prefix cache");
  out.sample(m.cache_blocks);
  out.family("prefix_cache_evictions_total", "counter", "What the prefix cache has dropped");
  out.sample(m.cache_evicted_points, {{"kind", "resume_point"}});
  out.sample(m.cache_evicted_blocks, {{"kind", "block"}});
}

void put_server(MetricsWriter& out, const ServerFigures& server) {
  out.family("http_requests_total", "counter", "HTTP answers by path and status");
  for (const auto& [key, count] : server.http)
    out.sample(count, {{"path", key.first}, {"status", std::to_string(key.second)}});
  out.family("http_connections", "gauge", "Open connections");
  out.sample(server.connections);
  out.family("http_connections_turned_away_total", "counter", "Connections beyond the limit");
  out.sample(server.connections_turned_away);
  out.family("draining", "gauge", "1 while the server finishes its last answers");
  out.sample(int64_t{server.draining});
}

// The names that Prometheus gives to what every process has.
std::string process_text() {
  std::string text;
  const auto put = [&](const char* name, const char* type, const char* help, double value) {
    text += fmt::format("# HELP {} {}\n# TYPE {} {}\n{} {}\n", name, help, name, type, name,
                        number(value));
  };
  std::ifstream statm("/proc/self/statm");
  int64_t pages = 0;
  int64_t resident = 0;
  statm >> pages >> resident;
  put("process_resident_memory_bytes", "gauge", "Resident memory",
      static_cast<double>(resident * ::sysconf(_SC_PAGESIZE)));
  put("process_open_fds", "gauge", "Open file descriptors",
      static_cast<double>(open_descriptors()));
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  put("process_cpu_seconds_total", "counter", "User and system time",
      seconds(usage.ru_utime) + seconds(usage.ru_stime));
  return text;
}

}  // namespace

MetricsWriter::MetricsWriter(const Labels& common) {
  for (const auto& [name, value] : common)
    common_ += fmt::format("{}{}=\"{}\"", common_.empty() ? "" : ",", name, escaped(value));
}

std::string MetricsWriter::label_text(const Labels& labels) const {
  std::string text = common_;
  for (const auto& [name, value] : labels)
    text += fmt::format("{}{}=\"{}\"", text.empty() ? "" : ",", name, escaped(value));
  return text;
}

void MetricsWriter::line(std::string_view suffix, const std::string& labels,
                         const std::string& value) {
  text_ += fmt::format("{}{}{{{}}} {}\n", name_, suffix, labels, value);
}

void MetricsWriter::family(std::string_view name, std::string_view type, std::string_view help) {
  name_ = fmt::format("heddle:{}", name);
  text_ += fmt::format("# HELP {} {}.\n# TYPE {} {}\n", name_, help, name_, type);
}

void MetricsWriter::sample(double value, const Labels& labels) {
  line("", label_text(labels), number(value));
}

void MetricsWriter::sample(int64_t value, const Labels& labels) {
  line("", label_text(labels), std::to_string(value));
}

void MetricsWriter::histogram(std::string_view name, const engine::Histogram& histogram,
                              std::string_view help) {
  family(name, "histogram", help);
  int64_t count = 0;
  for (size_t i = 0; i < histogram.counts().size(); ++i) {
    count += histogram.counts()[i];
    const std::string bound =
        i < histogram.bounds().size() ? number(histogram.bounds()[i]) : "+Inf";
    line("_bucket", label_text({{"le", bound}}), std::to_string(count));
  }
  line("_sum", label_text({}), number(histogram.sum()));
  line("_count", label_text({}), std::to_string(histogram.count()));
}

void HttpCounters::count(const std::string& path, int status) {
  std::lock_guard lock(mutex_);
  ++counts_[{path, status}];
}

std::map<std::pair<std::string, int>, int64_t> HttpCounters::all() const {
  std::lock_guard lock(mutex_);
  return counts_;
}

std::string metrics_text(const std::string& model, const engine::EngineMetrics& engine,
                         const ServerFigures& server) {
  MetricsWriter out({{"model_name", model}});
  put_requests(out, engine);
  put_tokens(out, engine);
  put_times(out, engine);
  put_state(out, engine);
  put_server(out, server);
  return out.text() + process_text();
}

}  // namespace heddle::server
