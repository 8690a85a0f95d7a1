// batch_norm, group_norm and instance_norm. Equations stand in python/fastnn/ops/normalization.py.
//
// A unit is a channel (batch_norm) or a channel of an image. Blocks leave two numbers for each part of a unit: mean and
// squared deviations, in two passes over the part (the second reads L1 or L2), or the sums of dy and dy (x - mean).
// Parts are a function of the shape and are added in order, in float64. Then a table of coefficients, and one pass over
// the elements. Occupancy: bound by memory, 1024 threads on a multiprocessor.
#include "launchers.h"
#include "partial.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

constexpr int kBlock = 256;
template <class T>
constexpr int kResident = sizeof(T) == 8 ? 1 : 1024 / kBlock;

// 64-bit division is slow on a GPU.
GPU_FN int64_t quotient(int64_t a, int64_t b) {
  return a < INT_MAX && b < INT_MAX ? int64_t(uint32_t(a) / uint32_t(b)) : a / b;
}

template <int N, class T, class F>
GPU_FN void each_of(const T* p, F&& f) {
  const Pack<T, N> pack = load<N>(p);
#pragma unroll
  for (int j = 0; j < N; ++j) f(j, widen(pack[j]));
}

// Units whose elements are runs of k.s neighbours. A block for each part of each unit.
template <class T, int N, bool GRADIENT>
__global__ void __launch_bounds__(kBlock, kResident<T>)
    planes_kernel(ChannelShape k, const T* __restrict__ x, const T* __restrict__ dy, const double* __restrict__ mean,
                  double* __restrict__ first, double* __restrict__ second) {
  using S = Scalar<T>;
  GPU_SHARED(double, shared, [kBlock / 32]);
  const int64_t part = blockIdx.x % k.parts, unit = blockIdx.x / k.parts, begin = part * k.part,
                end = min(k.elements(), begin + k.part);
  auto for_all = [&](auto&& f) {
#pragma unroll 2
    for (int64_t e = begin + threadIdx.x * N; e < end; e += kBlock * N) {
      const int64_t run = k.batch ? quotient(e, k.s) : 0;
      f(k.batch ? (run * k.c + unit) * k.s + (e - run * k.s) : unit * k.s + e);
    }
  };
  double a, b;
  if constexpr (GRADIENT) {
    const S high = S(mean[unit / k.width]);
    S plain = 0, product = 0;
    for_all([&](int64_t at) {
      const Pack<T, N> px = load<N>(x + at);
      each_of<N>(dy + at, [&](int j, S g) {
        plain += g;
        product += g * (widen(px[j]) - high);
      });
    });
    a = group_sum<kBlock / 32>(double(plain), shared);
    b = group_sum<kBlock / 32>(double(product), shared);
  } else {
    S sum = 0, rest = 0, square = 0;
    for_all([&](int64_t at) { each_of<N>(x + at, [&](int, S v) { sum += v; }); });
    const double n = double(end - begin);
    const S high = S(group_sum<kBlock / 32>(double(sum), shared) / n);
    for_all([&](int64_t at) {
      each_of<N>(x + at, [&](int, S v) {
        rest += v - high;
        square += (v - high) * (v - high);
      });
    });
    double left = group_sum<kBlock / 32>(double(rest), shared);
    b = group_sum<kBlock / 32>(double(square), shared);
    if (left - left != 0) left = 0;  // an infinite mean is infinite, not NaN
    a = double(high) + left / n;
    b -= left * left / n;
    if (b < 0) b = 0;
  }
  if (threadIdx.x == 0) {
    first[part * k.units() + unit] = a;
    second[part * k.units() + unit] = b;
  }
}

constexpr int kAcross = 8, kAlong = kBlock / kAcross;

// The sum over the threads of a column, for the N columns of each thread; all of them get it.
template <int N, class S>
GPU_FN void column_sum(S (&v)[N], S (&shared)[kAlong][kAcross * N]) {
  const int column = threadIdx.x % kAcross * N, along = threadIdx.x / kAcross;
  __syncthreads();
#pragma unroll
  for (int j = 0; j < N; ++j) shared[along][column + j] = v[j];
  __syncthreads();
  if (int c = threadIdx.x; c < kAcross * N) {
    S sum = shared[0][c];
    for (int i = 1; i < kAlong; ++i) sum += shared[i][c];
    shared[0][c] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < N; ++j) v[j] = shared[0][column + j];
}

