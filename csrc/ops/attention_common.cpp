#include "attention_common.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../convert.h"

namespace fastnn::ops {

AttentionProblem::AttentionProblem(const char* op, const Array& q, const Array& k, const Array& v,
                                   const std::optional<Array>& m, bool is_causal, double scale_, double p,
                                   int64_t seed_, int64_t offset_, double softcap_, int64_t left_, int64_t right_)
    : query(q),
      key(k),
      value(v),
      left(left_ < 0 ? kAll : left_),
      right(is_causal    ? 0
            : right_ < 0 ? kAll
                         : right_),
      scale(scale_),
      softcap(softcap_),
      seed(uint64_t(seed_)),
      offset(uint64_t(offset_)) {
  require<NotImplementedError>(is_float(q.dtype), op, ": query has dtype ", name(q.dtype),
                               "; expected float32, bfloat16, float16 or float64");
  const int rank = q.ndim();
  require<ValueError>(rank >= 2, op, ": query has shape ", q.shape, "; expected (..., L, E)");
  group = 1;
  for (auto [what, a] : {std::pair{"key", &k}, std::pair{"value", &v}}) {
    require<TypeError>(a->dtype == q.dtype, op, ": query has dtype ", name(q.dtype), " but ", what, " has ",
                       name(a->dtype), "; expected one dtype");
    bool fits = a->ndim() == rank;
    for (int i = 0; fits && i < rank - 2; ++i)
      fits =
          a->size(i) == q.size(i) || (i == rank - 3 && a->size(i) > 0 && q.size(i) > 0 && q.size(i) % a->size(i) == 0);
    require<ValueError>(fits, op, ": query has shape ", q.shape, " but ", what, " has shape ", a->shape,
                        "; expected equal sizes before the last two, or fewer heads that divide query's");
  }
  require<ValueError>(k.size(rank - 1) == q.size(rank - 1), op, ": query has shape ", q.shape, " but key has shape ",
                      k.shape, "; expected the same last size");
  require<ValueError>(v.size(rank - 2) == k.size(rank - 2) && (rank < 3 || v.size(rank - 3) == k.size(rank - 3)), op,
                      ": key has shape ", k.shape, " but value has shape ", v.shape,
                      "; expected as many heads and keys in both");
  require<ValueError>(p >= 0 && p <= 1, op, ": dropout_p is ", p, "; expected a probability between 0 and 1");
  require<ValueError>(softcap >= 0 && std::isfinite(softcap), op, ": softcap is ", softcap,
                      "; expected 0, for none, or a positive number");
  if (rank >= 3 && q.size(rank - 3) > 0) group = q.size(rank - 3) / k.size(rank - 3);
  queries = q.size(rank - 2);
  keys = k.size(rank - 2);
  depth = q.size(rank - 1);
  width = v.size(rank - 1);
  heads = 1;
  for (int i = 0; i < rank - 2; ++i) heads *= q.size(i);
  dtype = q.dtype;
  compute = compute_type(dtype);
  item = int64_t(size_of(dtype));
  scalar = int64_t(size_of(compute));
  if (m) {
    require<NotImplementedError>(m->dtype == DType::b8 || m->dtype == dtype || m->dtype == DType::f32, op,
                                 ": attn_mask has dtype ", name(m->dtype), "; expected bool, float32 or ", name(dtype));
    Dims full = q.shape;
    full[rank - 1] = keys;
    bool fits = m->ndim() <= rank;
    for (int i = 1; fits && i <= m->ndim(); ++i)
      fits = m->size(m->ndim() - i) == 1 || m->size(m->ndim() - i) == full[rank - i];
    require<ValueError>(fits, op, ": attn_mask has shape ", m->shape, "; expected one that broadcasts to ", full);
    mask = broadcast_to(*m, full);
  }
  drop = p > 0;
  threshold = uint32_t(std::min(std::nearbyint(p * 0x1p32), 0x1p32 - 1));  // as dropout
  kept = p < 1 ? 1 / (1 - p) : 0;
}

Band AttentionProblem::band(int64_t row, int64_t n, bool by_keys) const {
  const int64_t before = by_keys ? right : left, after = by_keys ? left : right, columns = by_keys ? queries : keys;
  Band b{};
  b.first_step = before != kAll;
  b.last_step = after != kAll;
  b.first = b.first_step ? row - before : 0;
  b.last = b.last_step ? row + std::min(after, columns) + 1 : columns;
  b.begin = std::max<int64_t>(0, b.first);
  b.end = std::min(columns, b.last + (n - 1) * b.last_step);
  return b;
}

Matrix AttentionProblem::head(const Array& a, int64_t index, int64_t share) const {
  const int rank = query.ndim();
  int64_t at = 0;
  for (int i = rank - 3; i >= 0; --i) {
    int64_t k = index % query.size(i);
    index /= query.size(i);
    at += (i == rank - 3 ? k / share : k) * a.stride(i);
  }
  return {a.data + at * int64_t(size_of(a.dtype)), a.stride(rank - 2), a.ndim() == rank ? a.stride(rank - 1) : 1};
}

namespace {

template <class T, class S>
void read_mask(const T* from, int64_t row, int64_t col, int64_t rows, int64_t cols, S* to, int64_t step) {
  constexpr S kUnseen = -std::numeric_limits<S>::infinity();
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      T x = from[r * row + c * col];
      if constexpr (std::is_same_v<T, bool>)
        to[r * step + c] = x ? S(0) : kUnseen;
      else
        to[r * step + c] = convert<S>(x);
    }
}

}  // namespace

