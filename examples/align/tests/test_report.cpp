#include <doctest/doctest.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ogpsa/diagnostics.hpp>
#include <ogpsa/error.hpp>

#include "report/arms.hpp"
#include "report/blocks.hpp"
#include "report/cost.hpp"
#include "report/report.hpp"
#include "report/run_folder.hpp"

using namespace align;
using nlohmann::json;

namespace {

namespace fs = std::filesystem;

/// A folder that goes away with this.
class Folder {
 public:
  Folder() {
    static int count = 0;
    path_ = fs::temp_directory_path() / fmt::format("ogpsa_report_{}_{}", getpid(), count++);
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const fs::path& path() const { return path_; }
  fs::path write(const fs::path& name, const std::string& text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }

 private:
  fs::path path_;
};

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

json settings(const std::string& method, double learning_rate = 1e-5, int seed = 0, double max_share = 0.3) {
  return {{"model", "models/small"},
          {"seed", seed},
          {"versions", {{"ogpsa", "0.1.0"}}},
          {"sft",
           {{"dataset", {"data/safety.jsonl"}},
            {"train", {{"learning_rate", learning_rate}}},
            {"protection", {{"method", method}, {"max_share", max_share}}}}}};
}

json evaluation(double loss) {
  return {{"files",
           {{"general", {{"kind", "loss"}, {"loss", loss}, {"perplexity", 5.25}, {"tokens", 9000}, {"rows", 100}}},
            {"harmful", {{"kind", "harmful"}, {"refusals", 0.95}, {"rows", 60}}}}},
          {"general_loss", loss},
          {"refusals", 0.95}};
}

/// The subspace is estimated at step 0, for 1.75 s.
json metrics_line(int step) {
  return {{"step", step},
          {"loss", 2.0 - 0.125 * step},
          {"learning_rate", 5e-5},
          {"gradient_norm", 1.5},
          {"tokens", 1200 + step},
          {"seconds", 2.0 + 2.0 * (step == 0)},
          {"refresh_seconds", step == 0 ? 1.75 : 0.0},
          {"update_seconds", 0.25 + 0.125 * step},
          {"fraction_removed", 0.25},
          {"basis_age", step},
          {"peak_memory", 1000 + 100 * (step == 1)}};
}

/// A line as the library itself writes it. \param removed  of each block
std::string blocks_line(int step, const std::vector<std::pair<std::string, double>>& removed) {
  ogpsa::Report report{.step = step, .basis_age = step, .entries = {}};
  for (const auto& [name, fraction] : removed) {
    ogpsa::ProjectionResult result;
    result.norm_before = 2;
    result.norm_after = 2 * std::sqrt(1 - fraction);
    report.entries.push_back({name, ogpsa::Form::input, 7, result});
  }
  std::ostringstream line;
  report.write_json_line(line);
  return line.str();
}

const std::vector<std::pair<std::string, double>> kBlocks = {{"model.embed_tokens.weight", 0.125},
                                                             {"model.layers.10.self_attn.q_proj.weight", 0.75},
                                                             {"model.layers.2.self_attn.q_proj.weight", 0.5},
                                                             {"model.layers.2.mlp.down_proj.weight", 0.25}};

/// A complete run of three steps of SFT.
void write_run(const Folder& folder, const fs::path& name, const json& of_run) {
  folder.write(name / "settings.json", of_run.dump(2));
  folder.write(name / "base.json", evaluation(1.5).dump(2));
  std::string metrics, blocks;
  for (int step = 0; step < 3; ++step) {
    metrics += metrics_line(step).dump() + "\n";
    blocks += blocks_line(step, kBlocks);
  }
  folder.write(name / "sft" / "metrics.jsonl", metrics);
  folder.write(name / "sft" / "blocks.jsonl",
               of_run.at("sft").at("protection").at("method") == "plain" ? std::string() : blocks);
  const json result = {{"evaluation", evaluation(1.625)}};
  folder.write(name / "sft" / "result.json", result.dump(2));
  folder.write(name / "summary.json", "{}");
}

std::string page_of(const Folder& folder, const std::vector<fs::path>& runs) {
  std::vector<fs::path> paths;
  for (const auto& run : runs) paths.push_back(folder.path() / run);
  write_report(paths, folder.path() / "report.html");
  return content_of(folder.path() / "report.html");
}

/// What stands in the page's data element, up to where a browser ends it.
json data_in(const std::string& page) {
  const std::string begin = R"(<script type="application/json" id="data">)";
  const auto at = page.find(begin);
  REQUIRE(at != std::string::npos);
  const auto first = at + begin.size();
  return json::parse(page.substr(first, page.find("</script", first) - first));
}

json data_of(const Folder& folder, const std::vector<fs::path>& runs) { return data_in(page_of(folder, runs)); }

std::string message_of(const Folder& folder, const std::vector<fs::path>& runs) {
  try {
    page_of(folder, runs);
  } catch (const ogpsa::InvalidArgument& error) {
    return error.what();
  }
  return {};
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("a run comes into the page as it is") {
  const Folder folder;
  write_run(folder, "one", settings("structured"));
  const auto data = data_of(folder, {"one"});
  REQUIRE(data.at("runs").size() == 1);
  const auto& run = data.at("runs")[0];
  CHECK(run.at("name") == "one");
  CHECK(run.at("model") == "small");
  CHECK(run.at("complete") == true);
  CHECK(run.at("settings") == settings("structured"));
  CHECK(run.at("base") == evaluation(1.5));
  CHECK(run.at("notes").empty());
  REQUIRE(run.at("stages").size() == 1);
  const auto& stage = run.at("stages")[0];
  CHECK(stage.at("name") == "sft");
  CHECK(stage.at("finished") == true);
  CHECK(stage.at("steps") == 3);
  CHECK(stage.at("method") == "structured");
  CHECK(stage.at("learning_rate") == 1e-5);
  CHECK(stage.at("evaluation") == evaluation(1.625));
  const json cost = {{"steps", 3},
                     {"seconds", 8.0},
                     {"tokens_per_second", 3603 / 8.0},
                     {"seconds_per_step", 2.0},
                     {"update_seconds_per_step", 0.375},
                     {"refresh_seconds", {1.75}},
                     {"fraction_removed", 0.25},
                     {"peak_memory", 1100.0}};
  CHECK(stage.at("cost") == cost);
  const auto first = metrics_line(0);
  for (const auto& [key, value] : first.items()) {
    INFO(key);
    for (int step = 0; step < 3; ++step) {
      CHECK(stage.at("metrics").at(key).at(static_cast<std::size_t>(step)) == metrics_line(step).at(key));
    }
  }
  CHECK_FALSE(stage.at("metrics").contains("angle"));  // no line has it
  CHECK(stage.at("rank") == json{{"step", {0, 1, 2}}, {"rank", {28, 28, 28}}});
}

TEST_CASE("the heat map has the blocks by kind and layer, to three digits of the largest") {
  const Folder folder;
  write_run(folder, "one", settings("structured"));
  const auto map = data_of(folder, {"one"}).at("runs")[0].at("stages")[0].at("heat_map");
  const json groups = {
      {{"kind", "q"}, {"rows", 2}}, {{"kind", "down"}, {"rows", 1}}, {{"kind", "embeddings"}, {"rows", 1}}};
  CHECK(map.at("groups") == groups);
  const std::vector<std::size_t> order = {2, 1, 3, 0};
  REQUIRE(map.at("rows").size() == order.size());
  CHECK(map.at("columns") == json{{0, 0}, {1, 1}, {2, 2}});
  for (std::size_t row = 0; row < order.size(); ++row) {
    const auto& [name, removed] = kBlocks[order[row]];
    CHECK(map.at("rows")[row].at("name") == name);
    CHECK(map.at("rows")[row].at("form") == "input");
    CHECK(map.at("rows")[row].at("rank") == 7);
    for (std::size_t column = 0; column < 3; ++column) {
      const double value = map.at("values")[row][column].get<double>() * map.at("unit").get<double>();
      CHECK(std::abs(value - removed) <= 0.75 / 999 / 2 + 1e-9);
    }
  }
}

TEST_CASE("kinds of blocks") {
  const auto text = [](const std::string& name) {
    const auto [kind, layer] = report::kind_of(name);
    return fmt::format("{} {}", kind, layer);
  };
  CHECK(text("model.layers.3.self_attn.q_proj.weight") == "q 3");
  CHECK(text("model.layers.3.self_attn.q_proj.bias") == "q bias 3");
  CHECK(text("model.layers.12.self_attn.v_proj.lora_A.weight") == "v lora A 12");
  CHECK(text("base_model.model.model.layers.0.mlp.gate_proj.lora_B.weight") == "gate lora B 0");
  CHECK(text("model.layers.0.input_layernorm.weight") == "input norm 0");
  CHECK(text("model.layers.0.post_attention_layernorm.weight") == "post norm 0");
  CHECK(text("model.embed_tokens.weight") == "embeddings -1");
  CHECK(text("model.norm.weight") == "final norm -1");
  CHECK(text("lm_head.weight") == "lm head -1");
  CHECK(text("whatever") == "other -1");
  CHECK(text("99999999999999999999.x") == "other -1");
}

TEST_CASE("a long run becomes means over neighbouring steps") {
  report::BlockTable table;
  table.blocks = {{"model.layers.0.mlp.up_proj.weight", "input", 3}};
  for (int step = 0; step < 1000; ++step) {
    table.steps.push_back(step);
    table.rank.push_back(3);
    table.fraction_removed.push_back({step / 1000.0});
  }
  table.fraction_removed[0][0] = std::nan("");  // is left out of its mean
  const auto map = report::heat_map(table, 200);
  REQUIRE(map.at("columns").size() == 200);
  CHECK(map.at("columns")[0] == json{0, 4});
  CHECK(map.at("columns")[199] == json{995, 999});
  const double unit = map.at("unit");
  CHECK(map.at("values")[0][199].get<double>() * unit == doctest::Approx(0.997));
  CHECK(std::abs(map.at("values")[0][0].get<double>() * unit - 0.0025) <= unit / 2);

  const Folder folder;
  write_run(folder, "long", settings("plain"));
  std::string metrics;
  for (int step = 0; step < 4000; ++step) metrics += json{{"step", step}, {"loss", step}}.dump() + "\n";
  folder.write("long/sft/metrics.jsonl", metrics);
  const auto curves = data_of(folder, {"long"}).at("runs")[0].at("stages")[0].at("metrics");
  REQUIRE(curves.at("loss").size() == 2000);
  CHECK(curves.at("step")[0] == 1);
  CHECK(curves.at("loss")[0] == 0.5);
  CHECK(curves.at("step")[1999] == 3999);
  CHECK(curves.at("loss")[1999] == 3998.5);
}

TEST_CASE("a run without projection, base and evaluation") {
  const Folder folder;
  write_run(folder, "plain", settings("plain"));
  fs::remove(folder.path() / "plain/base.json");
  folder.write("plain/sft/result.json", "{}");
  const auto run = data_of(folder, {"plain"}).at("runs")[0];
  CHECK(run.at("base").is_null());
  CHECK(run.at("notes").empty());
  CHECK_FALSE(run.at("stages")[0].contains("heat_map"));
  CHECK_FALSE(run.at("stages")[0].contains("rank"));
  CHECK(run.at("stages")[0].at("evaluation").is_null());
}

TEST_CASE("a run that is not finished") {
  const Folder folder;
  auto both = settings("structured");
  both["dpo"] = both.at("sft");
  write_run(folder, "run", both);
  fs::remove(folder.path() / "run/summary.json");
  fs::remove(folder.path() / "run/sft/result.json");
  const auto cut = [&](const std::string& file, const std::string& line) {
    folder.write(file, content_of(folder.path() / file) + line.substr(0, line.size() / 2));
  };
  cut("run/sft/metrics.jsonl", metrics_line(3).dump());
  cut("run/sft/blocks.jsonl", blocks_line(3, kBlocks));
  const auto run = data_of(folder, {"run"}).at("runs")[0];
  CHECK(run.at("complete") == false);
  CHECK(run.at("notes").empty());
  REQUIRE(run.at("stages").size() == 2);
  const auto& sft = run.at("stages")[0];
  CHECK(sft.at("finished") == false);
  CHECK(sft.at("evaluation").is_null());
  CHECK(sft.at("steps") == 3);
  CHECK(sft.at("heat_map").at("columns").size() == 3);
  CHECK(sft.at("cost").at("seconds_per_step") == 2.0);
  CHECK(run.at("stages")[1].at("steps") == 0);
  CHECK(run.at("stages")[1].at("metrics") == json{{"step", json::array()}});

  folder.write("begun/settings.json", settings("plain").dump());  // nothing else yet
  CHECK(data_of(folder, {"begun"}).at("runs")[0].at("stages")[0].at("steps") == 0);
}

TEST_CASE("damaged lines and files are left out and noted") {
  const Folder folder;
  write_run(folder, "run", settings("structured"));
  folder.write("run/base.json", "{\"files\":");
  folder.write("run/sft/metrics.jsonl",
               metrics_line(0).dump() + "\n{\"step\": 1, \"lo\n[]\n" + metrics_line(2).dump() + "\n");
  folder.write("run/sft/blocks.jsonl", blocks_line(0, kBlocks) + "\xff\xfe\n" + blocks_line(2, kBlocks));
  const auto run = data_of(folder, {"run"}).at("runs")[0];
  CHECK(run.at("base").is_null());
  CHECK(run.at("stages")[0].at("metrics").at("step") == json{0, 2});
  CHECK(run.at("stages")[0].at("heat_map").at("columns") == json{{0, 0}, {2, 2}});
  REQUIRE(run.at("notes").size() == 3);
  CHECK(run.at("notes")[0] == "2 lines of sft/metrics.jsonl are damaged and left out; the first is line 2.");
  CHECK(run.at("notes")[1] == "Line 2 of sft/blocks.jsonl is damaged and left out.");
  CHECK(run.at("notes")[2] == "base.json is damaged and left out.");
}

TEST_CASE("numbers that are not finite, missing or of another type; blocks that come and go; repeated steps") {
  const Folder folder;
  write_run(folder, "run", settings("structured"));
  folder.write("run/sft/metrics.jsonl", R"({"step":0,"loss":null,"seconds":1})"
                                        "\n"
                                        R"({"step":1,"loss":0.25})"
                                        "\n"
                                        R"({"step":2,"loss":"high"})"
                                        "\n"
                                        R"({"step":1,"loss":0.5})"
                                        "\n");
  folder.write("run/sft/blocks.jsonl",
               blocks_line(0, {{"a", 0.5}}) + blocks_line(1, {{"b", 0.25}, {"a", 1}}) +
                   R"({"step":2,"blocks":[{"name":"a","fraction_removed":null},{"rank":"x"},7]})"
                   "\n");
  const auto stage = data_of(folder, {"run"}).at("runs")[0].at("stages")[0];
  CHECK(stage.at("metrics").at("step") == json{0, 1});
  CHECK(stage.at("metrics").at("loss") == json{nullptr, 0.5});
  CHECK(stage.at("metrics").at("seconds") == json{1, nullptr});
  CHECK(stage.at("heat_map").at("values") == json{{500, 999, nullptr}, {nullptr, 250, nullptr}});
  CHECK(stage.at("rank").at("rank") == json{7, 14, 0});
}

TEST_CASE("text of a run cannot become part of the page") {
  const Folder folder;
  const std::string evil = "<script>alert('&\"')";
  auto of_run = settings("structured");
  of_run["model"] = "</script><script>alert(1)</script>";
  of_run["<!--"] = "]]>";
  write_run(folder, evil, of_run);
  auto result = evaluation(1);
  result["files"]["</SCRIPT >"] = {{"kind", "loss"}, {"loss", 1}, {"rows", 1}};
  folder.write(fs::path(evil) / "base.json", result.dump());
  folder.write(fs::path(evil) / "sft/blocks.jsonl", blocks_line(0, {{"</script>", 0.5}}));
  const auto page = page_of(folder, {evil});
  const auto run = data_in(page).at("runs")[0];
  CHECK(run.at("name") == evil);
  CHECK(run.at("settings") == of_run);
  CHECK(run.at("base") == result);
  CHECK(run.at("stages")[0].at("heat_map").at("rows")[0].at("name") == "</script>");

  // Tags are those of a harmless run.
  write_run(folder, "harmless", settings("structured"));
  const auto tags = [](const std::string& text) { return std::count(text.begin(), text.end(), '<'); };
  CHECK(tags(page) == tags(page_of(folder, {"harmless"})));
}

TEST_CASE("a name that is not UTF-8 is shown with replacements") {
  const Folder folder;
  const fs::path name = "r\xe9sum\xe9";
  write_run(folder, name, settings("plain"));
  CHECK(data_of(folder, {name}).at("runs")[0].at("name") == "r\xef\xbf\xbdsum\xef\xbf\xbd");
}

TEST_CASE("the page asks for nothing") {
  const Folder folder;
  write_run(folder, "run", settings("structured"));
  auto page = page_of(folder, {"run"});
  CHECK(page.starts_with("<!DOCTYPE html>"));
  CHECK(page.ends_with("</html>\n"));
  CHECK(contains(page, "default-src 'none'"));
  CHECK_FALSE(contains(page, "<!--"));                           // every part was filled in
  const std::string name_of_svg = "http://www.w3.org/2000/svg";  // a name, which nobody asks for
  page.erase(page.find(name_of_svg), name_of_svg.size());
  for (const char* sign : {"http:", "https:", "url(//", "@import", "fetch(", "XMLHttpRequest", "innerHTML", "src="}) {
    INFO(sign);
    CHECK_FALSE(contains(page, sign));
  }
}

TEST_CASE("several runs: names that tell them apart, and each folder once") {
  const Folder folder;
  for (const char* name : {"a/run", "b/run", "b/other"}) write_run(folder, name, settings("plain"));
  const auto data = data_of(folder, {"a/run", "b/run/", "b/other", "b/../a/run/."});
  std::vector<std::string> names;
  for (const auto& run : data.at("runs")) names.push_back(run.at("name"));
  CHECK(names == std::vector<std::string>{"a/run", "b/run", "other"});
}

TEST_CASE("what a step costs is a median: one that was slow does not count; what is not measured is left out") {
  report::MetricTable table;
  table.steps = {0, 1, 2, 3};
  table.columns = {{"seconds", {1.0, 90.0, 2.0, 3.0}}};
  const json cost = {{"steps", 4}, {"seconds", 96.0}, {"seconds_per_step", 2.5}};
  CHECK(report::cost_of(table) == cost);
  CHECK(report::cost_of({}) == json{{"steps", 0}});
}

TEST_CASE("a model is called by its folder, or by what its maker made it from") {
  const Folder folder;
  const auto name = [&](const fs::path& path) { return report::model_name(folder.path() / path); };
  CHECK(name("models/SmolLM2-135M-Instruct") == "SmolLM2-135M-Instruct");
  CHECK(name("models/SmolLM2-135M-Instruct/") == "SmolLM2-135M-Instruct");
  CHECK(name("hub/models--Qwen--Qwen2.5-7B-Instruct/snapshots/0123abcd") == "Qwen2.5-7B-Instruct");
  CHECK(name("mine/checkpoint-500") == "mine");
  CHECK(name("model") == "model");
  CHECK(name("heal/sft/model") == "heal");  // its run cannot be seen
  folder.write("heal/settings.json", json{{"model", folder.path() / "SmolLM2"}}.dump());
  CHECK(name("heal/sft/model") == "SmolLM2 (heal)");
  folder.write("heal/settings.json", json{{"model", folder.path() / "heal/sft/model"}}.dump());
  CHECK(name("heal/sft/model").starts_with("heal (heal)"));  // nonsense, but it ends
}

TEST_CASE("an arm holds the runs that differ in learning rate and seed") {
  const auto labels = [](const std::vector<json>& all) {
    std::vector<std::string> result;
    const auto arms = report::arms_of(all);
    for (const auto of_run : arms.of_run) result.push_back(arms.arms[of_run].label);
    return result;
  };
  using Labels = std::vector<std::string>;
  CHECK(labels({settings("structured", 1e-5, 0), settings("structured", 2e-5, 1), settings("plain")}) ==
        Labels{"structured", "structured", "plain"});
  CHECK(labels({settings("structured", 1e-5, 0, 0.3), settings("structured", 1e-5, 0, 0.5)}) ==
        Labels{"structured, max_share 0.3", "structured, max_share 0.5"});
  CHECK(labels({settings("plain", 1e-5, 0, 0.3), settings("plain", 1e-5, 0, 0.5)}) == Labels{"plain", "plain"});
  auto other = settings("plain");
  other["sft"]["dataset"] = {"data/helpful.jsonl"};
  CHECK(labels({settings("plain"), other}) == Labels{"plain, dataset safety.jsonl", "plain, dataset helpful.jsonl"});
  CHECK(report::arms_of({settings("ogpsa"), settings("plain")}).arms[0].label == "plain");
  auto both = settings("plain");
  both["dpo"] = {{"dataset", {"data/pairs.jsonl"}}, {"protection", {{"method", "plain"}}}};
  auto dpo = both;
  dpo.erase("sft");
  CHECK(labels({settings("plain"), both, dpo}) == Labels{"plain, SFT", "plain, SFT→DPO", "plain, DPO"});
}

TEST_CASE("what is no run, and what cannot be written") {
  const Folder folder;
  fs::create_directories(folder.path() / "empty");
  folder.write("text/settings.json", "not JSON");
  folder.write("study/settings.json", R"({"options":{}})");
  for (const char* name : {"empty", "text", "study", "missing"}) {
    const auto message = message_of(folder, {name});
    CHECK_MESSAGE(contains(message, (folder.path() / name).string()), message);
    CHECK_MESSAGE(contains(message, "--output_dir"), message);
  }
  CHECK_FALSE(fs::exists(folder.path() / "report.html"));
  CHECK_FALSE(message_of(folder, {}).empty());

  write_run(folder, "run", settings("plain"));
  CHECK_THROWS_AS(write_report({folder.path() / "run"}, folder.path()), ogpsa::FileError);
  CHECK_THROWS_AS(write_report({folder.path() / "run"}, folder.path() / "nowhere" / "report.html"), ogpsa::FileError);
}
