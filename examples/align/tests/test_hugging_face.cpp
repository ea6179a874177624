#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

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
  Weights all;
  for (const auto& item : model->named_parameters()) all[item.key()] = item.value();
  const auto load = [&](const Weights& weights) { load_weights(model, weights, "here"); };
  auto less = all, more = all, wrong = all, tied = all;
  less.erase("model.norm.weight");
  CHECK_THROWS_WITH_AS(load(less), Contains("model.norm.weight"), ogpsa::FileError);
  more["model.layers.0.self_attn.q_proj.lora_A.weight"] = torch::ones({2});
  CHECK_THROWS_WITH_AS(load(more), Contains("lora_A"), ogpsa::FileError);
  wrong["model.norm.weight"] = torch::ones({17});
  CHECK_THROWS_WITH_AS(load(wrong), Contains("17"), ogpsa::FileError);
  tied["lm_head.weight"] = torch::ones({20, 16});
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
