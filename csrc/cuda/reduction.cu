// Sums and extrema over one axis of arrays that are seen as (outer, n, inner), dense. Sums go through blocks of a fixed
// partition, a function of the shape alone, and are added in a fixed order.
#include "launchers.h"
#include "pointwise.h"

namespace fastnn::gpu {
namespace {

constexpr int kBlock = kPointwiseBlock;
constexpr int64_t kBlocksWanted = 1024;  // enough for every GPU that there is

// ---- kernels ------------------------------------------------------------------------------------------------------

// What values are added up in. Doubles cost nothing beside the memory traffic: a pack is summed in float first.
template <class T>
struct AccumulatorOf {
  using type = std::conditional_t<std::is_integral_v<T>, uint64_t, double>;  // integers wrap around
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

template <class T>
GPU_FN auto addend(T x) {
  if constexpr (std::is_integral_v<T>)
    return uint64_t(x);
  else
    return widen(x);
}

template <class D, class A>
GPU_FN D finished(A total, double divisor) {
  if constexpr (std::is_integral_v<D>)
    return D(total);
  else if constexpr (std::is_same_v<D, double>)
    return double(total) / divisor;
  else
    return narrow<D>(float(total / divisor));
}

// out[o, p] = sum of piece p of row o of x (outer, n), LANES threads for each.
template <int LANES, class S, class D>
__global__ void __launch_bounds__(kBlock)
    sum_rows_kernel(const S* __restrict__ x, D* __restrict__ out, int64_t outer, int64_t n, int64_t pieces,
                    int64_t piece, bool wide, double divisor) {
  const int64_t u = int64_t(blockIdx.x) * (kBlock / LANES) + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  const bool inside = u < outer * pieces;
  Accumulator<S> total = 0;
  if (inside) {
    const int64_t begin = u % pieces * piece, end = begin + piece < n ? begin + piece : n;
    const S* row = x + u / pieces * n;
    if (wide) {  // n and piece are whole packs
      for (int64_t i = begin + lane * kPack<S>; i < end; i += LANES * kPack<S>) {
        const Pack<S> p = load<kPack<S>>(row + i);
        auto part = addend(p[0]);
#pragma unroll
        for (int k = 1; k < kPack<S>; ++k) part += addend(p[k]);
        total += part;
      }
    } else {
      for (int64_t i = begin + lane; i < end; i += LANES) total += addend(row[i]);
    }
  }
  if constexpr (LANES == kBlock)
    total = block_reduce(total, [](auto a, auto b) { return a + b; });
  else if constexpr (LANES == 32)
    total = warp_reduce(total, [](auto a, auto b) { return a + b; });
  if (inside && lane == 0) out[u] = finished<D>(total, divisor);
}

// out[o, p, c] = sum over the rows of piece p of x[o, rows, c], N columns to a thread. A block has `lanes` threads, a
// power of two, along the columns and the others along the rows.
template <int N, class S, class D>
__global__ void __launch_bounds__(kBlock, 4)
    sum_columns_kernel(const S* __restrict__ x, D* __restrict__ out, int64_t n, int64_t inner, int64_t pieces,
                       int64_t piece, int64_t column_blocks, int lanes, double divisor) {
  using A = Accumulator<S>;
  GPU_SHARED(A, parts, [kBlock][N]);
  const int lane = int(threadIdx.x) % lanes, first = int(threadIdx.x) / lanes, rows = kBlock / lanes;
  const int64_t u = int64_t(blockIdx.x) / column_blocks, o = u / pieces;
  const int64_t c = (int64_t(blockIdx.x) % column_blocks * lanes + lane) * N;
  const int64_t begin = u % pieces * piece, end = begin + piece < n ? begin + piece : n;
  A total[N] = {};
  if (c < inner)
    for (int64_t r = begin + first; r < end; r += rows) {
      const Pack<S, N> p = load<N>(x + (o * n + r) * inner + c);
#pragma unroll
      for (int k = 0; k < N; ++k) total[k] += addend(p[k]);
    }
#pragma unroll
  for (int k = 0; k < N; ++k) parts[threadIdx.x][k] = total[k];
  for (int half = rows / 2; half; half /= 2) {
    __syncthreads();
    if (first < half)
#pragma unroll
      for (int k = 0; k < N; ++k) parts[threadIdx.x][k] += parts[threadIdx.x + half * lanes][k];
  }
  if (first == 0 && c < inner)
#pragma unroll
    for (int k = 0; k < N; ++k) out[u * inner + c + k] = finished<D>(parts[threadIdx.x][k], divisor);
}

template <class T>
GPU_FN auto comparable(T v) {
  if constexpr (!std::is_integral_v<T>)
    return widen(v);
  else if constexpr (sizeof(T) < 4)  // shuffles take no smaller type
    return int(v);
  else
    return v;
}

// Whether v at place i is to be taken instead of `best` at `place`: NaN wins, then the first of equals.
template <class V>
GPU_FN bool better(bool largest, V v, int64_t i, V best, int64_t place) {
  if (v != v) return best == best || i < place;
  if (largest ? v > best : v < best) return true;
  return v == best && i < place;
}

// The extremum over n of x (outer, n, inner) and its place; LANES threads for each output.
template <int LANES, class T>
__global__ void __launch_bounds__(kBlock)
    extremum_kernel(bool largest, const T* __restrict__ x, int64_t outputs, int64_t n, int64_t inner,
                    T* __restrict__ values, int64_t* __restrict__ places) {
  const int64_t u = int64_t(blockIdx.x) * (kBlock / LANES) + threadIdx.x / LANES, lane = threadIdx.x % LANES;
  if (u >= outputs) return;  // LANES threads at once: a whole warp where they shuffle
  const T* p = x + u / inner * n * inner + u % inner;
  int64_t place = lane < n ? lane : 0;
  auto best = comparable(p[place * inner]);
  for (int64_t i = lane + LANES; i < n; i += LANES)
    if (auto v = comparable(p[i * inner]); better(largest, v, i, best, place)) {
      best = v;
      place = i;
    }
  if constexpr (LANES == 32) {
#pragma unroll
    for (int o = 16; o; o >>= 1) {
      auto v = __shfl_xor_sync(~0u, best, o);
      const int64_t i = __shfl_xor_sync(~0u, place, o);
      if (better(largest, v, i, best, place)) {
        best = v;
        place = i;
      }
    }
  }
  if (lane != 0) return;
  if (values) values[u] = p[place * inner];
  if (places) places[u] = place;
}

// ---- launchers ----------------------------------------------------------------------------------------------------

// Into how many pieces n is cut, and the size of all but the last: whole multiples of `unit`.
struct Pieces {
  int64_t count, size;
  Pieces(int64_t n, int64_t unit, int64_t blocks) {
    const int64_t wanted = blocks < kBlocksWanted ? kBlocksWanted / blocks : 1;
    size = ceil_div(ceil_div(n, wanted), unit) * unit;
    count = ceil_div(n, size);
  }
};

constexpr int64_t kRowUnit = 4096;  // elements of a row that are worth a block

Pieces row_pieces(int64_t outer, int64_t n) { return Pieces(n, kRowUnit, outer); }

struct Columns {
  int lanes;
  int64_t blocks;
  Pieces pieces;
};
// Threads along columns are a power of two; the partition does not depend on the columns of a thread.
Columns columns(int64_t outer, int64_t n, int64_t inner) {
  int lanes = 1;
  while (lanes < 32 && lanes < inner) lanes *= 2;
  return {lanes, ceil_div(inner, int64_t(lanes)), Pieces(n, 4 * kBlock / lanes, outer * ceil_div(inner, int64_t(32)))};
}

template <class S, class D>
Status sum_pass(const S* x, int64_t outer, int64_t n, int64_t inner, int64_t pieces, int64_t piece, D* out,
                double divisor, Stream stream) {
  if (inner == 1) {
    const int64_t units = outer * pieces;
    const bool wide = aligned(x) && n % kPack<S> == 0;
    auto run = [&](auto kernel, int lanes) {
      return launch(kernel, dim3(unsigned(ceil_div(units, int64_t(kBlock / lanes)))), dim3(kBlock), 0, stream, x, out,
                    outer, n, pieces, piece, wide, divisor);
    };
    if (n <= 8) return run(sum_rows_kernel<1, S, D>, 1);
    if (n <= 1024) return run(sum_rows_kernel<32, S, D>, 32);
    return run(sum_rows_kernel<kBlock, S, D>, kBlock);
  }
  int lanes = columns(outer, n, inner).lanes;
  if (aligned(x) && inner % kPack<S> == 0) {
    while (lanes > 1 && lanes * kPack<S> > inner) lanes /= 2;
    const int64_t blocks = ceil_div(inner, int64_t(lanes) * kPack<S>);
    return launch(sum_columns_kernel<kPack<S>, S, D>, dim3(unsigned(outer * pieces * blocks)), dim3(kBlock), 0, stream,
                  x, out, n, inner, pieces, piece, blocks, lanes, divisor);
  }
  const int64_t blocks = ceil_div(inner, int64_t(lanes));
  return launch(sum_columns_kernel<1, S, D>, dim3(unsigned(outer * pieces * blocks)), dim3(kBlock), 0, stream, x, out,
                n, inner, pieces, piece, blocks, lanes, divisor);
}

Pieces pieces_of(int64_t outer, int64_t n, int64_t inner) {
  return inner == 1 ? row_pieces(outer, n) : columns(outer, n, inner).pieces;
}

template <class S, class D>
Status sum_as(const void* x, int64_t outer, int64_t n, int64_t inner, void* out, double divisor, void* scratch,
              Stream stream) {
  const Pieces p = pieces_of(outer, n, inner);
  if (p.count == 1)
    return sum_pass(static_cast<const S*>(x), outer, n, inner, 1, n, static_cast<D*>(out), divisor, stream);
  // Integers are added in pieces of int64, which wrap around to the same sum.
  using Part = std::conditional_t<std::is_integral_v<S>, int64_t, double>;
  auto* parts = static_cast<Part*>(scratch);
  if (Status status = sum_pass(static_cast<const S*>(x), outer, n, inner, p.count, p.size, parts, 1, stream))
    return status;
  return sum_pass(static_cast<const Part*>(parts), outer, p.count, inner, 1, p.count, static_cast<D*>(out), divisor,
                  stream);
}

}  // namespace

Status sum_scratch(int64_t outer, int64_t n, int64_t inner, int64_t* count) {
  const int64_t pieces = pieces_of(outer, n, inner).count;
  *count = pieces > 1 ? outer * pieces * inner : 0;
  return 0;
}

Status sum(DType from, const void* x, int64_t outer, int64_t n, int64_t inner, DType to, void* out, double divisor,
           void* scratch, Stream stream) {
  Status status = 0;
  visit_float(from, [&]<class S>(S*) {
    visit_float(to, [&]<class D>(D*) {
      if constexpr (std::is_same_v<S, D> || std::is_same_v<S, double> || std::is_same_v<D, double>)
        status = sum_as<S, D>(x, outer, n, inner, out, divisor, scratch, stream);
    });
  });
  visit_integer(from,
                [&]<class S>(S*) { status = sum_as<S, int64_t>(x, outer, n, inner, out, divisor, scratch, stream); });
  return status;
}

Status extremum(bool largest, DType dtype, const void* x, int64_t outer, int64_t n, int64_t inner, void* values,
                int64_t* places, Stream stream) {
  Status status = 0;
  visit_any(dtype, [&]<class T>(T*) {
    const int64_t outputs = outer * inner;
    auto run = [&](auto kernel, int lanes) {
      return launch(kernel, dim3(unsigned(ceil_div(outputs, int64_t(kBlock / lanes)))), dim3(kBlock), 0, stream,
                    largest, static_cast<const T*>(x), outputs, n, inner, static_cast<T*>(values), places);
    };
    status = inner == 1 && n > 8 ? run(extremum_kernel<32, T>, 32) : run(extremum_kernel<1, T>, 1);
  });
  return status;
}

}  // namespace fastnn::gpu
