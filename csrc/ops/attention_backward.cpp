// Two passes, each over the blocks of one side, so that every gradient is summed by one thread in a fixed order and
// nothing is shared: the gradient of queries (and of the mask) block by block of queries, those of keys and values
// block by block of keys. Scores are computed again in both.
#include <algorithm>
#include <cstring>

#include "../float_mode.h"
#include "../parallel.h"
#include "attention.h"
#include "attention_common.h"

namespace fastnn::ops {
namespace {

// Where the results go; what is not wanted has no data.
struct Results {
  Array query, key, value, mask;
};

struct Inputs {
  const AttentionProblem& p;
  Array grad, log_sum, delta;  // delta (..., H, L): sum over the last axis of grad * output

  Matrix grad_of(int64_t h) const { return p.head(grad, h); }
  const char* of_queries(const Array& a, int64_t h, int64_t i) const { return a.data + (h * p.queries + i) * p.scalar; }
};

// The scratch memory of one thread, for one block of rows at a time: queries, or keys where by_keys. Rows and columns
// have a first matrix (query or key), whose products are scores, and a second one (grad or value).
struct BackwardBlock {
  const Inputs& in;
  const AttentionProblem& p;
  const Tiles& tiles;
  bool by_keys;
  int64_t rows, columns;
  Scratch first_rows, second_rows, first_across, second_across, first_along, second_along;
  Scratch scores, gradients, bias, factor, first_sum, second_sum;
  DropoutBlock kept;

  BackwardBlock(const Inputs& inputs, const Tiles& t, bool by_keys_, int64_t rows_)
      : in(inputs),
        p(inputs.p),
        tiles(t),
        by_keys(by_keys_),
        rows(rows_),
        columns(std::min(by_keys ? p.queries : p.keys, kAttentionColumns)),
        first_rows(bytes(kAttentionTiles * t.rows(), p.depth)),
        second_rows(bytes(kAttentionTiles * t.rows(), p.width)),
        first_across(bytes(t.packed_columns(columns), p.depth)),
        second_across(bytes(t.packed_columns(columns), p.width)),
        first_along(bytes(columns, t.packed_columns(p.depth))),
        second_along(by_keys ? bytes(columns, t.packed_columns(p.width)) : 0),
        scores(bytes(t.rows(), kAttentionColumns)),
        gradients(bytes(t.rows(), kAttentionColumns)),
        bias(p.mask ? bytes(t.rows(), kAttentionColumns) : 0),
        factor(p.drop ? bytes(t.rows(), kAttentionColumns) : 0),
        first_sum(bytes(rows, p.depth)),
        second_sum(by_keys ? bytes(rows, p.width) : 0),
        kept(p, by_keys ? columns : rows, by_keys ? rows : columns) {}

  size_t bytes(int64_t a, int64_t b) const { return size_t(a * b * p.scalar); }

