// The instructions of sm_90a: mbarriers, bulk copies of tensors (TMA) and wgmma, as ptx.h has those of sm_80.
//
// wgmma: the 128 threads of a warpgroup compute d (64 x N) += a (64 x K) b (K x N), K = 16 for bf16 and f16, 8 for
// float (tf32), in the background. a and b lie in shared memory as 128-byte swizzled tiles (descriptor()). d[i] of a
// thread, with w = warp % 4, g = lane / 4, t = lane % 4: row 16 w + g + 8 (i / 2 % 2), column 8 (i / 4) + 2 t + i % 2.
#pragma once
#include "ptx.h"

namespace fastnn::ptx {

// Describes a tile of shared memory, 1024-byte aligned, whose rows are 128 bytes, swizzled as bulk copies write them.
// K-major (rows are m or n, the k of a row side by side): each 8 rows are `stride` bytes after the 8 before; `leading`
// is not used; the next K elements begin 32 bytes further. M- or N-major (rows are k, 64 of m or n side by side): each
// 8 of k are `stride` bytes after the 8 before, each 64 of m or n `leading` bytes after the 64 before.
constexpr uint64_t kSwizzled = uint64_t(1) << 62;
GPU_FN uint64_t descriptor(uint32_t address, uint32_t stride = 1024, uint32_t leading = 16) {
  return uint64_t((address & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 | kSwizzled;
}

#if defined(__CUDACC__)

// An mbarrier is 8 bytes of shared memory. A phase ends when `count` threads have arrived and all bytes that they
// expected have landed. One thread initialises; then fence_mbarrier_init() and a barrier, before others use it.
GPU_FN void mbarrier_init(uint32_t mbarrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(mbarrier), "r"(count) : "memory");
}
GPU_FN void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
GPU_FN void mbarrier_arrive(uint32_t mbarrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(mbarrier) : "memory");
}
// Arrives, and says how many bytes will land in this phase.
GPU_FN void mbarrier_expect(uint32_t mbarrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(mbarrier), "r"(bytes) : "memory");
}
// Waits until the phase of this parity has ended: 0, 1, 0, ... for the phases in order. Of a new mbarrier, the phase of
// parity 1 before the first has ended.
GPU_FN void mbarrier_wait(uint32_t mbarrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(mbarrier),
      "r"(parity)
      : "memory");
}

// Loads the box of a tensor map that begins at these coordinates (dimension 0 first) to shared memory, 128-byte aligned
// (1024 where swizzled); its bytes count at the mbarrier.
GPU_FN void tma_load(uint32_t to, const gpu::TensorMap* map, int c0, int c1, uint32_t mbarrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(map), "r"(c0), "r"(c1), "r"(mbarrier)
      : "memory");
}
GPU_FN void tma_load(uint32_t to, const gpu::TensorMap* map, int c0, int c1, int c2, uint32_t mbarrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::
          "r"(to),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(mbarrier)
      : "memory");
}
GPU_FN void tma_load(uint32_t to, const gpu::TensorMap* map, int c0, int c1, int c2, int c3, uint32_t mbarrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(to),
      "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(mbarrier)
      : "memory");
}
GPU_FN void prefetch(const gpu::TensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }

// Between a thread's own writes to shared memory and the barrier after which wgmma or bulk copies read them.
GPU_FN void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Between a thread's accesses to accumulators and the wgmma that come next.
GPU_FN void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
GPU_FN void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N of the latest groups are pending; only then may accumulators and tiles be touched.
template <int N>
GPU_FN void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Registers per thread that the warps of a warpgroup give back, or take (24 to 256, multiples of 8).
template <int N>
GPU_FN void registers_decrease() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
GPU_FN void registers_increase() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// `accumulate` false: d = a b. M_MAJOR, N_MAJOR: the layout of a, of b; only for bf16 and f16.
template <class T, int N, bool M_MAJOR = false, bool N_MAJOR = false>
struct Wgmma;
template <class T, int N, bool M_MAJOR = false, bool N_MAJOR = false>
GPU_FN void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true) {
  Wgmma<T, N, M_MAJOR, N_MAJOR>::run(d, a, b, accumulate);
}

// Lists of 8 registers: their places in the text, and the operands.
#define FASTNN_P0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define FASTNN_P1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define FASTNN_P2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define FASTNN_P3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define FASTNN_P4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define FASTNN_P5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define FASTNN_P6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define FASTNN_P7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define FASTNN_P8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define FASTNN_P9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define FASTNN_P10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define FASTNN_P11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define FASTNN_P12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define FASTNN_P13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define FASTNN_P14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define FASTNN_P15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define FASTNN_D(i)                                                                                           \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define FASTNN_P32 FASTNN_P0 ", " FASTNN_P1 ", " FASTNN_P2 ", " FASTNN_P3
#define FASTNN_P64 FASTNN_P32 ", " FASTNN_P4 ", " FASTNN_P5 ", " FASTNN_P6 ", " FASTNN_P7
#define FASTNN_P128                                                                                        \
  FASTNN_P64 ", " FASTNN_P8 ", " FASTNN_P9 ", " FASTNN_P10 ", " FASTNN_P11 ", " FASTNN_P12 ", " FASTNN_P13 \
             ", " FASTNN_P14 ", " FASTNN_P15
