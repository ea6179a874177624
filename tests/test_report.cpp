#include <doctest/doctest.h>

#include <clocale>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>
#include <sstream>

#include "ogpsa/ogpsa.hpp"
#include "tensors.hpp"

using namespace ogpsa;
using nlohmann::json;

namespace test_report {
namespace {

json line(const Report& report, bool per_block = true) {
  std::ostringstream out;
  report.write_json_line(out, per_block);
  const std::string text = out.str();
  REQUIRE(text.back() == '\n');
  REQUIRE(std::count(text.begin(), text.end(), '\n') == 1);
  return json::parse(text);
}

Report sample() {
  Report report{41, 11, {}};
  report.entries.push_back({"model.layers.0.weight", Form::flat, 2, {5, 4, 3, Eigen::Vector2d(-2.5, 1e-300)}});
  report.entries.push_back({"odd \"name\"\\ with\ttab\x01 and \xc3\xa9", Form::both, 3, {12, 0, 12, {}}});
  return report;
}

}  // namespace

TEST_CASE("report: a JSON line, read by another parser, holds the values") {
  const Report report = sample();
  const json j = line(report);
  CHECK(j.at("step") == 41);
  CHECK(j.at("basis_age") == 11);
  CHECK(j.at("total").at("norm_before").get<double>() == doctest::Approx(13));
  CHECK(j.at("total").at("norm_after").get<double>() == doctest::Approx(4));
  REQUIRE(j.at("blocks").size() == 2);
  const json& first = j.at("blocks")[0];
  CHECK(first.at("name") == "model.layers.0.weight");
  CHECK(first.at("form") == "flat");
  CHECK(first.at("rank") == 2);
  CHECK(first.at("norm_before").get<double>() == 5);
  CHECK(first.at("fraction_removed").get<double>() == doctest::Approx(1 - 16.0 / 25));
  CHECK(first.at("angle").get<double>() == doctest::Approx(std::acos(0.6)));
  CHECK(first.at("objective_coefficients")[0].get<double>() == -2.5);
  CHECK(first.at("objective_coefficients")[1].get<double>() == 1e-300);
  const json& second = j.at("blocks")[1];
  CHECK(second.at("name") == report.entries[1].name);
  CHECK(second.at("form") == "both");
  CHECK(second.at("objective_coefficients").empty());
  CHECK(second.at("angle").get<double>() == 0);
  CHECK(second.at("fraction_removed").get<double>() == 1);
  CHECK_FALSE(line(report, false).contains("blocks"));
}

TEST_CASE("report: numbers that JSON does not have, and an empty report, still parse") {
  Report report = sample();
  report.entries[0].result.norm_before = std::numeric_limits<double>::infinity();
  report.entries[1].result.norm_after = std::nan("");
  const json j = line(report);
  CHECK(j.at("blocks")[0].at("norm_before").is_null());
  CHECK(j.at("blocks")[1].at("norm_after").is_null());
  CHECK(line(Report{}).at("blocks").empty());
  CHECK(line(Report{}).at("step") == -1);
}

TEST_CASE("report: a program's locale does not reach the numbers") {
  const std::string old = std::setlocale(LC_ALL, nullptr);
  for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "de_DE", "fr_FR.UTF-8", "fr_FR.utf8", "nl_NL.utf8"}) {
    if (!std::setlocale(LC_ALL, name)) continue;
    CAPTURE(name);
    CHECK(line(sample()).at("blocks")[0].at("objective_coefficients")[0].get<double>() == -2.5);
  }
  std::setlocale(LC_ALL, old.c_str());
}

TEST_CASE("report: fractions and angles at their ends") {
  const ProjectionResult untouched{2, 2, 0, {}}, gone{2, 0, 2, {}}, zero{}, rounding{1, 1 + 1e-16, 1 + 1e-16, {}};
  CHECK(untouched.fraction_removed() == 0);
  CHECK(untouched.angle() == doctest::Approx(std::numbers::pi / 2));
  CHECK(gone.fraction_removed() == 1);
  CHECK(gone.angle() == 0);
  CHECK(zero.fraction_removed() == 0);
  CHECK(zero.angle() == doctest::Approx(std::numbers::pi / 2));
  CHECK(rounding.angle() == 0);
  // The range of squares is no limit.
  const ProjectionResult tiny{5e-300, 4e-300, 3e-300, {}}, huge{5e300, 4e300, 3e300, {}};
  for (const auto& r : {tiny, huge}) {
    CHECK(r.fraction_removed() == doctest::Approx(9.0 / 25));
    CHECK(r.angle() == doctest::Approx(std::acos(0.6)));
  }
}

TEST_CASE("report: totals of blocks with different numbers of objectives") {
  Report report;
  report.entries.push_back({"a", Form::flat, 1, {1, 1, 0, Eigen::VectorXd::Constant(1, 2.0)}});
  report.entries.push_back({"b", Form::flat, 1, {1, 1, 0, Eigen::Vector3d(1, 2, 3)}});
  report.entries.push_back({"c", Form::input, 1, {1, 1, 0, {}}});
  const auto total = report.total();
  REQUIRE(total.objective_coefficients.size() == 3);
  CHECK(total.objective_coefficients == Eigen::Vector3d(3, 2, 3));
}

}  // namespace test_report
