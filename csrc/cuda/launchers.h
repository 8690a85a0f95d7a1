// What `_cuda`, the library of GPU kernels, offers: plain functions on pointers, sizes and a stream, in one table.
// No header of CUDA is needed to call them, and no type of the C++ library crosses.
#pragma once
#include "../dtype.h"
#include "../kernels/types.h"
#include "runtime.h"

namespace fastnn::gpu {

constexpr int kMaxAxes = 8;

// The loops of an elementwise kernel over K operands of one shape, with strides in elements; operand 0 is written. Axes
// are merged where all operands allow it, the innermost is last. n is at least 1.
template <int K>
struct Loop {
  int n;
  int64_t size[kMaxAxes];
  int64_t stride[K][kMaxAxes];
};

// An operand: an array, or, where data is null, a number, given as what a floating and as what an integer dtype takes.
struct Source {
  const void* data;
  double number;
  int64_t integer;
};

// A parameter that an optimizer changes: n neighbours, with gradient and state in the same order. What a state holds
// stands in simd/optimizer.h; those that a parameter does not have are null. step_size and root_scale are its own, for
// the optimizers that have them in their struct of kernels/types.h.
struct OptimizerTensor {
  void* param;
  const void* grad;
  void* state[3];  // float32, for float64 parameters float64
  int64_t n;
  double step_size, root_scale;
  bool fresh;  // SGD: the momentum holds nothing yet
};

constexpr int64_t kPowerPiece = 8192;

constexpr int kPartials = 2048;  // blocks that leave partial sums, at most: scratch memory of that many doubles

// Where the labels of nll_loss find their log-probabilities: `rows` are all axes but that of the classes.
struct NllRows {
  const int64_t* labels;
  Loop<1> rows;
  int64_t classes, class_stride, ignore_index;
};

// Rows of partial sums of the gradients of parameters that normalization of rows of n elements leaves, at most.
constexpr int64_t norm_parts(int64_t n) { return n <= 512 ? 2048 : 256; }

// Dense data (n, c, s), or `inner`, (n, s, c), that is normalized by statistics of its units: channels, where `batch`,
// or channels of images, `width` neighbouring ones together. A unit is summed in `parts` parts of `part` elements.
struct ChannelShape {
  int64_t n, c, s;
  bool inner, batch;
  int64_t width, parts, part;

  constexpr int64_t units() const { return batch ? c : n * c; }
  constexpr int64_t elements() const { return batch ? n * s : s; }  // of a unit
};

constexpr int kHeadSize = 256;  // attention: depth and width, at most

// Rows of heads; elements of a row are neighbours, strides are in elements. data null: not there, or not wanted.
struct HeadMatrix {
  void* data;
  int64_t batch, head, row;
};
// Attention of (batches, heads, queries, depth) over keys with heads / group heads, as ops/attention.h has it.
struct AttentionCall {
  int64_t batches, heads, group, queries, keys;
  int depth, width;
  HeadMatrix query, key, value;
  HeadMatrix mask;  // (batches, heads, queries, keys), of mask_dtype, mask_col elements from key to key
  int64_t mask_col;
  DType mask_dtype;
  bool causal;
  double scale;
};

constexpr int kSortTile = 1024;  // indices that embedding_backward sorts together

// products.h
struct Product;
struct Convolution;
struct WeightGradient;

// Every launcher returns 0 or an error for error_string(). None waits for the GPU unless it says so.
#define LAUNCHER(name, args) Status name args;
#include "launchers.inc"
#undef LAUNCHER

struct Launchers {
  uint64_t interface;  // kInterface of the library: a table made from other rows is refused
  bool emulated;       // a CPU runs the kernels, for tests
  const char* (*error_string)(Status status);
#define LAUNCHER(name, args) Status(*name) args;
#include "launchers.inc"
#undef LAUNCHER
};

constexpr uint64_t hash_text(const char* text) {
  uint64_t h = 14695981039346656037u;
  for (; *text; ++text) h = (h ^ uint64_t(static_cast<unsigned char>(*text))) * 1099511628211u;
  return h;
}

#define LAUNCHER(name, args) #name #args ";"
constexpr uint64_t kInterface = hash_text(
#include "launchers.inc"
);
#undef LAUNCHER

}  // namespace fastnn::gpu
