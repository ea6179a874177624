#pragma once

#include <concepts>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

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

/// A part of a message: text, or a number.
class Word {
 public:
  Word(const char* text) : text_(text) {}
  Word(const std::string& text) : text_(text) {}
  template <std::integral I>
  Word(I number) : integer_(static_cast<long long>(number)), kind_(Kind::integer) {}
  Word(double number) : real_(number), kind_(Kind::real) {}

  void append_to(std::string& message) const {
    if (kind_ == Kind::text) message += text_;
    if (kind_ == Kind::integer) message += std::to_string(integer_);
    if (kind_ == Kind::real) message += std::to_string(real_);
  }

 private:
  enum class Kind { text, integer, real };
  std::string_view text_;
  long long integer_ = 0;
  double real_ = 0;
  Kind kind_ = Kind::text;
};

/// A message in one string. Never inlined: a chain of `+` in each place that throws would double the time to compile.
[[gnu::cold, gnu::noinline]] inline std::string text(std::initializer_list<Word> words) {
  std::string message;
  for (const Word& word : words) word.append_to(message);
  return message;
}

/// " of block 'name'", for messages; nothing where there is no name.
inline std::string of_block(const std::string& name) {
  return name.empty() ? std::string() : text({" of block '", name, "'"});
}
/// "12345 x 8", for messages.
inline std::string size_text(long long rows, long long cols) { return text({rows, " x ", cols}); }

}  // namespace detail
}  // namespace ogpsa
