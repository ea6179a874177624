#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>
#include <vector>

#include "model/config.hpp"
#include "model/linear.hpp"
#include "model/recompute.hpp"

/// \file
/// A decoder of the Llama family: RMSNorm, rotary positions, grouped-query attention, SwiGLU. Fields and parameters are
/// named as in Hugging Face checkpoints. B: rows, T: tokens of this call, S: tokens that attention sees, C: hidden
/// size, H / K: query / key-value heads, D: head size.

namespace align {

/// x / sqrt(mean(x^2) + eps) * weight, in float32.
class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(std::int64_t size, double eps) : eps_(eps), weight_(register_parameter("weight", torch::ones({size}))) {}

  torch::Tensor forward(const torch::Tensor& x) {
    const auto x32 = x.to(torch::kFloat32);
    const auto scale = torch::rsqrt(x32.pow(2).mean(-1, /*keepdim=*/true) + eps_);
    return weight_ * (x32 * scale).to(x.scalar_type());
  }

 private:
  double eps_;
  torch::Tensor weight_;
};
TORCH_MODULE(RmsNorm);

/// Frequencies of the rotary pairs (D/2, float32): theta^(-2i/D), stretched as rope_scaling says.
inline torch::Tensor rotary_frequencies(const ModelConfig& c) {
  const auto exponent = torch::arange(0, c.head_size(), 2, torch::kFloat32) / static_cast<double>(c.head_size());
  const auto frequency = 1.0 / torch::pow(c.rope_theta, exponent);
  if (!c.rope_scaling) return frequency;
  const auto& s = *c.rope_scaling;
  const auto turns = frequency * (s.original_max_position_embeddings / (2 * std::numbers::pi));
  const auto kept = ((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)).clamp(0, 1);
  return kept * frequency + (1 - kept) * frequency / s.factor;
}

/// Cosine and sine of the rotary angles of `positions` (any shape), with a last dimension D: the pair (i, i + D/2)
/// turns by position * frequency i.
struct RotaryAngles {
  torch::Tensor cos, sin;

  RotaryAngles(const torch::Tensor& positions, const torch::Tensor& frequencies) {
    const auto half = positions.to(torch::kFloat32).unsqueeze(-1) * frequencies;
    const auto angle = torch::cat({half, half}, -1);
    cos = angle.cos();
    sin = angle.sin();
  }

  /// \param x  B x heads x T x D; the angles are T x D or B x 1 x T x D
  torch::Tensor rotate(const torch::Tensor& x) const {
    const auto halves = x.chunk(2, -1);
    return x * cos.to(x.scalar_type()) + torch::cat({-halves[1], halves[0]}, -1) * sin.to(x.scalar_type());
  }
};

/// Keys and values (B x K x S x D) of one layer that were computed by earlier calls.
struct LayerCache {
  torch::Tensor keys, values;
};

/// The cache of a whole model; empty before the first call.
struct KeyValueCache {
  std::vector<LayerCache> layers;

  std::int64_t length() const { return layers.empty() ? 0 : layers.front().keys.size(2); }
};

/// What attention is told about the tokens of a call, the same for every layer.
struct AttentionInput {
  RotaryAngles angles;
  torch::Tensor mask;  ///< added to scores: T x S or B x 1 x 1 x T x S, 0 or -infinity
};

class AttentionImpl : public torch::nn::Module {
 public:
  explicit AttentionImpl(const ModelConfig& c)
      : heads_(c.num_attention_heads), kv_heads_(c.num_key_value_heads), head_size_(c.head_size()) {
    q_proj_ = register_module("q_proj", Linear(c.hidden_size, heads_ * head_size_, c.qkv_bias));
    k_proj_ = register_module("k_proj", Linear(c.hidden_size, kv_heads_ * head_size_, c.qkv_bias));
    v_proj_ = register_module("v_proj", Linear(c.hidden_size, kv_heads_ * head_size_, c.qkv_bias));
    o_proj_ = register_module("o_proj", Linear(heads_ * head_size_, c.hidden_size));
  }

