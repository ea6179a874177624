#pragma once

#include <charconv>
#include <filesystem>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/projector.hpp"
#include "ogpsa/safetensors.hpp"

/// \file
/// State of a Projector in the safetensors layout: subspaces, and for streaming the second moments behind them. A run
/// that loads it goes on bit for bit. Options are not saved: the program that resumes gives them, as it did at first.

namespace ogpsa {
namespace detail {

/// The format of the file; raised whenever an older reader would misread it.
inline constexpr const char* kStateFormat = "ogpsa-state-1";

template <class T, class B>
struct StateAccess {
  using Matrix = typename B::template Matrix<T>;

  static void save(const Projector<T, B>& p, const std::filesystem::path& path) {
    SafetensorsWriter writer;
    writer.metadata["format"] = kStateFormat;
    writer.metadata["last_refresh"] = std::to_string(p.last_refresh_);
    writer.metadata["units"] = std::to_string(p.units_.size());
    for (const auto& unit : p.units_) {
      writer.metadata[unit.name + "/form"] = form_name(unit.form);
      if (unit.form == Form::flat && unit.is_stored()) add_stored(writer, unit.name + "/flat", unit.stored);
      if (unit.form == Form::flat && !unit.is_stored()) add_subspace(writer, unit.name + "/flat", unit.flat);
      if (unit.has_input()) add_side(writer, unit.name + "/input", unit.input, unit.input_factor, unit.input_scale);
      if (unit.has_output())
        add_side(writer, unit.name + "/output", unit.output, unit.output_factor, unit.output_scale);
    }
    writer.write(path);
  }

