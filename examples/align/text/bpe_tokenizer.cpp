#include "text/bpe_tokenizer.hpp"

#include <algorithm>
#include <fstream>
#include <ogpsa/error.hpp>
#include <unordered_set>

#include "text/added_tokens.hpp"
#include "text/bpe_model.hpp"
#include "text/json_object.hpp"
#include "text/pre_tokenizer.hpp"
#include "text/unicode.hpp"

namespace align {

namespace {

using text::AddedToken;
using text::JsonObject;

nlohmann::json read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw ogpsa::FileError("cannot open '" + path.string() + "'; check that the model has a tokenizer.json");
  try {
    return nlohmann::json::parse(file);
  } catch (const nlohmann::json::exception& error) {
    throw ogpsa::FileError("'" + path.string() + "' is not JSON (" + error.what() + "); fetch it again");
  }
}

/// \return whether texts become NFC
bool reads_nfc(const JsonObject& normalizer) {
  const auto& type = normalizer.text("type");
  if (type == "NFC") {
    normalizer.allow_only({"type"});
    return true;
  }
  if (type != "Sequence") normalizer.fail("type", "this normalizer is not known; NFC and Sequence are");
  normalizer.allow_only({"type", "normalizers"});
  bool nfc = false;
  std::size_t index = 0;
  for (const auto& part : normalizer.array("normalizers")) {
    const auto where = normalizer.path("normalizers") + "[" + std::to_string(index++) + "]";
    nfc = reads_nfc({part, where}) || nfc;  // one after the other they change nothing more
  }
  return nfc;
}

void check_decoder(const JsonObject& decoder) {
  if (decoder.text("type") != "ByteLevel") decoder.fail("type", "only the decoder ByteLevel is supported");
}

/// The id of a special token of a TemplateProcessing.
std::int64_t template_token(const JsonObject& processor, const std::string& name) {
  const auto token = processor.object("special_tokens").object(name);
  const auto& ids = token.array("ids");
  if (ids.size() != 1 || !JsonObject::is_id(ids[0])) token.fail("ids", "one token id is expected");
  return ids[0].get<std::int64_t>();
}

std::optional<std::int64_t> read_bos(const JsonObject& processor) {
  const auto& type = processor.text("type");
  if (type == "ByteLevel") return std::nullopt;
  if (type == "TemplateProcessing") {
    const auto& single = processor.array("single");
    if (single.empty() || !single[0].is_object() || !single[0].contains("SpecialToken")) return std::nullopt;
    const JsonObject first(single[0], processor.path("single") + "[0]");
    return template_token(processor, first.object("SpecialToken").text("id"));
  }
  if (type != "Sequence") {
    processor.fail("type", "this post-processor is not known; ByteLevel, TemplateProcessing and Sequence are");
  }
  std::optional<std::int64_t> bos;
  std::size_t index = 0;
  for (const auto& part : processor.array("processors")) {
    const auto found = read_bos({part, processor.path("processors") + "[" + std::to_string(index++) + "]"});
    if (found) bos = found;
  }
  return bos;
}

AddedToken read_added_token(const JsonObject& json) {
  json.allow_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  const auto special = json.flag("special", false);
  AddedToken token{.id = json.id("id"),
                   .content = json.text("content"),
                   .special = special,
                   .single_word = json.flag("single_word", false),
                   .lstrip = json.flag("lstrip", false),
                   .rstrip = json.flag("rstrip", false),
                   .normalized = json.flag("normalized", !special)};
  if (token.content.empty()) json.fail("content", "a token that is not empty is expected");
  return token;
}

}  // namespace

struct BpeTokenizer::Parts {
  Parts(const nlohmann::json& json, const std::string& where);

  void read_added_tokens(const JsonObject& file);
  void list_tokens(const JsonObject& file);
  std::string normalize(std::string_view text) const { return nfc ? text::to_nfc(text) : std::string(text); }
  void encode_between(std::string_view text, Tokens& tokens) const;

  text::BpeModel model;
  text::PreTokenizer pre_tokenizer;
  bool nfc = false;
  std::optional<std::int64_t> bos;
  std::vector<AddedToken> added;
  text::AddedTokenFinder before_normalization, after_normalization;
  text::Vocabulary ids;             ///< all tokens
  std::vector<std::string> tokens;  ///< by id; empty: none
  std::unordered_set<std::int64_t> special;
};

