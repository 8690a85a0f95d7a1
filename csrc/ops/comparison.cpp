#include "comparison.h"

#include <cstring>

#include "../convert.h"
#include "elementwise.h"
#include "loops.h"

namespace fastnn::ops {
namespace {

constexpr const char* kNames[] = {"eq", "ne", "lt", "le", "gt", "ge"};

template <class T>
T comparable(T v) {
  return v;
}
float comparable(bf16 v) { return to_float(v); }
float comparable(f16 v) { return to_float(v); }

template <Comparison c, class T>
bool holds(T x, T y) {
  auto a = comparable(x), b = comparable(y);
  if constexpr (c == Comparison::eq)
    return a == b;
  else if constexpr (c == Comparison::ne)
    return a != b;
  else if constexpr (c == Comparison::lt)
    return a < b;
  else if constexpr (c == Comparison::le)
    return a <= b;
  else if constexpr (c == Comparison::gt)
    return a > b;
  else
    return a >= b;
}

template <class T>
void select(const Loops<4>& loops, const Array& out, const Array& mask, const Array& x, const Array& y) {
  int64_t sm = loops.step(1), sx = loops.step(2), sy = loops.step(3);
  loops.run([&](const int64_t* at, int64_t n) {
    T* o = out.as<T>() + at[0];
    const bool* m = mask.as<bool>() + at[1];
    const T *p = x.as<T>() + at[2], *q = y.as<T>() + at[3];
    int64_t so = loops.step(0);
    for (int64_t i = 0; i < n; ++i) o[i * so] = m[i * sm] ? p[i * sx] : q[i * sy];
  });
}

// An operand whose number is given as its bytes.
gpu::Source bits_source(const Operand& o, DType dtype) {
  gpu::Source s = device_source(o);
  if (!o.array) std::memcpy(&s.integer, scalar_array("where", o, dtype).data, size_of(dtype));
  return s;
}

}  // namespace

template <Comparison c>
Array compare(const Operand& a, const Operand& b) {
  constexpr const char* op = kNames[int(c)];
  DType t = common_dtype(op, a, b);
  Dims shape = common_shape(op, a, b);
  Array out = output_for(a, b, shape, DType::b8);
  if (out.on_cuda()) {
    if (out.numel() == 0) return out;
    Dims sa = device_strides(a, shape), sb = device_strides(b, shape);
    Loops<3> loops(shape, {&out.strides, &sa, &sb});
    cuda::check(op, cuda::launchers().compare(c, t, loops.on_device(), out.as<bool>(), device_source(a),
                                              device_source(b), cuda::stream(out.device())));
    return out;
  }
  Array x = broadcast_to(a.array ? *a.array : scalar_array(op, a, t), shape);
  Array y = broadcast_to(b.array ? *b.array : scalar_array(op, b, t), shape);
  Loops<3> loops(shape, {&out.strides, &x.strides, &y.strides});
  int64_t so = loops.step(0), sx = loops.step(1), sy = loops.step(2);
  visit(t, [&]<class T>(T*) {
    loops.run([&](const int64_t* at, int64_t n) {
      bool* o = out.as<bool>() + at[0];
      const T *p = x.as<T>() + at[1], *q = y.as<T>() + at[2];
      if (so == 1 && sx == 1 && sy == 1)
        for (int64_t i = 0; i < n; ++i) o[i] = holds<c>(p[i], q[i]);
      else if (so == 1 && sx == 1 && sy == 0)
        for (int64_t i = 0; i < n; ++i) o[i] = holds<c>(p[i], *q);
      else
        for (int64_t i = 0; i < n; ++i) o[i * so] = holds<c>(p[i * sx], q[i * sy]);
    });
  });
  return out;
}

template Array compare<Comparison::eq>(const Operand&, const Operand&);
template Array compare<Comparison::ne>(const Operand&, const Operand&);
template Array compare<Comparison::lt>(const Operand&, const Operand&);
template Array compare<Comparison::le>(const Operand&, const Operand&);
template Array compare<Comparison::gt>(const Operand&, const Operand&);
template Array compare<Comparison::ge>(const Operand&, const Operand&);

Array where(const Array& condition, const Operand& a, const Operand& b) {
  require<TypeError>(condition.dtype == DType::b8, "where: condition has dtype ", name(condition.dtype),
                     "; expected bool, such as x > 0");
  DType t = common_dtype("where", a, b);
  Dims shape = broadcast_shapes("where", condition.shape, common_shape("where", a, b));
  Array out = output_for(a, b, shape, t);
  Array mask = broadcast_to(condition, shape);
  if (out.on_cuda()) {
    if (out.numel() == 0) return out;
    Dims sa = device_strides(a, shape), sb = device_strides(b, shape);
    Loops<4> loops(shape, {&out.strides, &mask.strides, &sa, &sb});
    cuda::check("where", cuda::launchers().where(t, loops.on_device(), out.data, mask.as<bool>(), bits_source(a, t),
                                                 bits_source(b, t), cuda::stream(out.device())));
    return out;
  }
  Array x = broadcast_to(a.array ? *a.array : scalar_array("where", a, t), shape);
  Array y = broadcast_to(b.array ? *b.array : scalar_array("where", b, t), shape);
  Loops<4> loops(shape, {&out.strides, &mask.strides, &x.strides, &y.strides});
  switch (size_of(t)) {
    case 1:
      select<uint8_t>(loops, out, mask, x, y);
      break;
    case 2:
      select<uint16_t>(loops, out, mask, x, y);
      break;
    case 4:
      select<uint32_t>(loops, out, mask, x, y);
      break;
    default:
      select<uint64_t>(loops, out, mask, x, y);
      break;
  }
  return out;
}

}  // namespace fastnn::ops