  static void load(Projector<T, B>& p, const std::filesystem::path& path) {
    SafetensorsReader reader(path);
    if (reader.metadata("format") != kStateFormat) {
      throw FileError(detail::text(
          {"'", path.string(), "' has format '", reader.metadata("format"), "', but this ogpsa reads ", kStateFormat}));
    }
    auto units = p.units_;
    if (reader.metadata("units") != std::to_string(units.size())) {
      throw InvalidArgument(detail::text({"ogpsa: '", path.string(), "' holds ", reader.metadata("units"),
                                          " subspaces, but the projector has ", units.size(),
                                          "; give it the blocks and the granularity of the run that saved it"}));
    }
    for (auto& unit : units) {
      if (reader.metadata(unit.name + "/form") != form_name(unit.form)) {
        throw InvalidArgument(
            detail::text({"ogpsa: block '", unit.name, "' has the form ", form_name(unit.form), ", but '",
                          path.string(), "' holds the form ", reader.metadata(unit.name + "/form")}));
      }
      const auto& first = p.blocks_[unit.blocks.front()];
      const auto& structured = p.options_.reference.structured;
      if (unit.form == Form::flat) read_flat(reader, unit.name + "/flat", unit, p.options_.basis_storage, p.backend_);
      if (unit.has_input()) {
        unit.input_factor = KroneckerFactor<T, B>(first.cols, structured, p.backend_);
        read_side(reader, unit.name + "/input", unit.input, unit.input_factor, unit.input_scale, p.backend_);
      }
      if (unit.has_output()) {
        unit.output_factor = KroneckerFactor<T, B>(first.rows, structured, p.backend_);
        read_side(reader, unit.name + "/output", unit.output, unit.output_factor, unit.output_scale, p.backend_);
      }
    }
    const std::string& text = reader.metadata("last_refresh");
    Index last_refresh = -1;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), last_refresh);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || last_refresh < -1) {
      throw FileError(detail::text({"'", path.string(), "': last_refresh is '", text, "', which is not a step"}));
    }
    p.units_ = std::move(units);
    p.last_refresh_ = last_refresh;
  }

 private:
  static std::vector<std::uint64_t> shape(Index a, Index b) {
    return {static_cast<std::uint64_t>(a), static_cast<std::uint64_t>(b)};
  }
  static std::vector<double> values(const Eigen::MatrixXd& m) { return {m.data(), m.data() + m.size()}; }

  static const char* dtype_of_basis(BasisStorage storage) {
    if (!is_rounded(storage)) return dtype_name(dtype_of<T>());
    return storage == BasisStorage::int8 ? "I8" : dtype_name(DType::bfloat16);
  }

  /// Columns of `rows` elements of `dtype`, whose bytes are those of a column of m.
  template <class M>
  static void add_columns(SafetensorsWriter& writer, const std::string& name, const char* dtype, Index rows,
                          const B& backend, MatrixView<const M> m) {
    writer.add(name, std::string(dtype), shape(m.cols, rows), [&backend, m](const SafetensorsWriter::Sink& sink) {
      std::vector<M> column(static_cast<std::size_t>(m.rows));
      for (Index j = 0; j < m.cols; ++j) {
        backend.to_host(m.columns(j, 1), std::span<M>(column));
        sink(column.data(), column.size() * sizeof(M));
      }
    });
  }
  static void add_matrix(SafetensorsWriter& writer, const std::string& name, const B& backend, MatrixView<const T> m) {
    add_columns(writer, name, dtype_name(dtype_of<T>()), m.rows, backend, m);
  }
  static void add_stored(SafetensorsWriter& writer, const std::string& name, const StoredSubspace<T, B>& s) {
    add_columns(writer, name + "/basis", dtype_of_basis(s.storage()), s.dimension(), s.backend(), s.elements().view());
    if (s.storage() == BasisStorage::int8) {
      add_columns(writer, name + "/scales", "F32", s.scales().rows(), s.backend(), s.scales().view());
    }
    writer.add(name + "/normalizer", values(s.normalizer()), shape(s.rank(), s.rank()));
    writer.add(name + "/rounding_angle", std::vector<double>{s.rounding_angle()}, {1});
    add_numbers(writer, name, s);
  }
  static void add_subspace(SafetensorsWriter& writer, const std::string& name, const Subspace<T, B>& s) {
    add_matrix(writer, name + "/basis", s.backend(), s.basis());
    add_numbers(writer, name, s);
  }
  template <class S>
  static void add_numbers(SafetensorsWriter& writer, const std::string& name, const S& s) {
    writer.add(name + "/singular_values", values(s.singular_values()), shape(1, s.rank()));
    writer.add(name + "/objectives", values(s.objectives()), shape(s.objectives().cols(), s.rank()));
    writer.add(name + "/objective_norms", values(s.objective_norms()), shape(1, s.objective_norms().size()));
  }
  static void add_side(SafetensorsWriter& writer, const std::string& name, const Subspace<T, B>& side,
                       const KroneckerFactor<T, B>& factor, double scale) {
    add_subspace(writer, name, side);
    writer.add(name + "/scale", std::vector<double>{scale}, {1});
    if (factor.dimension() == 0) return;
    writer.add(name + "/trace", std::vector<double>{factor.trace()}, {1});
    writer.add(name + "/exponent", std::vector<double>{static_cast<double>(factor.exponent())}, {1});
    if (factor.dense()) {
      add_matrix(writer, name + "/moment", side.backend(), factor.moment().view());
    } else {
      add_subspace(writer, name + "/stream", factor.stream());
    }
  }

  /// What add_columns wrote. \param rows  elements of a column
  template <class M>
  static typename B::template Matrix<M> read_columns(SafetensorsReader& reader, const std::string& name,
                                                     const char* dtype, Index rows, const B& backend) {
    const auto& entry = reader.entry(name);
    if (entry.shape.size() != 2 || entry.shape[1] != static_cast<std::uint64_t>(rows)) {
      throw InvalidArgument(detail::text({"ogpsa: saved tensor '", name, "' does not have columns of ", rows,
                                          " elements; give the projector the blocks of the run that saved it"}));
    }
    const Index own_rows = rows * static_cast<Index>(element_bytes(dtype) / sizeof(M));
    auto m = backend.template matrix<M>(own_rows, static_cast<Index>(entry.shape[0]));
    std::vector<M> column(static_cast<std::size_t>(own_rows));
    for (Index j = 0; j < m.cols(); ++j) {
      reader.read_bytes(name, dtype, static_cast<std::uint64_t>(j) * column.size() * sizeof(M),
                        std::as_writable_bytes(std::span<M>(column)));
      backend.from_host(std::span<const M>(column), m.view().columns(j, 1));
    }
    return m;
  }
  static Matrix read_matrix(SafetensorsReader& reader, const std::string& name, Index rows, const B& backend) {
    check_columns(reader, name);
    return read_columns<T>(reader, name, dtype_name(dtype_of<T>()), rows, backend);
  }
  static void check_columns(SafetensorsReader& reader, const std::string& name) {
    const auto& shape = reader.entry(name).shape;
    if (shape.size() == 2 && shape[0] > shape[1])
      throw FileError(detail::text({"ogpsa: saved tensor '", name, "' has more columns than rows"}));
  }
  /// What add_numbers wrote.
  struct Numbers {
    Eigen::VectorXd singular_values;
    Eigen::MatrixXd objectives;
    Eigen::VectorXd norms;
  };
  static Numbers read_numbers(SafetensorsReader& reader, const std::string& name, Index rank) {
    const auto singular = reader.read<double>(name + "/singular_values");
    const auto objectives = reader.read<double>(name + "/objectives");
    const auto norms = reader.read<double>(name + "/objective_norms");
    if (singular.size() != static_cast<std::size_t>(rank) || objectives.size() != singular.size() * norms.size()) {
      throw FileError(detail::text({"ogpsa: saved subspace '", name, "' has parts of different sizes"}));
    }
    using Map = Eigen::Map<const Eigen::MatrixXd>;
    const auto count = static_cast<Index>(norms.size());
    return {Map(singular.data(), rank, 1), Map(objectives.data(), rank, count), Map(norms.data(), count, 1)};
  }
  static Subspace<T, B> read_subspace(SafetensorsReader& reader, const std::string& name, Index dimension,
                                      const B& backend) {
    Matrix basis = read_matrix(reader, name + "/basis", dimension, backend);
    auto numbers = read_numbers(reader, name, basis.cols());
    return Subspace<T, B>::from_parts(std::move(basis), std::move(numbers.singular_values),
                                      std::move(numbers.objectives), std::move(numbers.norms), backend);
  }
  static StoredSubspace<T, B> read_stored(SafetensorsReader& reader, const std::string& name, Index dimension,
                                          BasisStorage storage, const B& backend) {
    check_columns(reader, name + "/basis");
    auto elements = read_columns<std::uint8_t>(reader, name + "/basis", dtype_of_basis(storage), dimension, backend);
    const Index k = elements.cols();
    auto scales = storage == BasisStorage::int8
                      ? read_columns<float>(reader, name + "/scales", "F32", scale_blocks(dimension), backend)
                      : backend.template matrix<float>(0, k);
    const auto normalizer = reader.read<double>(name + "/normalizer");
    if (normalizer.size() != static_cast<std::size_t>(k * k)) {
      throw FileError(
          detail::text({"ogpsa: saved tensor '", name, "/normalizer' is not a matrix of ", size_text(k, k)}));
    }
    auto numbers = read_numbers(reader, name, k);
    const double angle = read_number(reader, name + "/rounding_angle", 0, 2);
    return StoredSubspace<T, B>::from_parts(storage, dimension, std::move(elements), std::move(scales),
                                            Eigen::Map<const Eigen::MatrixXd>(normalizer.data(), k, k),
                                            std::move(numbers.singular_values), std::move(numbers.objectives),
                                            std::move(numbers.norms), angle, backend);
  }
  /// A flat subspace as it was saved, or converted to the storage that the projector was given.
  static void read_flat(SafetensorsReader& reader, const std::string& name, Unit<T, B>& unit, BasisStorage wanted,
                        const B& backend) {
    const std::string& dtype = reader.entry(name + "/basis").dtype;
    auto saved = BasisStorage::full;
    for (const auto storage : {BasisStorage::bfloat16, BasisStorage::int8}) {
      if (dtype == dtype_of_basis(storage)) saved = storage;
    }
    if (saved == BasisStorage::full) {
      unit.flat = read_subspace(reader, name, unit.dimension, backend);
    } else {
      unit.stored = read_stored(reader, name, unit.dimension, saved, backend);
    }
    if (saved == wanted) return;
    if (saved != BasisStorage::full) unit.flat = unit.stored.restore();
    unit.stored = {};
    unit.flat.keep_on_host(wanted == BasisStorage::page_locked);
    if (!is_rounded(wanted)) return;
    unit.stored = StoredSubspace<T, B>(unit.flat, wanted);
    unit.flat = Subspace<T, B>(unit.dimension, backend);
  }
  static void read_side(SafetensorsReader& reader, const std::string& name, Subspace<T, B>& side,
                        KroneckerFactor<T, B>& factor, double& scale, const B& backend) {
    const Index dimension = factor.dimension();
    side = read_subspace(reader, name, dimension, backend);
    scale = read_number(reader, name + "/scale", 0, std::numeric_limits<double>::max());
    if (side.rank() > 0 && scale == 0) throw FileError(detail::text({"ogpsa: saved tensor '", name, "/scale' is 0"}));
    if (!reader.has(name + "/trace")) {
      factor = {};
      return;
    }
    const double trace = read_number(reader, name + "/trace", 0, std::numeric_limits<double>::max());
    const auto exponent = static_cast<int>(read_number(reader, name + "/exponent", -1100, 1100));
    if (factor.dense()) {
      Matrix moment = read_matrix(reader, name + "/moment", dimension, backend);
      if (moment.cols() != dimension || backend.first_non_finite(MatrixView<const T>(moment.view())).found()) {
        throw FileError(detail::text(
            {"ogpsa: saved tensor '", name, "/moment' is not a finite matrix of ", size_text(dimension, dimension)}));
      }
      factor.restore(std::move(moment), {}, trace, exponent);
    } else {
      factor.restore({}, read_subspace(reader, name + "/stream", dimension, backend), trace, exponent);
    }
  }
  static double read_number(SafetensorsReader& reader, const std::string& name, double low, double high) {
    const auto number = reader.read<double>(name);
    if (number.size() != 1 || !detail::is_within(number[0], low, high)) {
      throw FileError(detail::text({"ogpsa: saved tensor '", name, "' is not one number in its range"}));
    }
    return number[0];
  }
};

}  // namespace detail

/// Saves the subspaces of a projector, with all that a run needs to go on. The file is written beside `path` and
/// renamed. \throws FileError; an old file is then as it was.
template <class T, class B>
void save(const std::filesystem::path& path, const Projector<T, B>& projector) {
  detail::StateAccess<T, B>::save(projector, path);
}

/// Loads what `save` wrote into a projector with the same blocks, granularity and arithmetic type. Bases that were
/// saved in another basis_storage are converted to that of the projector. \throws FileError for a damaged file,
/// InvalidArgument for one of another model; the projector is then as it was.
template <class T, class B>
void load(const std::filesystem::path& path, Projector<T, B>& projector) {
  detail::StateAccess<T, B>::load(projector, path);
}

}  // namespace ogpsa
