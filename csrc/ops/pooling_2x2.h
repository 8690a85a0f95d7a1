// Pooling of 2x2 windows side by side in NCHW: part of pooling_kernel.cpp, compiled once per ISA.
#pragma once
#include "pooling_window.h"

namespace fastnn::FASTNN_ISA {
namespace {

// f(two input rows, output index, width of an output row) for every output row of planes [begin, end).
template <class T, class F>
FASTNN_INLINE void each_row_pair(const Pool& g, T* x, int64_t begin, int64_t end, F&& f) {
  int64_t height = g.h.input, width = g.w.input, rows = g.h.output, columns = g.w.output;
  for (int64_t plane = begin; plane < end; ++plane)
    for (int64_t p = 0; p < rows; ++p) {
      T* top = x + (plane * height + 2 * p) * width;
      f(top, top + width, (plane * rows + p) * columns, columns);
    }
}

template <class V, class T>
FASTNN_INLINE void load_pairs(const T* p, Full, V* even, V* odd) {
  deinterleave(V::load(p), V::load(p + V::kLanes), even, odd);
}
template <class V, class T>
FASTNN_INLINE void load_pairs(const T* p, int n, V* even, V* odd) {
  constexpr int kLanes = V::kLanes;
  deinterleave(V::load(p, int(lesser(2 * n, kLanes))), V::load(p + kLanes, int(greater(2 * n - kLanes, 0))), even, odd);
}
template <class V, class T>
FASTNN_INLINE void store_pairs(V even, V odd, T* p, Full) {
  V a, b;
  interleave(even, odd, &a, &b);
  a.store(p);
  b.store(p + V::kLanes);
}
template <class V, class T>
FASTNN_INLINE void store_pairs(V even, V odd, T* p, int n) {
  V a, b;
  interleave(even, odd, &a, &b);
  a.store(p, int(lesser(2 * n, V::kLanes)));
  b.store(p + V::kLanes, int(greater(2 * n - V::kLanes, 0)));
}

template <class T, class P>
void max_2x2(const Pool& g, const T* x, T* y, P* position, int64_t begin, int64_t end) {
  using V = Compute<T>;
  each_row_pair(g, x, begin, end, [&](const T* top, const T* bottom, int64_t at, int64_t n) {
    for_lanes<V>(n, [&](int64_t i, auto lanes) {
      V a, b, c, d;
      load_pairs(top + 2 * i, lanes, &a, &b);
      load_pairs(bottom + 2 * i, lanes, &c, &d);
      if constexpr (kPosition<P>) {
        V tap = V(0.0f);
        take(b, V(1.0f), &a, &tap);
        take(c, V(2.0f), &a, &tap);
        take(d, V(3.0f), &a, &tap);
        store(a, y + at + i, lanes);
        store_integers(tap, position + at + i, lanes);
      } else {
        store(larger(d, larger(c, larger(b, a))), y + at + i, lanes);
      }
    });
  });
}

// Rows of at most half a vector would leave most lanes idle. Where planes of even size make them one contiguous stream,
// it is reduced (or spread) along the row in full vectors, through a block in the L1 cache.
constexpr int64_t kBlock = 1024;  // outputs

template <class V>
FASTNN_INLINE bool is_narrow(const Pool& g) {
  return 2 * g.w.output <= V::kLanes && g.w.input == 2 * g.w.output && g.h.input == 2 * g.h.output;
}

template <class T, class P>
void max_2x2_narrow(const Pool& g, const T* x, T* y, P* position, int64_t begin, int64_t end) {
  using V = Compute<T>;
  using S = Scalar<T>;
  constexpr int64_t kRoom = 2 * kBlock + V::kLanes;
  S larger_of_pair[kRoom], tap_of_pair[kPosition<P> ? kRoom : 1];
  int64_t n = g.w.output, last = end * g.h.output, step = kBlock / n;
  for (int64_t row = begin * g.h.output; row < last; row += step) {
    int64_t rows = lesser(step, last - row), at = row * n;
    for_lanes<V>(2 * rows * n, [&](int64_t i, auto lanes) {
      V a, b, tap = V(S(0));
      load_pairs(x + 4 * at + 2 * i, lanes, &a, &b);
      if constexpr (kPosition<P>) {
        take(b, V(S(1)), &a, &tap);
        tap.store(tap_of_pair + i);
      } else {
        a = larger(b, a);
      }
      a.store(larger_of_pair + i);
    });
    for (int64_t r = 0; r < rows; ++r, at += n) {
      const S* pair = larger_of_pair + 2 * r * n;
      V best = V::load(pair), below = V::load(pair + n);
      int64_t room = (rows - r) * n;
      if constexpr (kPosition<P>) {
        const S* taps = tap_of_pair + 2 * r * n;
        V tap = V::load(taps);
        take(below, V::load(taps + n) + V(S(2)), &best, &tap);
        if (room >= V::kLanes)
          store_integers(tap, position + at, Full());
        else
          store_integers(tap, position + at, int(n));
      } else {
        best = larger(below, best);
      }
      store_row(best, y + at, int(n), room);
    }
  }
}

template <class T>
void max_pool_2x2(const Pool& g, const void* x, void* y, void* position, int64_t begin, int64_t end, void*) {
  auto run = [&](auto* where) {
    auto* from = static_cast<const T*>(x);
    auto* to = static_cast<T*>(y);
    if (is_narrow<Compute<T>>(g))
      max_2x2_narrow(g, from, to, where, begin, end);
    else
      max_2x2(g, from, to, where, begin, end);
  };
  if (position)
    run(static_cast<uint8_t*>(position));
  else
    run(static_cast<Nowhere*>(nullptr));
}

template <class T>
void avg_pool_2x2(const Pool& g, const void* x, void* y, void*, int64_t begin, int64_t end, void*) {
  using V = Compute<T>;
  auto* py = static_cast<T*>(y);
  V factor = V(Scalar<T>(1.0 / (g.divisor != 0 ? g.divisor : 4.0)));
  each_row_pair(g, static_cast<const T*>(x), begin, end, [&](const T* top, const T* bottom, int64_t at, int64_t n) {
    for_lanes<V>(n, [&](int64_t i, auto lanes) {
      V a, b, c, d;
      load_pairs(top + 2 * i, lanes, &a, &b);
      load_pairs(bottom + 2 * i, lanes, &c, &d);
      store((a + b + c + d) * factor, py + at + i, lanes);
    });
  });
}

template <class T, class Term>
FASTNN_INLINE void spread_2x2_narrow(const Pool& g, T* dx, int64_t begin, int64_t end, Term&& term) {
  using V = Compute<T>;
  T top[2 * kBlock + 2 * V::kLanes], bottom[2 * kBlock + 2 * V::kLanes];
  int64_t n = g.w.output, last = end * g.h.output, step = kBlock / n;
  for (int64_t row = begin * g.h.output; row < last; row += step) {
    int64_t rows = lesser(step, last - row), at = row * n;
    for_lanes<V>(rows * n, [&](int64_t i, auto lanes) {
      V a, b, c, d;
      term(at + i, lanes, &a, &b, &c, &d);
      store_pairs(a, b, top + 2 * i, Full());
      store_pairs(c, d, bottom + 2 * i, Full());
    });
    T* out = dx + 4 * at;
    for (int64_t r = 0; r < rows; ++r, out += 4 * n) {
      int64_t room = 4 * (rows - r) * n;
      store_row(V::load(top + 2 * r * n), out, int(2 * n), room);
      store_row(V::load(bottom + 2 * r * n), out + 2 * n, int(2 * n), room - 2 * n);
    }
  }
}

// term(output index, lanes, &a, &b, &c, &d): the gradients of taps 0, 1, 2 and 3 of the windows there.
template <class T, class Term>
FASTNN_INLINE void spread_2x2(const Pool& g, T* dx, int64_t begin, int64_t end, Term&& term) {
  using V = Compute<T>;
  if (is_narrow<V>(g)) return spread_2x2_narrow(g, dx, begin, end, term);
  int64_t width = g.w.input, height = g.h.input;
  each_row_pair(g, dx, begin, end, [&](T* top, T* bottom, int64_t at, int64_t n) {
    for_lanes<V>(n, [&](int64_t i, auto lanes) {
      V a, b, c, d;
      term(at + i, lanes, &a, &b, &c, &d);
      store_pairs(a, b, top + 2 * i, lanes);
      store_pairs(c, d, bottom + 2 * i, lanes);
    });
    if (width & 1) top[width - 1] = bottom[width - 1] = T{};
  });
  if (height & 1)
    for (int64_t plane = begin; plane < end; ++plane)
      for (int64_t k = 0; k < width; ++k) dx[((plane + 1) * height - 1) * width + k] = T{};
}

template <class T>
void max_pool_2x2_backward(const Pool& g, const void* dy, const void* position, void* dx, int64_t begin, int64_t end,
                           void*) {
  using V = Compute<T>;
  auto* pg = static_cast<const T*>(dy);
  auto* where = static_cast<const uint8_t*>(position);
  spread_2x2(g, static_cast<T*>(dx), begin, end, [&](int64_t i, auto lanes, V* a, V* b, V* c, V* d) {
    V value = load<V>(pg + i, lanes), zero = V(0.0f), tap;
    load_integers(where + i, lanes, &tap);
    *a = select(tap == zero, value, zero);
    *b = select(tap == V(1.0f), value, zero);
    *c = select(tap == V(2.0f), value, zero);
    *d = select(tap == V(3.0f), value, zero);
  });
}

template <class T>
void avg_pool_2x2_backward(const Pool& g, const void* dy, const void*, void* dx, int64_t begin, int64_t end, void*) {
  using V = Compute<T>;
  auto* pg = static_cast<const T*>(dy);
  V factor = V(Scalar<T>(1.0 / (g.divisor != 0 ? g.divisor : 4.0)));
  spread_2x2(g, static_cast<T*>(dx), begin, end, [&](int64_t i, auto lanes, V* a, V* b, V* c, V* d) {
    *a = *b = *c = *d = load<V>(pg + i, lanes) * factor;
  });
}

}  // namespace
}  // namespace fastnn::FASTNN_ISA
