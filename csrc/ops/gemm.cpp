#include "gemm.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "../float_mode.h"
#include "../packed.h"
#include "../parallel.h"

namespace fastnn {
namespace {

// Bytes of depth of a block in each packed row or column. A block of bfloat16 has more, as it spares a pass over sums.
constexpr int64_t kDepthBytes = 2048, kPairDepthBytes = 4096;
constexpr int64_t kSuper = 2048;             // rows and columns of C that are done before the next ones are begun
constexpr int64_t kFewRows = 4;              // up to here reading B once is all that matters
constexpr int64_t kFlopsPerChunk = 1 << 20;  // about 10 us
constexpr int64_t kDirectBytes = 256 << 10;  // a row-major B of this size is read as it lies
constexpr int64_t kBytesPerChunk = 16384;    // of packing: about 5 us
constexpr int64_t kWholeBytes = 4 << 20;     // of rows that are packed over the whole depth before kept columns
constexpr int64_t kRowsOfKept = 512;         // with more rows packing a weight anew costs less than 2%
constexpr int64_t kKeptColumns = -1;         // the key of a packed weight, beside those of conv2d's PackKind

// Bytes of packed panels (or of packed row tiles) that stay in L2 while the other operand passes by.
int64_t resident_bytes() {
  static const int64_t bytes = [] {
    int64_t l2 = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return l2 > 0 ? std::clamp<int64_t>(l2 / 8 * 7, 192 << 10, 2 << 20) : 448 << 10;
  }();
  return bytes;
}

// parallel_for in shares that end at the items themselves: with few large items a chunk size that is rounded up would
// leave a thread waiting. Many shares shrink towards the end of each thread's part, so that threads end together.
template <class F>
void for_shares(int64_t n, int64_t grain, F&& fn) {
  const int64_t threads = num_threads(), most = threads == 1 ? 1 : 8 * threads;
  const int64_t shares = std::clamp<int64_t>(n / grain, 1, most);
  auto end_of = [&](int64_t i) {
    if (threads == 1 || shares < most) return n * i / shares;
    const int64_t part = i / 8, at = i % 8;
    return n * (64 * part + at * (16 - at)) / (64 * threads);
  };
  parallel_for(shares, 1, [&](int64_t begin, int64_t end) {
    if (const int64_t from = end_of(begin), to = end_of(end); from < to) fn(from, to);
  });
}

// Few rows times a row-major B, which is read once as it lies: blocks of k give partial rows, added in order.
void few_rows(DType dtype, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, char* c, int64_t ldc,
              const Epilogue& e) {
  const GemmKernels& kernel = fastnn::kernels().gemm;
  const int64_t item = int64_t(size_of(dtype)), scalar = int64_t(size_of(compute_type(dtype)));
  const int64_t width = 2 * kernel.tile_shape[dtype]().lanes;
  const int64_t block = std::max<int64_t>({16, divide_up(k, 16), (1 << 16) / n}), blocks = divide_up(k, block);
  const int64_t partial = m * n * scalar;
  Scratch sums(size_t(blocks * partial + width * scalar)), offsets(size_t(blocks) * 8);
  parallel_for(blocks, std::max<int64_t>(1, kFlopsPerChunk / (8 * m * n * block)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      char* to = sums.as<char>() + i * partial;
      std::memset(to, 0, size_t(partial));
      kernel.combine_rows[dtype](m, n, std::min(block, k - i * block), a.data + i * block * a.col * item, a.row, a.col,
                                 b.data + i * block * b.row * item, b.row, to);
    }
  });
  const float one = 1;
  const double one_f64 = 1;
  std::memset(offsets.as<char>(), 0, size_t(blocks) * 8);
  Tile t{};
  t.k = blocks;
  t.a = dtype == DType::f64 ? static_cast<const void*>(&one_f64) : &one;
  t.offsets = offsets.as<int64_t>();
  t.b_step = m * n;
  t.c_row = ldc;
  t.c_col = 1;
  t.activation = e.activation;
  t.accumulate = e.accumulate;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; j += width) {
      t.b = sums.as<char>() + (i * n + j) * scalar;
      t.c = c + (i * ldc + j) * item;
      t.bias = e.bias ? static_cast<const char*>(e.bias) + j * scalar : nullptr;
      t.residual = e.residual ? static_cast<const char*>(e.residual) + (i * ldc + j) * item : nullptr;
      kernel.tile[dtype](t, 1, int(std::min(width, n - j)));
    }
}

