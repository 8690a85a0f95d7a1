// Max and average pooling, forward and backward. The equations stand in python/fastnn/ops/pooling.py; windows,
// positions and what counts as larger are those of ops/pooling_window.h.
//
// A thread computes one value, of channels_last images one value of neighbouring channels. In the backward a thread
// gathers from the windows that read its pixel, in order: no atomics, the same bits every time.
#include <type_traits>

#include "functions.h"
#include "index.h"
#include "launchers.h"
#include "pointwise.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

// Sizes fit 31 bits here, so that windows take 32-bit arithmetic.
struct Axis {
  int input, output, taps, stride, padding, dilation;

  explicit Axis(const PoolAxis& a)
      : input(int(a.input)),
        output(int(a.output)),
        taps(int(a.taps)),
        stride(int(a.stride)),
        padding(int(a.padding)),
        dilation(int(a.dilation)) {}
};

// Taps [begin, end) of a window lie inside of the input, tap i at origin + i * dilation.
struct Span {
  int64_t origin;
  int begin, end;
};

GPU_FN int64_t origin_of(const Axis& a, int o) {
  return a.stride ? int64_t(o) * a.stride - a.padding : int64_t(o) * a.input / a.output;
}

GPU_FN Span span(const Axis& a, int o) {
  const int64_t origin = origin_of(a, o);
  if (a.stride == 0) return {origin, 0, int((int64_t(o + 1) * a.input + a.output - 1) / a.output - origin)};
  int begin = 0, end = a.taps;
  if (origin < 0) begin = int((a.dilation - 1 - origin) / a.dilation);
  if (origin + int64_t(a.taps - 1) * a.dilation >= a.input)
    end = a.input > origin ? int((a.input - 1 - origin) / a.dilation) + 1 : 0;
  return {origin, begin, end};
}

// Calls f(window, tap) for the windows that read input coordinate k, in order.
template <class F>
GPU_FN void for_windows(const Axis& a, int k, F&& f) {
  if (a.stride == 0) {
    const int last = int((int64_t(k + 1) * a.output - 1) / a.input);
    for (int o = int(int64_t(k) * a.output / a.input); o <= last; ++o) f(o, int(k - origin_of(a, o)));
    return;
  }
  const int64_t at = int64_t(k) + a.padding, before = at - int64_t(a.taps - 1) * a.dilation;
  const int64_t last = min(at / a.stride, int64_t(a.output - 1));
  for (int64_t o = before <= 0 ? 0 : (before + a.stride - 1) / a.stride; o <= last; ++o) {
    const int64_t distance = at - o * a.stride;
    if (distance % a.dilation == 0) f(int(o), int(distance / a.dilation));
  }
}

// What the kernels need to know of a Pool.
struct Windows {
  Axis h, w;
  bool count_include_pad;
  double divisor;
  Divisor inner, width;  // of the values that threads compute: inputs in the backward, else outputs
  int64_t outer;

  Windows(const Pool& g, int64_t outer, int64_t inner, int64_t width)
      : h(g.h),
        w(g.w),
        count_include_pad(g.count_include_pad),
        divisor(g.divisor),
        inner(inner),
        width(width),
        outer(outer) {}
};

GPU_FN int64_t counted(bool include_pad, const Axis& a, const Span& s) {
  return include_pad ? min(s.origin + a.taps, int64_t(a.input) + a.padding) - s.origin : s.end - s.begin;
}
template <class S>
GPU_FN S scale(const Windows& g, const Span& r, const Span& c) {
  if (g.divisor != 0) return S(1 / g.divisor);
  return S(1) / S(counted(g.count_include_pad, g.h, r) * counted(g.count_include_pad, g.w, c));
}

