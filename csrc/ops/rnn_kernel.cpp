#include "../dispatch.h"
#include "../simd/math.h"
#include "../simd/simd.h"

namespace fastnn::FASTNN_ISA {
namespace {

// Calls f(row, i, lanes) for vectors of units i of each row.
template <class V, class F>
FASTNN_INLINE void for_units(const RnnBlock& b, F&& f) {
  for (int64_t r = 0; r < b.rows; ++r)
    for_lanes<V>(b.units, [&](int64_t i, auto lanes) { f(r, i, lanes); });
}

// Loads of vectors of units from the arrays of a block.
template <class T>
struct Units {
  using S = Scalar<T>;
  using V = Compute<T>;
  const RnnBlock& b;

  template <class L>
  FASTNN_INLINE V state(const void* p, int64_t r, int64_t i, L lanes) const {
    return load<V>(static_cast<const S*>(p) + r * b.hidden + i, lanes);
  }
  template <class L>
  FASTNN_INLINE void set_state(V v, void* p, int64_t r, int64_t i, L lanes) const {
    store(v, static_cast<S*>(p) + r * b.hidden + i, lanes);
  }
  template <class L>
  FASTNN_INLINE V product(int g, int64_t r, int64_t i, L lanes) const {
    if (!b.product) return V(S(0));
    return load<V>(static_cast<const S*>(b.product) + r * b.product_step + g * b.product_gate + i, lanes);
  }
  template <class L>
  FASTNN_INLINE V gate(int g, int64_t r, int64_t i, L lanes) const {
    return load<V>(static_cast<const S*>(b.gates) + r * b.gates_step + g * b.hidden + i, lanes);
  }
  template <class L>
  FASTNN_INLINE void set_gate(V v, int g, int64_t r, int64_t i, L lanes) const {
    store(v, static_cast<S*>(b.gates) + r * b.gates_step + g * b.hidden + i, lanes);
  }
  template <class L>
  FASTNN_INLINE void set_h(V v, int64_t r, int64_t i, L lanes) const {
    set_state(v, b.h, r, i, lanes);
    store(v, static_cast<S*>(b.h_next) + r * b.h_next_step + i, lanes);
  }
  template <class L>
  FASTNN_INLINE V dh(int64_t r, int64_t i, L lanes) const {
    V d = product(0, r, i, lanes);
    return b.dy ? d + state(b.dy, r, i, lanes) : d;
  }
  template <class L>
  FASTNN_INLINE void set_dgate(V v, int g, int64_t r, int64_t i, L lanes) const {
    store(v, static_cast<S*>(b.dgates) + r * b.dgates_step + g * b.hidden + i, lanes);
  }
};

template <class T>
void rnn_step(const RnnBlock& b) {
  using V = Compute<T>;
  using S = Scalar<T>;
  const Units<T> u{b};
  const V zero = V(S(0)), one = V(S(1));
  switch (b.cell) {
    case RnnCell::rnn_tanh:
    case RnnCell::rnn_relu:
      for_units<V>(b, [&](int64_t r, int64_t i, auto lanes) {
        V a = u.gate(0, r, i, lanes) + u.product(0, r, i, lanes);
        V h = b.cell == RnnCell::rnn_tanh ? tanh(a) : max(zero, a);
        u.set_gate(h, 0, r, i, lanes);
        u.set_h(h, r, i, lanes);
      });
      break;
    case RnnCell::lstm:
      for_units<V>(b, [&](int64_t r, int64_t i, auto lanes) {
        V in = sigmoid(u.gate(0, r, i, lanes) + u.product(0, r, i, lanes));
        V forget = sigmoid(u.gate(1, r, i, lanes) + u.product(1, r, i, lanes));
        V cell = tanh(u.gate(2, r, i, lanes) + u.product(2, r, i, lanes));
        V out = sigmoid(u.gate(3, r, i, lanes) + u.product(3, r, i, lanes));
        V c = fma(forget, u.state(b.c_prev, r, i, lanes), in * cell);
        u.set_gate(in, 0, r, i, lanes);
        u.set_gate(forget, 1, r, i, lanes);
        u.set_gate(cell, 2, r, i, lanes);
        u.set_gate(out, 3, r, i, lanes);
        u.set_state(c, b.c, r, i, lanes);
        u.set_h(out * tanh(c), r, i, lanes);
      });
      break;
    case RnnCell::gru:
      for_units<V>(b, [&](int64_t r, int64_t i, auto lanes) {
        V reset = sigmoid(u.gate(0, r, i, lanes) + u.product(0, r, i, lanes));
        V update = sigmoid(u.gate(1, r, i, lanes) + u.product(1, r, i, lanes));
        V q = u.product(2, r, i, lanes);
        if (b.hidden_bias) q = q + load<V>(static_cast<const S*>(b.hidden_bias) + i, lanes);
        V fresh = tanh(fma(reset, q, u.gate(2, r, i, lanes)));
        u.set_gate(reset, 0, r, i, lanes);
        u.set_gate(update, 1, r, i, lanes);
        u.set_gate(fresh, 2, r, i, lanes);
        u.set_state(q, b.hidden_term, r, i, lanes);
        u.set_h(fma(one - update, fresh, update * u.state(b.h_prev, r, i, lanes)), r, i, lanes);
      });
  }
}

template <class T>
void rnn_step_backward(const RnnBlock& b) {
  using V = Compute<T>;
  using S = Scalar<T>;
  const Units<T> u{b};
  const V zero = V(S(0)), one = V(S(1));
  switch (b.cell) {
    case RnnCell::rnn_tanh:
    case RnnCell::rnn_relu:
      for_units<V>(b, [&](int64_t r, int64_t i, auto lanes) {
        V dh = u.dh(r, i, lanes), h = u.gate(0, r, i, lanes);
        u.set_dgate(b.cell == RnnCell::rnn_tanh ? dh * (one - h * h) : select(h <= zero, zero, dh), 0, r, i, lanes);
      });
      break;
    case RnnCell::lstm:
      for_units<V>(b, [&](int64_t r, int64_t i, auto lanes) {
        V in = u.gate(0, r, i, lanes), forget = u.gate(1, r, i, lanes);
        V cell = u.gate(2, r, i, lanes), out = u.gate(3, r, i, lanes);
        V dh = u.dh(r, i, lanes), t = tanh(u.state(b.c, r, i, lanes));
        V dc = fma(dh * out, one - t * t, u.state(b.carry, r, i, lanes));
        u.set_dgate(dc * cell * in * (one - in), 0, r, i, lanes);
        u.set_dgate(dc * u.state(b.c_prev, r, i, lanes) * forget * (one - forget), 1, r, i, lanes);
        u.set_dgate(dc * in * (one - cell * cell), 2, r, i, lanes);
        u.set_dgate(dh * t * out * (one - out), 3, r, i, lanes);
        u.set_state(dc * forget, b.carry, r, i, lanes);
      });
      break;
    case RnnCell::gru:
      for_units<V>(b, [&](int64_t r, int64_t i, auto lanes) {
        V reset = u.gate(0, r, i, lanes), update = u.gate(1, r, i, lanes), fresh = u.gate(2, r, i, lanes);
        V dh = u.dh(r, i, lanes) + u.state(b.carry, r, i, lanes);
        V dfresh = dh * (one - update) * (one - fresh * fresh);
        u.set_dgate(dfresh, 0, r, i, lanes);
        u.set_dgate(dfresh * u.state(b.hidden_term, r, i, lanes) * reset * (one - reset), 1, r, i, lanes);
        u.set_dgate(dh * (u.state(b.h_prev, r, i, lanes) - fresh) * update * (one - update), 2, r, i, lanes);
        u.set_dgate(dfresh * reset, 3, r, i, lanes);
        u.set_state(dh * update, b.carry, r, i, lanes);
      });
  }
}

}  // namespace

#define FASTNN_FAMILY_INC "rnn.inc"
#define FASTNN_FAMILY_TABLE            \
  extern const RnnKernels rnn_kernels; \
  const RnnKernels rnn_kernels
#include "../kernels/fill.h"

}  // namespace fastnn::FASTNN_ISA
