// Inside the emulation: how a launch runs now.
#pragma once
#include "emulate.h"

namespace fastnn::emulate {

void run(const Launch& launch);  // fault() has what went wrong
void clear_fault();
void check_memory_guards();  // of all device memory: reports writes outside of it

}  // namespace fastnn::emulate
