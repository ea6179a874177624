#include "app/datasets.hpp"

#include <fmt/format.h>

#include <ogpsa/error.hpp>

#include "text/bpe_tokenizer.hpp"
#include "train/random.hpp"

namespace align {
namespace {

ChatTemplate chat_template(std::shared_ptr<const Tokenizer> tokenizer, const std::filesystem::path& model,
                           const std::string& name) {
  if (name.empty()) return ChatTemplate(std::move(tokenizer), model);
  return ChatTemplate(std::move(tokenizer), model, chat_format(name));
}

/// The items of `drawn_rows`.
template <class T>
std::vector<T> draw(std::vector<T> items, std::int64_t count, std::uint64_t seed) {
  std::vector<T> drawn;
  for (const auto i : drawn_rows(seed, count, static_cast<std::int64_t>(items.size()))) {
    drawn.push_back(std::move(items[static_cast<std::size_t>(i)]));
  }
  return drawn;
}

constexpr std::uint64_t kEvaluationSeed = 0;

void require_rows(const std::vector<Example>& examples, const std::filesystem::path& file, std::int64_t max_length) {
  if (!examples.empty()) return;
  throw ogpsa::InvalidArgument(
      fmt::format("'{}': no answer begins within max_length = {} tokens; raise max_length", file.string(), max_length));
}

}  // namespace

DatasetLoader::DatasetLoader(const std::filesystem::path& model, const TextOptions& options,
                             std::function<void(const std::string&)> log)
    : options_(options),
      log_(std::move(log)),
      tokenizer_(std::make_shared<BpeTokenizer>(model)),
      chat_(chat_template(tokenizer_, model, options.chat_template)) {
  if (options.on_bad_row != "skip" && options.on_bad_row != "fail") {
    throw ogpsa::InvalidArgument("on_bad_row is '" + options.on_bad_row + "'; use skip or fail");
  }
}

ReadOptions DatasetLoader::read_options() const {
  return {.format = options_.dataset_format,
          .on_bad_row = options_.on_bad_row == "fail" ? OnBadRow::fail : OnBadRow::skip};
}

template <class Row>
std::vector<Row> DatasetLoader::take(Rows<Row> read, std::int64_t rows, std::uint64_t seed) const {
  log_(account(read));
  return draw(std::move(read.rows), rows, seed);
}

Example DatasetLoader::encode(const std::vector<Message>& messages, std::size_t prompt_messages) const {
  auto [tokens, answer] = chat_.render(messages, /*add_generation_prompt=*/false);
  if (prompt_messages > 0) {
    const std::vector<Message> prompt(messages.begin(),
                                      messages.begin() + static_cast<std::ptrdiff_t>(prompt_messages));
    const auto before = chat_.render(prompt, /*add_generation_prompt=*/true).tokens.size();
    std::fill(answer.begin(), answer.begin() + static_cast<std::ptrdiff_t>(std::min(before, answer.size())), false);
  }
  return Example(std::move(tokens), std::move(answer));
}

std::vector<Example> DatasetLoader::conversations(const std::filesystem::path& file, std::int64_t rows,
                                                  std::uint64_t seed) const {
  std::vector<Example> examples;
  std::int64_t cut = 0, dropped = 0;
  for (const auto& row : take(read_conversations(file, read_options()), rows, seed)) {
    auto example = encode(row.messages, 0);
    const auto length = static_cast<std::int64_t>(example.tokens.size());
    example.truncate(options_.max_length);
    if (example.answer_tokens() == 0) {
      ++dropped;
      continue;
    }
    cut += length > options_.max_length;
    examples.push_back(std::move(example));
  }
  log_(fmt::format("  {} rows used, of these {} cut to {} tokens; {} dropped, since no answer was left",
                   examples.size(), cut, options_.max_length, dropped));
  require_rows(examples, file, options_.max_length);
  return examples;
}

std::vector<Example> DatasetLoader::preferences(const std::filesystem::path& file, std::int64_t rows,
                                                std::uint64_t seed) const {
  std::vector<Example> examples;
  std::int64_t cut = 0, dropped = 0;
  for (const auto& row : take(read_preferences(file, read_options()), rows, seed)) {
    std::vector<Example> pair;
    bool longer = false;
    for (const auto* answer : {&row.chosen, &row.rejected}) {
      auto messages = row.prompt;
      messages.insert(messages.end(), answer->begin(), answer->end());
      pair.push_back(encode(messages, row.prompt.size()));
      longer |= static_cast<std::int64_t>(pair.back().tokens.size()) > options_.max_length;
      pair.back().truncate(options_.max_length);
    }
    if (std::min(pair[0].answer_tokens(), pair[1].answer_tokens()) == 0) {
      ++dropped;
      continue;
    }
    cut += longer;
    for (auto& example : pair) examples.push_back(std::move(example));
  }
  log_(fmt::format("  {} pairs used, of these {} cut to {} tokens; {} dropped, since an answer was not left",
                   examples.size() / 2, cut, options_.max_length, dropped));
  require_rows(examples, file, options_.max_length);
  return examples;
}

std::vector<MultipleChoice> DatasetLoader::multiple_choice(const std::filesystem::path& file, std::int64_t rows) const {
  return take(read_multiple_choice(file, read_options()), rows, kEvaluationSeed);
}
std::vector<Question> DatasetLoader::questions(const std::filesystem::path& file, std::int64_t rows) const {
  return take(read_questions(file, read_options()), rows, kEvaluationSeed);
}
std::vector<Prompt> DatasetLoader::prompts(const std::filesystem::path& file, std::int64_t rows) const {
  return take(read_prompts(file, read_options()), rows, kEvaluationSeed);
}

Tokens DatasetLoader::prompt(const std::string& user) const {
  return chat_.render({{"user", user}}, /*add_generation_prompt=*/true).tokens;
}
Example DatasetLoader::exchange(const std::string& user, const std::string& assistant) const {
  return encode({{"user", user}, {"assistant", assistant}}, 1);
}

}  // namespace align
