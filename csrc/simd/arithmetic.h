// The functions of two operands of elementwise arithmetic on floating dtypes, y = f(a, b), for every kernel that
// applies one. Include after simd.h; pow(V, V) is the includer's.
#pragma once
#include "../kernels/types.h"

namespace fastnn::FASTNN_ISA {
namespace {

// clang-format off
struct Add {
  template <class V> static FASTNN_INLINE V f(V a, V b) { return a + b; }
};
struct Sub {
  template <class V> static FASTNN_INLINE V f(V a, V b) { return a - b; }
};
struct Mul {
  template <class V> static FASTNN_INLINE V f(V a, V b) { return a * b; }
};
struct Div {
  template <class V> static FASTNN_INLINE V f(V a, V b) { return a / b; }
};
struct Pow {
  template <class V> static FASTNN_INLINE V f(V a, V b) { return pow(a, b); }
};
// NaN in either operand gives NaN: max() returns its second argument there.
struct Maximum {
  template <class V> static FASTNN_INLINE V f(V a, V b) { return select(a != a, a, max(a, b)); }
};
struct Minimum {
  template <class V> static FASTNN_INLINE V f(V a, V b) { return select(a != a, a, min(a, b)); }
};
// clang-format on

// g(Fn()) for the operation f.
template <class G>
FASTNN_INLINE void with_function(Binary f, G&& g) {
  switch (f) {
    case Binary::add:
      return g(Add());
    case Binary::sub:
      return g(Sub());
    case Binary::mul:
      return g(Mul());
    case Binary::div:
      return g(Div());
    case Binary::pow:
      return g(Pow());
    case Binary::maximum:
      return g(Maximum());
    case Binary::minimum:
      return g(Minimum());
    default:
      return;
  }
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA
