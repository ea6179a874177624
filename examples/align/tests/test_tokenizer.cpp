#include <doctest/doctest.h>

#include <array>
#include <functional>
#include <ogpsa/error.hpp>
#include <thread>

#include "text/unicode.hpp"
#include "text_support.hpp"

using namespace align;
using namespace align::test;

namespace {

using Json = nlohmann::json;

const char* const kFixtures[] = {"llama", "qwen", "smollm"};

/// The text of a case, which stands there as bytes where it is not UTF-8.
std::string input_of(const Json& value) {
  if (value.contains("text")) return value.at("text").get<std::string>();
  const auto hex = value.at("hex").get<std::string>();
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

void check_texts(const Tokenizer& tokenizer, const Json& cases) {
  REQUIRE(!cases.empty());
  for (const auto& value : cases) {
    CAPTURE(value);
    CHECK(tokenizer.encode(input_of(value)) == value.at("tokens").get<Tokens>());
  }
}

/// Loads a damaged tokenizer.json; what the error says.
std::string error_of(const std::function<void(Json&)>& damage, const char* fixture = "qwen") {
  auto json = text_fixture(fixture).at("tokenizer");
  damage(json);
  const TokenizerFolder folder(json);
  try {
    BpeTokenizer{folder.path()};
  } catch (const ogpsa::FileError& error) {
    const std::string message = error.what();
    CHECK(message.find((folder.path() / "tokenizer.json").string()) != std::string::npos);
    return message;
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("token ids are those of the Python library") {
  for (const char* name : kFixtures) {
    CAPTURE(name);
    const auto fixture = text_fixture(name);
    check_texts(*make_tokenizer(fixture.at("tokenizer")), fixture.at("texts"));
  }
}

TEST_CASE("token ids are those of the Python library under other settings") {
  const auto fixture = text_fixture("settings");
  for (const auto& setting : fixture.at("settings")) {
    CAPTURE(setting.at("name"));
    auto json = fixture.at("tokenizer");
    json.update(setting.at("changes"));
    check_texts(*make_tokenizer(json), setting.at("texts"));
  }
}

TEST_CASE("tokens are decoded as the Python library does") {
  for (const char* name : kFixtures) {
    CAPTURE(name);
    const auto fixture = text_fixture(name);
    const auto tokenizer = make_tokenizer(fixture.at("tokenizer"));
    for (const auto& value : fixture.at("decoded")) {
      CAPTURE(value);
      const auto tokens = value.at("tokens").get<Tokens>();
      CHECK(tokenizer->decode(tokens, /*skip_special=*/false) == value.at("text").get<std::string>());
      CHECK(tokenizer->decode(tokens, /*skip_special=*/true) == value.at("without_special").get<std::string>());
    }
  }
}

TEST_CASE("a text comes back from its tokens where every byte has one") {
  const auto fixture = text_fixture("llama");
  const auto tokenizer = make_tokenizer(fixture.at("tokenizer"));
  for (const auto& value : fixture.at("texts")) {
    const auto text = text::valid_utf8(input_of(value));
    CHECK(tokenizer->decode(tokenizer->encode(text), /*skip_special=*/false) == text);
  }
  CHECK(tokenizer->decode(Tokens{-1, 0, tokenizer->size(), 1 << 30}, false) == "!");  // ids of no token are left out
}

TEST_CASE("size, ids and the token that starts a text") {
  const auto llama = make_tokenizer(text_fixture("llama").at("tokenizer"));
  CHECK(llama->bos() == llama->id("<|begin_of_text|>"));
  CHECK(llama->bos().has_value());
  CHECK(llama->size() == llama->id("<|eot_id|>").value() + 1);
  CHECK(llama->encode(" the") == Tokens{llama->id("Ġthe").value()});
  CHECK(!llama->id(" the").has_value());
  CHECK(!llama->id("").has_value());
  CHECK(!make_tokenizer(text_fixture("qwen").at("tokenizer"))->bos().has_value());
}

TEST_CASE("long words merge as short ones do") {
  // Short words are merged by scanning, long ones with a queue: cut where nothing merges across, both must agree.
  const auto tokenizer = make_tokenizer(text_fixture("smollm").at("tokenizer"));
  const std::string word = "breadthestationbakerpriceloavesrunning";
  Tokens repeated;
  std::string text;
  for (int i = 0; i < 50; ++i) {
    const auto tokens = tokenizer->encode(word + "zq");
    repeated.insert(repeated.end(), tokens.begin(), tokens.end());
    text += word + "zq";
  }
  CHECK(tokenizer->encode(text) == repeated);
  CHECK(tokenizer->encode(text) == repeated);  // and once more: not from a cache that went wrong
}

TEST_CASE("threads may share a tokenizer") {
  const auto fixture = text_fixture("qwen");
  const auto tokenizer = make_tokenizer(fixture.at("tokenizer"));
  std::vector<std::thread> threads;
  std::array<int, 4> wrong{};
  for (auto& count : wrong) {
    threads.emplace_back([&] {
      for (int round = 0; round < 5; ++round) {
        for (const auto& value : fixture.at("texts")) {
          if (tokenizer->encode(input_of(value)) != value.at("tokens").get<Tokens>()) ++count;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == std::array<int, 4>{});
}

TEST_CASE("a file that is damaged or asks for something unknown is an error that names the field") {
  const auto error = [](const char* field, const Json& value) {
    return error_of([&](Json& json) { json[Json::json_pointer(field)] = value; });
  };
  const auto missing = [](const char* object, const char* field) {
    return error_of([&](Json& json) { json[Json::json_pointer(object)].erase(field); });
  };
  CHECK(contains(error("/model/type", "WordPiece"), "model.type = \"WordPiece\""));
  CHECK(contains(error("/model/dropout", 0.1), "model.dropout = 0.1"));
  CHECK(contains(error("/model/byte_fallback", true), "model.byte_fallback = true"));
  CHECK(contains(error("/model/end_of_word_suffix", "</w>"), "model.end_of_word_suffix = \"</w>\""));
  CHECK(contains(error("/model/continuing_subword_prefix", "##"), "model.continuing_subword_prefix = \"##\""));
  CHECK(contains(error("/model/fuse_unk", 1), "model.fuse_unk = 1"));
  CHECK(contains(error("/model/magic", 1), "model.magic = 1"));
  CHECK(contains(error("/model/vocab", Json::array()), "model.vocab = []"));
  CHECK(contains(error("/model/vocab/a", -1), "model.vocab.a = -1"));
  CHECK(contains(error("/model/vocab/a", 1e9), "model.vocab.a = 1000000000.0"));
  CHECK(contains(error("/model/vocab/a", 1), "have the same id 1"));
  CHECK(contains(error("/model/merges/3", "a b c"), "model.merges[3] = \"a b c\""));
  CHECK(contains(error("/model/merges/3", Json{"a", 1}), "model.merges[3] = [\"a\",1]"));
  CHECK(contains(error("/model/merges/3", Json{"a", "qqq"}), "'qqq' is not in the vocabulary"));
  CHECK(contains(error("/model/merges/3", Json{"z", "z"}), "'zz' is not in the vocabulary"));
  CHECK(contains(missing("/model", "vocab"), "model.vocab is missing"));
  CHECK(contains(missing("/model", "merges"), "model.merges is missing"));
  CHECK(contains(missing("", "model"), "model is missing"));
  CHECK(contains(missing("", "pre_tokenizer"), "pre_tokenizer is missing"));
  CHECK(contains(missing("", "decoder"), "decoder is missing"));
  CHECK(contains(error("/version", "2.0"), "version = \"2.0\""));
  CHECK(contains(error("/extra", 7), "extra = 7"));
  CHECK(contains(error("/normalizer", Json{{"type", "NFKC"}}), "normalizer.type = \"NFKC\""));
  CHECK(contains(error("/normalizer", Json::parse(R"({"type":"Sequence","normalizers":[{"type":"Lowercase"}]})")),
                 "normalizer.normalizers[0].type = \"Lowercase\""));
  CHECK(contains(error("/pre_tokenizer", nullptr), "pre_tokenizer = null"));
  CHECK(contains(error("/pre_tokenizer/pretokenizers/0/type", "Metaspace"), "pretokenizers[0].type = \"Metaspace\""));
  CHECK(contains(error("/pre_tokenizer/pretokenizers/0/behavior", "Odd"), "pretokenizers[0].behavior = \"Odd\""));
  CHECK(contains(error("/pre_tokenizer/pretokenizers/0/pattern", Json{{"Regex", "("}}), "pattern.Regex = \"(\""));
  CHECK(contains(error("/pre_tokenizer/pretokenizers/0/pattern", Json{{"String", ""}}), "pattern.String = \"\""));
  CHECK(contains(error("/pre_tokenizer/pretokenizers/0/pattern", "x"), "pattern = \"x\""));
  CHECK(contains(error("/pre_tokenizer/pretokenizers/1", Json{{"type", "Digits"}}), "has to be ByteLevel"));
  CHECK(contains(error("/pre_tokenizer/pretokenizers/2", Json{{"type", "Digits"}}), "nothing may follow ByteLevel"));
  CHECK(contains(error("/pre_tokenizer/pretokenizers/1/use_regex", "no"), "pretokenizers[1].use_regex = \"no\""));
  CHECK(contains(error("/decoder/type", "BPEDecoder"), "decoder.type = \"BPEDecoder\""));
  CHECK(contains(error("/post_processor", Json{{"type", "BertProcessing"}}), "post_processor.type"));
  CHECK(contains(error("/added_tokens/0/id", 3), "would number this token 656"));
  CHECK(contains(error("/added_tokens/0/id", "3"), "added_tokens[0].id = \"3\""));
  CHECK(contains(error_of([](Json& json) { json["added_tokens"][0]["id"] = 3; }, "smollm"),
                 "added_tokens[0].id = 3"));  // the vocabulary has it, elsewhere
  CHECK(contains(error("/added_tokens/1/content", ""), "added_tokens[1].content = \"\""));
  CHECK(contains(error("/added_tokens/1/content", "<|endoftext|>"), "listed twice"));
  CHECK(contains(error("/added_tokens/1/lstrip", 1), "added_tokens[1].lstrip = 1"));
  CHECK(contains(error("/added_tokens/1/colour", 1), "added_tokens[1].colour = 1"));
  CHECK(contains(error("/model/unk_token", "<unk>"), "no error"));  // no byte needs it
  CHECK(contains(error_of([](Json& json) { json["model"]["unk_token"] = "<unk>"; }, "smollm"),
                 "model.unk_token = \"<unk>\""));
}

TEST_CASE("a file that is missing or no JSON is an error") {
  CHECK_THROWS_AS(BpeTokenizer("/no/such/folder"), ogpsa::FileError);
  const TokenizerFolder folder(Json::array());
  CHECK_THROWS_AS(BpeTokenizer(folder.path()), ogpsa::FileError);
  folder.write("tokenizer.json", "{\"version\": ");
  CHECK_THROWS_AS(BpeTokenizer(folder.path()), ogpsa::FileError);
  folder.write("tokenizer.json", "");
  CHECK_THROWS_AS(BpeTokenizer(folder.path() / "tokenizer.json"), ogpsa::FileError);
}

TEST_CASE("what is not UTF-8 becomes U+FFFD as in Python") {
  const std::string bad = "\xEF\xBF\xBD";
  CHECK(text::valid_utf8("a\xFF"
                         "b") == "a" + bad + "b");
  CHECK(text::valid_utf8("\xE2\x82") == bad);
  CHECK(text::valid_utf8("\xE2\x82"
                         "A") == bad + "A");
  CHECK(text::valid_utf8("\xF0\x9F\x91 x") == bad + " x");
  CHECK(text::valid_utf8("\xC0\xAF") == bad + bad);
  CHECK(text::valid_utf8("\xED\xA0\x80") == bad + bad + bad);
  CHECK(text::valid_utf8("\xF4\x90\x80\x80") == bad + bad + bad + bad);
  CHECK(text::valid_utf8("süß 👍") == "süß 👍");
}

TEST_CASE("white space at the ends is what Python takes for it") {
  CHECK(text::strip(" \t\r\n\v\f\x1C\x1D\x1E\x1F\u0085\u00A0\u2003\u2028\u3000 a b \u205F\u1680") == "a b");
  CHECK(text::strip("\u200Ba\uFEFF") == "\u200Ba\uFEFF");
  CHECK(text::strip(" \n ").empty());
  CHECK(text::strip("").empty());
}
