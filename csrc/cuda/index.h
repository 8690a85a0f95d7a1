// From the number of an element to its places in strided operands.
#pragma once
#include "gpu.h"
#include "launchers.h"

namespace fastnn::gpu {

// n / d for n < 2^31 by a multiplication. Granlund & Montgomery 1994, "Division by invariant integers using
// multiplication", figure 4.1.
struct Divisor {
  uint32_t d, multiplier, shift;

  Divisor() = default;
  explicit Divisor(int64_t divisor) : d(divisor ? uint32_t(divisor) : 1), shift(0) {  // 0: of no element
    while (shift < 31 && (uint32_t(1) << shift) < d) ++shift;
    multiplier = uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - d)) / d + 1);
  }
  GPU_FN uint32_t divide(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

// Offsets of element i < 2^31 of a Loop, counted along the innermost axis first.
template <int K>
struct Index {
  int n;
  Divisor size[kMaxAxes];  // from the innermost axis on
  int64_t stride[K][kMaxAxes];

  Index() = default;
  explicit Index(const Loop<K>& loop) : n(loop.n) {
    for (int i = 0; i < n; ++i) {
      size[i] = Divisor(loop.size[n - 1 - i]);
      for (int k = 0; k < K; ++k) stride[k][i] = loop.stride[k][n - 1 - i];
    }
  }

  GPU_FN void operator()(uint32_t i, int64_t (&offset)[K]) const {
#pragma unroll
    for (int k = 0; k < K; ++k) offset[k] = 0;
#pragma unroll
    for (int axis = 0; axis < kMaxAxes; ++axis) {
      if (axis == n) break;
      uint32_t rest = axis + 1 < n ? size[axis].divide(i) : 0, at = i - rest * size[axis].d;
#pragma unroll
      for (int k = 0; k < K; ++k) offset[k] += int64_t(at) * stride[k][axis];
      i = rest;
    }
  }
};

template <int K>
int64_t count(const Loop<K>& loop) {
  int64_t total = 1;
  for (int i = 0; i < loop.n; ++i) total *= loop.size[i];
  return total;
}

// Calls f(piece, offsets) for pieces of the loop of less than 2^31 elements that begin `offsets` elements on; the first
// error ends it.
template <int K, class F>
Status for_pieces(const Loop<K>& loop, F&& f, const int64_t (&begin)[K] = {}) {
  if (count(loop) < int64_t(1) << 31) return f(loop, begin);
  int widest = 0;
  for (int i = 1; i < loop.n; ++i)
    if (loop.size[i] > loop.size[widest]) widest = i;
  Loop<K> first = loop, second = loop;
  first.size[widest] = loop.size[widest] / 2;
  second.size[widest] = loop.size[widest] - first.size[widest];
  int64_t middle[K];
  for (int k = 0; k < K; ++k) middle[k] = begin[k] + first.size[widest] * loop.stride[k][widest];
  if (Status status = for_pieces(first, f, begin)) return status;
  return for_pieces(second, f, middle);
}

// Makes `n` neighbours along the innermost axis one unit of the loop, where every operand can be accessed so: by steps
// of one, or of zero for operands other than 0. Says whether it could; strides stay in elements. Where the loop is one
// run, `tail` may take the elements that are left over.
template <int K>
bool join_neighbours(Loop<K>& loop, int n, int64_t* tail) {
  const int inner = loop.n - 1;
  const int64_t rest = loop.size[inner] % n;
  bool fits = loop.stride[0][inner] == 1 && (rest == 0 || (tail && loop.n == 1));
  for (int k = 0; fits && k < K; ++k) {
    if (k > 0 && loop.stride[k][inner] == 0) continue;
    fits = loop.stride[k][inner] == 1;
    for (int i = 0; fits && i < inner; ++i) fits = loop.stride[k][i] % n == 0;
  }
  if (!fits) return false;
  if (tail) *tail = rest;
  loop.size[inner] /= n;
  for (int k = 0; k < K; ++k) loop.stride[k][inner] *= n;
  return true;
}

}  // namespace fastnn::gpu
