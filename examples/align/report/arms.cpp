#include "report/arms.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace align::report {
namespace {

using nlohmann::json;

constexpr const char* kStages[] = {"sft", "dpo"};
constexpr std::size_t kNamedDifferences = 3;

json value_at(const json& settings, const char* pointer) {
  const json::json_pointer at(pointer);
  return settings.contains(at) ? settings.at(at) : json();
}

std::string method_of(const json& settings) {
  for (const char* at : {"/sft/protection/method", "/dpo/protection/method"}) {
    if (const auto method = value_at(settings, at); method.is_string()) return method;
  }
  return "unknown method";
}

void erase(json& object, std::initializer_list<const char*> keys) {
  if (!object.is_object()) return;
  for (const char* key : keys) object.erase(key);
}

/// Without what may differ within an arm, and for plain runs without what only projection uses.
json shared_settings(json settings) {
  const bool plain = method_of(settings) == "plain";
  erase(settings, {"seed", "versions", "evaluation", "dtype"});
  if (plain) erase(settings, {"reference_loss", "reference_rows"});
  for (const char* name : kStages) {
    if (!settings.contains(name) || !settings.at(name).is_object()) continue;
    auto& stage = settings.at(name);
    if (stage.contains("train")) erase(stage["train"], {"learning_rate", "seed"});
    if (plain) erase(stage, {"protection", "reference_dataset"});
  }
  return settings;
}

/// Of a path the name of the file.
std::string value_text(const json& value) {
  if (value.is_null()) return "none";
  if (!value.is_string()) return value.dump(-1, ' ', false, json::error_handler_t::replace);
  const auto text = value.get<std::string>();
  const auto slash = text.find_last_of('/');
  return text.empty() ? "none" : slash + 1 < text.size() && slash != std::string::npos ? text.substr(slash + 1) : text;
}

/// "/dpo/protection/max_share": "max_share"; "/sft/dataset/0": "dataset".
std::string last_name(const std::string& pointer) {
  auto end = pointer.size();
  auto begin = pointer.rfind('/');
  if (pointer.find_first_not_of("0123456789", begin + 1) == std::string::npos && begin > 0) {
    end = begin;
    begin = pointer.rfind('/', end - 1);
  }
  return pointer.substr(begin + 1, end - begin - 1);
}

/// "SFT", "DPO" or "SFT→DPO".
std::string stages_of(const json& settings) {
  std::vector<std::string> names;
  if (settings.contains("sft")) names.push_back("SFT");
  if (settings.contains("dpo")) names.push_back("DPO");
  return fmt::format("{}", fmt::join(names, "→"));
}

/// Without the stages that another arm has not: of what one lacks, no option differs.
json common_with(json settings, const json& other) {
  for (const char* stage : kStages) {
    if (!other.contains(stage)) erase(settings, {stage});
  }
  return settings.flatten();
}

/// What tells an arm from the others of its method: "DPO, max_share 0.3, refresh_every 30".
std::string difference(const Arm& arm, const std::vector<const Arm*>& others) {
  const auto all = arm.settings.flatten();
  std::set<std::string> pointers;
  std::string result;
  for (const auto* other : others) {
    if (const auto stages = stages_of(arm.settings); stages != stages_of(other->settings)) result = stages;
    const auto own = common_with(arm.settings, other->settings), its = common_with(other->settings, arm.settings);
    for (const auto* both : {&own, &its}) {
      for (const auto& [pointer, value] : both->items()) {
        if (own.value(pointer, json()) != its.value(pointer, json())) pointers.insert(pointer);
      }
    }
  }
  std::map<std::string, std::vector<std::string>> values;  // of both stages, by name
  for (const auto& pointer : pointers) {
    auto& texts = values[last_name(pointer)];
    const auto text = value_text(all.value(pointer, json()));
    if (std::find(texts.begin(), texts.end(), text) == texts.end()) texts.push_back(text);
  }
  std::size_t count = 0;
  for (const auto& [name, texts] : values) {
    if (++count > kNamedDifferences) return result + ", …";
    result += fmt::format("{}{} {}", result.empty() ? "" : ", ", name, fmt::join(texts, "/"));
  }
  return result;
}

}  // namespace

Arms arms_of(const std::vector<json>& settings) {
  Arms result;
  for (const auto& of_run : settings) {
    auto shared = shared_settings(of_run);
    const auto same = [&](const Arm& arm) { return arm.settings == shared; };
    if (std::any_of(result.arms.begin(), result.arms.end(), same)) continue;
    const auto method = method_of(of_run);
    result.arms.push_back({method, method, std::move(shared)});
  }
  std::stable_partition(result.arms.begin(), result.arms.end(), [](const Arm& arm) { return arm.method == "plain"; });
  for (auto& arm : result.arms) {
    std::vector<const Arm*> others;
    for (const auto& other : result.arms) {
      if (&other != &arm && other.method == arm.method) others.push_back(&other);
    }
    if (const auto text = difference(arm, others); !text.empty()) arm.label += ", " + text;
  }
  for (const auto& of_run : settings) {
    const auto shared = shared_settings(of_run);
    const auto arm = std::find_if(result.arms.begin(), result.arms.end(),
                                  [&](const Arm& candidate) { return candidate.settings == shared; });
    result.of_run.push_back(static_cast<std::size_t>(arm - result.arms.begin()));
  }
  return result;
}

}  // namespace align::report
