#pragma once

#include <algorithm>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/cuda/launch.hpp"

/// \file
/// Projection of many vectors by our own kernels, all of them in one launch.

namespace ogpsa::detail::cuda {

/// The vectors of one launch, with the rows of their results.
class VectorTable {
 public:
  /// \param slot  for the table in device memory, so that it need not be sent again in the next step
  explicit VectorTable(Slot slot) : slot_(slot) {}

  /// \param results  numbers for each task; \param remove  where its coefficients start
  template <class T>
  void add(const ProjectionPiece<T>& piece, const void* basis, Index stride, Index rank, Index results, double keep = 1,
           Index remove = 0) {
    const Index size = piece.fast * piece.slow, tasks = (size + kVectorTask - 1) / kVectorTask;
    rows_.push_back({partial_, tasks, results, results_});
    results_ += results;
    if (tasks == 0) return;
    entries_.push_back({piece.tensor.data, piece.origin.data, basis, size, stride, rank, tasks_, partial_, remove, keep,
                        static_cast<int>(piece.tensor.dtype), 0});
    tasks_ += tasks;
    partial_ += tasks * results;
  }

  /// Numbers after all sums.
  Index results() const { return results_; }

  /// Sends the tables, so that later calls neither send nor allocate.
  void prepare(const Session& session) const {
    session->scratch<double>(kPartial, std::max<Index>(partial_, 1));
    upload(session);
    session->upload(rows_slot(), rows_.data(), static_cast<Index>(rows_.size()));
  }

  /// basis^T x and |x|^2 of each vector, in order, to `results`.
  template <class T>
  void measure(const Session& session, double* results) const {
    double* partial = session->scratch<double>(kPartial, std::max<Index>(partial_, 1));
    const MeasureParameters parameters{upload(session), static_cast<Index>(entries_.size()), partial};
    session->module().launch(typed<T>("ogpsa_measure"), tasks_, session->stream(), parameters);
    gather(session, Combination::sum, rows_, partial, results, rows_slot());
  }
  /// x <- keep x - basis remove for each vector; |x|^2 afterwards, in order, to `results`.
  template <class T>
  void change(const Session& session, const double* remove, double* results) const {
    double* partial = session->scratch<double>(kPartial, std::max<Index>(partial_, 1));
    const ChangeParameters parameters{upload(session), static_cast<Index>(entries_.size()), remove, partial};
    session->module().launch(typed<T>("ogpsa_change"), tasks_, session->stream(), parameters);
    gather(session, Combination::sum, rows_, partial, results, rows_slot());
  }

 private:
  const VectorEntry* upload(const Session& session) const {
    return session->upload(slot_, entries_.data(), static_cast<Index>(entries_.size()));
  }

  Slot rows_slot() const { return static_cast<Slot>(slot_ + 1); }

  Slot slot_;
  std::vector<VectorEntry> entries_;
  std::vector<RowsEntry> rows_;
  Index tasks_ = 0, partial_ = 0, results_ = 0;
};

}  // namespace ogpsa::detail::cuda
