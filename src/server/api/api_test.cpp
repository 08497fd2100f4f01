#include "server/api/api.h"

#include <gtest/gtest.h>

namespace heddle::server {
namespace {

std::string chat_error(const std::string& body) {
  auto request = parse_chat_request(body, {});
  return request ? "accepted" : request.error().message;
}

TEST(ChatRequest, ReadsTheCommonFields) {
  auto request = parse_chat_request(
      R"({"model":"m","messages":[{"role":"user","content":"hi"}],"temperature":0.5,
    "max_tokens":7,"stop":["a","b"],"stream":true,"stream_options":{"include_usage":true},"logit_bias":{"5":-3},
    "logprobs":true,"top_logprobs":2,"seed":11})",
      {});
  ASSERT_TRUE(request.has_value()) << request.error().message;
  EXPECT_EQ(request->generation.engine.sampling.temperature, 0.5);
  EXPECT_EQ(request->generation.engine.max_tokens, 7);
  EXPECT_EQ(request->generation.stops.size(), 2u);
  EXPECT_TRUE(request->stream && request->include_usage);
  EXPECT_EQ(request->generation.engine.sampling.logit_bias.at(0).first, 5);
  EXPECT_EQ(request->generation.engine.sampling.logprobs, 2);
  EXPECT_EQ(request->generation.engine.sampling.seed, 11u);
}

TEST(ChatRequest, JoinsTextPartsAndRefusesOthers) {
  auto request = parse_chat_request(
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]})",
      {});
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->messages.items()[0].find("content")->as_string(), "a\nb");
  EXPECT_NE(chat_error(
                R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]})")
                .find("type text"),
            std::string::npos);
}

TEST(ChatRequest, NamesTheFieldAtFault) {
  EXPECT_NE(chat_error("").find("not JSON"), std::string::npos);
  EXPECT_NE(chat_error("[]").find("not a JSON object"), std::string::npos);
  EXPECT_NE(chat_error("{}").find("messages"), std::string::npos);
  EXPECT_NE(chat_error(R"({"messages":[]})").find("at least one"), std::string::npos);
  EXPECT_NE(chat_error(R"({"messages":[{"role":"user"}]})").find("messages[0].content"),
            std::string::npos);
  const std::string head = R"({"messages":[{"role":"user","content":"x"}],)";
  for (const auto& [field, name] : std::vector<std::pair<std::string, std::string>>{
           {R"("temperature":"hot"})", "temperature"},
           {R"("temperature":-1})", "temperature"},
           {R"("top_p":0})", "top_p"},
           {R"("max_tokens":-5})", "max_tokens"},
           {R"("max_tokens":1.5})", "max_tokens"},
           {R"("stop":[1]})", "stop"},
           {R"("stop":""})", "stop"},
           {R"("n":0})", "n:"},
           {R"("n":65})", "n:"},
           {R"("best_of":2})", "best_of"},
           {R"("stream":"yes"})", "stream"},
           {R"("logit_bias":{"x":1}})", "logit_bias"},
           {R"("top_logprobs":3})", "top_logprobs"},
           {R"("tools":{}})", "tools"},
           {R"("response_format":{"type":"json_object"}})", "response_format"},
           {R"("chat_template_kwargs":[]})", "chat_template_kwargs"}}) {
    EXPECT_NE(chat_error(head + field).find(name), std::string::npos)
        << field << " -> " << chat_error(head + field);
  }
}

TEST(CompletionRequest, AcceptsTextIdsAndListsOfThem) {
  const auto prompts = [](const std::string& prompt) {
    auto request = parse_completion_request(R"({"max_tokens":3,"prompt":)" + prompt + "}", {});
    return request ? static_cast<int>(request->prompts.size()) : -1;
  };
  EXPECT_EQ(prompts(R"("a")"), 1);
  EXPECT_EQ(prompts(R"(["a","b"])"), 2);
  EXPECT_EQ(prompts("[1,2,3]"), 1);
  EXPECT_EQ(prompts("[[1,2],[3]]"), 2);
  EXPECT_EQ(prompts("[]"), -1);
  EXPECT_EQ(prompts("[1,\"a\"]"), -1);
  EXPECT_EQ(prompts("[-1]"), -1);
  EXPECT_EQ(prompts("7"), -1);
}

