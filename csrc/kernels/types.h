// Types that rows of the kernel tables have in their signatures. Plain data: kernels are compiled per ISA.
#pragma once
#include <cstdint>

#include "../dtype.h"

namespace fastnn {

// Functors stand in simd/activation.h, names in ops/activation.cpp.
enum class Activation : int {
  none,
  relu,
  relu6,
  leaky_relu,
  elu,
  gelu,
  gelu_tanh,
  silu,
  mish,
  sigmoid,
  tanh,
  hardswish,
  hardsigmoid,
  hardtanh,
  softplus,
  softsign,
  selu,
  celu,
  logsigmoid,
  hardshrink,
  softshrink,
  threshold,
  exp,
  expm1,
  log,
  log1p,
  sqrt,
  abs,
  neg
};

constexpr int kSoftmaxColumns = 128;  // columns that softmax does together: their state stays in L1

// The register tile of an ISA: at most `rows` rows by 2 * `lanes` columns.
struct TileShape {
  int rows, lanes;
};

// One register tile of a matrix product or a convolution:
//   c[m * c_row + n * c_col] (+)= f(bias[n] + residual[same place as c] + sums[m * sums_row + n]
//                                   + sum_k a[m * a_row + offsets[k]] * b[k * b_step + n])
// for m < rows, n < cols. a, b and sums are in the scalar type (float for float32, bfloat16, float16), c and residual
// in the storage type. offsets null: a_row is 1 and offsets[k] is k * a_step (packed rows); else what lies a_step
// behind is fetched ahead, if not 0. `accumulate` adds to c, bias, residual and f come after the sum.
// Where rows of c are contiguous (c_row 1), `room` elements from c on may be written, and are written again later.
struct Tile {
  int64_t k;
  const void* a;
  int64_t a_row;
  const int64_t* offsets;
  int64_t a_step;
  const void* b;
  int64_t b_step;
  void* c;
  int64_t c_row, c_col, room;
  bool accumulate;
  const void* sums;  // or null
  int64_t sums_row;
  const void* bias;
  const void* row_bias;  // row_bias[m] in place of bias[n], where c_col is 1; or null
  const void* residual;
  Activation activation;
};

// The register tile of products of bytes: `depth` values along k in each 32-bit element; `shift` is added to signed
// ones on the left.
struct ByteTileShape {
  int rows, lanes, depth, shift;
};

// What becomes of int32 sums: sums + correction[n] as int32; or
//   v = f(scale[n] * (sums + correction[n]) + bias[n])  as float32, or rounded to v * inverse_scale + zero_point.
struct Requantize {
  DType out = DType::i32;               // i32, f32, u8 or i8
  const int32_t* correction = nullptr;  // null: zeros
  const float* scale = nullptr;
  const float* bias = nullptr;  // null: zeros
  Activation activation = Activation::none;
  float inverse_scale = 1, zero_point = 0;
};

// A convolution that is vectorised over the pixels of output rows, for few output channels:
//   c[o * c_channel + r * c_row + i] = f(bias[o] + sum_k w[k * channels + o] * x[r * x_row + offsets[k] + i])
// for o < channels, r < rows, i < width. x can be read up to one vector past the last pixel used.
struct PixelTile {
  int64_t k;
  const void* x;
  int64_t x_row;
  const int64_t* offsets;
  const void* w;
  void* c;
  int64_t c_channel, c_row;
  int64_t width;
  const void* bias;
  Activation activation;
};

// Weight gradient, vectorised over output channels:
//   c[m * c_row + n] += sum_{b < images, r < rows, i < width}
//       x[b * x_image + r * x_row + i * x_step + offsets[m]] * g[((b * rows + r) * width + i) * g_step + n]
struct WeightTile {
  const void* x;
  int64_t x_image, x_row, x_step;
  const int64_t* offsets;
  int64_t images, rows, width;
  const void* g;
  int64_t g_step;
  void* c;
  int64_t c_row;
};

// Weight gradient, vectorised over pixels, for few output channels:
//   c[m * c_row + o] += sum_{b < images, r < rows, i < width}
//       x[b * x_image + r * x_row + offsets[m] + i] * g[b * g_image + o * g_channel + r * g_row + i]
struct PixelWeightTile {
  const void* x;
  int64_t x_image, x_row;
  const int64_t* offsets;
  int64_t images, rows, width;
  const void* g;
  int64_t g_image, g_channel, g_row;
  void* c;
  int64_t c_row;
};

// Winograd's F(4x4, 3x3) and F(2x2, 5x5), see ops/winograd.h. Values of the transform domain are [36][...], `_step`
// elements from one of the 36 to the next; `side`, 4 or 2, is that of a tile of outputs. `lanes` is that of
// winograd.shape, all data is float.
//
// Neighbouring tiles of one row of tiles: tile i reads the 6x6 pixels from (top, left + side * i) on, zeros outside of
// the image, and becomes tile first + i of v: [36][group of `rows` tiles][channels / lanes][tile of the group][lanes].
struct WinogradInput {
  const float* x;  // channel 0 of pixel (0, 0)
  int64_t x_channel, x_row, x_col, channels, height, width;
  int64_t top, left, tiles;
  int side;
  float* region;  // scratch of 6 * (4 * tiles + 2) * lanes
  float* v;
  int64_t v_step, rows, first;
};

// m[36][tile][n] = sum_c v[36][tile][c] u[36][c][n], n < vectors * lanes.
struct WinogradProduct {
  const float* v;
  int64_t v_step, rows, tiles, channels;
  const float* u;
  int64_t u_step;
  int vectors;
  float* m;
  int64_t m_step;
};

// Neighbouring tiles of m become `rows` x `cols` pixels, at most side x side * tiles, of y = f(m + bias + residual), or
// the maxima of their 2x2 windows with their positions, as in Tile.
struct WinogradOutput {
  const float* m;
  int64_t m_step, tiles;
  int vectors, channels, side;
  int64_t rows, cols;
  bool pool;
  float* block;  // scratch of 2 * 16 * tiles * lanes
  float* y;
  int64_t y_channel, y_row, y_col;
  const float* bias;
  const float* residual;  // like y
  Activation activation;
  uint8_t* position;  // like y, or null
};

// A rectangle of output pixels of a depthwise convolution, all of which use the same taps; channels_last:
//   y[r * y_row + i * y_col + c] = f(bias[c] + residual[same place as y] +
//       sum_{k < taps} w[w_offsets[k] + c] * x[r * x_row + i * x_col + x_offsets[k] + c])
// for r < rows, i < cols, c < channels. w and bias are in the compute type; w can be read in whole vectors.
struct DepthwiseRectangle {
  int64_t rows, cols, channels, taps;
  const void* x;
  int64_t x_row, x_col;
  const int64_t* x_offsets;
  void* w;
  const int64_t* w_offsets;
  void* y;
  int64_t y_row, y_col;
  const void *bias, *residual;
  Activation activation;
};

// One channel of a depthwise convolution, row-major:
//   y[r * y_row + i] = f(bias[0] + residual[same place as y] + sum_{k < taps} w[w_offsets[k]] * x[r * x_row + i +
//   x_offsets[k]])
// for r < rows, i < cols. x, w and bias are in the compute type; x can be read up to one vector past the last pixel
// used.
struct DepthwisePlane {
  int64_t rows, cols, taps;
  const void* x;
  int64_t x_row;
  const int64_t* x_offsets;
  void* w;
  const int64_t* w_offsets;
  void* y;
  int64_t y_row;
  const void *bias, *residual;
  Activation activation;
};

// Coefficients of one optimizer step on one parameter. python/fastnn/optim has the equations.
struct SgdStep {
  double lr, momentum, dampening, weight_decay;
  bool nesterov, maximize;
};
struct AdamStep {
  double step_size;   // lr / (1 - beta1^t)
  double root_scale;  // 1 / sqrt(1 - beta2^t)
  double beta1, beta2, eps;
  double weight_decay;  // added to the gradient
  double shrink;        // the parameter is multiplied by it first: 1 - lr weight_decay for AdamW, else 1
  bool maximize;
};
struct RmspropStep {
  double lr, alpha, eps, weight_decay, momentum;
  bool maximize;
};
struct AdagradStep {
  double step_size;  // lr / (1 + (t - 1) lr_decay)
  double weight_decay, eps;
  bool maximize;
};
struct LionStep {
  double lr, beta1, beta2;
  double shrink;  // 1 - lr weight_decay
  bool maximize;
};
// One axis of a pooling. Window o starts at o * stride - padding and has `taps` taps, `dilation` apart; where stride is
// 0 (adaptive) it is floor(o * input / output) up to ceil((o + 1) * input / output), and `taps` bounds their length.
struct PoolAxis {
  int64_t input, output, taps, stride, padding, dilation;
};
// Windows first, first + step, ..., last read an input coordinate.
struct PoolCover {
  int64_t first, last, step;
};
// A position is row tap * w.taps + column tap, in uint8_t, or in int32_t if `wide`; all ones in a window without taps.
struct Pool {
  PoolAxis h, w;
  int64_t channels;  // of channels_last data
  bool wide;
  bool count_include_pad;  // averages: divide by the taps inside of the padded image
  double divisor;          // averages: divide by this instead, if not 0
};

enum class PointwiseLoss : int { mse, l1, smooth_l1, huber, bce, bce_logits, kl_div, kl_div_log };

// Operands of a pointwise loss, dense and of one layout.
struct PointwiseOperands {
  const void *x, *t;
  const void *weight, *pos_weight;  // null: ones
  double a;                         // beta of smooth_l1, delta of huber
};

// Rows of `classes` logits and what each should be: labels, or rows of probabilities.
struct CrossEntropyRows {
  const void* x;
  const int64_t* labels;      // or null
  const void* probabilities;  // or null
  const void* weight;         // one per class; null: ones
  void* losses;               // one per row; null: not stored
  void *dx, *dt;              // gradient of the sum of the losses times `scale`; null: not wanted
  int64_t classes, ignore_index;
  double smoothing, scale;
};

// Where one mean and one variance of a normalization are taken: `count` runs of n neighbours, `step` apart.
struct Runs {
  int64_t count, step, n;
};

// A block of attention: `rows` queries by `cols` keys. All matrices have `step` elements between rows and are in the
// scalar type; bias and factor may be null. Row r sees keys first + r * first_step to last + r * last_step - 1.
//   s = cap(scale * scores) + bias,  m' = max(m, max s),  scores = exp(s - m') * factor,
//   total = total * exp(m - m') + sum exp(s - m'),  out *= exp(m - m')
// with cap(x) = softcap * tanh(x / softcap), or x where softcap is 0, m in top, one per row, and zeros written for keys
// that are not seen. out has out_cols columns; null: not yet written. The online softmax of Milakov & Gimelshein 2018,
// arXiv:1805.02867.
struct AttentionSoftmax {
  int rows;
  int64_t cols, step;
  int64_t first, first_step, last, last_step;
  double scale, softcap;
  void* scores;
  const void *bias, *factor;
  void *top, *total;
  void* out;
  int64_t out_step, out_cols;
};

// The gradient of such a block, from p = exp(cap(scale * scores) + bias - log_sum):
//   bias_gradient = p * (gradients * factor - delta),  gradients = bias_gradient * cap',  scores = p * factor
// log_sum and delta belong to queries, which are rows, or with by_keys columns. Zeros are written where a query does
// not see a key. bias_gradient, which may be null, has bias_gradient_step elements between rows.
struct AttentionGradient {
  int rows;
  int64_t cols, step;
  bool by_keys;
  int64_t first, first_step, last, last_step;
  double scale, softcap;
  void *scores, *gradients;
  void* bias_gradient;
  int64_t bias_gradient_step;
  const void *bias, *factor;
  const void *log_sum, *delta;
};

// Equations and the order of the gates stand in python/fastnn/ops/rnn.py.
enum class RnnCell : int { rnn_tanh, rnn_relu, lstm, gru };

// A block of one step of a recurrent layer: `rows` sequences by `units` of `hidden` units. All values are in the scalar
// type; rows of states (h, c, ...) and gates of one row are `hidden` elements apart.
struct RnnBlock {
  RnnCell cell;
  int64_t rows, units, hidden;
  // Forward: gate g of h_prev W_hh^T stands product_gate g elements on. Backward: the gradient of h by later steps.
  // null: zeros.
  const void* product;
  int64_t product_step, product_gate;
  void* gates;  // forward: the input's part; then what the gates let pass
  int64_t gates_step;
  const void* hidden_bias;  // GRU: of its third gate; null: zeros
  void* hidden_term;        // GRU: h_prev W_hn^T + b_hn
  const void *h_prev, *c_prev;
  void *h, *c;
  void* h_next;  // a copy of h whose rows are h_next_step elements apart
  int64_t h_next_step;
  const void* dy;  // null: zeros
  void* carry;     // gradient that passes by the gates: of c for an LSTM, of h for a GRU
  void* dgates;    // of what the gates' functions are applied to; GRU: n, r, z, and hidden_term
  int64_t dgates_step;
};

// Elementwise arithmetic. bit_and, bit_or and bit_xor are for integers and bool, which ops/elementwise.cpp does itself.
enum class Binary : int { add, sub, mul, div, pow, maximum, minimum, bit_and, bit_or, bit_xor };
enum class Comparison : int { eq, ne, lt, le, gt, ge };

}  // namespace fastnn
