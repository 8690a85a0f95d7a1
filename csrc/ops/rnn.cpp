#include "rnn.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "../dispatch.h"
#include "../float_mode.h"
#include "../parallel.h"
#include "gemm.h"
#include "matmul.h"

namespace fastnn::ops {
namespace {

constexpr int64_t kDepth = 512;              // as in gemm: a panel of 512 x 32 floats stays in L2
constexpr int64_t kTilesPerTask = 4;         // row tiles of a task: they share a panel
constexpr int64_t kFlopsPerChunk = 1 << 19;  // about 5 us

struct Layer {
  RnnCell cell;
  std::string op;
  int64_t gates;                        // G
  int64_t steps, batch, input, hidden;  // T, N, I, H
  DType dtype, compute;
  int64_t scalar;  // bytes of the compute type
};

// Rows of these many scalars apart lie in different cache sets: an odd number of cache lines.
int64_t padded(int64_t n, int64_t scalar) {
  const int64_t line = 64 / scalar;
  return (divide_up(n, line) | 1) * line;
}

Array in(DType dtype, const Array& a) {
  return a.dtype == dtype ? a.contiguous() : fastnn::astype(a.contiguous(), dtype);
}

RnnCell parse_cell(std::string_view cell) {
  constexpr std::string_view names[] = {"rnn_tanh", "rnn_relu", "lstm", "gru"};
  for (int i = 0; i < 4; ++i)
    if (cell == names[i]) return RnnCell(i);
  throw ValueError(message("rnn_layer: cell is ", cell, "; expected rnn_tanh, rnn_relu, lstm or gru"));
}

void check(const Layer& l, const char* what, const Array& a, const Dims& shape) {
  require<TypeError>(a.dtype == l.dtype, l.op, ": ", what, " is ", name(a.dtype), " but input is ", name(l.dtype),
                     "; expected the same dtype, convert one of them");
  require<ValueError>(a.shape == shape, l.op, ": ", what, " has shape ", a.shape, "; expected ", shape);
}

Layer check_layer(std::string_view cell, const Array& input, const Array& weight_ih, const Array& weight_hh) {
  Layer l{};
  l.cell = parse_cell(cell);
  l.op = std::string(cell);
  l.gates = l.cell == RnnCell::lstm ? 4 : l.cell == RnnCell::gru ? 3 : 1;
  l.dtype = input.dtype;
  require<NotImplementedError>(is_float(l.dtype), l.op, ": input has dtype ", name(l.dtype),
                               "; expected float32, bfloat16, float16 or float64");
  l.compute = compute_type(l.dtype);
  l.scalar = int64_t(size_of(l.compute));
  require<ValueError>(input.ndim() == 3, l.op, ": input has shape ", input.shape,
                      "; expected (steps, batch, features)");
  require<ValueError>(input.size(0) > 0, l.op, ": input has no steps; expected at least 1");
  require<ValueError>(weight_hh.ndim() == 2 && weight_hh.size(1) > 0, l.op, ": weight_hh has shape ", weight_hh.shape,
                      "; expected (", l.gates, " * hidden_size, hidden_size)");
  l.steps = input.size(0), l.batch = input.size(1), l.input = input.size(2), l.hidden = weight_hh.size(1);
  check(l, "weight_hh", weight_hh, {l.gates * l.hidden, l.hidden});
  check(l, "weight_ih", weight_ih, {l.gates * l.hidden, l.input});
  return l;
}

// Products of small matrices with one fixed matrix, which is packed once. Its columns are taken in blocks.
class FixedMatrix {
 public:
  // b: depth x columns, in the compute type.
  FixedMatrix(DType compute, Matrix b, int64_t depth, int64_t columns, int64_t block)
      : kernel_(kernels().gemm),
        compute_(compute),
        scalar_(int64_t(size_of(compute))),
        shape_(kernel_.tile_shape[compute]()),
        depth_(depth),
        block_(block),
        packed_(size_t(depth * divide_up(columns, block) * block * scalar_)),
        offset_memory_(size_t(kDepth) * sizeof(int64_t)),
        panels_(packed_.as<char>()),
        offsets_(offset_memory_.as<int64_t>()) {
    for (int64_t i = 0; i < kDepth; ++i) offsets_[i] = i;
    const auto pack = kernel_.pack_panel[compute];
    parallel_for(
        divide_up(columns, block), std::max<int64_t>(1, 16384 / (depth * block)), [&](int64_t begin, int64_t end) {
          for (int64_t j = begin * block; j < end * block; j += block)
            for (int64_t p = 0; p < block; p += 2 * shape_.lanes)
              pack(b.data + (j + p) * b.col * scalar_, b.row, b.col, depth,
                   int(std::clamp<int64_t>(columns - j - p, 0, panel_width(p))), int(panel_width(p)), panel(j + p));
        });
  }