BpeTokenizer::Parts::Parts(const nlohmann::json& json, const std::string& where)
    : model(JsonObject(json, where).at("model"), where + "model"),
      pre_tokenizer(JsonObject(json, where).at("pre_tokenizer"), where + "pre_tokenizer") {
  const JsonObject file(json, where);
  file.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                   "decoder", "model"});
  if (file.has("version") && file.text("version") != "1.0") file.fail("version", "only \"1.0\" is known");
  if (file.has("normalizer")) nfc = reads_nfc(file.object("normalizer"));
  if (file.has("post_processor")) bos = read_bos(file.object("post_processor"));
  check_decoder(file.object("decoder"));
  read_added_tokens(file);
  list_tokens(file);
}

void BpeTokenizer::Parts::read_added_tokens(const JsonObject& file) {
  if (!file.has("added_tokens")) return;
  std::unordered_set<std::string> seen;
  // Tokens that the vocabulary lacks are numbered on from its size, whatever the file says.
  auto next = static_cast<std::int64_t>(model.vocabulary().size());
  for (const auto& json : file.array("added_tokens")) {
    const JsonObject object(json, file.path("added_tokens") + "[" + std::to_string(added.size()) + "]");
    added.push_back(read_added_token(object));
    const auto& token = added.back();
    if (!seen.insert(token.content).second) object.fail("content", "this token is listed twice");
    const auto found = model.vocabulary().find(token.content);
    if (found != model.vocabulary().end()) {
      if (found->second != token.id) object.fail("id", "the vocabulary has this token with another id");
    } else if (token.id != next) {
      object.fail("id", "the library tokenizers would number this token " + std::to_string(next));
    }
    next = std::max(next, token.id + 1);
  }
  // Special tokens first: where patterns are equal, the first counts.
  std::stable_partition(added.begin(), added.end(), [](const AddedToken& token) { return token.special; });
  for (const auto& token : added) {
    if (token.normalized) {
      after_normalization.add(normalize(token.content), token);
    } else {
      before_normalization.add(token.content, token);
    }
    if (token.special) special.insert(token.id);
  }
}

void BpeTokenizer::Parts::list_tokens(const JsonObject& file) {
  ids = model.vocabulary();
  for (const auto& token : added) ids[token.content] = token.id;
  for (const auto& [token, id] : ids) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= tokens.size()) tokens.resize(at + 1);
    if (!tokens[at].empty()) {
      throw ogpsa::FileError(file.path("model.vocab") + " and added_tokens: '" + token + "' and '" + tokens[at] +
                             "' have the same id " + std::to_string(id) + "; the file is damaged");
    }
    tokens[at] = token;
  }
}

void BpeTokenizer::Parts::encode_between(std::string_view text, Tokens& result) const {
  const auto pieces = pre_tokenizer.split(text);
  for (const auto& [begin, end] : pieces.ranges) {
    model.encode(std::string_view(pieces.text).substr(begin, end - begin), result);
  }
}

BpeTokenizer::BpeTokenizer(const std::filesystem::path& path) {
  const auto file = std::filesystem::is_directory(path) ? path / "tokenizer.json" : path;
  parts_ = std::make_unique<const Parts>(read_file(file), "'" + file.string() + "': ");
}
BpeTokenizer::~BpeTokenizer() = default;

std::int64_t BpeTokenizer::size() const { return static_cast<std::int64_t>(parts_->tokens.size()); }

Tokens BpeTokenizer::encode(std::string_view text) const {
  Tokens tokens;
  const auto valid = text::valid_utf8(text);
  const auto part = [](std::string_view whole, const text::Range& range) {
    return whole.substr(range.begin, range.end - range.begin);
  };
  for (const auto& outer : parts_->before_normalization.split(valid)) {
    if (outer.id) {
      tokens.push_back(*outer.id);
      continue;
    }
    const auto normalized = parts_->normalize(part(valid, outer.range));
    for (const auto& inner : parts_->after_normalization.split(normalized)) {
      if (inner.id) {
        tokens.push_back(*inner.id);
      } else {
        parts_->encode_between(part(normalized, inner.range), tokens);
      }
    }
  }
  return tokens;
}

std::string BpeTokenizer::decode(std::span<const std::int64_t> tokens, bool skip_special) const {
  std::string bytes;
  for (const auto id : tokens) {
    if (id < 0 || id >= size() || (skip_special && parts_->special.contains(id))) continue;
    const auto& token = parts_->tokens[static_cast<std::size_t>(id)];
    // Added tokens may hold characters that are no letters of bytes; they are written as they are.
    bytes += parts_->model.letters().read(token).value_or(token);
  }
  return text::valid_utf8(bytes);
}

std::optional<std::int64_t> BpeTokenizer::id(std::string_view token) const {
  const auto found = parts_->ids.find(token);
  return found == parts_->ids.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::int64_t> BpeTokenizer::bos() const { return parts_->bos; }

}  // namespace align
