#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "hugging_face/adapter.hpp"
#include "hugging_face/config.hpp"
#include "hugging_face/pretrained.hpp"
#include "tests/support.hpp"
#include "train/checkpoint.hpp"

using namespace align;
using namespace align::test;
using doctest::Contains;

namespace {

nlohmann::json llama_config() {
  return {{"model_type", "llama"},  {"vocab_size", 20},         {"hidden_size", 16},       {"intermediate_size", 24},
          {"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"num_key_value_heads", 2}};
}

nlohmann::json with(const std::string& field, const nlohmann::json& value) {
  auto json = llama_config();
  json[field] = value;
  return json;
}

/// A folder with a checkpoint of `model` and some other files.
void write_checkpoint(CausalLm& model, const std::filesystem::path& folder) {
  auto json = llama_config();
  json["tie_word_embeddings"] = model->config().tie_word_embeddings;
  json["rms_norm_eps"] = 1e-5;
  json["torch_dtype"] = "float32";
  write_file(folder / "config.json", json.dump());
  write_file(folder / "generation_config.json", "{\"temperature\": 0.7}");
  std::filesystem::create_directories(folder / "extra");
  write_file(folder / "extra" / "notes.txt", "kept");
  write_file(folder / "pytorch_model.bin", "stale weights");
  save_weights(model, folder, torch::kFloat32);
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("config.json: what we do not know is an error that names it") {
  CHECK(parse_config(llama_config(), "x").head_size() == 4);
  const auto refused = [](const std::string& field, const nlohmann::json& value) {
    CAPTURE(field);
    CHECK_THROWS_WITH_AS(parse_config(with(field, value), "x/config.json"), Contains(field.c_str()),
                         ogpsa::InvalidArgument);
  };
  refused("some_field", 1);
  refused("model_type", "mamba");
  refused("hidden_act", "gelu");
  refused("attention_bias", true);
  refused("mlp_bias", true);
  refused("architectures", {"LlamaForSequenceClassification"});
  refused("vocab_size", "many");
  refused("vocab_size", nullptr);
  refused("rope_scaling", {{"rope_type", "yarn"}, {"factor", 2}});
  refused("rope_scaling", {{"rope_type", "llama3"}, {"factor", 2}});  // lacks the rest
  refused("num_key_value_heads", 3);
  refused("layer_types", {"full_attention", "sliding_attention"});
  const auto scaled = parse_config(with("rope_scaling", {{"rope_type", "llama3"},
                                                         {"factor", 8.0},
                                                         {"low_freq_factor", 1.0},
                                                         {"high_freq_factor", 4.0},
                                                         {"original_max_position_embeddings", 8192}}),
                                   "x");
  CHECK(scaled.rope_scaling->factor == 8);
  CHECK(!parse_config(with("attention_dropout", 0), "x").qkv_bias);
}

TEST_CASE("a checkpoint comes back as it was, in every data type, whole or in shards") {
  const TemporaryFolder source, target;
  auto model = tiny_model(3);
  write_checkpoint(model, source.path());
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16, torch::kFloat16}) {
    const auto folder = target.path() / dtype_name(dtype);
    save_pretrained(model, source.path(), folder, dtype);
    CHECK((configured_dtype(folder) == dtype));
    CHECK(read(folder / "generation_config.json") == read(source.path() / "generation_config.json"));
    CHECK(read(folder / "extra" / "notes.txt") == "kept");
    CHECK(!std::filesystem::exists(folder / "pytorch_model.bin"));
    auto back = load_pretrained(folder);
    CHECK(torch::equal(weights(back), weights(model).to(dtype).to(torch::kFloat32)));
    for (const auto& [name, tensor] : map_weights(folder)) CHECK((tensor.scalar_type() == dtype));
  }
  const auto shards = target.path() / "shards";
  std::filesystem::create_directories(shards);
  std::filesystem::copy_file(source.path() / "config.json", shards / "config.json");
  save_weights(model, shards, torch::kFloat32, /*max_shard_bytes=*/4000);
  CHECK(!std::filesystem::exists(shards / "model.safetensors"));
  auto back = load_pretrained(shards);
  CHECK(torch::equal(weights(back), weights(model)));
}

TEST_CASE("a checkpoint that does not fit is an error that names the tensor, and saving keeps what was there") {
  const TemporaryFolder folder, target;
  auto model = tiny_model(3);
  write_checkpoint(model, folder.path());
  Tensors all;
  for (const auto& item : model->named_parameters()) all[item.key()] = item.value();
  const auto load = [&](const Tensors& weights) { load_weights(model, weights, "here"); };
  auto less = all, more = all, wrong = all, tied = all;
  less.erase("model.norm.weight");
  CHECK_THROWS_WITH_AS(load(less), Contains("model.norm.weight"), ogpsa::FileError);
  more["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch::ones({2});
  CHECK_THROWS_WITH_AS(load(more), Contains("lora_A"), ogpsa::FileError);
  wrong["model.norm.weight"] = torch::ones({17});
  CHECK_THROWS_WITH_AS(load(wrong), Contains("17"), ogpsa::FileError);
  tied["lm_head.weight"] = tied["model.embed_tokens.weight"].detach().clone();
  load(tied);
  tied["lm_head.weight"][3][5] += 1;
  CHECK_THROWS_WITH_AS(load(tied), Contains("tie_word_embeddings"), ogpsa::FileError);
  tied["lm_head.weight"][3][5] -= 1;
  tied.erase("model.embed_tokens.weight");
  load(tied);
  save_pretrained(model, folder.path(), target.path() / "out", torch::kFloat32);
  std::filesystem::remove(folder.path() / "config.json");
  CHECK_THROWS_WITH_AS(save_pretrained(model, folder.path(), target.path() / "out", torch::kFloat32),
                       Contains("config.json"), ogpsa::FileError);
  auto back = load_pretrained(target.path() / "out");
  CHECK(torch::equal(weights(back), weights(model)));
  CHECK_THROWS_WITH_AS(load_pretrained(target.path()), Contains("config.json"), ogpsa::FileError);
  std::filesystem::remove(target.path() / "out" / "model.safetensors");
  CHECK_THROWS_WITH_AS(load_pretrained(target.path() / "out"), Contains("model.safetensors"), ogpsa::FileError);
}

TEST_CASE("an adapter comes back on its base: the same logits, rank-stabilised or not") {
  const TemporaryFolder folder;
  const LoraOptions options{.lora_r = 4, .lora_alpha = 6, .lora_target_modules = {"q_proj", "down_proj"}};
  auto model = tiny_model(3);
  add_adapters(model, options, 1);
  for (auto& [name, tensor] : adapter_parameters(model)) {
    const torch::NoGradGuard no_grad;
    torch::Tensor(tensor).normal_(0, 0.3);
  }
  save_adapter(model, folder.path(), "base", options, torch::kFloat32);
  const auto saved = map_safetensors(folder.path() / "adapter_model.safetensors");
  CHECK(saved.size() == 2 * 2 * 2);
  CHECK(saved.count("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight") == 1);
  const auto logits = [](CausalLm& m) { return m->logits(m->hidden(torch::arange(1, 12).unsqueeze(0))); };
  const auto loaded = [&] {
    auto base = tiny_model(3);
    CHECK(largest_difference(logits(base), logits(model)) > 1e-2);
    load_adapter(base, folder.path());
    return base;
  };
  auto back = loaded();
  CHECK(torch::equal(logits(back), logits(model)));
  for (const auto& item : back->named_parameters()) {
    CHECK(item.value().requires_grad() == (item.key().find("lora_") != std::string::npos));
  }
  auto config = nlohmann::json::parse(read(folder.path() / "adapter_config.json"));
  config.update({{"use_rslora", true}, {"lora_alpha", 3}});  // 3 / sqrt(4) = 6 / 4
  write_file(folder.path() / "adapter_config.json", config.dump());
  back = loaded();
  CHECK(torch::equal(logits(back), logits(model)));
}

TEST_CASE("an adapter that does not fit, or is more than LoRA, is an error that says how") {
  const TemporaryFolder folder, nothing;
  const LoraOptions options{.lora_r = 2, .lora_target_modules = {"v_proj"}};
  auto model = tiny_model(3);
  add_adapters(model, options, 1);
  save_adapter(model, folder.path(), "somewhere/else", options, torch::kBFloat16);
  const auto config = nlohmann::json::parse(read(folder.path() / "adapter_config.json"));
  const auto refused = [&](const nlohmann::json& change, const char* what) {
    CAPTURE(change.dump());
    auto changed = config;
    changed.update(change);
    write_file(folder.path() / "adapter_config.json", changed.dump());
    auto base = tiny_model(3);
    CHECK_THROWS_WITH_AS(load_adapter(base, folder.path()), Contains(what), ogpsa::Error);
  };
  refused({{"r", 3}}, "v_proj.lora_A.weight' is 2 x 16, but by the configuration it should be 3 x 16");
  refused({{"target_modules", {"v_proj", "k_proj"}}}, "k_proj.lora_A.weight' is missing");
  refused({{"target_modules", {"k_proj"}}}, "k_proj.lora_A.weight' is missing");
  refused({{"target_modules", {"w_pack"}}}, "w_pack");
  refused({{"target_modules", ".*_proj"}}, ".*_proj");
  refused({{"use_dora", true}}, "use_dora");
  refused({{"rank_pattern", {{"q_proj", 8}}}}, "rank_pattern");
  refused({{"modules_to_save", {"lm_head"}}}, "modules_to_save");
  refused({{"init_lora_weights", "pissa"}}, "pissa");
  refused({{"peft_type", "IA3"}}, "IA3");
  refused({{"r", nullptr}}, "'r'");
  write_file(folder.path() / "adapter_config.json", config.dump());
  CHECK_THROWS_WITH_AS(find_model(folder.path(), {}), Contains("somewhere/else"), ogpsa::InvalidArgument);
  CHECK_THROWS_WITH_AS(find_model(folder.path(), folder.path()), Contains("one of them"), ogpsa::InvalidArgument);
  CHECK(find_model(nothing.path(), folder.path()).adapter == folder.path());
  std::filesystem::remove(folder.path() / "adapter_model.safetensors");
  CHECK_THROWS_WITH_AS(load_adapter(model, folder.path()), Contains("adapter_model.safetensors"), ogpsa::FileError);
}
