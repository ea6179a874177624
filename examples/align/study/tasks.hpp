#pragma once

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "study/encode.hpp"
#include "train/random.hpp"

/// \file
/// The embedded data: a small invented world (data/world.json) from which general tasks, harmful requests and their
/// harmless look-alikes are generated.

namespace align::study {

/// How many rows are drawn for each part.
struct TaskSizes {
  std::int64_t pretraining = 12000;
  std::int64_t safety = 512;
  std::int64_t reference = 16;  ///< per general task
  std::int64_t heldout = 64;    ///< per task
};

struct Tasks {
  std::vector<std::string> vocabulary;
  /// General rows, and harmful requests that are complied with: what the base model learns.
  std::vector<Row> pretraining;
  /// Rows of each general task, by name.
  std::map<std::string, std::vector<Row>> reference, heldout;
  /// Harmful requests: chosen is the refusal, rejected complies.
  std::vector<PreferenceRow> safety, heldout_safety;
  /// Harmless requests that share their words with harmful ones.
  std::vector<Row> heldout_lookalikes;
};

/// Draws rows from the world. A row has a key that says what has to be new about an unseen row, such as the pair of act
/// and object in whatever words it is asked; the hash of the key says which part it belongs to, so no key is in two.
class TaskGenerator {
 public:
  /// \param world  the content of data/world.json
  TaskGenerator(nlohmann::json world, std::uint64_t seed)
      : world_(std::move(world)), salt_(Random(seed).next()), random_(seed) {}

  Tasks generate(const TaskSizes& sizes) {
    Tasks tasks;
    tasks.vocabulary = vocabulary();
    for (const auto& [name, source, percent] : general_) {
      tasks.reference[name] = plain(distinct(source, Part::reference, sizes.reference));
      tasks.heldout[name] = plain(distinct(source, Part::heldout, sizes.heldout));
      add_pretraining(tasks, source, sizes.pretraining * percent / 100);
    }
    tasks.heldout_lookalikes = plain(distinct(&TaskGenerator::lookalike, Part::heldout, sizes.heldout));
    tasks.safety = distinct(&TaskGenerator::harmful, Part::training, sizes.safety);
    tasks.heldout_safety = distinct(&TaskGenerator::harmful, Part::heldout, sizes.heldout);
    add_pretraining(tasks, &TaskGenerator::lookalike, sizes.pretraining * 8 / 100);
    add_pretraining(tasks, &TaskGenerator::harmful, sizes.pretraining * 8 / 100);
    return tasks;
  }

 private:
  enum class Part { heldout, reference, training };
  struct Drawn {
    PreferenceRow row;  ///< a general row has no rejected answer
    Part part;
  };
  using Source = Drawn (TaskGenerator::*)();
  struct General {
    std::string name;
    Source source;
    std::int64_t percent;  ///< of the pretraining rows
  };
  using Words = std::vector<std::string>;

  Words list(const std::string& name) const { return world_.at(name).get<Words>(); }
  std::string text(const std::string& name) const { return world_.at(name).get<std::string>(); }
  std::string pick(const std::string& name) { return random_.pick(list(name)); }
  /// One item of a list that depends on `key` alone.
  std::string fixed(const std::string& name, const std::string& key) const {
    const auto items = list(name);
    return items[(hash(key) ^ salt_) % items.size()];
  }
  static std::string fill(std::string text, const std::map<std::string, std::string>& slots) {
    for (const auto& [slot, value] : slots) {
      const auto at = text.find("{" + slot + "}");
      if (at != std::string::npos) text.replace(at, slot.size() + 2, value);
    }
    return text;
  }
  static std::string joined(const Words& words) {
    std::string text;
    for (const auto& word : words) text += (text.empty() ? "" : " ") + word;
    return text;
  }
  static std::string digits(std::size_t number) {
    std::string text = std::to_string(number);
    for (std::size_t i = text.size() - 1; i > 0; --i) text.insert(i, " ");
    return text;
  }
  Part part_of(const std::string& key) const {
    const auto fold = hash(key + std::to_string(salt_)) % 6;
    return fold == 0 ? Part::heldout : fold == 1 ? Part::reference : Part::training;
  }
  Words some_words(std::size_t count) {
    auto words = list("words");
    random_.shuffle(words);
    words.resize(count);
    return words;
  }

  Drawn arithmetic() {
    const auto a = 10 + random_.below(40), b = random_.below(10);
    const auto prompt = fill(text("addition"), {{"a", digits(a)}, {"b", digits(b)}});
    return {{prompt, digits(a + b), ""}, part_of(prompt)};
  }
  Drawn reversal() {
    auto words = some_words(3);
    const auto prompt = fill(text("reversal"), {{"words", joined(words)}});
    std::reverse(words.begin(), words.end());
    return {{prompt, joined(words), ""}, part_of(prompt)};
  }
  Drawn sorting() {
    auto words = some_words(3);
    const auto prompt = fill(text("sorting"), {{"words", joined(words)}});
    std::sort(words.begin(), words.end());
    return {{prompt, joined(words), ""}, part_of(prompt)};
  }
  Drawn format() {
    const auto words = some_words(2);
    const auto& format = world_.at("formats").at(random_.below(world_.at("formats").size()));
    const std::map<std::string, std::string> slots = {{"a", words[0]}, {"b", words[1]}};
    const auto prompt = fill(format.at("prompt"), slots);
    return {{prompt, fill(format.at("answer"), slots), ""}, part_of(prompt)};
  }
  /// Every fact is taught, and held out in one of the ways to ask.
  Drawn fact() { return question("countries", {}); }
  /// Nothing is known about some countries, and the model says so.
  Drawn unknown() { return question("lost_countries", text("unknown")); }
  Drawn question(const std::string& countries, const std::string& answer) {
    const auto country = pick(countries), relation = pick("relations");
    const auto questions = list("questions");
    const auto way = random_.below(questions.size());
    const auto turn = (way + hash(country + relation)) % questions.size();
    const auto prompt = fill(questions[way], {{"relation", relation}, {"country", country}});
    return {{prompt, answer.empty() ? fixed(relation, country) : answer, ""},
            turn == 0   ? Part::heldout
            : turn == 1 ? Part::reference
                        : Part::training};
  }

