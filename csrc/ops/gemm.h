// C = A B on one matrix, the engine of matmul and linear. Not an op by itself.
#pragma once
#include "../array.h"
#include "../dispatch.h"

namespace fastnn {

// An operand: element (i, j) at data + i * row + j * col, in elements.
struct Matrix {
  const char* data;
  int64_t row, col;
};

struct Epilogue {
  const void* bias = nullptr;      // one per column, in the compute type (float; double for float64)
  const void* residual = nullptr;  // like C
  Activation activation = Activation::none;
  bool accumulate = false;  // adds to C, before the rest; not for a C of 16-bit types, which would round the sums
  bool wide = false;        // C and residual are in the compute type
};

// c[i * ldc + j] = f(sum_p a(i, p) b(p, j) + bias[j] + residual(i, j)) for i < m, j < n; k may be zero. `weight`, if
// given, is the array that b is a view of: a packed copy of b is kept with it from the second use on.
void gemm(DType dtype, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, char* c, int64_t ldc, const Epilogue& e,
          const Array* weight = nullptr);

// c = A B for a in u8 or i8 and b in i8, with exact sums; c is in q.out.
void gemm_bytes(DType a_dtype, int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, char* c, int64_t ldc,
                const Requantize& q, const Array* weight = nullptr);

// The type that kernels of `dtype` compute in.
constexpr DType compute_type(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace fastnn
