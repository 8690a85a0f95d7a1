// 1x1 convolution as a matrix product, without a copy of the whole image. channels_last: pixels by channels times the
// weights, [n h w, C] [C, O]. Row-major: the weights times channels by pixels, [O, C] [C, h w], so that the output is
// written in runs of pixels as it lies; pixels are copied a block at a time, which brings the channels of a pixel from
// their pages to L2, and drops the columns that a stride skips.
#pragma once
#include "conv2d.h"

namespace fastnn::conv {

// Whether it takes the pass, and is the faster way.
bool worth_pointwise(const Pass& pass, const Array& in, bool nhwc, const Array& out);

// As run_pass, for passes that worth_pointwise() takes.
void run_pointwise(const Pass& pass, const Array& in, bool nhwc, const Array& weight, const void* bias,
                   const Array* residual, Activation activation, const Array& out);

}  // namespace fastnn::conv