#define FASTNN_D32(i) FASTNN_D(i), FASTNN_D(i + 8), FASTNN_D(i + 16), FASTNN_D(i + 24)
#define FASTNN_D64(i) FASTNN_D32(i), FASTNN_D32(i + 32)
#define FASTNN_D128(i) FASTNN_D64(i), FASTNN_D64(i + 64)
#define FASTNN_WGMMA16(T, NAME, N, R, A, B, P, M, L)                                                \
  template <bool M_MAJOR, bool N_MAJOR>                                                             \
  struct Wgmma<T, N, M_MAJOR, N_MAJOR> {                                                            \
    GPU_FN static void run(float (&d)[R], uint64_t a, uint64_t b, bool accumulate) {                \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" P                                           \
                   ", 0;\n"                                                                         \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" FASTNN_P##R \
                   "}, "                                                                            \
                   "%" A ", %" B ", p, 1, 1, %" M ", %" L ";\n}"                                    \
                   : FASTNN_D##R(0)                                                                 \
                   : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(M_MAJOR)), "n"(int(N_MAJOR)));   \
    }                                                                                               \
  };
#define FASTNN_WGMMA8(N, R, A, B, P)                                                       \
  template <>                                                                              \
  struct Wgmma<float, N, false, false> {                                                   \
    GPU_FN static void run(float (&d)[R], uint64_t a, uint64_t b, bool accumulate) {       \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" P                                  \
                   ", 0;\n"                                                                \
                   "wgmma.mma_async.sync.aligned.m64n" #N "k8.f32.tf32.tf32 {" FASTNN_P##R \
                   "}, "                                                                   \
                   "%" A ", %" B ", p, 1, 1;\n}"                                           \
                   : FASTNN_D##R(0)                                                        \
                   : "l"(a), "l"(b), "r"(int(accumulate)));                                \
    }                                                                                      \
  };
#define FASTNN_WGMMA(N, R, A, B, P, M, L)           \
  FASTNN_WGMMA16(bf16, "bf16", N, R, A, B, P, M, L) \
  FASTNN_WGMMA16(f16, "f16", N, R, A, B, P, M, L)   \
  FASTNN_WGMMA8(N, R, A, B, P)
FASTNN_WGMMA(64, 32, "32", "33", "34", "35", "36")
FASTNN_WGMMA(128, 64, "64", "65", "66", "67", "68")
FASTNN_WGMMA(256, 128, "128", "129", "130", "131", "132")

#else

inline void mbarrier_init(uint32_t mbarrier, int count, EMULATE_SITE) {
  emulate::mbarrier_init(mbarrier, count, {file, line});
}
inline void fence_mbarrier_init() { emulate::fence_mbarrier_init(); }
inline void mbarrier_arrive(uint32_t mbarrier, EMULATE_SITE) { emulate::mbarrier_arrive(mbarrier, 0, {file, line}); }
inline void mbarrier_expect(uint32_t mbarrier, int bytes, EMULATE_SITE) {
  emulate::mbarrier_arrive(mbarrier, bytes, {file, line});
}
inline void mbarrier_wait(uint32_t mbarrier, int parity, EMULATE_SITE) {
  emulate::mbarrier_wait(mbarrier, parity, {file, line});
}

inline void tma_load(uint32_t to, const gpu::TensorMap* map, int c0, int c1, uint32_t mbarrier, EMULATE_SITE) {
  const int at[] = {c0, c1};
  emulate::tma_load(to, *map, at, 2, mbarrier, {file, line});
}
inline void tma_load(uint32_t to, const gpu::TensorMap* map, int c0, int c1, int c2, uint32_t mbarrier, EMULATE_SITE) {
  const int at[] = {c0, c1, c2};
  emulate::tma_load(to, *map, at, 3, mbarrier, {file, line});
}
inline void tma_load(uint32_t to, const gpu::TensorMap* map, int c0, int c1, int c2, int c3, uint32_t mbarrier,
                     EMULATE_SITE) {
  const int at[] = {c0, c1, c2, c3};
  emulate::tma_load(to, *map, at, 4, mbarrier, {file, line});
}
inline void prefetch(const gpu::TensorMap*) {}

inline void fence_async_proxy() { emulate::fence_async_proxy(); }
inline void wgmma_fence() { emulate::wgmma_fence(); }
inline void wgmma_commit(EMULATE_SITE) { emulate::wgmma_commit({file, line}); }
template <int N>
void wgmma_wait(EMULATE_SITE) {
  emulate::wgmma_wait(N, {file, line});
}
template <int N>
void registers_decrease() {
  static_assert(N >= 24 && N <= 256 && N % 8 == 0);
  emulate::registers(N);
}
template <int N>
void registers_increase() {
  registers_decrease<N>();
}

template <class T, int N, bool M_MAJOR = false, bool N_MAJOR = false>
void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate = true, EMULATE_SITE) {
  static_assert(N == 64 || N == 128 || N == 256);
  static_assert(sizeof(T) == 2 || (!M_MAJOR && !N_MAJOR));
  emulate::wgmma({dtype_of<T>::value, N, M_MAJOR, N_MAJOR, accumulate, a, b, d}, {file, line});
}

#endif

}  // namespace fastnn::ptx