// Calls f(image, row, column, channel, index) for every value of images of `height` rows.
template <class F>
GPU_FN void for_values(const Windows& g, int height, F&& f) {
  const int64_t image = int64_t(height) * g.width.d * g.inner.d, total = g.outer * image;
  for (int64_t i = int64_t(blockIdx.x) * kPointwiseBlock + threadIdx.x; i < total;
       i += int64_t(gridDim.x) * kPointwiseBlock) {
    const int64_t n = i / image;
    const uint32_t at = uint32_t(i - n * image), pixel = g.inner.divide(at), row = g.width.divide(pixel);
    f(n, int(row), int(pixel - row * g.width.d), int(at - pixel * g.inner.d), i);
  }
}

struct Nowhere {};  // position type of a forward that keeps none

template <class T, class P>
__global__ void __launch_bounds__(kPointwiseBlock)
    max_kernel(const Windows g, const T* __restrict__ x, T* __restrict__ y, P* __restrict__ position) {
  using S = Scalar<T>;
  for_values(g, g.h.output, [&](int64_t n, int p, int q, int channel, int64_t index) {
    const Span r = span(g.h, p), c = span(g.w, q);
    const T* from = x + n * g.h.input * g.w.input * g.inner.d + channel;
    S best = -S(INFINITY);
    int where = -1;
    for (int u = r.begin; u < r.end; ++u)
      for (int v = c.begin; v < c.end; ++v) {
        const int64_t pixel = (r.origin + int64_t(u) * g.h.dilation) * g.w.input + c.origin + int64_t(v) * g.w.dilation;
        const S value = widen(from[pixel * g.inner.d]);
        // The first maximum stays, and the last NaN does; of a window of -infinity the first tap.
        if (where < 0 || value > best || value != value) best = value, where = u * g.w.taps + v;
      }
    y[index] = narrow<T>(best);
    if constexpr (!std::is_same_v<P, Nowhere>) position[index] = P(where);
  });
}

template <class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    average_kernel(const Windows g, const T* __restrict__ x, T* __restrict__ y) {
  using S = Scalar<T>;
  for_values(g, g.h.output, [&](int64_t n, int p, int q, int channel, int64_t index) {
    const Span r = span(g.h, p), c = span(g.w, q);
    const T* from = x + n * g.h.input * g.w.input * g.inner.d + channel;
    S sum = 0;
    for (int u = r.begin; u < r.end; ++u)
      for (int v = c.begin; v < c.end; ++v) sum += widen(from[((r.origin + u) * g.w.input + c.origin + v) * g.inner.d]);
    y[index] = narrow<T>(sum * scale<S>(g, r, c));
  });
}

template <class T, class P>
__global__ void __launch_bounds__(kPointwiseBlock)
    max_backward_kernel(const Windows g, const T* __restrict__ dy, const P* __restrict__ position, T* __restrict__ dx) {
  using S = Scalar<T>;
  for_values(g, g.h.input, [&](int64_t n, int i, int j, int channel, int64_t index) {
    const int64_t image = n * g.h.output * g.w.output * g.inner.d + channel;
    S sum = 0;
    for_windows(g.h, i, [&](int p, int u) {
      for_windows(g.w, j, [&](int q, int v) {
        const int64_t at = image + (int64_t(p) * g.w.output + q) * g.inner.d;
        if (position[at] == P(u * g.w.taps + v)) sum += widen(dy[at]);
      });
    });
    dx[index] = narrow<T>(sum);
  });
}

template <class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    average_backward_kernel(const Windows g, const T* __restrict__ dy, T* __restrict__ dx) {
  using S = Scalar<T>;
  for_values(g, g.h.input, [&](int64_t n, int i, int j, int channel, int64_t index) {
    const int64_t image = n * g.h.output * g.w.output * g.inner.d + channel;
    S sum = 0;
    for_windows(g.h, i, [&](int p, int) {
      const Span r = span(g.h, p);
      for_windows(g.w, j, [&](int q, int) {
        sum += widen(dy[image + (int64_t(p) * g.w.output + q) * g.inner.d]) * scale<S>(g, r, span(g.w, q));
      });
    });
    dx[index] = narrow<T>(sum);
  });
}