  torch::Tensor forward(const torch::Tensor& x, const AttentionInput& input, LayerCache* cache) {
    const auto rows = x.size(0), tokens = x.size(1);
    const auto split = [&](const torch::Tensor& y) { return y.view({rows, tokens, -1, head_size_}).transpose(1, 2); };
    const auto q = input.angles.rotate(split(q_proj_(x)));
    auto k = input.angles.rotate(split(k_proj_(x)));
    auto v = split(v_proj_(x));
    if (cache != nullptr) {
      if (cache->keys.defined()) {
        k = torch::cat({cache->keys, k}, 2);
        v = torch::cat({cache->values, v}, 2);
      }
      *cache = {k, v};
    }
    // The H / K query heads of a group stand one after the other and share a key-value head, so that they are one
    // taller matrix: B x K x (H/K T) x D.
    const auto grouped = q.reshape({rows, kv_heads_, -1, head_size_});
    auto scores = torch::matmul(grouped, k.transpose(2, 3)) / std::sqrt(static_cast<double>(head_size_));
    scores = scores.view({rows, kv_heads_, heads_ / kv_heads_, tokens, -1}) + input.mask;
    const auto weights = torch::softmax(scores, -1, torch::kFloat32).to(v.scalar_type());
    const auto mixed = torch::matmul(weights.view({rows, kv_heads_, -1, k.size(2)}), v);
    return o_proj_(mixed.view({rows, heads_, tokens, head_size_}).transpose(1, 2).reshape({rows, tokens, -1}));
  }

 private:
  std::int64_t heads_, kv_heads_, head_size_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
};
TORCH_MODULE(Attention);

/// SwiGLU: down(silu(gate x) * up x).
class MlpImpl : public torch::nn::Module {
 public:
  explicit MlpImpl(const ModelConfig& c) {
    gate_proj_ = register_module("gate_proj", Linear(c.hidden_size, c.intermediate_size));
    up_proj_ = register_module("up_proj", Linear(c.hidden_size, c.intermediate_size));
    down_proj_ = register_module("down_proj", Linear(c.intermediate_size, c.hidden_size));
  }

  torch::Tensor forward(const torch::Tensor& x) { return down_proj_(torch::silu(gate_proj_(x)) * up_proj_(x)); }

 private:
  Linear gate_proj_{nullptr}, up_proj_{nullptr}, down_proj_{nullptr};
};
TORCH_MODULE(Mlp);

class LayerImpl : public torch::nn::Module {
 public:
  explicit LayerImpl(const ModelConfig& c) {
    self_attn_ = register_module("self_attn", Attention(c));
    mlp_ = register_module("mlp", Mlp(c));
    input_norm_ = register_module("input_layernorm", RmsNorm(c.hidden_size, c.rms_norm_eps));
    post_norm_ = register_module("post_attention_layernorm", RmsNorm(c.hidden_size, c.rms_norm_eps));
  }

  torch::Tensor forward(const torch::Tensor& x, const AttentionInput& input, LayerCache* cache) {
    const auto y = x + self_attn_(input_norm_(x), input, cache);
    return y + mlp_(post_norm_(y));
  }

 private:
  Attention self_attn_{nullptr};
  Mlp mlp_{nullptr};
  RmsNorm input_norm_{nullptr}, post_norm_{nullptr};
};
TORCH_MODULE(Layer);

/// How a model computes; what it computes stays the same up to rounding.
struct Computation {
  bool bf16 = false;                    ///< see Autocast
  bool gradient_checkpointing = false;  ///< see recomputed
};

