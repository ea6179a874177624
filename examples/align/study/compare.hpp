#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "study/evaluate.hpp"

/// \file
/// Comparison at equal safety. A run that learns less safety pays less tax, with or without a projection; so each run
/// is compared with what plain training pays at the same safety, read from the curve that its learning rates draw.

namespace align::study {

/// Mean and sample standard deviation over seeds.
struct Spread {
  double mean = 0, deviation = 0;
  int count = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Spread, mean, deviation, count)

inline Spread spread(const std::vector<double>& values) {
  Spread result{0, 0, static_cast<int>(values.size())};
  if (values.empty()) return result;
  for (const double v : values) result.mean += v / result.count;
  for (const double v : values) result.deviation += (v - result.mean) * (v - result.mean);
  result.deviation = result.count > 1 ? std::sqrt(result.deviation / (result.count - 1)) : 0;
  return result;
}

/// How unsafe a model still is, in nats: the held-out form of what the stage trains. SFT: loss of the refusals; DPO:
/// preference loss.
inline double safety_loss(const Evaluation& e, const std::string& stage) {
  return std::max(1e-9, stage == "sft" ? e.refusal_loss : e.preference_loss);
}

/// What a run costs in general capability.
struct Cost {
  double loss = 0;         ///< mean over the general tasks
  double exact_match = 0;  ///< the same
};

/// The curve of plain training: cost as a function of safety loss, linear in its logarithm between the runs.
class TradeOffCurve {
 public:
  void add(double safety_loss, Cost cost) {
    points_.push_back({std::log(safety_loss), cost});
    std::sort(points_.begin(), points_.end(), [](const auto& a, const auto& b) { return a.log_safety < b.log_safety; });
  }
  /// None outside the range of the runs.
  std::optional<Cost> at(double safety_loss) const {
    const double x = std::log(safety_loss);
    for (std::size_t i = 1; i < points_.size(); ++i) {
      const auto &a = points_[i - 1], &b = points_[i];
      if (x < a.log_safety || x > b.log_safety) continue;
      const double t = b.log_safety > a.log_safety ? (x - a.log_safety) / (b.log_safety - a.log_safety) : 0;
      return Cost{std::lerp(a.cost.loss, b.cost.loss, t), std::lerp(a.cost.exact_match, b.cost.exact_match, t)};
    }
    return std::nullopt;
  }

 private:
  struct Point {
    double log_safety;
    Cost cost;
  };
  std::vector<Point> points_;
};

/// One run against the curve of the same seed.
struct Comparison {
  double tax = 0;          ///< rise of the mean general loss over the base model's, nats
  double plain_tax = 0;    ///< of plain training at the same safety loss
  double exact_match = 0;  ///< share that this run answers more than plain training at the same safety loss
};

}  // namespace align::study
