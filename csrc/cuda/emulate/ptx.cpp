// PTX instructions as the PTX ISA manual has them, atomics, and the accesses that wrappers make.
#include <algorithm>
#include <cmath>

#include "check.h"

namespace fastnn::emulate {

void load(void* to, const void* from, size_t bytes) {
  access(from, bytes, Access::read, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}
void store(void* to, const void* from, size_t bytes) {
  access(to, bytes, Access::write, __builtin_return_address(0));
  std::memcpy(to, from, bytes);
}

float f16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = bits & 0x7fff;
  float x;
  if (rest >= 0x7c00) {  // Inf, NaN
    const uint32_t u = sign | 0x7f800000 | (rest & 0x3ff) << 13;
    std::memcpy(&x, &u, 4);
    return x;
  }
  const uint32_t u = rest << 13;  // its exponent is 112 too small; as a product also for subnormal numbers
  std::memcpy(&x, &u, 4);
  x *= 0x1p112f;
  return sign ? -x : x;
}

uint16_t float_to_f16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  const uint16_t sign = uint16_t(u >> 16 & 0x8000);
  u &= 0x7fffffff;
  if (u > 0x7f800000) return 0x7fff;                    // what the GPU's conversion gives
  if (u >= 0x477ff000) return uint16_t(sign | 0x7c00);  // from 65520 on: Inf
  if (u < 0x38800000) {                                 // below 2^-14 a unit is 2^-24
    float f;
    std::memcpy(&f, &u, 4);
    return uint16_t(sign | uint16_t(std::nearbyint(f * 0x1p24f)));
  }
  u += 0xfff + (u >> 13 & 1);
  return uint16_t(sign | (u - 0x38000000) >> 13);
}

uint32_t to_tf32(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if (x != x) return 0x7fffffff;
  return (u & 0x7f800000) == 0x7f800000 ? u : (u + 0x1000) & ~0x1fffu;
}

void cp_async(uint32_t to, const void* from, int bytes, int from_bytes, Site site) {
  if (from_bytes < 0 || from_bytes > bytes)
    fail("cp.async of %d of %d bytes at %s:%d", from_bytes, bytes, site.file, site.line);
  if (to % unsigned(bytes) || (from_bytes && reinterpret_cast<uintptr_t>(from) % unsigned(bytes)))
    fail("cp.async of %d bytes at %s:%d is not aligned", bytes, site.file, site.line);
  void* caller = __builtin_return_address(0);
  if (from_bytes) access(from, size_t(from_bytes), Access::read, caller);
  access_shared(to, size_t(bytes), Access::copy, caller);
  Copy copy{to, bytes, {}};
  if (from_bytes) std::memcpy(copy.data, from, size_t(from_bytes));
  std::fill(arena_state + to, arena_state + to + bytes, kInFlight);
  if (options.copies == Copies::early) std::memcpy(arena + to, copy.data, size_t(bytes));
  current->open.push_back(copy);
}

void cp_async_commit() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}

void cp_async_wait(int pending) {
  auto& groups = current->groups;
  if (groups.size() <= size_t(pending)) return;
  const auto end = groups.end() - pending;
  for (auto group = groups.begin(); group != end; ++group)
    for (const Copy& copy : *group) {
      std::memcpy(arena + copy.to, copy.data, size_t(copy.bytes));
      std::fill(arena_state + copy.to, arena_state + copy.to + copy.bytes, kInside);
      landed(copy.to, size_t(copy.bytes), current->id, current->clock);
    }
  groups.erase(groups.begin(), end);
}

