// The CUDA that kernels may use, on the CPU: what a host compiler sees in place of CUDA's headers. The threads of a
// block are fibres (block.cpp), PTX instructions do what the PTX ISA manual says (ptx.cpp), and what a GPU would leave
// undefined is reported (check.cpp): the launch fails, fault() says why.
#pragma once
#include <math.h>

#include <cfloat>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "../../dtype.h"
#include "../runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// The call site, for messages and to tell divergent calls apart: the last parameters of what needs one.
#define EMULATE_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace fastnn::emulate {

#ifdef FASTNN_EMULATE_HOOKS
constexpr bool kHooks = true;  // kernels are compiled with -fsanitize=thread, whose hooks check.cpp defines
#else
constexpr bool kHooks = false;
#endif

enum class Schedule {  // which of the ready threads runs next
  lowest,
  highest,
  round_robin,
  random,
  rotate,  // another of the four, and of Copies, in each launch
};
enum class Copies { late, early };  // cp.async lands when it is waited for, or when it is issued: both are legal

struct Options {
  Schedule schedule = Schedule::lowest;
  Copies copies = Copies::late;
  uint64_t seed = 1;
};
extern Options options;

struct Stats {
  uint64_t launches, blocks, switches, accesses, mma, ldmatrix;
  uint64_t conflicts;  // 16-byte rows of ldmatrix that had to wait for another row in the same banks
};
extern Stats stats;

const char* fault();  // of the latest launch: "" when it was clean

struct Site {
  const char* file;
  int line;
};

// blockIdx and so on of the running thread.
struct Index {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
};
extern Index index;

struct Launch {
  dim3 grid, block;
  size_t shared;
  const void* call;  // the kernel and its arguments: plain bytes
  size_t call_bytes;
  void (*invoke)(const void* call);
};
gpu::Status submit(const Launch& launch, gpu::Stream stream);

template <class... P, class... A>
gpu::Status launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, gpu::Stream stream, A... args) {
  static_assert((std::is_trivially_copyable_v<P> && ...));
  const auto call = [kernel, parameters = std::tuple<P...>(static_cast<P>(args)...)] {
    std::apply(kernel, parameters);
  };
  return submit({grid, block, shared, &call, sizeof call, [](const void* p) { (*static_cast<decltype(&call)>(p))(); }},
                stream);
}
template <class... P>
int blocks_per_multiprocessor(void (*)(P...), int, size_t) {
  return 1;
}

void* shared_array(const void* key, size_t bytes, size_t align);
void* shared_dynamic();
uint32_t shared_address(const void* p);

void load(void* to, const void* from, size_t bytes);
void store(void* to, const void* from, size_t bytes);
unsigned count_block(unsigned* counter);

void barrier(int id, int threads, bool wait, Site site);
int barrier_count(bool predicate, Site site);
void sync_warp(unsigned mask, Site site);
enum class Shuffle { index, up, down, exclusive_or };
uint64_t shuffle(unsigned mask, uint64_t value, Shuffle kind, int argument, int width, Site site);
unsigned vote(unsigned mask, bool predicate, Site site);

void cp_async(uint32_t to, const void* from, int bytes, int from_bytes, Site site);
void cp_async_commit();
void cp_async_wait(int pending);
void ldmatrix(uint32_t* r, int count, bool transposed, uint32_t row, Site site);
void mma(DType type, float* d, const uint32_t* a, uint32_t b0, uint32_t b1, Site site);
uint32_t to_tf32(float x);

// sm_90.
void mbarrier_init(uint32_t mbarrier, int count, Site site);
void fence_mbarrier_init();
void mbarrier_arrive(uint32_t mbarrier, int expected_bytes, Site site);
void mbarrier_wait(uint32_t mbarrier, int parity, Site site);
void tma_load(uint32_t to, const gpu::TensorMap& map, const int* at, int rank, uint32_t mbarrier, Site site);
void fence_async_proxy();
struct WgmmaOperation {
  DType type;
  int n;
  bool m_major, n_major, accumulate;
  uint64_t a, b;
  float* d;
};
void wgmma_fence();
void wgmma(const WgmmaOperation& operation, Site site);
void wgmma_commit(Site site);
void wgmma_wait(int pending, Site site);
void registers(int count);  // of every thread of the warpgroup from now on

