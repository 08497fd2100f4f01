#include "server/http_server.h"

#include <fmt/chrono.h>
#include <httplib.h>

#include <atomic>
#include <ctime>
#include <random>

#include "base/hash.h"
#include "base/rng.h"
#include "server/api.h"
#include "server/chat_prompt.h"
#include "server/page.h"

namespace heddle::server {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(
    100);  // how often a waiting connection looks whether its client is there

using Clock = std::chrono::steady_clock;

bool equal_in_constant_time(const std::string& a, const std::string& b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i]) ^
                  static_cast<unsigned char>(b[b.empty() ? 0 : i % b.size()]);
  return difference == 0;
}

void send_error(httplib::Response& response, const ApiError& error) {
  response.status = error.status;
  response.set_content(error_body(error), "application/json");
}

ApiError engine_refusal(const Error& error) {
  ApiError api;
  api.message = error.message;
  if (error.message.find("try again") != std::string::npos ||
      error.message.find("shutting down") != std::string::npos) {
    api.status = 503;
    api.type = "overloaded_error";
  }
  return api;
}

}  // namespace

struct HttpServer::Impl {
  Impl(const ModelHandle& handle, ServerOptions server_options)
      : model(handle), options(std::move(server_options)) {
    std::random_device device;
    seed_base = (static_cast<uint64_t>(device()) << 32) ^ device();
  }

  // An answer under way: the generations of one request and what its client has been told.
  struct Answer {
    AnswerHeader header;
    std::vector<std::unique_ptr<Generation>> generations;
    bool chat = false;
    bool stream = false;
    bool include_usage = false;
    bool echo = false;
    bool with_logprobs = false;
    std::vector<std::string> prompt_texts;  // with echo
    UsageTotals usage;
    Clock::time_point started = Clock::now();
    bool first = true;
    bool done = false;
  };

  AnswerHeader header(const char* prefix) {
    AnswerHeader result;
    const uint64_t number = ++request_count;
    result.id = fmt::format("{}{:016x}", prefix, random_u64(seed_base, number));
    result.model = model.name;
    result.created = static_cast<int64_t>(std::time(nullptr));
    return result;
  }

  ApiDefaults defaults() {
    ApiDefaults result;
    result.max_tokens = options.default_max_tokens;
    result.seed = random_u64(seed_base, ~++request_count) >> 1;
    return result;
  }

  // Isolation of the prefix cache: requests share prefixes only under one key.
  static std::string isolation_key(const httplib::Request& request) {
    return request.get_header_value("Authorization");
  }

  bool authorised(const httplib::Request& request) const {
    if (options.api_keys.empty()) return true;
    const std::string header = request.get_header_value("Authorization");
    bool match = false;
    for (const std::string& key : options.api_keys)
      match |= equal_in_constant_time(header, "Bearer " + key);
    return match;
  }

  void log_line(const Answer& answer, const char* outcome) {
    if (!options.log) return;
    const engine::Usage& usage = answer.usage.sum;
    const double total = std::chrono::duration<double>(Clock::now() - answer.started).count();
    const int64_t read = usage.prompt_tokens - usage.cached_tokens;
    options.log(fmt::format(
        "{} {} {} prompt {} (cached {}, {:.0f} tok/s) output {} ({:.1f} tok/s) queue {:.0f} ms "
        "total {:.2f} s",
        answer.header.id, answer.chat ? "chat" : "completion", outcome, usage.prompt_tokens,
        usage.cached_tokens,
        usage.prefill_seconds > 0 ? static_cast<double>(read) / usage.prefill_seconds : 0.0,
        usage.output_tokens,
        usage.decode_seconds > 0
            ? static_cast<double>(usage.output_tokens - 1) / usage.decode_seconds
            : 0.0,
        usage.queue_seconds * 1e3, total));
  }

  Result<void> start(Answer& answer, GenerationRequest request) {
    answer.with_logprobs = request.engine.sampling.logprobs >= 0;
    HEDDLE_TRY(auto generation, Generation::start(model, std::move(request)));
    answer.generations.push_back(std::move(generation));
    return {};
  }

  // The next piece of a generation; nullopt when the client has gone or the time is up.
  std::optional<TextDelta> wait(Answer& answer, Generation& generation,
                                const httplib::DataSink& sink) {
    while (true) {
      if (auto delta = generation.next(kPoll)) return delta;
      const bool late = Clock::now() - answer.started > options.request_timeout;
      if (late || !sink.is_writable()) {
        for (auto& running : answer.generations) running->cancel();
        log_line(answer, late ? "timeout" : "disconnected");
        return std::nullopt;
      }
    }
  }

  static bool send_event(httplib::DataSink& sink, const std::string& body) {
    const std::string event = "data: " + body + "\n\n";
    return sink.is_writable() && sink.write(event.data(), event.size());
  }

