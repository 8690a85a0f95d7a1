// What embedding and embedding_bag share: indices, and where each of them stands.
#pragma once
#include <vector>

#include "../array.h"

namespace fastnn::ops {

constexpr int64_t kRowGrain = 32768;  // bytes of rows worth about 5 us

// The indices as contiguous int64, each in [0, rows).
Array checked_indices(const char* op, const Array& input, int64_t rows);

// Positions of each index, by counting: those of row r are order[begin[r]] to order[begin[r + 1] - 1], rising.
struct IndexBuckets {
  std::vector<int64_t> begin, order;

  IndexBuckets(const int64_t* at, int64_t n, int64_t rows) : begin(size_t(rows) + 1), order(size_t(n)) {
    for (int64_t i = 0; i < n; ++i) ++begin[size_t(at[i]) + 1];
    for (size_t r = 1; r < begin.size(); ++r) begin[r] += begin[r - 1];
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t i = 0; i < n; ++i) order[size_t(next[size_t(at[i])]++)] = i;
  }
};

}  // namespace fastnn::ops
