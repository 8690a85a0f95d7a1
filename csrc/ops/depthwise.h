// Depthwise convolution: a kernel of its own for every channel, y[n, c] = f(w[c] * x[n, c] + ...). It does so little
// arithmetic for what it reads that it is written for the caches: channels_last by vectors of channels, 3x3 in blocks
// of neighbouring pixels that share their loads and fetch the next block ahead; row-major by vectors of pixels, from a
// padded copy of one plane, or of a band of it, in which the columns of a stride lie apart. MobileNetV2's layers at
// batch 1, one core of a Zen 4 with AVX-512, on a busy machine: 24 to 62 GFLOP/s channels_last (one of 12 at 96
// channels of 112x112), 6 to 29 row-major, for 1 to 9 and 2 to 24 as groups of one channel.
#pragma once
#include "conv2d.h"

namespace fastnn::conv {

// Whether run_depthwise() takes the pass.
bool is_depthwise(const Pass& pass);

// As run_pass for each of the passes, which cover the output together: one, or one for each residue of the stride, row
// residues outside.
void run_depthwise(const std::vector<Pass>& passes, const Array& in, bool nhwc, const Array& weight, const void* bias,
                   const Array* residual, Activation activation, const Array& out);

// The gradient of the weight, for one channel per group on both sides.
Array depthwise_weight(const Geometry& g, const Array& dy, const Array& x, bool nhwc);

}  // namespace fastnn::conv
