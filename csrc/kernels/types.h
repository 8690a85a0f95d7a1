// Types that rows of the kernel tables have in their signatures. Plain data: kernels are compiled per ISA.
#pragma once

namespace fastnn {

enum class Activation : int { none, relu };

}  // namespace fastnn
