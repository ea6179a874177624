#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "ogpsa/ogpsa.hpp"
#include "random.hpp"
#include "temporary_folder.hpp"

using namespace ogpsa;
using nlohmann::json;
using test::Random;

namespace test_safetensors {
namespace {

std::string read_all(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
void write_all(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}
std::string file_of(const std::string& header, const std::string& data = {}) {
  std::string bytes(8, '\0');
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

void write_sample(const std::filesystem::path& path) {
  SafetensorsWriter writer;
  writer.metadata["note"] = "with \"quotes\", \\ and \n a line";
  writer.add("first", std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3});
  writer.add("caf\xc3\xa9/\t", std::vector<double>{-0.0, 1e300}, {2});
  writer.add("half", std::vector<bfloat16>{bfloat16(1.5f)}, {1, 1, 1});
  writer.add("none", std::vector<float16>{}, {0, 7});
  writer.add("scalar", std::vector<float16>{float16(2)}, {});
  writer.write(path);
}

}  // namespace

TEST_CASE("safetensors: what is written, read by a parser that is not ours") {
  const test::TemporaryFolder folder;
  write_sample(folder / "a.safetensors");
  const std::string bytes = read_all(folder / "a.safetensors");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  REQUIRE(length <= bytes.size() - 8);
  CHECK((8 + length) % 8 == 0);
  const json header = json::parse(bytes.substr(8, length));
  CHECK(header.at("__metadata__").at("note") == "with \"quotes\", \\ and \n a line");
  CHECK(header.size() == 6);
  std::map<std::uint64_t, std::uint64_t> spans;
  const auto tensor = [&](const char* name, const char* dtype, const json& shape) {
    const json& t = header.at(name);
    CHECK(t.at("dtype") == dtype);
    CHECK(t.at("shape") == shape);
    const auto begin = t.at("data_offsets")[0].get<std::uint64_t>(), end = t.at("data_offsets")[1].get<std::uint64_t>();
    if (end > begin) spans[begin] = end;
    return bytes.substr(8 + length + begin, end - begin);
  };
  const std::string first = tensor("first", "F32", {2, 3});
  REQUIRE(first.size() == 24);
  for (int i = 0; i < 6; ++i) {
    float value;
    std::memcpy(&value, first.data() + 4 * i, 4);
    CHECK(value == static_cast<float>(i + 1));
  }
  CHECK(tensor("caf\xc3\xa9/\t", "F64", {2}) == std::string("\0\0\0\0\0\0\0\x80", 8) + [] {
    const double x = 1e300;
    return std::string(reinterpret_cast<const char*>(&x), 8);
  }());
  CHECK(tensor("half", "BF16", {1, 1, 1}) == "\xc0\x3f");
  CHECK(tensor("none", "F16", {0, 7}).empty());
  CHECK(tensor("scalar", "F16", json::array()) == std::string("\0\x40", 2));
  std::uint64_t at = 0;  // no gaps, no overlaps, nothing behind
  for (const auto& [begin, end] : spans) {
    CHECK(begin == at);
    at = end;
  }
  CHECK(8 + length + at == bytes.size());
}

TEST_CASE("safetensors: round trip, and what does not fit") {
  const test::TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  write_sample(path);
  SafetensorsReader reader(path);
  CHECK(reader.metadata("note") == "with \"quotes\", \\ and \n a line");
  CHECK(reader.read<float>("first") == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(reader.read<double>("caf\xc3\xa9/\t")[1] == 1e300);
  CHECK(std::signbit(reader.read<double>("caf\xc3\xa9/\t")[0]));
  CHECK(reader.read<float16>("none").empty());
  CHECK(reader.has("half"));
  CHECK_FALSE(reader.has("other"));
  CHECK_THROWS_AS(reader.read<double>("first"), FileError);
  CHECK_THROWS_AS(reader.read<float>("other"), FileError);
  CHECK_THROWS_AS(reader.metadata("other"), FileError);
  SafetensorsWriter writer;
  writer.add("x", std::vector<float>{1}, {1});
  CHECK_THROWS_AS(writer.add("x", std::vector<float>{1}, {1}), InvalidArgument);
}

TEST_CASE("safetensors: headers of others, with spaces, any order and any escape") {
  const test::TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  write_all(
      path,
      file_of(" {\n\"b\\u00e9\\ud83d\\ude00\\/\" : { \"data_offsets\":[4 , 8], \"shape\":[ ],\"dtype\":\"I32\"},\r\n"
              "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]} }  ",
              std::string("\0\0\x80\x3f\1\0\0\0", 8)));
  SafetensorsReader reader(path);
  CHECK(reader.has("b\xc3\xa9\xf0\x9f\x98\x80/"));
  CHECK(reader.read<float>("a") == std::vector<float>{1});
}

TEST_CASE("safetensors: files that are not what they say are errors that name the file") {
  const test::TemporaryFolder folder;
  const auto path = folder / "bad.safetensors";
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", eight(8, 'x');
  std::vector<std::string> files = {
      "",
      "1234567",
      file_of("{}").substr(0, 9),
      std::string(8, '\xff'),
      std::string(8, '\xff') + "{}",
      file_of(good),
      file_of(good, eight + "x"),
      file_of(good, "1234567"),
      file_of(good + "x", eight),
      file_of("", eight),
      file_of("[]"),
      file_of("{"),
      file_of("{\"a\"}"),
      file_of("{\"a\":1}"),
      file_of("null"),
      file_of("{\"a\":{}}"),
  };
  const auto entry = [&](const std::string& fields) { files.push_back(file_of("{\"a\":{" + fields + "}}", eight)); };
  entry(R"("dtype":"F32","shape":[2])");
  entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])");
  entry(R"("dtype":"F99","shape":[2],"data_offsets":[0,8])");
  entry(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])");
  entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])");
  entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])");
  entry(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])");
  entry(R"("dtype":"F32","shape":[2],"data_offsets":[4,12])");
  entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])");
  entry(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8])");
  entry(R"("dtype":"F32","shape":[4611686018427387904,4611686018427387905,2],"data_offsets":[0,8])");
  entry(R"("dtype":"F32","shape":[9223372036854775809,2],"data_offsets":[0,8])");
  entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1)");
  files.push_back(file_of(
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
      "1234"));
  files.push_back(file_of(
      R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})"));
  files.push_back(file_of(R"({"__metadata__":{"x":1}})"));
  files.push_back(file_of(R"({"__metadata__":{"x":"1","x":"2"}})"));
  files.push_back(file_of("{\"\\ud800\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}"));
  files.push_back(file_of("{\"\\u12\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}"));
  for (std::size_t i = 0; i < files.size(); ++i) {
    CAPTURE(i);
    write_all(path, files[i]);
    try {
      const SafetensorsReader reader(path);
      FAIL_CHECK("was read");
    } catch (const FileError& e) {
      CHECK(std::string(e.what()).find("bad.safetensors") != std::string::npos);
    }
  }
  CHECK_THROWS_AS(SafetensorsReader(folder / "nowhere"), FileError);
  CHECK_THROWS_AS(SafetensorsReader(folder.path()), FileError);
}

