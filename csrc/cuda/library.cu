// The table of launchers, which is all that the library exports.
#include "gpu.h"
#include "launchers.h"

namespace fastnn::gpu {
namespace {

constexpr Launchers kLaunchers = {
    kInterface,
    kEmulated,
    error_string,
#define LAUNCHER(name, args) name,
#include "launchers.inc"
#undef LAUNCHER
};

}  // namespace
}  // namespace fastnn::gpu

extern "C" __attribute__((visibility("default"))) const fastnn::gpu::Launchers* fastnn_cuda_launchers() {
  return &fastnn::gpu::kLaunchers;
}