  void begin(const Matrix& first, const Matrix& second, int64_t r0, int64_t n);
  // Adds what the columns of query head h contribute to rows [r0, r0 + n).
  void add(int64_t h, int64_t r0, int64_t n, const Array& mask_gradient);
  // The sums of rows [r0, r0 + n), times `scale`, to that head of `to`.
  void store(Scratch& sum, int64_t width, double scale, const Array& to, int64_t h, int64_t r0, int64_t n) {
    kernels().attention.attention_store[p.dtype](sum.as<char>(), width, scale, nullptr, int(n), width,
                                                 p.rows_of(to, h, r0, by_keys ? p.group : 1), to.stride(to.ndim() - 2));
  }
};

void BackwardBlock::begin(const Matrix& first, const Matrix& second, int64_t r0, int64_t n) {
  const int64_t count = divide_up(n, tiles.rows()), tile_bytes = tiles.rows() * p.scalar;
  for (int64_t t = 0; t < count; ++t) {
    int64_t at = dealt(n, count, t), m = dealt(n, count, t + 1) - at;
    tiles.pack_rows(first, r0 + at, m, p.depth, first_rows.as<char>() + t * tile_bytes * p.depth);
    tiles.pack_rows(second, r0 + at, m, p.width, second_rows.as<char>() + t * tile_bytes * p.width);
  }
  if (p.depth) std::memset(first_sum.as<char>(), 0, bytes(n, p.depth));
  if (by_keys && p.width) std::memset(second_sum.as<char>(), 0, bytes(n, p.width));
}

void BackwardBlock::add(int64_t h, int64_t r0, int64_t n, const Array& mask_gradient) {
  const int64_t count = divide_up(n, tiles.rows()), step = kAttentionColumns, tile_bytes = tiles.rows() * p.scalar;
  const Matrix first = by_keys ? p.query_of(h) : p.key_of(h), second = by_keys ? in.grad_of(h) : p.value_of(h);
  const Band band = p.band(r0, n, by_keys);
  for (int64_t c0 = band.begin; c0 < band.end; c0 += columns) {
    const int64_t cols = std::min(columns, band.end - c0);
    const char *x = first.data + c0 * first.row * p.item, *g = second.data + c0 * second.row * p.item;
    tiles.pack_columns({x, first.col, first.row}, p.depth, cols, first_across.as<char>());
    tiles.pack_columns({g, second.col, second.row}, p.width, cols, second_across.as<char>());
    tiles.pack_columns({x, first.row, first.col}, cols, p.depth, first_along.as<char>());
    if (by_keys) tiles.pack_columns({g, second.row, second.col}, cols, p.width, second_along.as<char>());
    if (p.drop) by_keys ? kept.draw(h, c0, cols, r0, n) : kept.draw(h, r0, n, c0, cols);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t at = dealt(n, count, t), m = dealt(n, count, t + 1) - at, r = r0 + at;
      AttentionGradient b{};
      const int64_t have = band.put(b, at, m, c0, cols);  // columns [0, have) are not all zero
      if (have <= 0) continue;
      tiles.multiply_packed(first_rows.as<char>() + t * tile_bytes * p.depth, m,
                            {first_across.as<char>(), p.depth, cols}, have, scores.as<char>(), step);
      tiles.multiply_packed(second_rows.as<char>() + t * tile_bytes * p.width, m,
                            {second_across.as<char>(), p.width, cols}, have, gradients.as<char>(), step);
      b.rows = int(m);
      b.cols = have;
      b.step = step;
      b.by_keys = by_keys;
      b.scale = p.scale;
      b.softcap = p.softcap;
      b.scores = scores.as<char>();
      b.gradients = gradients.as<char>();
      const int64_t query = by_keys ? c0 : r, key = by_keys ? r : c0;
      if (p.mask) {
        p.bias(h, query, key, m, have, by_keys, bias.as<char>(), step);
        b.bias = bias.as<char>();
      }
      if (p.drop) {
        kept.factor(query, key, m, have, by_keys, factor.as<char>(), step);
        b.factor = factor.as<char>();
      }
      b.log_sum = in.of_queries(in.log_sum, h, query);
      b.delta = in.of_queries(in.delta, h, query);
      if (mask_gradient.data) {
        b.bias_gradient = mask_gradient.data + ((h * p.queries + r) * p.keys + c0) * p.scalar;
        b.bias_gradient_step = p.keys;
      }
      kernels().attention.attention_gradient[p.compute](b);
      tiles.multiply(gradients.as<char>(), step, m, have, {first_along.as<char>(), cols, p.depth},
                     first_sum.as<char>() + at * p.depth * p.scalar, p.depth, true);
      if (by_keys)
        tiles.multiply(scores.as<char>(), step, m, have, {second_along.as<char>(), cols, p.width},
                       second_sum.as<char>() + at * p.width * p.scalar, p.width, true);
    }
  }
}

// One pass over the blocks of rows of `heads` heads.
void run_pass(const Inputs& in, const Tiles& tiles, bool by_keys, const Results& out) {
  const AttentionProblem& p = in.p;
  const int64_t n = by_keys ? p.keys : p.queries, heads = by_keys ? p.heads / p.group : p.heads;
  if (heads * n == 0) return;
  const int64_t blocks = divide_up(n, kAttentionTiles * tiles.rows()), most = divide_up(n, blocks);
  const int64_t others = by_keys ? p.queries * p.group : p.keys;
  const int64_t flops = 4 * most * std::max<int64_t>(1, others * (p.depth + p.width));
  parallel_for(heads * blocks, std::max<int64_t>(1, (1 << 20) / flops), [&](int64_t begin, int64_t end) {
    BackwardBlock block(in, tiles, by_keys, most);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t h = task / blocks * (by_keys ? p.group : 1), r0 = dealt(n, blocks, task % blocks);
      const int64_t rows = dealt(n, blocks, task % blocks + 1) - r0;
      if (by_keys) {
        block.begin(p.key_of(h), p.value_of(h), r0, rows);
        for (int64_t g = 0; g < p.group; ++g) block.add(h + g, r0, rows, {});
        block.store(block.first_sum, p.depth, p.scale, out.key, h, r0, rows);
        block.store(block.second_sum, p.width, 1, out.value, h, r0, rows);
      } else {
        block.begin(p.query_of(h), in.grad_of(h), r0, rows);
        block.add(h, r0, rows, out.mask);
        if (out.query.data) block.store(block.first_sum, p.depth, p.scale, out.query, h, r0, rows);
      }
    }
  });
}

Array dots(const AttentionProblem& p, const Array& grad, const Array& output) {
  Dims rows = p.query.shape;
  rows.n -= 1;
  Array delta = Array::empty(rows, p.compute);
  auto kernel = kernels().attention.attention_dots[p.dtype];
  parallel_for(p.heads, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, p.queries * p.width)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t h = begin; h < end; ++h) {
                   Matrix a = p.head(grad, h), b = p.head(output, h);
                   kernel(a.data, a.row, b.data, b.row, p.queries, p.width, delta.data + h * p.queries * p.scalar);
                 }
               });
  return delta;
}

}  // namespace

