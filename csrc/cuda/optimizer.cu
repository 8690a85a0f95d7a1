// Optimizer steps on many tensors in one launch. Equations stand in simd/optimizer.h.
#include "functions.h"
#include "launchers.h"
#include "pointwise.h"

namespace fastnn::gpu {
namespace {

constexpr int64_t kChunk = kPowerPiece;  // elements of a block

// The tensors of a launch, by value: no copy to the device comes before it. Blocks first_block[i] to
// first_block[i + 1] - 1 work on tensor i.
template <int CAPACITY>
struct Table {
  int count;
  unsigned first_block[CAPACITY + 1];
  void* param[CAPACITY];
  const void* grad[CAPACITY];
  void* state[3][CAPACITY];
  int64_t n[CAPACITY];
  double step_size[CAPACITY], root_scale[CAPACITY];
  bool fresh[CAPACITY], wide[CAPACITY];
};
constexpr int kFew = 48, kMany = 440;  // within 4 KB and within the 32764 bytes that CUDA allows
static_assert(sizeof(Table<kFew>) < 3800 && sizeof(Table<kMany>) < 32000);

// ---- kernels ------------------------------------------------------------------------------------------------------

// What a block works on.
template <class T, int CAPACITY>
struct Chunk {
  int tensor;
  int64_t begin, n;
  GPU_FN explicit Chunk(const Table<CAPACITY>& table) {
    int low = 0, high = table.count;  // the last tensor that begins at or before this block
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (table.first_block[middle] <= blockIdx.x ? low : high) = middle;
    }
    tensor = low;
    begin = int64_t(blockIdx.x - table.first_block[low]) * kChunk;
    n = table.n[low] - begin < kChunk ? table.n[low] - begin : kChunk;
  }
  // Calls f(i, Count<N>()) for the pieces of the chunk.
  template <class F>
  GPU_FN void for_pieces(bool wide, F&& f) const {
    const int64_t packs = wide ? n / kPack<T> : 0;
    for (int64_t i = threadIdx.x; i < packs; i += kPointwiseBlock) f(begin + i * kPack<T>, Count<kPack<T>>());
    for (int64_t i = packs * kPack<T> + threadIdx.x; i < n; i += kPointwiseBlock) f(begin + i, Count<1>());
  }
};

template <class Update, class T, int CAPACITY>
__global__ void __launch_bounds__(kPointwiseBlock)
    update_kernel(const __grid_constant__ Table<CAPACITY> table, Update update) {
  using S = Scalar<T>;
  using V = simt::Vec<S>;
  const Chunk<T, CAPACITY> chunk(table);
  const int t = chunk.tensor;
  update.set(table.step_size[t], table.root_scale[t], table.fresh[t]);
  T* const param = static_cast<T*>(table.param[t]);
  const T* const grad = static_cast<const T*>(table.grad[t]);
  S *const a = static_cast<S*>(table.state[0][t]), *const b = static_cast<S*>(table.state[1][t]),
           *const c = static_cast<S*>(table.state[2][t]);
  chunk.for_pieces(table.wide[t], [&](int64_t i, auto count) {
    constexpr int N = count.value;
    S sa[N], sb[N], sc[N];
    Pack<T, N> x = load<N>(param + i);
    const Pack<T, N> g = load<N>(grad + i);
    if (a) load_scalars(sa, a + i);
    if (b) load_scalars(sb, b + i);
    if (c) load_scalars(sc, c + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      V va = V(a ? sa[k] : S(0)), vb = V(b ? sb[k] : S(0)), vc = V(c ? sc[k] : S(0));
      x[k] =
          narrow<T>(update(V(widen(x[k])), V(widen(g[k])), a ? &va : nullptr, b ? &vb : nullptr, c ? &vc : nullptr).v);
      sa[k] = va.v;
      sb[k] = vb.v;
      sc[k] = vc.v;
    }
    store(param + i, x);
    if (a) store_scalars(a + i, sa);
    if (b) store_scalars(b + i, sb);
    if (c) store_scalars(c + i, sc);
  });
}

template <class T, int CAPACITY>
__global__ void __launch_bounds__(kPointwiseBlock)
    power_sum_kernel(const __grid_constant__ Table<CAPACITY> table, double p, double* __restrict__ sums) {
  using S = Scalar<T>;
  const Chunk<T, CAPACITY> chunk(table);
  const T* const x = static_cast<const T*>(table.param[chunk.tensor]);
  const bool largest = p == double(INFINITY);
  auto join = [&](double a, double b) { return !largest ? a + b : b > a || b != b ? b : a; };  // NaN stays a maximum
  double total = 0;
  chunk.for_pieces(table.wide[chunk.tensor], [&](int64_t i, auto count) {
    constexpr int N = count.value;
    const Pack<T, N> v = load<N>(x + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const S a = simt::abs(simt::Vec<S>(widen(v[k]))).v;
      if (p == 2)
        total += double(a) * double(a);
      else if (p == 1 || largest)
        total = total != total ? total : join(total, double(a));
      else if (p == 0)
        total += a != S(0) ? 1 : 0;
      else
        total += ::pow(double(a), p);
    }
  });
  total = block_reduce(total, [&](double a, double b) { return a != a ? a : join(a, b); });
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

template <class T>
__global__ void __launch_bounds__(kPointwiseBlock)
    power_backward_kernel(const T* __restrict__ x, T* __restrict__ dx, int64_t n, bool wide, bool sign,
                          Scalar<T> factor) {
  using S = Scalar<T>;
  pointwise<T>(n, wide, [&](int64_t i, auto count) {
    constexpr int N = count.value;
    Pack<T, N> p = load<N>(x + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const S v = widen(p[k]);
      p[k] = narrow<T>(!sign ? v * factor : v > S(0) ? factor : v < S(0) ? -factor : v * factor);  // NaN stays
    }
    store(dx + i, p);
  });
}

// Changes of a parameter alone; the kernel's gradient is the parameter once more.
template <class V, class S>
struct ScaleUpdate {
  V factor;
  explicit ScaleUpdate(double f) : factor(S(f)) {}
  GPU_FN void set(double, double, bool) {}
  GPU_FN V operator()(V x, V, V*, V*, V*) const { return x * factor; }
};
template <class V, class S>
struct ClipUpdate {
  V limit;
  explicit ClipUpdate(double l) : limit(S(l)) {}
  GPU_FN void set(double, double, bool) {}
  GPU_FN V operator()(V x, V, V*, V*, V*) const { return min(limit, max(-limit, x)); }
};

// ---- launchers ----------------------------------------------------------------------------------------------------

// Fills the table; the number of blocks.
template <int CAPACITY>
unsigned fill_table(Table<CAPACITY>& table, const OptimizerTensor* tensors, int64_t count) {
  table.count = int(count);
  unsigned blocks = 0;
  for (int64_t i = 0; i < count; ++i) {
    const OptimizerTensor& t = tensors[i];
    table.first_block[i] = blocks;
    blocks += unsigned(ceil_div(t.n, kChunk));
    table.param[i] = t.param;
    table.grad[i] = t.grad;
    for (int k = 0; k < 3; ++k) table.state[k][i] = t.state[k];
    table.n[i] = t.n;
    table.step_size[i] = t.step_size;
    table.root_scale[i] = t.root_scale;
    table.fresh[i] = t.fresh;
    table.wide[i] = aligned(t.param, t.grad, t.state[0], t.state[1], t.state[2]);
  }
  table.first_block[count] = blocks;
  return blocks;
}

// Calls f(Table, blocks) for as few tables as hold all tensors.
template <class F>
Status for_tables(const OptimizerTensor* tensors, int64_t count, F&& f) {
  Status status = 0;
  for (int64_t i = 0; i < count && status == 0; i += kMany) {
    const int64_t now = count - i < kMany ? count - i : kMany;
    if (now <= kFew) {
      Table<kFew> table;
      const unsigned blocks = fill_table(table, tensors + i, now);
      status = f(table, blocks);
    } else {
      Table<kMany> table;
      const unsigned blocks = fill_table(table, tensors + i, now);
      status = f(table, blocks);
    }
  }
  return status;
}

template <template <class, class> class Update, class Step>
Status run(DType dtype, const Step& step, const OptimizerTensor* tensors, int64_t count, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    using U = Update<simt::Vec<Scalar<T>>, Scalar<T>>;
    const U update(step);
    status = for_tables(tensors, count, [&]<int CAPACITY>(const Table<CAPACITY>& table, unsigned blocks) {
      return launch(update_kernel<U, T, CAPACITY>, dim3(blocks), dim3(kPointwiseBlock), 0, stream, table, update);
    });
  });
  return status;
}

}  // namespace