/// Embedding, layers and final norm.
class DecoderImpl : public torch::nn::Module {
 public:
  explicit DecoderImpl(const ModelConfig& c) {
    frequencies_ = register_buffer("rotary_frequencies", rotary_frequencies(c));  // goes where the model goes
    embed_tokens_ = register_module("embed_tokens", torch::nn::Embedding(c.vocab_size, c.hidden_size));
    layers_ = register_module("layers", torch::nn::ModuleList());
    for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) layers_->push_back(Layer(c));
    norm_ = register_module("norm", RmsNorm(c.hidden_size, c.rms_norm_eps));
  }

  /// \param ids      B x T
  /// \param cache    of the tokens before these; appended to. nullptr: there are none
  /// \param padding  B: how many tokens at the left of each row (cache included) are padding. Undefined: none. Padding
  ///                 at the right needs no mask, since attention is causal.
  /// \return hidden states, B x T x C
  torch::Tensor forward(const torch::Tensor& ids, KeyValueCache* cache, const torch::Tensor& padding,
                        const Computation& how) {
    const auto tokens = ids.size(1);
    const auto past = cache == nullptr ? 0 : cache->length();
    if (cache != nullptr) cache->layers.resize(layers_->size());
    const auto input = attention_input(past, tokens, padding, ids.device());
    auto x = embed_tokens_(ids);
    for (std::size_t i = 0; i < layers_->size(); ++i) {
      auto* layer = layers_[i]->as<Layer>();
      if (how.gradient_checkpointing && cache == nullptr) {
        x = recomputed([=](const auto& y) { return layer->forward(y, input, nullptr); }, x, layer->parameters(),
                       how.bf16);
      } else {
        x = layer->forward(x, input, cache == nullptr ? nullptr : &cache->layers[i]);
      }
    }
    return norm_(x);
  }

  const torch::Tensor& embedding() const { return embed_tokens_->weight; }

 private:
  AttentionInput attention_input(std::int64_t past, std::int64_t tokens, const torch::Tensor& padding,
                                 const torch::Device& device) const {
    auto positions = torch::arange(past, past + tokens, device);
    const auto keys = torch::arange(past + tokens, device);
    auto hidden = keys.unsqueeze(0) > positions.unsqueeze(1);  // T x S
    if (padding.defined()) {
      const auto left = padding.view({-1, 1, 1, 1, 1});
      // A padded query may see itself, so that its softmax is not over nothing.
      hidden = hidden.logical_or((keys < left).logical_and(keys.unsqueeze(0) != positions.unsqueeze(1)));
      positions = (positions - padding.view({-1, 1, 1})).clamp_min(0);  // B x 1 x T
    }
    const auto mask =
        torch::zeros(hidden.sizes(), hidden.options().dtype(torch::kFloat32)).masked_fill(hidden, -INFINITY);
    return {RotaryAngles(positions, frequencies_), mask};
  }

  torch::Tensor frequencies_;
  torch::nn::Embedding embed_tokens_{nullptr};
  torch::nn::ModuleList layers_;
  RmsNorm norm_{nullptr};
};
TORCH_MODULE(Decoder);

/// The decoder and its output layer. Hidden states and logits are apart, so that a loss asks for logits only where it
/// needs them.
class CausalLmImpl : public torch::nn::Module {
 public:
  explicit CausalLmImpl(const ModelConfig& config) : config_(config) {
    check(config);
    model_ = register_module("model", Decoder(config));
    if (config.tie_word_embeddings) return;
    lm_head_ = register_module("lm_head", Linear(config.hidden_size, config.vocab_size));
  }

  Computation computation;
  InputObserver observer;

  const ModelConfig& config() const { return config_; }
  /// Where all of it is; ids have to be there too.
  torch::Device device() const { return model_->embedding().device(); }

  /// See Decoder. \return B x T x C
  torch::Tensor hidden(const torch::Tensor& ids, KeyValueCache* cache = nullptr, const torch::Tensor& padding = {}) {
    const Autocast autocast(computation.bf16, device().type());
    return model_->forward(ids, cache, padding, computation);
  }
  /// \param hidden  ... x C  \return float32 logits, ... x vocabulary
  torch::Tensor logits(const torch::Tensor& hidden) {
    const Autocast autocast(computation.bf16, device().type());
    const auto& weight = lm_head_.is_empty() ? model_->embedding() : lm_head_->weight();
    return torch::matmul(hidden, weight.t()).to(torch::kFloat32);
  }

 private:
  ModelConfig config_;
  Decoder model_{nullptr};
  Linear lm_head_{nullptr};
};
TORCH_MODULE(CausalLm);

/// Draws all weights anew: N(0, 1/n) for a matrix with n inputs, those that write to the residual stream scaled down by
/// sqrt(2 layers), biases 0. A function of the seed alone.
inline void initialize(CausalLm& model, std::uint64_t seed) {
  const torch::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(seed);
  const auto layers = static_cast<double>(model->config().num_hidden_layers);
  for (auto& item : model->named_parameters()) {
    auto& weight = item.value();
    const auto ends_with = [&](const std::string& end) { return item.key().ends_with(end); };
    if (ends_with(".bias")) weight.zero_();
    if (weight.dim() < 2) continue;  // norms stay at 1
    double deviation = 1.0 / std::sqrt(static_cast<double>(weight.size(1)));
    if (ends_with("o_proj.weight") || ends_with("down_proj.weight")) deviation /= std::sqrt(2 * layers);
    weight.normal_(0.0, deviation, generator);
  }
}

/// A copy with its own memory.
inline CausalLm clone(CausalLm& model) {
  const torch::NoGradGuard no_grad;
  CausalLm copy(model->config());
  copy->to(model->device());
  auto to = copy->named_parameters();
  for (auto& item : model->named_parameters()) to[item.key()].copy_(item.value());
  return copy;
}

}  // namespace align
