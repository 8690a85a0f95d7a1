// Attention of few queries over many keys, as in decoding with a cache: keys and values are read once, where they lie.
// They are dealt to parts of a fixed size; each part has its own softmax, and the parts are joined in their order
// ("Flash-Decoding", Dao et al. 2023).
#include <cmath>
#include <cstring>
#include <limits>

#include "../parallel.h"
#include "attention_common.h"

namespace fastnn::ops {
namespace {

constexpr int64_t kQueries = 4;  // at most: more of them are faster in tiles
constexpr int64_t kPart = 256;   // keys: long runs of them and of their values are what DRAM gives fastest

// For each head of keys and each of its parts: rows (a query of a query head each) of top, total and out.
struct Parts {
  const AttentionProblem& p;
  int64_t rows, count, first_key;
  Scratch memory;

  Parts(const AttentionProblem& problem, int64_t count_, int64_t first)
      : p(problem),
        rows(problem.group * problem.queries),
        count(count_),
        first_key(first),
        memory(size_t(problem.heads / problem.group * count * each())) {}

  int64_t each() const { return rows * (2 + p.width) * p.scalar; }
  char* top(int64_t head, int64_t part) { return memory.as<char>() + (head * count + part) * each(); }
  char* total(int64_t head, int64_t part) { return top(head, part) + rows * p.scalar; }
  char* out(int64_t head, int64_t part) { return top(head, part) + 2 * rows * p.scalar; }
};

// Scratch memory of one thread.
struct Worker {
  const AttentionProblem& p;
  Parts& parts;
  Scratch queries, scores, bias, factor;
  DropoutBlock kept;

  Worker(Parts& all)
      : p(all.p),
        parts(all),
        queries(size_t(all.rows * p.depth * p.scalar)),
        scores(size_t(all.rows * kPart * p.scalar)),
        bias(p.mask ? size_t(p.queries * kPart * p.scalar) : 0),
        factor(p.drop ? size_t(p.queries * kPart * p.scalar) : 0),
        kept(p, p.queries, kPart) {}

