// Each kind of fault planted once, beside the same kernel without it: the emulation must report the fault in every
// schedule and both ways of landing copies, and nothing of the twin.
//
//   selftest               tries all faults of this build; a line per kernel: name, fault or clean, ok or WRONG,
//   message selftest KERNEL fault|clean   one launch of one kernel: for AddressSanitizer, which ends the process
//   selftest --list        the kernels, and whether AddressSanitizer must report the fault
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "../ptx.h"
#include "selftest.h"

using namespace fastnn;

namespace {

GPU_FN int block_thread() { return int(blockIdx.x * blockDim.x + threadIdx.x); }

// Races in shared memory.

template <bool FAULT>
__global__ void barrier_before_read(Arguments a) {
  GPU_SHARED(float, s, [64]);
  const int t = int(threadIdx.x);
  s[t] = a.in[t];
  if (!FAULT) __syncthreads();
  a.out[block_thread()] = s[63 - t];
}

template <bool FAULT>
__global__ void barrier_after_read(Arguments a) {
  GPU_SHARED(float, s, [64]);
  const int t = int(threadIdx.x);
  float sum = 0;
  for (int i = 0; i < 2; ++i) {
    if (i && !FAULT) __syncthreads();
    s[t] = a.in[t + i];
    __syncthreads();
    sum += s[63 - t];
  }
  a.out[block_thread()] = sum;
}

template <bool FAULT>
__global__ void barrier_between_warps(Arguments a) {
  GPU_SHARED(float, s, [64]);
  const int t = int(threadIdx.x);
  s[t] = a.in[t];
  if (FAULT)
    __syncwarp();  // orders the threads of a warp only
  else
    __syncthreads();
  a.out[block_thread()] = s[t ^ 32];
}

template <bool FAULT>
__global__ void warp_barrier(Arguments a) {
  GPU_SHARED(float, s, [64]);
  const int t = int(threadIdx.x);
  s[t] = a.in[t];
  if (!FAULT) __syncwarp();
  a.out[block_thread()] = s[t ^ 1];
}

template <bool FAULT>
__global__ void warp_barrier_after_reads(Arguments a) {  // the writer is one of many readers
  GPU_SHARED(float, s, [2]);
  const int t = int(threadIdx.x), warp = t / 32;
  if (t % 32 == 0) s[warp] = a.in[warp];
  __syncwarp();
  const float x = s[warp];
  if (!FAULT) __syncwarp();
  if (t % 32 == 31) s[warp] = x + 1;
  a.out[block_thread()] = x;
}

template <bool FAULT>
__global__ void named_barrier(Arguments a) {  // the second warp produces, the first consumes
  GPU_SHARED(float, s, [32]);
  const int t = int(threadIdx.x);
  if (t >= 32) {
    s[t - 32] = a.in[t];
    if (!FAULT) ptx::barrier_arrive(1, 64);
  } else {
    if (!FAULT) ptx::barrier_sync(1, 64);
    a.out[blockIdx.x * 32 + t] = s[31 - t];
  }
}

template <bool FAULT>
__global__ void atomic_and_store(Arguments a) {
  GPU_SHARED(int, s, [1]);
  if (threadIdx.x == 0) s[0] = 0;
  __syncthreads();
  if (FAULT && threadIdx.x == 40)
    s[0] = 1;
  else
    atomicAdd(&s[0], 1);
  __syncthreads();
  a.out[block_thread()] = float(s[0]);
}

// Races in global memory.

template <bool FAULT>
__global__ void threads_of_a_block(Arguments a) {
  const int t = int(threadIdx.x), first = int(blockIdx.x) * 64;
  a.out[first + t] = a.in[t];
  if (!FAULT) __syncthreads();
  if (t < 32) a.counter[2 + first + t] = unsigned(a.out[first + 63 - t]);
}

template <bool FAULT>
__global__ void blocks_write(Arguments a) {
  if (threadIdx.x == 0) a.out[FAULT ? 0 : blockIdx.x] = float(blockIdx.x);
}

template <bool FAULT>
__global__ void blocks_read_and_write(Arguments a) {
  if (threadIdx.x == 0) a.out[blockIdx.x] = a.out[FAULT ? 1 - blockIdx.x : blockIdx.x] + 1;
}

template <bool FAULT>
__global__ void last_block(Arguments a) {
  GPU_SHARED(bool, last, [1]);
  a.out[block_thread()] = a.in[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned before = FAULT ? atomicAdd(a.counter, 1u) : gpu::count_block(a.counter);
    last[0] = before == gridDim.x - 1;
  }
  __syncthreads();
  if (last[0]) a.out[128 + threadIdx.x] = a.out[threadIdx.x] + a.out[64 + threadIdx.x];
}

template <bool FAULT>
__global__ void last_block_without_barrier(Arguments a) {  // other threads' writes are not published
  GPU_SHARED(bool, last, [1]);
  a.out[block_thread()] = a.in[threadIdx.x];
  if (!FAULT) __syncthreads();
  if (threadIdx.x == 0) last[0] = gpu::count_block(a.counter) == gridDim.x - 1;
  __syncthreads();
  if (last[0]) a.out[128 + threadIdx.x] = a.out[threadIdx.x] + a.out[64 + threadIdx.x];
}

template <bool FAULT>
__global__ void bytes(Arguments a) {  // neighbours in a word are no race, the same byte is
  reinterpret_cast<unsigned char*>(a.out)[block_thread() / (FAULT ? 2 : 1)] = 1;
}

// Asynchronous copies.

template <bool FAULT>
__global__ void copy_wait(Arguments a) {
  GPU_SHARED(float, s, [64]);
  const int t = int(threadIdx.x);
  ptx::cp_async<4>(ptx::shared_address(&s[t]), a.in + t);
  ptx::cp_async_commit();
  if (!FAULT) ptx::cp_async_wait<0>();
  __syncthreads();
  a.out[block_thread()] = s[63 - t];
  if (FAULT) ptx::cp_async_wait<0>();
}

template <bool FAULT>
__global__ void copy_group(Arguments a) {  // waits for the first group, reads the second
  GPU_SHARED(float, s, [2][64]);
  const int t = int(threadIdx.x);
  for (int i = 0; i < 2; ++i) {
    ptx::cp_async<4>(ptx::shared_address(&s[i][t]), a.in + t + i);
    ptx::cp_async_commit();
  }
  ptx::cp_async_wait<1>();
  __syncthreads();
  a.out[block_thread()] = s[FAULT][63 - t];
  ptx::cp_async_wait<0>();
}

template <bool FAULT>
__global__ void copy_barrier(Arguments a) {  // a thread's wait says nothing of other threads' copies
  GPU_SHARED(float, s, [64]);
  const int t = int(threadIdx.x);
  ptx::cp_async<4>(ptx::shared_address(&s[t]), a.in + t);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  if (!FAULT) __syncthreads();
  a.out[block_thread()] = s[63 - t];
}

template <bool FAULT>
__global__ void copy_over_read(Arguments a) {  // refills a stage that others may still read
  GPU_SHARED(float, s, [64]);
  const int t = int(threadIdx.x);
  s[t] = a.in[t];
  __syncthreads();
  const float x = s[63 - t];
  if (!FAULT) __syncthreads();
  ptx::cp_async<4>(ptx::shared_address(&s[t]), a.in + t);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  a.out[block_thread()] = x + s[t];
}

template <bool FAULT>
__global__ void copy_without_group(Arguments a) {
  GPU_SHARED(float, s, [64]);
  ptx::cp_async<4>(ptx::shared_address(&s[threadIdx.x]), a.in + threadIdx.x);
  if (!FAULT) ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
}

template <bool FAULT>
__global__ void copy_at_exit(Arguments a) {
  GPU_SHARED(float, s, [64]);
  ptx::cp_async<4>(ptx::shared_address(&s[threadIdx.x]), a.in + threadIdx.x);
  ptx::cp_async_commit();
  if (!FAULT) ptx::cp_async_wait<0>();
}

template <bool FAULT>
__global__ void copy_from_outside(Arguments a) {  // the twin fills the rest with zeros
  GPU_SHARED(float, s, [64][4]);
  const int t = int(threadIdx.x), last = kFloats - 4 * 64 + 4;
  ptx::cp_async<16>(ptx::shared_address(s[t]), a.in + last + t * 4, FAULT || t < 63 ? 16 : 0);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  a.out[block_thread()] = s[t][3];
}

template <bool FAULT>
__global__ void copy_to_outside(Arguments a) {
  GPU_SHARED(float, s, [64]);
  ptx::cp_async<4>(ptx::shared_address(s) + (threadIdx.x + FAULT) * 4, a.in);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
}

template <bool FAULT>
__global__ void copy_misaligned(Arguments a) {
  GPU_SHARED(float, s, [64][4]);
  ptx::cp_async<16>(ptx::shared_address(s[threadIdx.x]), a.in + threadIdx.x * (FAULT ? 1 : 4) % 64);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
}

// Out of bounds, not aligned, not written.

template <bool FAULT>
__global__ void global_read_outside(Arguments a) {
  a.out[block_thread()] = a.in[kFloats - 64 + threadIdx.x + FAULT];
}
template <bool FAULT>
__global__ void global_write_outside(Arguments a) {
  a.out[kFloats - 128 + block_thread() + FAULT] = 1;
}
template <bool FAULT>
__global__ void global_write_before(Arguments a) {
  a.out[block_thread() - FAULT] = 1;
}
// Loops of which a compiler would make calls of memset and memcpy, which the hooks would not see.
template <bool FAULT>
__global__ void zeroing_loop_outside(Arguments a) {
  const int n = FAULT ? kFloats + 1 : kFloats;
  if (threadIdx.x == 0 && blockIdx.x == 0)
    for (int i = 0; i < n; ++i) a.out[i] = 0;
}
template <bool FAULT>
__global__ void copying_loop_outside(Arguments a) {
  const int n = FAULT ? kFloats + 1 : kFloats;
  float* __restrict__ to = a.out;
  const float* __restrict__ from = a.in;
  if (threadIdx.x == 0 && blockIdx.x == 0)
    for (int i = 0; i < n; ++i) to[i] = from[i];
}
template <bool FAULT>
__global__ void structure_outside(Arguments a) {
  struct Row {
    float v[64];
  };
  if (threadIdx.x == 0) reinterpret_cast<Row*>(a.out)[blockIdx.x] = reinterpret_cast<const Row*>(a.in)[FAULT ? 4 : 3];
}
template <bool FAULT>
__global__ void vector_read_outside(Arguments a) {
  float v[8];
  gpu::load_float(v, a.in + kFloats - 8 * 64 + threadIdx.x * 8 + (FAULT ? 4 : 0) + 256 * (threadIdx.x < 32));
  a.out[block_thread()] = v[7];
}
template <bool FAULT>
__global__ void vector_write_outside(Arguments a) {
  const float v[4] = {};
  if (threadIdx.x == 0) gpu::store_float(a.out + kFloats - 4 - int(blockIdx.x) * 4 + (FAULT ? 4 : 0), v);
}
template <bool FAULT>
__global__ void vector_misaligned(Arguments a) {
  float v[4];
  gpu::load_float(v, a.in + threadIdx.x * (FAULT ? 1 : 4) % 64);
  a.out[block_thread()] = v[0];
}
template <bool FAULT>
__global__ void cast_misaligned(Arguments a) {
  const float4 v = *reinterpret_cast<const float4*>(a.in + threadIdx.x * (FAULT ? 1 : 4) % 64);
  a.out[block_thread()] = v.x + v.y + v.z + v.w;
}
template <bool FAULT>
__global__ void dynamic_shared_outside(Arguments a) {
  GPU_DYNAMIC_SHARED(bytes);
  float* s = reinterpret_cast<float*>(bytes);
  s[threadIdx.x + FAULT] = 1;
  a.out[block_thread()] = s[threadIdx.x + FAULT];
}
template <bool FAULT>
__global__ void static_shared_outside(Arguments a) {
  GPU_SHARED(float, s, [64]);
  GPU_SHARED(float, other, [64]);
  other[threadIdx.x] = 1;
  s[threadIdx.x + FAULT] = 1;
  a.out[block_thread()] = s[threadIdx.x + FAULT];
}
template <bool FAULT>
__global__ void ldmatrix_outside(Arguments a) {
  GPU_SHARED(bf16, s, [16][16]);
  for (int i = int(threadIdx.x); i < 256; i += 64) s[i / 16][i % 16] = bf16{uint16_t(i)};
  __syncthreads();
  uint32_t r[4];
  const int lane = int(threadIdx.x) % 32;
  ptx::ldmatrix(r, ptx::shared_address(s) + unsigned(lane % 16 + FAULT) * 32 + unsigned(lane / 16) * 16);
  a.out[block_thread()] = float(r[0]);
}
template <bool FAULT>
__global__ void ldmatrix_misaligned(Arguments a) {
  GPU_SHARED(bf16, s, [16][24]);
  for (int i = int(threadIdx.x); i < 16 * 24; i += 64) s[i / 24][i % 24] = bf16{uint16_t(i)};
  __syncthreads();
  uint32_t r[4];
  const int lane = int(threadIdx.x) % 32;
  ptx::ldmatrix(r, ptx::shared_address(&s[lane % 16][lane / 16 * 8 + (FAULT ? 4 : 0)]));
  a.out[block_thread()] = float(r[0]);
}
template <bool FAULT>
__global__ void unwritten(Arguments a) {
  GPU_SHARED(float, s, [64]);
  if (!FAULT || threadIdx.x != 17) s[threadIdx.x] = 1;
  __syncthreads();
  a.out[block_thread()] = s[63 - threadIdx.x];
}
template <bool FAULT>
__global__ void unwritten_ldmatrix(Arguments a) {
  GPU_SHARED(bf16, s, [8][8]);
  if (!FAULT || threadIdx.x != 17) s[threadIdx.x / 8][threadIdx.x % 8] = bf16{0};
  __syncthreads();
  uint32_t r[1];
  ptx::ldmatrix(r, ptx::shared_address(s[threadIdx.x % 8]));
  a.out[block_thread()] = float(r[0]);
}
template <bool FAULT>
__global__ void host_memory(Arguments a) {
  a.out[block_thread()] = (FAULT ? a.host : a.in)[threadIdx.x];
}
template <bool FAULT>
__global__ void released_memory(Arguments a) {
  a.out[block_thread()] = (FAULT ? a.released : a.in)[threadIdx.x];
}
template <bool FAULT>
__global__ void stack_of_another_thread(Arguments a) {
  GPU_SHARED(float*, s, [64]);
  float mine = a.in[threadIdx.x];
  s[threadIdx.x] = &mine;
  __syncthreads();
  a.out[block_thread()] = *s[FAULT ? threadIdx.x ^ 1 : threadIdx.x];
  __syncthreads();
}

// Divergence.

template <bool FAULT>
__global__ void divergent_barriers(Arguments a) {
  if (FAULT && threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  a.out[block_thread()] = 1;
}
template <bool FAULT>
__global__ void barrier_of_some(Arguments a) {
  if (!FAULT || threadIdx.x < 32) __syncthreads();
  a.out[block_thread()] = 1;
}
template <bool FAULT>
__global__ void exit_before_barrier(Arguments a) {
  if (FAULT && threadIdx.x == 5) return;
  __syncthreads();
  a.out[block_thread()] = 1;
}
template <bool FAULT>
__global__ void named_barrier_count(Arguments a) {  // three warps' worth, of two
  ptx::barrier_sync(1, FAULT ? 96 : 64);
  a.out[block_thread()] = 1;
}
template <bool FAULT>
__global__ void shuffle_of_some(Arguments a) {
  float v = a.in[threadIdx.x];
  if (!FAULT || threadIdx.x % 32 < 16) v = __shfl_xor_sync(~0u, v, 1);
  a.out[block_thread()] = v;
}
template <bool FAULT>
__global__ void shuffle_mask_without_caller(Arguments a) {
  a.out[block_thread()] = __shfl_xor_sync(FAULT ? 0x7fffffffu : ~0u, a.in[threadIdx.x], 1);
}
template <bool FAULT>
__global__ void shuffle_from_outside_of_mask(Arguments a) {
  float v = a.in[threadIdx.x];
  if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(0xffffu, v, FAULT ? 16 : 8);
  a.out[block_thread()] = v;
}
template <bool FAULT>
__global__ void different_collectives(Arguments a) {
  float v = a.in[threadIdx.x];
  if (FAULT && threadIdx.x % 2)
    __syncwarp();
  else
    v = __shfl_xor_sync(~0u, v, 1);
  a.out[block_thread()] = v;
}
template <bool FAULT>
__global__ void mma_of_some(Arguments a) {
  float d[4] = {};
  const uint32_t x[4] = {};
  if (!FAULT || threadIdx.x % 2) ptx::mma<bf16>(d, x, 0, 0);
  a.out[block_thread()] = d[0];
}
template <bool FAULT>
__global__ void mma_in_two_places(Arguments a) {
  float d[4] = {};
  const uint32_t x[4] = {};
  if (FAULT && threadIdx.x % 2)
    ptx::mma<bf16>(d, x, 0, 0);
  else
    ptx::mma<bf16>(d, x, 0, 0);
  a.out[block_thread()] = d[0];
}

// What a launch may not ask for.

template <bool FAULT>
__global__ void shared_too_large(Arguments a) {
  GPU_SHARED(float, s, [FAULT ? 60 << 10 : 50 << 10]);
  s[threadIdx.x] = 1;
  a.out[block_thread()] = s[threadIdx.x];
}

const Case kCases[] = {
    CASE(barrier_before_read, "race|nobody wrote", kHooksOnly, false),
    CASE(barrier_after_read, "race", kHooksOnly, false),
    CASE(barrier_between_warps, "race|nobody wrote", kHooksOnly, false),
    CASE(warp_barrier, "race|nobody wrote", kHooksOnly, false),
    CASE(warp_barrier_after_reads, "race", kHooksOnly, false),
    CASE(named_barrier, "race|nobody wrote", kHooksOnly, false),
    CASE(atomic_and_store, "race", kHooksOnly, false),
    CASE(threads_of_a_block, "race", kHooksOnly, false),
    CASE(blocks_write, "by thread 0 of another block", kHooksOnly, false),
    CASE(blocks_read_and_write, "by thread 0 of another block", kHooksOnly, false),
    CASE(last_block, "of another block", kHooksOnly, false),
    CASE(last_block_without_barrier, "of another block", kHooksOnly, false),
    CASE(bytes, "race", kHooksOnly, false),
    CASE(copy_wait, "not waited for", kHooksOnly, false),
    CASE(copy_group, "not waited for", kHooksOnly, false),
    CASE(copy_barrier, "race|not waited for|nobody wrote", kHooksOnly, false),
    CASE(copy_over_read, "race|not waited for", kHooksOnly, false),
    CASE(copy_without_group, "no group", kAlways, false),
    CASE(copy_at_exit, "did not wait for", kAlways, false),
    CASE(copy_from_outside, "allocation of", kAlways, false),
    CASE(copy_to_outside, "out of bounds", kAlways, false),
    CASE(copy_misaligned, "not aligned", kAlways, false),
    CASE(global_read_outside, "allocation of", kHooksOnly, true),
    CASE(global_write_outside, "outside|allocation of", kAlways, true),
    CASE(global_write_before, "outside|allocation of", kAlways, true),
    CASE(zeroing_loop_outside, "outside|allocation of", kAlways, true),
    CASE(copying_loop_outside, "outside|allocation of", kHooksOnly, true),
    CASE(structure_outside, "allocation of", kHooksOnly, true),
    CASE(vector_read_outside, "allocation of", kAlways, false),
    CASE(vector_write_outside, "allocation of", kAlways, false),
    CASE(vector_misaligned, "not aligned", kAlways, false),
    CASE(cast_misaligned, "", kSanitizersOnly, true),
    CASE(dynamic_shared_outside, "out of bounds|outside", kAlways, true),
    CASE(static_shared_outside, "out of bounds|outside", kAlways, true),
    CASE(ldmatrix_outside, "out of bounds", kAlways, false),
    CASE(ldmatrix_misaligned, "not aligned", kAlways, false),
    CASE(unwritten, "nobody wrote", kHooksOnly, false),
    CASE(unwritten_ldmatrix, "nobody wrote", kHooksOnly, false),
    CASE(host_memory, "not device memory", kHooksOnly, false),
    CASE(released_memory, "not device memory", kHooksOnly, true),
    CASE(stack_of_another_thread, "not device memory", kHooksOnly, false),
    CASE(divergent_barriers, "divergent", kAlways, false),
    CASE(barrier_of_some, "ends while others wait|after threads of the block ended", kAlways, false),
    CASE(exit_before_barrier, "ends while others wait|after threads of the block ended", kAlways, false),
    CASE(named_barrier_count, "deadlock", kAlways, false),
    CASE(shuffle_of_some, "deadlock", kAlways, false),
    CASE(shuffle_mask_without_caller, "not in its mask|reads from lane", kAlways, false),
    CASE(shuffle_from_outside_of_mask, "reads from lane", kAlways, false),
    CASE(different_collectives, "but lane", kAlways, false),
    CASE(mma_of_some, "deadlock", kAlways, false),
    CASE(mma_in_two_places, "but lane", kAlways, false),
    CASE(shared_too_large, "bytes of shared memory", kAlways, false),
};

struct Memory {
  Memory() {
    gpu::allocate(&in, kFloats * 4);
    gpu::allocate(&out, kFloats * 4);
    gpu::allocate(&counter, kFloats * 4);
    gpu::allocate(&released, kFloats * 4);
    gpu::release(released);
  }
  ~Memory() {
    for (void* p : {in, out, counter}) gpu::release(p);
  }
  gpu::Status launch(const Case& c, bool fault) {
    Arguments arguments{static_cast<float*>(in),         static_cast<float*>(out),
                        static_cast<unsigned*>(counter), host,
                        static_cast<float*>(released),   {}};
    for (void* p : {in, out, counter}) gpu::fill(p, 0, kFloats * 4, nullptr);
    gpu::tensor_map(&arguments.map, {in, DType::bf16, 2, {64, 8}, {2, 128}, {64, 64}, {1, 1}, true});
    return gpu::launch(fault ? c.fault : c.clean, 2, c.threads, c.shared, nullptr, arguments);
  }
  void *in, *out, *counter, *released;
  float host[kFloats] = {};
};

bool contains_one_of(std::string_view text, std::string_view alternatives) {
  for (size_t end; !alternatives.empty(); alternatives.remove_prefix(std::min(end + 1, alternatives.size()))) {
    end = std::min(alternatives.find('|'), alternatives.size());
    if (text.find(alternatives.substr(0, end)) != text.npos) return true;
  }
  return false;
}

// Launches in all schedules and both ways of landing; prints what went wrong first, else the last message.
bool try_all(Memory& memory, const Case& c, bool fault) {
  int wrong = 0;
  std::string message;
  for (int schedule = 0; schedule < 4; ++schedule)
    for (int copies = 0; copies < 2; ++copies)
      for (int seed = 1; seed <= (schedule == 3 ? 5 : 1); ++seed) {
        emulate::options = {emulate::Schedule(schedule), emulate::Copies(copies), uint64_t(seed)};
        const bool reported = memory.launch(c, fault) != 0;
        const char* text = reported ? emulate::fault() : "";
        const bool right = reported == fault && (!fault || contains_one_of(text, c.message));
        if (!right && !wrong++) message = "schedule " + std::to_string(schedule) + ": " + text;
        if (!wrong) message = text;
      }
  std::printf("%s\t%s\t%s\t%s\n", c.name, fault ? "fault" : "clean", wrong ? "WRONG" : "ok", message.c_str());
  return !wrong;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string_view first = count > 1 ? arguments[1] : "";
  Memory memory;
  bool sound = true;
  std::vector<Case> cases(std::begin(kCases), std::end(kCases));
  cases.insert(cases.end(), kSm90Cases, kSm90Cases + kSm90CaseCount);
  for (const Case& c : cases) {
    if (first == "--list") {
      std::printf("%s\t%s\n", c.name, c.memory ? "memory" : "");
    } else if (count == 3) {
      if (first != c.name) continue;
      const gpu::Status status = memory.launch(c, std::string_view(arguments[2]) == "fault");
      std::printf("%s\n", gpu::error_string(status));
      return status != 0;
    } else {
      if (c.build == kAlways || (emulate::kHooks && c.build == kHooksOnly)) sound &= try_all(memory, c, true);
      sound &= try_all(memory, c, false);
    }
  }
  return sound ? 0 : 1;
}
