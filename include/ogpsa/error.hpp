#pragma once

#include <stdexcept>
#include <string>

namespace ogpsa {

/// Base of every exception that ogpsa throws. The message names what is wrong, where, and what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A size, shape, data type or option does not fit.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// An input holds NaN or infinity. It is thrown before anything is changed.
class NonFiniteError : public Error {
 public:
  using Error::Error;
};

/// A call came in the wrong order, such as a projection before any estimate was finished.
class StateError : public Error {
 public:
  using Error::Error;
};

/// A factorisation chosen by the caller cannot handle this matrix.
class NumericalError : public Error {
 public:
  using Error::Error;
};

/// A file could not be read or written, or is not what it says it is.
class FileError : public Error {
 public:
  using Error::Error;
};

namespace detail {

/// "12345 x 8", for messages.
inline std::string size_text(long long rows, long long cols) {
  return std::to_string(rows) + " x " + std::to_string(cols);
}

}  // namespace detail
}  // namespace ogpsa