void AttentionProblem::bias(int64_t h, int64_t i, int64_t j, int64_t rows, int64_t cols, bool by_keys, char* to,
                            int64_t step) const {
  Matrix m = head(*mask, h);
  visit(mask->dtype, [&]<class T>(T*) {
    const T* from = reinterpret_cast<const T*>(m.data) + i * m.row + j * m.col;
    int64_t row = by_keys ? m.col : m.row, col = by_keys ? m.row : m.col;
    if (compute == DType::f64)
      read_mask(from, row, col, rows, cols, reinterpret_cast<double*>(to), step);
    else
      read_mask(from, row, col, rows, cols, reinterpret_cast<float*>(to), step);
  });
}

Array four_axes(const Array& a, bool rows) {
  const int rank = a.ndim();
  Array in = (rows && a.size(rank - 1) > 1 && a.stride(rank - 1) != 1) || rank > 4 ? a.contiguous() : a;
  Dims shape, strides;
  for (int i = rank; i < 4; ++i) shape.push_back(1), strides.push_back(0);
  int64_t before = 1;
  for (int i = 0; i < rank - 3; ++i) before *= in.size(i);
  if (rank >= 4) shape.push_back(before), strides.push_back(in.stride(rank - 4));
  for (int i = std::max(0, rank - 3); i < rank; ++i) shape.push_back(in.size(i)), strides.push_back(in.stride(i));
  return in.view(shape, strides);
}

gpu::HeadMatrix head_matrix(const Array& four) { return {four.data, four.stride(0), four.stride(1), four.stride(2)}; }

gpu::AttentionCall call_of(const char* op, AttentionProblem& p) {
  require<NotImplementedError>(!p.drop, op, ": dropout_p is not 0; expected 0 on a GPU");
  require<NotImplementedError>(p.softcap == 0 && p.left == kAll && (p.right == kAll || p.right == 0), op,
                               ": softcap and window_size are not supported on a GPU; expected 0 and (-1, -1)");
  require<NotImplementedError>(p.depth <= gpu::kHeadSize && p.width <= gpu::kHeadSize, op, ": query has shape ",
                               p.query.shape, " and value ", p.value.shape, "; expected heads of at most ",
                               gpu::kHeadSize, " elements on a GPU");
  p.query = four_axes(p.query, true);
  p.key = four_axes(p.key, true);
  p.value = four_axes(p.value, true);
  gpu::AttentionCall c{};
  c.batches = p.query.size(0);
  c.heads = p.query.size(1);
  c.group = p.group;
  c.queries = p.queries;
  c.keys = p.keys;
  c.depth = int(p.depth);
  c.width = int(p.width);
  c.query = head_matrix(p.query);
  c.key = head_matrix(p.key);
  c.value = head_matrix(p.value);
  if (p.mask) {
    p.mask = four_axes(*p.mask, false);
    c.mask = head_matrix(*p.mask);
    c.mask_col = p.mask->stride(3);
    c.mask_dtype = p.mask->dtype;
  }
  c.causal = p.right == 0;
  c.scale = p.scale;
  return c;
}

// The word of query i and key j of head h has the index (h L + i) W + j in the stream of (seed, offset), with W the
// number of keys, rounded up to whole groups.
void DropoutBlock::draw(int64_t h, int64_t i, int64_t queries, int64_t j, int64_t keys) {
  auto philox = kernels().dropout.philox_group;
  const int64_t groups = divide_up(p_.keys, kGroup), first = j / kGroup, last = divide_up(j + keys, kGroup);
  first_query_ = i;
  first_key_ = first * kGroup;
  uint32_t words[kGroup];
  for (int64_t q = 0; q < queries; ++q)
    for (int64_t g = first; g < last; ++g) {
      philox(uint64_t((h * p_.queries + i + q) * groups + g), p_.offset, p_.seed, words);
      char* to = memory_.as<char>() + q * width_ + (g - first) * kGroup;
      for (int64_t w = 0; w < kGroup; ++w) to[w] = char(words[w] >= p_.threshold);
    }
}