// One operand cut along its rows (of A) or columns (of B) into items that a register tile takes whole.
struct Side {
  int64_t step, depth_step;  // of the matrix: from one row (column) to the next, and along k
  const char* data;
  int64_t size, unit, items;
  bool even;  // items are dealt evenly: tiles of rows; else whole units and a rest: panels of columns

  int64_t begin(int64_t i) const { return even ? size * i / items : std::min(size, i * unit); }
  int64_t count(int64_t i) const { return begin(i + 1) - begin(i); }
};

Side rows_of(Matrix a, int64_t m, int64_t unit) {
  // A few tiles are made a multiple of the threads.
  const int64_t least = divide_up(m, unit), threads = num_threads();
  const int64_t tiles = least >= threads && least < 16 * threads ? divide_up(least, threads) * threads : least;
  return {a.row, a.col, a.data, m, unit, tiles, true};
}

Side columns_of(Matrix b, int64_t n, int64_t unit) {
  return {b.col, b.row, b.data, n, unit, divide_up(n, unit), false};
}

// Brings a share of some memory to L2.
void fetch_bytes(const char* from, int64_t bytes, int64_t part, int64_t parts) {
  for (int64_t b = bytes * part / parts; b < bytes * (part + 1) / parts; b += 64) __builtin_prefetch(from + b, 0, 2);
}

struct Product {
  int64_t item, c_item, scalar;  // sizes of an element of A and B, of C, and of packed operands and sums
  int64_t depth;                 // elements along k in a packed one: 2 of bfloat16, 2 or 4 of integers
  int lanes;
  void (*pack_rows)(const void*, int64_t, int64_t, int64_t, int, int, void*);
  void (*pack_cols)(const void*, int64_t, int64_t, int64_t, int, int, void*);
  void (*tile)(const Tile&, int, int);
  void (*sums_tile)(const Tile&, int, int);  // with c in the type of sums
  Side rows, cols;
  bool direct_rows, direct_cols;  // read as they lie, where an item is whole vectors
  char* c;
  int64_t ldc;
  Epilogue e;
  void (*byte_tile)(const Tile&, const Requantize*, int64_t, int, int) = nullptr;  // of integers
  const Requantize* q = nullptr;
  int64_t sums_row = 0, sums_first_row = 0, sums_first_col = 0;
  const char* kept_cols = nullptr;  // all of B, packed before: block after block of depth

  // A panel that needs one vector only is packed one vector wide, so that its rows stay together.
  int64_t width(const Side& s, int64_t i) const { return !s.even && s.count(i) <= lanes ? lanes : s.unit; }
  int64_t steps(int64_t kb) const { return divide_up(kb, depth); }
  int64_t bytes(const Side& s, int64_t kb) const { return s.unit * steps(kb) * scalar; }
  bool kept(const Side& s) const { return !s.even && kept_cols; }
  bool direct(const Side& s, int64_t i) const {
    return s.even ? direct_rows : !kept_cols && direct_cols && s.count(i) % lanes == 0;
  }
  const char* place(const Side& s, int64_t i, int64_t k0) const {
    return s.data + (s.begin(i) * s.step + k0 * s.depth_step) * item;
  }
  // Elements along k of a block, at least one step: blocks are equal but for the last.
  int64_t block_depth(int64_t k) const {
    const int64_t blocks =
        std::max<int64_t>(1, divide_up(steps(k) * scalar, depth > 1 ? kPairDepthBytes : kDepthBytes));
    return std::max(depth, divide_up(divide_up(k, blocks), depth) * depth);
  }
  // Where an item stands that needs no packing, else null.
  const char* standing(const Side& s, int64_t i, int64_t k0, int64_t kb) const {
    if (kept(s)) return kept_cols + s.items * bytes(s, k0) + i * bytes(s, kb);
    return direct(s, i) ? place(s, i, k0) : nullptr;
  }
  // The item as tiles want it: packed at `to`, or where it stands.
  const char* ready(const Side& s, int64_t i, int64_t k0, int64_t kb, char* to) const {
    if (const char* at = standing(s, i, k0, kb)) return at;
    auto pack = s.even ? pack_rows : pack_cols;
    pack(place(s, i, k0), s.depth_step, s.step, kb, int(s.count(i)), int(width(s, i)), to);
    return to;
  }
  // Fetches a share of what the item will be packed from, if it lies in lines.
  void fetch(const Side& s, int64_t i, int64_t k0, int64_t kb, int64_t part, int64_t parts) const {
    if (kept(s)) return fetch_bytes(standing(s, i, k0, kb), bytes(s, kb), part, parts);
    const bool deep = s.depth_step == 1;
    if (!deep && s.step != 1) return;
    const int64_t lines = deep ? s.count(i) : kb, line = (deep ? s.step : s.depth_step) * item;
    const int64_t bytes = (deep ? kb : s.count(i)) * item;
    const char* from = place(s, i, k0);
    for (int64_t r = lines * part / parts; r < lines * (part + 1) / parts; ++r)
      for (int64_t b = 0; b < bytes + 63; b += 64) __builtin_prefetch(from + r * line + std::min(b, bytes - 1), 0, 2);
  }
};

