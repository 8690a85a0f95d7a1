// What the attention kernels share: heads and masks.
#pragma once
#include "launchers.h"
#include "rows.h"

namespace fastnn::gpu {

// Where query head `head` of all heads begins in a matrix that `share` neighbouring heads share.
template <class T>
GPU_FN T* head_of(const AttentionCall& a, const HeadMatrix& m, int64_t head, int64_t share = 1) {
  const int64_t batch = head / a.heads, h = head - batch * a.heads;
  return static_cast<T*>(m.data) + batch * m.batch + h / share * m.head;
}

// What the mask of a head adds to the score of query i and key j: -inf where the query does not see the key.
template <class S>
struct Bias {
  const AttentionCall& a;
  const unsigned char* mask;  // of the head; null: none

  GPU_FN Bias(const AttentionCall& call, int64_t head) : a(call), mask(nullptr) {
    if (!a.mask.data) return;
    const int64_t bytes = a.mask_dtype == DType::b8    ? 1
                          : a.mask_dtype == DType::f64 ? 8
                          : a.mask_dtype == DType::f32 ? 4
                                                       : 2;
    const int64_t batch = head / a.heads, h = head - batch * a.heads;
    mask = static_cast<const unsigned char*>(a.mask.data) + (batch * a.mask.batch + h * a.mask.head) * bytes;
  }
  GPU_FN S operator()(int64_t i, int64_t j) const {
    if (i >= a.queries || j >= a.keys || (a.causal && j > i)) return -S(INFINITY);
    if (!mask) return 0;
    const int64_t at = i * a.mask.row + j * a.mask_col;
    switch (a.mask_dtype) {
      case DType::b8:
        return mask[at] ? S(0) : -S(INFINITY);
      case DType::f64:
        return S(reinterpret_cast<const double*>(mask)[at]);
      case DType::f32:
        return S(reinterpret_cast<const float*>(mask)[at]);
      case DType::bf16:
        return S(to_float(reinterpret_cast<const bf16*>(mask)[at]));
      default:
        return S(to_float(reinterpret_cast<const f16*>(mask)[at]));
    }
  }
};

// Whether the tensor cores' kernels take the call, and their launchers (attention_mma.cu).
bool attention_uses_mma(const AttentionCall& call, DType dtype);
Status attention_forward_mma(const AttentionCall& call, DType dtype, const HeadMatrix& y, void* log_sum, Stream stream);
Status attention_backward_mma(const AttentionCall& call, DType dtype, const HeadMatrix& dy, const void* log_sum,
                              const void* delta, const HeadMatrix& dquery, const HeadMatrix& dkey,
                              const HeadMatrix& dvalue, Stream stream);

}  // namespace fastnn::gpu
