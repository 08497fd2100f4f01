#include "server/metrics_text.h"

#include <gtest/gtest.h>

#include "server/request_log.h"

namespace heddle::server {
namespace {

TEST(MetricsText, HistogramsAreCumulative) {
  const double bounds[] = {1, 2};
  engine::Histogram histogram(bounds);
  for (const double value : {0.5, 1.0, 1.5, 9.0}) histogram.observe(value);
  MetricsWriter out(MetricsWriter::Labels{{"model_name", "m"}});
  out.histogram("x", histogram, "What it is");
  EXPECT_EQ(out.text(),
            "# HELP heddle:x What it is.\n# TYPE heddle:x histogram\n"
            "heddle:x_bucket{model_name=\"m\",le=\"1\"} 2\n"
            "heddle:x_bucket{model_name=\"m\",le=\"2\"} 3\n"
            "heddle:x_bucket{model_name=\"m\",le=\"+Inf\"} 4\n"
            "heddle:x_sum{model_name=\"m\"} 12\n"
            "heddle:x_count{model_name=\"m\"} 4\n");
}

TEST(MetricsText, LabelsAreEscaped) {
  MetricsWriter out(MetricsWriter::Labels{{"model_name", "a\"b\\c\nd"}});
  out.family("x", "gauge", "X");
  out.sample(int64_t{1});
  EXPECT_NE(out.text().find("heddle:x{model_name=\"a\\\"b\\\\c\\nd\"} 1\n"), std::string::npos)
      << out.text();
}

TEST(RequestLog, NoClientBreaksALine) {
  RequestRecord record;
  record.method = "GET";
  record.path = "/a\nb\x1b[31m";
  record.peer = "::1";
  record.status = 404;
  EXPECT_EQ(record_text(record), "GET /a?b?[31m 404 from ::1");
  record.path = "/\xff";
  EXPECT_EQ(record_json(record).find('\xff'), std::string::npos) << record_json(record);
}

}  // namespace
}  // namespace heddle::server
