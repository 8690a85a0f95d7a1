#include "torch_team.h"

#include <dlfcn.h>

namespace fastnn::python {
namespace {

// From torch's stable C interface (torch/csrc/stable/c/shim.h), of 2.10 and later; 0 is success.
int32_t (*parallel_for_of_torch)(int64_t begin, int64_t end, int64_t grain, void (*fn)(int64_t, int64_t, void*),
                                 void* context);
int32_t (*num_threads_of_torch)(uint32_t*);

struct Members {
  void (*member)(int, void*);
  void* context;
};

constexpr Team kTeam = {
    [] {
      uint32_t n = 1;
      return num_threads_of_torch(&n) == 0 && n > 0 ? int(n) : 1;
    },
    [](int members, void (*member)(int, void*), void* context) {
      Members all{member, context};
      auto run = [](int64_t begin, int64_t end, void* p) {
        auto* m = static_cast<Members*>(p);
        for (int64_t i = begin; i < end; ++i) m->member(int(i), m->context);
      };
      if (parallel_for_of_torch(0, members, 1, run, &all)) run(0, members, &all);
    },
};

}  // namespace

const Team* torch_team() {
  static const Team* found = []() -> const Team* {
    void* library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    if (!library) return nullptr;
    auto find = [&](const char* name, auto& function) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    bool all = find("torch_parallel_for", parallel_for_of_torch) && find("torch_get_num_threads", num_threads_of_torch);
    return all ? &kTeam : nullptr;
  }();
  return found;
}

}  // namespace fastnn::python