std::tuple<std::optional<Array>, std::optional<Array>, std::optional<Array>, std::optional<Array>> attention_backward(
    const Array& grad, const Array& query, const Array& key, const Array& value, const std::optional<Array>& mask,
    const Array& output, const Array& log_sum, bool is_causal, double scale, double dropout_p, int64_t seed,
    int64_t offset, double softcap, int64_t left, int64_t right, bool need_query, bool need_key_value, bool need_mask) {
  constexpr const char* op = "scaled_dot_product_attention_backward";
  AttentionProblem p(op, query, key, value, mask, is_causal, scale, dropout_p, seed, offset, softcap, left, right);
  Dims shape = query.shape, rows = query.shape, full = query.shape;
  shape[shape.n - 1] = p.width;
  full[full.n - 1] = p.keys;
  rows.n -= 1;
  require<ValueError>(grad.shape == shape && grad.dtype == p.dtype, op, ": grad has shape ", grad.shape, " and dtype ",
                      name(grad.dtype), "; expected ", shape, " and ", name(p.dtype));
  require<ValueError>(
      output.shape == shape && output.dtype == p.dtype && log_sum.shape == rows && log_sum.dtype == p.compute, op,
      ": output has shape ", output.shape, " and log_sum ", log_sum.shape, "; expected what attention returned, ",
      shape, " and ", rows);
  if (p.in_float64()) {  // with an output that was not rounded
    Array q = widened(query), k = widened(key), v = widened(value);
    std::optional<Array> m = widened(mask);
    auto [y, sums] = attention(q, k, v, m, is_causal, scale, dropout_p, seed, offset, softcap, left, right);
    auto out = attention_backward(widened(grad), q, k, v, m, y, sums, is_causal, scale, dropout_p, seed, offset,
                                  softcap, left, right, need_query, need_key_value, need_mask);
    auto rounded = [](std::optional<Array>& a, DType t) { a = a ? std::optional(astype(*a, t)) : std::nullopt; };
    rounded(std::get<0>(out), p.dtype);
    rounded(std::get<1>(out), p.dtype);
    rounded(std::get<2>(out), p.dtype);
    rounded(std::get<3>(out), p.compute);
    return out;
  }
  if (query.on_cuda()) {
    const gpu::AttentionCall call = call_of(op, p);
    const Device device = query.device();
    auto wanted = [&](bool needed, const Array& like) {
      if (!needed) return std::optional<Array>();
      return std::optional(like.ndim() > 4 ? Array::empty(like.shape, p.dtype, device)
                                           : rows_like(like, like.shape, p.dtype));
    };
    auto matrix = [](const std::optional<Array>& a) {
      return a ? head_matrix(four_axes(*a, false)) : gpu::HeadMatrix{};
    };
    std::optional<Array> dq = wanted(need_query, query), dk = wanted(need_key_value, key),
                         dv = wanted(need_key_value, value), dm;
    if (need_mask) dm = is_causal ? Array::zeros(full, p.compute, device) : Array::empty(full, p.compute, device);
    Array g = four_axes(grad, true), y = four_axes(output, true), sums = log_sum.contiguous();
    Array delta = Array::empty(rows, p.compute, device);
    cuda::check(op, cuda::launchers().attention_backward(call, p.dtype, head_matrix(g), head_matrix(y), sums.data,
                                                         delta.data, matrix(dq), matrix(dk), matrix(dv),
                                                         dm ? dm->data : nullptr, cuda::stream(device)));
    if (dq) dq = in_layout_of(query, *dq);
    if (dk) dk = in_layout_of(key, *dk);
    if (dv) dv = in_layout_of(value, *dv);
    return {std::move(dq), std::move(dk), std::move(dv), std::move(dm)};
  }
  FlushSubnormals flush;
  // Their last axes become contiguous, for the dot products.
  auto last_contiguous = [](const Array& a) { return a.stride(a.ndim() - 1) == 1 ? a : a.contiguous(); };
  Array g = last_contiguous(grad), y = last_contiguous(output);
  Inputs in{p, g, log_sum.contiguous(), dots(p, g, y)};
  Tiles tiles(p);
  Results out;
  if (need_query) out.query = rows_like(query, query.shape, p.dtype);
  // Pairs of a query and a key that it does not see are not visited.
  if (need_mask) out.mask = p.limited() ? Array::zeros(full, p.compute) : Array::empty(full, p.compute);
  if (need_query || need_mask) run_pass(in, tiles, false, out);
  if (need_key_value) {
    out.key = rows_like(key, key.shape, p.dtype);
    out.value = rows_like(value, value.shape, p.dtype);
    run_pass(in, tiles, true, out);
  }
  std::optional<Array> dq, dk, dv, dm;
  if (need_query) dq = in_layout_of(query, out.query);
  if (need_key_value) {
    dk = in_layout_of(key, out.key);
    dv = in_layout_of(value, out.value);
  }
  if (need_mask) dm = std::move(out.mask);
  return {std::move(dq), std::move(dk), std::move(dv), std::move(dm)};
}

}  // namespace fastnn::ops
