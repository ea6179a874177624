#include "text/chat.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <ogpsa/error.hpp>
#include <optional>
#include <utility>

#include "text/json_object.hpp"
#include "text/unicode.hpp"

namespace align {

namespace {

constexpr const char* kNames = "--chat_template llama3.1|qwen2.5|smollm2|none";

constexpr std::string_view kQwenSystem = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
constexpr std::string_view kQwenBaseSystem = "You are a helpful assistant.";
constexpr std::string_view kSmolSystem = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
constexpr std::string_view kLlamaDates = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n";

/// A template's format, and what it says where no system message is given.
struct Recognised {
  ChatFormat format;
  std::string_view default_system;
};

/// What a template must and must not hold to be one that is known.
struct Features {
  Recognised recognised;
  std::vector<std::string> present, absent;
};

/// The turn that a ChatML template writes by default.
std::string default_turn(std::string_view system) {
  return "<|im_start|>system\n" + std::string(system) + "<|im_end|>\n";
}

const std::vector<Features>& known_templates() {
  // Later templates of the same families differ by what must be absent: today's date, thinking, images.
  static const std::vector<Features> known = {
      {{ChatFormat::llama3_1, ""},
       {"<|start_header_id|>", "Cutting Knowledge Date: December 2023", "\"26 Jul 2024\"", "set system_message = \"\"",
        "message['content'] | trim"},
       {"strftime_now", "<|im_start|>", "<think>"}},
      {{ChatFormat::qwen2_5, kQwenSystem},
       {default_turn(kQwenSystem), "<tools></tools>", "message.role == \"system\" and not loop.first"},
       {"think", "vision", "raise_exception"}},
      {{ChatFormat::qwen2_5, kQwenBaseSystem},
       {default_turn(kQwenBaseSystem), "<tools></tools>", "message.role == \"system\" and not loop.first"},
       {"think", "vision", "raise_exception"}},
      {{ChatFormat::smollm2, kSmolSystem},
       {default_turn(kSmolSystem), "messages[0]['role'] != 'system'"},
       {"think", "image", "raise_exception"}}};
  return known;
}

std::optional<Recognised> recognise(std::string jinja) {
  // A newline may be written as one or as \n.
  for (auto at = jinja.find("\\n"); at != jinja.npos; at = jinja.find("\\n", at)) jinja.replace(at, 2, "\n");
  const auto contains = [&](const std::string& part) { return jinja.find(part) != jinja.npos; };
  for (const auto& [recognised, present, absent] : known_templates()) {
    if (std::all_of(present.begin(), present.end(), contains) && std::none_of(absent.begin(), absent.end(), contains)) {
      return recognised;
    }
  }
  return std::nullopt;
}

Recognised built_in(ChatFormat format) {
  switch (format) {
    case ChatFormat::qwen2_5:
      return {format, kQwenSystem};
    case ChatFormat::smollm2:
      return {format, kSmolSystem};
    default:
      return {format, ""};
  }
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (!file) throw ogpsa::FileError("cannot read '" + path.string() + "'; check that it may be read");
  return text;
}

/// A token as tokenizer_config.json writes it: a text, or an object with the field content.
std::optional<std::string> token_text(const text::JsonObject& config, std::string_view field) {
  if (!config.has(field)) return std::nullopt;
  return config.at(field).is_object() ? config.object(field).text("content") : config.text(field);
}

/// The chat_template, which may be a list of named ones.
std::optional<std::string> template_text(const text::JsonObject& config) {
  if (!config.has("chat_template")) return std::nullopt;
  if (!config.at("chat_template").is_array()) return config.text("chat_template");
  for (const auto& json : config.array("chat_template")) {
    const text::JsonObject named(json, config.path("chat_template"));
    if (named.text("name") == "default") return named.text("template");
  }
  return std::nullopt;
}

void check_messages(const std::vector<Message>& messages) {
  if (messages.empty()) throw ogpsa::InvalidArgument("a conversation has no message; leave it out");
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const auto& role = messages[i].role;
    if (role == "system" || role == "user" || role == "assistant") continue;
    throw ogpsa::InvalidArgument("message " + std::to_string(i) + " of a conversation has the role '" + role +
                                 "'; chat templates take system, user and assistant here (no tools)");
  }
}

bool is_answer(const std::vector<Message>& messages, std::size_t i, std::size_t prompt_messages) {
  return i >= prompt_messages && messages[i].role == "assistant";
}

}  // namespace

