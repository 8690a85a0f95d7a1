// Copies between layouts, conversion between dtypes, and fills.
#include "index.h"
#include "launchers.h"
#include "pointwise.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

// Unit is an element, or several neighbours.
template <class Unit, class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    copy_kernel(Index<2> index, uint32_t n, T* __restrict__ to, const T* __restrict__ from) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    int64_t at[2];
    index(i, at);
    constexpr int N = int(sizeof(Unit) / sizeof(T));
    store(to + at[0], load<N>(from + at[1]));
  }
}

template <class T>
__global__ void __launch_bounds__(kPointwiseBlock) fill_kernel(Index<1> index, uint32_t n, T* to, T value) {
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    int64_t at[1];
    index(i, at);
    to[at[0]] = value;
  }
}

template <class T>
__global__ void __launch_bounds__(kPointwiseBlock) fill_flat_kernel(T* to, int64_t n, bool wide, T value) {
  pointwise<T>(n, wide, [&](int64_t i, auto count) {
    Pack<T, count.value> p;
#pragma unroll
    for (int k = 0; k < count.value; ++k) p[k] = value;
    store(to + i, p);
  });
}

template <class D, class S>
GPU_FN D convert(S v) {
  if constexpr (sizeof(S) == 2 && !std::is_integral_v<S>)
    return convert<D>(to_float(v));
  else if constexpr (sizeof(D) == 2 && !std::is_integral_v<D>)
    return from_float<D>(float(v));
  else if constexpr (std::is_same_v<D, bool>)
    return v != S(0);
  else
    return static_cast<D>(v);
}

// As many elements as fill 16 bytes of the wider type.
template <class D, class S>
__global__ void __launch_bounds__(kPointwiseBlock)
    convert_kernel(D* __restrict__ to, const S* __restrict__ from, int64_t n, bool wide) {
  using Wider = std::conditional_t<(sizeof(D) > sizeof(S)), D, S>;
  pointwise<Wider>(n, wide, [&](int64_t i, auto count) {
    constexpr int N = count.value;
    Pack<S, N> in = load<N>(from + i);
    Pack<D, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) out[k] = convert<D>(in[k]);
    store(to + i, out);
  });
}

// ---- launchers ----------------------------------------------------------------------------------------------------

// A copy of elements of type T, by 16 bytes where the strides allow it.
template <class T>
Status copy_as(const Loop<2>& all, void* to, const void* from, Stream stream) {
  return for_pieces(all, [&](Loop<2> loop, const int64_t (&begin)[2]) {
    T* t = static_cast<T*>(to) + begin[0];
    const T* f = static_cast<const T*>(from) + begin[1];
    bool wide = loop.stride[1][loop.n - 1] == 1 && aligned(t, f) && join_neighbours(loop, kPack<T>, nullptr);
    auto n = uint32_t(count(loop));
    if (wide)
      return launch(copy_kernel<Pack<T>, T>, pointwise_units(n), dim3(kPointwiseBlock), 0, stream, Index<2>(loop), n, t,
                    f);
    return launch(copy_kernel<T, T>, pointwise_units(n), dim3(kPointwiseBlock), 0, stream, Index<2>(loop), n, t, f);
  });
}

template <class T>
Status fill_as(const Loop<1>& all, void* to, const void* value, Stream stream) {
  const T v = *static_cast<const T*>(value);
  if (all.n == 1 && all.stride[0][0] == 1)
    return launch(fill_flat_kernel<T>, pointwise_grid<T>(all.size[0]), dim3(kPointwiseBlock), 0, stream,
                  static_cast<T*>(to), all.size[0], aligned(to), v);
  return for_pieces(all, [&](const Loop<1>& loop, const int64_t (&begin)[1]) {
    auto n = uint32_t(count(loop));
    return launch(fill_kernel<T>, pointwise_units(n), dim3(kPointwiseBlock), 0, stream, Index<1>(loop), n,
                  static_cast<T*>(to) + begin[0], v);
  });
}

}  // namespace

Status copy_elements(const Loop<2>& loop, DType dtype, void* to, const void* from, Stream stream) {
  return visit_size(size_of(dtype), [&]<class T>(T*) { return copy_as<T>(loop, to, from, stream); });
}

Status fill_elements(const Loop<1>& loop, DType dtype, void* to, const void* value, Stream stream) {
  return visit_size(size_of(dtype), [&]<class T>(T*) { return fill_as<T>(loop, to, value, stream); });
}

Status convert_elements(int64_t n, DType to_dtype, void* to, DType from_dtype, const void* from, Stream stream) {
  Status status = 0;
  visit_any(to_dtype, [&]<class D>(D*) {
    visit_any(from_dtype, [&]<class S>(S*) {
      using Wider = std::conditional_t<(sizeof(D) > sizeof(S)), D, S>;
      if constexpr (!std::is_same_v<D, S>)
        status = launch(convert_kernel<D, S>, pointwise_grid<Wider>(n), dim3(kPointwiseBlock), 0, stream,
                        static_cast<D*>(to), static_cast<const S*>(from), n, aligned(to, from));
    });
  });
  return status;
}

}  // namespace fastnn::gpu