// Units that are columns of matrices of k.c columns. A block for each part of each strip of kAcross * N columns.
template <class T, int N, bool GRADIENT>
__global__ void __launch_bounds__(kBlock, sizeof(T) == 8 ? 1 : 3)
    columns_kernel(ChannelShape k, const T* __restrict__ x, const T* __restrict__ dy, const double* __restrict__ mean,
                   double* __restrict__ first, double* __restrict__ second) {
  using S = Scalar<T>;
  GPU_SHARED(S, shared, [kAlong][kAcross * N]);
  const int64_t strips = ceil_div(k.c, int64_t(kAcross * N)), strip = blockIdx.x % strips,
                part = blockIdx.x / strips % k.parts, image = blockIdx.x / strips / k.parts;
  const int64_t column = strip * kAcross * N + threadIdx.x % kAcross * N, unit = image * k.c + column;
  const bool active = column < k.c;
  const int64_t begin = part * k.part, end = min(k.elements(), begin + k.part);
  auto for_all = [&](auto&& f) {
    if (active)
#pragma unroll 4
      for (int64_t r = begin + threadIdx.x / kAcross; r < end; r += kAlong) f((image * k.s + r) * k.c + column);
  };
  S a[N] = {}, b[N] = {}, high[N] = {};
  if constexpr (GRADIENT) {
    if (active)
#pragma unroll
      for (int j = 0; j < N; ++j) high[j] = S(mean[quotient(unit + j, k.width)]);
    for_all([&](int64_t at) {
      const Pack<T, N> px = load<N>(x + at);
      each_of<N>(dy + at, [&](int j, S g) {
        a[j] += g;
        b[j] += g * (widen(px[j]) - high[j]);
      });
    });
    column_sum(a, shared);
    column_sum(b, shared);
  } else {
    const S n = S(end - begin);
    for_all([&](int64_t at) { each_of<N>(x + at, [&](int j, S v) { high[j] += v; }); });
    column_sum(high, shared);
#pragma unroll
    for (int j = 0; j < N; ++j) high[j] /= n;
    for_all([&](int64_t at) {
      each_of<N>(x + at, [&](int j, S v) {
        a[j] += v - high[j];
        b[j] += (v - high[j]) * (v - high[j]);
      });
    });
    column_sum(a, shared);
    column_sum(b, shared);
  }
  if (!active || threadIdx.x >= kAcross) return;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    double u = double(a[j]), v = double(b[j]);
    if constexpr (!GRADIENT) {
      const double n = double(end - begin), left = u - u != 0 ? 0 : u;
      u = double(high[j]) + left / n;
      v -= left * left / n;
      if (v < 0) v = 0;
    }
    first[part * k.units() + unit + j] = u;
    second[part * k.units() + unit + j] = v;
  }
}

// Mean and biased variance of each group of k.width units, from their parts.
__global__ void __launch_bounds__(kBlock, 2)
    merge_kernel(ChannelShape k, const double* __restrict__ first, const double* __restrict__ second,
                 double* __restrict__ mean, double* __restrict__ variance) {
  const int64_t g = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (g * k.width >= k.units()) return;
  const double count = double(k.elements() * k.width);
  double average = 0, squares = 0;
  auto for_all = [&](auto&& f) {
    for (int64_t p = 0; p < k.parts; ++p)
      for (int64_t u = g * k.width; u < (g + 1) * k.width; ++u)
        f(double(min(k.part, k.elements() - p * k.part)), p * k.units() + u);
  };
  for_all([&](double n, int64_t i) { average += n * first[i]; });
  average /= count;
  for_all([&](double n, int64_t i) { squares += second[i] + n * (first[i] - average) * (first[i] - average); });
  mean[g] = average;
  variance[g] = squares / count;
}

// Rows m, scale and shift of the table, for the units.
template <class S>
__global__ void __launch_bounds__(kBlock, 2)
    coefficients_kernel(ChannelShape k, const double* __restrict__ mean, const double* __restrict__ variance,
                        double eps, const S* __restrict__ weight, const S* __restrict__ bias, double* __restrict__ rstd,
                        S* __restrict__ table) {
  const int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x, units = k.units();
  if (i >= units) return;
  const int64_t g = i / k.width, c = i % k.c;
  const double inverse = 1 / sqrt(variance[g] + eps), scale = inverse * (weight ? double(weight[c]) : 1);
  if (i % k.width == 0) rstd[g] = inverse;
  const S high = S(mean[g]);
  table[i] = high;
  table[units + i] = S(scale);
  table[2 * units + i] = S((bias ? double(bias[c]) : 0) - (mean[g] - double(high)) * scale);
}