ChatFormat chat_format(std::string_view name) {
  if (name == "llama3.1") return ChatFormat::llama3_1;
  if (name == "qwen2.5") return ChatFormat::qwen2_5;
  if (name == "smollm2") return ChatFormat::smollm2;
  if (name == "none") return ChatFormat::none;
  throw ogpsa::InvalidArgument("the chat template '" + std::string(name) + "' is not known; use " + kNames);
}

/// A part of the text that is tokenized by itself.
struct ChatTemplate::Part {
  static constexpr auto kNoAnswer = std::string::npos;

  std::string text;
  std::size_t answer_begin = kNoAnswer;  ///< from this byte on it is an answer
};

/// What the folder of a model says.
struct ChatTemplate::Configuration {
  std::optional<std::string> bos, eos, jinja;
  bool found = false;  ///< the tokenizer_config.json

  explicit Configuration(const std::filesystem::path& folder) {
    const auto path = folder / "tokenizer_config.json";
    if (std::filesystem::exists(path)) {
      const auto json = nlohmann::json::parse(read_text(path), nullptr, /*allow_exceptions=*/false);
      if (json.is_discarded()) throw ogpsa::FileError("'" + path.string() + "' is not JSON; fetch it again");
      const text::JsonObject config(json, "'" + path.string() + "': ");
      found = true;
      bos = token_text(config, "bos_token");
      eos = token_text(config, "eos_token");
      jinja = template_text(config);
    }
    const auto own = folder / "chat_template.jinja";  // where both are there, this one counts
    if (std::filesystem::exists(own)) jinja = read_text(own);
  }

  Recognised choose(std::optional<ChatFormat> wanted) const {
    const auto own = jinja ? recognise(*jinja) : std::nullopt;
    if (own && (!wanted || *wanted == own->format)) return *own;
    if (wanted) return built_in(*wanted);
    if (!jinja) throw ogpsa::InvalidArgument(std::string("the model has no chat template; name one with ") + kNames);
    throw ogpsa::InvalidArgument("the model's chat template, which begins with '" + jinja->substr(0, 60) +
                                 "', is not one that is built in; name the one to use with " + kNames);
  }
};

/// Puts together the parts of a conversation.
class ChatTemplate::Writer {
 public:
  explicit Writer(bool chatml) : chatml_(chatml) {}

  void add(std::string text, std::size_t answer_begin = Part::kNoAnswer) {
    if (!text.empty()) parts_.push_back({std::move(text), answer_begin});
  }
  void turn(const std::string& role, std::string_view content, bool answer) {
    const auto before = header(role);
    add(before + std::string(content), answer ? before.size() : Part::kNoAnswer);
    add(chatml_ ? "<|im_end|>" : "<|eot_id|>", answer ? 0 : Part::kNoAnswer);
    if (chatml_) add("\n");
  }
  void generation_prompt() { add(header("assistant")); }

  std::vector<Part> take() { return std::move(parts_); }

 private:
  /// Adds the header of a turn but for what is tokenized together with the content, and returns that.
  std::string header(const std::string& role) {
    add(chatml_ ? "<|im_start|>" : "<|start_header_id|>");
    if (chatml_) return role + "\n";
    add(role);
    add("<|end_header_id|>");
    return "\n\n";
  }

  bool chatml_;
  std::vector<Part> parts_;
};

ChatTemplate::ChatTemplate(std::shared_ptr<const Tokenizer> tokenizer, const std::filesystem::path& folder)
    : ChatTemplate(std::move(tokenizer), Configuration(folder), std::nullopt) {}

ChatTemplate::ChatTemplate(std::shared_ptr<const Tokenizer> tokenizer, const std::filesystem::path& folder,
                           ChatFormat format)
    : ChatTemplate(std::move(tokenizer), Configuration(folder), std::optional(format)) {}

ChatTemplate::ChatTemplate(std::shared_ptr<const Tokenizer> tokenizer, const Configuration& configuration,
                           std::optional<ChatFormat> format)
    : tokenizer_(std::move(tokenizer)) {
  const auto chosen = configuration.choose(format);
  format_ = chosen.format;
  default_system_ = chosen.default_system;
  if (format_ == ChatFormat::llama3_1) {
    bos_ = configuration.found ? configuration.bos.value_or("") : "<|begin_of_text|>";
    end_ = "<|eot_id|>";
  } else if (format_ == ChatFormat::none) {
    // Without a configuration: the end-of-text token of Llama 3, of Qwen2.5 and SmolLM2.
    const char* usual = tokenizer_->id("<|end_of_text|>") ? "<|end_of_text|>" : "<|endoftext|>";
    end_ = configuration.eos.value_or(usual);
  } else {
    end_ = "<|im_end|>";
  }
  check_special_tokens();
  end_of_turn_ = *tokenizer_->id(end_);
}

