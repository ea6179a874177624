// This file is compiled as with -ffast-math, which lets a compiler assume that there is no NaN or infinity: what checks
// for them must not rely on comparisons. A backend of its own makes sure that the code under test is compiled here.
#pragma GCC optimize("fast-math")

#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <sstream>

#include "ogpsa/ogpsa.hpp"

using namespace ogpsa;

namespace {

class FastMathBackend : public EigenBackend {};

template <class E, class F>
bool throws(F&& call) {
  try {
    call();
  } catch (const E&) {
    return true;
  }
  return false;
}

template <class S>
S from_bits(std::uint64_t bits) {
  S value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class S>
std::vector<S> bad_values() {
  if constexpr (sizeof(S) == 8) return {from_bits<S>(0x7ff8000000000000u), from_bits<S>(0x7ff0000000000000u)};
  if constexpr (sizeof(S) == 4) return {from_bits<S>(0x7fc00000u), from_bits<S>(0xff800000u)};
}

}  // namespace

TEST_CASE_TEMPLATE("fast math: non-finite input is still found, and nothing is changed", S, float, double) {
  using B = FastMathBackend;
  for (const S bad : bad_values<S>()) {
    for (const Form form : {Form::flat, Form::input, Form::both}) {
      CAPTURE(static_cast<int>(form));
      const std::vector<BlockSpec> blocks = {{.name = "w", .rows = 4, .cols = 5, .form = form}};
      Projector<S, B> projector(blocks);
      std::vector<S> g(20, S(1));
      g[7] = S(3);
      const auto refresh = [&] {
        auto collector = projector.begin_refresh();
        const ConstTensorView view(g.data(), dtype_of<S>(), 4, 5);
        collector.add(0, {&view, 1});
        projector.finish_refresh(std::move(collector), 0);
      };
      refresh();
      g[11] = bad;
      CHECK(throws<NonFiniteError>(refresh));
      const auto before = g;
      const TensorView view(g.data(), dtype_of<S>(), 4, 5);
      CHECK(throws<NonFiniteError>([&] { projector.project_gradients({&view, 1}); }));
      CHECK(std::memcmp(g.data(), before.data(), 20 * sizeof(S)) == 0);
    }
    HostMatrix<S> columns(6, 2);
    for (Index i = 0; i < 12; ++i) columns.data()[i] = static_cast<S>(i + i % 3);
    Subspace<S, B> subspace(6);
    subspace.replace(columns);
    CHECK(subspace.rank() == 2);
    columns.data()[8] = bad;
    CHECK(throws<NonFiniteError>([&] { subspace.replace(columns); }));
    CHECK(throws<NonFiniteError>([&] { subspace.append(columns); }));
    CHECK(subspace.rank() == 2);
  }
}

TEST_CASE("fast math: JSON holds null for what it cannot hold") {
  CHECK(detail::json_number(bad_values<double>()[0]) == "null");
  CHECK(detail::json_number(bad_values<double>()[1]) == "null");
}
