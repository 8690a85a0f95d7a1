// Winograd's minimal filtering of convolutions with stride 1 (Lavin & Gray, Fast Algorithms for Convolutional Neural
// Networks, 2016): F(4x4, 3x3), where a tile of 4x4 outputs takes 36 multiplications a channel in place of 144, and
// F(2x2, 5x5), where 2x2 outputs take 36 in place of 100,
//   y = A^T [ sum_c (G w_c G^T) * (B^T d_c B) ] A     d_c: 6x6 inputs, w_c: weights, *: elementwise
// at the interpolation points 0, 3/4, -3/4, 3/2, -3/2 and infinity: the largest error, relative to the largest output,
// is 3e-6 for normally distributed data of 512 channels, where the usual points 0, 1, -1, 2, -2 give 2e-5 and direct
// sums 1e-6. Where an input or weight is not finite, so is every output that it reaches, as in direct sums; but other
// outputs of its tile may become NaN, and infinities may. Sums of inputs beyond about 1e36 may overflow.
#pragma once
#include "conv2d.h"

namespace fastnn::conv {

// Whether it is the faster way, and allowed: not after set_precision("exact").
bool worth_winograd(const Pass& pass, DType dtype);

// As run_pass, for passes that worth_winograd() takes.
void run_winograd(const Pass& pass, const Array& in, bool nhwc, const Array& weight, const float* bias,
                  const Array* residual, Activation activation, const Array& out, uint8_t* position);

}  // namespace fastnn::conv
