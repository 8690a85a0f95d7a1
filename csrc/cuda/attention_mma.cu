// Attention of float16 and bfloat16 on tensor cores (mma.sync m16n8k16), after Dao 2023, "FlashAttention-2",
// arXiv:2307.08691: a warp has 16 rows of scores in registers, which become the left operand of the next product there.
// Sums and softmax are float32. The passes of backward are those of attention.cu, without atomics.
//
// Occupancy: 128 threads; forward 2 blocks on a multiprocessor for heads up to 128, backward 2 up to 64, else 1.
#include "attention.h"
#include "ptx.h"

namespace fastnn::gpu {
namespace {

// ---- kernels ------------------------------------------------------------------------------------------------------

constexpr int kThreads = 128, kRows = 64;  // of a block; 16 for each warp
// Heads of at most SIZE elements, COLUMNS columns at once. Rows in shared memory are 16 bytes longer than SIZE: the
// eight rows of an ldmatrix then lie in different banks.
template <int SIZE_, int COLUMNS_>
struct Tile {
  static constexpr int SIZE = SIZE_, COLUMNS = COLUMNS_, STEP = SIZE + 8, STEPS = SIZE / 16;
  static constexpr int ROWS_ELEMENTS = kRows * STEP, COLUMNS_ELEMENTS = COLUMNS * STEP;
};

// Rows [first, first + COUNT) of a matrix to shared memory, zeros where there are none; `wide`: in the background.
template <int COUNT, class Tile, class T>
GPU_FN void load_rows(T* to, const T* from, int64_t row, int64_t first, int64_t rows, int columns, bool wide) {
  constexpr int PACKS = Tile::SIZE / 8;
#pragma unroll 4
  for (int i = threadIdx.x; i < COUNT * PACKS; i += kThreads) {
    const int r = i / PACKS, c = i % PACKS * 8;
    const bool inside = first + r < rows;
    const T* p = from + (first + r) * row + c;
    T* place = to + r * Tile::STEP + c;
    if (wide) {
      const bool there = inside && c < columns;
      ptx::cp_async<16>(ptx::shared_address(place), there ? p : from, there ? 16 : 0);
    } else {
      Pack<T, 8> pack;
#pragma unroll
      for (int j = 0; j < 8; ++j) pack[j] = inside && c + j < columns ? p[j] : T{0};
      store(place, pack);
    }
  }
}

// Where lane l points ldmatrix to, from a 16x16 block at (row, column): matrices 1 and 3 are 8 rows lower (as the left
// operand, and transposed as the right one), or 8 columns further (as the right operand).
template <class Tile, class T>
GPU_FN uint32_t rows_first(const T* p, int row, int column) {
  const int l = threadIdx.x % 32;
  return ptx::shared_address(p + (row + l % 16) * Tile::STEP + column + l / 16 * 8);
}
template <class Tile, class T>
GPU_FN uint32_t columns_first(const T* p, int row, int column) {
  const int l = threadIdx.x % 32;
  return ptx::shared_address(p + (row + l % 8 + l / 16 * 8) * Tile::STEP + column + l / 8 % 2 * 8);
}

// s = the 16 rows of this warp in `rows` times the COLUMNS rows of `columns`.
template <class Tile, class T>
GPU_FN void multiply(float (&s)[Tile::COLUMNS / 8][4], const T* rows, const T* columns) {
#pragma unroll
  for (int n = 0; n < Tile::COLUMNS / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] = 0;
#pragma unroll
  for (int k = 0; k < Tile::STEPS; ++k) {
    uint32_t a[4];
    ptx::ldmatrix(a, rows_first<Tile>(rows, threadIdx.x / 32 * 16, k * 16));
#pragma unroll
    for (int n = 0; n < Tile::COLUMNS / 16; ++n) {
      uint32_t b[4];
      ptx::ldmatrix(b, columns_first<Tile>(columns, n * 16, k * 16));
      ptx::mma<T>(s[2 * n], a, b[0], b[1]);
      ptx::mma<T>(s[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// out += s times `columns`, with s rounded to T.
template <class Tile, class T>
GPU_FN void add_product(float (&out)[Tile::SIZE / 8][4], const float (&s)[Tile::COLUMNS / 8][4], const T* columns) {
#pragma unroll
  for (int k = 0; k < Tile::COLUMNS / 16; ++k) {
    const uint32_t a[4] = {pack2<T>(s[2 * k][0], s[2 * k][1]), pack2<T>(s[2 * k][2], s[2 * k][3]),
                           pack2<T>(s[2 * k + 1][0], s[2 * k + 1][1]), pack2<T>(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
    for (int n = 0; n < Tile::STEPS; ++n) {
      uint32_t b[4];
      ptx::ldmatrix_trans(b, rows_first<Tile>(columns, k * 16, n * 16));
      ptx::mma<T>(out[2 * n], a, b[0], b[1]);
      ptx::mma<T>(out[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// Row g + 8 half of the fragments, times `factor`, to a row of memory.
template <class Tile, class T>
GPU_FN void store_row(T* to, const float (&out)[Tile::SIZE / 8][4], int half, float factor, int columns) {
  const int t = threadIdx.x % 4;
  const bool pairs = columns % 2 == 0 && reinterpret_cast<uintptr_t>(to) % 4 == 0;
#pragma unroll
  for (int n = 0; n < Tile::SIZE / 8; ++n) {
    const int c = n * 8 + 2 * t;
    const Pack<T, 2> pack{{from_float<T>(out[n][2 * half] * factor), from_float<T>(out[n][2 * half + 1] * factor)}};
    if (c + 1 < columns && pairs) {
      store(to + c, pack);
    } else {
      if (c < columns) to[c] = pack[0];
      if (c + 1 < columns) to[c + 1] = pack[1];
    }
  }
}

template <class F>
GPU_FN float quad_reduce(float v, F f) {
  return warp_reduce<4>(v, f);
}

template <class T, class Tile>
__global__ void __launch_bounds__(kThreads, Tile::SIZE <= 128 ? 2 : 1)
    forward_kernel(AttentionCall a, bool wide, HeadMatrix y, float* __restrict__ log_sum) {
  GPU_DYNAMIC_SHARED(memory);
  T *q = reinterpret_cast<T*>(memory), *stages = q + Tile::ROWS_ELEMENTS;
  const int64_t tiles = ceil_div(a.queries, int64_t(kRows)), head = blockIdx.x / tiles,
                first = blockIdx.x % tiles * kRows;
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const T *key = head_of<const T>(a, a.key, head, a.group), *value = head_of<const T>(a, a.value, head, a.group);
  const Bias<float> bias(a, head);
  const int64_t end = a.causal ? min(a.keys, first + kRows) : a.keys;
  auto load = [&](int64_t j0, int stage) {
    T* to = stages + stage * 2 * Tile::COLUMNS_ELEMENTS;
    load_rows<Tile::COLUMNS, Tile>(to, key, a.key.row, j0, a.keys, a.depth, wide);
    load_rows<Tile::COLUMNS, Tile>(to + Tile::COLUMNS_ELEMENTS, value, a.value.row, j0, a.keys, a.width, wide);
    ptx::cp_async_commit();
  };
  load_rows<kRows, Tile>(q, head_of<const T>(a, a.query, head), a.query.row, first, a.queries, a.depth, wide);
  load(0, 0);
  float out[Tile::SIZE / 8][4] = {}, top[2] = {-INFINITY, -INFINITY}, total[2] = {};
  int stage = 0;
  for (int64_t j0 = 0; j0 < end; j0 += Tile::COLUMNS, stage ^= 1) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // the other stage was read
    if (j0 + Tile::COLUMNS < end) load(j0 + Tile::COLUMNS, stage ^ 1);
    const T* k = stages + stage * 2 * Tile::COLUMNS_ELEMENTS;
    float s[Tile::COLUMNS / 8][4];
    multiply<Tile>(s, q, k);
    const bool partly = a.mask.data || j0 + Tile::COLUMNS > a.keys || (a.causal && j0 + Tile::COLUMNS > first + 1);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most = top[half], sum = 0;
#pragma unroll
      for (int n = 0; n < Tile::COLUMNS / 8; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[n][e] *= float(a.scale);
          if (partly) s[n][e] += bias(first + row + 8 * half, j0 + n * 8 + 2 * t + e % 2);
          most = larger(most, s[n][e]);
        }
      most = quad_reduce(most, [](float x, float z) { return larger(x, z); });
      const float shift = most == -INFINITY ? 0 : most, decay = __expf(top[half] - shift);
#pragma unroll
      for (int n = 0; n < Tile::COLUMNS / 8; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[n][e] = __expf(s[n][e] - shift);
          sum += s[n][e];
        }
      total[half] = total[half] * decay + sum;  // of the columns of this thread
      top[half] = most;
#pragma unroll
      for (int n = 0; n < Tile::SIZE / 8; ++n) {
        out[n][2 * half] *= decay;
        out[n][2 * half + 1] *= decay;
      }
    }
    add_product<Tile>(out, s, k + Tile::COLUMNS_ELEMENTS);
  }
  ptx::cp_async_wait<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = quad_reduce(total[half], [](float x, float z) { return x + z; });
    const int64_t i = first + row + 8 * half;
    if (i >= a.queries) continue;
    store_row<Tile>(head_of<T>(a, y, head) + i * y.row, out, half, sum == 0 ? 0 : 1 / sum, a.width);
    if (t == 0) log_sum[head * a.queries + i] = sum == 0 ? INFINITY : top[half] + logf(sum);
  }
}

// As backward_kernel of attention.cu. FIRST, SECOND: which of the two gradients of the rows are wanted.
template <class T, class Tile, bool BY_KEYS, bool FIRST, bool SECOND>
__global__ void __launch_bounds__(kThreads, Tile::SIZE <= 64 ? 2 : 1)
    backward_kernel(AttentionCall a, bool wide, HeadMatrix dy, const float* __restrict__ log_sum,
                    const float* __restrict__ delta, HeadMatrix d_first, HeadMatrix d_second) {
  GPU_DYNAMIC_SHARED(memory);
  T *first_rows = reinterpret_cast<T*>(memory), *second_rows = first_rows + Tile::ROWS_ELEMENTS,
    *stages = second_rows + Tile::ROWS_ELEMENTS;
  const int64_t rows = BY_KEYS ? a.keys : a.queries, columns = BY_KEYS ? a.queries : a.keys,
                tiles = ceil_div(rows, int64_t(kRows)), r0 = blockIdx.x % tiles * kRows;
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int64_t group = BY_KEYS ? a.group : 1, head0 = blockIdx.x / tiles * group;
  const HeadMatrix &mine = BY_KEYS ? a.key : a.query, &second = BY_KEYS ? a.value : dy,
                   &other = BY_KEYS ? a.query : a.key, &beside = BY_KEYS ? dy : a.value;
  const int64_t shared_by = BY_KEYS ? 1 : a.group;
  const int64_t begin = BY_KEYS && a.causal ? r0 : 0;
  const int64_t end = !BY_KEYS && a.causal ? min(a.keys, r0 + kRows) : columns;
  const int64_t pieces = end > begin ? ceil_div(end - begin, int64_t(Tile::COLUMNS)) : 0;
  auto load = [&](int64_t piece) {
    const int64_t head = head0 + piece / pieces, c0 = begin + piece % pieces * Tile::COLUMNS;
    T* to = stages + piece % 2 * 2 * Tile::COLUMNS_ELEMENTS;
    load_rows<Tile::COLUMNS, Tile>(to, head_of<const T>(a, other, head, shared_by), other.row, c0, columns, a.depth,
                                   wide);
    load_rows<Tile::COLUMNS, Tile>(to + Tile::COLUMNS_ELEMENTS, head_of<const T>(a, beside, head, shared_by),
                                   beside.row, c0, columns, a.width, wide);
    ptx::cp_async_commit();
  };
  load_rows<kRows, Tile>(first_rows, head_of<const T>(a, mine, head0, group), mine.row, r0, rows, a.depth, wide);
  load_rows<kRows, Tile>(second_rows, head_of<const T>(a, second, head0, group), second.row, r0, rows, a.width, wide);
  if (pieces) load(0);
  float d1[FIRST ? Tile::SIZE / 8 : 1][4] = {}, d2[SECOND ? Tile::SIZE / 8 : 1][4] = {};
  for (int64_t piece = 0; piece < group * pieces; ++piece) {
    const int64_t head = head0 + piece / pieces, c0 = begin + piece % pieces * Tile::COLUMNS;
    ptx::cp_async_wait<0>();
    __syncthreads();  // the other stage was read
    if (piece + 1 < group * pieces) load(piece + 1);
    const T *first_columns = stages + piece % 2 * 2 * Tile::COLUMNS_ELEMENTS,
            *second_columns = first_columns + Tile::COLUMNS_ELEMENTS;
    const Bias<float> bias(a, head);
    float p[Tile::COLUMNS / 8][4], g[Tile::COLUMNS / 8][4];
    multiply<Tile>(p, first_rows, first_columns);
    if constexpr (FIRST) multiply<Tile>(g, second_rows, second_columns);
    const bool partly = a.mask.data || c0 + Tile::COLUMNS > columns || r0 + kRows > rows ||
                        (a.causal && (BY_KEYS ? r0 + kRows > c0 + 1 : c0 + Tile::COLUMNS > r0 + 1));
#pragma unroll
    for (int n = 0; n < Tile::COLUMNS / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int64_t r = r0 + row + e / 2 * 8, c = c0 + n * 8 + 2 * t + e % 2, i = BY_KEYS ? c : r,
                      j = BY_KEYS ? r : c, at = head * a.queries + i;
        const float add = partly ? bias(i, j) : 0;
        if (add == -INFINITY) {
          p[n][e] = g[n][e] = 0;
        } else {
          p[n][e] = __expf(p[n][e] * float(a.scale) + add - log_sum[at]);
          if constexpr (FIRST) g[n][e] = p[n][e] * (g[n][e] - delta[at]);
        }
      }
    if constexpr (FIRST) add_product<Tile>(d1, g, first_columns);
    if constexpr (SECOND) add_product<Tile>(d2, p, second_columns);
  }
  ptx::cp_async_wait<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t r = r0 + row + 8 * half;
    if (r >= rows) continue;
    if constexpr (FIRST)
      store_row<Tile>(head_of<T>(a, d_first, head0, group) + r * d_first.row, d1, half, float(a.scale), a.depth);
    if constexpr (SECOND)
      store_row<Tile>(head_of<T>(a, d_second, head0, group) + r * d_second.row, d2, half, 1, a.width);
  }
}

// ---- launchers ----------------------------------------------------------------------------------------------------

template <class F>
void visit_half(DType t, F&& f) {
  if (t == DType::bf16) f(static_cast<bf16*>(nullptr));
  if (t == DType::f16) f(static_cast<f16*>(nullptr));
}

bool wide_matrix(const HeadMatrix& m, int columns) {
  return aligned(m.data) && m.batch % 8 == 0 && m.head % 8 == 0 && m.row % 8 == 0 && columns % 8 == 0;
}
bool wide_call(const AttentionCall& a) {
  return wide_matrix(a.query, a.depth) && wide_matrix(a.key, a.depth) && wide_matrix(a.value, a.width);
}
int size_of_heads(const AttentionCall& a) { return a.depth > a.width ? a.depth : a.width; }

template <class T, class Tile>
Status forward(const AttentionCall& a, const HeadMatrix& y, float* log_sum, Stream stream) {
  const size_t bytes = (Tile::ROWS_ELEMENTS + 4 * Tile::COLUMNS_ELEMENTS) * sizeof(T);
  const int64_t blocks = a.batches * a.heads * ceil_div(a.queries, int64_t(kRows));
  return launch(forward_kernel<T, Tile>, dim3(unsigned(blocks)), dim3(kThreads), bytes, stream, a, wide_call(a), y,
                log_sum);
}

template <class T, class Tile, bool BY_KEYS, bool FIRST, bool SECOND>
Status backward(const AttentionCall& a, const HeadMatrix& dy, const float* log_sum, const float* delta,
                const HeadMatrix& first, const HeadMatrix& second, Stream stream) {
  const size_t bytes = (2 * Tile::ROWS_ELEMENTS + 4 * Tile::COLUMNS_ELEMENTS) * sizeof(T);
  const int64_t heads = a.batches * a.heads / (BY_KEYS ? a.group : 1),
                blocks = heads * ceil_div(BY_KEYS ? a.keys : a.queries, int64_t(kRows));
  return launch(backward_kernel<T, Tile, BY_KEYS, FIRST, SECOND>, dim3(unsigned(blocks)), dim3(kThreads), bytes, stream,
                a, wide_call(a) && wide_matrix(dy, a.width), dy, log_sum, delta, first, second);
}

}  // namespace

bool attention_uses_mma(const AttentionCall&, DType dtype) { return dtype == DType::bf16 || dtype == DType::f16; }

Status attention_forward_mma(const AttentionCall& a, DType dtype, const HeadMatrix& y, void* log_sum, Stream stream) {
  Status status = 0;
  float* sums = static_cast<float*>(log_sum);
  visit_half(dtype, [&]<class T>(T*) {
    if (size_of_heads(a) <= 64)
      status = forward<T, Tile<64, 64>>(a, y, sums, stream);
    else if (size_of_heads(a) <= 128)
      status = forward<T, Tile<128, 64>>(a, y, sums, stream);
    else
      status = forward<T, Tile<256, 32>>(a, y, sums, stream);
  });
  return status;
}

Status attention_backward_mma(const AttentionCall& a, DType dtype, const HeadMatrix& dy, const void* log_sum,
                              const void* delta, const HeadMatrix& dquery, const HeadMatrix& dkey,
                              const HeadMatrix& dvalue, Stream stream) {
  Status status = 0;
  const float *sums = static_cast<const float*>(log_sum), *d = static_cast<const float*>(delta);
  const HeadMatrix none{};
  visit_half(dtype, [&]<class T>(T*) {
    auto run = [&]<class Tile>(Tile) {
      if (dquery.data) status = backward<T, Tile, false, true, false>(a, dy, sums, d, dquery, none, stream);
      if (status || !dkey.data) return;
      if constexpr (Tile::SIZE <= 128) {
        status = backward<T, Tile, true, true, true>(a, dy, sums, d, dkey, dvalue, stream);
      } else {  // the sums of both do not fit the registers
        status = backward<T, Tile, true, true, false>(a, dy, sums, d, dkey, none, stream);
        if (!status) status = backward<T, Tile, true, false, true>(a, dy, sums, d, none, dvalue, stream);
      }
    };
    if (size_of_heads(a) <= 64)
      run(Tile<64, 32>());
    else if (size_of_heads(a) <= 128)
      run(Tile<128, 32>());
    else
      run(Tile<256, 32>());
  });
  return status;
}

}  // namespace fastnn::gpu