float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float x);
inline float bf16_to_float(uint16_t bits) {
  const uint32_t u = uint32_t(bits) << 16;
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
inline uint16_t float_to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if (x != x) return 0x7fff;  // what the GPU's conversion gives
  return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

template <class T>
T shuffle_as(unsigned mask, T value, Shuffle kind, int argument, int width, Site site) {
  static_assert(sizeof(T) <= 8);
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  word = shuffle(mask, word, kind, argument, width, site);
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// For int, unsigned, unsigned long long; add and exchange also for float and double.
template <class T>
T atomic_add(T* p, T v);
template <class T>
T atomic_max(T* p, T v);
template <class T>
T atomic_min(T* p, T v);
template <class T>
T atomic_or(T* p, T v);
template <class T>
T atomic_and(T* p, T v);
template <class T>
T atomic_exchange(T* p, T v);
template <class T>
T atomic_compare_exchange(T* p, T expected, T v);

}  // namespace fastnn::emulate

#define threadIdx (::fastnn::emulate::index.thread)
#define blockIdx (::fastnn::emulate::index.block)
#define blockDim (::fastnn::emulate::index.block_dim)
#define gridDim (::fastnn::emulate::index.grid_dim)

// The address of a function's static is the array's key: another one in every instance of a template.
#define GPU_SHARED(T, name, dims)                 \
  typedef T name##_type dims;                     \
  static char name##_key;                         \
  name##_type& name = *static_cast<name##_type*>( \
      ::fastnn::emulate::shared_array(&name##_key, sizeof(name##_type), alignof(T) < 16 ? 16 : alignof(T)))
#define GPU_DYNAMIC_SHARED(name) unsigned char* name = static_cast<unsigned char*>(::fastnn::emulate::shared_dynamic())

constexpr int warpSize = 32;

inline void __syncthreads(EMULATE_SITE) { fastnn::emulate::barrier(0, 0, true, {file, line}); }
inline int __syncthreads_count(int p, EMULATE_SITE) { return fastnn::emulate::barrier_count(p != 0, {file, line}); }
inline int __syncthreads_or(int p, EMULATE_SITE) { return fastnn::emulate::barrier_count(p != 0, {file, line}) != 0; }
inline int __syncthreads_and(int p, EMULATE_SITE) { return fastnn::emulate::barrier_count(p == 0, {file, line}) == 0; }
inline void __syncwarp(unsigned mask = ~0u, EMULATE_SITE) { fastnn::emulate::sync_warp(mask, {file, line}); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T __shfl_sync(unsigned mask, T v, int lane, int width = 32, EMULATE_SITE) {
  return fastnn::emulate::shuffle_as(mask, v, fastnn::emulate::Shuffle::index, lane, width, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, EMULATE_SITE) {
  return fastnn::emulate::shuffle_as(mask, v, fastnn::emulate::Shuffle::up, int(delta), width, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, EMULATE_SITE) {
  return fastnn::emulate::shuffle_as(mask, v, fastnn::emulate::Shuffle::down, int(delta), width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32, EMULATE_SITE) {
  return fastnn::emulate::shuffle_as(mask, v, fastnn::emulate::Shuffle::exclusive_or, lanes, width, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int p, EMULATE_SITE) {
  return fastnn::emulate::vote(mask, p != 0, {file, line});
}
inline int __any_sync(unsigned mask, int p, EMULATE_SITE) {
  return fastnn::emulate::vote(mask, p != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int p, EMULATE_SITE) {
  return fastnn::emulate::vote(mask, p == 0, {file, line}) == 0;
}

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  return fastnn::emulate::atomic_add(p, v);
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  return fastnn::emulate::atomic_max(p, v);
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> v) {
  return fastnn::emulate::atomic_min(p, v);
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> v) {
  return fastnn::emulate::atomic_or(p, v);
}
template <class T>
T atomicAnd(T* p, std::type_identity_t<T> v) {
  return fastnn::emulate::atomic_and(p, v);
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  return fastnn::emulate::atomic_exchange(p, v);
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return fastnn::emulate::atomic_compare_exchange(p, expected, v);
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T v) {
  *p = v;
}

template <class A, class B>
constexpr auto min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(b) < T(a) ? T(b) : T(a);
}
template <class A, class B>
constexpr auto max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(a) < T(b) ? T(b) : T(a);
}

inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline unsigned __float_as_uint(float x) {
  unsigned u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline float __uint_as_float(unsigned u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
inline float __int_as_float(int i) { return __uint_as_float(unsigned(i)); }
inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
  return unsigned(((uint64_t(hi) << 32 | lo) << n % 32) >> 32);
}
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
  return unsigned((uint64_t(hi) << 32 | lo) >> n % 32);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
