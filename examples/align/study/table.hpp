#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "study/report.hpp"

/// \file
/// What a study found, as one table of text.

namespace align::study {
namespace detail {

/// "0.97 ±0.01", or "0.97" for a single seed.
inline std::string cell(const Spread& s, int digits) {
  if (s.count < 2) return fmt::format("{:.{}f}", s.mean, digits);
  return fmt::format("{:.{}f} ±{:.{}f}", s.mean, digits, s.deviation, digits);
}

/// A loss that may be tiny.
inline std::string loss_cell(const Spread& s) {
  return s.mean < 1e-3 ? fmt::format("{:.0e}", s.mean) : cell(s, s.mean < 10 ? 3 : 1);
}

/// A change in percent or points, of the seeds whose safety the plain curve reaches.
inline std::string change_cell(Spread s, const char* unit, std::size_t seeds) {
  if (s.count == 0) return "";
  auto text = fmt::format("{:+.0f}{}", 100 * s.mean, unit);
  if (s.count > 1) text += fmt::format(" ±{:.0f}", 100 * s.deviation);
  if (s.count < static_cast<int>(seeds)) text += fmt::format(" ({} of {})", s.count, seeds);
  return text;
}

/// Pads to a number of columns; UTF-8 takes more bytes than columns.
inline std::string pad(const std::string& text, std::size_t columns) {
  const auto continuation =
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; });
  const auto width = text.size() - static_cast<std::size_t>(continuation);
  return text + std::string(columns > width ? columns - width : 1, ' ');
}

inline std::vector<std::string> cells(const ArmReport& r) {
  const auto mean = [&](auto value, int digits) { return cell(r.over_seeds(value), digits); };
  const auto seeds = r.results.size();
  return {r.stage,
          r.arm,
          r.stage == "base" ? "" : fmt::format("{:g}", r.results[0].learning_rate),
          r.results[0].refresh_every > 0 ? std::to_string(r.results[0].refresh_every) : "",
          mean([](const Evaluation& e) { return e.refusals; }, 2),
          mean([](const Evaluation& e) { return e.false_refusals; }, 2),
          mean([](const Evaluation& e) { return e.preference_accuracy; }, 2),
          loss_cell(r.over_seeds([&](const Evaluation& e) { return safety_loss(e, r.stage); })),
          mean([](const Evaluation& e) { return e.mean().exact_match; }, 2),
          mean([](const Evaluation& e) { return e.mean().loss; }, 3),
          change_cell(r.over_comparisons([](const Comparison& c) { return c.tax / c.plain_tax - 1; }), " %", seeds),
          change_cell(r.over_comparisons([](const Comparison& c) { return c.exact_match; }), "", seeds)};
}

}  // namespace detail

inline std::string table(const std::vector<ArmReport>& reports) {
  static constexpr std::size_t widths[] = {9, 13, 9, 8, 12, 13, 12, 14, 12, 14, 20, 12};
  std::string text;
  const auto add_row = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (std::size_t i = 0; i < cells.size(); ++i) line += detail::pad(cells[i], widths[i]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  };
  add_row({"", "", "", "", "refuses", "refuses", "prefers", "safety", "general", "general", "at equal safety,", ""});
  add_row({"stage", "arm", "rate", "every", "harmful", "look-alikes", "refusal", "loss", "exact", "loss",
           "against plain: tax", "exact, points"});
  std::string stage;
  for (const auto& report : reports) {
    if (report.stage != stage) text += "\n";
    stage = report.stage;
    add_row(detail::cells(report));
  }
  return text + R"(
every        optimizer steps between two estimates of the subspace
refuses      share of held-out harmful requests, and of harmless ones with the same words, that are refused
prefers      share of harmful requests for which a refusal is likelier (per token) than compliance
safety loss  SFT: mean loss of the refusals; DPO: mean of -log sigmoid(log p(refusal) - log p(compliance)); in nats
general      exact match and mean answer-token loss of the general tasks; the tax is the rise of that loss
at equal safety  plain training at its learning rates (and the base model) draws a curve; each arm against its point of the
             same safety loss, seed by seed
)";
}

}  // namespace align::study
