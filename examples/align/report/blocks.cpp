#include "report/blocks.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

namespace align::report {
namespace {

using nlohmann::json;

constexpr double kLevels = 999;  // of a value in the page: three digits

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
}

/// "self_attn.q_proj.lora_A.weight": "q lora A"
std::string short_kind(std::string text) {
  if (text.ends_with(".weight")) text.resize(text.size() - 7);
  for (const char* part : {"self_attn.", "mlp."}) replace_all(text, part, "");
  replace_all(text, "_proj", "");
  replace_all(text, "input_layernorm", "input norm");
  replace_all(text, "post_attention_layernorm", "post norm");
  replace_all(text, ".", " ");
  replace_all(text, "_", " ");
  return text;
}

/// Where a kind stands from top to bottom; kinds that are not listed stand by name before what has no layer.
std::size_t position(const std::string& kind) {
  static constexpr std::array kFirst = {"q", "k", "v", "o", "gate", "up", "down", "input norm", "post norm"};
  static constexpr std::array kLast = {"final norm", "embeddings", "lm head", "other"};
  // q, q bias, q lora A stand together
  const auto is_of = [&](const std::string& name) { return kind == name || kind.starts_with(name + " "); };
  const auto last = std::find(kLast.begin(), kLast.end(), kind);
  if (last != kLast.end()) return kFirst.size() + 1 + static_cast<std::size_t>(last - kLast.begin());
  return static_cast<std::size_t>(std::find_if(kFirst.begin(), kFirst.end(), is_of) - kFirst.begin());
}

/// The columns [first, last) of lines that become one.
std::vector<std::pair<std::size_t, std::size_t>> bins(std::size_t lines, std::size_t columns) {
  std::vector<std::pair<std::size_t, std::size_t>> result;
  const auto count = std::min(lines, columns);
  for (std::size_t i = 0; i < count; ++i) result.emplace_back(i * lines / count, (i + 1) * lines / count);
  return result;
}

}  // namespace

BlockKind kind_of(const std::string& name) {
  for (std::size_t begin = 0; begin < name.size();) {  // the first part that is a number is that of the layer
    const auto end = name.find('.', begin);
    if (end == std::string::npos) break;
    const auto part = name.substr(begin, end - begin);
    const bool is_number =
        !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    if (is_number && end + 1 < name.size()) return {short_kind(name.substr(end + 1)), std::stoll(part)};
    begin = end + 1;
  }
  if (name.find("embed") != std::string::npos) return {"embeddings", -1};
  if (name.find("lm_head") != std::string::npos) return {"lm head", -1};
  if (name.find("norm") != std::string::npos) return {"final norm", -1};
  return {"other", -1};
}

json heat_map(const BlockTable& table, std::size_t columns) {
  std::vector<BlockKind> kinds;
  for (const auto& block : table.blocks) kinds.push_back(kind_of(block.name));
  std::vector<std::size_t> order(kinds.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const auto key = [&](std::size_t i) { return std::tuple(position(kinds[i].kind), kinds[i].kind, kinds[i].layer); };
    return key(a) < key(b);
  });

  const auto ranges = bins(table.steps.size(), columns);
  std::vector<std::vector<double>> means;
  double largest = 0;
  for (const auto row : order) {
    auto& cells = means.emplace_back();
    for (const auto& [first, last] : ranges) {
      double sum = 0, count = 0;
      for (auto line = first; line < last; ++line) {
        const double value = table.fraction_removed[line][row];
        if (std::isnan(value)) continue;
        sum += value;
        ++count;
      }
      cells.push_back(sum / count);  // NaN for none
      if (count > 0) largest = std::max(largest, std::abs(cells.back()));
    }
  }
  const double unit = largest > 0 ? largest / kLevels : 1;

  json result = {{"groups", json::array()},
                 {"rows", json::array()},
                 {"columns", json::array()},
                 {"unit", unit},
                 {"values", json::array()}};
  for (const auto row : order) {
    const auto& block = table.blocks[row];
    const auto& [kind, layer] = kinds[row];
    auto& groups = result["groups"];
    if (groups.empty() || groups.back().at("kind") != kind) groups.push_back({{"kind", kind}, {"rows", 0}});
    groups.back()["rows"] = groups.back().at("rows").get<int>() + 1;
    result["rows"].push_back({{"name", block.name}, {"layer", layer}, {"form", block.form}, {"rank", block.rank}});
  }
  for (const auto& [first, last] : ranges) result["columns"].push_back({table.steps[first], table.steps[last - 1]});
  for (const auto& cells : means) {
    json line = json::array();
    for (const double cell : cells) line.push_back(std::isnan(cell) ? json() : json(std::lround(cell / unit)));
    result["values"].push_back(std::move(line));
  }
  return result;
}

}  // namespace align::report