  bool stream_piece(Answer& answer, httplib::DataSink& sink) {
    Generation& generation = *answer.generations[0];
    const auto delta = wait(answer, generation, sink);
    if (!delta) return false;
    if (delta->finished) answer.usage.add(delta->usage);
    if (!delta->error.empty()) {
      ApiError error;
      error.status = 500;
      error.type = "server_error";
      error.message = delta->error;
      send_event(sink, error_body(error));
    } else if (answer.first || delta->finished || !delta->text.empty() || !delta->tokens.empty()) {
      const std::string body =
          answer.chat ? chat_chunk_body(answer.header, *delta, answer.first, answer.with_logprobs)
                      : completion_chunk_body(answer.header, 0, *delta, answer.with_logprobs);
      answer.first = false;
      if (!send_event(sink, body)) {
        generation.cancel();
        log_line(answer, "disconnected");
        return false;
      }
    }
    if (!delta->finished) return true;
    if (answer.include_usage)
      send_event(sink, usage_chunk_body(answer.header, answer.chat, answer.usage));
    send_event(sink, "[DONE]");
    log_line(answer, engine::finish_reason_name(delta->reason).data());
    sink.done();
    return true;
  }

  bool whole_answer(Answer& answer, httplib::DataSink& sink) {
    std::vector<Choice> choices;
    std::string failure;
    for (size_t i = 0; i < answer.generations.size(); ++i) {
      Choice choice;
      choice.index = static_cast<int64_t>(i);
      choice.with_logprobs = answer.with_logprobs;
      std::vector<ScoredToken> output;
      while (true) {
        const auto delta = wait(answer, *answer.generations[i], sink);
        if (!delta) return false;
        choice.text += delta->text;
        output.insert(output.end(), delta->tokens.begin(), delta->tokens.end());
        if (!delta->finished) continue;
        answer.usage.add(delta->usage);
        choice.finish_reason = engine::finish_reason_name(delta->reason);
        if (!delta->error.empty()) failure = delta->error;
        break;
      }
      if (answer.echo) {
        choice.text = answer.prompt_texts[i] + choice.text;
        choice.tokens = answer.generations[i]->prompt_scores();
      }
      choice.tokens.insert(choice.tokens.end(), output.begin(), output.end());
      choices.push_back(std::move(choice));
    }
    std::string body;
    if (!failure.empty()) {
      ApiError error;
      error.status = 500;
      error.type = "server_error";
      error.message = failure;
      body = error_body(error);
    } else {
      body = answer.chat ? chat_body(answer.header, choices[0], answer.usage)
                         : completion_body(answer.header, choices, answer.usage);
    }
    log_line(answer, choices[0].finish_reason.c_str());
    sink.write(body.data(), body.size());
    sink.done();
    return true;
  }

  // Hands the answer to the connection, piece by piece. Dropping the answer cancels what still
  // runs.
  void respond(std::shared_ptr<Answer> answer, httplib::Response& response) {
    if (answer->stream) {
      response.set_header("Cache-Control", "no-cache");
      response.set_chunked_content_provider(
          "text/event-stream",
          [this, answer](size_t, httplib::DataSink& sink) { return stream_piece(*answer, sink); });
    } else {
      response.set_chunked_content_provider(
          "application/json",
          [this, answer](size_t, httplib::DataSink& sink) { return whole_answer(*answer, sink); });
    }
  }

  void chat(const httplib::Request& http, httplib::Response& response) {
    auto request = parse_chat_request(http.body, defaults());
    if (!request) return send_error(response, request.error());
    ChatOptions chat_options;
    chat_options.add_generation_prompt = request->add_generation_prompt;
    chat_options.template_arguments = request->template_arguments;
    auto prompt = render_chat(model, request->messages, request->tools, chat_options);
    if (!prompt) {
      ApiError error;
      error.message = prompt.error().message;
      error.param = "messages";
      return send_error(response, error);
    }
    auto answer = std::make_shared<Answer>();
    answer->header = header("chatcmpl-");
    answer->chat = true;
    answer->stream = request->stream;
    answer->include_usage = request->include_usage;
    GenerationRequest generation = std::move(request->generation);
    generation.engine.prompt = std::move(prompt->tokens);
    generation.engine.checkpoints = std::move(prompt->checkpoints);
    generation.engine.isolation_key = isolation_key(http);
    if (auto started = start(*answer, std::move(generation)); !started)
      return send_error(response, engine_refusal(started.error()));
    respond(std::move(answer), response);
  }