TEST(CompletionRequest, ScoresThePromptForEchoWithLogprobs) {
  auto request =
      parse_completion_request(R"({"prompt":"a","echo":true,"logprobs":1,"max_tokens":0})", {});
  ASSERT_TRUE(request.has_value());
  EXPECT_TRUE(request->generation.engine.score_prompt);
  EXPECT_FALSE(parse_completion_request(R"({"prompt":"a","max_tokens":0})", {}).has_value());
}

TEST(TokenizeRequest, TakesATextOrAConversation) {
  auto text = parse_tokenize_request(R"({"prompt":"a","return_token_strs":true})");
  ASSERT_TRUE(text.has_value());
  EXPECT_TRUE(text->prompt == "a" && text->add_special && text->with_strings);
  auto chat = parse_tokenize_request(R"({"messages":[{"role":"user","content":"x"}]})");
  ASSERT_TRUE(chat.has_value());
  EXPECT_TRUE(!chat->prompt && !chat->add_special);
  EXPECT_FALSE(parse_tokenize_request("{}").has_value());
  EXPECT_FALSE(parse_detokenize_request(R"({"tokens":[-1]})").has_value());
}

TEST(Refusals, BecomeStatuses) {
  using Kind = engine::Refusal::Kind;
  const auto status = [](Kind kind) {
    engine::Refusal refusal;
    refusal.kind = kind;
    const ApiError error = refusal_error(refusal);
    return std::pair(error.status, error.retry_after > 0);
  };
  EXPECT_EQ(status(Kind::invalid), std::pair(400, false));
  EXPECT_EQ(status(Kind::too_long), std::pair(400, false));
  EXPECT_EQ(status(Kind::too_large), std::pair(400, false));
  EXPECT_EQ(status(Kind::queue_full), std::pair(429, true));
  EXPECT_EQ(status(Kind::out_of_memory), std::pair(503, true));
  EXPECT_EQ(status(Kind::shutting_down), std::pair(503, true));
}

TEST(Usage, CountsAPromptOnce) {
  UsageTotals totals;
  engine::Usage usage;
  usage.prompt_tokens = 10;
  usage.cached_tokens = 4;
  usage.output_tokens = 3;
  totals.add(usage, true);
  totals.add(usage, false);
  EXPECT_EQ(totals.sum.prompt_tokens, 10);
  EXPECT_EQ(totals.sum.cached_tokens, 4);
  EXPECT_EQ(totals.sum.output_tokens, 6);
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStop) {
  serving::StopMatcher matcher({"</end>", "STOP"});
  EXPECT_EQ(matcher.push("hello </e"), "hello ");
  EXPECT_EQ(matcher.push("m> ST"), "</em> ");
  EXPECT_EQ(matcher.push("O"), "");
  EXPECT_EQ(matcher.push("P more"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.flush(), "");
}

TEST(StopMatcher, TheEarliestStopWinsAndFlushGivesTheRest) {
  serving::StopMatcher earliest({"bb", "a"});
  EXPECT_EQ(earliest.push("xxabb"), "xx");
  serving::StopMatcher rest({"abc"});
  EXPECT_EQ(rest.push("xab"), "x");
  EXPECT_EQ(rest.flush(), "ab");
}

TEST(ErrorBody, IsTheShapeThatClientsExpect) {
  EXPECT_EQ(
      error_body({404, "invalid_request_error", "no", "", "not_found"}),
      R"({"error":{"message":"no","type":"invalid_request_error","param":null,"code":"not_found"}})");
  EXPECT_EQ(
      error_body({400, "invalid_request_error", "why \"x\"", "stop"}),
      R"({"error":{"message":"why \"x\"","type":"invalid_request_error","param":"stop","code":null}})");
}

}  // namespace
}  // namespace heddle::server
