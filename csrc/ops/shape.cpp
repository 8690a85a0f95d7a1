#include "shape.h"

namespace fastnn::ops {
namespace {

// `shape` with -1 replaced. Throws unless it has numel(x) elements.
Dims infer(const char* op, const Array& x, const Dims& shape) {
  int64_t known = 1, numel = x.numel();
  int unknown = -1;
  bool ok = true;
  for (int i = 0; i < shape.n; ++i) {
    if (shape[i] == -1) {
      require<ValueError>(unknown < 0, op, ": shape ", shape, " has more than one -1");
      unknown = i;
    } else {
      require<ValueError>(shape[i] >= 0, op, ": shape ", shape, " has a negative size");
      ok &= !__builtin_mul_overflow(known, shape[i], &known);
    }
  }
  Dims full = shape;
  if (ok && unknown >= 0) {
    require<ValueError>(known != 0, op, ": shape ", shape, " leaves -1 undetermined, since another size is 0");
    full[unknown] = numel / known;
    known *= full[unknown];
  }
  require<ValueError>(ok && known == numel, op, ": shape ", x.shape, " of ", numel, " elements cannot become ", shape);
  return full;
}

}  // namespace

int normalize_dim(const char* op, int64_t dim, int rank) {
  int64_t range = rank ? rank : 1;  // as torch: a zero-dimensional tensor takes 0 and -1
  require<IndexError>(dim >= -range && dim < range, op, ": dim is ", dim, " but the tensor has ", rank,
                      " dimensions; expected ", -range, " to ", range - 1);
  return int(dim < 0 ? dim + range : dim);
}

Array reshape(const Array& x, const Dims& shape) { return x.reshape(infer("reshape", x, shape)); }

Array view(const Array& x, const Dims& shape) {
  Dims full = infer("view", x, shape);
  std::optional<Dims> strides = x.view_strides(full);
  require<ValueError>(strides.has_value(), "view: shape ", x.shape, " with strides ", x.strides, " cannot become ",
                      full, " without a copy; use reshape");
  return x.view(full, *strides);
}

Array permute(const Array& x, const Dims& order) {
  require<ValueError>(order.n == x.ndim(), "permute: dims ", order, " has ", order.n, " entries but the tensor has ",
                      x.ndim(), " dimensions");
  Dims shape = order, strides = order;
  unsigned seen = 0;
  for (int i = 0; i < order.n; ++i) {
    int from = normalize_dim("permute", order[i], x.ndim());
    require<ValueError>(!(seen >> from & 1), "permute: dims ", order, " names dimension ", from, " twice");
    seen |= 1u << from;
    shape[i] = x.size(from);
    strides[i] = x.stride(from);
  }
  return x.view(shape, strides);
}

Array transpose(const Array& x, int64_t first, int64_t second) {
  int a = normalize_dim("transpose", first, x.ndim()), b = normalize_dim("transpose", second, x.ndim());
  if (x.ndim() == 0) return x;
  Array v = x;
  std::swap(v.shape[a], v.shape[b]);
  std::swap(v.strides[a], v.strides[b]);
  return v;
}

Array expand(const Array& x, const Dims& shape) {
  require<ValueError>(shape.n >= x.ndim(), "expand: shape ", shape, " has fewer dimensions than the tensor of shape ",
                      x.shape);
  Dims full = shape;
  int64_t numel = 1;
  bool ok = true;
  for (int i = 0; i < shape.n; ++i) {
    int from = i - (shape.n - x.ndim());
    if (shape[i] == -1 && from >= 0) full[i] = x.size(from);
    require<ValueError>(full[i] >= 0, "expand: shape ", shape, " has a negative size");
    require<ValueError>(from < 0 || x.size(from) == 1 || x.size(from) == full[i], "expand: shape ", x.shape,
                        " does not broadcast to ", shape, "; only sizes of 1 can grow");
    ok &= !__builtin_mul_overflow(numel, full[i], &numel) && numel < int64_t(1) << 59;
  }
  require<ValueError>(ok, "expand: shape ", full, " is too large");
  return broadcast_to(x, full);
}

Array contiguous(const Array& x, bool channels_last) {
  if (!channels_last) return x.contiguous();
  require<ValueError>(x.ndim() == 4, "contiguous: memory_format channels_last needs 4 dimensions, got shape ", x.shape);
  return x.channels_last();
}

Array concatenate(const std::vector<Array>& tensors, int64_t dim) {
  require<ValueError>(!tensors.empty(), "cat: tensors is empty; expected at least one tensor");
  std::vector<Array> parts;  // without those of shape (0,), which torch joins with any shape
  for (const Array& t : tensors)
    if (t.ndim() != 1 || t.numel() > 0) parts.push_back(t);
  if (parts.empty()) parts = tensors;
  for (const Array& t : tensors)
    require<TypeError>(t.dtype == tensors[0].dtype, "cat: tensors 0 and ", &t - tensors.data(), " have dtypes ",
                       name(tensors[0].dtype), " and ", name(t.dtype), "; expected one dtype: convert with .to(dtype)");
  const Array& first = parts[0];
  require<ValueError>(first.ndim() > 0, "cat: tensors have no dimension to join along; use stack");
  int axis = normalize_dim("cat", dim, first.ndim());
  Dims shape = first.shape;
  shape[axis] = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    bool fits = parts[i].ndim() == first.ndim();
    for (int k = 0; fits && k < first.ndim(); ++k) fits = k == axis || parts[i].size(k) == first.size(k);
    require<ValueError>(fits, "cat: tensors 0 and ", i, " have shapes ", first.shape, " and ", parts[i].shape,
                        "; expected equal sizes except in dimension ", axis);
    shape[axis] += parts[i].size(axis);
  }
  bool channels_last = true;
  for (const Array& part : parts) channels_last &= part.is_channels_last();
  Array out = channels_last ? Array::empty_channels_last(shape, first.dtype, first.device())
                            : Array::empty(shape, first.dtype, first.device());
  int64_t begin = 0;
  for (const Array& part : parts) {
    Array to = out.view(part.shape, out.strides, begin * out.stride(axis));
    copy(part, to);
    begin += part.size(axis);
  }
  return out;
}

}  // namespace fastnn::ops