// All of B, packed, if it was used before.
std::optional<Packed> kept_columns(const Product& p, int64_t k, const Array& weight) {
  const Side& cols = p.cols;
  const int64_t depth = p.block_depth(k);
  return Packed::from_second_use(weight, {kKeptColumns}, size_t(cols.items * p.bytes(cols, k)), [&](char* to) {
    parallel_for(cols.items, std::max<int64_t>(1, 65536 / p.bytes(cols, k)), [&](int64_t begin, int64_t end) {
      for (int64_t k0 = 0; k0 < k; k0 += depth) {
        const int64_t kb = std::min(depth, k - k0), bytes = p.bytes(cols, kb);
        for (int64_t i = begin; i < end; ++i)
          p.pack_cols(p.place(cols, i, k0), cols.depth_step, cols.step, kb, int(cols.count(i)), int(p.width(cols, i)),
                      to + cols.items * p.bytes(cols, k0) + i * bytes);
      }
    });
  });
}

// Cuts C into tiles. The shorter operand is packed first and stays in L2, a block at a time, while items of the other
// are packed and pass by.
void blocked(Product& p, int64_t k) {
  const bool rows_stay = p.rows.size < p.cols.size;
  const Side &stay = rows_stay ? p.rows : p.cols, &pass = rows_stay ? p.cols : p.rows;
  const int64_t depth = p.block_depth(k);
  const bool partial = k > depth && p.c_item != p.scalar;
  // About kSuper elements in equal parts: a small rest would have all of the other operand packed again.
  auto super_of = [](const Side& side) {
    return divide_up(side.items, std::max<int64_t>(1, (side.size + kSuper / 2) / kSuper));
  };
  const int64_t stay_super = super_of(stay), pass_super = super_of(pass);
  const int64_t resident = std::max<int64_t>(1, resident_bytes() / std::max<int64_t>(1, p.bytes(stay, depth)));
  // What stays is packed over the whole depth at once where it is little: threads then meet once.
  const bool whole = stay.items <= std::min(stay_super, resident) &&
                     stay.items * p.bytes(stay, k) <= (p.kept(pass) ? kWholeBytes : resident_bytes()) &&
                     (p.kept(pass) || pass.items >= 4 * num_threads());
  const int64_t sweep = whole ? std::max(k, depth) : depth;
  Scratch packed_memory(p.kept(stay) ? 0 : size_t(std::min(stay_super, stay.items) * p.bytes(stay, sweep)));
  Scratch offsets_memory(p.direct_rows ? size_t(depth) * sizeof(int64_t) : 0);
  int64_t* offsets = p.direct_rows ? offsets_memory.as<int64_t>() : nullptr;
  if (offsets)
    for (int64_t i = 0; i < depth; ++i) offsets[i] = i * p.rows.depth_step;
  p.sums_row = std::min((rows_stay ? pass_super : stay_super) * p.cols.unit, p.cols.size);
  Scratch sums_memory(
      partial ? size_t(std::min((rows_stay ? stay_super : pass_super) * p.rows.unit, p.rows.size) * p.sums_row) *
                    sizeof(float)
              : 0);
  char* packed = packed_memory.as<char>();

  auto run = [&](int64_t i, int64_t j, const char* a, const char* b, int64_t k0, int64_t kb) {
    const bool first = k0 == 0, last = k0 + kb >= k;
    const int64_t from = p.rows.begin(i), to = p.cols.begin(j);
    Tile t{};
    t.k = p.steps(kb);
    t.a = a;
    t.a_row = p.direct_rows ? p.rows.step : 1;
    t.a_step = p.direct_rows ? 0 : p.rows.unit;
    t.offsets = offsets;
    t.b = b;
    t.b_step = p.direct(p.cols, j) ? p.cols.depth_step : p.width(p.cols, j);
    t.c = p.c + (from * p.ldc + to) * p.c_item;
    t.c_row = p.ldc;
    t.c_col = 1;
    t.accumulate = !first || p.e.accumulate;
    auto tile = p.tile;
    if (partial) {
      float* sums = sums_memory.as<float>() + (from - p.sums_first_row) * p.sums_row + to - p.sums_first_col;
      t.accumulate = !first && !last;
      if (last) {
        t.sums = sums;
        t.sums_row = p.sums_row;
      } else {
        t.c = sums;
        t.c_row = p.sums_row;
        tile = p.sums_tile;
      }
    }
    if (last) {
      t.bias = p.e.bias ? static_cast<const char*>(p.e.bias) + to * p.scalar : nullptr;
      t.residual = p.e.residual ? static_cast<const char*>(p.e.residual) + (from * p.ldc + to) * p.c_item : nullptr;
      t.activation = p.e.activation;
    }
    const int rows = int(p.rows.count(i)), cols = int(p.cols.count(j));
    p.q ? p.byte_tile(t, last ? p.q : nullptr, to, rows, cols) : tile(t, rows, cols);
  };

  for (int64_t p0 = 0; p0 < pass.items; p0 += pass_super)
    for (int64_t s0 = 0; s0 < stay.items; s0 += stay_super) {
      const int64_t passing = std::min(pass_super, pass.items - p0), staying = std::min(stay_super, stay.items - s0);
      p.sums_first_row = p.rows.begin(rows_stay ? s0 : p0);
      p.sums_first_col = p.cols.begin(rows_stay ? p0 : s0);
      // Few passing items mean that more groups are needed to give every thread some.
      const int64_t wanted = std::max(divide_up(staying, resident), divide_up(4 * num_threads(), passing));
      const int64_t groups = std::min(staying, wanted);
      const bool ahead = groups > 1 && !whole && !p.kept(pass);  // several groups need each passing item: packed once
      Scratch passers_memory(ahead ? size_t(passing * p.bytes(pass, depth)) : 0);
      char* passers = passers_memory.as<char>();
      for (int64_t first = 0; first == 0 || first < k; first += sweep) {
        const int64_t end_of_sweep = std::min(k, first + sweep);
        // Where an item of a block is, or is to be, packed.
        auto stayer_at = [&](int64_t i, int64_t k0, int64_t kb) {
          return packed + staying * p.bytes(stay, k0 - first) + i * p.bytes(stay, kb);
        };
        auto passer_at = [&](int64_t q, int64_t kb) { return passers + q * p.bytes(pass, kb); };
        auto blocks_of_sweep = [&](auto&& each) {
          for (int64_t k0 = first; k0 == first || k0 < end_of_sweep; k0 += depth) each(k0, std::min(depth, k - k0));
        };
        const int64_t to_pack = p.kept(stay) ? 0 : staying, most = std::max(p.bytes(stay, sweep), p.bytes(pass, depth));
        for_shares(to_pack + (ahead ? passing : 0), std::max<int64_t>(1, kBytesPerChunk / std::max<int64_t>(1, most)),
                   [&](int64_t begin, int64_t end) {
                     blocks_of_sweep([&](int64_t k0, int64_t kb) {
                       for (int64_t i = begin; i < end; ++i)
                         i < to_pack ? p.ready(stay, s0 + i, k0, kb, stayer_at(i, k0, kb))
                                     : p.ready(pass, p0 + i - to_pack, k0, kb, passer_at(i - to_pack, kb));
                     });
                   });
        const int64_t work = 2 * pass.unit * std::max<int64_t>(sweep, 1) * divide_up(staying, groups) * stay.unit;
        for_shares(groups * passing, std::max<int64_t>(1, kFlopsPerChunk / work), [&](int64_t begin, int64_t end) {
          Scratch pass_memory(ahead || p.kept(pass) ? 0 : size_t(p.bytes(pass, depth)));
          for (int64_t task = begin; task < end; ++task) {
            const int64_t group = task / passing, q = task % passing;
            const int64_t from = staying * group / groups, to = staying * (group + 1) / groups;
            blocks_of_sweep([&](int64_t k0, int64_t kb) {
              const char* passer =
                  ahead ? p.standing(pass, p0 + q, k0, kb) : p.ready(pass, p0 + q, k0, kb, pass_memory.as<char>());
              if (!passer) passer = passer_at(q, kb);
              // What follows: the next block of this item, or the first of the next one.
              const bool more = k0 + kb < end_of_sweep, any = more || task + 1 < end;
              const int64_t next = more ? q : (task + 1) % passing, next_k0 = more ? k0 + kb : first;
              const int64_t next_kb = std::min(depth, k - next_k0);
              for (int64_t i = from; i < to; ++i) {
                if (any && ahead)
                  fetch_bytes(passer_at(next, kb), p.bytes(pass, kb), i - from, to - from);
                else if (any)
                  p.fetch(pass, p0 + next, next_k0, next_kb, i - from, to - from);
                const int64_t s = s0 + i;
                const char* stayer = p.standing(stay, s, k0, kb);
                if (!stayer) stayer = stayer_at(i, k0, kb);
                rows_stay ? run(s, p0 + q, stayer, passer, k0, kb) : run(p0 + q, s, passer, stayer, k0, kb);
              }
            });
          }
        });
      }
    }
}

