#pragma once

#include <functional>
#include <vector>

#include "dataset/records.hpp"
#include "dataset/rows.hpp"

namespace align::dataset {

/// A way in which rows of a kind are laid out as JSON objects.
template <class Row>
struct Layout {
  const char* name;
  std::function<bool(const Json&)> fits;  ///< by the keys, and by the types where these leave it open
  std::function<Row(const Json&)> read;   ///< throws BadValue and Dropped
};

/// In the order in which they are tried.
template <class Row>
const std::vector<Layout<Row>>& layouts();

template <>
const std::vector<Layout<Conversation>>& layouts();
template <>
const std::vector<Layout<Preference>>& layouts();
template <>
const std::vector<Layout<MultipleChoice>>& layouts();
template <>
const std::vector<Layout<Question>>& layouts();
template <>
const std::vector<Layout<Prompt>>& layouts();

}  // namespace align::dataset
