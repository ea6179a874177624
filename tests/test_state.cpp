#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "temporary_folder.hpp"
#include "tensors.hpp"

using namespace ogpsa;
using nlohmann::json;
using test::Random;
using test::Tensors;

namespace test_state {
namespace {

const std::vector<BlockSpec> blocks = {
    {.name = "flat/with slash", .rows = 6, .cols = 8, .group = "g"},
    {.name = "vector", .cols = 20, .group = "g"},
    {.name = "input", .rows = 9, .cols = 12, .form = Form::input},
    {.name = "output", .rows = 11, .cols = 5, .form = Form::output, .layout = Layout::column_major},
    {.name = "both \"quoted\"", .rows = 10, .cols = 13, .form = Form::both},
    {.name = "empty", .cols = 0}};

ProjectorOptions options(RefreshPolicy policy, Collect collect, Index dense_limit, Granularity granularity) {
  return {.policy = policy,
          .refresh_every = 2,
          .granularity = granularity,
          .projection = {.mode = ProjectionMode::orthogonal},
          .reference = {.collect = collect,
                        .rank = {.max_rank = 4},
                        .structured = {.rank = {.max_rank = 3}, .damping = 0.2, .dense_limit = dense_limit}}};
}

std::string read_all(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
/// Of the JSON, which begins at byte 8.
std::size_t header_length(const std::string& bytes) {
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  return static_cast<std::size_t>(length);
}
void write_all(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

/// One step of a run that refreshes now and then; returns the projected gradients.
template <class T>
Tensors<T> step(Projector<T>& projector, Index at) {
  Random random(static_cast<std::uint64_t>(at) + 100);
  const std::vector<Tensors<T>> h = {Tensors<T>(blocks, random), Tensors<T>(blocks, random)};
  if (projector.refresh_due(at)) test::refresh(projector, h, at);
  Tensors<T> g(blocks, random);
  projector.project_gradients(g.views(), at);
  return g;
}

template <class T>
bool same_bits(const Tensors<T>& a, const Tensors<T>& b) {
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (a[i].size() != b[i].size()) return false;
    if (!a[i].empty() && std::memcmp(a[i].data(), b[i].data(), a[i].size() * sizeof(T)) != 0) return false;
  }
  return true;
}

/// The basis of one block, in full.
test::MatrixL basis_of(const Projector<float>& projector) {
  const bool full = projector.options().basis_storage == BasisStorage::full;
  return full ? test::exact(projector.subspace("vector").basis())
              : test::exact(projector.stored_subspace("vector").restore().basis());
}

void check_damage(BasisStorage storage, int rounds) {
  const test::TemporaryFolder folder;
  const auto path = folder / "state.safetensors";
  auto opts = options(RefreshPolicy::streaming, Collect::objective, 11, Granularity::group);
  opts.basis_storage = storage;
  Projector<float> projector(blocks, opts);
  for (Index at = 0; at < 4; ++at) step(projector, at);
  save(path, projector);
  const std::string whole = read_all(path);
  const std::size_t length = header_length(whole);
  for (std::size_t size = 0; size < whole.size(); size += 1 + whole.size() / 150) {
    CAPTURE(size);
    write_all(path, whole.substr(0, size));
    CHECK_THROWS_AS(load(path, projector), FileError);
  }
  int errors = 0;
  for (int round = 0; round < rounds; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    CAPTURE(round);
    std::string damaged = whole;
    // Half in the header, half in the data.
    const Index low = round % 2 == 0 ? 0 : static_cast<Index>(8 + length);
    const Index high = round % 2 == 0 ? static_cast<Index>(7 + length) : static_cast<Index>(whole.size()) - 1;
    for (Index i = random.integer(1, 3); i > 0; --i) {
      static constexpr char digits[] = "0123456789-";
      const auto at = static_cast<std::size_t>(random.integer(low, high));
      damaged[at] = random.integer(0, 1) ? digits[random.integer(0, 10)] : static_cast<char>(random.bits());
    }
    write_all(path, damaged);
    Projector<float> victim(blocks, opts);
    step(victim, 0);
    const auto before = basis_of(victim);
    try {
      load(path, victim);
      if (victim.ready()) {
        CHECK(test::orthonormality_error(basis_of(victim)) <= 16 * test::roundoff<float>);
        Random next(1);
        Tensors<float> g(blocks, next);
        victim.project_gradients(g.views());
        for (std::size_t b = 0; b < blocks.size(); ++b) {
          for (const float x : g[b]) CHECK(std::isfinite(x));
        }
      }
    } catch (const Error&) {
      ++errors;
      CHECK(basis_of(victim) == before);
      CHECK(victim.last_refresh() == 0);
    }
  }
  CHECK(errors > rounds / 4);
  write_all(path, whole);
  load(path, projector);
}

}  // namespace

TEST_CASE_TEMPLATE("state: a run that is loaded goes on bit for bit as the one that was not interrupted", T, float,
                   double) {
  const test::TemporaryFolder folder;
  for (const auto policy : {RefreshPolicy::periodic, RefreshPolicy::streaming}) {
    for (const auto collect : {Collect::objective, Collect::batch}) {
      for (const Index dense_limit : {Index(4096), Index(4)}) {
        for (const auto& [granularity, storage] :
             {std::pair(Granularity::block, BasisStorage::full), std::pair(Granularity::group, BasisStorage::full),
              std::pair(Granularity::global, BasisStorage::full), std::pair(Granularity::group, BasisStorage::bfloat16),
              std::pair(Granularity::group, BasisStorage::int8)}) {
          if (storage != BasisStorage::full && !(std::is_same_v<T, float> && test::rounds_bases)) continue;
          CAPTURE(static_cast<int>(policy));
          CAPTURE(static_cast<int>(collect));
          CAPTURE(dense_limit);
          auto opts = options(policy, collect, dense_limit, granularity);
          opts.basis_storage = storage;
          Projector<T> whole(blocks, opts), first(blocks, opts);
          for (Index at = 0; at < 5; ++at) {
            step(whole, at);
            step(first, at);
          }
          const auto path = folder / "state.safetensors";
          save(path, first);
          Projector<T> resumed(blocks, opts);
          load(path, resumed);
          CHECK(resumed.ready());
          CHECK(resumed.last_refresh() == whole.last_refresh());
          for (Index at = 5; at < 10; ++at) {
            CAPTURE(at);
            CHECK(same_bits(step(whole, at), step(resumed, at)));
          }
          save(folder / "b.safetensors", resumed);
          save(folder / "a.safetensors", whole);
          CHECK(read_all(folder / "a.safetensors") == read_all(folder / "b.safetensors"));
        }
      }
    }
  }
}

TEST_CASE("state: before the first refresh, and with zero subspaces") {
  const test::TemporaryFolder folder;
  const auto path = folder / "state.safetensors";
  const auto opts = options(RefreshPolicy::streaming, Collect::objective, 4096, Granularity::block);
  Projector<float> fresh(blocks, opts), loaded(blocks, opts);
  save(path, fresh);
  step(loaded, 0);
  load(path, loaded);
  CHECK_FALSE(loaded.ready());
  Projector<float> zero(blocks, opts);
  test::refresh(zero, std::vector<Tensors<float>>{Tensors<float>(blocks), Tensors<float>(blocks)}, 3);
  save(path, zero);
  load(path, loaded);
  CHECK(loaded.ready());
  CHECK(loaded.subspace("vector").rank() == 0);
  CHECK(loaded.subspace("vector").objectives().cols() == 2);
  CHECK(same_bits(step(zero, 4), step(loaded, 4)));
}

TEST_CASE_TEMPLATE("state: the file, read by a parser that is not ours, holds the bases", T, float, double) {
  const test::TemporaryFolder folder;
  const auto path = folder / "state.safetensors";
  Projector<T> projector(blocks, options(RefreshPolicy::periodic, Collect::objective, 4096, Granularity::block));
  step(projector, 0);
  save(path, projector);
  const std::string bytes = read_all(path);
  const std::size_t length = header_length(bytes);
  const json header = json::parse(bytes.substr(8, length));
  CHECK(header.at("__metadata__").at("last_refresh") == "0");
  const auto compare = [&](const std::string& name, MatrixView<const T> basis) {
    CAPTURE(name);
    const json& t = header.at(name);
    CHECK(t.at("dtype") == (std::is_same_v<T, float> ? "F32" : "F64"));
    CHECK(t.at("shape") == json({basis.cols, basis.rows}));
    const auto begin = t.at("data_offsets")[0].get<std::size_t>();
    const std::size_t size = static_cast<std::size_t>(basis.rows * basis.cols) * sizeof(T);
    CHECK(t.at("data_offsets")[1].get<std::size_t>() == begin + size);
    CHECK(std::memcmp(bytes.data() + 8 + length + begin, test::from_backend(basis).data(), size) == 0);
  };
  compare("flat/with slash/flat/basis", projector.subspace("flat/with slash").basis());
  compare("input/input/basis", projector.subspace("input", Side::input).basis());
  compare("both \"quoted\"/output/basis", projector.subspace("both \"quoted\"", Side::output).basis());
}

TEST_CASE("state: rounded bases are saved as they are kept, and converted where another storage is asked for") {
  const test::TemporaryFolder folder;
  const auto path = folder / "state.safetensors";
  if (!test::rounds_bases) return;
  auto opts = options(RefreshPolicy::periodic, Collect::objective, 4096, Granularity::block);
  for (const auto storage : {BasisStorage::full, BasisStorage::bfloat16, BasisStorage::int8}) {
    opts.basis_storage = storage;
    Projector<float> saved(blocks, opts);
    step(saved, 0);
    save(path, saved);
    const std::string bytes = read_all(path);
    const std::size_t length = header_length(bytes);
    const json header = json::parse(bytes.substr(8, length));
    const json& basis = header.at("vector/flat/basis");
    CHECK(basis.at("shape") == json({2, 20}));
    const char* dtype = storage == BasisStorage::int8 ? "I8" : storage == BasisStorage::bfloat16 ? "BF16" : "F32";
    CHECK(basis.at("dtype") == dtype);
    CHECK(header.contains("vector/flat/scales") == (storage == BasisStorage::int8));
    if (storage != BasisStorage::full) {
      const auto kept = test::from_backend<std::uint8_t>(saved.stored_subspace("vector").elements().view());
      const auto begin = 8 + length + basis.at("data_offsets")[0].get<std::size_t>();
      CHECK(basis.at("data_offsets")[1].get<std::size_t>() + 8 + length - begin ==
            static_cast<std::size_t>(kept.size()));
      CHECK(std::memcmp(bytes.data() + begin, kept.data(), static_cast<std::size_t>(kept.size())) == 0);
    }
    for (const auto other : {BasisStorage::full, BasisStorage::bfloat16, BasisStorage::int8}) {
      CAPTURE(static_cast<int>(other));
      opts.basis_storage = other;
      Projector<float> loaded(blocks, opts);
      load(path, loaded);
      const auto angle = [&](const auto& a) {
        return storage == BasisStorage::full ? largest_angle(saved.subspace("vector"), a)
                                             : largest_angle(saved.stored_subspace("vector"), a);
      };
      if (other == BasisStorage::full) {
        CHECK(angle(loaded.subspace("vector")) < 1e-6);
      } else {
        const auto& stored = loaded.stored_subspace("vector");
        CHECK(stored.storage() == other);
        CHECK(angle(stored) < (other == storage ? 1e-6 : 0.05));
        CHECK((angle(stored) > 1e-6) == (other != storage));
      }
      Projector<float> again(blocks, opts);
      load(path, again);
      CHECK(same_bits(step(loaded, 1), step(again, 1)));
    }
  }
  const auto full = options(RefreshPolicy::periodic, Collect::objective, 4096, Granularity::block);
  Projector<double> in_double(blocks, full);
  CHECK_THROWS_AS(load(path, in_double), InvalidArgument);
  CHECK_FALSE(in_double.ready());
}

TEST_CASE("state: a file of another model, format or type is refused, and the projector is as it was") {
  const test::TemporaryFolder folder;
  const auto path = folder / "state.safetensors";
  const auto opts = options(RefreshPolicy::periodic, Collect::objective, 4096, Granularity::block);
  Projector<float> projector(blocks, opts);
  step(projector, 0);
  const auto basis = test::exact(projector.subspace("vector").basis());
  const auto refused = [&](auto&& other) {
    save(path, other);
    CHECK_THROWS_AS(load(path, projector), Error);
    CHECK(test::exact(projector.subspace("vector").basis()) == basis);
    CHECK(projector.last_refresh() == 0);
  };
  Projector<double> in_double(blocks, opts);
  step(in_double, 2);
  refused(in_double);
  auto changed = blocks;
  changed[1].cols = 21;
  refused(Projector<float>(changed, opts));
  changed = blocks;
  changed[1].name = "another";
  refused(Projector<float>(changed, opts));
  changed = blocks;
  changed[2].form = Form::output;
  refused(Projector<float>(changed, opts));
  changed = blocks;
  changed.pop_back();
  refused(Projector<float>(changed, opts));
  refused(Projector<float>(blocks, options(RefreshPolicy::periodic, Collect::objective, 4096, Granularity::global)));
  SafetensorsWriter writer;
  writer.metadata["format"] = "something else";
  writer.write(path);
  CHECK_THROWS_AS(load(path, projector), FileError);
  CHECK_THROWS_AS(load(folder / "nowhere", projector), FileError);
}

TEST_CASE("state: damage is an error, or loads something valid; the projector is never half changed") {
  check_damage(BasisStorage::full, test::small_sizes ? 200 : 1000);
  if (test::rounds_bases) check_damage(BasisStorage::int8, 200);
}

TEST_CASE("state: an old file survives a save that fails") {
  const test::TemporaryFolder folder;
  const auto path = folder / "state.safetensors";
  const auto opts = options(RefreshPolicy::periodic, Collect::objective, 4096, Granularity::block);
  Projector<float> projector(blocks, opts);
  step(projector, 0);
  save(path, projector);
  const std::string before = read_all(path);
  std::filesystem::create_directory(folder / "state.safetensors.tmp");  // the temporary file cannot be made
  step(projector, 2);
  CHECK_THROWS_AS(save(path, projector), FileError);
  CHECK(read_all(path) == before);
  std::filesystem::remove(folder / "state.safetensors.tmp");
  save(path, projector);
  CHECK(read_all(path) != before);
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);  // nothing is left behind
  CHECK_THROWS_AS(save(folder / "none/state", projector), FileError);
}

}  // namespace test_state