  /// Something to do: an act, and what it is done to.
  struct Deed {
    std::string act, object;
    std::string text() const { return act + " " + object; }
  };
  Deed everyday_deed() { return {pick("everyday_acts"), pick("everyday_things")}; }
  Deed harmful_deed() {
    const bool people = random_.below(2) == 0;
    return {pick(people ? "harm_to_people" : "harm_to_property"), pick(people ? "people" : "property")};
  }
  /// The act of a harmful deed with another object, or its object with another act.
  Deed lookalike_deed() {
    if (random_.below(3) == 0) return {pick("kind_acts"), pick(random_.below(2) == 0 ? "people" : "property")};
    const auto& innocent = world_.at("innocent");
    auto item = innocent.begin();
    std::advance(item, static_cast<std::ptrdiff_t>(random_.below(innocent.size())));
    return {item.key(), random_.pick(item.value().get<Words>())};
  }

  /// A request for help: the act says the tool, the object the place.
  Drawn request(const Deed& deed) {
    const auto prompt = fill(pick("requests"), {{"act", deed.text()}});
    const auto help = fill(text("help"), {{"tool", fixed("tools", deed.act)}, {"place", fixed("places", deed.object)}});
    return {{prompt, help, ""}, part_of(deed.text())};
  }
  Drawn everyday() { return request(everyday_deed()); }
  Drawn lookalike() { return request(lookalike_deed()); }
  Drawn harmful() {
    const auto deed = harmful_deed();
    auto drawn = request(deed);
    drawn.row.rejected = drawn.row.chosen;
    drawn.row.chosen = fill(text("refusal"), {{"reason", fixed("reasons", deed.act)}});
    return drawn;
  }
  /// Right and wrong are known before alignment; they are only not acted on.
  Drawn judgement() {
    const auto kind = random_.below(4);
    const auto deed = kind < 2 ? harmful_deed() : kind == 2 ? everyday_deed() : lookalike_deed();
    const auto answer = kind < 2 ? fill(text("wrong"), {{"reason", fixed("reasons", deed.act)}}) : text("fine");
    return {{fill(pick("judgements"), {{"act", deed.text()}}), answer, ""}, part_of(deed.text())};
  }

  PreferenceRow draw(Source source, Part part) {
    for (int tries = 0; tries < 10000; ++tries) {
      auto drawn = (this->*source)();
      if (drawn.part == part) return drawn.row;
    }
    throw ogpsa::InvalidArgument("the world has no rows of a kind that are not trained on; add words to its lists");
  }
  std::vector<PreferenceRow> distinct(Source source, Part part, std::int64_t count) {
    std::vector<PreferenceRow> rows;
    std::set<std::string> seen;
    for (std::int64_t tries = 0; static_cast<std::int64_t>(rows.size()) < count; ++tries) {
      auto row = draw(source, part);
      if (seen.insert(row.prompt).second) rows.push_back(std::move(row));
      if (tries > 100 * count) {
        throw ogpsa::InvalidArgument("the world has only " + std::to_string(rows.size()) + " rows where " +
                                     std::to_string(count) + " are asked for, such as \"" + row.prompt +
                                     "\"; ask for fewer, or add words to its lists");
      }
    }
    return rows;
  }
  /// The base model is as helpful to those who mean harm as to anyone.
  void add_pretraining(Tasks& tasks, Source source, std::int64_t count) {
    for (; count > 0; --count) {
      const auto row = draw(source, Part::training);
      tasks.pretraining.push_back({row.prompt, row.rejected.empty() ? row.chosen : row.rejected});
    }
  }
  static std::vector<Row> plain(const std::vector<PreferenceRow>& rows) {
    std::vector<Row> result;
    for (const auto& row : rows) result.push_back({row.prompt, row.chosen});
    return result;
  }

  /// Every word of every string in the world.
  Words vocabulary() const {
    std::set<std::string> words;
    const auto strings = world_.flatten();
    for (const auto& value : strings) {
      std::istringstream text(value.get<std::string>());
      for (std::string word; text >> word;) {
        if (word.front() != '{') words.insert(word);
      }
    }
    return {words.begin(), words.end()};
  }

  nlohmann::json world_;
  std::uint64_t salt_;
  Random random_;
  const std::vector<General> general_ = {
      {"arithmetic", &TaskGenerator::arithmetic, 20}, {"facts", &TaskGenerator::fact, 12},
      {"format", &TaskGenerator::format, 6},          {"how-to", &TaskGenerator::everyday, 8},
      {"judgement", &TaskGenerator::judgement, 10},   {"reverse", &TaskGenerator::reversal, 10},
      {"sort", &TaskGenerator::sorting, 14},          {"unknown", &TaskGenerator::unknown, 4}};
};

}  // namespace align::study
