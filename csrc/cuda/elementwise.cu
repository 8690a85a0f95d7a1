// Arithmetic, comparison and selection with broadcasting.
#include "functions.h"
#include "index.h"
#include "launchers.h"
#include "pointwise.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

// N neighbours of an operand, or N times one value where `one` or where p is null.
template <int N, class T>
GPU_FN Pack<T, N> load_source(const T* p, int64_t at, bool one, T number) {
  Pack<T, N> r;
  if (p && !one) return load<N>(p + at);
  const T v = p ? p[at] : number;
#pragma unroll
  for (int k = 0; k < N; ++k) r[k] = v;
  return r;
}

// A number keeps more bits than T has: bfloat16 arithmetic is in float.
template <class Fn, class T, int N>
__global__ void __launch_bounds__(kPointwiseBlock)
    binary_kernel(Index<3> index, uint32_t n, uint32_t tail, T* out, const T* a, const T* b, Scalar<T> number,
                  bool one_a, bool one_b) {
  using V = simt::Vec<Scalar<T>>;
  auto apply = [&](T x, T y) { return narrow<T>(Fn::f(a ? V(widen(x)) : V(number), b ? V(widen(y)) : V(number)).v); };
  const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
  for (uint32_t i = thread; i < n; i += gridDim.x * blockDim.x) {
    int64_t at[3];
    index(i, at);
    Pack<T, N> x = load_source<N>(a, at[1], one_a, T()), y = load_source<N>(b, at[2], one_b, T()), r;
#pragma unroll
    for (int k = 0; k < N; ++k) r[k] = apply(x[k], y[k]);
    store(out + at[0], r);
  }
  if (thread >= tail) return;  // of one run of elements
  const int64_t i = int64_t(n) * N + thread;
  out[i] = apply(a ? a[one_a ? 0 : i] : T(), b ? b[one_b ? 0 : i] : T());
}

template <class Fn, class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    integer_kernel(Index<3> index, uint32_t n, T* out, const T* a, const T* b, T number) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    int64_t at[3];
    index(i, at);
    out[at[0]] = Fn::f(a ? a[at[1]] : number, b ? b[at[2]] : number);
  }
}

GPU_FN bool holds(Comparison c, auto a, auto b) {
  switch (c) {
    case Comparison::eq:
      return a == b;
    case Comparison::ne:
      return a != b;
    case Comparison::lt:
      return a < b;
    case Comparison::le:
      return a <= b;
    case Comparison::gt:
      return a > b;
    default:
      return a >= b;
  }
}

template <class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    compare_kernel(Comparison c, Index<3> index, uint32_t n, bool* out, const T* a, const T* b, T number) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    int64_t at[3];
    index(i, at);
    const T x = a ? a[at[1]] : number, y = b ? b[at[2]] : number;
    if constexpr (std::is_integral_v<T>)
      out[at[0]] = holds(c, x, y);
    else
      out[at[0]] = holds(c, widen(x), widen(y));
  }
}

template <class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    where_kernel(Index<4> index, uint32_t n, T* out, const bool* mask, const T* a, const T* b, T number_a, T number_b) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    int64_t at[4];
    index(i, at);
    if (mask[at[1]])
      out[at[0]] = a ? a[at[2]] : number_a;
    else
      out[at[0]] = b ? b[at[3]] : number_b;
  }
}

// Powers to a number; 2, 3 and 1/2 as their definitions say.
struct PowNumber {
  template <class V>
  static GPU_FN V f(V a, V b) {
    if (b.v == 2) return a * a;
    if (b.v == 3) return a * a * a;
    if (b.v == 0.5f) return sqrt(a);
    return pow(a, b);
  }
};

// Integers wrap around: in unsigned arithmetic, where that is defined.
struct IntegerAdd {
  template <class T>
  static GPU_FN T f(T a, T b) {
    return T(uint64_t(a) + uint64_t(b));
  }
};
struct IntegerSub {
  template <class T>
  static GPU_FN T f(T a, T b) {
    return T(uint64_t(a) - uint64_t(b));
  }
};
struct IntegerMul {
  template <class T>
  static GPU_FN T f(T a, T b) {
    return T(uint64_t(a) * uint64_t(b));
  }
};
struct IntegerPow {
  template <class T>
  static GPU_FN T f(T base, T exponent) {
    uint64_t result = 1, factor = uint64_t(base);
    for (auto e = uint64_t(exponent); e; e >>= 1, factor *= factor)
      if (e & 1) result *= factor;
    return T(result);
  }
};
struct IntegerMaximum {
  template <class T>
  static GPU_FN T f(T a, T b) {
    return a > b ? a : b;
  }
};
struct IntegerMinimum {
  template <class T>
  static GPU_FN T f(T a, T b) {
    return a < b ? a : b;
  }
};
struct BitAnd {
  template <class T>
  static GPU_FN T f(T a, T b) {
    return T(a & b);
  }
};
struct BitOr {
  template <class T>
  static GPU_FN T f(T a, T b) {
    return T(a | b);
  }
};
struct BitXor {
  template <class T>
  static GPU_FN T f(T a, T b) {
    return T(a ^ b);
  }
};

