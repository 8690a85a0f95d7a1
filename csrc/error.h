// Errors that reach Python as the exception of the same name. A message says op, argument, got, expected, what to do.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace fastnn {

struct ValueError : std::runtime_error {
  using runtime_error::runtime_error;
};
struct TypeError : std::runtime_error {
  using runtime_error::runtime_error;
};
struct IndexError : std::runtime_error {
  using runtime_error::runtime_error;
};
struct NotImplementedError : std::runtime_error {
  using runtime_error::runtime_error;
};

inline std::string to_text(std::string_view s) { return std::string(s); }
inline std::string to_text(const char* s) { return s; }
inline std::string to_text(int64_t v) { return std::to_string(v); }
inline std::string to_text(int v) { return std::to_string(v); }
inline std::string to_text(size_t v) { return std::to_string(v); }
inline std::string to_text(double v) {
  std::string s = std::to_string(v);
  return s;
}

// Concatenates its arguments: message("conv2d: stride ", s, " is not positive").
template <class... Args>
std::string message(const Args&... args) {
  return (std::string() + ... + to_text(args));
}

// require<ValueError>(stride > 0, "conv2d: stride is ", stride, "; expected a positive integer")
template <class E, class... Args>
void require(bool ok, const Args&... args) {
  if (!ok) [[unlikely]]
    throw E(message(args...));
}

}  // namespace fastnn
