// What arithmetic takes: an array, or a Python number, which adapts to the dtype of the array beside it.
#pragma once
#include "array.h"

namespace fastnn {

struct Operand {
  const Array* array = nullptr;
  bool floating = false;  // of the number: a Python float, else an int
  double number = 0;
  int64_t integer = 0;

  Operand() = default;
  Operand(const Array& a) : array(&a) {}
};

}  // namespace fastnn
