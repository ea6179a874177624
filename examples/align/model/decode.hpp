#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "model/model.hpp"
#include "text/tokens.hpp"

namespace align {

/// Greedy decoding of one batch with a key-value cache; prompts are padded at the left.
/// \return the new tokens of each prompt, without the end of turn, at most `max_new_tokens`
inline std::vector<Tokens> greedy_batch(CausalLm& model, const std::vector<Tokens>& prompts, std::int64_t end,
                                        std::int64_t max_new_tokens) {
  const torch::NoGradGuard no_grad;
  std::size_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  Tokens ids, padding;
  for (const auto& prompt : prompts) {
    padding.push_back(static_cast<std::int64_t>(longest - prompt.size()));
    ids.insert(ids.end(), longest - prompt.size(), end);
    ids.insert(ids.end(), prompt.begin(), prompt.end());
  }
  const auto rows = static_cast<std::int64_t>(prompts.size());
  const auto left = torch::tensor(padding, torch::kInt64).to(model->device());
  auto input = torch::tensor(ids, torch::kInt64).view({rows, -1}).to(model->device());
  KeyValueCache cache;
  std::vector<Tokens> answers(prompts.size());
  std::vector<bool> done(prompts.size(), false);
  for (std::int64_t n = 0; n < max_new_tokens; ++n) {
    const auto hidden = model->hidden(input, &cache, left);
    const auto next = model->logits(hidden.select(1, hidden.size(1) - 1)).argmax(-1);
    const auto chosen = next.to(torch::kCPU);
    for (std::size_t b = 0; b < prompts.size(); ++b) {
      const auto token = chosen[static_cast<std::int64_t>(b)].item<std::int64_t>();
      if (token == end) done[b] = true;
      if (!done[b]) answers[b].push_back(token);
    }
    if (std::all_of(done.begin(), done.end(), [](bool finished) { return finished; })) break;
    input = next.unsqueeze(1);
  }
  return answers;
}

/// The same for any number of prompts; those of similar length go together.
inline std::vector<Tokens> greedy(CausalLm& model, const std::vector<Tokens>& prompts, std::int64_t end,
                                  std::int64_t max_new_tokens, std::size_t batch_size = 64) {
  std::vector<std::size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return prompts[a].size() < prompts[b].size(); });
  std::vector<Tokens> answers(prompts.size());
  for (std::size_t first = 0; first < order.size(); first += batch_size) {
    const auto last = std::min(order.size(), first + batch_size);
    std::vector<Tokens> batch;
    for (auto i = first; i < last; ++i) batch.push_back(prompts[order[i]]);
    auto part = greedy_batch(model, batch, end, max_new_tokens);
    for (auto i = first; i < last; ++i) answers[order[i]] = std::move(part[i - first]);
  }
  return answers;
}

}  // namespace align
