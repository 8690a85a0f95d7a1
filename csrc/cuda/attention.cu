// Attention in the precision of its arithmetic: float32 in float32, float64 in float64; and gradients of masks. The
// equations stand in ops/attention.h. Tiles of queries by keys, softmax as it goes (Milakov & Gimelshein 2018,
// arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
//
// A block has a tile of rows; neighbouring threads share a row. Backward goes over the keys for each tile of queries,
// then over the queries for each tile of keys, so that every gradient is summed by one thread in a fixed order.
// Occupancy: one block of 256 threads on a multiprocessor at the largest heads, which fill its shared memory.
#include "attention.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

constexpr int kThreads = 256;
// ROWS rows and columns of a tile; heads of at most SIZE elements.
template <class S, int SIZE_>
struct TileOf {
  static constexpr int SIZE = SIZE_, ROWS = sizeof(S) == 8 ? 16 : 32;
  static constexpr int SHARE = kThreads / ROWS;  // threads of a row
  static constexpr int OWN = SIZE / SHARE;       // elements of a row of the result that a thread has
  static constexpr int EACH = ROWS / SHARE;      // scores of a row that a thread has
  static constexpr int STEP = SIZE + 1;          // between rows in shared memory: no two in the same bank
  static constexpr int SCORES = ROWS + 1;
};

// Rows [first, first + ROWS) of a matrix, zeros where there are none, to shared memory.
template <class Tile, class T, class S>
GPU_FN void load_tile(S* to, const T* from, int64_t row, int64_t first, int64_t rows, int columns) {
  for (int i = threadIdx.x; i < Tile::ROWS * Tile::SIZE; i += kThreads) {
    const int r = i / Tile::SIZE, c = i % Tile::SIZE;
    to[r * Tile::STEP + c] = first + r < rows && c < columns ? S(widen(from[(first + r) * row + c])) : S(0);
  }
}

