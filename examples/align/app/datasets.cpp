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
  auto [tokens, answer] = chat_.render(messages, /*add_generation_prompt=*/false, prompt_messages);
  return Example(std::move(tokens), std::move(answer));
}

std::vector<Example> DatasetLoader::used(Dataset data, const char* rows, const std::filesystem::path& file) const {
  log_(fmt::format("  {} {} used, of these {} cut to {} tokens; {} dropped, whose answer was cut away", data.rows, rows,
                   data.cut, options_.max_length, data.dropped));
  if (data.rows > 0) return std::move(data.examples);
  throw ogpsa::InvalidArgument(fmt::format("'{}': no answer begins within max_length = {} tokens; raise max_length",
                                           file.string(), options_.max_length));
}

std::vector<Example> DatasetLoader::conversations(const std::filesystem::path& file, std::int64_t rows,
                                                  std::uint64_t seed) const {
  Dataset data;
  for (const auto& row : take(read_conversations(file, read_options()), rows, seed)) {
    data.add({encode(row.messages, 0)}, options_.max_length);
  }
  return used(std::move(data), "rows", file);
}

std::vector<Example> DatasetLoader::preferences(const std::filesystem::path& file, std::int64_t rows,
                                                std::uint64_t seed) const {
  Dataset data;
  for (const auto& row : take(read_preferences(file, read_options()), rows, seed)) {
    const auto with = [&](const std::vector<Message>& answer) {
      auto messages = row.prompt;
      messages.insert(messages.end(), answer.begin(), answer.end());
      return encode(messages, row.prompt.size());
    };
    data.add({with(row.chosen), with(row.rejected)}, options_.max_length);
  }
  return used(std::move(data), "pairs", file);
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
