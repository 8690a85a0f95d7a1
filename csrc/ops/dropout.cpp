#include "dropout.h"

#include <cmath>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"

namespace fastnn::ops {
namespace {

constexpr int64_t kGroup = 64;  // elements that share a call of philox_group

// x and the result are dense and in one layout.
Array apply(const Array& x, double p, int64_t seed, int64_t offset) {
  require<NotImplementedError>(is_float(x.dtype), "dropout: input has dtype ", name(x.dtype),
                               "; expected float32, bfloat16, float16 or float64");
  require<ValueError>(p >= 0 && p <= 1, "dropout: p is ", p, "; expected a probability between 0 and 1");
  Array y = Array::empty_like(x);
  auto kernel = kernels().dropout.dropout[x.dtype];
  // p = 1 drops also the largest word: its scale is zero.
  uint32_t threshold = uint32_t(std::min(std::nearbyint(p * 0x1p32), 0x1p32 - 1));
  double scale = p < 1 ? 1 / (1 - p) : 0;
  size_t item = size_of(x.dtype);
  int64_t n = x.numel();
  if (x.on_cuda()) {
    require<NotImplementedError>(!cuda::capturing(), "dropout: a captured step would drop the same elements in each ",
                                 "call; leave dropout out of it, or p = 0");
    if (n)
      cuda::check("dropout", cuda::launchers().dropout(x.dtype, x.data, y.data, n, uint64_t(seed), uint64_t(offset),
                                                       threshold, scale, cuda::stream(x.device())));
    return y;
  }
  FlushSubnormals flush;
  const bool past = streams(y);
  parallel_for((n + kGroup - 1) / kGroup, 64, [&](int64_t first, int64_t last) {
    int64_t begin = first * kGroup, end = std::min(n, last * kGroup);
    kernel(x.data + size_t(begin) * item, y.data + size_t(begin) * item, first, end - begin, uint64_t(seed),
           uint64_t(offset), threshold, scale, past);
  });
  return y;
}

}  // namespace

std::tuple<Array, bool> dropout(const Array& x, double p, int64_t seed, int64_t offset) {
  bool channels_last = x.is_channels_last();
  return {apply(channels_last ? x : x.contiguous(), p, seed, offset), channels_last};
}

Array dropout_backward(const Array& grad, double p, int64_t seed, int64_t offset, bool channels_last) {
  return apply(channels_last ? grad.channels_last() : grad.contiguous(), p, seed, offset);
}

Array philox_words(int64_t group, int64_t offset, int64_t seed) {
  Array words = Array::empty({kGroup}, DType::i32);
  kernels().dropout.philox_group(uint64_t(group), uint64_t(offset), uint64_t(seed), words.as<uint32_t>());
  return words;
}

}  // namespace fastnn::ops
