// Arguments of the launchers of matrix products and convolutions.
#pragma once
#include "launchers.h"

namespace fastnn::gpu {

// c = f(a b + bias + residual) for a batch of matrices: element (i, p) of a at a + i * a_row + p * a_column, b
// likewise, c is row-major.
struct Product {
  DType dtype;
  bool tf32;  // float32 is rounded to tf32 and multiplied on tensor cores
  int64_t m, n, k;
  const void *a, *b;
  int64_t a_row, a_column, b_row, b_column;
  Loop<2> batch;  // operand 0: offsets of a, 1: of b
  void* c;
  const void* residual;  // like c, or null
  const void* bias;      // n values in float32, of float64 in float64, or null
  Activation activation;
  void* workspace;
  int wgmma_multiprocessors;  // of the GPU, where its wgmma may be used, else 0
};

// A correlation; forward is one, the gradient of the input one for each residue of the stride. For g < groups,
// o < outputs, i < rows, j < columns and the sum over u < taps_y, v < taps_x, c < channels:
//   y[n, g, o, i, j] = f(bias[g, o] + residual + sum w[g, o, u, v, c] x[n, g, c, i * step_y + base_y + u * tap_y,
//                                                                       j * step_x + base_x + v * tap_x])
// with zeros outside of x. Tensor cores take images whose channels are neighbours, in whole chunks of 16 bytes.
struct Convolution {
  DType dtype;
  bool tf32;
  int64_t images, groups, channels, height, width;  // of x; channels and outputs per group
  int64_t outputs, rows, columns;
  int64_t step_y, step_x, base_y, base_x, tap_y, tap_x, taps_y, taps_x;
  const void* x;
  int64_t x_image, x_channel, x_row, x_column;
  const void* w;  // row-major
  void* y;
  int64_t y_image, y_channel, y_row, y_column;
  const void* residual;  // like y, or null
  const void* bias;      // in float32, of float64 in float64, or null
  Activation activation;
  void* workspace;
};

// dw[g, o, u, v, c] = sum over n, i, j of dy[n, g, o, i, j] x[as above]; dw is row-major. For tensor cores channels of
// dy are neighbours too, and pixels follow each other.
struct WeightGradient {
  Convolution of;  // without y, residual, bias
  const void* dy;
  int64_t dy_image, dy_channel, dy_row, dy_column;
  void* dw;
};

// matmul_sm90.cu: whether it takes the product; the product, without a workspace.
bool wgmma_takes(const Product& product);
Status matmul_wgmma(const Product& product, Stream stream);

}  // namespace fastnn::gpu