  void completion(const httplib::Request& http, httplib::Response& response) {
    auto request = parse_completion_request(http.body, defaults());
    if (!request) return send_error(response, request.error());
    auto answer = std::make_shared<Answer>();
    answer->header = header("cmpl-");
    answer->stream = request->stream;
    answer->include_usage = request->include_usage;
    answer->echo = request->echo;
    for (const auto& prompt : request->prompts) {
      GenerationRequest generation = request->generation;
      if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
        generation.engine.prompt = *ids;
      } else {
        text::EncodeOptions encode;
        encode.parse_special = true;
        generation.engine.prompt = model.tokenizer.encode(std::get<std::string>(prompt), encode);
      }
      if (request->echo) {
        for (const int32_t token : generation.engine.prompt)
          if (token < 0 || token >= model.tokenizer.vocab_size())
            return send_error(response,
                              {400, "invalid_request_error",
                               fmt::format("token {} is not in the vocabulary", token), "prompt"});
        answer->prompt_texts.push_back(model.tokenizer.decode(generation.engine.prompt));
      }
      generation.engine.isolation_key = isolation_key(http);
      if (auto started = start(*answer, std::move(generation)); !started)
        return send_error(response, engine_refusal(started.error()));
    }
    respond(std::move(answer), response);
  }

  void models(const httplib::Request&, httplib::Response& response) {
    const auto entry = text::Value::map({{"id", model.name},
                                         {"object", "model"},
                                         {"created", started_at},
                                         {"owned_by", "heddle"},
                                         {"max_model_len", model.context_length}});
    const auto body = text::Value::map({{"object", "list"}, {"data", text::Value::list({entry})}});
    response.set_content(*text::to_json(body), "application/json");
  }

  void install() {
    server.new_task_queue = [this] {
      return new httplib::ThreadPool(static_cast<size_t>(options.max_connections));
    };
    server.set_payload_max_length(static_cast<size_t>(options.max_body_bytes));
    server.set_read_timeout(30, 0);
    server.set_write_timeout(30, 0);
    server.set_keep_alive_max_count(1000);
    server.set_keep_alive_timeout(5);
    server.set_tcp_nodelay(true);
    server.set_pre_routing_handler([this](const httplib::Request& request,
                                          httplib::Response& response) {
      // The page itself holds nothing of anybody's, and is where a key is entered.
      if (request.path == "/health" || find_page(request.path) != nullptr || authorised(request))
        return httplib::Server::HandlerResponse::Unhandled;
      response.set_header("WWW-Authenticate", "Bearer");
      send_error(response, {401, "authentication_error",
                            "a valid API key is expected: Authorization: Bearer KEY", ""});
      return httplib::Server::HandlerResponse::Handled;
    });
    server.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
      if (!response.body.empty()) return;
      ApiError error;
      error.status = response.status;
      error.message = response.status == 404
                          ? fmt::format("no such endpoint: {} {}", request.method, request.path)
                      : response.status == 413
                          ? "the body is too large"
                          : fmt::format("the request was refused with status {}", response.status);
      send_error(response, error);
    });
    server.set_exception_handler(
        [](const httplib::Request&, httplib::Response& response, std::exception_ptr) {
          send_error(response, {500, "server_error", "the request failed inside the server", ""});
        });
    const auto handler = [this](void (Impl::*method)(const httplib::Request&, httplib::Response&)) {
      return [this, method](const httplib::Request& request, httplib::Response& response) {
        (this->*method)(request, response);
      };
    };
    server.Post("/v1/chat/completions", handler(&Impl::chat));
    server.Post("/v1/completions", handler(&Impl::completion));
    server.Get("/v1/models", handler(&Impl::models));
    server.Get("/(page/[a-z.]+)?",
               [](const httplib::Request& request, httplib::Response& response) {
                 const PageFile* file = find_page(request.path);
                 if (file == nullptr) {
                   response.status = 404;
                   return;
                 }
                 for (const HeaderLine& header : page_headers())
                   response.set_header(header.name, header.value);
                 response.set_content(file->content.data(), file->content.size(),
                                      page_content_type(*file).data());
               });
    server.Get("/health", [](const httplib::Request&, httplib::Response& response) {
      response.set_content(R"({"status":"ok"})", "application/json");
    });
  }

  const ModelHandle& model;
  ServerOptions options;
  httplib::Server server;
  int port = 0;
  uint64_t seed_base = 0;
  std::atomic<uint64_t> request_count{0};
  int64_t started_at = static_cast<int64_t>(std::time(nullptr));
};

HttpServer::HttpServer(const ModelHandle& model, ServerOptions options)
    : impl_(std::make_unique<Impl>(model, std::move(options))) {
  impl_->install();
}

HttpServer::~HttpServer() = default;

Status HttpServer::bind() {
  const ServerOptions& options = impl_->options;
  if (options.port == 0) {
    impl_->port = impl_->server.bind_to_any_port(options.host);
  } else if (impl_->server.bind_to_port(options.host, options.port)) {
    impl_->port = options.port;
  }
  if (impl_->port <= 0)
    return fail("cannot listen on {}:{}: the address is in use or not of this machine",
                options.host, options.port);
  return {};
}

int HttpServer::port() const { return impl_->port; }

void HttpServer::serve() { impl_->server.listen_after_bind(); }

void HttpServer::stop(std::chrono::milliseconds limit) {
  impl_->model.service.drain(limit);
  impl_->server.stop();
}

}  // namespace heddle::server