  // Row tiles of a matrix of n rows are dealt to tasks; task i has rows [task_begin(i), task_begin(i + 1)).
  int64_t tasks(int64_t n) const { return divide_up(n, kTilesPerTask * shape_.rows); }
  int64_t task_begin(int64_t n, int64_t i) const { return n * i / tasks(n); }
  int64_t most_rows(int64_t n) const { return n ? divide_up(n, tasks(n)) : 0; }

  // c = a B + residual for `cols` columns of block j of B; rows of a are a_row apart, those of c and residual c_row.
  void multiply(const char* a, int64_t a_row, int64_t rows, int64_t j, int64_t cols, char* c, int64_t c_row,
                const char* residual = nullptr) const {
    const auto run = kernel_.tile[compute_];
    const int64_t tiles = divide_up(rows, shape_.rows);
    Tile t{};
    t.a_row = a_row;
    t.offsets = offsets_;
    t.c_row = c_row;
    t.c_col = 1;
    for (int64_t p = 0; p < cols; p += 2 * shape_.lanes)
      for (int64_t k0 = 0; k0 < depth_; k0 += kDepth) {
        t.k = std::min(kDepth, depth_ - k0);
        t.b_step = panel_width(p);
        t.b = panel(j * block_ + p) + k0 * t.b_step * scalar_;
        t.accumulate = k0 > 0;
        for (int64_t i = 0; i < tiles; ++i) {
          const int64_t from = rows * i / tiles;
          t.a = a + (from * a_row + k0) * scalar_;
          t.c = c + (from * c_row + p) * scalar_;
          t.residual = residual && k0 + kDepth >= depth_ ? residual + (from * c_row + p) * scalar_ : nullptr;
          run(t, int(rows * (i + 1) / tiles - from), int(std::min<int64_t>(t.b_step, cols - p)));
        }
      }
  }

 private:
  int64_t panel_width(int64_t p) const { return std::min<int64_t>(2 * shape_.lanes, block_ - p); }
  char* panel(int64_t column) const { return panels_ + column * depth_ * scalar_; }

  const GemmKernels& kernel_;
  DType compute_;
  int64_t scalar_;
  TileShape shape_;
  int64_t depth_, block_;
  Scratch packed_, offset_memory_;
  char* panels_;
  int64_t* offsets_;
};

int64_t lanes_of(DType compute) { return kernels().gemm.tile_shape[compute]().lanes; }

// Runs fn(first row, rows, block of `block` units, units) over a step's states, `flops` of work in all.
template <class F>
void for_blocks(const Layer& l, const FixedMatrix& m, int64_t block, F&& fn) {
  const int64_t tasks = m.tasks(l.batch), blocks = divide_up(l.hidden, block);
  const int64_t flops = 2 * l.batch * l.gates * l.hidden * l.hidden / std::max<int64_t>(1, tasks * blocks);
  parallel_for(tasks * blocks, std::max<int64_t>(1, kFlopsPerChunk / std::max<int64_t>(1, flops)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) {
                   const int64_t first = m.task_begin(l.batch, i / blocks), j = i % blocks;
                   fn(first, m.task_begin(l.batch, i / blocks + 1) - first, j, std::min(block, l.hidden - j * block));
                 }
               });
}

// The rows of weight_hh in blocks: those of all gates for `block` units, then for the next. Zeros fill the last one up.
Array rows_by_block(const Layer& l, const Array& weight, int64_t block) {
  const int64_t blocks = divide_up(l.hidden, block), row = l.hidden * l.scalar;
  Array out = Array::empty({blocks * l.gates * block, l.hidden}, l.compute);
  parallel_for(blocks, std::max<int64_t>(1, 65536 / (l.gates * block * l.hidden)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * l.gates; i < end * l.gates; ++i) {
      const int64_t unit = i / l.gates * block, have = std::min(block, l.hidden - unit);
      char* to = out.data + i * block * row;
      std::memcpy(to, weight.data + (i % l.gates * l.hidden + unit) * row, size_t(have * row));
      std::memset(to + have * row, 0, size_t((block - have) * row));
    }
  });
  return out;
}

