// What attention and its gradient share: the problem, taken apart into heads, and products of tiles.
#pragma once
#include <algorithm>
#include <optional>

#include "../array.h"
#include "../dispatch.h"
#include "gemm.h"

namespace fastnn::ops {

constexpr int64_t kAttentionColumns = 128;  // of a block; a multiple of kGroup
constexpr int64_t kAttentionTiles = 8;      // row tiles of a block: they share the packed columns
constexpr int64_t kAll = int64_t(1) << 62;
constexpr int64_t kGroup = 64;  // neighbouring keys of a query whose random words come from one call

// Row r of a range of rows sees columns first + r * first_step to last + r * last_step - 1.
struct Band {
  int64_t first, first_step, last, last_step;
  int64_t begin, end;  // of all that one of the rows sees
  // Puts it into a block of columns [c0, c0 + cols) whose rows begin `at` rows later. Returns the number of columns up
  // to the last that one of m rows sees, 0 if none of them sees any.
  template <class Block>
  int64_t put(Block& b, int64_t at, int64_t m, int64_t c0, int64_t cols) const {
    b.first = first + at * first_step - c0;
    b.last = last + at * last_step - c0;
    b.first_step = first_step;
    b.last_step = last_step;
    return b.first >= cols ? 0 : std::max<int64_t>(0, std::min(cols, b.last + (m - 1) * last_step));
  }
};

struct AttentionProblem {
  Array query, key, value;
  std::optional<Array> mask;            // broadcast to (..., H, L, S)
  int64_t heads, group;                 // query heads in all; query heads per key head
  int64_t queries, keys, depth, width;  // L, S, E, Ev
  DType dtype, compute;
  int64_t item, scalar;   // bytes
  int64_t left, right;    // query i sees keys i - left to i + right; kAll: no limit
  double scale, softcap;  // softcap 0: none
  bool drop;
  uint32_t threshold;
  double kept;  // 1 / (1 - p)
  uint64_t seed, offset;

  AttentionProblem(const char* op, const Array& query, const Array& key, const Array& value,
                   const std::optional<Array>& mask, bool causal, double scale, double p, int64_t seed, int64_t offset,
                   double softcap, int64_t left, int64_t right);

  // Matrix of one head; `share` neighbouring heads have the same one.
  Matrix head(const Array& a, int64_t index, int64_t share = 1) const;
  char* rows_of(const Array& a, int64_t h, int64_t row, int64_t share = 1) const {  // to write to
    Matrix m = head(a, h, share);
    return const_cast<char*>(m.data) + row * m.row * item;
  }
  Matrix query_of(int64_t h) const { return head(query, h); }
  Matrix key_of(int64_t h) const { return head(key, h, group); }
  Matrix value_of(int64_t h) const { return head(value, h, group); }

  // Whether some query may not see some key because of left or right.
  bool limited() const { return left != kAll || right != kAll; }
  // What rows [row, row + n) see among columns; rows are queries, or keys with by_keys.
  Band band(int64_t row, int64_t n, bool by_keys) const;

  // Whether this is so little work that it is done in float64, where a saturated softmax and the small difference that
  // its gradient is lose no digits.
  bool in_float64() const { return dtype != DType::f64 && heads * queries * keys * (depth + width) <= 5120; }

  // to[r * step + c] = mask of query i + r and key j + c, or, with by_keys, of query i + c and key j + r; -inf for
  // false.
  void bias(int64_t h, int64_t i, int64_t j, int64_t rows, int64_t cols, bool by_keys, char* to, int64_t step) const;
};

// ---- on a GPU: (batches, heads, rows, columns) ------------------------------------------------------------------

// The last three axes and what is before them as one; contiguous rows, where `rows`. A copy where strides do not allow
// it.
Array four_axes(const Array& a, bool rows);
gpu::HeadMatrix head_matrix(const Array& four);
// Throws NotImplementedError for what the launchers cannot do. The arrays of the call are those of `p`.
gpu::AttentionCall call_of(const char* op, AttentionProblem& p);

// Which of the keys [first_key, ...) the dropout of queries [i, i + queries) keeps.
class DropoutBlock {
 public:
  DropoutBlock(const AttentionProblem& p, int64_t queries, int64_t keys)
      : p_(p), width_(p.drop ? (keys + 2 * kGroup - 2) / kGroup * kGroup : 0), memory_(size_t(queries * width_)) {}
  void draw(int64_t h, int64_t i, int64_t queries, int64_t j, int64_t keys);
  // As AttentionProblem::bias, of 0 or 1 / (1 - p); the block must be inside of the drawn one.
  void factor(int64_t i, int64_t j, int64_t rows, int64_t cols, bool by_keys, char* to, int64_t step);

 private:
  const AttentionProblem& p_;
  int64_t width_;
  Scratch memory_;  // a byte for each
  int64_t first_query_ = 0, first_key_ = 0;
};

// Packs operands and multiplies them with the register tiles of gemm.
class Tiles {
 public:
  explicit Tiles(const AttentionProblem& p);
  int64_t rows() const { return shape_.rows; }
  int64_t packed_columns(int64_t n) const { return divide_up(n, width_) * width_; }

  // Rows [first, first + rows) of a, `depth` deep, as the left operand. Takes rows() * depth scalars.
  void pack_rows(Matrix a, int64_t first, int64_t rows, int64_t depth, char* to) const;
  // A right operand of depth x n. Takes depth * packed_columns(n) scalars.
  void pack_columns(Matrix b, int64_t depth, int64_t n, char* to) const;

  // A right operand as packed: depth and n are those of the packing.
  struct Columns {
    const char* data;
    int64_t depth, n;
  };
  // c (+)= a b, with a from pack_rows; the first `n` columns.
  void multiply_packed(const char* a, int64_t rows, Columns b, int64_t n, char* c, int64_t c_row) const;
  // c (+)= a b for a plain matrix of scalars with a_row between rows; the first k elements of the depth.
  void multiply(const char* a, int64_t a_row, int64_t rows, int64_t k, Columns b, char* c, int64_t c_row,
                bool accumulate) const;

 private:
  void run(Tile t, int64_t rows, Columns b, int64_t n, char* c, int64_t c_row) const;

  const GemmKernels& kernel_;
  DType dtype_, compute_;
  int64_t item_, scalar_;
  TileShape shape_;
  int64_t width_;
  Scratch offsets_;
  const int64_t *packed_steps_, *plain_steps_;
};

// Row i of `parts` that `n` rows are dealt to evenly.
inline int64_t dealt(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }

// Whether attention_decode does it: few queries, so that packing keys and values would cost more than reading them.
bool decodes(const AttentionProblem& p);
void attention_decode(const AttentionProblem& p, const Array& y, const Array& log_sum);

// A floating array in float64.
Array widened(const Array& a);
std::optional<Array> widened(const std::optional<Array>& a);

// Uninitialised, with contiguous rows, and laid out like `like` if that is dense and has such rows and that shape.
Array rows_like(const Array& like, const Dims& shape, DType dtype);
// `a`, laid out like `like` if that is dense and has a's shape.
Array in_layout_of(const Array& like, const Array& a);

}  // namespace fastnn::ops