void DropoutBlock::factor(int64_t i, int64_t j, int64_t rows, int64_t cols, bool by_keys, char* to, int64_t step) {
  const char* from = memory_.as<char>() + (i - first_query_) * width_ + (j - first_key_);
  const int64_t row = by_keys ? 1 : width_, col = by_keys ? width_ : 1;
  auto fill = [&](auto* p) {
    using S = std::remove_pointer_t<decltype(p)>;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) p[r * step + c] = S(from[r * row + c * col]) * S(p_.kept);
  };
  if (p_.compute == DType::f64)
    fill(reinterpret_cast<double*>(to));
  else
    fill(reinterpret_cast<float*>(to));
}

Tiles::Tiles(const AttentionProblem& p)
    : kernel_(kernels().gemm),
      dtype_(p.dtype),
      compute_(p.compute),
      item_(p.item),
      scalar_(p.scalar),
      shape_(kernel_.tile_shape[p.compute]()),
      width_(2 * shape_.lanes),
      offsets_(size_t(2 * std::max({p.depth, p.width, kAttentionColumns})) * sizeof(int64_t)) {
  int64_t n = std::max({p.depth, p.width, kAttentionColumns}), *steps = offsets_.as<int64_t>();
  for (int64_t i = 0; i < n; ++i) {
    steps[i] = i * shape_.rows;
    steps[n + i] = i;
  }
  packed_steps_ = steps;
  plain_steps_ = steps + n;
}

void Tiles::pack_rows(Matrix a, int64_t first, int64_t rows, int64_t depth, char* to) const {
  kernel_.pack_panel[dtype_](a.data + first * a.row * item_, a.col, a.row, depth, int(rows), shape_.rows, to);
}

// A panel that needs one vector only is packed one vector wide, so that its rows stay together.
void Tiles::pack_columns(Matrix b, int64_t depth, int64_t n, char* to) const {
  for (int64_t j = 0; j < n; j += width_)
    kernel_.pack_panel[dtype_](b.data + j * b.col * item_, b.row, b.col, depth, int(std::min(width_, n - j)),
                               int(n - j <= shape_.lanes ? shape_.lanes : width_), to + j * depth * scalar_);
}

void Tiles::run(Tile t, int64_t rows, Columns b, int64_t n, char* c, int64_t c_row) const {
  auto tile = kernel_.tile[compute_];
  t.c_row = c_row;
  t.c_col = 1;
  for (int64_t j = 0; j < n; j += width_) {
    t.b = b.data + j * b.depth * scalar_;
    t.b_step = b.n - j <= shape_.lanes ? shape_.lanes : width_;
    t.c = c + j * scalar_;
    tile(t, int(rows), int(std::min(width_, n - j)));
  }
}

void Tiles::multiply_packed(const char* a, int64_t rows, Columns b, int64_t n, char* c, int64_t c_row) const {
  Tile t{};
  t.k = b.depth;
  t.a = a;
  t.a_row = 1;
  t.offsets = packed_steps_;
  run(t, rows, b, n, c, c_row);
}

void Tiles::multiply(const char* a, int64_t a_row, int64_t rows, int64_t k, Columns b, char* c, int64_t c_row,
                     bool accumulate) const {
  Tile t{};
  t.k = k;
  t.a = a;
  t.a_row = a_row;
  t.offsets = plain_steps_;
  t.accumulate = accumulate;
  run(t, rows, b, b.n, c, c_row);
}

Array widened(const Array& a) { return is_float(a.dtype) ? astype(a, DType::f64) : a; }
std::optional<Array> widened(const std::optional<Array>& a) { return a ? std::optional(widened(*a)) : std::nullopt; }

Array rows_like(const Array& like, const Dims& shape, DType dtype) {
  bool same = shape == like.shape && (like.stride(like.ndim() - 1) == 1 || shape.back() <= 1);
  return same ? Array::empty_like(like, dtype) : Array::empty(shape, dtype, like.device());
}

Array in_layout_of(const Array& like, const Array& a) {
  return a.shape == like.shape && like.is_dense() ? a.with_layout_of(like) : a;
}

}  // namespace fastnn::ops
