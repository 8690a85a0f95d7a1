// Max and average pooling, forward and backward. The equations stand in python/fastnn/ops/pooling.py; windows,
// positions and what counts as larger are those of ops/pooling_window.h.
//
// A thread computes one value, of channels_last images one value of neighbouring channels. In the backward a thread
// gathers from the windows that read its pixel, in order: no atomics, the same bits every time.
#include <type_traits>

#include "index.h"
#include "launchers.h"
#include "pointwise.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

// All products and sums of an axis fit 31 bits, see fits(): GPUs divide 32-bit numbers much faster, most here by
// multiplication.
struct Axis {
  int input, output, taps, stride, padding, dilation;
  Divisor by_input, by_output, by_stride, by_dilation;

  explicit Axis(const PoolAxis& a)
      : input(int(a.input)),
        output(int(a.output)),
        taps(int(a.taps)),
        stride(int(a.stride)),
        padding(int(a.padding)),
        dilation(int(a.dilation)),
        by_input(a.input),
        by_output(a.output),
        by_stride(a.stride ? a.stride : 1),
        by_dilation(a.dilation) {}
};

// Taps [begin, end) of a window lie inside of the input, tap i at origin + i * dilation.
struct Span {
  int origin, begin, end;
};

GPU_FN int origin_of(const Axis& a, int o) {
  return a.stride ? o * a.stride - a.padding : int(a.by_output.divide(uint32_t(o * a.input)));
}

GPU_FN Span span(const Axis& a, int o) {
  const int origin = origin_of(a, o);
  if (a.stride == 0) return {origin, 0, int(a.by_output.divide(uint32_t((o + 1) * a.input + a.output - 1))) - origin};
  int begin = 0, end = a.taps;
  if (origin < 0) begin = int(a.by_dilation.divide(uint32_t(a.dilation - 1 - origin)));
  if (origin + (a.taps - 1) * a.dilation >= a.input)
    end = a.input > origin ? int(a.by_dilation.divide(uint32_t(a.input - 1 - origin))) + 1 : 0;
  return {origin, begin, end};
}

// Calls f(window, tap) for the windows that read input coordinate k, in order.
template <class F>
GPU_FN void for_windows(const Axis& a, int k, F&& f) {
  if (a.stride == 0) {
    const int last = int(a.by_input.divide(uint32_t((k + 1) * a.output - 1)));
    for (int o = int(a.by_input.divide(uint32_t(k * a.output))); o <= last; ++o) f(o, k - origin_of(a, o));
    return;
  }
  const int at = k + a.padding, before = at - (a.taps - 1) * a.dilation;
  const int last = min(int(a.by_stride.divide(uint32_t(at))), a.output - 1);
  for (int o = before <= 0 ? 0 : int(a.by_stride.divide(uint32_t(before + a.stride - 1))); o <= last; ++o) {
    const int distance = at - o * a.stride, tap = int(a.by_dilation.divide(uint32_t(distance)));
    if (tap * a.dilation == distance) f(o, tap);
  }
}

// What the kernels need to know of a Pool. `values`, less than 2^31, are what threads compute: inputs in the backward,
// else outputs, in images of `height` rows.
struct Windows {
  Axis h, w;
  bool count_include_pad;
  double fixed_scale;  // of averages; 0: by the number of taps
  Divisor inner, width, image;
  uint32_t values;

  Windows(const Pool& g, int64_t outer, int64_t inner, int64_t height, int64_t width)
      : h(g.h),
        w(g.w),
        count_include_pad(g.count_include_pad),
        fixed_scale(g.divisor != 0 ? 1 / g.divisor : 0),
        inner(inner),
        width(width),
        image(height * width * inner),
        values(uint32_t(outer * height * width * inner)) {}
};

