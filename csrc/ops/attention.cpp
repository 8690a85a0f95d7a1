#include "attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "../float_mode.h"
#include "../parallel.h"
#include "attention_common.h"

namespace fastnn::ops {
namespace {

// Scratch memory of one thread, for one block of queries at a time.
struct ForwardBlock {
  const AttentionProblem& p;
  const Tiles& tiles;
  int64_t rows, columns;  // at most
  Scratch queries, keys, values, scores, bias, factor, out, state;
  DropoutBlock kept;

  ForwardBlock(const AttentionProblem& problem, const Tiles& t, int64_t rows_)
      : p(problem),
        tiles(t),
        rows(rows_),
        columns(std::min(p.keys, kAttentionColumns)),
        queries(size_t(kAttentionTiles * t.rows() * p.depth * p.scalar)),
        keys(size_t(t.packed_columns(columns) * p.depth * p.scalar)),
        values(size_t(t.packed_columns(p.width) * columns * p.scalar)),
        scores(size_t(t.rows() * kAttentionColumns * p.scalar)),
        bias(p.mask ? size_t(t.rows() * kAttentionColumns * p.scalar) : 0),
        factor(p.drop ? size_t(t.rows() * kAttentionColumns * p.scalar) : 0),
        out(size_t(rows * p.width * p.scalar)),
        state(size_t(2 * rows * p.scalar)),
        kept(p, rows, columns) {}

  // Queries [i0, i0 + n) of head h: y and log_sum get their rows.
  void run(int64_t h, int64_t i0, int64_t n, const Array& y, const Array& log_sum);

 private:
  char* top(int64_t row) { return state.as<char>() + row * p.scalar; }
  char* total(int64_t row) { return top(rows + row); }
};

void ForwardBlock::run(int64_t h, int64_t i0, int64_t n, const Array& y, const Array& log_sum) {
  const AttentionKernels& kernel = kernels().attention;
  const int64_t count = divide_up(n, tiles.rows()), step = kAttentionColumns, tile_bytes = tiles.rows() * p.scalar;
  const Matrix q = p.query_of(h), k = p.key_of(h), v = p.value_of(h);
  for (int64_t t = 0; t < count; ++t) {
    int64_t first = dealt(n, count, t);
    tiles.pack_rows(q, i0 + first, dealt(n, count, t + 1) - first, p.depth,
                    queries.as<char>() + t * tile_bytes * p.depth);
  }
  auto clear = [&]<class S>(S*) {
    std::fill_n(reinterpret_cast<S*>(top(0)), n, -std::numeric_limits<S>::infinity());
    std::fill_n(reinterpret_cast<S*>(total(0)), n, S(0));
  };
  p.compute == DType::f64 ? clear((double*)nullptr) : clear((float*)nullptr);

  const Band band = p.band(i0, n, false);
  // Without a limit to the left the first block holds keys for every query, and its sums need no zeros.
  const bool cleared = band.first_step;
  if (cleared && p.width) std::memset(out.as<char>(), 0, size_t(n * p.width * p.scalar));
  for (int64_t j0 = band.begin; j0 < band.end; j0 += columns) {
    const int64_t cols = std::min(columns, band.end - j0);
    const bool accumulate = cleared || j0 > band.begin;
    tiles.pack_columns({k.data + j0 * k.row * p.item, k.col, k.row}, p.depth, cols, keys.as<char>());
    tiles.pack_columns({v.data + j0 * v.row * p.item, v.row, v.col}, cols, p.width, values.as<char>());
    if (p.drop) kept.draw(h, i0, n, j0, cols);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t first = dealt(n, count, t), m = dealt(n, count, t + 1) - first;
      AttentionSoftmax b{};
      const int64_t have = band.put(b, first, m, j0, cols);
      if (have <= 0) continue;
      tiles.multiply_packed(queries.as<char>() + t * tile_bytes * p.depth, m, {keys.as<char>(), p.depth, cols}, have,
                            scores.as<char>(), step);
      b.rows = int(m);
      b.cols = have;
      b.step = step;
      b.scale = p.scale;
      b.softcap = p.softcap;
      b.scores = scores.as<char>();
      b.top = top(first);
      b.total = total(first);
      char* sums = out.as<char>() + first * p.width * p.scalar;
      b.out = accumulate ? sums : nullptr;
      b.out_step = b.out_cols = p.width;
      if (p.mask) {
        p.bias(h, i0 + first, j0, m, have, false, bias.as<char>(), step);
        b.bias = bias.as<char>();
      }
      if (p.drop) {
        kept.factor(i0 + first, j0, m, have, false, factor.as<char>(), step);
        b.factor = factor.as<char>();
      }
      kernel.attention_softmax[p.compute](b);
      tiles.multiply(scores.as<char>(), step, m, have, {values.as<char>(), cols, p.width}, sums, p.width, accumulate);
    }
  }
  kernel.attention_store[p.dtype](out.as<char>(), p.width, 1, total(0), int(n), p.width, p.rows_of(y, h, i0),
                                  y.stride(y.ndim() - 2));
  kernel.attention_log_sum[p.compute](top(0), total(0), n, log_sum.data + (h * p.queries + i0) * p.scalar);
}

}  // namespace

