#include "text/bpe_model.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <mutex>
#include <queue>
#include <utility>

#include "text/json_object.hpp"
#include "text/unicode.hpp"

namespace align::text {

namespace {

constexpr std::size_t kLongestCached = 256;     ///< bytes
constexpr std::size_t kMostCachedWords = 8192;  ///< in each part of the cache
constexpr std::size_t kLongestScanned = 48;     ///< tokens; longer words are merged with a queue

std::string utf8(char32_t c) {  // the letters lie below U+0800
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
}

/// A pair of tokens as a key; the highest value stands for no pair.
std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) | static_cast<std::uint32_t>(right);
}
constexpr auto kNoPair = std::numeric_limits<std::uint64_t>::max();

constexpr auto kNoRank = std::numeric_limits<std::uint32_t>::max();

Vocabulary read_vocabulary(const JsonObject& model) {
  const auto json = model.object("vocab");
  Vocabulary vocabulary;
  const auto& fields = model.at("vocab");
  vocabulary.reserve(fields.size());
  for (const auto& [token, id] : fields.items()) vocabulary.emplace(token, json.id(token));
  return vocabulary;
}

/// "a b", or ["a", "b"]. Nothing if it is neither.
std::optional<std::pair<std::string_view, std::string_view>> merge_parts(const nlohmann::json& merge) {
  if (merge.is_string()) {
    const std::string_view text = merge.get_ref<const std::string&>();
    const auto space = text.find(' ');
    if (space == text.npos || text.find(' ', space + 1) != text.npos) return std::nullopt;
    return std::pair{text.substr(0, space), text.substr(space + 1)};
  }
  if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) return std::nullopt;
  return std::pair<std::string_view, std::string_view>{merge[0].get_ref<const std::string&>(),
                                                       merge[1].get_ref<const std::string&>()};
}

MergeTable read_merges(const JsonObject& model, const Vocabulary& vocabulary) {
  const auto& json = model.array("merges");
  MergeTable merges(json.size());
  std::uint32_t rank = 0;
  for (const auto& merge : json) {
    // Lists of texts may carry the first line of the merges.txt that they were made from.
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto fail = [&](const std::string& what) {
      throw ogpsa::FileError(model.path("merges") + "[" + std::to_string(&merge - &json[0]) + "] = " + merge.dump() +
                             ": " + what);
    };
    const auto parts = merge_parts(merge);
    if (!parts) fail("two tokens are expected");
    const auto id = [&](std::string_view token) {
      const auto found = vocabulary.find(token);
      if (found == vocabulary.end()) fail("'" + std::string(token) + "' is not in the vocabulary");
      return static_cast<std::int32_t>(found->second);
    };
    const auto left = id(parts->first), right = id(parts->second);
    merges.add(left, right, {rank++, id(std::string(parts->first) + std::string(parts->second))});
  }
  return merges;
}

void check_fields(const JsonObject& model) {
  model.allow_only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                    "byte_fallback", "ignore_merges", "vocab", "merges"});
  // Old files do not say what they are.
  if (model.has("type") && model.text("type") != "BPE") model.fail("type", "only BPE is supported");
  if (model.has("dropout") && model.at("dropout") != 0) model.fail("dropout", "only null is supported");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (model.has(affix) && !model.text(affix).empty()) model.fail(affix, "only null is supported");
  }
  if (model.flag("byte_fallback", false)) model.fail("byte_fallback", "only false is supported");
}

/// A token of a word that is being merged.
struct Symbol {
  std::int32_t token;
  std::uint32_t rank;  ///< of the merge with the next one
};

std::uint32_t rank_of(const MergeTable& merges, std::int32_t left, std::int32_t right) {
  const auto* merge = merges.find(left, right);
  return merge == nullptr ? kNoRank : merge->rank;
}

/// Merges the pair of the lowest rank, of equal ones the leftmost, until none is left. For short words.
void merge_by_scan(const MergeTable& merges, std::vector<std::int32_t>& tokens) {
  std::vector<Symbol> word;
  word.reserve(tokens.size());
  for (const auto token : tokens) word.push_back({token, kNoRank});
  const auto update = [&](std::size_t i) {
    word[i].rank = i + 1 < word.size() ? rank_of(merges, word[i].token, word[i + 1].token) : kNoRank;
  };
  for (std::size_t i = 0; i < word.size(); ++i) update(i);
  while (!word.empty()) {
    const auto best =
        std::min_element(word.begin(), word.end(), [](const Symbol& a, const Symbol& b) { return a.rank < b.rank; });
    if (best->rank == kNoRank) break;
    best->token = merges.find(best->token, std::next(best)->token)->token;
    const auto at = static_cast<std::size_t>(best - word.begin());
    word.erase(std::next(best));
    update(at);
    if (at > 0) update(at - 1);
  }
  tokens.clear();
  for (const auto& symbol : word) tokens.push_back(symbol.token);
}

/// The same with a queue and links, which long words need.
class QueueMerger {
 public:
  QueueMerger(const MergeTable& merges, std::vector<std::int32_t>& tokens) : merges_(merges), tokens_(tokens) {
    const auto size = tokens.size();
    for (std::size_t i = 0; i < size; ++i) links_.push_back({i == 0 ? size : i - 1, i + 1});
  }

  void merge() {
    for (std::size_t i = 0; i < tokens_.size(); ++i) push(i);
    while (!queue_.empty()) {
      const auto [rank, at] = queue_.top();
      queue_.pop();
      // One of the two may have merged with another token since.
      if (tokens_[at] == kGone || rank_at(at) != rank) continue;
      const auto next = links_[at].next;
      tokens_[at] = merges_.find(tokens_[at], tokens_[next])->token;
      tokens_[next] = kGone;
      links_[at].next = links_[next].next;
      if (links_[at].next < tokens_.size()) links_[links_[at].next].previous = at;
      push(at);
      if (links_[at].previous < tokens_.size()) push(links_[at].previous);
    }
    std::erase(tokens_, kGone);
  }