GPU_FN int counted(bool include_pad, const Axis& a, const Span& s) {
  return include_pad ? min(s.origin + a.taps, a.input + a.padding) - s.origin : s.end - s.begin;
}
// 1 / n of a small integer by Newton's method: a division would be a call, which costs registers.
GPU_FN float reciprocal(float n) {
  const float r = __fdividef(1.0f, n);
  return fmaf(r, fmaf(-n, r, 1.0f), r);
}
GPU_FN double reciprocal(double n) {
  double r = __fdividef(1.0f, float(n));
  r = fma(r, fma(-n, r, 1.0), r);
  return fma(r, fma(-n, r, 1.0), r);
}
template <class S>
GPU_FN S scale(const Windows& g, const Span& r, const Span& c) {
  if (g.fixed_scale != 0) return S(g.fixed_scale);
  return reciprocal(S(counted(g.count_include_pad, g.h, r)) * S(counted(g.count_include_pad, g.w, c)));
}

// Calls f(image, row, column, channel, index) for every value.
template <class F>
GPU_FN void for_values(const Windows& g, F&& f) {
  for (uint32_t i = blockIdx.x * kPointwiseBlock + threadIdx.x; i < g.values; i += gridDim.x * kPointwiseBlock) {
    const uint32_t n = g.image.divide(i), at = i - n * g.image.d, pixel = g.inner.divide(at),
                   row = g.width.divide(pixel);
    f(int64_t(n), int(row), int(pixel - row * g.width.d), int(at - pixel * g.inner.d), int64_t(i));
  }
}

struct Nowhere {};  // position type of a forward that keeps none

