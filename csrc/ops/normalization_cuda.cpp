#include "../device.h"
#include "normalization_channels.h"

namespace fastnn::ops::detail {
namespace {

gpu::ChannelShape shape_on_gpu(const Channels& k, bool batch, int64_t width) {
  gpu::ChannelShape g{k.n, k.c, k.s, k.inner, batch, width, 1, 0};
  // Parts that a block reads twice from its caches, in whole accesses, but no more than 64 of them.
  const int64_t most = k.inner ? 512 : 8192, count = g.elements();
  g.part = std::max(most, (count + 63) / 64 + 15) / 16 * 16;
  g.parts = (count + g.part - 1) / g.part;
  return g;
}

void* pointer(const MaybeArray& a) { return a ? a->data : nullptr; }
Array doubles(int64_t n, const Array& x) { return Array::empty({n}, DType::f64, x.device()); }

}  // namespace

Statistics moments_on_gpu(const char* op, const Array& x, const Channels& k, bool batch, int64_t width) {
  const gpu::ChannelShape g = shape_on_gpu(k, batch, width);
  Statistics s{doubles(g.units() / width, x), doubles(g.units() / width, x)};
  Array partial = doubles(2 * g.parts * g.units(), x);
  cuda::check(op, cuda::launchers().channel_moments(g, x.dtype, x.data, partial.as<double>(), s.mean.as<double>(),
                                                    s.variance.as<double>(), cuda::stream(x.device())));
  return s;
}

void update_running_on_gpu(const char* op, const MaybeArray& mean, const MaybeArray& var, const Statistics& s,
                           int64_t images, double count, double momentum) {
  if (!mean) return;
  auto update = [&](const Array& running, const Array& units, double factor) {
    cuda::check(op, cuda::launchers().channel_running(units.as<double>(), images, running.size(0), momentum, factor,
                                                      running.dtype, running.data, running.stride(0),
                                                      cuda::stream(running.device())));
    running.bump_version();
  };
  update(*mean, s.mean, 1);
  update(*var, s.variance, count / (count - 1));
}

Normalized normalize_on_gpu(const char* op, const Array& x, const Channels& k, bool batch, int64_t width,
                            const Statistics& s, double eps, const MaybeArray& w, const MaybeArray& b) {
  const gpu::ChannelShape g = shape_on_gpu(k, batch, width);
  Array y = Array::empty_like(x), rstd = doubles(g.units() / width, x);
  Array table = Array::empty({4 * g.units()}, compute_dtype(x.dtype), x.device());
  cuda::check(op, cuda::launchers().channel_normalize(g, x.dtype, x.data, y.data, s.mean.as<double>(),
                                                      s.variance.as<double>(), eps, pointer(w), pointer(b),
                                                      rstd.as<double>(), table.data, cuda::stream(x.device())));
  return {y, s.mean, rstd};
}

NormGradients backward_on_gpu(const char* op, const Array& x, const Array& dy, const Channels& k, bool batch,
                              int64_t width, bool training, const MaybeArray& w, const Array& mean, const Array& rstd,
                              DType parameters, bool need_input, bool need_weight, bool need_bias) {
  const gpu::ChannelShape g = shape_on_gpu(k, batch, width);
  MaybeArray dx, dw, db;
  if (need_input) dx = Array::empty_like(x);
  if (need_weight) dw = Array::empty({k.c}, parameters, x.device());
  if (need_bias) db = Array::empty({k.c}, parameters, x.device());
  Array partial = doubles(2 * (g.parts + 1) * g.units(), x);
  Array table = Array::empty({4 * g.units()}, compute_dtype(x.dtype), x.device());
  cuda::check(op, cuda::launchers().channel_normalize_backward(g, training, x.dtype, x.data, dy.data, pointer(dx),
                                                               pointer(w), mean.as<double>(), rstd.as<double>(),
                                                               partial.as<double>(), table.data, parameters,
                                                               pointer(dw), pointer(db), cuda::stream(x.device())));
  return {dx, dw, db};
}

}  // namespace fastnn::ops::detail