std::tuple<Array, Array> attention(const Array& query, const Array& key, const Array& value,
                                   const std::optional<Array>& mask, bool is_causal, double scale, double dropout_p,
                                   int64_t seed, int64_t offset, double softcap, int64_t left, int64_t right) {
  AttentionProblem p("scaled_dot_product_attention", query, key, value, mask, is_causal, scale, dropout_p, seed, offset,
                     softcap, left, right);
  if (p.in_float64()) {
    auto [y, log_sum] = attention(widened(query), widened(key), widened(value), widened(mask), is_causal, scale,
                                  dropout_p, seed, offset, softcap, left, right);
    return {astype(y, p.dtype), astype(log_sum, p.compute)};
  }
  Dims shape = query.shape, rows = query.shape;
  shape[shape.n - 1] = p.width;
  rows.n -= 1;
  Array y = rows_like(query, shape, p.dtype), log_sum = Array::empty(rows, p.compute, query.device());
  if (p.heads * p.queries == 0) return {in_layout_of(query, y), std::move(log_sum)};
  if (query.on_cuda()) {
    const char* op = "scaled_dot_product_attention";
    const gpu::AttentionCall call = call_of(op, p);
    if (y.ndim() > 4) y = Array::empty(shape, p.dtype, query.device());
    cuda::check(op, cuda::launchers().attention_forward(call, p.dtype, head_matrix(four_axes(y, false)), log_sum.data,
                                                        cuda::stream(query.device())));
    return {in_layout_of(query, y), std::move(log_sum)};
  }
  FlushSubnormals flush;
  if (decodes(p)) {
    attention_decode(p, y, log_sum);
    return {in_layout_of(query, y), std::move(log_sum)};
  }
  Tiles tiles(p);
  // Queries are dealt evenly to blocks, whose number depends on the shape alone.
  const int64_t blocks = divide_up(p.queries, kAttentionTiles * tiles.rows()), most = divide_up(p.queries, blocks);
  const int64_t flops = 2 * most * std::max<int64_t>(1, p.keys * (p.depth + p.width));
  parallel_for(p.heads * blocks, std::max<int64_t>(1, (1 << 20) / flops), [&](int64_t begin, int64_t end) {
    ForwardBlock block(p, tiles, most);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t h = task / blocks, first = dealt(p.queries, blocks, task % blocks);
      block.run(h, first, dealt(p.queries, blocks, task % blocks + 1) - first, y, log_sum);
    }
  });
  return {in_layout_of(query, y), std::move(log_sum)};
}

}  // namespace fastnn::ops