  void load_queries(int64_t head);
  void run(int64_t head, int64_t part, const Band& band);
};

void Worker::load_queries(int64_t head) {
  for (int64_t g = 0; g < p.group; ++g) {
    const Matrix q = p.query_of(head * p.group + g);
    // Rows of a packed panel one element wide are the row itself, in the scalar type.
    for (int64_t i = 0; i < p.queries; ++i)
      kernels().gemm.pack_panel[p.dtype](q.data + i * q.row * p.item, q.col, q.row, p.depth, 1, 1,
                                         queries.as<char>() + (g * p.queries + i) * p.depth * p.scalar);
  }
}

void Worker::run(int64_t head, int64_t part, const Band& band) {
  const AttentionKernels& kernel = kernels().attention;
  const int64_t begin = parts.first_key + part * kPart, end = std::min(begin + kPart, band.end);
  const Matrix k = p.key_of(head * p.group), v = p.value_of(head * p.group);
  char *top = parts.top(head, part), *total = parts.total(head, part), *out = parts.out(head, part);
  auto clear = [&]<class S>(S*) {
    for (int64_t r = 0; r < parts.rows; ++r) reinterpret_cast<S*>(top)[r] = -std::numeric_limits<S>::infinity();
    std::memset(total, 0, size_t(parts.rows * (1 + p.width)) * sizeof(S));
  };
  p.compute == DType::f64 ? clear((double*)nullptr) : clear((float*)nullptr);
  if (const int64_t j = begin, cols = end - begin; cols > 0) {
    kernel.attention_scores[p.dtype](queries.as<char>(), int(parts.rows), k.data + j * k.row * p.item, k.row, cols,
                                     p.depth, scores.as<char>(), kPart);
    for (int64_t g = 0; g < p.group; ++g) {
      const int64_t h = head * p.group + g, row = g * p.queries;
      AttentionSoftmax b{};
      band.put(b, 0, p.queries, j, cols);
      b.rows = int(p.queries);
      b.cols = cols;
      b.step = kPart;
      b.scale = p.scale;
      b.softcap = p.softcap;
      b.scores = scores.as<char>() + row * kPart * p.scalar;
      b.top = top + row * p.scalar;
      b.total = total + row * p.scalar;
      b.out = out + row * p.width * p.scalar;
      b.out_step = b.out_cols = p.width;
      if (p.mask) {
        p.bias(h, 0, j, p.queries, cols, false, bias.as<char>(), kPart);
        b.bias = bias.as<char>();
      }
      if (p.drop) {
        kept.draw(h, 0, p.queries, j, cols);
        kept.factor(0, j, p.queries, cols, false, factor.as<char>(), kPart);
        b.factor = factor.as<char>();
      }
      kernel.attention_softmax[p.compute](b);
    }
    kernel.attention_values[p.dtype](scores.as<char>(), kPart, int(parts.rows), v.data + j * v.row * p.item, v.row,
                                     cols, p.width, out, true);
  }
}

// Joins the parts of one head in the first of them.
template <class S>
void join(Parts& parts, int64_t head) {
  const int64_t width = parts.p.width;
  for (int64_t r = 0; r < parts.rows; ++r) {
    auto at = [&](char* array, int64_t n) { return reinterpret_cast<S*>(array) + r * n; };
    S *top = at(parts.top(head, 0), 1), *total = at(parts.total(head, 0), 1), *out = at(parts.out(head, 0), width);
    S highest = *top;
    for (int64_t i = 1; i < parts.count; ++i) highest = std::max(highest, *at(parts.top(head, i), 1));
    const S shift = highest == -std::numeric_limits<S>::infinity() ? S(0) : highest;
    for (int64_t i = 0; i < parts.count; ++i) {
      const S share = std::exp(*at(parts.top(head, i), 1) - shift);
      const S part_total = *at(parts.total(head, i), 1) * share, *from = at(parts.out(head, i), width);
      *total = i ? *total + part_total : part_total;
      for (int64_t c = 0; c < width; ++c) out[c] = i ? out[c] + from[c] * share : from[c] * share;
    }
    *top = highest;
  }
}

}  // namespace

bool decodes(const AttentionProblem& p) {
  auto row_wise = [&](const Array& a) { return a.stride(a.ndim() - 1) == 1 || a.size(a.ndim() - 1) <= 1; };
  return p.queries <= kQueries && row_wise(p.key) && row_wise(p.value);
}

void attention_decode(const AttentionProblem& p, const Array& y, const Array& log_sum) {
  const Band band = p.band(0, p.queries, false);
  const int64_t heads = p.heads / p.group, count = std::max<int64_t>(1, divide_up(band.end - band.begin, kPart));
  Parts parts(p, count, band.begin);
  const int64_t work = std::min(kPart, p.keys) * (p.depth + p.width) * parts.rows;  // multiply-adds of a part
  parallel_for(heads * count, std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, work)),
               [&](int64_t begin, int64_t end) {
                 Worker worker(parts);
                 for (int64_t task = begin; task < end; ++task) {
                   if (task == begin || task % count == 0) worker.load_queries(task / count);
                   worker.run(task / count, task % count, band);
                 }
               });
  const AttentionKernels& kernel = kernels().attention;
  for (int64_t head = 0; head < heads; ++head) {
    p.compute == DType::f64 ? join<double>(parts, head) : join<float>(parts, head);
    for (int64_t g = 0; g < p.group; ++g) {
      const int64_t h = head * p.group + g, row = g * p.queries * p.scalar;
      kernel.attention_store[p.dtype](parts.out(head, 0) + row * p.width, p.width, 1, parts.total(head, 0) + row,
                                      int(p.queries), p.width, p.rows_of(y, h, 0), y.stride(y.ndim() - 2));
      kernel.attention_log_sum[p.compute](parts.top(head, 0) + row, parts.total(head, 0) + row, p.queries,
                                          log_sum.data + h * p.queries * p.scalar);
    }
  }
}

}  // namespace fastnn::ops