template <class S>
GPU_FN S dot(const S* a, const S* b, int n) {
  S sum = 0;
#pragma unroll 8
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// own[k] += sum_j factor[j] * tile[j][the k-th element of this thread]
template <class Tile, class S>
GPU_FN void add_product(S (&own)[Tile::OWN], const S* factor, const S* tile, int share) {
#pragma unroll 4
  for (int j = 0; j < Tile::ROWS; ++j) {
    const S f = factor[j];
#pragma unroll
    for (int k = 0; k < Tile::OWN; ++k) own[k] += f * tile[j * Tile::STEP + share + k * Tile::SHARE];
  }
}

template <class Tile, class T, class S>
GPU_FN void store_row(T* to, const S (&own)[Tile::OWN], S factor, int columns, int share) {
#pragma unroll
  for (int k = 0; k < Tile::OWN; ++k)
    if (const int c = share + k * Tile::SHARE; c < columns) to[c] = narrow<T>(own[k] * factor);
}

template <class T, int SIZE>
__global__ void __launch_bounds__(kThreads, 1) forward_kernel(AttentionCall a, HeadMatrix y, Scalar<T>* log_sum) {
  using S = Scalar<T>;
  using Tile = TileOf<S, SIZE>;
  GPU_DYNAMIC_SHARED(memory);
  S* q = reinterpret_cast<S*>(memory);
  S *k = q + Tile::ROWS * Tile::STEP, *v = k + Tile::ROWS * Tile::STEP, *p = v + Tile::ROWS * Tile::STEP;
  const int r = threadIdx.x / Tile::SHARE, share = threadIdx.x % Tile::SHARE;
  const int64_t tiles = ceil_div(a.queries, int64_t(Tile::ROWS)), head = blockIdx.x / tiles,
                first = blockIdx.x % tiles * Tile::ROWS, i = first + r;
  const Bias<S> bias(a, head);
  load_tile<Tile>(q, head_of<const T>(a, a.query, head), a.query.row, first, a.queries, a.depth);
  S top = -S(INFINITY), total = 0, out[Tile::OWN] = {};
  const int64_t end = a.causal ? min(a.keys, first + Tile::ROWS) : a.keys;
  for (int64_t j0 = 0; j0 < end; j0 += Tile::ROWS) {
    __syncthreads();  // the previous tile was read
    load_tile<Tile>(k, head_of<const T>(a, a.key, head, a.group), a.key.row, j0, a.keys, a.depth);
    load_tile<Tile>(v, head_of<const T>(a, a.value, head, a.group), a.value.row, j0, a.keys, a.width);
    __syncthreads();
    S s[Tile::EACH], most = top;
#pragma unroll
    for (int e = 0; e < Tile::EACH; ++e) {
      const int j = share + e * Tile::SHARE;
      s[e] = S(a.scale) * dot(q + r * Tile::STEP, k + j * Tile::STEP, a.depth) + bias(i, j0 + j);
      most = larger(most, s[e]);
    }
    most = warp_reduce<Tile::SHARE>(most, [](S x, S z) { return larger(x, z); });
    const S shift = most == -S(INFINITY) ? S(0) : most, decay = exp_of(top - shift);
    S sum = 0;
#pragma unroll
    for (int e = 0; e < Tile::EACH; ++e) {
      s[e] = exp_of(s[e] - shift);
      sum += s[e];
      p[r * Tile::SCORES + share + e * Tile::SHARE] = s[e];
    }
    total = total * decay + warp_reduce<Tile::SHARE>(sum, [](S x, S z) { return x + z; });
    top = most;
    __syncwarp();  // p is read by the threads of its row only
#pragma unroll
    for (int e = 0; e < Tile::OWN; ++e) out[e] *= decay;
    add_product<Tile>(out, p + r * Tile::SCORES, v, share);
  }
  if (i >= a.queries) return;
  store_row<Tile>(head_of<T>(a, y, head) + i * y.row, out, total == 0 ? S(0) : 1 / total, a.width, share);
  if (share == 0) log_sum[head * a.queries + i] = total == 0 ? S(INFINITY) : top + log_of(total);
}

// delta = sum of dy * y over each row; a warp for each.
template <class T>
__global__ void __launch_bounds__(kThreads)
    delta_kernel(AttentionCall a, HeadMatrix dy, HeadMatrix y, Scalar<T>* delta, int64_t rows) {
  using S = Scalar<T>;
  const int lane = threadIdx.x % 32;
  for (int64_t row = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / 32; row < rows;
       row += int64_t(gridDim.x) * (kThreads / 32)) {
    const int64_t head = row / a.queries, i = row - head * a.queries;
    const T *g = head_of<const T>(a, dy, head) + i * dy.row, *out = head_of<const T>(a, y, head) + i * y.row;
    S sum = 0;
    for (int c = lane; c < a.width; c += 32) sum += S(widen(g[c])) * S(widen(out[c]));
    sum = warp_reduce(sum, [](S x, S z) { return x + z; });
    if (lane == 0) delta[row] = sum;
  }
}

// The gradients of a tile of rows: of queries (with the mask's), or with BY_KEYS of keys and values. Rows have a first
// and a second matrix (query and dy; or key and value), and so have columns (key and value; or query and dy):
//   p = exp(scale first first' + bias - log_sum),  ds = p (second second' - delta)
template <class T, int SIZE, bool BY_KEYS>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(AttentionCall a, HeadMatrix dy, const Scalar<T>* __restrict__ log_sum,
                    const Scalar<T>* __restrict__ delta, HeadMatrix d_first, HeadMatrix d_second,
                    Scalar<T>* __restrict__ dmask) {
  using S = Scalar<T>;
  using Tile = TileOf<S, SIZE>;
  constexpr int kMatrix = Tile::ROWS * Tile::STEP;
  GPU_DYNAMIC_SHARED(memory);
  S* first_rows = reinterpret_cast<S*>(memory);
  S *second_rows = first_rows + kMatrix, *first_columns = second_rows + kMatrix,
    *second_columns = first_columns + kMatrix, *probabilities = second_columns + kMatrix,
    *gradients = probabilities + Tile::ROWS * Tile::SCORES;
  const int r = threadIdx.x / Tile::SHARE, share = threadIdx.x % Tile::SHARE;
  const int64_t rows = BY_KEYS ? a.keys : a.queries, tiles = ceil_div(rows, int64_t(Tile::ROWS)),
                r0 = blockIdx.x % tiles * Tile::ROWS;
  const int64_t group = BY_KEYS ? a.group : 1, head0 = blockIdx.x / tiles * group;
  const HeadMatrix &mine = BY_KEYS ? a.key : a.query, &second = BY_KEYS ? a.value : dy;
  load_tile<Tile>(first_rows, head_of<const T>(a, mine, head0, group), mine.row, r0, rows, a.depth);
  load_tile<Tile>(second_rows, head_of<const T>(a, second, head0, group), second.row, r0, rows, a.width);
  S d1[Tile::OWN] = {}, d2[Tile::OWN] = {};
  const int64_t begin = BY_KEYS && a.causal ? r0 / Tile::ROWS * Tile::ROWS : 0;
  const int64_t end = BY_KEYS ? a.queries : a.causal ? min(a.keys, r0 + Tile::ROWS) : a.keys;
  for (int64_t head = head0; head < head0 + group; ++head) {
    const Bias<S> bias(a, head);
    const HeadMatrix &other = BY_KEYS ? a.query : a.key, &beside = BY_KEYS ? dy : a.value;
    const int64_t shared_by = BY_KEYS ? 1 : a.group;
    for (int64_t c0 = begin; c0 < end; c0 += Tile::ROWS) {
      __syncthreads();
      const int64_t columns = BY_KEYS ? a.queries : a.keys;
      load_tile<Tile>(first_columns, head_of<const T>(a, other, head, shared_by), other.row, c0, columns, a.depth);
      load_tile<Tile>(second_columns, head_of<const T>(a, beside, head, shared_by), beside.row, c0, columns, a.width);
      __syncthreads();
#pragma unroll
      for (int e = 0; e < Tile::EACH; ++e) {
        const int c = share + e * Tile::SHARE;
        const int64_t i = BY_KEYS ? c0 + c : r0 + r, j = BY_KEYS ? r0 + r : c0 + c;
        const bool inside = i < a.queries && j < a.keys;
        const S add = bias(i, j);
        S p = 0, g = 0;
        if (add != -S(INFINITY)) {
          const int64_t at = head * a.queries + i;
          p = exp_of(S(a.scale) * dot(first_rows + r * Tile::STEP, first_columns + c * Tile::STEP, a.depth) + add -
                     log_sum[at]);
          g = p * (dot(second_rows + r * Tile::STEP, second_columns + c * Tile::STEP, a.width) - delta[at]);
        }
        probabilities[r * Tile::SCORES + c] = p;
        gradients[r * Tile::SCORES + c] = g;
        if (!BY_KEYS && dmask && inside) dmask[(head * a.queries + i) * a.keys + j] = g;
      }
      __syncwarp();
      add_product<Tile>(d1, gradients + r * Tile::SCORES, first_columns, share);
      if constexpr (BY_KEYS) add_product<Tile>(d2, probabilities + r * Tile::SCORES, second_columns, share);
    }
  }
  if (r0 + r >= rows) return;
  if (d_first.data)
    store_row<Tile>(head_of<T>(a, d_first, head0, group) + (r0 + r) * d_first.row, d1, S(a.scale), a.depth, share);
  if (d_second.data)
    store_row<Tile>(head_of<T>(a, d_second, head0, group) + (r0 + r) * d_second.row, d2, S(1), a.width, share);
}

// ---- launchers ----------------------------------------------------------------------------------------------------

template <class F>
void visit_size(const AttentionCall& a, F&& f) {
  const int most = a.depth > a.width ? a.depth : a.width;
  if (most <= 64)
    f(Count<64>());
  else if (most <= 128)
    f(Count<128>());
  else
    f(Count<kHeadSize>());
}

template <class Tile, class S>
size_t shared_bytes(int matrices, int scores) {
  return (size_t(matrices) * Tile::ROWS * Tile::STEP + size_t(scores) * Tile::ROWS * Tile::SCORES) * sizeof(S);
}

}  // namespace

