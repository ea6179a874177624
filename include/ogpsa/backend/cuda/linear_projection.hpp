#pragma once

#include <span>
#include <vector>

#include "ogpsa/backend/cuda/projection.hpp"
#include "ogpsa/backend/cuda/staging.hpp"

/// \file
/// Projections whose coefficients need no decision on the host: measured, weighted and removed on the device, in a
/// number of launches that does not depend on how many tensors there are.

namespace ogpsa::detail::cuda {

/// A LinearChange for each piece, without normalizers. For one side of a matrix the weights are k x 1:
/// X <- keep X - left diag(factor weights) left^T X, or the same on the right. What it needs is allocated and sent when
/// it is made, in the workspace of the session; `enqueue` launches only, any number of times.
template <class T>
class LinearProjection {
 public:
  LinearProjection(const Session& session, std::span<const ProjectionPiece<T>> pieces,
                   std::span<const LinearChange> changes)
      : pieces_(pieces.begin(), pieces.end()), first_(pieces.size()) {
    // Results: coefficients and |x|^2 of vectors, |X|^2 of matrices; then those of vectors that one launch projects,
    // and the coefficients of matrices. After all that, |x|^2 of the results, and what was inside of sides.
    std::vector<std::size_t> fused;  // or staged
    std::vector<bool> staged(pieces.size());
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      const auto& piece = pieces[p];
      const bool is_vector = kind(piece) == Kind::vector;
      staged[p] = is_vector && StagedProjection<T>::takes(session, piece);
      if (staged[p] || (is_vector && FusedTable::fits(session, piece))) {
        fused.push_back(p);
        continue;
      }
      const Index rank = is_vector ? piece.left.cols : 0;
      first_[p] = measure_.results();
      if (is_vector) {
        change_.add(piece, piece.left.data, piece.left.stride, rank, 1, changes[p].keep, measure_.results());
        append_weights(piece, changes[p]);
      } else {
        after_.add(piece, nullptr, 0, 0, 1);
      }
      weights_.push_back(0);  // |x|^2 is not removed
      measure_.add(piece, piece.left.data, piece.left.stride, rank, rank + 1);
    }
    for (const std::size_t p : fused) {
      first_[p] = numbers();
      append_weights(pieces[p], changes[p]);
      weights_.push_back(0);
    }
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      first_weight_.push_back(numbers());
      if (kind(pieces[p]) != Kind::vector) append_weights(pieces[p], changes[p]);
    }
    after_fused_ = numbers() + change_.results() + after_.results();
    for (std::size_t i = 0; i < fused.size(); ++i) {
      const std::size_t p = fused[i];
      const Index after = after_fused_ + static_cast<Index>(i);
      if (staged[p]) {
        staged_.add(pieces[p], changes[p].keep, first_[p], first_[p], after);
      } else {
        fused_.add(pieces[p], pieces[p].left.data, changes[p].keep, first_[p], first_[p], after);
      }
    }
    prepare(session, changes);
  }

  /// Whether bases are copied from the host in each projection.
  bool is_staged() const { return !staged_.empty(); }

  void enqueue(const Session& session) const {
    const Index all = numbers(), count = static_cast<Index>(pieces_.size());
    const CublasSession cublas(*session);
    staged_.enqueue(session, device_weights_, results_);
    fused_.template enqueue<T>(session, device_weights_, results_);
    if (measure_.results() == 0) return;
    measure_.template measure<T>(session, results_);
    matrices_.measure(session, cublas);
    copy(session, {results_, DType::float64, 1, all}, {removed_, DType::float64, 1, all}, all, 1);
    elementwise<double>(session, Operation::multiply, {removed_, all, 1}, {}, nullptr, 0, device_weights_);
    if (change_.results() > 0) change_.template change<T>(session, removed_, results_ + all);
    if (rounded_) copy(session, {removed_, DType::float64, 1, all}, {rounded_, dtype_of<T>(), 1, all}, all, 1);
    matrices_.change(session, cublas);
    gather(session, Combination::sum, side_rows_, squares_, results_ + all + count, kSideRows);
    if (after_.results() > 0) after_.template measure<T>(session, results_ + all + change_.results());
  }

  /// What the last `enqueue` has found; waits for it.
  void read(const Session& session, std::vector<PieceCoefficients>& measured, std::vector<PieceNorms>& norms) const {
    const auto host = session->fetch(results_, numbers() + 2 * static_cast<Index>(pieces_.size()));
    const std::size_t all = weights_.size();
    std::size_t vector = all, matrix = all + static_cast<std::size_t>(change_.results()), side = all + pieces_.size();
    auto fused = static_cast<std::size_t>(after_fused_);
    measured.clear();
    norms.clear();
    for (std::size_t p = 0; p < pieces_.size(); ++p) {
      const auto& piece = pieces_[p];
      const bool is_vector = kind(piece) == Kind::vector, is_side = kind(piece) == Kind::side;
      const Index rows = is_side ? 0 : piece.left.cols, cols = is_vector ? 1 : is_side ? 0 : piece.right.cols;
      const double* coefficients = host.data() + (is_vector ? first_[p] : first_weight_[p]);
      const Eigen::MatrixXd inner = Eigen::Map<const Eigen::MatrixXd>(coefficients, rows, cols);
      const double before = host[static_cast<std::size_t>(first_[p] + (is_vector ? rows : 0))];
      measured.push_back({inner, before});
      std::size_t& after = !is_vector ? matrix : first_[p] >= measure_.results() ? fused : vector;
      norms.push_back({before, host[after++], is_side ? host[side++] : inner.squaredNorm()});
    }
  }

 private:
  enum class Kind { vector, both, side };
  static Kind kind(const ProjectionPiece<T>& piece) {
    return piece.slow == 1 ? Kind::vector : piece.has_shared_coefficients() ? Kind::both : Kind::side;
  }
  Index numbers() const { return static_cast<Index>(weights_.size()); }
  void append_weights(const ProjectionPiece<T>& piece, const LinearChange& change) {
    const Index rows = kind(piece) == Kind::side ? piece.left.cols + piece.right.cols : piece.left.cols;
    const Index count = kind(piece) == Kind::both ? rows * piece.right.cols : rows;
    for (Index i = 0; i < count; ++i) {
      weights_.push_back(change.factor * (change.weights.size() > 0 ? change.weights.data()[i] : 1.0));
    }
  }

  void prepare(const Session& session, std::span<const LinearChange> changes) {
    const Index all = numbers(), count = static_cast<Index>(pieces_.size());
    results_ = session->scratch<double>(kResults, all + 2 * count);  // then |x|^2 afterwards, and inside of sides
    removed_ = session->scratch<double>(kRemoved, all);
    device_weights_ = session->upload(kFactors, weights_.data(), all);
    Index squares = 0;
    bool both = false;
    for (const auto& piece : pieces_) {
      both = both || kind(piece) == Kind::both;
      if (kind(piece) != Kind::side) continue;
      side_rows_.push_back({squares, side_squares(piece), 1, static_cast<Index>(side_rows_.size())});
      squares += side_squares(piece);
    }
    squares_ = session->scratch<double>(kSquares, std::max<Index>(squares, 1));
    if (both) rounded_ = session->scratch<T>(kRounded, all);
    auto side = side_rows_.begin();
    for (std::size_t p = 0; p < pieces_.size(); ++p) {
      const auto& change = changes[p];
      const Index at = first_weight_[p];
      if (kind(pieces_[p]) == Kind::side) {
        matrices_.add(pieces_[p],
                      {.keep = change.keep, .weights = device_weights_ + at, .squares = squares_ + (side++)->partial});
      } else if (kind(pieces_[p]) == Kind::both) {
        const bool nothing =
            change.keep == 1 && (change.factor == 0 || (change.weights.size() > 0 && change.weights.isZero(0)));
        matrices_.add(pieces_[p],
                      {.keep = change.keep, .inner = results_ + at, .remove = nothing ? nullptr : rounded_ + at});
      }
    }
    matrices_.prepare(session);
    for (const auto* table : {&measure_, &change_, &after_}) table->prepare(session);
    fused_.prepare(session);
    staged_.prepare(session);
    session->upload(kSideRows, side_rows_.data(), static_cast<Index>(side_rows_.size()));
  }

  std::vector<ProjectionPiece<T>> pieces_;
  VectorTable measure_{kMeasureTable}, change_{kChangeTable}, after_{kAfterTable};
  FusedTable fused_{kFused};
  StagedProjection<T> staged_;
  Index after_fused_ = 0;  // where their |x|^2 afterwards start
  MatrixBatches<T> matrices_;
  std::vector<double> weights_;
  std::vector<Index> first_, first_weight_;  // where the results and weights of each piece start
  std::vector<RowsEntry> side_rows_;
  double *results_ = nullptr, *removed_ = nullptr, *squares_ = nullptr;  // on the device
  T* rounded_ = nullptr;                                                 // what is removed of matrices
  const double* device_weights_ = nullptr;
};

}  // namespace ogpsa::detail::cuda
