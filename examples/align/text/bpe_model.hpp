#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/tokens.hpp"

namespace align::text {

/// The letters of byte-level vocabularies: each of the 256 bytes is written as one printable character.
class ByteLetters {
 public:
  ByteLetters();

  std::string_view of(unsigned char byte) const { return letters_[byte]; }
  std::string write(std::string_view bytes) const;
  /// The bytes that a text of letters stands for; none if it holds another character.
  std::optional<std::string> read(std::string_view letters) const;

 private:
  std::array<std::string, 256> letters_;
  std::unordered_map<char32_t, char> bytes_;
};

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using Vocabulary = std::unordered_map<std::string, std::int64_t, StringHash, std::equal_to<>>;

/// Which two tokens become which one, and how early.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank;  ///< the lowest comes first
    std::int32_t token;
  };

  explicit MergeTable(std::size_t merges);
  /// Of equal pairs the last counts.
  void add(std::int32_t left, std::int32_t right, Merge merge);
  /// Null if the two do not merge.
  const Merge* find(std::int32_t left, std::int32_t right) const;

 private:
  struct Entry {
    std::uint64_t pair;
    Merge merge;
  };

  std::size_t slot(std::uint64_t pair) const;

  std::vector<Entry> entries_;  ///< a hash table with linear probing; its size is a power of 2
};

/// Byte-pair encoding over bytes: the field model of a tokenizer.json.
class BpeModel {
 public:
  /// `where` is the file and field, for messages.
  /// \throws ogpsa::FileError naming the field that is damaged or not known
  BpeModel(const nlohmann::json& json, const std::string& where);

  /// Appends the tokens of one piece of text. Bytes that the vocabulary lacks become the unknown token, or nothing if
  /// there is none. May be called by several threads at once.
  void encode(std::string_view bytes, Tokens& tokens) const;

  const ByteLetters& letters() const { return letters_; }
  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  /// What was encoded before, in parts with a lock each.
  struct CachePart {
    std::shared_mutex mutex;
    std::unordered_map<std::string, Tokens, StringHash, std::equal_to<>> words;
  };

  Tokens encode_word(std::string_view bytes) const;
  std::vector<std::int32_t> bytes_as_tokens(std::string_view bytes) const;

  ByteLetters letters_;
  Vocabulary vocabulary_;
  MergeTable merges_;
  std::array<std::int32_t, 256> byte_tokens_{};  ///< -1: not in the vocabulary
  std::optional<std::int32_t> unknown_;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
  mutable std::array<CachePart, 16> cache_;
};

}  // namespace align::text