// Bias of the input's product: the sum of both, but for a GRU's third gate, whose hidden bias is multiplied by a gate.
Array input_bias(const Layer& l, const Array& ih, const Array& hh) {
  Array out = Array::empty({l.gates * l.hidden}, l.compute);
  const int64_t both = l.cell == RnnCell::gru ? 2 * l.hidden : l.gates * l.hidden;
  auto add = [&](auto zero) {
    using S = decltype(zero);
    for (int64_t i = 0; i < out.numel(); ++i) out.as<S>()[i] = i < both ? ih.as<S>()[i] + hh.as<S>()[i] : ih.as<S>()[i];
  };
  l.compute == DType::f64 ? add(0.0) : add(0.0f);
  return out;
}

Array copy_of(const Array& a, DType dtype) {
  Array out = Array::empty(a.shape, dtype);
  copy(a, out);
  return out;
}

// The states before each step and after the last one; those after `step` stand at slot(step + 1).
struct States {
  States(const Layer& l, bool reverse, const Array& all) : l(l), reverse(reverse), all(all) {}
  States(const Layer& l, bool reverse, const MaybeArray& first)
      : States(l, reverse, Array::empty({l.steps + 1, l.batch, l.hidden}, l.compute)) {
    Array start = row(0);
    if (first)
      copy(*first, start);
    else
      std::fill_n(start.data, size_t(start.numel() * l.scalar), char(0));
  }
  int64_t slot(int64_t step) const { return reverse ? l.steps - step : step; }
  char* at(int64_t step) const { return all.data + slot(step) * l.batch * l.hidden * l.scalar; }
  Array row(int64_t step) const {
    return all.view({l.batch, l.hidden}, {l.hidden, 1}, slot(step) * l.batch * l.hidden);
  }
  // In the order of time: after each time step, before each time step.
  Array after() const { return part(reverse ? 0 : 1); }
  Array before() const { return part(reverse ? 1 : 0); }

  const Layer& l;
  bool reverse;
  Array all;

 private:
  Array part(int64_t first) const {
    const int64_t size = l.batch * l.hidden;
    return all.view({l.steps, l.batch, l.hidden}, {size, l.hidden, 1}, first * size);
  }
};

}  // namespace