void ChatTemplate::check_special_tokens() const {
  std::vector<std::string> special = {end_};
  if (format_ == ChatFormat::llama3_1) {
    special.insert(special.end(), {"<|start_header_id|>", "<|end_header_id|>"});
    if (!bos_.empty()) special.push_back(bos_);
  } else if (format_ != ChatFormat::none) {
    special.push_back("<|im_start|>");
  }
  for (const auto& token : special) {
    const auto id = tokenizer_->id(token);
    if (id && tokenizer_->encode(token) == Tokens{*id}) continue;
    throw ogpsa::InvalidArgument("the chat template needs the special token '" + token +
                                 "', which the tokenizer does not have; name another one with " + kNames);
  }
}

std::vector<ChatTemplate::Part> ChatTemplate::parts(const std::vector<Message>& messages, bool add_generation_prompt,
                                                    std::size_t prompt_messages) const {
  check_messages(messages);
  if (format_ == ChatFormat::none) return plain(messages, prompt_messages);
  const bool llama = format_ == ChatFormat::llama3_1;
  const auto content = [&](const Message& message) {
    return llama ? text::strip(message.content) : std::string_view(message.content);
  };
  Writer writer(/*chatml=*/!llama);
  writer.add(bos_);
  const bool has_system = messages[0].role == "system";
  const auto system = std::string(has_system ? content(messages[0]) : default_system_);
  writer.turn("system", (llama ? std::string(kLlamaDates) : "") + system, /*answer=*/false);
  for (std::size_t i = has_system ? 1 : 0; i < messages.size(); ++i) {
    writer.turn(messages[i].role, content(messages[i]), is_answer(messages, i, prompt_messages));
  }
  if (add_generation_prompt) writer.generation_prompt();
  return writer.take();
}

std::vector<ChatTemplate::Part> ChatTemplate::plain(const std::vector<Message>& messages,
                                                    std::size_t prompt_messages) const {
  std::vector<Part> parts;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    parts.push_back({messages[i].content, is_answer(messages, i, prompt_messages) ? 0 : Part::kNoAnswer});
  }
  if (messages.back().role == "assistant") parts.push_back({end_, 0});
  return parts;
}

void ChatTemplate::append(const Part& part, Rendered& rendered) const {
  const auto tokens = tokenizer_->encode(part.text);
  auto first = tokens.size();
  if (part.answer_begin < part.text.size()) {
    // The tokens that the header has by itself are header here as well; the first that differs reaches across.
    const auto header = tokenizer_->encode(std::string_view(part.text).substr(0, part.answer_begin));
    const auto differs = std::mismatch(tokens.begin(), tokens.end(), header.begin(), header.end()).first;
    first = static_cast<std::size_t>(differs - tokens.begin());
  }
  rendered.tokens.insert(rendered.tokens.end(), tokens.begin(), tokens.end());
  rendered.answer.insert(rendered.answer.end(), first, false);
  rendered.answer.insert(rendered.answer.end(), tokens.size() - first, true);
}

Rendered ChatTemplate::render(const std::vector<Message>& messages, bool add_generation_prompt,
                              std::size_t prompt_messages) const {
  Rendered rendered;
  const auto bos = format_ == ChatFormat::none ? tokenizer_->bos() : std::nullopt;
  if (bos) {
    rendered.tokens.push_back(*bos);
    rendered.answer.push_back(false);
  }
  for (const auto& part : parts(messages, add_generation_prompt, prompt_messages)) append(part, rendered);
  if (format_ != ChatFormat::none && rendered.tokens != tokenizer_->encode(text(messages, add_generation_prompt))) {
    throw ogpsa::InvalidArgument(
        "the tokenizer joins text across the special tokens of the chat template, so that it "
        "cannot be told where an answer begins; use --chat_template none");
  }
  return rendered;
}

std::string ChatTemplate::text(const std::vector<Message>& messages, bool add_generation_prompt) const {
  std::string text;
  for (const auto& part : parts(messages, add_generation_prompt, 0)) text += part.text;
  return text;
}

}  // namespace align