template <class P>
__global__ void __launch_bounds__(kPointwiseBlock)
    indices_kernel(const Windows g, const P* __restrict__ position, int64_t* __restrict__ to) {
  for_values(g, g.h.output, [&](int64_t, int p, int q, int, int64_t index) {
    const P tap = position[index];
    const int64_t row = origin_of(g.h, p) + int64_t(tap / g.w.taps) * g.h.dilation;
    const int64_t column = origin_of(g.w, q) + int64_t(tap % g.w.taps) * g.w.dilation;
    to[index] = tap == P(-1) ? -1 : row * g.w.input + column;
  });
}

// ---- launchers ----------------------------------------------------------------------------------------------------

constexpr Status kInvalidValue = 1;

bool fits(const Pool& g, int64_t inner) {
  constexpr int64_t kMost = int64_t(1) << 31;
  return g.h.input * g.w.input * inner < kMost && g.h.output * g.w.output * inner < kMost;
}

dim3 grid_of(int64_t values) {
  const int64_t blocks = ceil_div(values, int64_t(kPointwiseBlock));
  return dim3(unsigned(blocks < 65536 ? blocks : 65536));
}

}  // namespace

Status pool_forward(bool max, DType dtype, const Pool& g, int64_t outer, int64_t inner, const void* x, void* y,
                    void* position, Stream stream) {
  if (!fits(g, inner)) return kInvalidValue;
  const Windows windows(g, outer, inner, g.w.output);
  const dim3 grid = grid_of(outer * g.h.output * g.w.output * inner), block(kPointwiseBlock);
  Status status = kInvalidValue;
  visit_float(dtype, [&]<class T>(T*) {
    const T* from = static_cast<const T*>(x);
    T* to = static_cast<T*>(y);
    if (!max)
      status = launch(average_kernel<T>, grid, block, 0, stream, windows, from, to);
    else if (!position)
      status = launch(max_kernel<T, Nowhere>, grid, block, 0, stream, windows, from, to, nullptr);
    else if (g.wide)
      status =
          launch(max_kernel<T, int32_t>, grid, block, 0, stream, windows, from, to, static_cast<int32_t*>(position));
    else
      status =
          launch(max_kernel<T, uint8_t>, grid, block, 0, stream, windows, from, to, static_cast<uint8_t*>(position));
  });
  return status;
}

Status pool_backward(bool max, DType dtype, const Pool& g, int64_t outer, int64_t inner, const void* dy,
                     const void* position, void* dx, Stream stream) {
  if (!fits(g, inner)) return kInvalidValue;
  const Windows windows(g, outer, inner, g.w.input);
  const dim3 grid = grid_of(outer * g.h.input * g.w.input * inner), block(kPointwiseBlock);
  Status status = kInvalidValue;
  visit_float(dtype, [&]<class T>(T*) {
    const T* from = static_cast<const T*>(dy);
    T* to = static_cast<T*>(dx);
    if (!max)
      status = launch(average_backward_kernel<T>, grid, block, 0, stream, windows, from, to);
    else if (g.wide)
      status = launch(max_backward_kernel<T, int32_t>, grid, block, 0, stream, windows, from,
                      static_cast<const int32_t*>(position), to);
    else
      status = launch(max_backward_kernel<T, uint8_t>, grid, block, 0, stream, windows, from,
                      static_cast<const uint8_t*>(position), to);
  });
  return status;
}

Status pool_indices(const Pool& g, int64_t outer, int64_t inner, const void* position, int64_t* index, Stream stream) {
  if (!fits(g, inner)) return kInvalidValue;
  const Windows windows(g, outer, inner, g.w.output);
  const dim3 grid = grid_of(outer * g.h.output * g.w.output * inner), block(kPointwiseBlock);
  if (g.wide)
    return launch(indices_kernel<int32_t>, grid, block, 0, stream, windows, static_cast<const int32_t*>(position),
                  index);
  return launch(indices_kernel<uint8_t>, grid, block, 0, stream, windows, static_cast<const uint8_t*>(position), index);
}

}  // namespace fastnn::gpu
