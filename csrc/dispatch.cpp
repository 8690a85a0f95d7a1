#include "dispatch.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "error.h"

namespace fastnn {

#define BEGIN_FAMILY(stem, Struct)    \
  namespace generic {                 \
  extern const Struct stem##_kernels; \
  }                                   \
  namespace avx2 {                    \
  extern const Struct stem##_kernels; \
  }                                   \
  namespace avx512 {                  \
  extern const Struct stem##_kernels; \
  }                                   \
  namespace neon {                    \
  extern const Struct stem##_kernels; \
  }
#define END_FAMILY
#define KERNEL(name, isas, ret, args)
#define FLOAT_KERNEL(name, ret, args)
#include "kernels/families.inc"
namespace avx512_bf16 {
extern const GemmKernels gemm_kernels;
extern const ProbeKernels probe_kernels;
extern const QuantizedKernels quantized_kernels;
}  // namespace avx512_bf16

namespace {

using Entry = void (*)();

// Tables hold nothing but function pointers, so null entries can be filled from the table below as one array.
template <class Table>
void overlay(Table& table, const Table& with) {
  static_assert(sizeof(Table) % sizeof(Entry) == 0);
  Entry entry;
  for (size_t i = 0; i < sizeof(Table); i += sizeof(Entry)) {
    std::memcpy(&entry, reinterpret_cast<const char*>(&with) + i, sizeof entry);
    if (entry) std::memcpy(reinterpret_cast<char*>(&table) + i, &entry, sizeof entry);
  }
}

struct Tables {
  Kernels of[kIsas] = {};
  Tables() {
#define BEGIN_FAMILY(stem, Struct) overlay(of[kGeneric].stem, generic::stem##_kernels);
#define END_FAMILY
#define KERNEL(name, isas, ret, args)
#define FLOAT_KERNEL(name, ret, args)
#include "kernels/families.inc"
#ifdef FASTNN_BUILT_X86
    of[kAvx2] = of[kGeneric];
#define BEGIN_FAMILY(stem, Struct) overlay(of[kAvx2].stem, avx2::stem##_kernels);
#define END_FAMILY
#define KERNEL(name, isas, ret, args)
#define FLOAT_KERNEL(name, ret, args)
#include "kernels/families.inc"
    of[kAvx512] = of[kAvx2];
#define BEGIN_FAMILY(stem, Struct) overlay(of[kAvx512].stem, avx512::stem##_kernels);
#define END_FAMILY
#define KERNEL(name, isas, ret, args)
#define FLOAT_KERNEL(name, ret, args)
#include "kernels/families.inc"
    of[kAvx512Bf16] = of[kAvx512];
    overlay(of[kAvx512Bf16].gemm, avx512_bf16::gemm_kernels);
    overlay(of[kAvx512Bf16].probe, avx512_bf16::probe_kernels);
    overlay(of[kAvx512Bf16].quantized, avx512_bf16::quantized_kernels);
#endif
#ifdef FASTNN_BUILT_NEON
    of[kNeon] = of[kGeneric];
#define BEGIN_FAMILY(stem, Struct) overlay(of[kNeon].stem, neon::stem##_kernels);
#define END_FAMILY
#define KERNEL(name, isas, ret, args)
#define FLOAT_KERNEL(name, ret, args)
#include "kernels/families.inc"
#endif
  }
};

const Tables& tables() {
  static const Tables* t = new Tables;
  return *t;
}

Isa pick() {
  Isa best = available_isas().back();
  const char* forced = std::getenv("FASTNN_ISA");
  if (!forced || !*forced) return best;
  for (Isa isa : available_isas())
    if (!std::strcmp(forced, kIsaNames[isa])) return isa;
  std::fprintf(stderr, "fastnn: FASTNN_ISA=%s is not available here; using %s\n", forced, kIsaNames[best]);
  return best;
}

std::atomic<int>& current() {
  static std::atomic<int> isa{pick()};
  return isa;
}

std::atomic<const Kernels*>& active() {
  static std::atomic<const Kernels*> k{&tables().of[current()]};
  return k;
}

}  // namespace

const Kernels& kernels() { return *active().load(std::memory_order_relaxed); }

Isa current_isa() { return Isa(current().load()); }

bool built(Isa isa) {
#ifdef FASTNN_BUILT_X86
  if (isa == kAvx2 || isa == kAvx512 || isa == kAvx512Bf16) return true;
#endif
#ifdef FASTNN_BUILT_NEON
  if (isa == kNeon) return true;
#endif
  return isa == kGeneric;
}

bool cpu_supports(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == kAvx2) return has_avx2;
  if (isa == kAvx512) return has_avx512;
  if (isa == kAvx512Bf16)
    return has_avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
#elif defined(__aarch64__)
  if (isa == kNeon) return true;
#endif
  return isa == kGeneric;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> found;
  for (int i = 0; i < kIsas; ++i)
    if (built(Isa(i)) && cpu_supports(Isa(i))) found.push_back(Isa(i));
  return found;
}

void set_isa(const std::string& name) {
  std::string names;
  for (Isa isa : available_isas()) {
    if (name == kIsaNames[isa]) {
      current().store(isa);
      active().store(&tables().of[isa]);
      return;
    }
    names += (names.empty() ? "" : ", ") + std::string(kIsaNames[isa]);
  }
  throw ValueError("set_isa: '" + name + "' is not available; expected one of " + names);
}

namespace {
constexpr const char* kPrecisions[] = {"exact", "fast", "tf32"};
std::atomic<int> chosen_precision{1};
}  // namespace

void set_precision(const std::string& name) {
  for (int i = 0; i < 3; ++i)
    if (name == kPrecisions[i]) return chosen_precision.store(i, std::memory_order_relaxed);
  throw ValueError("set_precision: '" + name + "' is not a precision; expected 'fast', 'exact' or 'tf32'");
}

const char* precision() { return kPrecisions[chosen_precision.load(std::memory_order_relaxed)]; }

bool exact_precision() { return chosen_precision.load(std::memory_order_relaxed) == 0; }

bool tf32_products() { return chosen_precision.load(std::memory_order_relaxed) == 2; }

bool logs_dispatch() {
  static const bool logs = [] {
    const char* topics = std::getenv("FASTNN_LOG");
    return topics && std::strstr(topics, "dispatch");
  }();
  return logs;
}

std::vector<KernelRow> kernel_rows() {
  std::vector<KernelRow> rows;
  const char* family = "";
#define BEGIN_FAMILY(stem, Struct) family = #stem;
#define END_FAMILY
#define KERNEL(name, isas, ret, args) rows.push_back({family, #name, isas});
#define FLOAT_KERNEL(name, ret, args) rows.push_back({family, #name, kAllIsas});
#include "kernels/families.inc"
  return rows;
}

}  // namespace fastnn