std::tuple<Array, Array, MaybeArray, Array, MaybeArray, Array, MaybeArray> rnn_layer(
    std::string_view cell, const Array& input, const MaybeArray& h0, const MaybeArray& c0, const Array& weight_ih,
    const Array& weight_hh, const MaybeArray& bias_ih, const MaybeArray& bias_hh, bool reverse) {
  FlushSubnormals flush;
  const Layer l = check_layer(cell, input, weight_ih, weight_hh);
  const bool lstm = l.cell == RnnCell::lstm, gru = l.cell == RnnCell::gru;
  const int64_t width = l.gates * l.hidden;
  if (h0) check(l, "h0", *h0, {l.batch, l.hidden});
  require<ValueError>(lstm || !c0, l.op, ": got c0, which only lstm has");
  if (c0) check(l, "c0", *c0, {l.batch, l.hidden});
  require<ValueError>(bias_ih.has_value() == bias_hh.has_value(), l.op, ": expected both biases or none");
  Array bias, hidden_bias;
  if (bias_ih) {
    check(l, "bias_ih", *bias_ih, {width});
    check(l, "bias_hh", *bias_hh, {width});
    hidden_bias = in(l.compute, *bias_hh);
    bias = input_bias(l, in(l.compute, *bias_ih), hidden_bias);
  }
  const Array x = in(l.compute, input), w_ih = in(l.compute, weight_ih), w_hh = in(l.compute, weight_hh);
  States h(l, reverse, h0);
  std::optional<States> c;
  if (lstm) c.emplace(l, reverse, c0);
  Array gates = Array::empty({l.steps, l.batch, width}, l.compute);
  MaybeArray hidden_term;
  if (gru) hidden_term = Array::empty({l.steps, l.batch, l.hidden}, l.compute);
  Epilogue e;
  e.bias = bias_ih ? bias.data : nullptr;
  gemm(l.compute, l.steps * l.batch, width, l.input, {x.data, l.input, 1}, {w_ih.data, 1, l.input}, gates.data, width,
       e);

  // One vector of units for each gate, or two where there is one gate: tiles are two vectors wide.
  const int64_t units = lanes_of(l.compute) * (l.gates == 1 ? 2 : 1), block = l.gates * units;
  const Array by_block = rows_by_block(l, w_hh, units);
  const FixedMatrix w(l.compute, {by_block.data, 1, l.hidden}, l.hidden, by_block.size(0), block);
  const int64_t h_row = padded(l.hidden, l.scalar), rows = w.most_rows(l.batch);
  Scratch copies(size_t(2 * l.batch * h_row * l.scalar));
  auto copy_at = [&](int64_t step, int64_t row) {
    return copies.as<char>() + ((step & 1) * l.batch + row) * h_row * l.scalar;
  };
  if (h0)
    for (int64_t r = 0; r < l.batch; ++r)
      std::memcpy(copy_at(0, r), h.at(0) + r * l.hidden * l.scalar, size_t(l.hidden * l.scalar));
  const auto kernel = kernels().rnn.rnn_step[l.compute];
  for (int64_t s = 0; s < l.steps; ++s) {
    const int64_t t = reverse ? l.steps - 1 - s : s;
    for_blocks(l, w, units, [&](int64_t first, int64_t n, int64_t j, int64_t have) {
      Scratch product(size_t(rows * block * l.scalar));
      const int64_t state = (first * l.hidden + j * units) * l.scalar;
      RnnBlock b{};
      b.cell = l.cell, b.rows = n, b.units = have, b.hidden = l.hidden;
      if (s > 0 || h0) {
        w.multiply(copy_at(s, first), h_row, n, j, block, product.as<char>(), block);
        b.product = product.as<char>(), b.product_step = block, b.product_gate = units;
      }
      b.gates = gates.data + ((t * l.batch + first) * width + j * units) * l.scalar, b.gates_step = width;
      if (bias_ih && gru) b.hidden_bias = hidden_bias.data + (2 * l.hidden + j * units) * l.scalar;
      if (gru) b.hidden_term = hidden_term->data + t * l.batch * l.hidden * l.scalar + state;
      b.h_prev = h.at(s) + state, b.h = h.at(s + 1) + state;
      if (lstm) b.c_prev = c->at(s) + state, b.c = c->at(s + 1) + state;
      b.h_next = copy_at(s + 1, first) + j * units * l.scalar, b.h_next_step = h_row;
      kernel(b);
    });
  }
  Array y = l.dtype == l.compute ? h.after() : fastnn::astype(h.after(), l.dtype);
  MaybeArray c_n, c_all;
  if (lstm) c_n = copy_of(c->row(l.steps), l.dtype), c_all = c->all;
  return {y, copy_of(h.row(l.steps), l.dtype), c_n, h.all, c_all, gates, hidden_term};
}

