#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/message.hpp"
#include "text/tokenizer.hpp"

namespace align {

/// How a model wants a conversation to be written.
enum class ChatFormat { llama3_1, qwen2_5, smollm2, none };

/// "llama3.1", "qwen2.5", "smollm2" or "none". \throws ogpsa::InvalidArgument for another name
ChatFormat chat_format(std::string_view name);

/// A conversation as tokens.
struct Rendered {
  Tokens tokens;
  /// answer[i]: token i belongs to the turn of an assistant, that is to its content or the token that ends it, and not
  /// to its header or to the newline after it. A token that holds the end of the header and the beginning of the
  /// content (contents that start with white space can make one) counts as content.
  std::vector<bool> answer;
};

/// Writes conversations as the chat template of a model does, without tools. The rules of the known templates are built
/// in; the model's own template only tells which one it is.
class ChatTemplate {
 public:
  /// Goes by the chat_template.jinja of the model's folder, else by the chat_template in its tokenizer_config.json.
  /// \throws ogpsa::FileError when they cannot be read, ogpsa::InvalidArgument when there is no template or not a known
  /// one, or when its special tokens are not in the vocabulary
  ChatTemplate(std::shared_ptr<const Tokenizer> tokenizer, const std::filesystem::path& folder);
  /// The named format, whatever the model's template is; the bos and eos token are those of the folder's
  /// tokenizer_config.json, if there is one.
  ChatTemplate(std::shared_ptr<const Tokenizer> tokenizer, const std::filesystem::path& folder, ChatFormat format);

  /// The same tokens as apply_chat_template of transformers. As there, special tokens that stand in a content are taken
  /// as special tokens. With `add_generation_prompt` the header of an assistant's turn follows.
  ///
  /// Format none writes the contents one after the other, each tokenized by itself, so that an answer follows the same
  /// tokens in training and in generation: first the tokenizer's bos, if any, and after an assistant's turn that ends
  /// the conversation the eos token.
  ///
  /// \param prompt_messages  that many at the front are prompt: what an assistant says there is no answer
  /// \throws ogpsa::InvalidArgument when there is no message, or for a role other than system, user and assistant
  Rendered render(const std::vector<Message>& messages, bool add_generation_prompt,
                  std::size_t prompt_messages = 0) const;

  /// The text that render() turns into tokens.
  std::string text(const std::vector<Message>& messages, bool add_generation_prompt) const;

  ChatFormat format() const { return format_; }
  /// The token that ends an answer.
  std::int64_t end_of_turn() const { return end_of_turn_; }

 private:
  struct Part;
  struct Configuration;
  class Writer;

  ChatTemplate(std::shared_ptr<const Tokenizer> tokenizer, const Configuration& configuration,
               std::optional<ChatFormat> format);

  void check_special_tokens() const;
  std::vector<Part> parts(const std::vector<Message>& messages, bool add_generation_prompt,
                          std::size_t prompt_messages) const;
  std::vector<Part> plain(const std::vector<Message>& messages, std::size_t prompt_messages) const;
  void append(const Part& part, Rendered& rendered) const;

  std::shared_ptr<const Tokenizer> tokenizer_;
  ChatFormat format_;
  std::string bos_;             ///< what the template writes first
  std::string end_;             ///< what ends a turn
  std::string default_system_;  ///< the system turn of a conversation that has none
  std::int64_t end_of_turn_ = 0;
};

}  // namespace align
