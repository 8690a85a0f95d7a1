#include "elementwise.h"

#include "../dispatch.h"
#include "../parallel.h"

namespace fastnn::ops {

Array clone(const Array& x) {
  Array y = Array::empty_like(x);
  copy(x, y);
  return y;
}

Array astype(const Array& x, DType dtype) { return fastnn::astype(x, dtype); }

void assign(const Array& target, const Array& source) {
  require<ValueError>(target.storage->writable, "assign: the target is read-only");
  Array out = target;
  copy(broadcast_to(source, target.shape), out);
  target.bump_version();
}

Array add(const Array& a, const Array& b) {
  Array out = clone(a);
  add_in_place(out, b);
  return out;
}

void add_in_place(const Array& a, const Array& b) {
  Array g = b.with_layout_of(a);
  float* p = a.as<float>();
  const float* q = g.as<float>();
  parallel_for(a.numel(), 16384, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) p[i] += q[i];
  });
  a.bump_version();
}

}  // namespace fastnn::ops