 private:
  static constexpr std::int32_t kGone = -1;
  struct Link {
    std::size_t previous, next;  ///< the number of tokens: none
  };
  using Entry = std::pair<std::uint32_t, std::size_t>;  ///< rank and position

  std::uint32_t rank_at(std::size_t at) const {
    const auto next = links_[at].next;
    return next < tokens_.size() ? rank_of(merges_, tokens_[at], tokens_[next]) : kNoRank;
  }
  void push(std::size_t at) {
    const auto rank = rank_at(at);
    if (rank != kNoRank) queue_.emplace(rank, at);
  }

  const MergeTable& merges_;
  std::vector<std::int32_t>& tokens_;
  std::vector<Link> links_;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue_;
};

}  // namespace

ByteLetters::ByteLetters() {
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    // Printable Latin-1 characters stand for themselves, the other bytes get the letters from U+0100 on.
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const char32_t letter = printable ? byte : next++;
    letters_[byte] = utf8(letter);
    bytes_.emplace(letter, static_cast<char>(byte));
  }
}

std::string ByteLetters::write(std::string_view bytes) const {
  std::string text;
  for (const char byte : bytes) text += of(static_cast<unsigned char>(byte));
  return text;
}

std::optional<std::string> ByteLetters::read(std::string_view letters) const {
  std::string bytes;
  for (std::size_t at = 0; at < letters.size();) {
    const auto [value, size] = code_point(letters, at);
    const auto found = bytes_.find(value);
    if (found == bytes_.end()) return std::nullopt;
    bytes += found->second;
    at += size;
  }
  return bytes;
}

MergeTable::MergeTable(std::size_t merges) : entries_(std::bit_ceil(2 * merges + 1), Entry{kNoPair, {}}) {}

std::size_t MergeTable::slot(std::uint64_t pair) const {
  auto hash = pair * 0x9E3779B97F4A7C15u;
  hash ^= hash >> 32;
  const auto mask = entries_.size() - 1;
  auto at = static_cast<std::size_t>(hash) & mask;
  while (entries_[at].pair != kNoPair && entries_[at].pair != pair) at = (at + 1) & mask;
  return at;
}

void MergeTable::add(std::int32_t left, std::int32_t right, Merge merge) {
  const auto pair = pair_of(left, right);
  entries_[slot(pair)] = {pair, merge};
}

const MergeTable::Merge* MergeTable::find(std::int32_t left, std::int32_t right) const {
  const auto& entry = entries_[slot(pair_of(left, right))];
  return entry.pair == kNoPair ? nullptr : &entry.merge;
}

BpeModel::BpeModel(const nlohmann::json& json, const std::string& where) : merges_(0) {
  const JsonObject model(json, where);
  check_fields(model);
  vocabulary_ = read_vocabulary(model);
  merges_ = read_merges(model, vocabulary_);
  ignore_merges_ = model.flag("ignore_merges", false);
  fuse_unknown_ = model.flag("fuse_unk", false);
  bool complete = true;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const auto found = vocabulary_.find(letters_.of(static_cast<unsigned char>(byte)));
    byte_tokens_[byte] = found == vocabulary_.end() ? -1 : static_cast<std::int32_t>(found->second);
    complete = complete && found != vocabulary_.end();
  }
  if (model.has("unk_token") && !complete) {
    const auto found = vocabulary_.find(model.text("unk_token"));
    if (found == vocabulary_.end()) model.fail("unk_token", "it is not in the vocabulary, and some bytes need it");
    unknown_ = static_cast<std::int32_t>(found->second);
  }
}

std::vector<std::int32_t> BpeModel::bytes_as_tokens(std::string_view bytes) const {
  std::vector<std::int32_t> tokens;
  tokens.reserve(bytes.size());
  bool after_unknown = false;
  for (const char byte : bytes) {
    const auto token = byte_tokens_[static_cast<unsigned char>(byte)];
    if (token >= 0) {
      tokens.push_back(token);
    } else if (unknown_ && !(after_unknown && fuse_unknown_)) {
      tokens.push_back(*unknown_);
    }
    after_unknown = token < 0;
  }
  return tokens;
}

Tokens BpeModel::encode_word(std::string_view bytes) const {
  if (ignore_merges_) {
    const auto found = vocabulary_.find(letters_.write(bytes));
    if (found != vocabulary_.end()) return {found->second};
  }
  auto tokens = bytes_as_tokens(bytes);
  if (tokens.size() <= kLongestScanned) {
    merge_by_scan(merges_, tokens);
  } else {
    QueueMerger(merges_, tokens).merge();
  }
  return {tokens.begin(), tokens.end()};
}

void BpeModel::encode(std::string_view bytes, Tokens& tokens) const {
  const auto append = [&](const Tokens& word) { tokens.insert(tokens.end(), word.begin(), word.end()); };
  if (bytes.size() > kLongestCached) return append(encode_word(bytes));
  auto& cache = cache_[StringHash{}(bytes) % cache_.size()];
  {
    const std::shared_lock lock(cache.mutex);
    const auto found = cache.words.find(bytes);
    if (found != cache.words.end()) return append(found->second);
  }
  auto word = encode_word(bytes);
  append(word);
  const std::unique_lock lock(cache.mutex);
  if (cache.words.size() >= kMostCachedWords) cache.words.clear();
  cache.words.emplace(bytes, std::move(word));
}

}  // namespace align::text
