// The Python type of each C++ type that crosses the boundary: help(_C.f) shows it, and _C.pyi is compared with it.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "../array.h"

namespace fastnn {
struct Operand;
}

namespace fastnn::python {

template <class T>
struct Annotation;

template <>
struct Annotation<void> {
  static std::string text() { return "None"; }
};
template <>
struct Annotation<Array> {
  static std::string text() { return "Tensor"; }
};
template <>
struct Annotation<Operand> {
  static std::string text() { return "Tensor | float"; }
};
template <>
struct Annotation<int64_t> {
  static std::string text() { return "int"; }
};
template <>
struct Annotation<double> {
  static std::string text() { return "float"; }
};
template <>
struct Annotation<bool> {
  static std::string text() { return "bool"; }
};
template <>
struct Annotation<std::string_view> {
  static std::string text() { return "str"; }
};
template <>
struct Annotation<DType> {
  static std::string text() { return "DTypeLike"; }
};
template <>
struct Annotation<Device> {
  static std::string text() { return "str"; }
};
template <>
struct Annotation<Dims> {
  static std::string text() { return "Sequence[int]"; }
};
template <class T>
struct Annotation<std::vector<T>> {
  static std::string text() { return "Sequence[" + Annotation<T>::text() + "]"; }
};
template <class T>
struct Annotation<std::optional<T>> {
  static std::string text() { return Annotation<T>::text() + " | None"; }
};
template <class... T>
struct Annotation<std::tuple<T...>> {
  static std::string text() {
    std::string all;
    ((all += (all.empty() ? "" : ", ") + Annotation<T>::text()), ...);
    return "tuple[" + all + "]";
  }
};

// "(input: Tensor, dtype: DTypeLike, /) -> Tensor"
template <class R, class... Args>
std::string annotate(const std::vector<const char*>& names) {
  std::string all = "(";
  size_t i = 0;
  ((all += std::string(names[i++]) + ": " + Annotation<Args>::text() + ", "), ...);
  return all + (i ? "/) -> " : ") -> ") + Annotation<R>::text();
}

}  // namespace fastnn::python
