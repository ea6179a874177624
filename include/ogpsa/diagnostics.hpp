#pragma once

#include <charconv>
#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include "ogpsa/projection.hpp"
#include "ogpsa/structured.hpp"

namespace ogpsa {

/// What one projection did, per block (or group) and in total.
struct Report {
  struct Entry {
    std::string name;
    Form form = Form::flat;
    Index rank = 0;
    ProjectionResult result;
  };

  /// Optimizer step that was given; -1: none.
  Index step = -1;
  /// Optimizer steps since the subspaces were last estimated or updated; -1: unknown.
  Index basis_age = -1;
  std::vector<Entry> entries;

  /// All entries as one vector: norms add up in squares, coefficients add up over blocks.
  ProjectionResult total() const {
    ProjectionResult sum;
    for (const auto& [name, form, rank, r] : entries) {
      sum.norm_before = std::hypot(sum.norm_before, r.norm_before);
      sum.norm_after = std::hypot(sum.norm_after, r.norm_after);
      sum.norm_inside = std::hypot(sum.norm_inside, r.norm_inside);
      const auto count = std::max(sum.objective_coefficients.size(), r.objective_coefficients.size());
      sum.objective_coefficients = detail::leading(sum.objective_coefficients, count);
      detail::add_scaled(detail::values(sum.objective_coefficients), 1, detail::values(r.objective_coefficients));
    }
    return sum;
  }

  /// One JSON object on one line: step, basis_age, total, and with `per_block` a list of blocks.
  void write_json_line(std::ostream& out, bool per_block = true) const;
};

namespace detail {

/// A JSON string, quoted and escaped.
inline std::string json_string(const std::string& text) {
  static constexpr char hex[] = "0123456789abcdef";
  std::string result = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (byte < 0x20) {
      result += "\\u00";
      result += hex[byte >> 4];
      result += hex[byte & 15];
    } else {
      result += c;
    }
  }
  return result + '"';
}

/// A JSON number with 9 digits; null for what JSON cannot hold.
inline std::string json_number(double value) {
  if (!is_finite(value)) return "null";
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::general, 9).ptr;
  return {buffer, end};  // unlike printf, whatever the locale
}

inline const char* form_name(Form form) {
  switch (form) {
    case Form::flat:
      return "flat";
    case Form::input:
      return "input";
    case Form::output:
      return "output";
    case Form::both:
      return "both";
  }
  return "?";
}

inline std::string json_fields(const ProjectionResult& r) {
  std::string text = "\"norm_before\":" + json_number(r.norm_before) + ",\"norm_after\":" + json_number(r.norm_after) +
                     ",\"fraction_removed\":" + json_number(r.fraction_removed()) +
                     ",\"angle\":" + json_number(r.angle()) + ",\"objective_coefficients\":[";
  for (Eigen::Index i = 0; i < r.objective_coefficients.size(); ++i) {
    text += (i > 0 ? "," : "") + json_number(at(r.objective_coefficients, i));
  }
  return text + "]";
}

}  // namespace detail

inline void Report::write_json_line(std::ostream& out, bool per_block) const {
  std::string line = "{\"step\":" + std::to_string(step) + ",\"basis_age\":" + std::to_string(basis_age) +
                     ",\"total\":{" + detail::json_fields(total()) + "}";
  if (per_block) {
    line += ",\"blocks\":[";
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const auto& e = entries[i];
      line += std::string(i > 0 ? "," : "") + "{\"name\":" + detail::json_string(e.name) + ",\"form\":\"" +
              detail::form_name(e.form) + "\",\"rank\":" + std::to_string(e.rank) + "," +
              detail::json_fields(e.result) + "}";
    }
    line += "]";
  }
  out << line << "}\n";
}

}  // namespace ogpsa
