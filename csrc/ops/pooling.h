// Max and average pooling of (N, C, H, W) or (C, H, W). Equations stand in python/fastnn/ops/pooling.py.
//
// Outputs keep a channels_last input's layout. A max pooling that will be differentiated keeps, instead of int64
// indices, the position of the maximum in its window: row tap * taps of a row + column tap, in uint8 (255: the window
// has no tap inside of the input), or in int32 (-1) where a window has more than 255 taps. `output_size` of adaptive
// pooling: -1 stands for the input's size.
#pragma once
#include <tuple>

#include "../array.h"

namespace fastnn::ops {

bool is_channels_last(const Array& input);

Array max_pool2d(const Array& input, const Dims& kernel_size, const Dims& stride, const Dims& padding,
                 const Dims& dilation, bool ceil_mode);
// (output, position, whether they are channels_last)
std::tuple<Array, Array, bool> max_pool2d_positions(const Array& input, const Dims& kernel_size, const Dims& stride,
                                                    const Dims& padding, const Dims& dilation, bool ceil_mode);
// Positions as int64 indices h * W + w into the input's plane; -1 in a window without taps.
Array max_pool2d_indices(const Array& position, const Dims& input_shape, bool channels_last, const Dims& kernel_size,
                         const Dims& stride, const Dims& padding, const Dims& dilation, bool ceil_mode);
Array max_pool2d_backward(const Array& grad, const Array& position, const Dims& input_shape, bool channels_last,
                          const Dims& kernel_size, const Dims& stride, const Dims& padding, const Dims& dilation,
                          bool ceil_mode);

Array adaptive_max_pool2d(const Array& input, const Dims& output_size);
std::tuple<Array, Array, bool> adaptive_max_pool2d_positions(const Array& input, const Dims& output_size);
Array adaptive_max_pool2d_indices(const Array& position, const Dims& input_shape, bool channels_last,
                                  const Dims& output_size);
Array adaptive_max_pool2d_backward(const Array& grad, const Array& position, const Dims& input_shape,
                                   bool channels_last, const Dims& output_size);

// divisor_override 0: none
Array avg_pool2d(const Array& input, const Dims& kernel_size, const Dims& stride, const Dims& padding, bool ceil_mode,
                 bool count_include_pad, int64_t divisor_override);
Array avg_pool2d_backward(const Array& grad, const Dims& input_shape, bool channels_last, const Dims& kernel_size,
                          const Dims& stride, const Dims& padding, bool ceil_mode, bool count_include_pad,
                          int64_t divisor_override);

Array adaptive_avg_pool2d(const Array& input, const Dims& output_size);
Array adaptive_avg_pool2d_backward(const Array& grad, const Dims& input_shape, bool channels_last,
                                   const Dims& output_size);

}  // namespace fastnn::ops
