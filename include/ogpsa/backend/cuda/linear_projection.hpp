#pragma once

#include <span>
#include <vector>

#include "ogpsa/backend/cuda/projection.hpp"

/// \file
/// Projections whose coefficients need no decision on the host, all in one go: measured, weighted and removed on the
/// device. The host waits once, at the end, for the numbers of a report.

namespace ogpsa::detail::cuda {

/// A LinearChange for each piece, without normalizers. For one side of a matrix the weights are k x 1:
/// X <- keep X - left diag(factor weights) left^T X, or the same on the right.
template <class T>
class LinearProjection {
 public:
  LinearProjection(std::span<const ProjectionPiece<T>> pieces, std::span<const LinearChange> changes)
      : pieces_(pieces), changes_(changes) {
    // Results: coefficients and |x|^2 of vectors, |X|^2 of matrices; then the coefficients of matrices.
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      const auto& piece = pieces[p];
      const Index rank = kind(piece) == Kind::vector ? piece.left.cols : 0;
      first_.push_back(measure_.results());
      if (kind(piece) == Kind::vector) {
        change_.add(piece, piece.left.data, piece.left.stride, rank, 1, changes[p].keep, measure_.results());
        append_weights(piece, changes[p]);
      } else {
        after_.add(piece, nullptr, 0, 0, 1);
      }
      weights_.push_back(0);  // |x|^2 is not removed
      measure_.add(piece, piece.left.data, piece.left.stride, rank, rank + 1);
    }
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      inner_.push_back(static_cast<Index>(weights_.size()));
      if (kind(pieces[p]) != Kind::vector) append_weights(pieces[p], changes[p]);
      if (kind(pieces[p]) == Kind::side) squares_ += side_squares(pieces[p]);
    }
  }

  void run(const Session& session, std::vector<PieceCoefficients>& measured, std::vector<PieceNorms>& norms) const {
    const Index all = static_cast<Index>(weights_.size()), count = static_cast<Index>(pieces_.size());
    double* results =
        session->scratch<double>(kResults, all + 2 * count);  // then |x|^2 afterwards, and inside of sides
    double* removed = session->scratch<double>(kRemoved, all);
    double* squares = session->scratch<double>(kSquares, std::max<Index>(squares_, 1));
    const double* weights = session->upload(kFactors, weights_.data(), all);
    const CublasSession cublas(*session);
    measure_.template measure<T>(session, results);
    for (std::size_t p = 0; p < pieces_.size(); ++p) {
      if (kind(pieces_[p]) == Kind::both) measure_matrix(session, cublas, pieces_[p], results + inner_[p]);
    }
    copy(session, {results, DType::float64, 1, all}, {removed, DType::float64, 1, all}, all, 1);
    elementwise<double>(session, Operation::multiply, {removed, all, 1}, {}, nullptr, weights);
    if (change_.results() > 0) change_.template change<T>(session, removed, results + all);
    change_matrices(session, cublas, weights, removed, squares, results + all + count);
    if (after_.results() > 0) after_.template measure<T>(session, results + all + change_.results());
    read(session->fetch(results, all + 2 * count), measured, norms);
  }

 private:
  enum class Kind { vector, both, side };
  static Kind kind(const ProjectionPiece<T>& piece) {
    return piece.slow == 1 ? Kind::vector : piece.has_shared_coefficients() ? Kind::both : Kind::side;
  }
  void append_weights(const ProjectionPiece<T>& piece, const LinearChange& change) {
    const Index rows = kind(piece) == Kind::side ? piece.left.cols + piece.right.cols : piece.left.cols;
    const Index count = kind(piece) == Kind::both ? rows * piece.right.cols : rows;
    for (Index i = 0; i < count; ++i) {
      weights_.push_back(change.factor * (change.weights.size() > 0 ? change.weights.data()[i] : 1.0));
    }
  }

  void change_matrices(const Session& session, cublasHandle_t cublas, const double* weights, const double* removed,
                       double* squares, double* inside) const {
    std::vector<RowsEntry> rows;
    Index at = 0;
    for (std::size_t p = 0; p < pieces_.size(); ++p) {
      const auto& change = changes_[p];
      if (kind(pieces_[p]) == Kind::both) {
        const bool nothing =
            change.keep == 1 && (change.factor == 0 || (change.weights.size() > 0 && change.weights.isZero(0)));
        if (!nothing) change_matrix(session, cublas, pieces_[p], change.keep, removed + inner_[p]);
      } else if (kind(pieces_[p]) == Kind::side) {
        const Index written = change_side(session, cublas, pieces_[p], change.keep, weights + inner_[p], squares + at);
        rows.push_back({at, written, 1, static_cast<Index>(rows.size())});
        at += written;
      }
    }
    gather(session, Combination::sum, rows, squares, inside, kSideRows);
  }

  void read(const std::vector<double>& host, std::vector<PieceCoefficients>& measured,
            std::vector<PieceNorms>& norms) const {
    const std::size_t all = weights_.size();
    std::size_t vector = all, matrix = all + static_cast<std::size_t>(change_.results()), side = all + pieces_.size();
    measured.clear();
    norms.clear();
    for (std::size_t p = 0; p < pieces_.size(); ++p) {
      const auto& piece = pieces_[p];
      const bool is_vector = kind(piece) == Kind::vector, is_side = kind(piece) == Kind::side;
      const Index rows = is_side ? 0 : piece.left.cols, cols = is_vector ? 1 : is_side ? 0 : piece.right.cols;
      const double* coefficients = host.data() + (is_vector ? first_[p] : inner_[p]);
      const Eigen::MatrixXd inner = Eigen::Map<const Eigen::MatrixXd>(coefficients, rows, cols);
      const double before = host[static_cast<std::size_t>(first_[p] + (is_vector ? rows : 0))];
      measured.push_back({inner, before});
      norms.push_back({before, host[is_vector ? vector++ : matrix++], is_side ? host[side++] : inner.squaredNorm()});
    }
  }

  std::span<const ProjectionPiece<T>> pieces_;
  std::span<const LinearChange> changes_;
  VectorTable measure_{kMeasureTable}, change_{kChangeTable}, after_{kAfterTable};
  std::vector<double> weights_;
  std::vector<Index> first_, inner_;  // where the results of each piece start
  Index squares_ = 0;
};

}  // namespace ogpsa::detail::cuda
