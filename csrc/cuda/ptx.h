// One function per PTX instruction that kernels use: asm for nvcc, emulate/ptx.cpp on the host.
//
// Shared memory is addressed by shared_address(p). Fragments are those of the PTX ISA manual ("Matrix fragments for
// mma.m16n8k16", "... m16n8k8"): with g = lane / 4, t = lane % 4,
//   A: a[0] row g, a[1] row g + 8, a[2], a[3] the same rows in the second half of k; 16-bit: columns 2t, 2t + 1 (+ 8),
//   low
//      half first; tf32: column t (+ 4)
//   B: b0, b1 column g; 16-bit: rows 2t, 2t + 1 (+ 8); tf32: row t (+ 4)
//   C, D: d[0], d[1] row g, columns 2t, 2t + 1; d[2], d[3] row g + 8
#pragma once
#include "gpu.h"

namespace fastnn::ptx {

template <class T>
constexpr int kMmaK = 16;  // k of mma<T>
template <>
constexpr int kMmaK<float> = 8;

#if defined(__CUDACC__)

GPU_FN uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// Copies `bytes` bytes (0 to N, N = 4, 8 or 16) from global to shared memory in the background and fills the rest of
// the N with zeros. Only the copying thread's wait, then a barrier, makes them readable by others.
template <int N>
GPU_FN void cp_async(uint32_t to, const void* from, int bytes = N) {
  static_assert(N == 4 || N == 8 || N == 16);
  if constexpr (N == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(N), "r"(bytes) : "memory");
}
GPU_FN void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N of the thread's latest groups are pending.
template <int N>
GPU_FN void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Loads 8x8 matrices of 16-bit elements; lanes 8i to 8i + 7 give the 16-byte aligned addresses of the rows of matrix i.
// r[i] of a lane: row lane / 4, columns 2 (lane % 4) and the next; transposed: of the transposed matrix.
GPU_FN void ldmatrix(uint32_t (&r)[1], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(row) : "memory");
}
GPU_FN void ldmatrix(uint32_t (&r)[2], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row)
               : "memory");
}
GPU_FN void ldmatrix(uint32_t (&r)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
GPU_FN void ldmatrix_trans(uint32_t (&r)[1], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(row) : "memory");
}
GPU_FN void ldmatrix_trans(uint32_t (&r)[2], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row)
               : "memory");
}
GPU_FN void ldmatrix_trans(uint32_t (&r)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

// d += a b in float32: m16n8k16 for bf16 and f16, m16n8k8 on tf32 for float.
template <class T>
GPU_FN void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
#define FASTNN_MMA(T, INSTRUCTION)                                                      \
  template <>                                                                           \
  GPU_FN void mma<T>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
    asm volatile(INSTRUCTION " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"   \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));       \
  }
FASTNN_MMA(bf16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
FASTNN_MMA(f16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
FASTNN_MMA(float, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
#undef FASTNN_MMA

// float32 to tf32 (10 bits of mantissa), rounded to nearest, ties away from zero.
GPU_FN uint32_t to_tf32(float x) {
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}

// A barrier (id 1 to 15; 0 is __syncthreads) among `threads` threads, a multiple of 32, that sync or arrive.
GPU_FN void barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
GPU_FN void barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#else

inline uint32_t shared_address(const void* p) { return emulate::shared_address(p); }

template <int N>
void cp_async(uint32_t to, const void* from, int bytes = N, EMULATE_SITE) {
  static_assert(N == 4 || N == 8 || N == 16);
  emulate::cp_async(to, from, N, bytes, {file, line});
}
inline void cp_async_commit() { emulate::cp_async_commit(); }
template <int N>
void cp_async_wait() {
  emulate::cp_async_wait(N);
}

template <int N>
void ldmatrix(uint32_t (&r)[N], uint32_t row, EMULATE_SITE) {
  static_assert(N == 1 || N == 2 || N == 4);
  emulate::ldmatrix(r, N, false, row, {file, line});
}
template <int N>
void ldmatrix_trans(uint32_t (&r)[N], uint32_t row, EMULATE_SITE) {
  static_assert(N == 1 || N == 2 || N == 4);
  emulate::ldmatrix(r, N, true, row, {file, line});
}

template <class T>
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMULATE_SITE) {
  emulate::mma(dtype_of<T>::value, d, a, b0, b1, {file, line});
}
inline uint32_t to_tf32(float x) { return emulate::to_tf32(x); }

inline void barrier_sync(int id, int threads, EMULATE_SITE) { emulate::barrier(id, threads, true, {file, line}); }
inline void barrier_arrive(int id, int threads, EMULATE_SITE) { emulate::barrier(id, threads, false, {file, line}); }

#endif

}  // namespace fastnn::ptx
