#include "elementwise.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../convert.h"
#include "../dispatch.h"
#include "../parallel.h"
#include "loops.h"

namespace fastnn::ops {
namespace {

constexpr const char* kNames[] = {"add",     "sub",     "mul",         "div",        "pow",
                                  "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"};

// An operand of the float kernels, broadcast to the output: memory, or a number.
struct Side {
  const char* data = nullptr;
  Dims strides;
  DType dtype;
  double number;

  // Its innermost step along the dense array `out` is made 0 or 1, by a copy into `keep` where it is neither.
  Side(const Operand& o, const Array& out, bool dense, Array& keep) : dtype(out.dtype), number(o.number) {
    if (!o.array) {
      strides = Dims::filled(out.ndim(), 0);
      return;
    }
    keep = o.array->shape == out.shape ? *o.array : broadcast_to(*o.array, out.shape);
    for (int i = 0; i < out.ndim(); ++i)
      if (out.stride(i) == 1 && out.size(i) != 1 && keep.stride(i) != 1 && (dense || keep.stride(i) != 0)) {
        keep = keep.with_layout_of(out);
        break;
      }
    data = keep.data;
    strides = keep.strides;
  }

  double value(int64_t at) const {
    if (!data) return number;
    switch (dtype) {
      case DType::f32:
        return reinterpret_cast<const float*>(data)[at];
      case DType::bf16:
        return to_float(reinterpret_cast<const bf16*>(data)[at]);
      case DType::f16:
        return to_float(reinterpret_cast<const f16*>(data)[at]);
      default:
        return reinterpret_cast<const double*>(data)[at];
    }
  }
};

// out = f(a, b) for floating dtypes; `out` is dense.
void compute_float(Binary f, const Operand& a, const Operand& b, const Array& out) {
  const ElementwiseKernels& k = kernels().elementwise;
  DType t = out.dtype;
  size_t item = size_of(t);
  auto same = [&](const Operand& o) { return o.array && o.array->same_layout(out); };
  bool same_a = same(a), same_b = same(b);
  // In place the lines of the output have been read, and cost nothing more.
  auto apart = [&](const Operand& o) { return !o.array || o.array->data != out.data; };
  const bool past = streams(out) && apart(a) && apart(b);
  if ((same_a || !a.array) && (same_b || !b.array)) {  // one flat loop
    constexpr int64_t kBlock = 64;                     // chunks begin at whole vectors
    parallel_for((out.numel() + kBlock - 1) / kBlock, 16384 / kBlock, [&](int64_t first, int64_t last) {
      const int64_t begin = first * kBlock, n = std::min(out.numel(), last * kBlock) - begin;
      size_t at = size_t(begin) * item;
      if (same_a && same_b)
        k.binary[t](f, a.array->data + at, b.array->data + at, out.data + at, n, past);
      else if (same_a)
        k.binary_scalar[t](f, a.array->data + at, b.number, out.data + at, n, past);
      else
        k.scalar_binary[t](f, a.number, b.array->data + at, out.data + at, n, past);
    });
    return;
  }
  Array keep_a, keep_b;
  Side y(b, out, false, keep_b);
  // The kernels take one broadcast operand at most, so the other one must be dense along the innermost axis.
  bool broadcast = !b.array;
  for (int i = 0; i < out.ndim(); ++i) broadcast |= out.stride(i) == 1 && out.size(i) != 1 && y.strides[i] == 0;
  Side x(a, out, broadcast, keep_a);
  Loops<3> loops(out.shape, {&out.strides, &x.strides, &y.strides});
  bool left = !x.data || (loops.step(1) == 0 && loops.step(2) != 0), right = !y.data || loops.step(2) == 0;
  loops.run([&](const int64_t* at, int64_t n) {
    char* to = out.data + at[0] * int64_t(item);
    const char *p = x.data + at[1] * int64_t(item), *q = y.data + at[2] * int64_t(item);
    if (left)
      k.scalar_binary[t](f, x.value(at[1]), q, to, n, false);
    else if (right)
      k.binary_scalar[t](f, p, y.value(at[2]), to, n, false);
    else
      k.binary[t](f, p, q, to, n, false);
  });
}

template <class T>
T power(T base, T exponent) {
  uint64_t result = 1, factor = uint64_t(base);
  for (auto e = uint64_t(exponent); e; e >>= 1, factor *= factor)
    if (e & 1) result *= factor;
  return T(result);
}

// Integers wrap around, as numpy's and torch's do; in unsigned arithmetic, where that is defined.
template <class T, class G>
void with_integer_function(Binary f, G&& g) {
  switch (f) {
    case Binary::add:
      return g([](T a, T b) { return T(uint64_t(a) + uint64_t(b)); });
    case Binary::sub:
      return g([](T a, T b) { return T(uint64_t(a) - uint64_t(b)); });
    case Binary::mul:
      return g([](T a, T b) { return T(uint64_t(a) * uint64_t(b)); });
    case Binary::pow:
      return g([](T a, T b) { return power(a, b); });
    case Binary::maximum:
      return g([](T a, T b) { return a > b ? a : b; });
    case Binary::minimum:
      return g([](T a, T b) { return a < b ? a : b; });
    case Binary::bit_and:
      return g([](T a, T b) { return T(a & b); });
    case Binary::bit_or:
      return g([](T a, T b) { return T(a | b); });
    case Binary::bit_xor:
      return g([](T a, T b) { return T(a ^ b); });
    default:
      return;
  }
}

bool is_bitwise(Binary f) { return f >= Binary::bit_and; }

void compute_on_device(Binary f, const Operand& a, const Operand& b, const Array& out) {
  if (out.numel() == 0) return;
  Dims sa = device_strides(a, out.shape), sb = device_strides(b, out.shape);
  Loops<3> loops(out.shape, {&out.strides, &sa, &sb});
  cuda::check(kNames[int(f)], cuda::launchers().binary(f, out.dtype, loops.on_device(), out.data, device_source(a),
                                                       device_source(b), cuda::stream(out.device())));
}

// out = f(a, b) for integers and bool; any layouts.
void compute_integer(Binary f, const Operand& a, const Operand& b, const Array& out) {
  const char* op = kNames[int(f)];
  require<NotImplementedError>(f != Binary::div, op, ": dtype ", name(out.dtype),
                               " is not supported; expected a floating dtype: convert with .float()");
  require<NotImplementedError>(out.dtype != DType::b8 || is_bitwise(f), op,
                               ": dtype bool is not supported; convert with .long() or .float()");
  if (f == Binary::pow)
    require<ValueError>(!b.array && b.integer >= 0, op,
                        ": the exponent of an integer tensor must be a Python int >= 0; convert with .float()");
  if (out.on_cuda()) return compute_on_device(f, a, b, out);
  Array x = broadcast_to(a.array ? *a.array : scalar_array(op, a, out.dtype), out.shape);
  Array y = broadcast_to(b.array ? *b.array : scalar_array(op, b, out.dtype), out.shape);
  Loops<3> loops(out.shape, {&out.strides, &x.strides, &y.strides});
  int64_t so = loops.step(0), sx = loops.step(1), sy = loops.step(2);
  visit(out.dtype, [&]<class T>(T*) {
    if constexpr (std::is_integral_v<T>) {
      with_integer_function<T>(f, [&](auto function) {
        loops.run([&](const int64_t* at, int64_t n) {
          T* o = out.as<T>() + at[0];
          const T *p = x.as<T>() + at[1], *q = y.as<T>() + at[2];
          if (so == 1 && sx == 1 && sy == 1)
            for (int64_t i = 0; i < n; ++i) o[i] = function(p[i], q[i]);
          else
            for (int64_t i = 0; i < n; ++i) o[i * so] = function(p[i * sx], q[i * sy]);
        });
      });
    }
  });
}

void compute(Binary f, const Operand& a, const Operand& b, const Array& out) {
  if (!is_float(out.dtype)) return compute_integer(f, a, b, out);
  require<NotImplementedError>(!is_bitwise(f), kNames[int(f)], ": dtype ", name(out.dtype),
                               " is not supported; expected bool or integers");
  if (out.on_cuda())
    compute_on_device(f, a, b, out);
  else
    compute_float(f, a, b, out);
}

template <class T>
void fill_typed(const Array& target, T value) {
  Loops<1> loops(target.shape, {&target.strides});
  int64_t step = loops.step(0);
  loops.run([&](const int64_t* at, int64_t n) {
    T* p = target.as<T>() + at[0];
    if (step == 1)
      for (int64_t i = 0; i < n; ++i) p[i] = value;
    else
      for (int64_t i = 0; i < n; ++i) p[i * step] = value;
  });
}

void fill_on_device(const Array& target, const Array& number) {
  gpu::Stream stream = cuda::stream(target.device());
  cuda::check("fill_", cuda::launchers().fill_elements(Loops<1>(target.shape, {&target.strides}).on_device(),
                                                       target.dtype, target.data, number.data, stream));
}

}  // namespace

bool may_overlap(const Array& a, const Array& b) {
  if (a.numel() == 0 || b.numel() == 0) return false;
  auto range = [](const Array& x) {
    int64_t low = 0, high = 0;
    for (int i = 0; i < x.ndim(); ++i) (x.stride(i) < 0 ? low : high) += (x.size(i) - 1) * x.stride(i);
    auto item = int64_t(size_of(x.dtype));
    return std::pair(x.data + low * item, x.data + (high + 1) * item);
  };
  auto [a0, a1] = range(a);
  auto [b0, b1] = range(b);
  return a0 < b1 && b0 < a1;
}

Array scalar_array(const char* op, const Operand& o, DType dtype) {
  Array a = Array::empty({}, dtype);
  visit(dtype, [&]<class T>(T*) {
    if constexpr (std::is_same_v<T, bool>) {
      require<TypeError>(!o.floating && (o.integer == 0 || o.integer == 1), op,
                         ": a bool tensor takes True or False beside it; convert the tensor with .long() or .float()");
      *a.as<T>() = o.integer != 0;
    } else if constexpr (std::is_integral_v<T>) {
      require<TypeError>(!o.floating, op, ": a Python float beside a tensor of dtype ", name(dtype),
                         " would be cast; convert the tensor with .float() or the number with int()");
      require<ValueError>(
          o.integer >= int64_t(std::numeric_limits<T>::min()) && o.integer <= int64_t(std::numeric_limits<T>::max()),
          op, ": the number ", o.integer, " does not fit dtype ", name(dtype));
      *a.as<T>() = T(o.integer);
    } else {
      *a.as<T>() = convert<T>(o.number);
    }
  });
  return a;
}

gpu::Source device_source(const Operand& o) { return {o.array ? o.array->data : nullptr, o.number, o.integer}; }

Dims device_strides(const Operand& o, const Dims& shape) {
  return o.array ? broadcast_to(*o.array, shape).strides : Dims::filled(shape.n, 0);
}

DType common_dtype(const char* op, const Operand& a, const Operand& b) {
  if (a.array && b.array) {
    require<TypeError>(a.array->dtype == b.array->dtype, op, ": dtypes ", name(a.array->dtype), " and ",
                       name(b.array->dtype), " differ; expected one dtype: convert one operand with .to(dtype)");
    return a.array->dtype;
  }
  require<TypeError>(a.array || b.array, op, ": expected a Tensor or a numpy array among the operands");
  DType t = a.array ? a.array->dtype : b.array->dtype;
  if (!is_float(t)) scalar_array(op, a.array ? b : a, t);
  return t;
}

Dims common_shape(const char* op, const Operand& a, const Operand& b) {
  if (a.array && b.array)
    return a.array->shape == b.array->shape ? a.array->shape : broadcast_shapes(op, a.array->shape, b.array->shape);
  return a.array ? a.array->shape : b.array->shape;
}

Array output_for(const Operand& a, const Operand& b, const Dims& shape, DType dtype) {
  for (const Operand* o : {&a, &b})
    if (o->array && o->array->shape == shape && o->array->is_dense()) return Array::empty_like(*o->array, dtype);
  return Array::empty(shape, dtype, (a.array ? a : b).array->device());
}

void check_writable(const char* op, const Array& target) {
  require<ValueError>(target.storage->writable, op, ": the target's memory is read-only; change a copy, x.clone()");
  if (target.numel() == 0) return;
  for (int i = 0; i < target.ndim(); ++i)
    require<ValueError>(target.stride(i) != 0 || target.size(i) <= 1, op,
                        ": the target is an expanded view, whose elements share memory; change a copy, x.clone()");
}

template <Binary f>
Array arithmetic(const Operand& a, const Operand& b) {
  const char* op = kNames[int(f)];
  DType t = common_dtype(op, a, b);
  Dims shape = common_shape(op, a, b);
  Array out = output_for(a, b, shape, t);
  compute(f, a, b, out);
  return out;
}

template <Binary f>
void arithmetic_in_place(const Array& target, const Operand& other) {
  const char* op = kNames[int(f)];
  check_writable(op, target);
  Operand self(target), o = other;
  common_dtype(op, self, o);
  Dims shape = common_shape(op, self, o);
  require<ValueError>(shape == target.shape, op, ": in place, the result of shape ", shape,
                      " does not fit the target of shape ", target.shape);
  Array copied;
  if (o.array && !(o.array->data == target.data && o.array->same_layout(target)) && may_overlap(*o.array, target)) {
    copied = o.array->shape == Dims() ? o.array->contiguous() : clone(*o.array);
    o.array = &copied;
  }
  if (target.is_dense()) {
    compute(f, self, o, target);
  } else {
    Array result = output_for(self, o, shape, target.dtype), to = target;
    compute(f, self, o, result);
    copy(result, to);
  }
  target.bump_version();
}

Array clone(const Array& x) {
  Array y = Array::empty_like(x);
  copy(x, y);
  return y;
}

Array astype(const Array& x, DType dtype) { return fastnn::astype(x, dtype); }

Array to_device(const Array& x, Device device) { return fastnn::to_device(x, device); }

Array empty(const Dims& shape, DType dtype, Device device) { return Array::empty(shape, dtype, device); }

Array full(const Dims& shape, const Operand& value, DType dtype, Device device) {
  Array out = Array::empty(shape, dtype, device);
  fill(out, value);
  return out;
}

void fill(const Array& target, const Operand& value) {
  check_writable("fill_", target);
  require<TypeError>(!value.array, "fill_: value is a tensor; expected a number");
  bool zero = value.integer == 0 && value.number == 0 && !std::signbit(value.number);
  if (target.on_cuda()) {
    Array number = scalar_array("fill_", value, target.dtype);
    if (target.numel()) fill_on_device(target, number);
  } else if (zero && target.is_dense() && target.numel() > 0) {
    size_t item = size_of(target.dtype);
    parallel_for(target.numel(), 65536, [&](int64_t begin, int64_t end) {
      std::memset(target.data + size_t(begin) * item, 0, size_t(end - begin) * item);
    });
  } else {
    Array number = scalar_array("fill_", value, target.dtype);
    visit(target.dtype, [&]<class T>(T*) { fill_typed(target, *number.as<T>()); });
  }
  target.bump_version();
}

void assign(const Array& target, const Array& source) {
  check_writable("copy_", target);
  bool fits = source.ndim() <= target.ndim();
  for (int i = 1; fits && i <= source.ndim(); ++i) {
    int64_t have = source.size(source.ndim() - i);
    fits = have == 1 || have == target.size(target.ndim() - i);
  }
  require<ValueError>(fits, "copy_: shape ", source.shape, " does not broadcast to the target's shape ", target.shape);
  Array out = target;
  copy(broadcast_to(may_overlap(source, target) ? clone(source) : source, target.shape), out);
  target.bump_version();
}

template Array arithmetic<Binary::add>(const Operand&, const Operand&);
template Array arithmetic<Binary::sub>(const Operand&, const Operand&);
template Array arithmetic<Binary::mul>(const Operand&, const Operand&);
template Array arithmetic<Binary::div>(const Operand&, const Operand&);
template Array arithmetic<Binary::pow>(const Operand&, const Operand&);
template Array arithmetic<Binary::maximum>(const Operand&, const Operand&);
template Array arithmetic<Binary::minimum>(const Operand&, const Operand&);
template Array arithmetic<Binary::bit_and>(const Operand&, const Operand&);
template Array arithmetic<Binary::bit_or>(const Operand&, const Operand&);
template Array arithmetic<Binary::bit_xor>(const Operand&, const Operand&);
template void arithmetic_in_place<Binary::add>(const Array&, const Operand&);
template void arithmetic_in_place<Binary::sub>(const Array&, const Operand&);
template void arithmetic_in_place<Binary::mul>(const Array&, const Operand&);
template void arithmetic_in_place<Binary::div>(const Array&, const Operand&);

}  // namespace fastnn::ops