template <class T, class P>
__global__ void __launch_bounds__(kPointwiseBlock)
    max_kernel(const Windows g, const T* __restrict__ x, T* __restrict__ y, P* __restrict__ position) {
  using S = Scalar<T>;
  for_values(g, [&](int64_t n, int p, int q, int channel, int64_t index) {
    const Span r = span(g.h, p), c = span(g.w, q);
    const T* from = x + n * g.h.input * g.w.input * g.inner.d + channel;
    S best = -S(INFINITY);
    int where = -1;
    for (int u = r.begin; u < r.end; ++u)
      for (int v = c.begin; v < c.end; ++v) {
        const int64_t pixel = int64_t(r.origin + u * g.h.dilation) * g.w.input + c.origin + v * g.w.dilation;
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
  for_values(g, [&](int64_t n, int p, int q, int channel, int64_t index) {
    const Span r = span(g.h, p), c = span(g.w, q);
    const T* from = x + n * g.h.input * g.w.input * g.inner.d + channel;
    S sum = 0;
    for (int u = r.begin; u < r.end; ++u)
      for (int v = c.begin; v < c.end; ++v)
        sum += widen(from[(int64_t(r.origin + u) * g.w.input + c.origin + v) * g.inner.d]);
    y[index] = narrow<T>(sum * scale<S>(g, r, c));
  });
}

template <class T, class P>
__global__ void __launch_bounds__(kPointwiseBlock)
    max_backward_kernel(const Windows g, const T* __restrict__ dy, const P* __restrict__ position, T* __restrict__ dx) {
  using S = Scalar<T>;
  for_values(g, [&](int64_t n, int i, int j, int channel, int64_t index) {
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
  for_values(g, [&](int64_t n, int i, int j, int channel, int64_t index) {
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
  for_values(g, [&](int64_t, int p, int q, int, int64_t index) {
    const P tap = position[index];
    const int row = origin_of(g.h, p) + int(tap) / g.w.taps * g.h.dilation;
    const int column = origin_of(g.w, q) + int(tap) % g.w.taps * g.w.dilation;
    to[index] = tap == P(-1) ? -1 : int64_t(row) * g.w.input + column;
  });
}

// ---- launchers ----------------------------------------------------------------------------------------------------

constexpr Status kInvalidValue = 1;

bool fits(const Pool& g, int64_t inner) {
  constexpr int64_t kMost = (int64_t(1) << 31) - 1;
  auto axis_fits = [](const PoolAxis& a) {
    if (a.stride == 0) return (a.input + 1) * (a.output + 1) <= kMost;
    return a.taps <= kMost / a.dilation && a.input + 2 * a.padding + 2 * a.stride + a.taps * a.dilation <= kMost;
  };
  return g.h.input * g.w.input * inner <= kMost && g.h.output * g.w.output * inner <= kMost && axis_fits(g.h) &&
         axis_fits(g.w);
}

// Calls run(windows, grid, first image) for pieces of the images whose values can be counted in 31 bits.
template <class F>
Status for_images(const Pool& g, int64_t outer, int64_t inner, int64_t height, int64_t width, F&& run) {
  if (!fits(g, inner)) return kInvalidValue;
  constexpr int64_t kMost = int64_t(1) << 30;  // the loop over values may pass the end by a grid
  const int64_t image = height * width * inner, most = kMost / image;
  const int64_t per_launch = most > 0 ? most : 1;
  Status status = 0;
  for (int64_t first = 0; first < outer && !status; first += per_launch) {
    const int64_t count = outer - first < per_launch ? outer - first : per_launch;
    const int64_t blocks = ceil_div(count * image, int64_t(kPointwiseBlock));
    status = run(Windows(g, count, inner, height, width), dim3(unsigned(blocks < kMostBlocks ? blocks : kMostBlocks)),
                 first);
  }
  return status;
}

}  // namespace

Status pool_forward(bool max, DType dtype, const Pool& g, int64_t outer, int64_t inner, const void* x, void* y,
                    void* position, Stream stream) {
  const int64_t input = g.h.input * g.w.input * inner, output = g.h.output * g.w.output * inner;
  auto run = [&](const Windows& windows, dim3 grid, int64_t first) {
    const dim3 block(kPointwiseBlock);
    Status status = kInvalidValue;
    visit_float(dtype, [&]<class T>(T*) {
      const T* from = static_cast<const T*>(x) + first * input;
      T* to = static_cast<T*>(y) + first * output;
      if (!max)
        status = launch(average_kernel<T>, grid, block, 0, stream, windows, from, to);
      else if (!position)
        status = launch(max_kernel<T, Nowhere>, grid, block, 0, stream, windows, from, to, nullptr);
      else if (g.wide)
        status = launch(max_kernel<T, int32_t>, grid, block, 0, stream, windows, from, to,
                        static_cast<int32_t*>(position) + first * output);
      else
        status = launch(max_kernel<T, uint8_t>, grid, block, 0, stream, windows, from, to,
                        static_cast<uint8_t*>(position) + first * output);
    });
    return status;
  };
  return for_images(g, outer, inner, g.h.output, g.w.output, run);
}

Status pool_backward(bool max, DType dtype, const Pool& g, int64_t outer, int64_t inner, const void* dy,
                     const void* position, void* dx, Stream stream) {
  const int64_t input = g.h.input * g.w.input * inner, output = g.h.output * g.w.output * inner;
  auto run = [&](const Windows& windows, dim3 grid, int64_t first) {
    const dim3 block(kPointwiseBlock);
    Status status = kInvalidValue;
    visit_float(dtype, [&]<class T>(T*) {
      const T* from = static_cast<const T*>(dy) + first * output;
      T* to = static_cast<T*>(dx) + first * input;
      if (!max)
        status = launch(average_backward_kernel<T>, grid, block, 0, stream, windows, from, to);
      else if (g.wide)
        status = launch(max_backward_kernel<T, int32_t>, grid, block, 0, stream, windows, from,
                        static_cast<const int32_t*>(position) + first * output, to);
      else
        status = launch(max_backward_kernel<T, uint8_t>, grid, block, 0, stream, windows, from,
                        static_cast<const uint8_t*>(position) + first * output, to);
    });
    return status;
  };
  return for_images(g, outer, inner, g.h.input, g.w.input, run);
}

Status pool_indices(const Pool& g, int64_t outer, int64_t inner, const void* position, int64_t* index, Stream stream) {
  const int64_t output = g.h.output * g.w.output * inner;
  auto run = [&](const Windows& windows, dim3 grid, int64_t first) {
    const dim3 block(kPointwiseBlock);
    int64_t* to = index + first * output;
    if (g.wide)
      return launch(indices_kernel<int32_t>, grid, block, 0, stream, windows,
                    static_cast<const int32_t*>(position) + first * output, to);
    return launch(indices_kernel<uint8_t>, grid, block, 0, stream, windows,
                  static_cast<const uint8_t*>(position) + first * output, to);
  };
  return for_images(g, outer, inner, g.h.output, g.w.output, run);
}

}  // namespace fastnn::gpu