// Sums of the parts of each unit: of dy to `plain`, of dy (x - mean) rstd to `product`; and rows m, a, b, c of the
// table. A thread for each group.
template <class S>
__global__ void __launch_bounds__(kBlock, 2)
    gradient_kernel(ChannelShape k, bool training, const double* __restrict__ first, const double* __restrict__ second,
                    const double* __restrict__ mean, const double* __restrict__ rstd, const S* __restrict__ weight,
                    double* __restrict__ plain, double* __restrict__ product, S* __restrict__ table) {
  const int64_t g = int64_t(blockIdx.x) * kBlock + threadIdx.x, units = k.units();
  if (g * k.width >= units) return;
  const double r = rstd[g], low = mean[g] - double(S(mean[g])), count = double(k.elements() * k.width);
  double sum = 0, slope = 0;  // of dy weight, and of dy weight (x - mean) rstd
  auto weight_of = [&](int64_t u) { return weight ? double(weight[u % k.c]) : 1.0; };
  for (int64_t u = g * k.width; u < (g + 1) * k.width; ++u) {
    double a = 0, b = 0;
    for (int64_t p = 0; p < k.parts; ++p) {
      a += first[p * units + u];
      b += second[p * units + u];
    }
    b = (b - low * a) * r;
    plain[u] = a;
    product[u] = b;
    sum += weight_of(u) * a;
    slope += weight_of(u) * b;
  }
  const double b = -r * r * slope / count;
  for (int64_t u = g * k.width; u < (g + 1) * k.width; ++u) {
    table[u] = training ? S(mean[g]) : S(0);
    table[units + u] = S(r * weight_of(u));
    table[2 * units + u] = training ? S(b) : S(0);
    if (training) table[3 * units + u] = S(-r * sum / count - b * low);
  }
}

// out[c] = sum over images of units
template <class D>
__global__ void __launch_bounds__(kBlock, 2)
    parameters_kernel(const double* __restrict__ units, int64_t images, int64_t channels, D* __restrict__ out) {
  const int64_t c = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (c >= channels) return;
  double sum = 0;
  for (int64_t i = 0; i < images; ++i) sum += units[i * channels + c];
  if constexpr (sizeof(D) == 8)
    out[c] = sum;
  else
    out[c] = narrow<D>(float(sum));
}

// running = (1 - momentum) running + momentum factor (average of `units` over the images)
template <class D>
__global__ void __launch_bounds__(kBlock, 2)
    running_kernel(const double* __restrict__ units, int64_t images, int64_t channels, double momentum, double factor,
                   D* running, int64_t stride) {
  const int64_t c = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (c >= channels) return;
  double sum = 0;
  for (int64_t i = 0; i < images; ++i) sum += units[i * channels + c];
  const double value = (1 - momentum) * double(widen(running[c * stride])) + momentum * (sum / double(images) * factor);
  if constexpr (sizeof(D) == 8)
    running[c * stride] = value;
  else
    running[c * stride] = narrow<D>(float(value));
}

// (x - m) scale + shift, or a dy + b (x - m) + c, with the rows of the table.
template <class T, int N, bool GRADIENT>
__global__ void __launch_bounds__(kBlock, kResident<T>)
    elements_kernel(ChannelShape k, const T* __restrict__ x, const T* __restrict__ dy,
                    const Scalar<T>* __restrict__ table, T* __restrict__ out) {
  using S = Scalar<T>;
  const int64_t total = k.n * k.c * k.s, units = k.units(), step = int64_t(gridDim.x) * kBlock * N;
  for (int64_t i = (int64_t(blockIdx.x) * kBlock + threadIdx.x) * N; i < total; i += step) {
    const int64_t row = quotient(i, k.inner ? k.c : k.s);
    int64_t unit = row;  // of the first element
    if (k.inner)
      unit = i - row * k.c + (k.batch ? 0 : quotient(row, k.s) * k.c);
    else if (k.batch)
      unit = row - quotient(row, k.c) * k.c;
    const Pack<T, N> px = load<N>(x + i);
    Pack<T, N> pg;
    if constexpr (GRADIENT) pg = load<N>(dy + i);
    Pack<T, N> p;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const S* t = table + unit + (k.inner ? j : 0);
      const S centered = widen(px[j]) - t[0];
      if constexpr (GRADIENT)
        p[j] = narrow<T>(t[units] * widen(pg[j]) + (t[2 * units] * centered + t[3 * units]));
      else
        p[j] = narrow<T>(centered * t[units] + t[2 * units]);
    }
    store(out + i, p);
  }
}

// ---- launchers ----------------------------------------------------------------------------------------------------

dim3 threads_for(int64_t n) { return dim3(unsigned(ceil_div(n, int64_t(kBlock)))); }

