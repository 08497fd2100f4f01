// Requests come in: what is refused, and the sequences of what is taken.
#include <algorithm>
#include <new>
#include <numeric>
#include <utility>

#include "base/rng.h"
#include "engine/engine.h"

namespace heddle::engine {
namespace {

tl::unexpected<Refusal> refuse(Refusal::Kind kind, std::string parameter, std::string message) {
  Refusal refusal;
  refusal.kind = kind;
  refusal.parameter = std::move(parameter);
  refusal.message = std::move(message);
  return tl::unexpected(std::move(refusal));
}

}  // namespace

uint64_t choice_seed(uint64_t seed, int64_t choice) {
  return choice == 0 ? seed : random_u64(seed, static_cast<uint64_t>(choice));
}

BytesByGrowth sequence_bytes(const state::StateLayout& layout, int64_t tokens,
                             int64_t step_tokens) {
  BytesByGrowth bytes{};
  for (const state::PageGroup& group : layout.groups) {
    int64_t& total = bytes[static_cast<size_t>(group.growth)];
    const int64_t pages = group.pages_for(tokens);
    switch (group.growth) {
      case state::Growth::per_token:
        total += pages * group.page_bytes;
        break;
      case state::Growth::window: {
        // The window, the chunk being written, and the page at either end.
        int64_t live = (group.window + group.sinks) / group.page_records + 2;
        if (group.stores_whole_chunk()) live += step_tokens / group.page_records + 1;
        total += std::min(pages + 1, live) * group.page_bytes;
        break;
      }
      case state::Growth::folded:
        total += 2 * group.summary_bytes + group.page_bytes;
        break;
    }
  }
  return bytes;
}

int64_t Engine::sequence_bytes(int64_t tokens) const {
  const BytesByGrowth bytes =
      engine::sequence_bytes(executor_.layout(), tokens, options_.scheduler.step_tokens);
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

Admission<RequestId> Engine::submit(Request request) {
  using Kind = Refusal::Kind;
  const int64_t vocab = executor_.vocab_size();
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0)
    return refuse(Kind::invalid, "prompt", "the prompt is empty, at least one token is expected");
  for (const int32_t token : request.prompt)
    if (token < 0 || token >= vocab)
      return refuse(
          Kind::invalid, "prompt",
          fmt::format("token {} in the prompt: the vocabulary has {} tokens", token, vocab));
  if (auto status = validate(request.sampling, vocab); !status)
    return refuse(Kind::invalid, status.error().parameter, status.error().message);
  if (request.max_tokens < 0)
    return refuse(Kind::invalid, "max_tokens",
                  fmt::format("max_tokens is {}, 0 or more is expected", request.max_tokens));
  const int64_t context = executor_.context_length();
  if (prompt > context || (prompt == context && request.max_tokens > 0))
    return refuse(
        Kind::too_long, "prompt",
        fmt::format("the prompt has {} tokens, the context of the model is {}", prompt, context));
  request.max_tokens = std::min(request.max_tokens, context - prompt);
  if (request.choices < 1)
    return refuse(Kind::invalid, "n",
                  fmt::format("{} choices, 1 or more is expected", request.choices));
  const int64_t bytes = sequence_bytes(prompt + request.max_tokens);
  if (bytes > options_.state_bytes)
    return refuse(Kind::too_large, "max_tokens",
                  fmt::format("{} prompt and {} output tokens need {} MiB of state, {} MiB are "
                              "configured",
                              prompt, request.max_tokens, bytes >> 20, options_.state_bytes >> 20));
  if (static_cast<int64_t>(waiting_.size()) >= options_.max_waiting) {
    ++totals_.requests_refused;
    return refuse(Kind::queue_full, "",
                  fmt::format("{} requests are waiting already, try again later", waiting_.size()));
  }
  const RequestId first = next_id_;
  const int64_t choices = request.choices;
  try {
    enqueue(std::move(request), bytes);
  } catch (const std::bad_alloc&) {
    std::erase_if(waiting_, [&](const auto& sequence) { return sequence->first_choice == first; });
    throw;
  }
  totals_.requests_submitted += choices;
  return first;
}

// One sequence for each choice.
void Engine::enqueue(Request request, int64_t bytes) {
  const RequestId first = next_id_;
  const std::vector<int32_t> tokens = std::move(request.prompt);
  for (int64_t choice = 0; choice < request.choices; ++choice) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = next_id_++;
    sequence->first_choice = first;
    sequence->request = request;
    sequence->request.sampling.seed = choice_seed(request.sampling.seed, choice);
    sequence->tokens = tokens;
    sequence->usage.prompt_tokens = std::ssize(tokens);
    sequence->reserved_bytes = bytes;
    sequence->submitted = Clock::now();
    waiting_.push_back(std::move(sequence));
  }
}

}  // namespace heddle::engine
