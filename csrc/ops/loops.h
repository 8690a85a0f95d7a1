// The loops of an elementwise op over K operands of one shape and any strides; operand 0 is the output. Axes are sorted
// so that the output is written in memory order, and merged where all operands allow it.
#pragma once
#include <algorithm>
#include <array>

#include "../array.h"
#include "../parallel.h"

namespace fastnn::ops {

template <int K>
struct Loops {
  int n = 0;
  int64_t size[kMaxDims];
  int64_t stride[K][kMaxDims];

  Loops(const Dims& shape, const std::array<const Dims*, K>& strides) {
    int order[kMaxDims], count = 0;
    for (int i = 0; i < shape.n; ++i)
      if (shape[i] != 1) order[count++] = i;
    auto magnitude = [&](int i) { return std::abs((*strides[0])[i]); };
    for (int i = 1; i < count; ++i)
      for (int j = i; j > 0 && magnitude(order[j - 1]) < magnitude(order[j]); --j) std::swap(order[j - 1], order[j]);
    for (int i = 0; i < count; ++i) {
      int axis = order[i];
      bool merges = n > 0;
      for (int k = 0; merges && k < K; ++k) merges = stride[k][n - 1] == (*strides[k])[axis] * shape[axis];
      if (!merges) size[n++] = 1;
      size[n - 1] *= shape[axis];
      for (int k = 0; k < K; ++k) stride[k][n - 1] = (*strides[k])[axis];
    }
    if (n > 0) return;
    n = 1;
    size[0] = 1;
    for (int k = 0; k < K; ++k) stride[k][0] = 1;
  }

  gpu::Loop<K> on_device() const {
    gpu::Loop<K> loop;
    loop.n = n;
    std::copy_n(size, n, loop.size);
    for (int k = 0; k < K; ++k) std::copy_n(stride[k], n, loop.stride[k]);
    return loop;
  }

  int64_t step(int k) const { return stride[k][n - 1]; }  // of the innermost loop

  // Calls f(offsets, count) for pieces of the innermost loop; offsets are in elements, one per operand.
  template <class F>
  void run(F&& f) const {
    constexpr int64_t kPiece = 16384;
    int64_t inner = size[n - 1], rows = 1;
    for (int i = 0; i + 1 < n; ++i) rows *= size[i];
    if (inner * rows == 0) return;
    int64_t pieces = (inner + kPiece - 1) / kPiece;
    parallel_for(rows * pieces, std::max<int64_t>(1, kPiece / inner), [&](int64_t begin, int64_t end) {
      int64_t index[kMaxDims], offset[K] = {}, row = begin / pieces, piece = begin % pieces;
      for (int i = n - 2; i >= 0; --i) {
        index[i] = row % size[i];
        row /= size[i];
        for (int k = 0; k < K; ++k) offset[k] += index[i] * stride[k][i];
      }
      for (int64_t u = begin; u < end; ++u) {
        int64_t first = piece * kPiece, at[K];
        for (int k = 0; k < K; ++k) at[k] = offset[k] + first * step(k);
        f(at, std::min(inner - first, kPiece));
        if (++piece < pieces) continue;
        piece = 0;
        for (int i = n - 2; i >= 0; --i) {
          for (int k = 0; k < K; ++k) offset[k] += stride[k][i];
          if (++index[i] < size[i]) break;
          for (int k = 0; k < K; ++k) offset[k] -= size[i] * stride[k][i];
          index[i] = 0;
        }
      }
    });
  }
};

}  // namespace fastnn::ops