namespace {

struct LdmatrixOperands {
  uint32_t* r;
  uint32_t row;
  int count;
  bool transposed;
};

void ldmatrix_together(Thread* const* lanes, unsigned) {
  auto operands = [&](int lane) -> LdmatrixOperands& { return *static_cast<LdmatrixOperands*>(lanes[lane]->operands); };
  ++stats.ldmatrix;
  for (int i = 0; i < operands(0).count; ++i) {
    uint16_t matrix[8][8];
    unsigned banks = 0;
    for (int row = 0; row < 8; ++row) {
      const uint32_t at = operands(i * 8 + row).row;
      std::memcpy(matrix[row], arena + at, 16);
      const unsigned bank = 1u << at / 16 % 8;  // eight rows of 16 bytes in different 4-bank groups: one pass
      stats.conflicts += (banks & bank) != 0;
      banks |= bank;
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      const LdmatrixOperands& o = operands(lane);
      const int r = lane / 4, c = lane % 4 * 2;
      const uint16_t lo = o.transposed ? matrix[c][r] : matrix[r][c];
      const uint16_t hi = o.transposed ? matrix[c + 1][r] : matrix[r][c + 1];
      o.r[i] = lo | uint32_t(hi) << 16;
    }
  }
}

struct MmaOperands {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

// The elements of a register, the first in the low half.
struct Bf16 {
  static constexpr int kElements = 2;
  static float element(uint32_t word, int i) { return bf16_to_float(uint16_t(word >> 16 * i)); }
};
struct F16 {
  static constexpr int kElements = 2;
  static float element(uint32_t word, int i) { return f16_to_float(uint16_t(word >> 16 * i)); }
};
struct Tf32 {
  static constexpr int kElements = 1;
  static float element(uint32_t word, int) {
    word &= ~0x1fffu;  // the rest is ignored
    float x;
    std::memcpy(&x, &word, 4);
    return x;
  }
};

template <class Register>
void mma_together(Thread* const* lanes, unsigned) {
  constexpr int E = Register::kElements, K = 8 * E;
  float a[16][K], b[K][8], d[16][8];
  ++stats.mma;
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& o = *static_cast<const MmaOperands*>(lanes[lane]->operands);
    const int g = lane / 4, t = lane % 4;
    for (int e = 0; e < E; ++e) {
      for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][t * E + e + i / 2 * 4 * E] = Register::element(o.a[i], e);
      for (int i = 0; i < 2; ++i) b[t * E + e + i * 4 * E][g] = Register::element(o.b[i], e);
    }
    for (int i = 0; i < 4; ++i) d[g + i / 2 * 8][t * 2 + i % 2] = o.d[i];
  }
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < K; ++k)
      for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < kWarp; ++lane) {
    float* to = static_cast<MmaOperands*>(lanes[lane]->operands)->d;
    for (int i = 0; i < 4; ++i) to[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

}  // namespace

void ldmatrix(uint32_t* r, int count, bool transposed, uint32_t row, Site site) {
  if (current->lane < count * 8) {
    if (row % 16) fail("ldmatrix at %s:%d: the row at offset %u is not aligned to 16 bytes", site.file, site.line, row);
    access_shared(row, 16, Access::read, __builtin_return_address(0));
  }
  LdmatrixOperands operands{r, row, count, transposed};
  collective(~0u, "ldmatrix", ldmatrix_together, &operands, site, true);
}

void mma(DType type, float* d, const uint32_t* a, uint32_t b0, uint32_t b1, Site site) {
  MmaOperands operands{d, a, {b0, b1}};
  const Together together = type == DType::bf16  ? mma_together<Bf16>
                            : type == DType::f16 ? mma_together<F16>
                                                 : mma_together<Tf32>;
  collective(~0u, "mma", together, &operands, site, true);
}

namespace {

template <class T, class F>
T update(T* p, void* caller, F f) {
  access(p, sizeof(T), Access::atomic, caller);
  const T before = *p;
  *p = f(before);
  return before;
}

}  // namespace

template <class T>
T atomic_add(T* p, T v) {
  return update(p, __builtin_return_address(0), [v](T x) { return T(x + v); });
}
template <class T>
T atomic_max(T* p, T v) {
  return update(p, __builtin_return_address(0), [v](T x) { return x > v ? x : v; });
}
template <class T>
T atomic_min(T* p, T v) {
  return update(p, __builtin_return_address(0), [v](T x) { return x < v ? x : v; });
}
template <class T>
T atomic_or(T* p, T v) {
  return update(p, __builtin_return_address(0), [v](T x) { return x | v; });
}
template <class T>
T atomic_and(T* p, T v) {
  return update(p, __builtin_return_address(0), [v](T x) { return x & v; });
}
template <class T>
T atomic_exchange(T* p, T v) {
  return update(p, __builtin_return_address(0), [v](T) { return v; });
}
template <class T>
T atomic_compare_exchange(T* p, T expected, T v) {
  return update(p, __builtin_return_address(0), [=](T x) { return x == expected ? v : x; });
}

#define FASTNN_ATOMICS(T)            \
  template T atomic_add(T*, T);      \
  template T atomic_max(T*, T);      \
  template T atomic_min(T*, T);      \
  template T atomic_or(T*, T);       \
  template T atomic_and(T*, T);      \
  template T atomic_exchange(T*, T); \
  template T atomic_compare_exchange(T*, T, T);
FASTNN_ATOMICS(int)
FASTNN_ATOMICS(unsigned)
FASTNN_ATOMICS(unsigned long long)
#undef FASTNN_ATOMICS
template float atomic_add(float*, float);
template double atomic_add(double*, double);
template float atomic_exchange(float*, float);

unsigned count_block(unsigned* counter) {
  const unsigned before = atomic_add(counter, 1u);
  acquire_and_release(counter);
  return before;
}

}  // namespace fastnn::emulate
