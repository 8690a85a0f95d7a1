// Array: dtype, device, shape, strides and shared storage. What ops take and return; checked once at the Python
// boundary.
#pragma once
#include <atomic>
#include <initializer_list>
#include <optional>
#include <span>

#include "device.h"
#include "dtype.h"
#include "error.h"
#include "memory.h"

namespace fastnn {

constexpr int kMaxDims = 8;

// A short list of sizes, strides or axes.
struct Dims {
  int n = 0;
  int64_t d[kMaxDims];

  Dims() = default;
  Dims(std::initializer_list<int64_t> v) {
    for (int64_t x : v) d[n++] = x;
  }
  static Dims filled(int n, int64_t value) {
    Dims r;
    r.n = n;
    for (int i = 0; i < n; ++i) r.d[i] = value;
    return r;
  }
  int64_t& operator[](int i) { return d[i]; }
  int64_t operator[](int i) const { return d[i]; }
  int64_t back() const { return d[n - 1]; }
  void push_back(int64_t v);
  const int64_t* begin() const { return d; }
  const int64_t* end() const { return d + n; }
  bool operator==(const Dims& o) const;
};

std::string to_text(const Dims& dims);  // "(2, 3, 4)"; "(2,)"

struct PackedCopies;

// Reference-counted memory: our allocator's, or borrowed with a release function.
struct Storage {
  std::atomic<int64_t> references{1};
  std::atomic<int64_t> version{0};  // counts in-place changes made through our API
  // Views of it that others may write to unseen (numpy's, DLPack's): how many there are, how many there were.
  std::atomic<int64_t> loans{0}, returned{0};
  std::atomic<PackedCopies*> packed{nullptr};  // packed.h
  void lend() { loans.fetch_add(1); }
  void end_loan() {
    returned.fetch_add(1);
    loans.fetch_sub(1);
  }
  void* data = nullptr;
  size_t bytes = 0;
  bool writable = true;
  Device device;
  void (*release)(void* owner) = nullptr;  // for borrowed memory; nullptr: give `data` back to the allocator
  void* owner = nullptr;                   // for memory of our GPU allocator: the stream that it belongs to
};

class StoragePtr {
 public:
  StoragePtr() = default;
  explicit StoragePtr(Storage* adopted) : p_(adopted) {}
  StoragePtr(const StoragePtr& o) : p_(o.p_) {
    if (p_) p_->references.fetch_add(1, std::memory_order_relaxed);
  }
  StoragePtr(StoragePtr&& o) noexcept : p_(o.p_) { o.p_ = nullptr; }
  StoragePtr& operator=(StoragePtr o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~StoragePtr();
  Storage* operator->() const { return p_; }
  Storage* get() const { return p_; }
  explicit operator bool() const { return p_ != nullptr; }
  bool operator==(const StoragePtr& o) const { return p_ == o.p_; }

 private:
  Storage* p_ = nullptr;
};

class Array {
 public:
  StoragePtr storage;
  char* data = nullptr;  // first element; storage->data plus an offset
  DType dtype = DType::f32;
  Dims shape;
  Dims strides;  // in elements; may be zero or negative for borrowed views

  // Uninitialised. Throws ValueError for a negative or overflowing shape.
  static Array empty(const Dims& shape, DType dtype, Device device = {});
  static Array zeros(const Dims& shape, DType dtype, Device device = {});
  // Same device, shape and, where `like` is dense in memory, the same strides (so channels_last stays channels_last).
  static Array empty_like(const Array& like, DType dtype);
  static Array empty_like(const Array& like) { return empty_like(like, like.dtype); }
  static Array empty_channels_last(const Dims& nchw, DType dtype, Device device = {});
  static Array borrow(void* data, const Dims& shape, const Dims& strides, DType dtype, bool writable,
                      void (*release)(void*), void* owner, Device device = {});

  Device device() const { return storage->device; }
  bool on_cuda() const { return storage->device.on_cuda(); }

  int ndim() const { return shape.n; }
  int64_t numel() const;
  int64_t size(int i) const { return shape[i]; }
  int64_t stride(int i) const { return strides[i]; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }

  bool is_contiguous() const;     // row-major
  bool is_channels_last() const;  // rank 4, dense in N, H, W, C order, and not row-major as well
  bool is_dense() const;          // a permutation of a row-major array: numel() elements from `data` on, no gaps
  bool same_layout(const Array& o) const { return shape == o.shape && strides == o.strides; }
  Array contiguous() const;                    // itself, or a row-major copy
  Array dense() const;                         // itself, or a row-major copy
  Array channels_last() const;                 // itself, or a copy in N, H, W, C order
  Array with_layout_of(const Array& o) const;  // itself, or a copy with the strides of the dense array o (same shape)
  Array view(const Dims& shape, const Dims& strides, int64_t offset = 0) const;
  std::optional<Dims> view_strides(
      const Dims& shape) const;            // of a view with another shape; none where it needs a copy
  Array reshape(const Dims& shape) const;  // a view where strides allow it, else a copy
  void bump_version() const { storage->version.fetch_add(1, std::memory_order_relaxed); }
};

Dims contiguous_strides(const Dims& shape);
Dims channels_last_strides(const Dims& nchw);

// Whether to store the output y past the caches: it is larger than they are, and every `row` elements of it begin on a
// boundary.
bool streams(const Array& y, int64_t row = 64);

// Copies the elements of src to dst (same shape, any strides, any devices), converting the dtype.
void copy(const Array& src, Array& dst);
Array astype(const Array& a, DType dtype);
Array to_device(const Array& a, Device device);  // itself, or a copy in the same layout

// Shape that both broadcast to. Throws ValueError that names op.
Dims broadcast_shapes(const char* op, const Dims& a, const Dims& b);
// A view of `a` with zero strides where it is broadcast.
Array broadcast_to(const Array& a, const Dims& shape);

}  // namespace fastnn