std::tuple<MaybeArray, MaybeArray, MaybeArray, MaybeArray, MaybeArray, MaybeArray, MaybeArray> rnn_layer_backward(
    std::string_view cell, const MaybeArray& grad, const MaybeArray& grad_h, const MaybeArray& grad_c,
    const Array& input, const Array& weight_ih, const Array& weight_hh, const Array& h_all, const MaybeArray& c_all,
    const Array& gates, const MaybeArray& hidden_term, bool reverse, const Dims& needs) {
  FlushSubnormals flush;
  const Layer l = check_layer(cell, input, weight_ih, weight_hh);
  const bool lstm = l.cell == RnnCell::lstm, gru = l.cell == RnnCell::gru;
  const int64_t width = l.gates * l.hidden, size = l.batch * l.hidden;
  Layer saved = l;  // what the forward kept is in the compute type
  saved.dtype = l.compute;
  check(saved, "h", h_all, {l.steps + 1, l.batch, l.hidden});
  check(saved, "gates", gates, {l.steps, l.batch, width});
  require<ValueError>(c_all.has_value() == lstm && hidden_term.has_value() == gru, l.op,
                      ": expected c for lstm and hidden_term for gru, and only there");
  if (lstm) check(saved, "c", *c_all, {l.steps + 1, l.batch, l.hidden});
  if (gru) check(saved, "hidden_term", *hidden_term, {l.steps, l.batch, l.hidden});
  require<ValueError>(needs.n == 7, l.op, ": needs has ", needs.n, " items; expected 7");
  require<ValueError>(h_all.is_contiguous() && gates.is_contiguous() && (!lstm || c_all->is_contiguous()) &&
                          (!gru || hidden_term->is_contiguous()),
                      l.op, ": expected what the forward returned");
  MaybeArray dy, dh_n;
  if (grad) check(l, "grad", *grad, {l.steps, l.batch, l.hidden}), dy = in(l.compute, *grad);
  if (grad_h) check(l, "grad_h", *grad_h, {l.batch, l.hidden}), dh_n = in(l.compute, *grad_h);
  Array carry = Array::zeros({l.batch, l.hidden}, l.compute);
  if (grad_c && lstm) check(l, "grad_c", *grad_c, {l.batch, l.hidden}), copy(*grad_c, carry);

  const Array w_hh = in(l.compute, weight_hh);
  const States h(l, reverse, h_all);
  std::optional<States> c;
  if (lstm) c.emplace(l, reverse, *c_all);
  const int64_t units = 2 * lanes_of(l.compute);
  const FixedMatrix w(l.compute, {w_hh.data, l.hidden, 1}, width, l.hidden, units);
  // A GRU has four kinds of gradients: n, r, z belong to the input's product, r, z, hidden_term to that of h.
  const int64_t kinds = (gru ? 4 : l.gates) * l.hidden, row = padded(kinds, l.scalar);
  Array memory = Array::empty({l.steps * l.batch, row}, l.compute);
  const Array dgates = memory.view({l.steps * l.batch, kinds}, {row, 1});
  char* hidden_part = dgates.data + (gru ? l.hidden * l.scalar : 0);
  const int64_t rows = w.most_rows(l.batch);
  auto time = [&](int64_t s) { return reverse ? l.steps - 1 - s : s; };
  const auto kernel = kernels().rnn.rnn_step_backward[l.compute];
  for (int64_t s = l.steps - 1; s >= 0; --s) {
    for_blocks(l, w, units, [&](int64_t first, int64_t n, int64_t j, int64_t have) {
      Scratch product(size_t(rows * units * l.scalar));
      const int64_t state = (first * l.hidden + j * units) * l.scalar, t = time(s), at = t * size * l.scalar + state;
      RnnBlock b{};
      b.cell = l.cell, b.rows = n, b.units = have, b.hidden = l.hidden;
      if (s + 1 < l.steps) {
        const char* later = hidden_part + (time(s + 1) * l.batch + first) * row * l.scalar;
        w.multiply(later, row, n, j, have, product.as<char>(), units);
        b.product = product.as<char>(), b.product_step = units;
      } else if (dh_n) {
        b.product = dh_n->data + state, b.product_step = l.hidden;
      }
      b.gates = gates.data + ((t * l.batch + first) * width + j * units) * l.scalar, b.gates_step = width;
      if (gru) b.hidden_term = hidden_term->data + at;
      b.h_prev = h.at(s) + state;
      if (lstm) b.c_prev = c->at(s) + state, b.c = c->at(s + 1) + state;
      if (dy) b.dy = dy->data + at;
      b.carry = carry.data + state;
      b.dgates = dgates.data + ((t * l.batch + first) * row + j * units) * l.scalar, b.dgates_step = row;
      kernel(b);
    });
  }

  std::array<MaybeArray, 7> out;
  auto give = [&](int i, const Array& a) { out[size_t(i)] = a.dtype == l.dtype ? a : fastnn::astype(a, l.dtype); };
  if (needs[0]) {
    Array w_ih = in(l.compute, weight_ih), dx = Array::empty(input.shape, l.compute);
    if (gru) {  // in the order of dgates
      Array ordered = Array::empty(w_ih.shape, l.compute);
      const size_t part = size_t(l.hidden * l.input * l.scalar);
      std::memcpy(ordered.data, w_ih.data + 2 * part, part);
      std::memcpy(ordered.data + part, w_ih.data, 2 * part);
      w_ih = ordered;
    }
    gemm(l.compute, l.steps * l.batch, l.input, width, {dgates.data, row, 1}, {w_ih.data, l.input, 1}, dx.data, l.input,
         {});
    give(0, dx);
  }
  if (needs[1]) {
    Array dh = Array::empty({l.batch, l.hidden}, l.compute);
    for_blocks(l, w, units, [&](int64_t first, int64_t n, int64_t j, int64_t have) {
      const int64_t state = (first * l.hidden + j * units) * l.scalar;
      w.multiply(hidden_part + (time(0) * l.batch + first) * row * l.scalar, row, n, j, have, dh.data + state, l.hidden,
                 gru ? carry.data + state : nullptr);
    });
    give(1, dh);
  }
  if (needs[2] && lstm) give(2, carry);
  // dW = dgates^T a; `from` is where the rows' gradients begin in dgates.
  auto weight_gradient = [&](Array& dw, int64_t to, int64_t from, int64_t n, const char* a) {
    const int64_t k = dw.size(1);
    gemm(l.compute, n * l.hidden, k, l.steps * l.batch, {dgates.data + from * l.hidden * l.scalar, 1, row}, {a, k, 1},
         dw.data + to * l.hidden * k * l.scalar, k, {});
  };
  if (needs[3]) {
    const Array x = in(l.compute, input);
    Array dw = Array::empty(weight_ih.shape, l.compute);
    if (gru) {
      weight_gradient(dw, 0, 1, 2, x.data);
      weight_gradient(dw, 2, 0, 1, x.data);
    } else {
      weight_gradient(dw, 0, 0, l.gates, x.data);
    }
    give(3, dw);
  }
  if (needs[4]) {
    Array dw = Array::empty(weight_hh.shape, l.compute);
    weight_gradient(dw, 0, gru ? 1 : 0, l.gates, h.before().data);
    give(4, dw);
  }
  if (needs[5] || needs[6]) {
    const Array sums = sum_columns(dgates);
    auto part = [&](int64_t from, int64_t n) { return sums.view({n * l.hidden}, {1}, from * l.hidden); };
    if (needs[5]) {
      Array db = Array::empty({width}, l.compute);
      Array first = db.view({(gru ? 2 : l.gates) * l.hidden}, {1});
      copy(part(gru ? 1 : 0, gru ? 2 : l.gates), first);
      if (gru) {
        Array last = db.view({l.hidden}, {1}, 2 * l.hidden);
        copy(part(0, 1), last);
      }
      give(5, db);
    }
    if (needs[6]) give(6, copy_of(part(gru ? 1 : 0, l.gates), l.compute));
  }
  return {out[0], out[1], out[2], out[3], out[4], out[5], out[6]};
}

}  // namespace fastnn::ops
