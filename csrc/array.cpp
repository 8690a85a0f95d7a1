#include "array.h"

#include <cstring>

#include "convert.h"
#include "packed.h"
#include "parallel.h"

namespace fastnn {

void Dims::push_back(int64_t v) {
  require<ValueError>(n < kMaxDims, "arrays have at most ", kMaxDims, " dimensions");
  d[n++] = v;
}

bool Dims::operator==(const Dims& o) const {
  if (n != o.n) return false;
  for (int i = 0; i < n; ++i)
    if (d[i] != o.d[i]) return false;
  return true;
}

std::string to_text(const Dims& dims) {
  std::string s = "(";
  for (int i = 0; i < dims.n; ++i) s += (i ? ", " : "") + std::to_string(dims[i]);
  return s + (dims.n == 1 ? ",)" : ")");
}

StoragePtr::~StoragePtr() {
  if (!p_ || p_->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (PackedCopies* packed = p_->packed.load(std::memory_order_relaxed)) release_packed(packed);
  if (p_->release)
    p_->release(p_->owner);
  else if (p_->device.on_cuda()) [[unlikely]]
    cuda::release(p_->device, p_->owner, p_->data, p_->bytes);
  else
    deallocate(p_->data, p_->bytes);
  delete p_;
}

namespace {

int64_t checked_numel(const Dims& shape) {
  int64_t n = 1;
  for (int64_t s : shape) {
    require<ValueError>(s >= 0, "array shape ", shape, " has a negative size");
    require<ValueError>(!__builtin_mul_overflow(n, s, &n) && n < (int64_t(1) << 59), "array shape ", shape,
                        " is too large");
  }
  return n;
}

Array make(const Dims& shape, const Dims& strides, DType dtype, Device device) {
  int64_t n = checked_numel(shape);
  Array a;
  size_t bytes = size_t(n) * size_of(dtype);
  void *data, *stream = nullptr;
  if (device.on_cuda()) [[unlikely]] {
    stream = cuda::stream(device);
    data = cuda::allocate(device, stream, bytes);
  } else {
    data = allocate(bytes);
  }
  auto* s = new Storage;
  s->device = device;
  s->owner = stream;
  s->data = data;
  s->bytes = bytes;
  a.storage = StoragePtr(s);
  a.data = static_cast<char*>(data);
  a.dtype = dtype;
  a.shape = shape;
  a.strides = strides;
  return a;
}

}  // namespace

bool streams(const Array& y, int64_t row) {
  const size_t item = size_of(y.dtype);
  return size_t(y.numel()) * item > last_level_cache() && size_t(row) * item % 64 == 0 &&
         reinterpret_cast<uintptr_t>(y.data) % 64 == 0;
}

Dims contiguous_strides(const Dims& shape) {
  Dims s = shape;
  int64_t run = 1;
  for (int i = shape.n - 1; i >= 0; --i) {
    s[i] = run;
    run *= shape[i] > 0 ? shape[i] : 1;
  }
  return s;
}

Dims channels_last_strides(const Dims& x) { return {x[1] * x[2] * x[3], 1, x[3] * x[1], x[1]}; }

Array Array::empty(const Dims& shape, DType dtype, Device device) {
  checked_numel(shape);
  return make(shape, contiguous_strides(shape), dtype, device);
}

Array Array::zeros(const Dims& shape, DType dtype, Device device) {
  Array a = empty(shape, dtype, device);
  size_t bytes = a.storage->bytes;
  if (bytes && device.on_cuda())
    cuda::check("zeros", cuda::launchers().fill(a.data, 0, bytes, cuda::stream(device)));
  else if (bytes)
    std::memset(a.data, 0, bytes);
  return a;
}

Array Array::empty_like(const Array& like, DType dtype) {
  return like.is_dense() ? make(like.shape, like.strides, dtype, like.device())
                         : empty(like.shape, dtype, like.device());
}

Array Array::empty_channels_last(const Dims& nchw, DType dtype, Device device) {
  checked_numel(nchw);
  return make(nchw, channels_last_strides(nchw), dtype, device);
}

Array Array::borrow(void* data, const Dims& shape, const Dims& strides, DType dtype, bool writable,
                    void (*release)(void*), void* owner, Device device) {
  auto* s = new Storage;
  s->device = device;
  s->data = data;
  s->writable = writable;
  s->release = release;
  s->owner = owner;
  Array a;
  a.storage = StoragePtr(s);
  a.data = static_cast<char*>(data);
  a.dtype = dtype;
  a.shape = shape;
  a.strides = strides;
  return a;
}

int64_t Array::numel() const {
  int64_t n = 1;
  for (int64_t s : shape) n *= s;
  return n;
}

bool Array::is_contiguous() const {
  int64_t run = 1;
  for (int i = shape.n - 1; i >= 0; --i) {
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && strides[i] != run) return false;
    run *= shape[i];
  }
  return true;
}

bool Array::is_channels_last() const {
  if (shape.n != 4 || is_contiguous()) return false;
  const int order[4] = {1, 3, 2, 0};
  int64_t run = 1;
  for (int i : order) {
    if (shape[i] != 1 && strides[i] != run) return false;
    run *= shape[i];
  }
  return true;
}

bool Array::is_dense() const {
  if (is_contiguous()) return true;
  bool used[kMaxDims] = {};
  int64_t run = 1;
  for (int found = 0; found < shape.n; ++found) {
    int next = -1;
    for (int i = 0; i < shape.n; ++i)
      if (!used[i] && (shape[i] == 1 || strides[i] == run)) {
        next = i;
        if (shape[i] == 1) break;
      }
    if (next < 0) return false;
    used[next] = true;
    run *= shape[next];
  }
  return true;
}

Array Array::contiguous() const {
  if (is_contiguous()) return *this;
  Array out = empty(shape, dtype, device());
  copy(*this, out);
  return out;
}

Array Array::dense() const { return is_dense() ? *this : contiguous(); }

Array Array::channels_last() const {
  if (is_channels_last()) return *this;
  Array out = empty_channels_last(shape, dtype, device());
  copy(*this, out);
  return out;
}

Array Array::with_layout_of(const Array& o) const {
  if (same_layout(o) || (is_contiguous() && o.is_contiguous())) return *this;
  Array out = make(o.shape, o.strides, dtype, device());
  copy(*this, out);
  return out;
}

Array Array::view(const Dims& new_shape, const Dims& new_strides, int64_t offset) const {
  Array v = *this;
  v.shape = new_shape;
  v.strides = new_strides;
  v.data += offset * int64_t(size_of(dtype));
  return v;
}

std::optional<Dims> Array::view_strides(const Dims& new_shape) const {
  if (is_contiguous() || numel() == 0) return contiguous_strides(new_shape);
  // Axes merge into runs of uniform stride; a view exists when the new axes divide each run.
  int64_t size[kMaxDims], stride[kMaxDims];
  int runs = 0;
  for (int i = 0; i < shape.n; ++i) {
    if (shape[i] == 1) continue;
    if (runs && stride[runs - 1] == shape[i] * strides[i])
      size[runs - 1] *= shape[i];
    else
      size[runs++] = shape[i];
    stride[runs - 1] = strides[i];
  }
  Dims s = contiguous_strides(new_shape);
  int j = new_shape.n - 1;
  for (int r = runs - 1; r >= 0; --r) {
    for (int64_t rest = size[r], step = stride[r]; rest > 1; --j) {
      if (rest % new_shape[j]) return std::nullopt;
      s[j] = step;
      step *= new_shape[j];
      rest /= new_shape[j];
    }
  }
  return s;
}

Array Array::reshape(const Dims& new_shape) const {
  require<ValueError>(checked_numel(new_shape) == numel(), "reshape: shape ", shape, " cannot become ", new_shape);
  std::optional<Dims> s = view_strides(new_shape);
  return s ? view(new_shape, *s) : contiguous().view(new_shape, contiguous_strides(new_shape));
}

namespace {

// Strided copy with the innermost axis as the loop; axes are sorted so that dst is written in memory order.
struct CopyPlan {
  int n = 0;
  int64_t size[kMaxDims], from[kMaxDims], to[kMaxDims];
};

CopyPlan plan_copy(const Array& src, const Array& dst) {
  CopyPlan p;
  int order[kMaxDims];
  int n = 0;
  for (int i = 0; i < dst.ndim(); ++i)
    if (dst.size(i) != 1) order[n++] = i;
  auto magnitude = [&](int i) { return dst.stride(i) < 0 ? -dst.stride(i) : dst.stride(i); };
  for (int i = 1; i < n; ++i)
    for (int j = i; j > 0 && magnitude(order[j - 1]) < magnitude(order[j]); --j) std::swap(order[j - 1], order[j]);
  for (int k = 0; k < n; ++k) {
    int i = order[k];
    int64_t size = dst.size(i), f = src.stride(i), t = dst.stride(i);
    if (p.n && p.from[p.n - 1] == f * size && p.to[p.n - 1] == t * size) {
      p.size[p.n - 1] *= size;
      p.from[p.n - 1] = f;
      p.to[p.n - 1] = t;
    } else {
      p.size[p.n] = size;
      p.from[p.n] = f;
      p.to[p.n++] = t;
    }
  }
  if (p.n == 0) {
    p.n = 1;
    p.size[0] = 1;
    p.from[0] = p.to[0] = 1;
  }
  return p;
}

template <class S, class D>
void copy_run(const S* s, int64_t from, D* d, int64_t to, int64_t n) {
  if constexpr (std::is_same_v<S, D>) {
    if (from == 1 && to == 1) {
      std::memcpy(d, s, size_t(n) * sizeof(S));
      return;
    }
  }
  for (int64_t i = 0; i < n; ++i) d[i * to] = convert<D>(s[i * from]);
}

template <class S, class D>
void copy_typed(const Array& src, Array& dst) {
  CopyPlan p = plan_copy(src, dst);
  int64_t inner = p.size[p.n - 1], rows = dst.numel() / inner;
  const S* s = src.as<S>();
  D* d = dst.as<D>();
  if (p.n == 1) {
    parallel_for(inner, 32768, [&](int64_t b, int64_t e) {
      copy_run(s + b * p.from[0], p.from[0], d + b * p.to[0], p.to[0], e - b);
    });
    return;
  }
  parallel_for(rows, std::max<int64_t>(1, 32768 / inner), [&](int64_t b, int64_t e) {
    for (int64_t r = b; r < e; ++r) {
      int64_t rest = r, f = 0, t = 0;
      for (int k = p.n - 2; k >= 0; --k) {
        int64_t i = rest % p.size[k];
        rest /= p.size[k];
        f += i * p.from[k];
        t += i * p.to[k];
      }
      copy_run(s + f, p.from[p.n - 1], d + t, p.to[p.n - 1], inner);
    }
  });
}

void copy_on_device(const Array& src, Array& dst) {
  CopyPlan p = plan_copy(src, dst);
  bool flat = p.n == 1 && p.from[0] == 1 && p.to[0] == 1;
  const gpu::Launchers& l = cuda::launchers();
  gpu::Stream stream = cuda::stream(dst.device());
  if (src.dtype != dst.dtype && !flat) {  // order first, then dtype, then gaps
    Array ordered = dst.is_dense() ? make(dst.shape, dst.strides, src.dtype, src.device())
                                   : Array::empty(dst.shape, src.dtype, src.device());
    copy_on_device(src, ordered);
    Array converted = dst.is_dense() ? dst : Array::empty(dst.shape, dst.dtype, dst.device());
    copy_on_device(ordered, converted);
    if (converted.data != dst.data) copy_on_device(converted, dst);
  } else if (src.dtype != dst.dtype) {
    cuda::check("copy", l.convert_elements(p.size[0], dst.dtype, dst.data, src.dtype, src.data, stream));
  } else if (flat) {
    cuda::check("copy", l.copy_device(dst.data, src.data, size_t(p.size[0]) * size_of(dst.dtype), stream));
  } else {
    gpu::Loop<2> loop;
    loop.n = p.n;
    for (int i = 0; i < p.n; ++i) {
      loop.size[i] = p.size[i];
      loop.stride[0][i] = p.to[i];
      loop.stride[1][i] = p.from[i];
    }
    cuda::check("copy", l.copy_elements(loop, dst.dtype, dst.data, src.data, stream));
  }
}

// Between devices one run of bytes crosses: dtype and order of the elements change on the side of `src`, gaps are left
// on that of `dst`.
void transfer(const Array& src, Array& dst) {
  Array to = dst.is_dense() ? dst : Array::empty(dst.shape, dst.dtype, dst.device());
  Array from = src;
  if (src.dtype != to.dtype || !(src.same_layout(to) && to.is_dense())) {
    from = make(to.shape, to.strides, to.dtype, src.device());
    copy(src, from);
  }
  size_t bytes = size_t(to.numel()) * size_of(to.dtype);
  const gpu::Launchers& l = cuda::launchers();
  require<std::runtime_error>(!cuda::capturing(), "copy from ", to_text(src.device()), " to ", to_text(dst.device()),
                              ": not while a step is captured (fastnn.graph), as each call would repeat it; give ",
                              "arrays as arguments, and read results after the call");
  if (!src.on_cuda()) {
    cuda::check("copy", l.copy_to_device(to.data, from.data, bytes, cuda::stream(dst.device())));
  } else if (!dst.on_cuda()) {
    cuda::check("copy", l.copy_to_host(to.data, from.data, bytes, cuda::stream(src.device())));
  } else {  // streams of two GPUs know nothing of each other
    cuda::synchronize(dst.device());
    cuda::check("copy", l.copy_device(to.data, from.data, bytes, cuda::stream(src.device())));
    cuda::synchronize(src.device());
  }
  if (to.data != dst.data) copy(to, dst);
}

}  // namespace

Array to_device(const Array& a, Device device) {
  if (a.device() == device) return a;
  Array out = a.is_dense() ? make(a.shape, a.strides, a.dtype, device) : Array::empty(a.shape, a.dtype, device);
  copy(a, out);
  return out;
}

void copy(const Array& src, Array& dst) {
  if (dst.numel() == 0) return;
  if (src.device() != dst.device()) return transfer(src, dst);
  if (src.on_cuda()) return copy_on_device(src, dst);
  visit(src.dtype, [&]<class S>(S*) { visit(dst.dtype, [&]<class D>(D*) { copy_typed<S, D>(src, dst); }); });
}

Array astype(const Array& a, DType dtype) {
  Array out = Array::empty_like(a, dtype);
  copy(a, out);
  return out;
}

Dims broadcast_shapes(const char* op, const Dims& a, const Dims& b) {
  Dims out = Dims::filled(std::max(a.n, b.n), 1);
  for (int i = 0; i < out.n; ++i) {
    int64_t x = i < a.n ? a[a.n - 1 - i] : 1, y = i < b.n ? b[b.n - 1 - i] : 1;
    require<ValueError>(x == y || x == 1 || y == 1, op, ": shapes ", a, " and ", b, " do not broadcast; sizes ", x,
                        " and ", y, " must be equal or one of them 1");
    out[out.n - 1 - i] = x == 1 ? y : x;
  }
  return out;
}

Array broadcast_to(const Array& a, const Dims& shape) {
  bool fits = a.ndim() <= shape.n;
  for (int i = 0; fits && i < a.ndim(); ++i) fits = a.size(i) == 1 || a.size(i) == shape[shape.n - a.ndim() + i];
  require<ValueError>(fits, "shape ", a.shape, " does not broadcast to ", shape);
  Dims s = Dims::filled(shape.n, 0);
  for (int i = 0; i < a.ndim(); ++i) {
    int j = shape.n - a.ndim() + i;
    s[j] = a.size(i) == 1 && shape[j] != 1 ? 0 : a.stride(i);
  }
  return a.view(shape, s);
}

}  // namespace fastnn
