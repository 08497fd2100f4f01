#include "server/http_server.h"

#include <atomic>
#include <ctime>
#include <random>
#include <span>

#include "base/hash.h"
#include "base/rng.h"
#include "server/api/answer.h"
#include "server/api/api.h"
#include "server/metrics_text.h"
#include "server/page.h"
#include "serving/chat_prompt.h"

namespace heddle::server {
namespace {

// What is still written when everything has been answered and only slow readers are left.
constexpr std::chrono::milliseconds kLastWrites{2000};

// Takes the same time whatever is right in `a`; only its length shows.
bool equal_in_constant_time(std::string_view a, std::string_view b) {
  size_t difference = a.size() ^ b.size();
  for (size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<size_t>(static_cast<unsigned char>(a[i]) ^
                                      static_cast<unsigned char>(b.empty() ? 1 : b[i % b.size()]));
  return difference == 0;
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status;
  response.body = error_body(error);
  if (error.retry_after > 0)
    response.headers.emplace_back("Retry-After", std::to_string(error.retry_after));
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

bool is_json(std::string_view content_type) {
  content_type = content_type.substr(0, content_type.find(';'));
  std::string type;
  for (const char c : content_type)
    if (c != ' ' && c != '\t') type += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return type == "application/json" || type.ends_with("+json");
}

}  // namespace

struct HttpServer::Impl : HttpHandler {
  using Handler = void (Impl::*)(HttpExchange&);
  struct Route {
    const char* method;
    const char* path;  // with a final '/': everything below
    Handler handler;
    bool open;   // needs no key
    bool quiet;  // not in the log
  };

  Impl(const serving::ModelHandle& handle, ServerOptions server_options)
      : model(handle), options(std::move(server_options)), listener(options.http, *this) {
    std::random_device device;
    const auto random = [&] { return (static_cast<uint64_t>(device()) << 32) ^ device(); };
    seed_base = random();
    key_salt = random();
    const std::string body = error_body(out_of_memory_error("out of memory, try again later"));
    apology = fmt::format(
        "HTTP/1.1 503 {}\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
        "Connection: close\r\nContent-Length: {}\r\n\r\n{}",
        status_phrase(503), body.size(), body);
  }

  static std::span<const Route> routes() {
    static constexpr Route table[] = {
        {"POST", "/v1/chat/completions", &Impl::chat, false, false},
        {"POST", "/v1/completions", &Impl::completion, false, false},
        {"POST", "/tokenize", &Impl::tokenize, false, false},
        {"POST", "/detokenize", &Impl::detokenize, false, false},
        {"GET", "/v1/models", &Impl::models, false, false},
        {"GET", "/v1/models/", &Impl::one_model, false, false},
        {"GET", "/metrics", &Impl::metrics, false, true},
        {"GET", "/health", &Impl::health, true, true},
        // The page itself holds nothing of anybody's, and is where a key is entered.
        {"GET", "/", &Impl::page, true, true},
        {"GET", "/page/", &Impl::page, true, true},
    };
    return table;
  }

  // The route of a path; with the wrong method, `allowed` says which is right.
  static const Route* find_route(const HttpRequest& request, std::string* allowed) {
    const std::string& method = request.method;
    for (const Route& route : routes()) {
      const std::string_view path = route.path;
      const bool below = path.size() > 1 && path.ends_with('/') &&
                         request.path.size() > path.size() && request.path.starts_with(path);
      if (!below && request.path != path) continue;
      if (route.handler == &Impl::page && find_page(request.path) == nullptr) continue;
      if (method == route.method || (method == "HEAD" && std::string_view(route.method) == "GET"))
        return &route;
      if (allowed != nullptr) *allowed = route.method;
    }
    return nullptr;
  }

  // The key that the request comes with; null if it is none of ours. Looks at all of them.
  const std::string* matching_key(const HttpRequest& request) const {
    const std::string* header = request.header("authorization");
    constexpr std::string_view kScheme = "bearer ";
    std::string_view given;
    if (header != nullptr && header->size() > kScheme.size()) {
      std::string scheme = header->substr(0, kScheme.size());
      for (char& c : scheme) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
      if (scheme == kScheme) given = std::string_view(*header).substr(kScheme.size());
    }
    const std::string* match = nullptr;
    for (const std::string& key : options.api_keys)
      if (equal_in_constant_time(given, key)) match = &key;
    return match;
  }

  // Cached prefixes are shared inside one key only. The cache knows a salted hash of it, so that no
  // dump of its names tells a key.
  std::string isolation_key(const HttpRequest& request) const {
    const std::string* key = options.shared_cache ? nullptr : matching_key(request);
    if (key == nullptr) return {};
    const Hash128 hash = hash128(std::as_bytes(std::span(*key)), key_salt);
    return fmt::format("{:016x}{:016x}", hash.high, hash.low);
  }

  std::optional<HttpResponse> check(const HttpRequest& head) override {
    std::string allowed;
    const Route* route = find_route(head, &allowed);
    if ((route == nullptr || !route->open) && !options.api_keys.empty() &&
        matching_key(head) == nullptr)
      return error_response({401, "authentication_error",
                             "a valid API key is expected: Authorization: Bearer KEY", "",
                             "invalid_api_key"});
    if (route == nullptr && allowed.empty())
      return error_response({404, "invalid_request_error",
                             fmt::format("no such endpoint: {} {}", head.method, head.path), "",
                             "not_found"});
    if (route == nullptr) {
      HttpResponse response = error_response({405, "invalid_request_error",
                                              fmt::format("{} takes {}", head.path, allowed), "",
                                              "method_not_allowed"});
      response.headers.emplace_back("Allow", allowed == "GET" ? "GET, HEAD" : allowed);
      return response;
    }
    if (route->handler == &Impl::health) return std::nullopt;
    if (head.over_capacity)
      return error_response({503, "overloaded_error", "too many connections, try again later", "",
                             "too_many_connections", 1});
    const std::string* type = head.header("content-type");
    if (std::string_view(route->method) == "POST" && type != nullptr && !is_json(*type))
      return error_response({415, "invalid_request_error",
                             "Content-Type: application/json is expected", "",
                             "unsupported_media_type"});
    return std::nullopt;
  }

  void handle(HttpExchange& exchange) override {
    const Route* route = find_route(exchange.request(), nullptr);
    if (model.service.draining()) exchange.close_after();
    (this->*route->handler)(exchange);
  }

  HttpResponse refusal(const HttpFailure& failure) override {
    ApiError error;
    error.status = failure.status;
    error.message = failure.message;
    error.code = "bad_http_request";
    return error_response(error);
  }

  std::string_view out_of_memory() const override { return apology; }

  void done(const HttpExchange& exchange) override {
    const HttpRequest& request = exchange.request();
    const Route* route = find_route(request, nullptr);
    // Only paths that exist are counted by name: clients must not make labels.
    std::string_view label = route == nullptr ? "other" : route->path;
    if (label.size() > 1 && label.ends_with('/')) label.remove_suffix(1);
    counters.count(std::string(label), exchange.status());
    if (!options.log || exchange.logged() || (route != nullptr && route->quiet)) return;
    RequestRecord record;
    record.method = request.method;
    record.path = request.path;
    record.peer = request.peer;
    record.status = exchange.status();
    options.log(record);
  }

  static void send_json(HttpExchange& exchange, std::string body) {
    HttpResponse response;
    response.body = std::move(body);
    exchange.respond(response);
  }

  static void send_error(HttpExchange& exchange, const ApiError& error) {
    exchange.respond(error_response(error));
  }

  ApiDefaults defaults() {
    ApiDefaults result;
    result.max_tokens = options.default_max_tokens;
    result.seed = random_u64(seed_base, ++request_count) >> 1;
    return result;
  }

  AnswerOptions answer_options(const char* prefix) {
    AnswerOptions result;
    result.header.id = fmt::format("{}{:016x}", prefix, random_u64(~seed_base, ++request_count));
    result.header.model = model.name;
    result.header.created = static_cast<int64_t>(std::time(nullptr));
    result.timeout = options.request_timeout;
    return result;
  }

  void run(HttpExchange& exchange, Answer& answer, const std::string& id) {
    const auto started = Clock::now();
    RequestRecord record;
    record.outcome = answer.run(exchange);
    exchange.set_logged();
    if (!options.log) return;
    record.id = id;
    record.method = exchange.request().method;
    record.path = exchange.request().path;
    record.peer = exchange.request().peer;
    record.status = exchange.status();
    record.choices = answer.choices();
    record.usage = answer.usage().sum;
    record.seconds = std::chrono::duration<double>(Clock::now() - started).count();
    options.log(record);
  }

  Result<serving::ChatPrompt> render(const ChatRequest& request) const {
    serving::ChatOptions chat_options;
    chat_options.add_generation_prompt = request.add_generation_prompt;
    chat_options.template_arguments = request.template_arguments;
    return serving::render_chat(model, request.messages, request.tools, chat_options);
  }

  void chat(HttpExchange& exchange) {
    auto request = parse_chat_request(exchange.request().body, defaults());
    if (!request) return send_error(exchange, request.error());
    auto prompt = render(*request);
    if (!prompt)
      return send_error(exchange,
                        {400, "invalid_request_error", prompt.error().message, "messages"});
    AnswerOptions answer_opts = answer_options("chatcmpl-");
    answer_opts.chat = true;
    answer_opts.stream = request->stream;
    answer_opts.include_usage = request->include_usage;
    answer_opts.with_logprobs = request->generation.engine.sampling.logprobs >= 0;
    const std::string id = answer_opts.header.id;
    Answer answer(model, std::move(answer_opts));
    serving::GenerationRequest generation = std::move(request->generation);
    generation.engine.prompt = std::move(prompt->tokens);
    generation.engine.checkpoints = std::move(prompt->checkpoints);
    generation.engine.isolation_key = isolation_key(exchange.request());
    generation.engine.choices = request->n;
    if (auto added = answer.add(std::move(generation)); !added)
      return send_error(exchange, refusal_error(added.error()));
    run(exchange, answer, id);
  }

  void completion(HttpExchange& exchange) {
    auto request = parse_completion_request(exchange.request().body, defaults());
    if (!request) return send_error(exchange, request.error());
    AnswerOptions answer_opts = answer_options("cmpl-");
    answer_opts.stream = request->stream;
    answer_opts.include_usage = request->include_usage;
    answer_opts.with_logprobs = request->generation.engine.sampling.logprobs >= 0;
    const std::string id = answer_opts.header.id;
    Answer answer(model, std::move(answer_opts));
    for (const auto& prompt : request->prompts) {
      serving::GenerationRequest generation = request->generation;
      generation.engine.isolation_key = isolation_key(exchange.request());
      if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
        generation.engine.prompt = *ids;
      } else {
        text::EncodeOptions encode;
        encode.parse_special = true;
        generation.engine.prompt = model.tokenizer.encode(std::get<std::string>(prompt), encode);
      }
      const std::string echo =
          request->echo ? model.tokenizer.decode(generation.engine.prompt) : std::string();
      generation.engine.choices = request->n;
      if (auto added = answer.add(std::move(generation), echo); !added)
        return send_error(exchange, refusal_error(added.error()));
    }
    run(exchange, answer, id);
  }

  void tokenize(HttpExchange& exchange) {
    auto request = parse_tokenize_request(exchange.request().body);
    if (!request) return send_error(exchange, request.error());
    text::EncodeOptions encode;
    encode.add_special = request->add_special;
    std::string text;
    if (request->prompt) {
      text = std::move(*request->prompt);
    } else {
      auto prompt = render(request->chat);
      if (!prompt)
        return send_error(exchange,
                          {400, "invalid_request_error", prompt.error().message, "messages"});
      text = std::move(prompt->text);
    }
    send_json(exchange, tokenize_body(model.tokenizer.encode(text, encode), model.tokenizer,
                                      request->with_strings, model.context_length));
  }

  void detokenize(HttpExchange& exchange) {
    const auto tokens = parse_detokenize_request(exchange.request().body);
    if (!tokens) return send_error(exchange, tokens.error());
    for (const int32_t token : *tokens)
      if (token >= model.tokenizer.vocab_size())
        return send_error(exchange, {400, "invalid_request_error",
                                     fmt::format("tokens: {} is not in the vocabulary of {} tokens",
                                                 token, model.tokenizer.vocab_size()),
                                     "tokens"});
    text::DecodeOptions decode;
    decode.skip_special = false;
    send_json(exchange, detokenize_body(model.tokenizer.decode(*tokens, decode)));
  }

  text::Value model_entry() const {
    return text::Value::map({{"id", model.name},
                             {"object", "model"},
                             {"created", started_at},
                             {"owned_by", "heddle"},
                             {"max_model_len", model.context_length}});
  }

  void models(HttpExchange& exchange) {
    const auto list = text::Value::list({model_entry()});
    send_json(exchange, *text::to_json(text::Value::map({{"object", "list"}, {"data", list}})));
  }

  void one_model(HttpExchange& exchange) {
    const std::string name = exchange.request().path.substr(std::string_view("/v1/models/").size());
    if (name == model.name) return send_json(exchange, *text::to_json(model_entry()));
    send_error(exchange, {404, "invalid_request_error",
                          fmt::format("no such model; {} is loaded", model.name), "model",
                          "model_not_found"});
  }

  void metrics(HttpExchange& exchange) {
    ServerFigures figures;
    figures.connections = listener.connections();
    figures.connections_turned_away = listener.turned_away();
    figures.draining = model.service.draining();
    figures.http = counters.all();
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = metrics_text(model.name, model.service.metrics(), figures);
    exchange.respond(response);
  }

  void page(HttpExchange& exchange) {
    const PageFile& file = *find_page(exchange.request().path);
    HttpResponse response;
    response.content_type = page_content_type(file);
    for (const HeaderLine& header : page_headers())
      response.headers.emplace_back(header.name, header.value);
    response.body = file.content;
    exchange.respond(response);
  }

  void health(HttpExchange& exchange) {
    HttpResponse response;
    const bool draining = model.service.draining();
    response.status = draining ? 503 : 200;
    response.body = draining ? R"({"status":"draining"})" : R"({"status":"ok"})";
    exchange.respond(response);
  }

  const serving::ModelHandle& model;
  ServerOptions options;
  HttpCounters counters;
  HttpListener listener;
  uint64_t seed_base = 0;
  uint64_t key_salt = 0;
  std::string apology;  // of out_of_memory()
  std::atomic<uint64_t> request_count{0};
  int64_t started_at = static_cast<int64_t>(std::time(nullptr));
};

HttpServer::HttpServer(const serving::ModelHandle& model, ServerOptions options)
    : impl_(std::make_unique<Impl>(model, std::move(options))) {}

HttpServer::~HttpServer() = default;

Status HttpServer::bind() { return impl_->listener.bind(); }

int HttpServer::port() const { return impl_->listener.port(); }

void HttpServer::serve() { impl_->listener.serve(); }

void HttpServer::stop(std::chrono::milliseconds limit) {
  impl_->model.service.drain(limit);
  impl_->listener.stop(kLastWrites);
}

}  // namespace heddle::server