Status sgd(DType dtype, const SgdStep& step, const OptimizerTensor* tensors, int64_t count, Stream stream) {
  return run<simt::SgdUpdate>(dtype, step, tensors, count, stream);
}
Status adam(DType dtype, const AdamStep& step, const OptimizerTensor* tensors, int64_t count, Stream stream) {
  return run<simt::AdamUpdate>(dtype, step, tensors, count, stream);
}
Status rmsprop(DType dtype, const RmspropStep& step, const OptimizerTensor* tensors, int64_t count, Stream stream) {
  return run<simt::RmspropUpdate>(dtype, step, tensors, count, stream);
}
Status adagrad(DType dtype, const AdagradStep& step, const OptimizerTensor* tensors, int64_t count, Stream stream) {
  return run<simt::AdagradUpdate>(dtype, step, tensors, count, stream);
}
Status lion(DType dtype, const LionStep& step, const OptimizerTensor* tensors, int64_t count, Stream stream) {
  return run<simt::LionUpdate>(dtype, step, tensors, count, stream);
}

Status scale_values(DType dtype, double factor, const OptimizerTensor* tensors, int64_t count, Stream stream) {
  return run<ScaleUpdate>(dtype, factor, tensors, count, stream);
}
Status clip_values(DType dtype, double limit, const OptimizerTensor* tensors, int64_t count, Stream stream) {
  return run<ClipUpdate>(dtype, limit, tensors, count, stream);
}

Status power_sum(DType dtype, double p, const OptimizerTensor* tensors, int64_t count, double* sums, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    status = for_tables(tensors, count, [&]<int CAPACITY>(const Table<CAPACITY>& table, unsigned blocks) {
      double* to = sums;
      sums += blocks;
      return launch(power_sum_kernel<T, CAPACITY>, dim3(blocks), dim3(kPointwiseBlock), 0, stream, table, p, to);
    });
  });
  return status;
}

Status power_backward(DType dtype, double p, double factor, const void* x, void* dx, int64_t n, Stream stream) {
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    status = launch(power_backward_kernel<T>, pointwise_grid<T>(n), dim3(kPointwiseBlock), 0, stream,
                    static_cast<const T*>(x), static_cast<T*>(dx), n, aligned(x, dx), p == 1,
                    Scalar<T>(p == 1 ? factor : 2 * factor));
  });
  return status;
}

}  // namespace fastnn::gpu