TEST_CASE("safetensors: random damage is an error or another valid file, never a crash") {
  const test::TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  write_sample(path);
  const std::string whole = read_all(path);
  int errors = 0;
  const int rounds = test::small_sizes ? 500 : 2000;
  for (int round = 0; round < rounds; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    CAPTURE(round);
    std::string damaged = whole;
    const Index changes = random.integer(1, 4);
    for (Index i = 0; i < changes; ++i) {
      const auto at = static_cast<std::size_t>(random.integer(0, static_cast<Index>(damaged.size()) - 1));
      const Index kind = random.integer(0, 3);
      static constexpr char structural[] = "{}[]\":,0129\\u ";
      if (kind == 0) damaged[at] = static_cast<char>(random.bits());
      if (kind == 1) damaged[at] = structural[random.integer(0, 13)];
      if (kind == 2) damaged.erase(at, static_cast<std::size_t>(random.integer(1, 9)));
      if (kind == 3)
        damaged.insert(at, damaged.substr(static_cast<std::size_t>(random.integer(0, static_cast<Index>(at))), 6));
      if (damaged.empty()) damaged = "x";
    }
    write_all(path, damaged);
    try {
      SafetensorsReader reader(path);
      for (const auto& [name, e] : reader.header().tensors) {
        if (e.dtype == "F32") reader.read<float>(name);
      }
    } catch (const FileError&) {
      ++errors;
    }
  }
  CHECK(errors > rounds / 2);
}

TEST_CASE("safetensors: a write that fails leaves the old file, and no other") {
  const test::TemporaryFolder folder;
  const auto path = folder / "a.safetensors";
  write_sample(path);
  const std::string before = read_all(path);
  SafetensorsWriter writer;
  writer.add("x", DType::float32, {4}, [](const SafetensorsWriter::Sink& sink) {
    const float one = 1;
    sink(&one, sizeof one);  // 4 were promised
  });
  CHECK_THROWS_AS(writer.write(path), FileError);
  CHECK(read_all(path) == before);
  SafetensorsWriter throws;
  throws.add("x", DType::float32, {4}, [](const SafetensorsWriter::Sink&) { throw std::runtime_error("stop"); });
  CHECK_THROWS_AS(throws.write(path), std::runtime_error);
  CHECK(read_all(path) == before);
  SafetensorsWriter fine;
  fine.add("x", std::vector<float>{1}, {1});
  CHECK_THROWS_AS(fine.write(folder / "no/such/folder.safetensors"), FileError);
  std::filesystem::create_directory(folder / "folder");
  CHECK_THROWS_AS(fine.write(folder / "folder"), FileError);  // a rename onto a folder
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 2);
  fine.write(path);
  CHECK(SafetensorsReader(path).read<float>("x") == std::vector<float>{1});
}

}  // namespace test_safetensors