Status attention_forward(const AttentionCall& a, DType dtype, const HeadMatrix& y, void* log_sum, Stream stream) {
  if (attention_uses_mma(a, dtype)) return attention_forward_mma(a, dtype, y, log_sum, stream);
  Status status = 0;
  visit_float(dtype, [&]<class T>(T*) {
    using S = Scalar<T>;
    visit_size(a, [&]<int SIZE>(Count<SIZE>) {
      using Tile = TileOf<S, SIZE>;
      const int64_t tiles = ceil_div(a.queries, int64_t(Tile::ROWS));
      status = launch(forward_kernel<T, SIZE>, dim3(unsigned(a.batches * a.heads * tiles)), dim3(kThreads),
                      shared_bytes<Tile, S>(3, 1), stream, a, y, static_cast<S*>(log_sum));
    });
  });
  return status;
}

Status attention_backward(const AttentionCall& a, DType dtype, const HeadMatrix& dy, const HeadMatrix& y,
                          const void* log_sum, void* delta, const HeadMatrix& dquery, const HeadMatrix& dkey,
                          const HeadMatrix& dvalue, void* dmask, Stream stream) {
  Status status = 0;
  const int64_t heads = a.batches * a.heads, rows = heads * a.queries;
  visit_float(dtype, [&]<class T>(T*) {
    using S = Scalar<T>;
    const S* sums = static_cast<const S*>(log_sum);
    S* d = static_cast<S*>(delta);
    const int64_t blocks = ceil_div(rows, int64_t(kThreads / 32));
    status = launch(delta_kernel<T>, dim3(unsigned(blocks < kMostBlocks ? blocks : kMostBlocks)), dim3(kThreads), 0,
                    stream, a, dy, y, d, rows);
    if (status) return;
    if (!dmask && attention_uses_mma(a, dtype)) {
      status = attention_backward_mma(a, dtype, dy, log_sum, delta, dquery, dkey, dvalue, stream);
      return;
    }
    visit_size(a, [&]<int SIZE>(Count<SIZE>) {
      using Tile = TileOf<S, SIZE>;
      const size_t bytes = shared_bytes<Tile, S>(4, 2);
      auto grid = [&](int64_t heads, int64_t n) { return dim3(unsigned(heads * ceil_div(n, int64_t(Tile::ROWS)))); };
      if (dquery.data || dmask)
        status = launch(backward_kernel<T, SIZE, false>, grid(heads, a.queries), dim3(kThreads), bytes, stream, a, dy,
                        sums, d, dquery, HeadMatrix{}, static_cast<S*>(dmask));
      if (!status && (dkey.data || dvalue.data))
        status = launch(backward_kernel<T, SIZE, true>, grid(heads / a.group, a.keys), dim3(kThreads), bytes, stream, a,
                        dy, sums, d, dkey, dvalue, nullptr);
    });
  });
  return status;
}

}  // namespace fastnn::gpu