void run_product(Product& p, int64_t m, int64_t k, const Array* weight) {
  std::optional<Packed> kept;
  if (weight && m <= kRowsOfKept) kept = kept_columns(p, k, *weight);
  if (kept) p.kept_cols = kept->data();
  blocked(p, k);
}

}  // namespace

void gemm(DType dtype, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, char* c, int64_t ldc, const Epilogue& e,
          const Array* weight) {
  if (m == 0 || n == 0) return;
  FlushSubnormals flush;
  const GemmKernels& kernel = fastnn::kernels().gemm;
  const int64_t item = int64_t(size_of(dtype)), scalar = int64_t(size_of(compute_type(dtype)));
  const bool widens = e.wide && item != scalar, few = m <= kFewRows && k > 0 && !widens;

  if (few && b.row == 1 && a.col == 1 && !e.residual && !e.accumulate) {
    int64_t grain = std::max<int64_t>(8, kFlopsPerChunk / (2 * m * k) / 8 * 8);
    parallel_for(divide_up(n, 8), grain / 8, [&](int64_t begin, int64_t end) {
      int64_t j = begin * 8, cols = std::min(n, end * 8) - j;
      auto* bias = e.bias ? static_cast<const char*>(e.bias) + j * scalar : nullptr;
      kernel.dot_rows[dtype](m, cols, k, a.data, a.row, b.data + j * b.col * item, b.col, c + j * item, ldc, bias,
                             e.activation);
    });
    return;
  }

  if (few && b.col == 1) return few_rows(dtype, m, n, k, a, b, c, ldc, e);
  if (n == 1 && ldc == 1 && !e.bias && m > kFewRows && !widens) {  // a column: the transposed product has few rows
    return gemm(dtype, 1, m, k, {b.data, b.col, b.row}, {a.data, a.col, a.row}, c, m, e);
  }

  const TileShape shape = kernel.tile_shape[dtype]();
  const bool pairs = dtype == DType::bf16 && kernel.tile_pairs;
  const auto pack = pairs ? kernel.pack_pairs : kernel.pack_panel[dtype];
  const auto sums_tile = pairs ? kernel.tile_pairs_sums : kernel.tile[compute_type(dtype)];
  Product p{item,
            widens ? scalar : item,
            scalar,
            pairs ? 2 : 1,
            shape.lanes,
            pack,
            pack,
            widens  ? sums_tile
            : pairs ? kernel.tile_pairs
                    : kernel.tile[dtype],
            sums_tile,
            rows_of(a, m, shape.rows),
            columns_of(b, n, 2 * shape.lanes),
            scalar == item && n <= 128,
            scalar == item && b.col == 1 && k * n * item <= kDirectBytes,
            c,
            ldc,
            e};
  run_product(p, m, k, weight);
}

void gemm_bytes(DType a_dtype, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, char* c, int64_t ldc,
                const Requantize& q, const Array* weight) {
  if (m == 0 || n == 0) return;
  FlushSubnormals flush;
  const QuantizedKernels& kernel = fastnn::kernels().quantized;
  const ByteTileShape shape = kernel.byte_tile_shape();
  Product p{1,
            int64_t(size_of(q.out)),
            4,
            shape.depth,
            shape.lanes,
            a_dtype == DType::u8 ? kernel.pack_unsigned : kernel.pack_shifted,
            kernel.pack_signed,
            nullptr,
            nullptr,
            rows_of(a, m, shape.rows),
            columns_of(b, n, 2 * shape.lanes),
            false,
            false,
            c,
            ldc,
            {},
            kernel.byte_tile,
            &q};
  run_product(p, m, k, weight);
}

}  // namespace fastnn
