#include "../dispatch.h"
#include "../simd/simd.h"
#include "pooling_2x2.h"
#include "pooling_window.h"

namespace fastnn::FASTNN_ISA {
namespace {

// ---- NCHW ----------------------------------------------------------------------------------------------------------

// Every second element from p on, 2 * lanes - 1 of them readable; all 2 * kLanes where lanes is Full.
template <class V, class T>
FASTNN_INLINE V load_even(const T* p, Full) {
  V even, odd;
  deinterleave(V::load(p), V::load(p + V::kLanes), &even, &odd);
  return even;
}
template <class V, class T>
FASTNN_INLINE V load_even(const T* p, int lanes) {
  int n = 2 * lanes - 1;
  V even, odd;
  deinterleave(V::load(p, int(lesser(n, V::kLanes))), V::load(p + V::kLanes, int(greater(n - V::kLanes, 0))), &even,
               &odd);
  return even;
}
template <int kStride, class V, class T, class L>
FASTNN_INLINE V load_every(const T* p, L lanes) {
  if constexpr (kStride == 1)
    return load<V>(p, lanes);
  else
    return load_even<V>(p, lanes);
}

template <class From, class To>
FASTNN_INLINE void convert(const From* from, To* to, int64_t n) {
  using V = Compute<From>;
  for_lanes<V>(n, [&](int64_t i, auto lanes) { store(load<V>(from + i, lanes), to + i, lanes); });
}

// Planes of 16-bit types are worked on as float32 copies at `scratch + offset`.
template <class T>
FASTNN_INLINE Scalar<T>* target(T* plane, void* scratch, int64_t offset) {
  if constexpr (kHalf<T>)
    return static_cast<Scalar<T>*>(scratch) + offset;
  else
    return plane;
}
template <class T>
FASTNN_INLINE const Scalar<T>* opened(const T* plane, int64_t n, void* scratch, int64_t offset) {
  if constexpr (kHalf<T>) {
    auto* copy = static_cast<Scalar<T>*>(scratch) + offset;
    convert(plane, copy, n);
    return copy;
  } else {
    return plane;
  }
}
template <class T>
FASTNN_INLINE void closed(const Scalar<T>* copy, T* plane, int64_t n) {
  if constexpr (kHalf<T>) convert(copy, plane, n);
}

// vector(row of windows, column q, lanes) where all taps of the row's windows are inside and the stride is 1 or 2, else
// scalar(row, column window, q).
template <int kStride, class V, class Vector, class One>
FASTNN_INLINE void each_window(const Pool& g, bool vectors, Vector&& vector, One&& one) {
  int64_t begin = 0, end = 0, columns = g.w.output;
  if (vectors) whole_windows(g.w, &begin, &end);
  for (int64_t p = 0; p < g.h.output; ++p) {
    Span r = span(g.h, p);
    int64_t stop = r.begin < r.end ? end : begin, q = 0;
    for (; q < begin; ++q) one(r, span(g.w, q), p * columns + q);
    for (; q + V::kLanes < stop; q += V::kLanes) vector(r, q * kStride - g.w.padding, p * columns + q, Full());
    if (q < stop) vector(r, q * kStride - g.w.padding, p * columns + q, int(stop - q));
    for (q = stop; q < columns; ++q) one(r, span(g.w, q), p * columns + q);
  }
}

// Without positions: maxima over the rows of the windows first, into rows with a border of -inf, then over columns.
// False where the windows are of another kind. A few rows at once: one that has just been stored is slow to load.
template <int kStride, class S>
bool max_plane_by_axes(const Pool& g, const S* x, S* y) {
  using V = Vec<S>;
  constexpr int64_t kRoom = 4096;
  const int64_t width = g.w.input, columns = g.w.output, border = g.w.padding;
  const int64_t pitch = greater(border + width, columns * kStride + g.w.taps), together = lesser(8, kRoom / pitch);
  if (g.w.stride != kStride || g.w.dilation != 1 || together == 0) return false;
  const V lowest = V(S(-__builtin_inf()));
  alignas(64) S maxima[kRoom + V::kLanes];
  for (int64_t i = 0; i < together * pitch; i += V::kLanes) lowest.store(maxima + i);
  for (int64_t p = 0; p < g.h.output; p += together) {
    const int64_t rows = lesser(together, g.h.output - p);
    for (int64_t k = 0; k < rows; ++k) {
      const Span r = span(g.h, p + k);
      for_lanes<V>(width, [&](int64_t i, auto lanes) {
        V best = lowest;
        for (int64_t t = r.begin; t < r.end; ++t)
          best = larger(load<V>(x + (r.origin + t * g.h.dilation) * width + i, lanes), best);
        store(best, maxima + k * pitch + border + i, lanes);
      });
    }
    for (int64_t k = 0; k < rows; ++k, y += columns)
      for_lanes<V>(columns, [&](int64_t q, auto lanes) {
        const S* first = maxima + k * pitch + q * kStride;
        V best = lowest;
        for (int64_t j = 0; j < g.w.taps; ++j) best = larger(load_every<kStride, V>(first + j, lanes), best);
        store(best, y + q, lanes);
      });
  }
  return true;
}

template <int kStride, class S, class P>
void max_plane(const Pool& g, const S* x, S* y, P* position) {
  using V = Vec<S>;
  if constexpr (!kPosition<P>)
    if (max_plane_by_axes<kStride>(g, x, y)) return;
  const S lowest = S(-__builtin_inf());
  int64_t width = g.w.input, pitch = g.w.taps;
  bool exact = !kPosition<P> || g.h.taps * pitch <= (1 << 24);  // positions in float lanes
  each_window<kStride, V>(
      g, exact && g.w.stride == kStride,
      [&](Span r, int64_t column, int64_t at, auto lanes) {
        V best = V(lowest), where = V(S(r.begin * pitch));
        for (int64_t i = r.begin; i < r.end; ++i) {
          const S* row = x + (r.origin + i * g.h.dilation) * width + column;
          for (int64_t j = 0; j < pitch; ++j) {
            V value = load_every<kStride, V>(row + j * g.w.dilation, lanes);
            if constexpr (kPosition<P>)
              take(value, V(S(i * pitch + j)), &best, &where);
            else
              best = larger(value, best);
          }
        }
        store(best, y + at, lanes);
        if constexpr (kPosition<P>) store_integers(where, position + at, lanes);
      },
      [&](Span r, Span c, int64_t at) {
        S best = lowest;
        int64_t where = r.begin < r.end && c.begin < c.end ? r.begin * pitch + c.begin : -1;
        for (int64_t i = r.begin; i < r.end; ++i) {
          int64_t row = (r.origin + i * g.h.dilation) * width + c.origin;
          for (int64_t j = c.begin; j < c.end; ++j) {
            S value = x[row + j * g.w.dilation];
            bool better = (value > best) | (value != value);  // no branch: it would be mispredicted half of the time
            best = better ? value : best;
            where = better ? i * pitch + j : where;
          }
        }
        y[at] = best;
        if constexpr (kPosition<P>) position[at] = P(where);
      });
}

template <class S>
FASTNN_INLINE S sum_run(const S* p, int64_t n) {
  using V = Vec<S>;
  if (n < 8) {
    S total = 0;
    for (int64_t i = 0; i < n; ++i) total += p[i];
    return total;
  }
  V total = V(S(0));
  for_lanes<V>(n, [&](int64_t i, auto lanes) { total = total + load<V>(p + i, lanes); });
  return sum(total);
}

template <int kStride, class S>
void avg_plane(const Pool& g, const S* x, S* y) {
  using V = Vec<S>;
  int64_t width = g.w.input;
  each_window<kStride, V>(
      g, g.w.stride == kStride,
      [&](Span r, int64_t column, int64_t at, auto lanes) {
        V total = V(S(0)), factor = V(S(scale(g, r, {column, 0, g.w.taps})));
        for (int64_t i = r.begin; i < r.end; ++i)
          for (int64_t j = 0; j < g.w.taps; ++j)
            total = total + load_every<kStride, V>(x + (r.origin + i) * width + column + j, lanes);
        store(total * factor, y + at, lanes);
      },
      [&](Span r, Span c, int64_t at) {
        int64_t rows = r.end - r.begin, columns = c.end - c.begin;
        const S* first = x + (r.origin + r.begin) * width + c.origin + c.begin;
        S total = 0;
        if (columns == width)
          total = sum_run(first, rows * columns);
        else
          for (int64_t i = 0; i < rows; ++i) total += sum_run(first + i * width, columns);
        y[at] = total * S(scale(g, r, c));
      });
}

template <class T, class P>
void max_planes(const Pool& g, const T* x, T* y, P* position, int64_t begin, int64_t end, void* scratch) {
  int64_t in = g.h.input * g.w.input, out = g.h.output * g.w.output;
  for (int64_t k = begin; k < end; ++k) {
    auto* plane = opened(x + k * in, in, scratch, 0);
    auto* result = target(y + k * out, scratch, in);
    P* where = position + (kPosition<P> ? k * out : 0);
    if (g.w.stride == 2)
      max_plane<2>(g, plane, result, where);
    else
      max_plane<1>(g, plane, result, where);
    closed(result, y + k * out, out);
  }
}

template <class T>
void max_pool_planes(const Pool& g, const void* x, void* y, void* position, int64_t begin, int64_t end, void* scratch) {
  auto run = [&](auto* where) {
    max_planes(g, static_cast<const T*>(x), static_cast<T*>(y), where, begin, end, scratch);
  };
  if (!position)
    run(static_cast<Nowhere*>(position));
  else if (g.wide)
    run(static_cast<int32_t*>(position));
  else
    run(static_cast<uint8_t*>(position));
}

template <class T>
void avg_pool_planes(const Pool& g, const void* x, void* y, void*, int64_t begin, int64_t end, void* scratch) {
  int64_t in = g.h.input * g.w.input, out = g.h.output * g.w.output;
  Span rows = span(g.h, 0), columns = span(g.w, 0);
  if (out == 1 && rows.end - rows.begin == g.h.input && columns.end - columns.begin == g.w.input) {
    using V = Compute<T>;
    Scalar<T> factor = Scalar<T>(scale(g, rows, columns));
    for (int64_t k = begin; k < end; ++k) {  // the global average: one run for each plane
      V total = V(Scalar<T>(0));
      for_lanes<V>(
          in, [&](int64_t i, auto lanes) { total = total + load<V>(static_cast<const T*>(x) + k * in + i, lanes); });
      store(V(sum(total) * factor), static_cast<T*>(y) + k, 1);
    }
    return;
  }
  for (int64_t k = begin; k < end; ++k) {
    T* to = static_cast<T*>(y) + k * out;
    auto* plane = opened(static_cast<const T*>(x) + k * in, in, scratch, 0);
    auto* result = target(to, scratch, in);
    if (g.w.stride == 2)
      avg_plane<2>(g, plane, result);
    else
      avg_plane<1>(g, plane, result);
    closed(result, to, out);
  }
}

// scatter(gradient plane, first index of the plane's windows, plane of dx): adds to the cleared plane.
template <class T, class Scatter>
FASTNN_INLINE void each_gradient_plane(const Pool& g, const void* dy, void* dx, int64_t begin, int64_t end,
                                       void* scratch, Scatter&& scatter) {
  int64_t in = g.h.input * g.w.input, out = g.h.output * g.w.output;
  for (int64_t k = begin; k < end; ++k) {
    T* to = static_cast<T*>(dx) + k * in;
    auto* gradient = opened(static_cast<const T*>(dy) + k * out, out, scratch, in);
    auto* result = target(to, scratch, 0);
    __builtin_memset(result, 0, size_t(in) * sizeof *result);
    scatter(gradient, k * out, result);
    closed(result, to, in);
  }
}

template <class T>
void max_pool_planes_backward(const Pool& g, const void* dy, const void* position, void* dx, int64_t begin, int64_t end,
                              void* scratch) {
  using S = Scalar<T>;
  int64_t width = g.w.input, pitch = g.w.taps;
  auto offset = [&](int64_t tap) { return tap / pitch * g.h.dilation * width + tap % pitch * g.w.dilation; };
  auto run = [&](auto* where, auto&& offset_of) {
    each_gradient_plane<T>(g, dy, dx, begin, end, scratch, [&](const S* gradient, int64_t at, S* result) {
      for (int64_t p = 0, k = 0; p < g.h.output; ++p) {
        int64_t row = span(g.h, p).origin * width;
        for (int64_t q = 0; q < g.w.output; ++q, ++k) {
          auto tap = where[at + k];
          if (tap != decltype(tap)(-1)) result[row + span(g.w, q).origin + offset_of(tap)] += gradient[k];
        }
      }
    });
  };
  if (g.wide) return run(static_cast<const int32_t*>(position), offset);
  int64_t offsets[256];
  for (int64_t tap = 0; tap < g.h.taps * pitch; ++tap) offsets[tap] = offset(tap);
  run(static_cast<const uint8_t*>(position), [&](uint8_t tap) { return offsets[tap]; });
}

template <class S>
FASTNN_INLINE void fill(S* p, int64_t n, S value) {
  if (n < 8) {
    for (int64_t i = 0; i < n; ++i) p[i] = value;
    return;
  }
  for_lanes<Vec<S>>(n, [&](int64_t i, auto lanes) { store(Vec<S>(value), p + i, lanes); });
}

// One row of dx: each pixel sums the values of the windows that read it, in order.
template <class S>
void avg_backward_row(const Pool& g, PoolCover r, const PoolCover* covers, const S* values, S* row) {
  using V = Vec<S>;
  int64_t width = g.w.input, columns = g.w.output, begin = width, end = width;
  auto sum_at = [&](auto zero, auto&& load_at, int64_t first, int64_t last) {
    auto total = zero;
    for (int64_t p = r.first; p <= r.last; ++p)
      for (int64_t q = first; q <= last; ++q) total = total + load_at(values + p * columns + q);
    return total;
  };
  auto one = [](const S* p) { return *p; };
  if (g.w.stride == 1) {  // pixels that as many windows as there are taps read
    begin = lesser(width, greater(0, g.w.taps - 1 - g.w.padding));
    end = greater(begin, lesser(width, columns - g.w.padding));
  }
  for (int64_t w = 0; w < begin; ++w) row[w] = sum_at(S(0), one, covers[w].first, covers[w].last);
  for_lanes<V>(end - begin, [&](int64_t i, auto lanes) {
    int64_t last = begin + i + g.w.padding;
    V total = sum_at(V(S(0)), [&](const S* p) { return load<V>(p, lanes); }, last - g.w.taps + 1, last);
    store(total, row + begin + i, lanes);
  });
  for (int64_t w = end; w < width; ++w) row[w] = sum_at(S(0), one, covers[w].first, covers[w].last);
}

// dx of one plane whose windows lie side by side: rows of a window are copies of its first.
template <class S>
void avg_backward_tiles(const Pool& g, const S* values, S* plane) {
  int64_t width = g.w.input, rows = g.h.taps, columns = g.w.taps, used = g.h.output * rows * width;
  if (g.w.output == 1 && columns == width) {  // of the global average above all: one run for each window
    for (int64_t p = 0; p < g.h.output; ++p) fill(plane + p * rows * width, rows * width, values[p]);
  } else {
    for (int64_t p = 0; p < g.h.output; ++p, values += g.w.output) {
      S* first = plane + p * rows * width;
      for (int64_t q = 0; q < g.w.output; ++q) fill(first + q * columns, columns, values[q]);
      fill(first + g.w.output * columns, width - g.w.output * columns, S(0));
      for (int64_t i = 1; i < rows; ++i) __builtin_memcpy(first + i * width, first, size_t(width) * sizeof(S));
    }
  }
  fill(plane + used, g.h.input * width - used, S(0));
}

template <class T>
void avg_pool_planes_backward(const Pool& g, const void* dy, const void*, void* dx, int64_t begin, int64_t end,
                              void* scratch) {
  using V = Compute<T>;
  using S = Scalar<T>;
  int64_t width = g.w.input, height = g.h.input, in = height * width, out = g.h.output * g.w.output;
  bool side_by_side = are_tiles(g.h) && are_tiles(g.w);
  PoolCover* columns = all_covers(g.w, scratch);
  PoolCover* rows = all_covers(g.h, columns + width);
  S* factors = reinterpret_cast<S*>(rows + height);
  S* values = factors + out;
  for (int64_t p = 0; p < g.h.output; ++p)
    for (int64_t q = 0; q < g.w.output; ++q) factors[p * g.w.output + q] = S(scale(g, span(g.h, p), span(g.w, q)));
  for (int64_t k = begin; k < end; ++k) {
    const T* gradient = static_cast<const T*>(dy) + k * out;
    for_lanes<V>(out, [&](int64_t i, auto lanes) {
      store(load<V>(gradient + i, lanes) * load<V>(factors + i, lanes), values + i, lanes);
    });
    T* to = static_cast<T*>(dx) + k * in;
    S* result = target(to, values, out);
    if (side_by_side)
      avg_backward_tiles(g, values, result);
    else
      for (int64_t h = 0; h < height; ++h) avg_backward_row(g, rows[h], columns, values, result + h * width);
    closed(result, to, in);
  }
}

// ---- channels_last -------------------------------------------------------------------------------------------------

// f(row window, column window, input of the image, output index) for every window of rows [begin, end) of N * height.
template <class T, class F>
FASTNN_INLINE void each_pixel(const Pool& g, const void* x, int64_t begin, int64_t end, F&& f) {
  int64_t image = g.h.input * g.w.input * g.channels, columns = g.w.output;
  for (int64_t k = begin; k < end; ++k) {
    Span r = span(g.h, k % g.h.output);
    const T* in = static_cast<const T*>(x) + k / g.h.output * image;
    for (int64_t q = 0; q < columns; ++q) f(r, span(g.w, q), in, (k * columns + q) * g.channels);
  }
}

template <class T, class P>
void max_channels(const Pool& g, const void* x, T* y, P* position, int64_t begin, int64_t end) {
  using V = Compute<T>;
  using S = Scalar<T>;
  int64_t pitch = g.w.taps;
  each_pixel<T>(g, x, begin, end, [&](Span r, Span c, const T* in, int64_t at) {
    S first = S(r.begin < r.end && c.begin < c.end ? double(r.begin * pitch + c.begin) : kNone<P>);
    for_lanes<V>(g.channels, [&](int64_t k, auto lanes) {
      V best = V(S(-__builtin_inf())), where = V(first);
      for (int64_t i = r.begin; i < r.end; ++i) {
        int64_t row = (r.origin + i * g.h.dilation) * g.w.input + c.origin;
        for (int64_t j = c.begin; j < c.end; ++j) {
          V value = load<V>(in + (row + j * g.w.dilation) * g.channels + k, lanes);
          if constexpr (kPosition<P>)
            take(value, V(S(i * pitch + j)), &best, &where);
          else
            best = larger(value, best);
        }
      }
      store(best, y + at + k, lanes);
      if constexpr (kPosition<P>) store_integers(where, position + at + k, lanes);
    });
  });
}

template <class T>
void max_pool_channels(const Pool& g, const void* x, void* y, void* position, int64_t begin, int64_t end, void*) {
  auto run = [&](auto* where) { max_channels(g, x, static_cast<T*>(y), where, begin, end); };
  if (!position)
    run(static_cast<Nowhere*>(position));
  else if (g.wide)
    run(static_cast<int32_t*>(position));
  else
    run(static_cast<uint8_t*>(position));
}

template <class T>
void avg_pool_channels(const Pool& g, const void* x, void* y, void*, int64_t begin, int64_t end, void*) {
  using V = Compute<T>;
  using S = Scalar<T>;
  constexpr int kLanes = V::kLanes;
  each_pixel<T>(g, x, begin, end, [&](Span r, Span c, const T* in, int64_t at) {
    V factor = V(S(scale(g, r, c)));
    T* out = static_cast<T*>(y) + at;
    auto each_tap = [&](int64_t k, auto&& f) {
      for (int64_t i = r.begin; i < r.end; ++i)
        for (int64_t j = c.begin; j < c.end; ++j) f(in + ((r.origin + i) * g.w.input + c.origin + j) * g.channels + k);
    };
    int64_t k = 0;
    for (; k + 4 * kLanes <= g.channels; k += 4 * kLanes) {  // pixels are far apart: take a longer run of each
      V t0 = V(S(0)), t1 = t0, t2 = t0, t3 = t0;
      each_tap(k, [&](const T* p) {
        t0 = t0 + V::load(p), t1 = t1 + V::load(p + kLanes);
        t2 = t2 + V::load(p + 2 * kLanes), t3 = t3 + V::load(p + 3 * kLanes);
      });
      (t0 * factor).store(out + k), (t1 * factor).store(out + k + kLanes);
      (t2 * factor).store(out + k + 2 * kLanes), (t3 * factor).store(out + k + 3 * kLanes);
    }
    for_lanes<V>(g.channels - k, [&](int64_t i, auto lanes) {
      V total = V(S(0));
      each_tap(k + i, [&](const T* p) { total = total + load<V>(p, lanes); });
      store(total * factor, out + k + i, lanes);
    });
  });
}

// Each input pixel sums over the windows that read it, in order, so that dx is written once. value(row tap, column tap,
// window row, window column) is kept beside the window's output index and handed to term(index, value, lanes).
template <class T, class Value, class Term>
FASTNN_INLINE void gather(const Pool& g, void* dx, int64_t begin, int64_t end, void* scratch, Value&& value,
                          Term&& term) {
  using V = Compute<T>;
  using S = Scalar<T>;
  constexpr int kBatch = 64;
  struct Window {
    int64_t at;
    S value;
  } windows[kBatch];
  PoolCover* columns = all_covers(g.w, scratch);
  S* partial = reinterpret_cast<S*>(columns + g.w.input);
  bool tiles = are_tiles(g.w);
  for (int64_t k = begin; k < end; ++k) {
    int64_t h = k % g.h.input, image = k / g.h.input;
    PoolCover r = cover(g.h, h);
    T* row = static_cast<T*>(dx) + k * g.w.input * g.channels;
    if (tiles && r.first == r.last) {  // one window for each pixel: no sum
      int64_t at = (image * g.h.output + r.first) * g.w.output * g.channels, w = 0;
      for (int64_t q = 0; q < g.w.output; ++q, at += g.channels)
        for (int64_t j = 0; j < g.w.taps; ++j, ++w, row += g.channels) {
          S v = S(value(h, w, r.first, q));
          for_lanes<V>(g.channels, [&](int64_t i, auto lanes) { store(term(at + i, v, lanes), row + i, lanes); });
        }
      __builtin_memset(row, 0, size_t((g.w.input - w) * g.channels) * sizeof(T));
      continue;
    }
    for (int64_t w = 0; w < g.w.input; ++w) {
      T* out = row + w * g.channels;
      PoolCover c = columns[w];
      int count = 0;
      bool started = false;
      auto flush = [&](bool finish) {
        for_lanes<V>(g.channels, [&](int64_t i, auto lanes) {
          V total = started ? load<V>(partial + i, lanes) : V(S(0));
          for (int n = 0; n < count; ++n) total = total + term(windows[n].at + i, windows[n].value, lanes);
          if (finish)
            store(total, out + i, lanes);
          else
            store(total, partial + i, lanes);
        });
        count = 0;
        started = true;
      };
      for (int64_t p = r.first; p <= r.last; p += r.step)
        for (int64_t q = c.first; q <= c.last; q += c.step) {
          if (count == kBatch) flush(false);
          windows[count++] = {((image * g.h.output + p) * g.w.output + q) * g.channels, S(value(h, w, p, q))};
        }
      flush(true);
    }
  }
}

template <class T>
void max_pool_channels_backward(const Pool& g, const void* dy, const void* position, void* dx, int64_t begin,
                                int64_t end, void* scratch) {
  using V = Compute<T>;
  auto tap = [&](int64_t h, int64_t w, int64_t p, int64_t q) {
    return tap_of(g.h, h, p) * g.w.taps + tap_of(g.w, w, q);
  };
  auto run = [&](auto* where) {
    gather<T>(g, dx, begin, end, scratch, tap, [&](int64_t i, Scalar<T> wanted, auto lanes) {
      V at;
      load_integers(where + i, lanes, &at);
      return select(at == V(wanted), load<V>(static_cast<const T*>(dy) + i, lanes), V(Scalar<T>(0)));
    });
  };
  if (g.wide)
    run(static_cast<const int32_t*>(position));
  else
    run(static_cast<const uint8_t*>(position));
}

template <class T>
void avg_pool_channels_backward(const Pool& g, const void* dy, const void*, void* dx, int64_t begin, int64_t end,
                                void* scratch) {
  using V = Compute<T>;
  auto factor = [&](int64_t, int64_t, int64_t p, int64_t q) { return scale(g, span(g.h, p), span(g.w, q)); };
  gather<T>(g, dx, begin, end, scratch, factor,
            [&](int64_t i, Scalar<T> f, auto lanes) { return load<V>(static_cast<const T*>(dy) + i, lanes) * V(f); });
}

}  // namespace

#define FASTNN_FAMILY_INC "pooling.inc"
#define FASTNN_FAMILY_TABLE                    \
  extern const PoolingKernels pooling_kernels; \
  const PoolingKernels pooling_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
