// The DLPack structures (dmlc/dlpack, version 1.1), declared here so that no header package is needed.
#pragma once
#include <cstdint>
#include <optional>

#include "../array.h"

namespace fastnn::python {

struct DLVersion {
  uint32_t major, minor;
};
struct DLDevice {
  int32_t type, id;
};
struct DLDataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};
struct DLManagedTensorVersioned {
  DLVersion version;
  void* context;
  void (*deleter)(DLManagedTensorVersioned*);
  uint64_t flags;
  DLTensor tensor;
};
// The C functions that a library publishes on its tensor type as __dlpack_c_exchange_api__ (DLPack 1.3).
struct DLExchangeHeader {
  DLVersion version;
  DLExchangeHeader* previous;
};
struct DLExchange {
  DLExchangeHeader header;
  int (*allocate)(DLTensor*, DLManagedTensorVersioned**, void*, void (*)(void*, const char*, const char*));
  int (*managed_from_object)(void* object, DLManagedTensorVersioned** out);
  int (*object_from_managed)(DLManagedTensorVersioned* tensor, void** out);  // takes over `tensor`
  int (*borrow)(void* object, DLTensor* out);                                // valid as long as `object` is
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};
constexpr uint64_t kDLReadOnly = 1;
constexpr int32_t kDLCpu = 1, kDLCuda = 2;

std::optional<DType> dtype_from_dlpack(const DLDataType& type);
// The CPU, or a GPU that is there.
std::optional<Device> device_from_dlpack(const DLDevice& device);
// Shape, strides and address of the elements. Throws ValueError for too many dimensions.
void read_layout(const DLTensor& tensor, Array& array);
// What the receiver frees with its deleter, which needs no GIL unless the memory is another library's.
DLManagedTensorVersioned* export_versioned(Array array);

}  // namespace fastnn::python
