// One table of micro-kernels per ISA. The rows stand in kernels/<family>.inc; a row declares the function pointer here,
// is filled in by ops/<family>_kernel.cpp once per ISA, and is listed for tests by kernel_rows(). CPUID picks the best
// table at import; FASTNN_ISA or set_isa() forces another.
//
// Rows:  KERNEL(name, isas, return type, (arguments))        one function
//        FLOAT_KERNEL(name, return type, (arguments))        one per floating dtype, for every ISA; float64 only on
//        generic
// A row that an ISA does not fill is inherited from the next lower one.
#pragma once
#include <string>
#include <vector>

#include "dtype.h"
#include "kernels/types.h"

namespace fastnn {

enum Isa : int { kGeneric, kAvx2, kAvx512, kAvx512Bf16, kNeon, kIsas };
constexpr const char* kIsaNames[kIsas] = {"generic", "avx2", "avx512", "avx512_bf16", "neon"};
constexpr unsigned kAllIsas = ~0u;
constexpr unsigned only(Isa isa) { return 1u << isa; }

template <class Fn>
struct ByDtype {
  Fn* fn[kFloatTypes];
  Fn* operator[](DType t) const { return fn[int(t)]; }
};

#define BEGIN_FAMILY(stem, Struct) struct Struct {
#define END_FAMILY \
  }                \
  ;
#define KERNEL(name, isas, ret, args) ret(*name) args;
#define FLOAT_KERNEL(name, ret, args) ByDtype<ret args> name;
#include "kernels/families.inc"

struct Kernels {
#define BEGIN_FAMILY(stem, Struct) Struct stem;
#define END_FAMILY
#define KERNEL(name, isas, ret, args)
#define FLOAT_KERNEL(name, ret, args)
#include "kernels/families.inc"
};

// The table in use. Read once at the start of an op.
const Kernels& kernels();

Isa current_isa();
std::vector<Isa> available_isas();  // compiled in and supported by this CPU, lowest first
void set_isa(const std::string& name);
bool cpu_supports(Isa isa);

// "exact", "fast" or "tf32": whether sums may be rearranged into faster algorithms with larger rounding errors
// (Winograd), and whether GPUs may round float32 operands of products to tf32 as well. Of the process.
void set_precision(const std::string& name);
const char* precision();
bool exact_precision();
bool tf32_products();
// FASTNN_LOG=dispatch: ops that choose among algorithms print a line about each call to stderr.
bool logs_dispatch();
bool built(Isa isa);

struct KernelRow {
  const char *family, *name;
  unsigned isas;
};
std::vector<KernelRow> kernel_rows();

}  // namespace fastnn