template <class T, bool GRADIENT>
Status sum_parts(const ChannelShape& k, const T* x, const T* dy, const double* mean, double* first, double* second,
                 Stream stream) {
  auto run = [&]<int N>(Count<N>) {
    if (!k.inner)
      return launch(planes_kernel<T, N, GRADIENT>, dim3(unsigned(k.units() * k.parts)), dim3(kBlock), 0, stream, k, x,
                    dy, mean, first, second);
    const int64_t strips = ceil_div(k.c, int64_t(kAcross * N));
    return launch(columns_kernel<T, N, GRADIENT>, dim3(unsigned(strips * k.parts * (k.batch ? 1 : k.n))), dim3(kBlock),
                  0, stream, k, x, dy, mean, first, second);
  };
  return wide_rows<T>(k.inner ? k.c : k.s, x, dy) ? run(Count<kPack<T>>()) : run(Count<1>());
}

template <class T, bool GRADIENT>
Status elements(const ChannelShape& k, const T* x, const T* dy, const Scalar<T>* table, T* out, Stream stream) {
  auto run = [&]<int N>(Count<N>) {
    return launch(elements_kernel<T, N, GRADIENT>, pointwise_grid<T>(k.n * k.c * k.s), dim3(kBlock), 0, stream, k, x,
                  dy, table, out);
  };
  return wide_rows<T>(k.inner ? k.c : k.s, x, dy, out) ? run(Count<kPack<T>>()) : run(Count<1>());
}

}  // namespace

Status channel_moments(const ChannelShape& k, DType dtype, const void* x, double* partial, double* mean,
                       double* variance, Stream stream) {
  double* second = partial + k.parts * k.units();
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    status = sum_parts<T, false>(k, static_cast<const T*>(x), nullptr, nullptr, partial, second, stream);
  });
  if (status) return status;
  return launch(merge_kernel, threads_for(k.units() / k.width), dim3(kBlock), 0, stream, k, partial, second, mean,
                variance);
}

Status channel_running(const double* units, int64_t images, int64_t channels, double momentum, double factor,
                       DType dtype, void* running, int64_t stride, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class D>(D*) {
    status = launch(running_kernel<D>, threads_for(channels), dim3(kBlock), 0, stream, units, images, channels,
                    momentum, factor, static_cast<D*>(running), stride);
  });
  return status;
}

Status channel_normalize(const ChannelShape& k, DType dtype, const void* x, void* y, const double* mean,
                         const double* variance, double eps, const void* weight, const void* bias, double* rstd,
                         void* table, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    using S = Scalar<T>;
    S* t = static_cast<S*>(table);
    status = launch(coefficients_kernel<S>, threads_for(k.units()), dim3(kBlock), 0, stream, k, mean, variance, eps,
                    static_cast<const S*>(weight), static_cast<const S*>(bias), rstd, t);
    if (!status) status = elements<T, false>(k, static_cast<const T*>(x), nullptr, t, static_cast<T*>(y), stream);
  });
  return status;
}

Status channel_normalize_backward(const ChannelShape& k, bool training, DType dtype, const void* x, const void* dy,
                                  void* dx, const void* weight, const double* mean, const double* rstd, double* partial,
                                  void* table, DType parameters, void* dweight, void* dbias, Stream stream) {
  Status status = 0;
  const int64_t units = k.units();
  double *second = partial + k.parts * units, *plain = second + k.parts * units, *product = plain + units;
  visit_float(dtype, [&]<class T>(T*) {
    using S = Scalar<T>;
    const T *in = static_cast<const T*>(x), *grad = static_cast<const T*>(dy);
    S* t = static_cast<S*>(table);
    status = sum_parts<T, true>(k, in, grad, mean, partial, second, stream);
    if (!status)
      status = launch(gradient_kernel<S>, threads_for(units / k.width), dim3(kBlock), 0, stream, k, training, partial,
                      second, mean, rstd, static_cast<const S*>(weight), plain, product, t);
    if (status || !dx) return;
    T* to = static_cast<T*>(dx);
    // In evaluation the statistics are constants: dx = dy rstd weight.
    status =
        training ? elements<T, true>(k, in, grad, t, to, stream) : elements<T, false>(k, grad, nullptr, t, to, stream);
  });
  visit_float(parameters, [&]<class D>(D*) {
    auto finish = [&](const double* sums, void* out) {
      if (out && !status)
        status = launch(parameters_kernel<D>, threads_for(k.c), dim3(kBlock), 0, stream, sums, k.batch ? 1 : k.n, k.c,
                        static_cast<D*>(out));
    };
    finish(product, dweight);
    finish(plain, dbias);
  });
  return status;
}

}  // namespace fastnn::gpu
