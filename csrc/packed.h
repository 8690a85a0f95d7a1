// Copies of weights in the layouts of kernels, kept with the storage of the weight and released with it. Only where
// changes are seen: memory of ours, by its version, and while no numpy or DLPack view can write to it. A copy is kept
// from the second use of one version on, so that training, which changes weights in every step, keeps none.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "array.h"

namespace fastnn {

void release_packed(PackedCopies* copies);

// What a copy depends on besides the contents of the weight. The array and the ISA are added by Packed.
using PackKey = std::vector<int64_t>;

// The result of pack(char* to), in memory of `bytes`: a kept copy, or one that lasts as long as this.
class Packed {
 public:
  template <class Pack>
  Packed(const Array& weight, PackKey key, size_t bytes, Pack&& pack) {
    const bool keep = find(weight, key);
    if (memory_) return;
    memory_ = std::make_shared<Scratch>(bytes);
    pack(data());
    if (keep) store(weight, key, bytes);
  }
  // The kept copy of a weight that was used before at this version; nothing, and nothing is packed, at the first use.
  template <class Pack>
  static std::optional<Packed> from_second_use(const Array& weight, PackKey key, size_t bytes, Pack&& pack) {
    Packed p;
    if (!p.find(weight, key)) return {};
    if (!p.memory_) {
      p.memory_ = std::make_shared<Scratch>(bytes);
      pack(p.data());
      p.store(weight, key, bytes);
    }
    return p;
  }
  char* data() const { return memory_->as<char>(); }
  // Whether this version of the weight was used before, so that a copy is, or will be, kept; notes the use.
  static bool used_before(const Array& weight, PackKey key) { return Packed().find(weight, key); }

 private:
  Packed() = default;
  // Completes the key; sets memory_ to the kept copy, if there is one. Whether one is, or is to be, kept.
  bool find(const Array& weight, PackKey& key);
  void store(const Array& weight, const PackKey& key, size_t bytes);
  int64_t version_ = 0;
  std::shared_ptr<Scratch> memory_;
};

}  // namespace fastnn