// ---- launchers ----------------------------------------------------------------------------------------------------

template <class T>
const T* at(const Source& s, int64_t offset) {
  return s.data ? static_cast<const T*>(s.data) + offset : nullptr;
}

template <class Fn, class T>
Status binary_as(const Loop<3>& all, void* out, const Source& a, const Source& b, Stream stream) {
  const auto number = Scalar<T>(a.data ? b.number : a.number);
  return for_pieces(all, [&](Loop<3> loop, const int64_t (&begin)[3]) {
    T* o = static_cast<T*>(out) + begin[0];
    const T *x = at<T>(a, begin[1]), *y = at<T>(b, begin[2]);
    const int inner = loop.n - 1;
    const bool one_x = loop.stride[1][inner] == 0, one_y = loop.stride[2][inner] == 0;
    // What is read once per pack needs no alignment.
    const bool wide = aligned(o) && (one_x || aligned(x)) && (one_y || aligned(y));
    int64_t tail = 0;
    if (wide && join_neighbours(loop, kPack<T>, &tail)) {
      auto n = uint32_t(count(loop));
      return launch(binary_kernel<Fn, T, kPack<T>>, pointwise_units(n), dim3(kPointwiseBlock), 0, stream,
                    Index<3>(loop), n, uint32_t(tail), o, x, y, number, one_x, one_y);
    }
    auto n = uint32_t(count(loop));
    return launch(binary_kernel<Fn, T, 1>, pointwise_units(n), dim3(kPointwiseBlock), 0, stream, Index<3>(loop), n, 0u,
                  o, x, y, number, false, false);
  });
}

template <class Fn, class T>
Status integer_as(const Loop<3>& all, void* out, const Source& a, const Source& b, Stream stream) {
  const auto number = T(a.data ? b.integer : a.integer);
  return for_pieces(all, [&](const Loop<3>& loop, const int64_t (&begin)[3]) {
    auto n = uint32_t(count(loop));
    return launch(integer_kernel<Fn, T>, pointwise_units(n), dim3(kPointwiseBlock), 0, stream, Index<3>(loop), n,
                  static_cast<T*>(out) + begin[0], at<T>(a, begin[1]), at<T>(b, begin[2]), number);
  });
}

// g(Fn()) for the operation f on integers.
template <class G>
void with_integer_function(Binary f, G&& g) {
  switch (f) {
    case Binary::add:
      return g(IntegerAdd());
    case Binary::sub:
      return g(IntegerSub());
    case Binary::mul:
      return g(IntegerMul());
    case Binary::pow:
      return g(IntegerPow());
    case Binary::maximum:
      return g(IntegerMaximum());
    case Binary::minimum:
      return g(IntegerMinimum());
    case Binary::bit_and:
      return g(BitAnd());
    case Binary::bit_or:
      return g(BitOr());
    case Binary::bit_xor:
      return g(BitXor());
    default:
      return;
  }
}

}  // namespace

Status binary(Binary f, DType dtype, const Loop<3>& loop, void* out, const Source& a, const Source& b, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    if (f == Binary::pow && !b.data)
      status = binary_as<PowNumber, T>(loop, out, a, b, stream);
    else
      simt::with_function(f, [&]<class Fn>(Fn) { status = binary_as<Fn, T>(loop, out, a, b, stream); });
  });
  visit_integer(dtype, [&]<class T>(T*) {
    with_integer_function(f, [&]<class Fn>(Fn) { status = integer_as<Fn, T>(loop, out, a, b, stream); });
  });
  return status;
}

Status compare(Comparison c, DType dtype, const Loop<3>& all, bool* out, const Source& a, const Source& b,
               Stream stream) {
  Status status = 0;
  visit_any(dtype, [&]<class T>(T*) {
    T number;
    if constexpr (std::is_integral_v<T>)
      number = T(a.data ? b.integer : a.integer);
    else
      number = narrow<T>(Scalar<T>(a.data ? b.number : a.number));
    status = for_pieces(all, [&](const Loop<3>& loop, const int64_t (&begin)[3]) {
      auto n = uint32_t(count(loop));
      return launch(compare_kernel<T>, pointwise_units(n), dim3(kPointwiseBlock), 0, stream, c, Index<3>(loop), n,
                    out + begin[0], at<T>(a, begin[1]), at<T>(b, begin[2]), number);
    });
  });
  return status;
}

Status where(DType dtype, const Loop<4>& all, void* out, const bool* mask, const Source& a, const Source& b,
             Stream stream) {
  return visit_size(size_of(dtype), [&]<class T>(T*) {
    return for_pieces(all, [&](const Loop<4>& loop, const int64_t (&begin)[4]) {
      auto n = uint32_t(count(loop));
      return launch(where_kernel<T>, pointwise_units(n), dim3(kPointwiseBlock), 0, stream, Index<4>(loop), n,
                    static_cast<T*>(out) + begin[0], mask + begin[1], at<T>(a, begin[2]), at<T>(b, begin[3]),
                    T(a.integer), T(b.integer));
    });
  });
}

}  // namespace fastnn::gpu
